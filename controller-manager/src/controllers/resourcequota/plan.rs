//! What a quota's limits are about, and what is used of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use component_base::{
    quantity::Quantity,
    quota::{self, Amounts},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ResourceQuota, ResourceQuotaStatus},
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
};
use serde_json::Value;

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
    /// Kinds whose number alone matters.
    pub counts: BTreeSet<Kind>,
}

/// What there is; `None` and absent: not looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pub pods: Option<Vec<Value>>,
    pub services: Option<Vec<Value>>,
    pub claims: Option<Vec<Value>>,
    pub counts: BTreeMap<Kind, usize>,
}

/// Where the use of a limit is read from.
enum Source {
    Pods,
    Services,
    Claims,
    Count(Kind),
}

/// Which objects a limit is about. What is not known by name is a resource of pods.
fn source(name: &str) -> Source {
    let counted = |group: &str, plural: &str| match (group, plural) {
        ("", "pods") => Source::Pods,
        ("", "services") => Source::Services,
        ("", "persistentvolumeclaims") => Source::Claims,
        _ => Source::Count(Kind { group: group.to_owned(), plural: plural.to_owned() }),
    };
    if let Some(kind) = name.strip_prefix("count/") {
        let (plural, group) = kind.split_once('.').unwrap_or((kind, ""));
        return counted(group, plural);
    }
    match name {
        "configmaps"
        | "persistentvolumeclaims"
        | "replicationcontrollers"
        | "resourcequotas"
        | "secrets"
        | "services" => counted("", name),
        "services.nodeports" | "services.loadbalancers" => Source::Services,
        "requests.storage" => Source::Claims,
        _ if name.contains(".storageclass.storage.k8s.io/") => Source::Claims,
        _ => Source::Pods,
    }
}

/// What must be looked at for these limits.
pub(super) fn needs<'a>(hard: impl IntoIterator<Item = &'a str>) -> Needs {
    let mut needs = Needs::default();
    for name in hard {
        match source(name) {
            Source::Pods => needs.pods = true,
            Source::Services => needs.services = true,
            Source::Claims => needs.claims = true,
            Source::Count(kind) => drop(needs.counts.insert(kind)),
        }
    }
    needs
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
        Source::Pods => content.pods.is_some(),
        Source::Services => content.services.is_some(),
        Source::Claims => content.claims.is_some(),
        Source::Count(kind) => content.counts.contains_key(&kind),
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

/// All that is used, whether limited or not. A quota with scopes is about pods alone.
fn total(object: &Value, content: &Content, now: Timestamp) -> Amounts {
    let scoped = quota::has_scopes(object);
    let mut total = Amounts::new();
    for pod in content.pods.iter().flatten().filter(|pod| quota::matches(object, *pod)) {
        quota::add(&mut total, &quota::usage("", "pods", pod, Some(now)));
    }
    if scoped {
        return total;
    }
    for service in content.services.iter().flatten() {
        quota::add(&mut total, &quota::usage("", "services", service, None));
    }
    for claim in content.claims.iter().flatten() {
        quota::add(&mut total, &quota::usage("", "persistentvolumeclaims", claim, None));
    }
    for (kind, count) in &content.counts {
        quota::add(&mut total, &quota::counted(&kind.group, &kind.plural, *count));
    }
    total
}

/// Whether two lists say the same, however they are written.
fn same(a: Option<&BTreeMap<String, ApiQuantity>>, b: Option<&BTreeMap<String, ApiQuantity>>) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return a.is_none() && b.is_none() };
    let equal = |a: &ApiQuantity, b: &ApiQuantity| a == b || Quantity::from_api(a) == Quantity::from_api(b);
    a.len() == b.len() && a.iter().all(|(name, amount)| b.get(name).is_some_and(|other| equal(amount, other)))
}

#[cfg(test)]
mod tests {
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
        assert!(all.pods && all.services && all.claims);
        let counts: Vec<String> = all.counts.iter().map(ToString::to_string).collect();
        assert_eq!(counts, ["secrets", "deployments.apps"]);
        assert_eq!(needs(["count/pods"]), Needs { pods: true, ..Needs::default() });
        assert_eq!(needs([]), Needs::default());
    }

    #[test]
    fn what_is_there_is_summed() {
        let hard = json!({"hard": {
            "pods": "9", "count/pods": "9", "cpu": "10", "requests.cpu": "10", "limits.cpu": "5",
            "services": "5", "services.nodeports": "5", "requests.storage": "9Gi",
            "fast.storageclass.storage.k8s.io/persistentvolumeclaims": "3", "count/deployments.apps": "4",
            "count/unserved.example.com": "1",
        }});
        assert_eq!(
            used(hard, json!({})).unwrap(),
            json!({
                "pods": "3", "count/pods": "4", "cpu": "1500m", "requests.cpu": "1500m", "limits.cpu": "0",
                "services": "2", "services.nodeports": "2", "requests.storage": "1Gi",
                "fast.storageclass.storage.k8s.io/persistentvolumeclaims": "1", "count/deployments.apps": "2",
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
}
