//! What objects use of a quota: pods, services, claims of storage and of devices by their content, everything by count; and which pods a
//! quota is about.
//!
//! Admission charges with this what is written, the quota controller counts with it what is there, so both agree.
//! Contract: core/v1 ResourceQuota; upstream `pkg/quota/v1`.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::quantity::{Format, Quantity};

pub mod devices;
mod scope;

pub use scope::{has_scopes, matched, matches, selects};

/// Amounts by quota resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// An object whose fields can be asked for.
pub trait Fields {
    /// The value at a JSON pointer.
    fn field(&self, pointer: &str) -> Option<&Value>;
}

impl Fields for Value {
    fn field(&self, pointer: &str) -> Option<&Value> {
        self.pointer(pointer)
    }
}

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
/// Kinds that are also counted under their plain name.
const COUNTED: [&str; 7] = [
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];

/// What an object uses, by quota resource name; `group` is empty for core, `plural` the resource's name. With the
/// time given, a pod whose grace period is over uses no more than one that has ended.
pub fn usage(group: &str, plural: &str, object: &impl Fields, now: Option<Timestamp>) -> Amounts {
    if group.is_empty() && plural == "pods" && is_over(object, now) {
        // A pod that is over uses nothing but its object.
        return Amounts::from([(format!("count/{plural}"), Quantity::new(1, Format::DecimalSI))]);
    }
    let mut used = counted(group, plural, 1);
    match (group, plural) {
        ("", "pods") => pod(object, &mut used),
        ("", "services") => service(object, &mut used),
        ("", "persistentvolumeclaims") => claim(object, &mut used),
        ("resource.k8s.io", "resourceclaims") => devices::claim(object, &mut used),
        _ => {}
    }
    used
}

/// What a number of objects uses by their count alone.
pub fn counted(group: &str, plural: &str, count: usize) -> Amounts {
    let amount = Quantity::new(i64::try_from(count).unwrap_or(i64::MAX), Format::DecimalSI);
    let mut used = Amounts::new();
    if group.is_empty() {
        used.insert(format!("count/{plural}"), amount);
        if COUNTED.contains(&plural) {
            used.insert(plural.to_owned(), amount);
        }
    } else {
        used.insert(format!("count/{plural}.{group}"), amount);
    }
    used
}

/// Whether a pod has ended, or should have by now.
fn is_over(pod: &impl Fields, now: Option<Timestamp>) -> bool {
    let deleted: Option<Timestamp> = text(pod, "/metadata/deletionTimestamp").parse().ok();
    let grace = pod.field("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    let end =
        deleted.zip(grace).and_then(|(at, grace)| at.checked_add(SignedDuration::from_secs(grace)).ok());
    let late = end.zip(now).is_some_and(|(end, now)| now > end);
    late || matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

fn pod(object: &impl Fields, used: &mut Amounts) {
    let (requests, limits) = (amounts(object, "requests", true), amounts(object, "limits", true));
    for (name, amount) in requests {
        match name.as_str() {
            "cpu" | "memory" | "ephemeral-storage" => {
                used.insert(name.clone(), amount);
                used.insert(format!("requests.{name}"), amount);
            }
            _ if name.starts_with("hugepages-") => {
                used.insert(name.clone(), amount);
                used.insert(format!("requests.{name}"), amount);
            }
            // Extended resources are named domain/name.
            _ if name.contains('/') => {
                used.insert(format!("requests.{name}"), amount);
            }
            _ => {}
        }
    }
    for (name, amount) in limits {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            used.insert(format!("limits.{name}"), amount);
        }
    }
}

fn service(object: &impl Fields, used: &mut Amounts) {
    let ports = items(object, "/spec/ports");
    let kind = text(object, "/spec/type");
    if kind == "LoadBalancer" {
        used.insert("services.loadbalancers".to_owned(), Quantity::new(1, Format::DecimalSI));
    }
    let declined = object.field("/spec/allocateLoadBalancerNodePorts") == Some(&Value::Bool(false));
    let count = match kind {
        "NodePort" => ports.count(),
        "LoadBalancer" if declined => ports.filter(|p| p.get("nodePort").is_some_and(|n| *n != 0)).count(),
        "LoadBalancer" => ports.count(),
        _ => return,
    };
    used.insert(
        "services.nodeports".to_owned(),
        Quantity::new(i64::try_from(count).unwrap_or(i64::MAX), Format::DecimalSI),
    );
}

fn claim(object: &impl Fields, used: &mut Amounts) {
    let requested = object.field("/spec/resources/requests/storage").and_then(quantity);
    let class = match text(object, "/spec/storageClassName") {
        "" => {
            let annotations = object.field("/metadata/annotations");
            annotations.and_then(|a| a.get(CLASS_ANNOTATION)).and_then(Value::as_str).unwrap_or_default()
        }
        class => class,
    };
    if !class.is_empty() {
        let prefix = format!("{class}.storageclass.storage.k8s.io");
        used.insert(format!("{prefix}/persistentvolumeclaims"), Quantity::new(1, Format::DecimalSI));
        if let Some(size) = requested {
            used.insert(format!("{prefix}/requests.storage"), size);
        }
    }
    if let Some(size) = requested {
        used.insert("requests.storage".to_owned(), size);
    }
}

fn text<'a>(object: &'a impl Fields, pointer: &str) -> &'a str {
    object.field(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(object: &'a impl Fields, pointer: &str) -> impl Iterator<Item = &'a Value> {
    object.field(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// A quantity as objects state it: text or number.
pub fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

/// A pod's effective requests and limits as it states them: containers and sidecars together or the largest init
/// container, what the pod itself states instead, and its overhead on top (KEP-753, KEP-2837).
pub fn pod_amounts(pod: &impl Fields) -> (Amounts, Amounts) {
    (amounts(pod, "requests", false), amounts(pod, "limits", false))
}

/// The same of a field, or, as long as the node has not made containers as large or small as they are stated (KEP-1287),
/// the most of what they are to be, were given and are.
fn amounts(pod: &impl Fields, field: &str, in_force: bool) -> Amounts {
    let stated = |container: &Value, lasts: bool| {
        let asked = list(container.get("resources").and_then(|r| r.get(field)));
        match status_of(pod, text_of(container, "name")).filter(|_| in_force && lasts) {
            Some(status) => most(pod, asked, status, field),
            None => asked,
        }
    };
    let mut total = Amounts::new();
    for container in items(pod, "/spec/containers") {
        add(&mut total, &stated(container, true));
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in items(pod, "/spec/initContainers") {
        let lasts = text_of(container, "restartPolicy") == "Always";
        let mut now = stated(container, lasts);
        if lasts {
            add(&mut total, &now);
            add(&mut sidecars, &now);
            now = sidecars.clone();
        } else {
            add(&mut now, &sidecars);
        }
        maximum(&mut peak, &now);
    }
    maximum(&mut total, &peak);
    total.extend(list(pod.field(&format!("/spec/resources/{field}"))));
    let overhead = list(pod.field("/spec/overhead"));
    if field == "requests" {
        add(&mut total, &overhead);
    } else {
        let limited: Amounts = overhead.into_iter().filter(|(k, _)| total.contains_key(k)).collect();
        add(&mut total, &limited);
    }
    total
}

fn list(value: Option<&Value>) -> Amounts {
    let list = value.and_then(Value::as_object).into_iter().flatten();
    list.filter_map(|(k, v)| Some((k.clone(), quantity(v)?))).collect()
}

/// What the kubelet says of a container, if it says what the container has.
fn status_of<'a>(pod: &'a impl Fields, name: &str) -> Option<&'a Value> {
    let all = ["/status/containerStatuses", "/status/initContainerStatuses"];
    let mut all = all.into_iter().flat_map(|at| items(pod, at));
    all.find(|status| text_of(status, "name") == name && status.get("resources").is_some())
}

/// What the node will never give does not count as asked for.
fn most(pod: &impl Fields, asked: Amounts, status: &Value, field: &str) -> Amounts {
    let pending = items(pod, "/status/conditions").find(|c| text_of(c, "type") == "PodResizePending");
    let hopeless = pending.is_some_and(|c| text_of(c, "reason") == "Infeasible");
    let mut out = if hopeless { Amounts::new() } else { asked };
    maximum(&mut out, &list(status.get("resources").and_then(|r| r.get(field))));
    if field == "requests" {
        maximum(&mut out, &list(status.get("allocatedResources")));
    }
    out
}

fn text_of<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Adds amount by amount.
pub fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = total.get(name).map_or(*amount, |t| *t + *amount);
        total.insert(name.clone(), sum);
    }
}

fn maximum(total: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let most = total.get(name).map_or(*amount, |t| *t.max(amount));
        total.insert(name.clone(), most);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn print(used: &Amounts) -> String {
        used.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn everything_counts_and_some_kinds_by_their_plain_name_too() {
        let nothing = json!({});
        assert_eq!(print(&usage("apps", "deployments", &nothing, None)), "count/deployments.apps=1");
        assert_eq!(print(&usage("", "secrets", &nothing, None)), "count/secrets=1 secrets=1");
        assert_eq!(print(&counted("", "configmaps", 3)), "configmaps=3 count/configmaps=3");
    }

    #[test]
    fn pods_use_what_they_have_until_they_are_resized() {
        let sizes = |cpu: &str| json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu}});
        let of = |status: Value| {
            let containers = json!([{"name": "c", "resources": sizes("2")}]);
            let side = json!([{"name": "s", "restartPolicy": "Always", "resources": sizes("1")},
                {"name": "i", "resources": sizes("1")}]);
            let pod = json!({"spec": {"containers": containers, "initContainers": side}, "status": status});
            let (used, stated) = (usage("", "pods", &pod, None), pod_amounts(&pod).0);
            assert_eq!(print(&stated), "cpu=3", "what is stated stays");
            ["requests.cpu", "limits.cpu"].map(|name| used[name].to_string())
        };
        let has = |name: &str, given: &str, real: &str| json!({"name": name, "allocatedResources": {"cpu": given}, "resources": sizes(real)});
        let pending =
            |reason: &str| json!([{"type": "PodResizePending", "status": "True", "reason": reason}]);
        for (status, expected) in [
            (json!({}), ["3", "3"]),
            (json!({"containerStatuses": [has("c", "1", "4")]}), ["5", "5"]),
            (json!({"containerStatuses": [has("c", "5", "1")]}), ["6", "3"]),
            (
                json!({"containerStatuses": [has("c", "1", "1")], "conditions": pending("Deferred")}),
                ["3", "3"],
            ),
            (
                json!({"containerStatuses": [has("c", "1", "1")], "conditions": pending("Infeasible")}),
                ["2", "2"],
            ),
            (json!({"initContainerStatuses": [has("s", "4", "4")]}), ["6", "6"]),
            (json!({"initContainerStatuses": [has("i", "9", "9")]}), ["3", "3"]),
        ] {
            assert_eq!(of(status.clone()), expected, "{status}");
        }
    }

    #[test]
    fn pods_use_nothing_but_their_object_once_they_are_over() {
        let pod = |phase: &str| {
            json!({
                "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30},
                "spec": {"containers": [{"resources": {"requests": {"cpu": "1"}}}]}, "status": {"phase": phase},
            })
        };
        let at = |text: &str| Some(text.parse::<Timestamp>().unwrap());
        let full = "count/pods=1 cpu=1 pods=1 requests.cpu=1";
        assert_eq!(print(&usage("", "pods", &pod("Running"), None)), full);
        assert_eq!(print(&usage("", "pods", &pod("Running"), at("2026-01-01T00:00:30Z"))), full);
        assert_eq!(print(&usage("", "pods", &pod("Running"), at("2026-01-01T00:00:31Z"))), "count/pods=1");
        assert_eq!(print(&usage("", "pods", &pod("Failed"), None)), "count/pods=1");
    }

    #[test]
    fn claims_count_for_their_class() {
        let claim =
            json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "2Gi"}}}});
        assert_eq!(
            print(&usage("", "persistentvolumeclaims", &claim, None)),
            "count/persistentvolumeclaims=1 fast.storageclass.storage.k8s.io/persistentvolumeclaims=1 \
             fast.storageclass.storage.k8s.io/requests.storage=2Gi persistentvolumeclaims=1 requests.storage=2Gi"
        );
    }

    #[test]
    fn scopes_select_pods() {
        let quota = |scope: &str| json!({"spec": {"scopes": [scope]}});
        let pod = json!({"spec": {"activeDeadlineSeconds": 5, "containers": [{"name": "a"}]}});
        let sized = json!({"spec": {"containers": [{"name": "a"}], "resources": {"requests": {"cpu": "1"}}}});
        assert!(!matches(&quota("BestEffort"), &sized), "it says as a whole what it asks for");
        let attributes = json!({"spec": {"scopeSelector": {"matchExpressions": [
            {"scopeName": "VolumeAttributesClass", "operator": "DoesNotExist"}]}}});
        let claim = json!({"spec": {"accessModes": ["ReadWriteOnce"]}});
        assert!(matches(&attributes, &claim) && !matches(&attributes, &pod));
        assert!(!matches(&quota("NotTerminating"), &claim), "claims have scopes of their own");
        for (scope, expected) in
            [("Terminating", true), ("NotTerminating", false), ("BestEffort", true), ("NotBestEffort", false)]
        {
            assert!(has_scopes(&quota(scope)));
            assert_eq!(matches(&quota(scope), &pod), expected, "{scope}");
        }
        assert!(!has_scopes(&json!({"spec": {}})) && matches(&json!({"spec": {}}), &pod));
    }
}
