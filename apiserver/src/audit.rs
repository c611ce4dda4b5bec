//! Audit: what is noted of each request, by which rules, and where it goes.
//!
//! Contract: audit.k8s.io/v1. Every stage of the request path may [`annotate`] the request it works for; the notes belong
//! to the request, so they travel with its task.

use std::{collections::BTreeMap, future::Future, sync::Arc};

use parking_lot::Mutex;

tokio::task_local! {
    static CURRENT: Arc<Context>;
}

/// What is noted of one request.
#[derive(Debug, Default)]
pub struct Context {
    annotations: Mutex<BTreeMap<String, String>>,
}

impl Context {
    /// Notes a value; a key that has one keeps it.
    pub fn annotate(&self, key: &str, value: impl Into<String>) {
        let value = value.into();
        let mut all = self.annotations.lock();
        match all.get(key) {
            Some(old) if *old != value => {
                tracing::warn!(key, old, new = value, "an audit annotation is there already");
            }
            Some(_) => {}
            None => {
                all.insert(key.to_owned(), value);
            }
        }
    }

    /// Whether the level is `Request` or more.
    pub fn shows_content(&self) -> bool {
        false
    }

    /// What was noted.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        self.annotations.lock().clone()
    }
}

/// Runs a request's work with its notes at hand.
pub async fn scope<F: Future>(context: Arc<Context>, work: F) -> F::Output {
    CURRENT.scope(context, work).await
}

/// The notes of the request this is part of; none for what the server does by itself.
pub fn current() -> Option<Arc<Context>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// Notes a value of the request this is part of.
pub fn annotate(key: &str, value: impl Into<String>) {
    if let Some(context) = current() {
        context.annotate(key, value);
    }
}

/// Notes a value that may hold content of the object, so only where the request's level shows that.
pub fn annotate_content(key: &str, value: impl FnOnce() -> String) {
    if let Some(context) = current().filter(|context| context.shows_content()) {
        context.annotate(key, value());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn notes_belong_to_the_request_and_stay() {
        let context = Arc::<Context>::default();
        let work = async {
            annotate("a", "1");
            annotate("a", "2");
        };
        scope(context.clone(), work).await;
        annotate("b", "1");
        assert_eq!(context.annotations(), BTreeMap::from([("a".to_owned(), "1".to_owned())]));
    }
}
