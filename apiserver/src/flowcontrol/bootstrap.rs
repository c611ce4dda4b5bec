//! The priority levels and flow schemas every cluster has: two of each that must be, the others a good beginning.
//!
//! Objects with the annotation `apf.kubernetes.io/autoupdate-spec: "true"` are kept as they are here; the mandatory ones
//! always. Contract: "API Priority and Fairness", default objects; upstream's `apis/flowcontrol/bootstrap`.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    object::Object,
    objects::{FLOW_SCHEMAS, Kind, Objects, PRIORITY_LEVELS, rfc3339},
    status::{Reason, Status},
};

/// The schema and level of last resort.
pub(super) const CATCH_ALL: &str = "catch-all";
const EXEMPT: &str = "exempt";
const API_VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";
const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// Name, shares, percentage that may be lent, queues and hand.
const LEVELS: [(&str, u32, u32, u32, u32); 6] = [
    ("system", 30, 33, 64, 6),
    ("node-high", 40, 25, 64, 6),
    ("leader-election", 10, 0, 16, 4),
    ("workload-high", 40, 50, 128, 6),
    ("workload-low", 100, 90, 128, 6),
    ("global-default", 20, 50, 128, 6),
];

/// The mandatory levels and schemas, without what storing adds.
pub(crate) fn mandatory() -> (Vec<Object>, Vec<Object>) {
    let exempt = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    let catch_all = json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0,
        "limitResponse": {"type": "Reject"}}});
    let levels = vec![level(EXEMPT, exempt), level(CATCH_ALL, catch_all)];
    let schemas = vec![
        schema(EXEMPT, EXEMPT, 1, "", groups(&["system:masters"]), anything()),
        schema(CATCH_ALL, CATCH_ALL, 10_000, "ByUser", everybody(), anything()),
    ];
    (levels, schemas)
}

/// The suggested levels and schemas.
fn suggested() -> (Vec<Object>, Vec<Object>) {
    let limited = |(name, shares, lendable, queues, hand)| {
        let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": 50});
        let limited = json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable,
            "limitResponse": {"type": "Queue", "queuing": queuing}});
        level(name, json!({"type": "Limited", "limited": limited}))
    };
    let leases = |verbs: &[&str]| resources(verbs, &["coordination.k8s.io"], &["leases"], false);
    let only = |rules: Vec<Value>| json!({"resourceRules": rules});
    let nodes = || groups(&["system:nodes"]);
    let probes = json!({"nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]});
    let leaders = vec![user("system:kube-controller-manager"), user("system:kube-scheduler"), kube_system()];
    let schemas = vec![
        schema("probes", EXEMPT, 2, "", everybody(), probes),
        schema(
            "system-leader-election",
            "leader-election",
            100,
            "ByUser",
            leaders,
            only(vec![leases(&["get", "create", "update"])]),
        ),
        schema(
            "system-node-high",
            "node-high",
            400,
            "ByUser",
            nodes(),
            only(vec![resources(&["*"], &[""], &["nodes", "nodes/status"], true), leases(&["*"])]),
        ),
        schema("system-nodes", "system", 500, "ByUser", nodes(), anything()),
        schema(
            "kube-controller-manager",
            "workload-high",
            800,
            "ByNamespace",
            vec![user("system:kube-controller-manager")],
            anything(),
        ),
        schema(
            "kube-scheduler",
            "workload-high",
            800,
            "ByNamespace",
            vec![user("system:kube-scheduler")],
            anything(),
        ),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            "ByNamespace",
            vec![kube_system()],
            anything(),
        ),
        schema(
            "service-accounts",
            "workload-low",
            9000,
            "ByUser",
            groups(&["system:serviceaccounts"]),
            anything(),
        ),
        schema("global-default", "global-default", 9900, "ByUser", everybody(), anything()),
    ];
    (LEVELS.into_iter().map(limited).collect(), schemas)
}

fn object(kind: &str, name: &str, spec: Value) -> Object {
    let mut object = Object::new();
    object.set("apiVersion", API_VERSION);
    object.set("kind", kind);
    object.set_meta_str("name", name);
    object.metadata_mut().insert("annotations".to_owned(), json!({AUTO_UPDATE: "true"}));
    object.set("spec", spec);
    object
}

fn level(name: &str, spec: Value) -> Object {
    object("PriorityLevelConfiguration", name, spec)
}

fn schema(name: &str, level: &str, precedence: u32, by: &str, subjects: Vec<Value>, rules: Value) -> Object {
    let mut rule = rules;
    rule["subjects"] = subjects.into();
    let mut spec = json!({"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence,
        "rules": [rule]});
    if !by.is_empty() {
        spec["distinguisherMethod"] = json!({"type": by});
    }
    object("FlowSchema", name, spec)
}

fn groups(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| json!({"kind": "Group", "group": {"name": name}})).collect()
}

fn everybody() -> Vec<Value> {
    groups(&["system:unauthenticated", "system:authenticated"])
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "user": {"name": name}})
}

fn account(namespace: &str, name: &str) -> Value {
    json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": namespace, "name": name}})
}

fn kube_system() -> Value {
    account("kube-system", "*")
}

fn resources(verbs: &[&str], groups: &[&str], resources: &[&str], cluster: bool) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": groups, "resources": resources, "namespaces": ["*"]});
    if cluster {
        rule["clusterScope"] = true.into();
    }
    rule
}

fn anything() -> Value {
    json!({"resourceRules": [resources(&["*"], &["*"], &["*"], true)],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]})
}

/// Creates what is missing and brings back what was changed and is to be kept.
///
/// # Errors
/// When the store refuses.
pub async fn ensure(objects: &dyn Objects, now: Timestamp) -> Result<(), Status> {
    let (levels, schemas) = mandatory();
    for (kind, all) in [(PRIORITY_LEVELS, levels), (FLOW_SCHEMAS, schemas)] {
        for object in all {
            keep(objects, kind, object, true, now).await?;
        }
    }
    let (levels, schemas) = suggested();
    for (kind, all) in [(PRIORITY_LEVELS, levels), (FLOW_SCHEMAS, schemas)] {
        for object in all {
            keep(objects, kind, object, false, now).await?;
        }
    }
    Ok(())
}

async fn keep(
    objects: &dyn Objects,
    kind: Kind,
    mut wanted: Object,
    is_mandatory: bool,
    now: Timestamp,
) -> Result<(), Status> {
    let outcome = match objects.get_latest(kind, "", wanted.name()).await? {
        Some(stored) => match corrected(&stored, &wanted, is_mandatory) {
            Some(corrected) => objects.update(kind, corrected).await,
            None => return Ok(()),
        },
        None => {
            wanted.set_meta_str("uid", &uuid::Uuid::new_v4().to_string());
            wanted.set_meta_str("creationTimestamp", &rfc3339(now));
            wanted.metadata_mut().insert("generation".to_owned(), 1.into());
            wanted.set("status", json!({}));
            objects.create(kind, wanted).await
        }
    };
    match outcome {
        // Another server was faster, or somebody changed it just now: the next round looks again.
        Err(status) if !matches!(status.reason, Reason::AlreadyExists | Reason::Conflict) => Err(status),
        _ => Ok(()),
    }
}

/// The stored object with the spec it is to have; `None` when it may stay as it is.
fn corrected(stored: &Object, wanted: &Object, is_mandatory: bool) -> Option<Object> {
    let annotation = stored.meta_pairs("annotations").find(|(key, _)| *key == AUTO_UPDATE);
    let generation = stored.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default();
    // Without a word about it, what nobody has changed yet is kept.
    let keeps = is_mandatory
        || match annotation.map(|(_, value)| value) {
            Some("true") => true,
            Some("false") => false,
            _ => generation == 1,
        };
    let word = if keeps { "true" } else { "false" };
    // The shares of the exempt level are its owner's to choose.
    let is_own = stored.name() == EXEMPT && stored.pointer("/spec/exempt").is_some();
    let differs = keeps && !is_own && stored.get("spec") != wanted.get("spec");
    if !differs && annotation.is_some_and(|(_, value)| value == word) {
        return None;
    }
    let mut object = stored.clone();
    if differs {
        object.set("spec", wanted.get("spec").cloned().unwrap_or_default());
        object.metadata_mut().insert("generation".to_owned(), (generation + 1).into());
    }
    let annotations = object.metadata_mut().entry("annotations").or_insert_with(|| json!({}));
    annotations[AUTO_UPDATE] = word.into();
    Some(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::memory::Memory;

    #[tokio::test]
    async fn what_is_missing_or_changed_comes_back() {
        let memory = Memory::with(Vec::new());
        ensure(&*memory, Timestamp::UNIX_EPOCH).await.unwrap();
        assert_eq!(memory.list(PRIORITY_LEVELS, None).await.unwrap().len(), 8);
        assert_eq!(memory.list(FLOW_SCHEMAS, None).await.unwrap().len(), 11);
        let change = async |name: &str, auto: &str| {
            let stored = memory.get_latest(PRIORITY_LEVELS, "", name).await.unwrap().unwrap();
            let mut changed = Object::clone(&stored);
            changed.as_map_mut()["spec"]["limited"]["nominalConcurrencyShares"] = 77.into();
            changed.metadata_mut()["annotations"][AUTO_UPDATE] = auto.into();
            memory.update(PRIORITY_LEVELS, changed).await.unwrap();
        };
        change("system", "true").await;
        change("workload-low", "false").await;
        change(CATCH_ALL, "false").await;
        ensure(&*memory, Timestamp::UNIX_EPOCH).await.unwrap();
        for (name, shares) in [("system", 30), ("workload-low", 77), (CATCH_ALL, 5)] {
            let now = memory.get_latest(PRIORITY_LEVELS, "", name).await.unwrap().unwrap();
            let found = now.pointer("/spec/limited/nominalConcurrencyShares").cloned();
            assert_eq!(found, Some(json!(shares)), "{name}");
        }
    }
}
