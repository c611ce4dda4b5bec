//! Audit: what is noted of each request, by which rules, and where it goes.
//!
//! ```text
//! request ──→ Context ──policy──→ level and stages (policy) ──→ Event (event) ──→ back ends: truncated? batched? (batch)
//!                └─ annotations of any stage of the request path                     └─→ file (log) | webhook
//! ```
//! Every stage of the request path may [`annotate`] the request it works for; the notes belong to the request, so they
//! travel with its task. Contract: audit.k8s.io/v1; upstream's `apiserver/pkg/audit` and its plugins.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use component_base::goduration;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;

use crate::auth::{Attributes, User};

mod batch;
mod event;
mod log;
mod metrics;
pub mod options;
mod policy;
#[cfg(test)]
mod tests;
mod truncate;
mod webhook;

pub use event::{Described, Event, Stage};
pub use metrics::rejected;
use options::Backend;
pub use options::{BuildError, Options, build};
use policy::{Level, Verdict};

tokio::task_local! {
    static CURRENT: Arc<Context>;
}

/// The policy and where its events go.
pub struct Auditor {
    policy: policy::Policy,
    backends: Vec<Arc<dyn Backend>>,
}

/// What is noted of one request. A watch keeps it as long as it lasts, so that it is small.
#[derive(Default)]
pub struct Context {
    /// Whether anybody may want to know; else nothing is noted.
    listens: bool,
    annotations: Mutex<BTreeMap<String, String>>,
    /// Microseconds the request waited for others: webhooks and queues.
    waited: AtomicU64,
    /// Time that parts of the server took.
    spent: Mutex<Vec<(Part, Duration)>>,
    recorded: OnceLock<Box<Recorded>>,
}

/// What of the server a request spends time in, as slow ones tell: `apiserver.latency.k8s.io/<part>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Finding out who asks.
    Authentication,
    /// Finding out who that acts as.
    Impersonation,
    /// Waiting for its turn.
    Queue,
    /// Finding out whether it may be.
    Authorization,
    /// Waiting for etcd.
    Etcd,
    /// Reading what is stored.
    Decoding,
    /// Bringing objects to the form that was asked for.
    Transformation,
    /// Writing the answer's objects in the encoding that was asked for.
    Serialization,
    /// Sending an answer that is written while it is sent.
    Write,
    /// Webhooks that change it, one after the other.
    MutatingWebhooks,
    /// Webhooks that judge it, all at once.
    ValidatingWebhooks,
}

impl Part {
    const fn name(self) -> &'static str {
        match self {
            Self::Authentication => "authentication",
            Self::Impersonation => "impersonation",
            Self::Queue => "apf-queue-wait",
            Self::Authorization => "authorization",
            Self::Etcd => "etcd",
            Self::Decoding => "decode-response-object",
            Self::Transformation => "transform-response-object",
            Self::Serialization => "serialize-response-object",
            Self::Write => "response-write",
            Self::MutatingWebhooks => "mutating-webhook",
            Self::ValidatingWebhooks => "validating-webhook",
        }
    }
}

/// Requests that take longer say where.
const SLOW: Duration = Duration::from_millis(500);

/// A request that the policy wants to know of.
struct Recorded {
    auditor: Arc<Auditor>,
    verdict: Verdict,
    event: Mutex<Event>,
}

impl fmt::Debug for Auditor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auditor").field("backends", &self.backends.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("annotations", &self.annotations).finish_non_exhaustive()
    }
}

impl Auditor {
    /// Events go to these back ends.
    fn new(policy: policy::Policy, backends: Vec<Arc<dyn Backend>>) -> Self {
        Self { policy, backends }
    }

    /// Hands an event to all back ends; false when one that must not lose any did.
    async fn process(&self, event: Event) -> bool {
        metrics::made();
        let event = Arc::new(event);
        let all = self.backends.iter().map(|backend| backend.process(vec![event.clone()]));
        futures::future::join_all(all).await.into_iter().all(|taken| taken)
    }
}

impl Context {
    /// The notes of a request to a server with an auditor, or without one.
    pub fn new(audited: bool) -> Self {
        Self { listens: audited, ..Self::default() }
    }

    /// Decides by the policy what is recorded of a request whose user is known now.
    pub fn begin(&self, auditor: &Arc<Auditor>, attributes: &Attributes, described: Described) {
        let verdict = auditor.policy.evaluate(attributes);
        metrics::level(verdict.level.word());
        if verdict.level == Level::None {
            return;
        }
        // A request begins once.
        self.recorded.get_or_init(|| {
            let event = Event::new(verdict.level.word(), attributes, described);
            Box::new(Recorded { auditor: auditor.clone(), verdict, event: Mutex::new(event) })
        });
    }

    /// Notes a value; a key that has one keeps it.
    pub fn annotate(&self, key: &str, value: impl Into<String>) {
        if !self.listens {
            return;
        }
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
        self.recorded.get().is_some_and(|recorded| recorded.verdict.level >= Level::Request)
    }

    /// Whether the level is `RequestResponse`.
    pub fn shows_response(&self) -> bool {
        self.recorded.get().is_some_and(|recorded| recorded.verdict.level >= Level::RequestResponse)
    }

    /// Adds time that the request waited for others.
    pub fn wait(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.waited.fetch_add(micros, Ordering::Relaxed);
    }

    /// Time the request waited for others.
    pub fn waited(&self) -> Duration {
        Duration::from_micros(self.waited.load(Ordering::Relaxed))
    }

    /// Adds time that a part of the server took.
    pub fn spend(&self, part: Part, time: Duration) {
        if !self.listens {
            return;
        }
        let mut spent = self.spent.lock();
        match spent.iter_mut().find(|(known, _)| *known == part) {
            Some((Part::ValidatingWebhooks, longest)) => *longest = time.max(*longest),
            Some((_, sum)) => *sum += time,
            None => spent.push((part, time)),
        }
    }

    /// Notes where the time went of a request that took this long.
    fn tell_latency(&self, total: Duration) {
        let spent = std::mem::take(&mut *self.spent.lock());
        if total <= SLOW || spent.is_empty() {
            return;
        }
        let key = |part: &str| format!("apiserver.latency.k8s.io/{part}");
        for (part, time) in spent {
            self.annotate(&key(part.name()), goduration::format(time));
        }
        self.annotate(&key("total"), goduration::format(total));
    }

    /// Whether anything is recorded.
    pub fn is_recorded(&self) -> bool {
        self.recorded.get().is_some()
    }

    /// What was noted.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        self.annotations.lock().clone()
    }

    fn edit(&self, edit: impl FnOnce(&mut Event, &Verdict)) {
        if let Some(recorded) = self.recorded.get() {
            edit(&mut recorded.event.lock(), &recorded.verdict);
        }
    }

    /// Notes whom the user acts as, and under which constraint if there is any.
    pub fn impersonated(&self, user: &User, constraint: String) {
        self.edit(|event, _| event.impersonate(user, constraint));
    }

    /// Notes the object that was sent; it says more of what the request is about than the path.
    pub fn request_object(&self, object: Value) {
        self.edit(|event, verdict| event.request(object, verdict));
    }

    /// Notes a patch.
    pub fn request_patch(&self, patch: Value) {
        self.edit(|event, verdict| {
            if verdict.level >= Level::Request {
                event.request_object = Some(patch);
            }
        });
    }

    /// Notes the answer: its code, its Status where it is one, and where the level shows that, the object.
    pub fn response(&self, code: u16, status: Option<&Value>, object: Option<Value>) {
        self.edit(|event, verdict| event.response(code, status, object, verdict));
    }

    /// Tells the back ends of a stage. False when one that must not lose any did.
    pub async fn stage(&self, stage: Stage) -> bool {
        let Some(recorded) = self.recorded.get().filter(|r| !r.verdict.omits(stage)) else { return true };
        if stage == Stage::ResponseComplete {
            let took = Timestamp::now().duration_since(recorded.event.lock().received());
            self.tell_latency(took.try_into().unwrap_or_default());
        }
        let event = recorded.event.lock().at(stage, self.annotations());
        recorded.auditor.process(event).await
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

/// Adds time that a part of the server took for the request this is part of.
pub fn spend(part: Part, time: Duration) {
    // What the server does by itself nobody asks about.
    CURRENT.try_with(|context| context.spend(part, time)).unwrap_or_default();
}

/// Does something that is a part of what the server does for the request this is part of.
pub fn measured<T>(part: Part, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let outcome = work();
    spend(part, begun.elapsed());
    outcome
}

/// Notes a value that may hold content of the object, so only where the request's level shows that.
pub fn annotate_content(key: &str, value: impl FnOnce() -> String) {
    if let Some(context) = current().filter(|context| context.shows_content()) {
        context.annotate(key, value());
    }
}
