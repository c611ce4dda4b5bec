//! What a pod's spec says when it does not say.
//!
//! Contract: core/v1 `PodSpec`, `Container`, `Probe` and `Volume` in the API reference. A present
//! value, whatever it is, stays; running it twice changes nothing.

use serde_json::{Map, Value, json};

/// Bits of files of projected volumes: 0644.
const FILE_MODE: i64 = 0o644;

/// Fills in what a pod's spec leaves out.
pub(super) fn fill(spec: &mut Value) {
    let Some(spec) = spec.as_object_mut() else { return };
    missing(spec, "restartPolicy", || "Always".into());
    missing(spec, "dnsPolicy", || "ClusterFirst".into());
    missing(spec, "terminationGracePeriodSeconds", || 30.into());
    missing(spec, "schedulerName", || "default-scheduler".into());
    missing(spec, "securityContext", || json!({}));
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        // Ephemeral containers have no ports and no resources.
        let ordinary = list != "ephemeralContainers";
        members(spec, list).for_each(|container| fill_container(container, ordinary, host_network));
    }
    members(spec, "volumes").for_each(fill_volume);
}

fn fill_container(container: &mut Map<String, Value>, ordinary: bool, host_network: bool) {
    missing(container, "terminationMessagePath", || "/dev/termination-log".into());
    missing(container, "terminationMessagePolicy", || "File".into());
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = if is_latest(image) { "Always" } else { "IfNotPresent" };
    missing(container, "imagePullPolicy", || policy.into());
    for variable in members(container, "env") {
        if let Some(field) = variable.get_mut("valueFrom").and_then(|v| v.get_mut("fieldRef")) {
            field.as_object_mut().into_iter().for_each(|f| missing(f, "apiVersion", || "v1".into()));
        }
    }
    if !ordinary {
        return;
    }
    missing(container, "resources", || json!({}));
    for port in members(container, "ports") {
        missing(port, "protocol", || "TCP".into());
        if host_network && let Some(number) = port.get("containerPort").cloned() {
            missing(port, "hostPort", || number);
        }
    }
    if let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) {
        request_limits(resources);
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe).and_then(Value::as_object_mut) {
            fill_probe(probe);
        }
    }
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

fn fill_probe(probe: &mut Map<String, Value>) {
    for (field, number) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if probe.get(field).and_then(Value::as_i64).unwrap_or(0) == 0 {
            probe.insert(field.to_owned(), number.into());
        }
    }
    if let Some(http) = probe.get_mut("httpGet").and_then(Value::as_object_mut) {
        missing(http, "path", || "/".into());
        missing(http, "scheme", || "HTTP".into());
    }
    if let Some(grpc) = probe.get_mut("grpc").and_then(Value::as_object_mut) {
        grpc.entry("service").or_insert_with(|| "".into());
    }
}

fn fill_volume(volume: &mut Map<String, Value>) {
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source).and_then(Value::as_object_mut) {
            missing(source, "defaultMode", || FILE_MODE.into());
        }
    }
    if let Some(host) = volume.get_mut("hostPath").and_then(Value::as_object_mut) {
        host.entry("type").or_insert_with(|| "".into());
    }
    if let Some(projected) = volume.get_mut("projected").and_then(Value::as_object_mut) {
        for source in members(projected, "sources") {
            if let Some(token) = source.get_mut("serviceAccountToken").and_then(Value::as_object_mut) {
                missing(token, "expirationSeconds", || 3600.into());
            }
        }
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
        fill(&mut spec);
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
        fill(&mut spec);
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
            ("nginx:latest@sha256:00", true),
        ] {
            assert_eq!(is_latest(image), latest, "{image}");
        }
    }
}
