//! What a quota's limits are about, and what is used of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use component_base::{
    meta::{annotation, controller_of},
    quantity::Quantity,
    quota::{self, Amounts, devices},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::{Pod, ResourceQuota, ResourceQuotaStatus},
        resource::v1::ResourceClaim,
    },
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
};
use serde_json::Value;

/// Marks claims that were made for pods' extended resources.
const EXTENDED: &str = "resource.kubernetes.io/extended-resource-claim";

/// A kind by group and plural.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Kind {
    /// Empty for core.
    pub group: String,
    pub plural: String,
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.group.as_str() {
            "" => out.write_str(&self.plural),
            group => write!(out, "{}.{group}", self.plural),
        }
    }
}

/// What must be looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    pub pods: bool,
    pub services: bool,
    pub claims: bool,
    /// Claims of devices.
    pub devices: bool,
    /// Kinds whose number alone matters.
    pub counts: BTreeSet<Kind>,
}

/// What there is; `None` and absent: not looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pub pods: Option<Vec<Value>>,
    pub services: Option<Vec<Value>>,
    pub claims: Option<Vec<Value>>,
    /// What each claim of devices uses.
    pub devices: Option<Vec<Amounts>>,
    pub counts: BTreeMap<Kind, usize>,
}

/// Where the use of a limit is read from.
enum Source {
    Pods,
    Services,
    Claims,
    Devices,
    Count(Kind),
}

/// Which objects a limit is about; `None` where nothing could ever count against it.
fn source(name: &str) -> Option<Source> {
    let counted = |group: &str, plural: &str| match (group, plural) {
        ("", "pods") => Source::Pods,
        ("", "services") => Source::Services,
        ("", "persistentvolumeclaims") => Source::Claims,
        ("resource.k8s.io", "resourceclaims") => Source::Devices,
        _ => Source::Count(Kind { group: group.to_owned(), plural: plural.to_owned() }),
    };
    if let Some(kind) = name.strip_prefix("count/") {
        let (plural, group) = kind.split_once('.').unwrap_or((kind, ""));
        return Some(counted(group, plural));
    }
    Some(match name {
        "configmaps"
        | "persistentvolumeclaims"
        | "replicationcontrollers"
        | "resourcequotas"
        | "secrets"
        | "services" => counted("", name),
        "services.nodeports" | "services.loadbalancers" => Source::Services,
        "requests.storage" => Source::Claims,
        _ if OF_STORAGE_CLASS.iter().any(|limit| name.ends_with(limit)) => Source::Claims,
        _ if name.ends_with(devices::OF_CLASS) => Source::Devices,
        _ if is_of_pods(name) => Source::Pods,
        _ => return None,
    })
}

/// What limits on claims of a storage class end in.
const OF_STORAGE_CLASS: [&str; 2] =
    [".storageclass.storage.k8s.io/persistentvolumeclaims", ".storageclass.storage.k8s.io/requests.storage"];

/// Whether pods are limited by it: their number, what their containers ask for, or an extended resource. Of those a quota
/// limits requests alone.
fn is_of_pods(name: &str) -> bool {
    const AMOUNTS: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
    let requested = name.strip_prefix("requests.");
    let amount = requested.or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
    let is_extended = |name: &str| {
        name.contains('/')
            && (!name.contains("kubernetes.io/") || name.starts_with("deviceclass.resource.kubernetes.io/"))
    };
    name == "pods"
        || AMOUNTS.contains(&amount)
        || requested.unwrap_or(name).starts_with("hugepages-")
        || requested.is_some_and(is_extended)
}

/// What must be looked at for these limits.
pub(super) fn needs<'a>(hard: impl IntoIterator<Item = &'a str>) -> Needs {
    let mut needs = Needs::default();
    for name in hard {
        // Devices may stand for what pods ask for by name.
        needs.devices |= devices::may_count(name);
        match source(name) {
            Some(Source::Pods) => needs.pods = true,
            Some(Source::Services) => needs.services = true,
            Some(Source::Claims) => needs.claims = true,
            Some(Source::Devices) => needs.devices = true,
            Some(Source::Count(kind)) => drop(needs.counts.insert(kind)),
            None => {}
        }
    }
    needs
}

/// Whether admission has to refuse what the quota would allow, because it is not known yet what is used of a limit.
pub(super) fn is_urgent(quota: &ResourceQuota) -> bool {
    let none = BTreeMap::new();
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref()).unwrap_or(&none);
    let status = quota.status.as_ref();
    let (told, used) =
        (status.and_then(|s| s.hard.as_ref()).unwrap_or(&none), status.and_then(|s| s.used.as_ref()));
    let is_counted = |name: &String| used.is_some_and(|used| used.contains_key(name));
    !same(Some(hard), Some(told)) || told.keys().any(|name| !is_counted(name) && source(name).is_some())
}

/// The quota's status if it must be another one; `object` is the quota itself, by its fields.
pub(super) fn status(
    quota: &ResourceQuota,
    object: &Value,
    content: &Content,
    now: Timestamp,
) -> Option<ResourceQuotaStatus> {
    let hard = quota.spec.as_ref().and_then(|s| s.hard.clone()).unwrap_or_default();
    let old = quota.status.clone().unwrap_or_default();
    let total = total(object, content, now);
    let known = |name: &str| match source(name) {
        Some(Source::Pods) => content.pods.is_some(),
        Some(Source::Services) => content.services.is_some(),
        Some(Source::Claims) => content.claims.is_some(),
        Some(Source::Devices) => content.devices.is_some(),
        Some(Source::Count(kind)) => content.counts.contains_key(&kind),
        None => false,
    };
    let used = |name: &String| match total.get(name) {
        Some(amount) => Some(amount.to_api()),
        None if known(name) => Some(ApiQuantity("0".to_owned())),
        None => old.used.as_ref().and_then(|u| u.get(name).cloned()),
    };
    let next = ResourceQuotaStatus {
        used: Some(hard.keys().filter_map(|name| Some((name.clone(), used(name)?))).collect()),
        hard: Some(hard),
    };
    (!same(next.hard.as_ref(), old.hard.as_ref()) || !same(next.used.as_ref(), old.used.as_ref()))
        .then_some(next)
}

/// All that is used, whether limited or not. A quota with scopes is about pods, or about claims of storage.
fn total(object: &Value, content: &Content, now: Timestamp) -> Amounts {
    let scoped = quota::has_scopes(object);
    let mut total = Amounts::new();
    for pod in content.pods.iter().flatten().filter(|pod| quota::matches(object, *pod)) {
        quota::add(&mut total, &quota::usage("", "pods", pod, Some(now)));
    }
    for claim in content.claims.iter().flatten().filter(|claim| quota::matches(object, *claim)) {
        quota::add(&mut total, &quota::usage("", "persistentvolumeclaims", claim, None));
    }
    if scoped {
        return total;
    }
    content.devices.iter().flatten().for_each(|used| quota::add(&mut total, used));
    for service in content.services.iter().flatten() {
        quota::add(&mut total, &quota::usage("", "services", service, None));
    }
    for (kind, count) in &content.counts {
        quota::add(&mut total, &quota::counted(&kind.group, &kind.plural, *count));
    }
    total
}

/// The pod for whose extended resources a claim was made; of several such claims of a pod that names none yet, it is the
/// oldest one's.
pub(super) fn pod_of(
    claim: &ResourceClaim,
    all: &[Arc<ResourceClaim>],
    pod: impl Fn(&str) -> Option<Arc<Pod>>,
) -> Option<Arc<Pod>> {
    let is_extended = |claim: &ResourceClaim| annotation(&claim.metadata, EXTENDED) == Some("true");
    let owner = controller_of(&claim.metadata).filter(|o| o.kind == "Pod" && o.api_version == "v1")?;
    let pod =
        pod(&owner.name).filter(|pod| is_extended(claim) && pod.metadata.uid.as_ref() == Some(&owner.uid))?;
    let named = pod.status.as_ref().and_then(|s| s.extended_resource_claim_status.as_ref());
    let is_it = match named {
        Some(named) => Some(&named.resource_claim_name) == claim.metadata.name.as_ref(),
        None => {
            let of_pod = |other: &&Arc<ResourceClaim>| {
                is_extended(other) && controller_of(&other.metadata).is_some_and(|o| o.uid == owner.uid)
            };
            let age = |c: &ResourceClaim| (c.metadata.creation_timestamp.clone(), c.metadata.name.clone());
            all.iter().filter(of_pod).all(|other| age(claim) <= age(other))
        }
    };
    is_it.then_some(pod)
}

/// Whether two lists say the same, however they are written.
fn same(a: Option<&BTreeMap<String, ApiQuantity>>, b: Option<&BTreeMap<String, ApiQuantity>>) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return a.is_none() && b.is_none() };
    let equal = |a: &ApiQuantity, b: &ApiQuantity| a == b || Quantity::from_api(a) == Quantity::from_api(b);
    a.len() == b.len() && a.iter().all(|(name, amount)| b.get(name).is_some_and(|other| equal(amount, other)))
}

#[cfg(test)]
mod tests {
    use component_base::quantity::Format;
    use serde_json::json;

    use super::*;

    fn pod(phase: &str, cpu: &str) -> Value {
        json!({
            "spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}]},
            "status": {"phase": phase},
        })
    }

    fn content() -> Content {
        Content {
            pods: Some(vec![
                pod("Running", "500m"),
                pod("Pending", "1"),
                pod("Succeeded", "4"),
                json!({"spec": {"activeDeadlineSeconds": 3, "containers": [{"name": "b"}]}}),
            ]),
            services: Some(vec![
                json!({"spec": {"type": "NodePort", "ports": [{}, {}]}}),
                json!({"spec": {}}),
            ]),
            claims: Some(vec![
                json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}}),
            ]),
            devices: Some(vec![
                Amounts::from([(
                    "gpu.deviceclass.resource.k8s.io/devices".to_owned(),
                    Quantity::new(2, Format::DecimalSI),
                )]),
                Amounts::from([("requests.d.io/gpu".to_owned(), Quantity::new(1, Format::DecimalSI))]),
            ]),
            counts: BTreeMap::from([(Kind { group: "apps".into(), plural: "deployments".into() }, 2)]),
        }
    }

    fn quota(spec: Value, status: Value) -> Value {
        json!({"metadata": {"name": "q"}, "spec": spec, "status": status})
    }

    fn used(spec: Value, status_before: Value) -> Option<Value> {
        let object = quota(spec, status_before);
        let typed: ResourceQuota = serde_json::from_value(object.clone()).unwrap();
        status(&typed, &object, &content(), Timestamp::UNIX_EPOCH)
            .map(|s| serde_json::to_value(s.used).unwrap())
    }

    #[test]
    fn limits_say_what_must_be_looked_at() {
        let all = needs([
            "cpu",
            "requests.example.com/gpu",
            "services.nodeports",
            "fast.storageclass.storage.k8s.io/requests.storage",
            "count/deployments.apps",
            "secrets",
        ]);
        assert!(all.pods && all.services && all.claims && all.devices);
        let of_class = needs(["gpu.deviceclass.resource.k8s.io/devices"]);
        assert_eq!(of_class, Needs { devices: true, ..Needs::default() });
        assert_eq!(needs(["count/resourceclaims.resource.k8s.io"]), of_class);
        let counts: Vec<String> = all.counts.iter().map(ToString::to_string).collect();
        assert_eq!(counts, ["secrets", "deployments.apps"]);
        assert_eq!(needs(["count/pods"]), Needs { pods: true, ..Needs::default() });
        assert_eq!(needs([]), Needs::default());
    }

    #[test]
    fn what_nothing_can_use_is_not_told_to_be_used() {
        let hard = json!({"hard": {
            "example.com/gpu": "1", "limits.example.com/gpu": "1", "requests.x.kubernetes.io/gpu": "1",
            "fast.storageclass.storage.k8s.io/other": "1", "requests.example.com/gpu": "1", "hugepages-2Mi": "1",
            "requests.hugepages-1Gi": "1", "requests.deviceclass.resource.kubernetes.io/gpu": "1",
            "limits.ephemeral-storage": "1",
        }});
        let zero = "0";
        let expected = json!({
            "requests.example.com/gpu": zero, "hugepages-2Mi": zero, "requests.hugepages-1Gi": zero,
            "requests.deviceclass.resource.kubernetes.io/gpu": zero, "limits.ephemeral-storage": zero,
        });
        assert_eq!(used(hard, json!({})).unwrap(), expected);
        assert_eq!(needs(["example.com/gpu"]), Needs::default());
    }

    #[test]
    fn limits_of_which_no_use_is_known_are_urgent() {
        let urgent = |hard: Value, status: Value| {
            is_urgent(&serde_json::from_value(quota(json!({"hard": hard}), status)).unwrap())
        };
        let cpu = || json!({"cpu": "4"});
        for (hard, status, expected) in [
            (cpu(), Value::Null, true),
            (cpu(), json!({"hard": cpu()}), true),
            (cpu(), json!({"hard": {"cpu": "6"}, "used": {"cpu": "0"}}), true),
            (cpu(), json!({"hard": {"cpu": "4000m"}, "used": {"cpu": "0"}}), false),
            (cpu(), json!({"hard": cpu(), "used": {"memory": "0"}}), true),
            (json!({"requests.a.b/c": "4"}), json!({"hard": {"requests.a.b/c": "4"}}), true),
            (json!({"a.b/c": "4"}), json!({"hard": {"a.b/c": "4"}}), false),
            (json!({}), Value::Null, false),
        ] {
            assert_eq!(urgent(hard.clone(), status.clone()), expected, "{hard} {status}");
        }
    }

    #[test]
    fn what_is_there_is_summed() {
        let hard = json!({"hard": {
            "pods": "9", "count/pods": "9", "cpu": "10", "requests.cpu": "10", "limits.cpu": "5",
            "services": "5", "services.nodeports": "5", "requests.storage": "9Gi",
            "fast.storageclass.storage.k8s.io/persistentvolumeclaims": "3", "count/deployments.apps": "4",
            "count/unserved.example.com": "1", "gpu.deviceclass.resource.k8s.io/devices": "4", "requests.d.io/gpu": "4",
        }});
        assert_eq!(
            used(hard, json!({})).unwrap(),
            json!({
                "pods": "3", "count/pods": "4", "cpu": "1500m", "requests.cpu": "1500m", "limits.cpu": "0",
                "services": "2", "services.nodeports": "2", "requests.storage": "1Gi",
                "fast.storageclass.storage.k8s.io/persistentvolumeclaims": "1", "count/deployments.apps": "2",
                "gpu.deviceclass.resource.k8s.io/devices": "2", "requests.d.io/gpu": "1",
            })
        );
    }

    #[test]
    fn scopes_leave_only_the_pods_they_are_about() {
        let spec =
            |scope: &str| json!({"scopes": [scope], "hard": {"pods": "9", "cpu": "9", "services": "3"}});
        let zero = "0";
        assert_eq!(
            used(spec("NotTerminating"), json!({})).unwrap(),
            json!({"pods": "2", "cpu": "1500m", "services": zero})
        );
        assert_eq!(
            used(spec("BestEffort"), json!({})).unwrap(),
            json!({"pods": "1", "cpu": zero, "services": zero})
        );
        let none =
            json!({"matchExpressions": [{"scopeName": "VolumeAttributesClass", "operator": "DoesNotExist"}]});
        let of_claims = json!({"scopeSelector": none, "hard": {"pods": "9", "requests.storage": "9Gi"}});
        assert_eq!(used(of_claims, json!({})).unwrap(), json!({"pods": zero, "requests.storage": "1Gi"}));
    }

    #[test]
    fn a_status_that_says_the_same_is_left_alone() {
        let hard = json!({"hard": {"pods": "9", "cpu": "10"}});
        let right = json!({"hard": {"pods": "9", "cpu": "10000m"}, "used": {"pods": "3", "cpu": "1.5"}});
        assert_eq!(used(hard.clone(), right), None);
        let charged = json!({"hard": {"pods": "9", "cpu": "10"}, "used": {"pods": "4", "cpu": "1.5"}});
        assert_eq!(used(hard, charged).unwrap()["pods"], "3");
        let gone = json!({"hard": {"pods": "9", "cpu": "10"}, "used": {"pods": "3", "cpu": "1.5"}});
        assert_eq!(used(json!({"hard": {"pods": "9"}}), gone).unwrap(), json!({"pods": "3"}));
        assert_eq!(used(json!({"hard": {}}), json!({})).unwrap(), json!({}));
    }

    #[test]
    fn a_claim_for_extended_resources_is_its_pods() {
        let claim = |name: &str, second: u8, extended: &str| -> Arc<ResourceClaim> {
            let owner =
                json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true});
            Arc::new(
                serde_json::from_value(json!({"metadata": {
                "name": name, "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
                "annotations": {EXTENDED: extended}, "ownerReferences": [owner]}, "spec": {}}))
                .unwrap(),
            )
        };
        let pod = |uid: &str, named: Value| -> Option<Arc<Pod>> {
            let status = match named {
                Value::Null => json!({}),
                named => {
                    json!({"extendedResourceClaimStatus": {"requestMappings": [], "resourceClaimName": named}})
                }
            };
            Some(Arc::new(
                serde_json::from_value(json!({"metadata": {"name": "p", "uid": uid}, "status": status}))
                    .unwrap(),
            ))
        };
        let all =
            [claim("a", 1, "true"), claim("b", 0, "true"), claim("c", 0, "true"), claim("d", 0, "false")];
        let its = |pod: Option<Arc<Pod>>| {
            let is_its = |claim: &&Arc<ResourceClaim>| pod_of(claim, &all, |_| pod.clone()).is_some();
            all.iter().filter(is_its).filter_map(|c| c.metadata.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(its(pod("u", Value::Null)), ["b"]);
        assert_eq!(its(pod("u", json!("a"))), ["a"]);
        assert!(its(pod("other", Value::Null)).is_empty() && its(None).is_empty());
    }
}
