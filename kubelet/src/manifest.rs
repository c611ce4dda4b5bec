//! Static pods: manifests in a folder of the node, read again whenever the folder changes and every 20 s; those of a URL are
//! in `url`.
//!
//! Contract: a static pod's uid and config hash come from its content and the node's name, its name gets the node's name
//! appended; each has a mirror pod in the API server.

mod references;
pub mod url;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use component_base::task::Tasks;
use k8s_openapi::api::core::v1::{Pod, Toleration};
use sha2::{Digest, Sha256};

use crate::{
    pod::{self, defaults},
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
    /// Speaks of what a static pod may not speak of.
    #[error("{path}: {message}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// Of what.
        message: String,
    },
    /// Lacks what every pod has.
    #[error("{path}: a static pod needs {what}")]
    Incomplete {
        /// The file.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
    },
}

/// The node whose pods manifests become.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// The pods may not speak of objects of the API (the gate `PreventStaticPodAPIReferences`).
    pub strict: bool,
}

/// A static pod from a manifest's text.
///
/// # Errors
/// When the text is no complete pod, or one that no static pod can be.
pub fn parse(path: &Path, text: &str, host: &Host) -> Result<Pod, ManifestError> {
    let decode = |message: String| ManifestError::Decode { path: path.to_owned(), message };
    let mut pod = from_yaml(text).map_err(decode)?;
    let node = &host.name;
    let seed = format!("{node}\n{}\n{text}", path.display());
    let spec = pod.spec.get_or_insert_default();
    let tolerates = Toleration {
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        ..Toleration::default()
    };
    spec.tolerations.get_or_insert_default().push(tolerates);
    complete(pod, "file", &seed, path, host)
}

/// Makes a manifest's pod one of this node: what it is made of tells its uid.
///
/// # Errors
/// What it lacks.
fn complete(mut pod: Pod, source: &str, seed: &str, path: &Path, host: &Host) -> Result<Pod, ManifestError> {
    let incomplete = |what| ManifestError::Incomplete { path: path.to_owned(), what };
    let name = pod.metadata.name.clone().filter(|n| !n.is_empty());
    let name = name.ok_or_else(|| incomplete("metadata.name"))?;
    if pod.spec.as_ref().is_none_or(|s| s.containers.is_empty()) {
        return Err(incomplete("spec.containers"));
    }
    references::check(&pod, host.strict)
        .map_err(|message| ManifestError::Refused { path: path.to_owned(), message })?;
    let node = &host.name;
    let digest = Sha256::digest(seed);
    let hash: String = digest[..16].iter().map(|b| format!("{b:02x}")).collect();
    pod.metadata.name = Some(format!("{name}-{}", node.to_lowercase()));
    pod.metadata.uid.get_or_insert_with(|| hash.clone());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(pod::SOURCE_ANNOTATION.to_owned(), source.to_owned());
    annotations.insert(pod::HASH_ANNOTATION.to_owned(), hash);
    pod.status = None;
    pod.spec.get_or_insert_default().node_name = Some(node.clone());
    defaults::apply(&mut pod);
    Ok(pod)
}

/// A pod from YAML by way of JSON: the code that reads pods of the API server is there anyway, and a second one of that
/// size for YAML alone would be a tenth of the program.
fn from_yaml(text: &str) -> Result<Pod, String> {
    let value: serde_json::Value = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    serde_json::from_str(&value.to_string()).map_err(|error| {
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
        Host { name: name.to_owned(), strict: true }
    }

    #[test]
    fn a_manifest_becomes_a_static_pod() {
        let pod = parse(Path::new("/m/a.yaml"), GOOD, &host("Node1")).unwrap();
        assert_eq!(pod::name(&pod), "web-node1");
        assert_eq!(pod::namespace(&pod), "default");
        assert!(pod::is_static(&pod));
        assert_eq!(pod::annotation(&pod, pod::HASH_ANNOTATION), Some(pod::uid(&pod)));
        assert_eq!(pod::containers(&pod)[0].image_pull_policy.as_deref(), Some("Always"));
        let changed =
            parse(Path::new("/m/a.yaml"), &GOOD.replace("image: i", "image: j"), &host("Node1")).unwrap();
        assert_ne!(pod::uid(&changed), pod::uid(&pod));
    }

    #[test]
    fn bad_manifests_are_errors() {
        for text in [
            "",
            "{",
            "kind: Pod\nmetadata: {}\nspec: {}",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {}",
            &GOOD.replace("spec: {", "spec: {serviceAccountName: s, "),
        ] {
            assert!(parse(Path::new("x"), text, &host("n")).is_err(), "{text}");
        }
        let named = GOOD.replace("spec: {", "spec: {serviceAccountName: s, ");
        let lenient = Host { strict: false, ..host("n") };
        assert!(parse(Path::new("x"), &named, &lenient).is_ok());
        let error = parse(Path::new("x"), &named, &host("n")).unwrap_err().to_string();
        assert_eq!(error, "x: static pods may not reference serviceaccounts");
    }
}
