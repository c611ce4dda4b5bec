//! The spec of pods: what it says when it does not say (here), and what is wrong with it (below).
//!
//! Contract: core/v1 `PodSpec`, `Container`, `Probe` and `Volume` in the API reference. A present
//! value, whatever it is, stays; filling in twice changes nothing.

mod affinity;
mod annotations;
pub mod containers;
mod env;
mod mounts;
mod probes;
mod security;
mod validation;
mod volumes;

use std::sync::LazyLock;

use component_base::quantity::Quantity;
use regex::Regex;
use serde_json::{Map, Value, json};

pub use self::{
    affinity::{
        breaks_selectors, check_comparing, check_effect, check_node_selector, check_tolerations, compares,
    },
    annotations::MIRROR,
    validation::{check_annotation_change, check_new, check_new_pod, check_pod, check_template},
    volumes::{check_signer, sources},
};
pub use self::{probes::SIGNALS, volumes::HOST_PATHS};
use crate::resources;

/// Bits of files of projected volumes: 0644.
const FILE_MODE: i64 = 0o644;

/// Fills in what the spec of a template of pods leaves out.
pub fn fill(spec: &mut Value) {
    let Some(spec) = spec.as_object_mut() else { return };
    missing(spec, "restartPolicy", || "Always".into());
    missing(spec, "dnsPolicy", || "ClusterFirst".into());
    if spec.get("terminationGracePeriodSeconds").is_none_or(Value::is_null) {
        spec.insert("terminationGracePeriodSeconds".to_owned(), 30.into());
    }
    missing(spec, "schedulerName", || "default-scheduler".into());
    missing(spec, "securityContext", || json!({}));
    name_account(spec);
    resources::round_up(spec.get_mut("overhead"));
    resources::round_requirements(spec.get_mut("resources"));
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        // Ephemeral containers have no ports and no resources.
        let ordinary = list != "ephemeralContainers";
        members(spec, list).for_each(|container| fill_container(container, ordinary));
    }
    members(spec, "volumes").for_each(fill_volume);
}

/// Fills in what only pods themselves have: requests, ports of the node, links to services.
pub fn fill_pod(spec: &mut Value) {
    fill(spec);
    let Some(fields) = spec.as_object_mut() else { return };
    if fields.get("terminationGracePeriodSeconds").and_then(Value::as_i64).is_some_and(|grace| grace < 0) {
        // What was once stored so means the shortest time there is.
        fields.insert("terminationGracePeriodSeconds".to_owned(), 1.into());
    }
    for list in ["containers", "initContainers"] {
        for container in members(fields, list) {
            if let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) {
                request_limits(resources);
            }
        }
    }
    limit_pages(spec);
    request_for_all(spec);
    let Some(spec) = spec.as_object_mut() else { return };
    missing(spec, "enableServiceLinks", || true.into());
    if spec.get("hostNetwork") != Some(&Value::Bool(true)) {
        return;
    }
    for list in ["containers", "initContainers"] {
        for port in members(spec, list).flat_map(|container| members(container, "ports")) {
            if port.get("hostPort").and_then(Value::as_i64).unwrap_or(0) == 0
                && let Some(number) = port.get("containerPort").cloned()
            {
                port.insert("hostPort".to_owned(), number);
            }
        }
    }
}

/// The service account has two names, of which the older one counts where it stands alone.
fn name_account(spec: &mut Map<String, Value>) {
    let said = |field: &str| spec.get(field).and_then(Value::as_str).filter(|name| !name.is_empty());
    let (name, former) = (said("serviceAccountName"), said("serviceAccount"));
    if name == former {
        return;
    }
    let Some(name) = name.or(former).map(str::to_owned) else { return };
    for field in ["serviceAccountName", "serviceAccount"] {
        spec.insert(field.to_owned(), name.as_str().into());
    }
}

fn fill_container(container: &mut Map<String, Value>, ordinary: bool) {
    missing(container, "terminationMessagePath", || "/dev/termination-log".into());
    missing(container, "terminationMessagePolicy", || "File".into());
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = pull_policy(image);
    missing(container, "imagePullPolicy", || policy.into());
    for variable in members(container, "env") {
        if let Some(field) = variable.get_mut("valueFrom").and_then(|v| v.get_mut("fieldRef")) {
            field.as_object_mut().into_iter().for_each(|f| missing(f, "apiVersion", || "v1".into()));
        }
    }
    resources::round_requirements(container.get_mut("resources"));
    if ordinary {
        missing(container, "resources", || json!({}));
    }
    for port in members(container, "ports") {
        missing(port, "protocol", || "TCP".into());
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe).and_then(Value::as_object_mut) {
            fill_probe(probe);
        }
    }
    if let Some(hooks) = container.get_mut("lifecycle").and_then(Value::as_object_mut) {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = hooks.get_mut(hook).and_then(Value::as_object_mut) {
                fill_http(hook);
            }
        }
    }
}

/// An image without a tag may be another one tomorrow. Of a name that is none nothing is known.
fn pull_policy(image: &str) -> &'static str {
    if is_latest(image) && is_reference(image) { "Always" } else { "IfNotPresent" }
}

/// Whether a text names an image: `[domain/]path[:tag][@digest]`, as container registries know it.
fn is_reference(image: &str) -> bool {
    const MAX: usize = 255;
    #[expect(clippy::expect_used, reason = "the pattern is a constant that compiles")]
    static NAME: LazyLock<Regex> = LazyLock::new(|| {
        let label = "[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?";
        let domain = format!(r"(?:{label}(?:\.{label})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?/");
        let part = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*";
        let digest = "(?:sha256:[a-f0-9]{64}|sha384:[a-f0-9]{96}|sha512:[a-f0-9]{128})";
        let pattern = format!(
            r"^((?:{domain})?{part}(?:/{part})*)(?::[0-9A-Za-z_][0-9A-Za-z_.-]{{0,127}})?(?:@{digest})?$"
        );
        Regex::new(&pattern).expect("the pattern compiles")
    });
    let identifier = image.len() == 64 && image.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let name = NAME.captures(image).and_then(|found| found.get(1));
    !identifier && name.is_some_and(|name| name.len() <= MAX)
}

/// A container that limits a resource and requests none of it requests its limit.
fn request_limits(resources: &mut Map<String, Value>) {
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    if limits.is_empty() {
        return;
    }
    missing(resources, "requests", || json!({}));
    if let Some(requests) = resources.get_mut("requests").and_then(Value::as_object_mut) {
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
}

/// A pod with resources as a whole has the huge pages of its containers as limit.
fn limit_pages(spec: &mut Value) {
    let amounts =
        |field: &str| spec.get("resources").and_then(|own| own.get(field)).and_then(Value::as_object);
    if amounts("limits").is_none_or(Map::is_empty) && amounts("requests").is_none_or(Map::is_empty) {
        return;
    }
    let known = |field: &str, name: &str| amounts(field).is_some_and(|own| own.contains_key(name));
    let pages: Vec<(String, Quantity)> = resources::of_containers(spec, "limits")
        .into_iter()
        .filter(|(name, _)| {
            resources::is_huge_page(name) && !known("requests", name) && !known("limits", name)
        })
        .collect();
    insert_amounts(spec, "limits", pages);
}

/// A pod that limits resources as a whole requests what its containers do, or else its limits.
fn request_for_all(spec: &mut Value) {
    let amounts =
        |field: &str| spec.get("resources").and_then(|own| own.get(field)).and_then(Value::as_object);
    let Some(limits) = amounts("limits").filter(|limits| !limits.is_empty()) else { return };
    let mut requests = amounts("requests").cloned().unwrap_or_default();
    for (name, needed) in resources::of_containers(spec, "requests") {
        if matches!(name.as_str(), "cpu" | "memory") {
            requests.entry(name).or_insert_with(|| needed.to_string().into());
        }
    }
    for (name, limit) in limits.iter().filter(|(name, _)| resources::is_of_pods(name)) {
        requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
    if !requests.is_empty()
        && let Some(own) = spec.get_mut("resources").and_then(Value::as_object_mut)
    {
        own.insert("requests".to_owned(), requests.into());
    }
}

fn insert_amounts(spec: &mut Value, field: &str, amounts: Vec<(String, Quantity)>) {
    let Some(own) = spec.get_mut("resources").and_then(Value::as_object_mut) else { return };
    if amounts.is_empty() {
        return;
    }
    missing(own, field, || json!({}));
    if let Some(map) = own.get_mut(field).and_then(Value::as_object_mut) {
        for (name, amount) in amounts {
            map.entry(name).or_insert_with(|| amount.to_string().into());
        }
    }
}

fn fill_probe(probe: &mut Map<String, Value>) {
    for (field, number) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if probe.get(field).and_then(Value::as_i64).unwrap_or(0) == 0 {
            probe.insert(field.to_owned(), number.into());
        }
    }
    fill_http(probe);
    if let Some(grpc) = probe.get_mut("grpc").and_then(Value::as_object_mut) {
        grpc.entry("service").or_insert_with(|| "".into());
    }
}

fn fill_http(handler: &mut Map<String, Value>) {
    if let Some(http) = handler.get_mut("httpGet").and_then(Value::as_object_mut) {
        missing(http, "path", || "/".into());
        missing(http, "scheme", || "HTTP".into());
    }
}

/// Defaults of sources of volumes: source, field, value.
const OF_SOURCES: &[(&str, &str, &str)] = &[
    ("iscsi", "iscsiInterface", "default"),
    ("rbd", "pool", "rbd"),
    ("rbd", "user", "admin"),
    ("rbd", "keyring", "/etc/ceph/keyring"),
    ("azureDisk", "cachingMode", "ReadWrite"),
    ("azureDisk", "fsType", "ext4"),
    ("azureDisk", "kind", "Shared"),
    ("scaleIO", "storageMode", "ThinProvisioned"),
    ("scaleIO", "fsType", "xfs"),
];

/// Fills in what a source of a volume leaves out, in a pod or in a persistent volume.
pub fn fill_source(volume: &mut Map<String, Value>) {
    for (source, field, value) in OF_SOURCES {
        if let Some(source) = volume.get_mut(*source).and_then(Value::as_object_mut) {
            // A field of its own is kept even if it is empty, where there is a difference.
            match *field {
                "cachingMode" | "kind" | "fsType" if source.contains_key(*field) => {}
                _ => missing(source, field, || (*value).into()),
            }
        }
    }
    if let Some(disk) = volume.get_mut("azureDisk").and_then(Value::as_object_mut) {
        missing(disk, "readOnly", || false.into());
    }
    if let Some(host) = volume.get_mut("hostPath").and_then(Value::as_object_mut) {
        host.entry("type").or_insert_with(|| "".into());
    }
}

fn fill_volume(volume: &mut Map<String, Value>) {
    if volume.iter().all(|(field, value)| field == "name" || value.is_null()) {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    fill_source(volume);
    if let Some(image) = volume.get_mut("image").and_then(Value::as_object_mut) {
        let reference = image.get("reference").and_then(Value::as_str).unwrap_or_default();
        let policy = pull_policy(reference);
        missing(image, "pullPolicy", || policy.into());
    }
    if let Some(template) = volume.get_mut("ephemeral").and_then(|e| e.get_mut("volumeClaimTemplate"))
        && let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut)
    {
        if spec.get("volumeMode").is_none_or(Value::is_null) {
            spec.insert("volumeMode".to_owned(), "Filesystem".into());
        }
        resources::round_requirements(spec.get_mut("resources"));
    }
    for item in volume
        .get_mut("downwardAPI")
        .and_then(Value::as_object_mut)
        .into_iter()
        .flat_map(|source| members(source, "items"))
    {
        fill_field(item);
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source).and_then(Value::as_object_mut) {
            missing(source, "defaultMode", || FILE_MODE.into());
        }
    }
    if let Some(projected) = volume.get_mut("projected").and_then(Value::as_object_mut) {
        for source in members(projected, "sources") {
            if let Some(token) = source.get_mut("serviceAccountToken").and_then(Value::as_object_mut) {
                missing(token, "expirationSeconds", || 3600.into());
            }
            if let Some(downward) = source.get_mut("downwardAPI").and_then(Value::as_object_mut) {
                members(downward, "items").for_each(fill_field);
            }
        }
    }
}

/// A field of the pod is one of its first version, where none is named.
fn fill_field(item: &mut Map<String, Value>) {
    if let Some(field) = item.get_mut("fieldRef").and_then(Value::as_object_mut) {
        missing(field, "apiVersion", || "v1".into());
    }
}

/// Whether an image is named by the tag `latest`, which a name without tag and digest means too.
fn is_latest(image: &str) -> bool {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = name.rsplit('/').next().unwrap_or_default();
    last.split_once(':').map_or(digest.is_none(), |(_, tag)| tag == "latest")
}

/// Sets a field that is missing, null or empty text.
fn missing(object: &mut Map<String, Value>, field: &str, value: impl FnOnce() -> Value) {
    match object.get(field) {
        None | Some(Value::Null) => {}
        Some(Value::String(s)) if s.is_empty() => {}
        Some(_) => return,
    }
    object.insert(field.to_owned(), value());
}

/// The objects in a list.
fn members<'o>(
    object: &'o mut Map<String, Value>,
    list: &str,
) -> impl Iterator<Item = &'o mut Map<String, Value>> {
    object.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_spec_is_filled_once() {
        let mut spec = json!({
            "hostNetwork": true,
            "containers": [{
                "name": "c", "image": "registry:5000/a/b",
                "ports": [{"containerPort": 80}],
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}},
                "readinessProbe": {"httpGet": {"port": 80}, "periodSeconds": 5},
            }],
            "volumes": [{"name": "v", "configMap": {"name": "m"}}, {"name": "s", "secret": {"defaultMode": 256}}],
        });
        fill_pod(&mut spec);
        assert_eq!(spec["restartPolicy"], "Always");
        assert_eq!(spec["dnsPolicy"], "ClusterFirst");
        assert_eq!(spec["terminationGracePeriodSeconds"], 30);
        assert_eq!(spec["schedulerName"], "default-scheduler");
        let container = &spec["containers"][0];
        assert_eq!(container["imagePullPolicy"], "Always");
        assert_eq!(container["ports"][0], json!({"containerPort": 80, "hostPort": 80, "protocol": "TCP"}));
        assert_eq!(container["env"][0]["valueFrom"]["fieldRef"]["apiVersion"], "v1");
        assert_eq!(container["resources"]["requests"], json!({"cpu": "500m", "memory": "1Gi"}));
        assert_eq!(
            container["readinessProbe"],
            json!({
                "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                "periodSeconds": 5, "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3,
            })
        );
        assert_eq!(spec["volumes"][0]["configMap"]["defaultMode"], 420);
        assert_eq!(spec["volumes"][1]["secret"]["defaultMode"], 256);
        let once = spec.clone();
        fill_pod(&mut spec);
        assert_eq!(spec, once);
    }

    #[test]
    fn the_tag_decides_the_pull_policy() {
        for (image, latest) in [
            ("nginx", true),
            ("nginx:latest", true),
            ("nginx:1.27", false),
            ("host:5000/nginx", true),
            ("host:5000/nginx:1", false),
            ("nginx@sha256:00", false),
            ("nginx:1@sha256:00", false),
            (&format!("nginx:latest@sha256:{}", "0".repeat(64)), true),
            ("host/Nginx", false),
            ("Host/nginx", true),
            ("not an image", false),
            (&"a".repeat(64), false),
            (&"x".repeat(256), false),
        ] {
            let policy = if latest { "Always" } else { "IfNotPresent" };
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}
