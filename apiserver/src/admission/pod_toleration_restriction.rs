//! PodTolerationRestriction: pods of a namespace get the tolerations its annotation says, and may have only those it allows.
//!
//! Contract: podtolerationrestriction.admission.k8s.io/v1alpha1 for what counts where a namespace says nothing.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Configuration, Operation, Parts, Plugin, Request, webhook::matching::namespace_object};
use crate::{
    object::Object,
    objects::{Objects, PODS},
    registry::qos_class,
    status::Status,
};

pub(super) const NAME: &str = "PodTolerationRestriction";

const DEFAULTS: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
const ALLOWED: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";

/// What counts in namespaces that say nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Cluster {
    default: Vec<Value>,
    whitelist: Vec<Value>,
}

struct PodTolerationRestriction {
    objects: Arc<dyn Objects>,
    cluster: Cluster,
}

pub(super) fn new(parts: &Parts, configuration: Option<&Configuration>) -> Result<Arc<dyn Plugin>, String> {
    const VERSION: &[&str] = &["podtolerationrestriction.admission.k8s.io/v1alpha1"];
    let cluster = configuration.map(|one| one.decode(VERSION, "Configuration")).transpose();
    let cluster = cluster.map_err(|error| error.to_string())?.unwrap_or_default();
    Ok(Arc::new(PodTolerationRestriction { objects: parts.objects.clone(), cluster }))
}

#[async_trait]
impl Plugin for PodTolerationRestriction {
    async fn admit(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if !request.is(PODS) {
            return Ok(());
        }
        let mut extra = Vec::new();
        if request.operation == Operation::Create {
            let namespace = namespace_object(&request.attributes.namespace, &*self.objects).await?;
            extra = said(&namespace, DEFAULTS)?.unwrap_or_else(|| self.cluster.default.clone());
        }
        let Some(spec) = request.spec() else { return Ok(()) };
        if qos_class(&Value::Object(spec.clone())) != "BestEffort" {
            extra.push(json!({"key": "node.kubernetes.io/memory-pressure", "operator": "Exists",
                "effect": "NoSchedule"}));
        }
        if !extra.is_empty() {
            let own = spec.get("tolerations").and_then(Value::as_array).cloned().unwrap_or_default();
            spec.insert("tolerations".to_owned(), merged(own, extra).into());
        }
        self.validate(request).await
    }

    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let Some(pod) = request.object.as_deref().filter(|_| request.is(PODS)) else { return Ok(()) };
        let tolerations = pod.pointer("/spec/tolerations").and_then(Value::as_array);
        let Some(tolerations) = tolerations.filter(|all| !all.is_empty()) else { return Ok(()) };
        let namespace = namespace_object(&request.attributes.namespace, &*self.objects).await?;
        let own = said(&namespace, ALLOWED)?;
        let (allowed, scope) = match &own {
            Some(own) => (own, "namespace"),
            None => (&self.cluster.whitelist, "cluster"),
        };
        if allowed.is_empty() || tolerations.iter().all(|one| allowed.iter().any(|a| covers(a, one))) {
            return Ok(());
        }
        Err(Status::internal(format!(
            "pod tolerations (possibly merged with namespace default tolerations) conflict with its {scope} whitelist"
        )))
    }
}

/// The tolerations an annotation of a namespace lists; an empty one lists none.
fn said(namespace: &Object, annotation: &str) -> Result<Option<Vec<Value>>, Status> {
    match namespace.annotation(annotation) {
        None => Ok(None),
        Some("") => Ok(Some(Vec::new())),
        Some(text) => serde_json::from_str(text).map(Some).map_err(Status::internal),
    }
}

/// All of both but those that another one covers; of equal ones the first stays.
fn merged(own: Vec<Value>, extra: Vec<Value>) -> Vec<Value> {
    let all = [own, extra].concat();
    let mut merged: Vec<Value> = Vec::new();
    for (at, one) in all.iter().enumerate() {
        let covered = merged.iter().any(|kept| covers(kept, one));
        let will_be = all[at + 1..].iter().any(|later| later != one && covers(later, one));
        if !covered && !will_be {
            merged.push(one.clone());
        }
    }
    merged
}

/// Whether the one tolerates all that the other does.
fn covers(one: &Value, other: &Value) -> bool {
    fn text<'v>(toleration: &'v Value, field: &str) -> &'v str {
        toleration.get(field).and_then(Value::as_str).unwrap_or_default()
    }
    let exists = text(one, "operator") == "Exists";
    let same = |field: &str| text(one, field) == text(other, field);
    if one == other {
        return true;
    }
    let every_key = text(one, "key").is_empty() && exists;
    if !same("key") && !every_key {
        return false;
    }
    if !same("effect") && !text(one, "effect").is_empty() {
        return false;
    }
    let seconds = |toleration: &Value| toleration.get("tolerationSeconds").and_then(Value::as_i64);
    if text(one, "effect") == "NoExecute"
        && let Some(longest) = seconds(one)
        && seconds(other).is_none_or(|other| other > longest)
    {
        return false;
    }
    match text(one, "operator") {
        "Exists" => true,
        "Equal" | "" => matches!(text(other, "operator"), "Equal") && same("value"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::{
            Configurations,
            testing::{Write, configured_over, namespace},
        },
        objects::memory::Memory,
    };

    #[test]
    fn a_toleration_covers_what_asks_for_less() {
        let all = json!({"operator": "Exists"});
        let key = json!({"key": "k", "operator": "Exists"});
        let value = json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"});
        let minute =
            json!({"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60});
        let hour =
            json!({"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3600});
        for (one, other, want) in [
            (&all, &key, true),
            (&key, &all, false),
            (&key, &value, true),
            (&value, &key, false),
            (&hour, &minute, true),
            (&minute, &hour, false),
        ] {
            assert_eq!(covers(one, other), want, "{one} {other}");
        }
        assert_eq!(merged(vec![value.clone(), value.clone()], vec![key.clone()]), [key]);
        assert_eq!(merged(vec![minute.clone()], vec![value.clone()]), [minute, value]);
    }

    #[tokio::test]
    async fn namespaces_come_before_the_cluster() {
        let objects = Memory::with(vec![
            namespace("plain", json!({})),
            namespace("own", json!({DEFAULTS: "", ALLOWED: r#"[{"key": "b", "operator": "Exists"}]"#})),
        ]);
        let configurations = Configurations::with(
            NAME,
            "apiVersion: podtolerationrestriction.admission.k8s.io/v1alpha1\nkind: Configuration\n\
             default: [{key: a, operator: Exists}]\nwhitelist: [{key: a, operator: Exists}]\n",
        );
        let chain = configured_over(&objects, &[NAME], &configurations).unwrap();
        let pod = |namespace: &str, tolerations: Value| {
            let metadata = json!({"name": "p", "namespace": namespace});
            Write::create(PODS, json!({"metadata": metadata, "spec": {"tolerations": tolerations}}))
        };
        let tolerates = |key: &str| json!([{"key": key, "operator": "Exists"}]);
        let made = pod("plain", json!([])).through_chain(&chain).await.unwrap();
        assert_eq!(made["spec"]["tolerations"], tolerates("a"));
        let refused = pod("plain", tolerates("b")).through_chain(&chain).await.unwrap_err();
        assert!(refused.message.contains("conflict with its cluster whitelist"), "{}", refused.message);
        let made = pod("own", tolerates("b")).through_chain(&chain).await.unwrap();
        assert_eq!(made["spec"]["tolerations"], tolerates("b"));
        let refused = pod("own", tolerates("a")).through_chain(&chain).await.unwrap_err();
        assert!(refused.message.contains("conflict with its namespace whitelist"), "{}", refused.message);
    }
}
