//! TaintNodesByCondition: a new node takes no pods until the node controller has seen it ready.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Parts, Plugin, Request};
use crate::{objects::NODES, status::Status};

pub(super) const NAME: &str = "TaintNodesByCondition";

const NOT_READY: &str = "node.kubernetes.io/not-ready";

struct TaintNodesByCondition;

pub(super) fn new(_parts: &Parts) -> Arc<dyn Plugin> {
    Arc::new(TaintNodesByCondition)
}

#[async_trait]
impl Plugin for TaintNodesByCondition {
    async fn admit(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if !request.is(NODES) {
            return Ok(());
        }
        let Some(spec) = request.spec() else { return Ok(()) };
        let taints = spec.entry("taints").or_insert_with(|| json!([]));
        if taints.is_null() {
            *taints = json!([]);
        }
        if let Value::Array(taints) = taints {
            let same = |t: &Value| {
                t.get("key") == Some(&json!(NOT_READY)) && t.get("effect") == Some(&json!("NoSchedule"))
            };
            if !taints.iter().any(same) {
                taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
            }
        }
        Ok(())
    }
}
