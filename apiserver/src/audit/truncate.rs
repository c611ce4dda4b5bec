//! A back end that keeps events and batches small: first without objects, then not at all.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Event, metrics, options::Backend, policy::Level};

const ANNOTATION: &str = "audit.k8s.io/truncated";

/// Cuts what goes to another back end.
pub(super) struct Truncate {
    /// Bytes of a batch.
    pub(super) max_batch: usize,
    /// Bytes of an event.
    pub(super) max_event: usize,
    pub(super) next: Arc<dyn Backend>,
}

fn size(event: &Event) -> usize {
    serde_json::to_vec(event).map_or(usize::MAX, |bytes| bytes.len())
}

impl Truncate {
    /// An event that is small enough, and its size; `None` when it cannot be made so.
    fn cut(&self, event: Arc<Event>) -> Option<(Arc<Event>, usize)> {
        let bytes = size(&event);
        if bytes <= self.max_event {
            return Some((event, bytes));
        }
        let has_objects = event.request_object.is_some() || event.response_object.is_some();
        if !has_objects && event.level() < Level::Request {
            return None;
        }
        let mut small = Event::clone(&event);
        small.request_object = None;
        small.response_object = None;
        small.annotations.insert(ANNOTATION.to_owned(), "true".to_owned());
        let bytes = size(&small);
        (bytes <= self.max_event).then(|| (Arc::new(small), bytes))
    }
}

#[async_trait]
impl Backend for Truncate {
    async fn process(&self, events: Vec<Arc<Event>>) -> bool {
        let (mut batch, mut batched, mut taken) = (Vec::new(), 0, true);
        for event in events {
            let Some((event, bytes)) = self.cut(event) else {
                metrics::failed("truncate", 1);
                tracing::error!("an audit event is too large even without its objects");
                continue;
            };
            if !batch.is_empty() && batched + bytes > self.max_batch {
                taken &= self.next.process(std::mem::take(&mut batch)).await;
                batched = 0;
            }
            batched += bytes;
            batch.push(event);
        }
        if !batch.is_empty() {
            taken &= self.next.process(batch).await;
        }
        taken
    }
}
