//! Keeps an in-memory index equal to one kind of objects in the store.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, future::BoxFuture};
use tokio::sync::watch;

use crate::{
    object::Object,
    objects::{Change, Kind, Objects, Relevant},
};

/// Pause before a watch that ended is begun again.
const RETRY: Duration = Duration::from_millis(200);

/// An index that learns of every object of its kinds.
pub trait Index: Send + Sync {
    /// The object is now like this.
    fn apply(&self, kind: Kind, object: &Object);
    /// The object is gone.
    fn remove(&self, kind: Kind, namespace: &str, name: &str);
    /// What it needs to know of a kind.
    fn relevant(&self, _kind: Kind) -> Relevant {
        Relevant::default()
    }
}

/// One kind flowing into one index.
pub struct Feed {
    kind: Kind,
    index: Arc<dyn Index>,
}

/// What of the kind the index holds: key and whether the watch in progress has seen it.
type Known = HashMap<(String, String), u64>;

impl Feed {
    /// A feed of `kind` into `index`.
    pub fn new(kind: Kind, index: Arc<dyn Index>) -> Self {
        Self { kind, index }
    }

    /// The endless task that follows the store; the receiver turns true once all that exists is in the index.
    pub fn start(self, objects: Arc<dyn Objects>) -> (BoxFuture<'static, ()>, watch::Receiver<bool>) {
        let (synced, receiver) = watch::channel(false);
        (self.follow(objects, synced).boxed(), receiver)
    }

    async fn follow(self, objects: Arc<dyn Objects>, synced: watch::Sender<bool>) {
        let mut known = Known::new();
        let mut round = 0;
        loop {
            round += 1;
            match objects.watch_relevant(self.kind, self.index.relevant(self.kind)).await {
                Ok(mut changes) => {
                    while let Some(change) = changes.next().await {
                        if self.take(change, &mut known, round) {
                            synced.send_replace(true);
                        }
                    }
                }
                Err(status) => tracing::warn!(resource = self.kind.resource, error = %status, "watch failed"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Applies one change; true at the end of the initial ones, when what vanished meanwhile is removed.
    fn take(&self, change: Change, known: &mut Known, round: u64) -> bool {
        let key = |o: &Object| (o.namespace().to_owned(), o.name().to_owned());
        match change {
            Change::Applied(object) => {
                self.index.apply(self.kind, &object);
                known.insert(key(&object), round);
                false
            }
            Change::Deleted(object) => {
                self.index.remove(self.kind, object.namespace(), object.name());
                known.remove(&key(&object));
                false
            }
            Change::Synced => {
                known.retain(|(namespace, name), seen| {
                    let keep = *seen == round;
                    if !keep {
                        self.index.remove(self.kind, namespace, name);
                    }
                    keep
                });
                true
            }
        }
    }
}
