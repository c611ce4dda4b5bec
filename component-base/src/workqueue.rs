//! The work queue of every controller (client-go's `workqueue`).
//!
//! An item is handed to one worker at a time; added again meanwhile, it is handed out once more afterwards; added twice
//! before that, once. Failures are retried after 5 ms doubled up to 1000 s per item, and at least as late as a common bucket
//! of 10 per second (burst 100) allows.

use std::{
    collections::{HashMap, VecDeque},
    error::Error,
    fmt::Display,
    future::Future,
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tokio_util::time::{DelayQueue, delay_queue};

use self::metrics::{Progress, QueueMetrics, Worked};
use crate::task::Tasks;

mod metrics;

/// How often failures of one item and of the whole queue are retried.
#[derive(Clone, Copy, Debug)]
pub struct RateLimits {
    /// Delay after an item's first failure; doubles with each further one.
    pub base: Duration,
    /// Longest delay of one item.
    pub max: Duration,
    /// Retries per second of the whole queue.
    pub qps: f64,
    /// Retries that may happen at once before `qps` holds.
    pub burst: f64,
}

impl Default for RateLimits {
    fn default() -> RateLimits {
        RateLimits { base: Duration::from_millis(5), max: Duration::from_secs(1000), qps: 10.0, burst: 100.0 }
    }
}

/// A deduplicating queue of items, usually object keys. Clones share the queue.
#[derive(Debug)]
pub struct WorkQueue<T> {
    inner: Arc<Inner<T>>,
}

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> WorkQueue<T> {
        WorkQueue { inner: self.inner.clone() }
    }
}

#[derive(Debug)]
struct Inner<T> {
    name: String,
    limits: RateLimits,
    state: Mutex<State<T>>,
    /// An item became ready, or the queue shut down.
    ready: Notify,
    metrics: QueueMetrics,
}

#[derive(Debug)]
struct State<T> {
    queue: VecDeque<T>,
    /// Items to hand out, since when: those of `queue`, and those in work that were added again.
    dirty: HashMap<T, Instant>,
    processing: HashMap<T, Instant>,
    waiting: DelayQueue<T>,
    waiting_keys: HashMap<T, delay_queue::Key>,
    failures: HashMap<T, u32>,
    bucket: Bucket,
    shut_down: bool,
}

impl<T: Clone + Eq + Hash + Send + 'static> WorkQueue<T> {
    /// A queue whose metrics carry `name`.
    pub fn new(name: impl Into<String>) -> WorkQueue<T> {
        WorkQueue::with_limits(name, RateLimits::default())
    }

    /// A queue with its own retry limits.
    pub fn with_limits(name: impl Into<String>, limits: RateLimits) -> WorkQueue<T> {
        let name = name.into();
        let metrics = QueueMetrics::new(&name);
        let state = State {
            queue: VecDeque::new(),
            dirty: HashMap::new(),
            processing: HashMap::new(),
            waiting: DelayQueue::new(),
            waiting_keys: HashMap::new(),
            failures: HashMap::new(),
            bucket: Bucket::new(limits.qps, limits.burst),
            shut_down: false,
        };
        let inner = Arc::new(Inner { name, limits, state: Mutex::new(state), ready: Notify::new(), metrics });
        metrics::watch(&inner.name, &(inner.clone() as Arc<dyn Progress>));
        WorkQueue { inner }
    }

    /// The name given at creation.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Queues the item unless it is queued already.
    pub fn add(&self, item: T) {
        let mut state = self.inner.state.lock();
        self.insert(&mut state, item);
    }

    fn insert(&self, state: &mut State<T>, item: T) {
        if state.shut_down || state.dirty.contains_key(&item) {
            return;
        }
        state.dirty.insert(item.clone(), Instant::now());
        self.inner.metrics.adds.inc();
        self.inner.metrics.depth.inc();
        if state.processing.contains_key(&item) {
            return;
        }
        state.queue.push_back(item);
        self.inner.ready.notify_one();
    }

    /// Queues the item after `delay`; of several pending delays of one item the earliest counts.
    pub fn add_after(&self, item: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(item);
        }
        let mut state = self.inner.state.lock();
        if state.shut_down {
            return;
        }
        let due = Instant::now() + delay;
        match state.waiting_keys.get(&item).copied() {
            Some(key) if state.waiting.deadline(&key) <= due => return,
            Some(key) => state.waiting.reset_at(&key, due),
            None => {
                let key = state.waiting.insert_at(item.clone(), due);
                state.waiting_keys.insert(item, key);
            }
        }
        drop(state);
        // A waiting worker must look at the new deadline.
        self.inner.ready.notify_one();
    }

    /// Queues the item after a delay that grows with its failures.
    pub fn add_rate_limited(&self, item: T) {
        let limits = self.inner.limits;
        let delay = {
            let mut state = self.inner.state.lock();
            let failures = state.failures.entry(item.clone()).or_insert(0);
            let own =
                limits.base.saturating_mul(1_u32.checked_shl(*failures).unwrap_or(u32::MAX)).min(limits.max);
            *failures = failures.saturating_add(1);
            own.max(state.bucket.reserve(Instant::now()))
        };
        self.inner.metrics.retries.inc();
        self.add_after(item, delay);
    }

    /// Forgets the item's failures.
    pub fn forget(&self, item: &T) {
        self.inner.state.lock().failures.remove(item);
    }

    /// How often the item has failed since it was last forgotten.
    pub fn num_requeues(&self, item: &T) -> u32 {
        self.inner.state.lock().failures.get(item).copied().unwrap_or(0)
    }

    /// The next item to work on; [`WorkQueue::done`] must follow. `None` once the queue is shut down and empty.
    pub async fn get(&self) -> Option<T> {
        loop {
            let notified = self.inner.ready.notified();
            let deadline = {
                let mut state = self.inner.state.lock();
                self.collect_due(&mut state);
                if let Some(item) = self.take(&mut state) {
                    return Some(item);
                }
                if state.shut_down {
                    return None;
                }
                state.waiting.peek().map(|key| state.waiting.deadline(&key))
            };
            match deadline {
                Some(deadline) => {
                    tokio::select! {
                        () = notified => {}
                        () = tokio::time::sleep_until(deadline) => {}
                    }
                }
                None => notified.await,
            }
        }
    }

    fn collect_due(&self, state: &mut State<T>) {
        let now = Instant::now();
        while let Some(key) = state.waiting.peek() {
            if state.waiting.deadline(&key) > now {
                return;
            }
            let item = state.waiting.remove(&key).into_inner();
            state.waiting_keys.remove(&item);
            self.insert(state, item);
        }
    }

    fn take(&self, state: &mut State<T>) -> Option<T> {
        let item = state.queue.pop_front()?;
        let now = Instant::now();
        let since = state.dirty.remove(&item).unwrap_or(now);
        self.inner.metrics.depth.dec();
        self.inner.metrics.queued.observe((now - since).as_secs_f64());
        state.processing.insert(item.clone(), now);
        if !state.queue.is_empty() {
            // Permits of notify_one do not add up: pass the hint on to the next idle worker.
            self.inner.ready.notify_one();
        }
        Some(item)
    }

    /// The worker is finished with the item; if it was added meanwhile, it is handed out again.
    pub fn done(&self, item: &T) {
        let mut state = self.inner.state.lock();
        if let Some(since) = state.processing.remove(item) {
            self.inner.metrics.worked.observe(since.elapsed().as_secs_f64());
        }
        if state.dirty.contains_key(item) {
            state.queue.push_back(item.clone());
            self.inner.ready.notify_one();
        } else if state.shut_down {
            self.inner.ready.notify_waiters();
        }
    }

    /// Items ready to be handed out.
    pub fn len(&self) -> usize {
        self.inner.state.lock().queue.len()
    }

    /// Whether nothing is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Accepts no further items; workers get what is queued and then `None`.
    pub fn shutdown(&self) {
        let mut state = self.inner.state.lock();
        state.shut_down = true;
        state.waiting.clear();
        state.waiting_keys.clear();
        drop(state);
        self.inner.ready.notify_waiters();
        self.inner.ready.notify_one();
    }
}

impl<T: Send> Progress for Inner<T> {
    fn worked(&self) -> Worked {
        let mut worked = Worked::default();
        self.state.lock().processing.values().for_each(|since| worked.add(since.elapsed()));
        worked
    }
}

/// A token bucket that hands out times in the future when it is empty (`rate.Limiter.Reserve`).
#[derive(Debug)]
pub struct Bucket {
    qps: f64,
    burst: f64,
    tokens: f64,
    updated: Option<Instant>,
}

impl Bucket {
    /// A full bucket.
    pub fn new(qps: f64, burst: f64) -> Bucket {
        Bucket { qps, burst, tokens: burst, updated: None }
    }

    fn refill(&mut self, now: Instant) {
        let passed = self.updated.map_or(0.0, |updated| now.saturating_duration_since(updated).as_secs_f64());
        self.updated = Some(now);
        self.tokens = (self.tokens + passed * self.qps).min(self.burst);
    }

    /// Takes a token and tells how long to wait for it.
    pub fn reserve(&mut self, now: Instant) -> Duration {
        self.refill(now);
        self.tokens -= 1.0;
        if self.tokens >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.tokens / self.qps) }
    }

    /// Takes a token if there is one.
    pub fn try_take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let available = self.tokens >= 1.0;
        if available {
            self.tokens -= 1.0;
        }
        available
    }
}

/// What a reconcile that did not fail wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing until the next event.
    Done,
    /// To be called again after this long.
    RequeueAfter(Duration),
}

/// Starts `workers` tasks that reconcile the queue's items until the group drains. An error is logged once and the item
/// retried with growing delays; success forgets its failures.
pub fn run_workers<T, F, Fut, E>(tasks: &Tasks, queue: &WorkQueue<T>, workers: usize, reconcile: F)
where
    T: Clone + Eq + Hash + Display + Send + 'static,
    F: Fn(T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Outcome, E>> + Send,
    E: Error + Send + 'static,
{
    let reconcile = Arc::new(reconcile);
    for index in 0..workers {
        let (queue, reconcile, drain) = (queue.clone(), reconcile.clone(), tasks.drain());
        tasks.spawn(format!("{}-{index}", queue.name()), async move {
            while let Some(Some(item)) = drain.run_until_cancelled(queue.get()).await {
                let result = reconcile(item.clone()).await;
                settle(&queue, &item, result);
                queue.done(&item);
            }
            queue.shutdown();
        });
    }
}

fn settle<T, E>(queue: &WorkQueue<T>, item: &T, result: Result<Outcome, E>)
where
    T: Clone + Eq + Hash + Display + Send + 'static,
    E: Error + 'static,
{
    match result {
        Ok(outcome) => {
            queue.forget(item);
            if let Outcome::RequeueAfter(delay) = outcome {
                queue.add_after(item.clone(), delay);
            }
        }
        Err(error) => {
            let chain = chain(&error);
            tracing::error!(queue = queue.name(), key = %item, error = chain, "reconcile failed, will be retried");
            queue.add_rate_limited(item.clone());
        }
    }
}

/// An error with all its causes, `a: b: c`. Some libraries repeat the cause in their own text; it is not told twice. What
/// the API server says stands in its own words.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        let said = refusal(error);
        let next = said.map_or_else(|| error.to_string(), str::to_owned);
        if !text.ends_with(&next) {
            let colon = if text.is_empty() { "" } else { ": " };
            text.push_str(&format!("{colon}{next}"));
        }
        cause = error.source().filter(|_| said.is_none());
    }
    text
}

/// What the API server says, if the error is its answer.
fn refusal<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e str> {
    let boxed = || error.downcast_ref::<Box<kube::Error>>().map(AsRef::as_ref);
    match error.downcast_ref::<kube::Error>().or_else(boxed)? {
        kube::Error::Api(status) => Some(status.message.as_str()).filter(|message| !message.is_empty()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
