//! Static pods: manifests in a folder of the node, read again whenever the folder changes and every 20 s; those of a URL are
//! in `url`.
//!
//! Contract: a static pod's uid and config hash come from its content and the node's name, its name gets the node's name
//! appended; each has a mirror pod in the API server. It has the API's defaults and is held against the API's rules for pods.

mod references;
pub mod url;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use api_rules::{at::At, field::ErrorList, pod_spec};
use component_base::task::Tasks;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{
    pod,
    pods::{Pods, Source},
};

/// A manifest that is not a pod.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Is not YAML or JSON of a pod.
    #[error("cannot decode {path}: {message}")]
    Decode {
        /// The file.
        path: PathBuf,
        /// Where and why.
        message: String,
    },
    /// Is not what the API takes for a pod, or speaks of what a static pod may not speak of.
    #[error("{path}: {message}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

/// The node whose pods manifests become.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// The pods may not speak of objects of the API (the gate `PreventStaticPodAPIReferences`).
    pub strict: bool,
    /// Their tolerations may compare numbers (the gate `TaintTolerationComparisonOperators`).
    pub comparing: bool,
}

/// A static pod from a manifest's text.
///
/// # Errors
/// When the text is no complete pod, or one that no static pod can be.
pub fn parse(path: &Path, text: &str, host: &Host) -> Result<Pod, ManifestError> {
    let decode = |message: String| ManifestError::Decode { path: path.to_owned(), message };
    let mut manifest: Value = serde_saphyr::from_str(text).map_err(|error| decode(error.to_string()))?;
    let tolerates = json!({"operator": "Exists", "effect": "NoExecute"});
    if let Some(spec) = manifest.get_mut("spec").and_then(Value::as_object_mut) {
        let all =
            spec.entry("tolerations").and_modify(|all| *all = take_list(all)).or_insert_with(|| json!([]));
        if let Some(all) = all.as_array_mut().filter(|all| !all.contains(&tolerates)) {
            all.push(tolerates);
        }
    }
    let seed = format!("{}\n{}\n{text}", host.name, path.display());
    complete(manifest, "file", &seed, path, host)
}

/// A list that is said to be nothing is an empty one.
fn take_list(list: &mut Value) -> Value {
    if list.is_null() { json!([]) } else { list.take() }
}

/// Makes a manifest one of this node's pods: what it is made of tells its uid. What the API server would fill in is filled
/// in, and what it would refuse is refused.
///
/// # Errors
/// What is wrong with it.
fn complete(
    mut manifest: Value,
    source: &str,
    seed: &str,
    path: &Path,
    host: &Host,
) -> Result<Pod, ManifestError> {
    let refused = |message: String| ManifestError::Refused { path: path.to_owned(), message };
    let decode = |message: String| ManifestError::Decode { path: path.to_owned(), message };
    // Whether it is a pod at all comes first: what is below takes fields of other types for missing ones.
    from_json(&manifest).map_err(decode)?;
    let Some(fields) = manifest.as_object_mut() else { return Err(decode("it is no object".to_owned())) };
    let digest = Sha256::digest(seed);
    let hash: String = digest[..16].iter().map(|b| format!("{b:02x}")).collect();
    let unnamed = || refused("invalid pod: name is needed for the pod".to_owned());
    let meta = fields.get_mut("metadata").and_then(Value::as_object_mut).ok_or_else(unnamed)?;
    own(meta, source, &hash, &host.name).ok_or_else(unnamed)?;
    fields.remove("status");
    let spec = fields.entry("spec").or_insert_with(|| json!({}));
    pod_spec::fill_pod(spec);
    spec["nodeName"] = host.name.as_str().into();
    let mut errors = ErrorList::new();
    pod_spec::check_new(fields, &mut errors);
    pod_spec::check_comparing(&At::spec(fields).get("tolerations"), host.comparing, &mut errors);
    match errors.as_slice() {
        [] => {}
        [one] => return Err(refused(format!("invalid pod: {one}"))),
        many => {
            let many: Vec<String> = many.iter().map(ToString::to_string).collect();
            return Err(refused(format!("invalid pod: [{}]", many.join(", "))));
        }
    }
    let pod = from_json(&manifest).map_err(decode)?;
    references::check(&pod, host.strict).map_err(refused)?;
    Ok(pod)
}

/// Metadata of a pod of this node; `None` when it has no name.
fn own(meta: &mut Map<String, Value>, source: &str, hash: &str, node: &str) -> Option<()> {
    let said = |field: &str| meta.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    let name = format!("{}-{}", said("name")?, node.to_lowercase());
    let uid = said("uid").unwrap_or(hash).to_owned();
    let namespace = said("namespace").unwrap_or("default").to_owned();
    for (field, value) in [("name", name), ("uid", uid), ("namespace", namespace)] {
        meta.insert(field.to_owned(), value.into());
    }
    let marks = meta.entry("annotations").or_insert_with(|| json!({}));
    if marks.is_null() {
        *marks = json!({});
    }
    marks[pod::SOURCE_ANNOTATION] = source.into();
    marks[pod::HASH_ANNOTATION] = hash.into();
    Some(())
}

/// A pod from JSON's text: the code that reads pods of the API server is there anyway, and a second one of that size for
/// values or YAML would be a tenth of the program.
fn from_json(manifest: &Value) -> Result<Pod, String> {
    serde_json::from_str(&manifest.to_string()).map_err(|error| {
        let said = error.to_string();
        // The place is one in the JSON, which nobody has seen.
        let place = format!(" at line {} column {}", error.line(), error.column());
        said.strip_suffix(&place).unwrap_or(&said).to_owned()
    })
}

/// Reads all manifests of a folder (or the one file). A bad one is reported and skipped.
#[must_use]
pub fn read_all(path: &Path, host: &Host) -> Vec<Arc<Pod>> {
    let mut files: Vec<PathBuf> = match std::fs::read_dir(path) {
        Ok(entries) => entries.filter_map(Result::ok).map(|e| e.path()).filter(|p| is_manifest(p)).collect(),
        Err(_) if path.is_file() => vec![path.to_owned()],
        Err(_) => vec![],
    };
    files.sort();
    let mut pods: Vec<Arc<Pod>> = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file)
            .map_err(|source| ManifestError::Read { path: file.clone(), source });
        match text.and_then(|text| parse(&file, &text, host)) {
            Ok(pod) if pods.iter().any(|p| pod::uid(p) == pod::uid(&pod)) => {
                tracing::error!(file = %file.display(), "the manifest's uid is taken by another one");
            }
            Ok(pod) => pods.push(Arc::new(pod)),
            Err(error) => tracing::error!(%error, "could not process manifest file"),
        }
    }
    pods
}

fn is_manifest(path: &Path) -> bool {
    path.is_file() && !path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'))
}

/// Feeds static pods to the workers until the drain.
pub fn run(path: PathBuf, host: Host, period: Duration, pods: Arc<Pods>, tasks: &Tasks) {
    let mut ticks = tasks.ticks(Duration::from_secs(1));
    tasks.spawn("manifests", async move {
        let mut stamp = Vec::new();
        let mut last = tokio::time::Instant::now();
        while ticks.next().await {
            let now = stamps(&path);
            if now != stamp || last.elapsed() >= period || stamp.is_empty() {
                stamp = now;
                last = tokio::time::Instant::now();
                pods.set(Source::File, read_all(&path, &host));
            }
        }
    });
}

/// Names, sizes and times of the folder's files: cheap to compare.
fn stamps(path: &Path) -> Vec<(PathBuf, u64, Option<std::time::SystemTime>)> {
    let entries = std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
    let mut all: Vec<_> = entries
        .filter_map(|e| Some((e.path(), e.metadata().ok()?)))
        .map(|(p, m)| (p, m.len(), m.modified().ok()))
        .collect();
    all.push((path.to_owned(), 0, None));
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: i}]}\n";

    fn host(name: &str) -> Host {
        Host { name: name.to_owned(), strict: true, comparing: false }
    }

    #[test]
    fn a_manifest_becomes_a_static_pod() {
        let pod = parse(Path::new("/m/a.yaml"), GOOD, &host("node1")).unwrap();
        assert_eq!(pod::name(&pod), "web-node1");
        assert_eq!(pod::namespace(&pod), "default");
        assert!(pod::is_static(&pod));
        assert_eq!(pod::annotation(&pod, pod::HASH_ANNOTATION), Some(pod::uid(&pod)));
        assert_eq!(pod::containers(&pod)[0].image_pull_policy.as_deref(), Some("Always"));
        let changed =
            parse(Path::new("/m/a.yaml"), &GOOD.replace("image: i", "image: j"), &host("node1")).unwrap();
        assert_ne!(pod::uid(&changed), pod::uid(&pod));
    }

    #[test]
    fn what_the_api_would_fill_in_is_filled_in() {
        let text = GOOD.replace(
            "image: i",
            "image: i, resources: {limits: {cpu: 1}}, livenessProbe: {httpGet: {port: 80}}",
        );
        let pod = parse(Path::new("x"), &text, &host("n")).unwrap();
        let (spec, main) = (pod::spec(&pod), &pod::containers(&pod)[0]);
        assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
        assert_eq!(spec.termination_grace_period_seconds, Some(30));
        assert_eq!(main.resources.as_ref().unwrap().requests.as_ref().unwrap()["cpu"].0, "1");
        let probe = main.liveness_probe.as_ref().unwrap();
        assert_eq!((probe.period_seconds, probe.failure_threshold), (Some(10), Some(3)));
        assert_eq!(probe.http_get.as_ref().unwrap().path.as_deref(), Some("/"));
        let tolerations = spec.tolerations.as_ref().unwrap();
        assert_eq!((tolerations.len(), tolerations[0].effect.as_deref()), (1, Some("NoExecute")));
    }

    #[test]
    fn bad_manifests_are_errors() {
        for text in [
            "",
            "{",
            "[]",
            "kind: Pod\nmetadata: 1",
            &GOOD.replace("containers: [{", "containers: [{ports: {}, "),
        ] {
            let error = parse(Path::new("x"), text, &host("n")).unwrap_err();
            assert!(matches!(error, ManifestError::Decode { .. }), "{text}: {error}");
        }
        let said = |text: &str, host: &Host| parse(Path::new("x"), text, host).err().map(|e| e.to_string());
        let spec = |more: &str| GOOD.replace("spec: {", &format!("spec: {{{more}, "));
        for (text, expected) in [
            (GOOD.replace("name: web", "labels: {}"), "invalid pod: name is needed for the pod"),
            (GOOD.replace("metadata: {name: web}", ""), "invalid pod: name is needed for the pod"),
            (GOOD.replace("[{name: c, image: i}]", "[]"), "invalid pod: spec.containers: Required value"),
            (GOOD.replace("name: web", "name: Web"), "invalid pod: metadata.name: Invalid value: \"Web-n\""),
            (
                GOOD.replace("name: web", "name: web, namespace: a.b"),
                "invalid pod: metadata.namespace: Invalid value",
            ),
            (
                GOOD.replace("name: web", "name: web, labels: {a: \"/\"}"),
                "invalid pod: metadata.labels: Invalid value",
            ),
            (
                GOOD.replace("image: i", "imagePullPolicy: Now"),
                "invalid pod: [spec.containers[0].image: Required value, ",
            ),
            (spec("restartPolicy: Maybe"), "invalid pod: spec.restartPolicy: Unsupported value: \"Maybe\""),
            (
                spec("hostNetwork: true, volumes: [{name: a}, {name: a}]"),
                "invalid pod: spec.volumes[1].name: Duplicate value: \"a\"",
            ),
            (
                spec("ephemeralContainers: [{name: e, image: i}]"),
                "invalid pod: spec.ephemeralContainers: Forbidden",
            ),
            (spec("serviceAccountName: s"), "static pods may not reference serviceaccounts"),
        ] {
            let said = said(&text, &host("n")).unwrap_or_default();
            assert!(said.starts_with(&format!("x: {expected}")), "{text}: {said}");
        }
        assert_eq!(said(&spec("serviceAccountName: s"), &Host { strict: false, ..host("n") }), None);
    }
}
