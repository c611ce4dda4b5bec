//! DefaultTolerationSeconds: pods stay five minutes on a node that is not ready or unreachable.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Parts, Plugin, Request};
use crate::{objects::PODS, status::Status};

pub(super) const NAME: &str = "DefaultTolerationSeconds";

const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// Seconds for each of the taints.
struct DefaultTolerationSeconds([i64; 2]);

pub(super) fn new(parts: &Parts) -> Arc<dyn Plugin> {
    Arc::new(DefaultTolerationSeconds(parts.toleration_seconds.into()))
}

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    async fn admit(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if !request.is(PODS) {
            return Ok(());
        }
        let Some(spec) = request.spec() else { return Ok(()) };
        let existing = spec.get("tolerations").and_then(Value::as_array).cloned().unwrap_or_default();
        let missing: Vec<Value> = TAINTS
            .iter()
            .zip(self.0)
            .filter(|(taint, _)| !existing.iter().any(|t| tolerates(t, taint)))
            .map(|(taint, seconds)| {
                json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds})
            })
            .collect();
        if !missing.is_empty() {
            spec.insert("tolerations".to_owned(), Value::from([existing, missing].concat()));
        }
        Ok(())
    }
}

/// Whether a toleration speaks of evictions by this taint already.
fn tolerates(toleration: &Value, taint: &str) -> bool {
    let text = |field: &str| toleration.get(field).and_then(Value::as_str).unwrap_or_default();
    (text("key") == taint || text("key").is_empty()) && matches!(text("effect"), "NoExecute" | "")
}
