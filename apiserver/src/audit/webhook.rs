//! The webhook back end: events go to an HTTPS service as lists, tried again for a while.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::json;

use super::{Event, metrics, options::Backend};
use crate::webhook::kubeconfig::Remote;

/// Time of one try.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Tries, each waited for half as long again as the one before.
const TRIES: u32 = 5;

/// The back end.
pub(super) struct Webhook {
    pub(super) remote: Remote,
    /// Pause after the first failure.
    pub(super) backoff: Duration,
}

#[async_trait]
impl Backend for Webhook {
    async fn process(&self, events: Vec<Arc<Event>>) -> bool {
        let list =
            json!({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": events});
        let mut pause = self.backoff;
        for attempt in 1..=TRIES {
            match self.remote.send(&list, TIMEOUT).await {
                Ok(()) => return true,
                Err(error) if attempt == TRIES || !error.is_temporary() => {
                    metrics::failed("webhook", events.len());
                    tracing::error!(%error, events = events.len(), "audit events were not sent");
                    return false;
                }
                Err(_) => tokio::time::sleep(pause).await,
            }
            pause = pause.mul_f64(1.5);
        }
        false
    }
}
