//! ClusterRoles with an aggregation rule hold the rules of all roles they select: `admin`, `edit` and `view` among
//! them.
//!
//! Contract: upstream's `clusterrole-aggregation-controller`; rules are applied under that field manager.

use std::sync::Arc;

use component_base::{
    client,
    informer::{Informer, ListWatch},
    meta::{ObjectKey, object_key},
    selector::{LabelSelector, SelectorError},
    workqueue::{Outcome, WorkQueue, run_workers},
};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::Context;

const WORKERS: usize = 5;
/// The HTTP status "unsupported media type".
const UNSUPPORTED: u16 = 415;
const MANAGER: &str = "clusterrole-aggregation-controller";

/// Why a role's rules cannot be brought together.
#[derive(Debug, thiserror::Error)]
enum AggregationError {
    #[error("invalid selector")]
    Selector(#[from] SelectorError),
    #[error("cannot apply the rules")]
    Api(#[from] kube::Error),
}

pub(super) fn start(ctx: &Context) {
    let roles: Informer<ClusterRole> = ctx.informers.get(ListWatch::default());
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("ClusterRoleAggregator");
    let (all, of_role) = (roles.clone(), queue.clone());
    // Any role may be part of any that aggregates.
    roles.on_event(move |event| {
        for role in all.store().list().into_iter().chain([event.object().clone()]) {
            if role.aggregation_rule.is_some() {
                of_role.add(object_key(role.as_ref()));
            }
        }
    });
    let api: Api<ClusterRole> = Api::all(ctx.client.clone());
    run_workers(&ctx.tasks, &queue, WORKERS, move |key| {
        let (roles, api) = (roles.clone(), api.clone());
        async move { sync(&roles, &api, &key).await }
    });
}

async fn sync(
    roles: &Informer<ClusterRole>,
    api: &Api<ClusterRole>,
    key: &ObjectKey,
) -> Result<Outcome, AggregationError> {
    roles.wait_synced().await;
    let Some(role) = roles.store().get(key) else { return Ok(Outcome::Done) };
    let Some(rules) = plan(&role, roles.store().list())? else { return Ok(Outcome::Done) };
    let body = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": &key.name}, "rules": rules,
    });
    let mut written = api.patch(&key.name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&body)).await;
    if matches!(&written, Err(kube::Error::Api(status)) if status.code == UNSUPPORTED) {
        // An older server that does not serve apply.
        written = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&body)).await;
    }
    match written {
        Err(e) if !client::is_not_found(&e) => Err(e.into()),
        _ => Ok(Outcome::Done),
    }
}

/// The rules a role must have, if it has others: those of all it selects, in the order of their names, each once.
fn plan(
    role: &ClusterRole,
    mut all: Vec<Arc<ClusterRole>>,
) -> Result<Option<Vec<PolicyRule>>, SelectorError> {
    let Some(aggregation) = &role.aggregation_rule else { return Ok(None) };
    all.retain(|r| r.metadata.name != role.metadata.name);
    all.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in aggregation.cluster_role_selectors.iter().flatten() {
        let selector = LabelSelector::from_api(Some(selector))?;
        let nothing = std::collections::BTreeMap::new();
        for other in all.iter().filter(|r| selector.matches(r.metadata.labels.as_ref().unwrap_or(&nothing))) {
            for rule in other.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    Ok((role.rules.as_deref().unwrap_or_default() != rules).then_some(rules))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn role(name: &str, labels: Value, verbs: &[&str]) -> Arc<ClusterRole> {
        let rules: Vec<Value> =
            verbs.iter().map(|v| json!({"verbs": [v], "apiGroups": [""], "resources": ["pods"]})).collect();
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "rules": rules}))
                .unwrap(),
        )
    }

    fn aggregate(selectors: Value, verbs: &[&str]) -> ClusterRole {
        let mut out = (*role("all", json!({"to": "a"}), verbs)).clone();
        out.aggregation_rule =
            Some(serde_json::from_value(json!({"clusterRoleSelectors": selectors})).unwrap());
        out
    }

    fn verbs(rules: Option<Vec<PolicyRule>>) -> Option<Vec<String>> {
        rules.map(|rules| rules.into_iter().flat_map(|r| r.verbs).collect())
    }

    #[test]
    fn rules_of_selected_roles_come_together_once_and_in_order() {
        let all = || {
            vec![
                role("b", json!({"to": "a"}), &["list", "get"]),
                role("a", json!({"to": "a"}), &["get"]),
                role("c", json!({"other": "x"}), &["watch"]),
                role("d", json!({}), &["delete"]),
                Arc::new(aggregate(json!([]), &["own"])),
            ]
        };
        let to_a = json!([{"matchLabels": {"to": "a"}}]);
        assert_eq!(
            verbs(plan(&aggregate(to_a.clone(), &[]), all()).unwrap()),
            Some(vec!["get".into(), "list".into()])
        );
        assert_eq!(plan(&aggregate(to_a, &["get", "list"]), all()).unwrap(), None);
        let both = json!([{"matchLabels": {"other": "x"}}, {"matchLabels": {"to": "a"}}]);
        assert_eq!(
            verbs(plan(&aggregate(both, &[]), all()).unwrap()),
            Some(vec!["watch".into(), "get".into(), "list".into()])
        );
        assert_eq!(verbs(plan(&aggregate(json!([]), &["old"]), all()).unwrap()), Some(vec![]));
        assert_eq!(plan(&role("plain", json!({}), &[]), all()).unwrap(), None);
        let bad = json!([{"matchExpressions": [{"key": "a", "operator": "In", "values": []}]}]);
        assert!(plan(&aggregate(bad, &[]), all()).is_err());
    }
}
