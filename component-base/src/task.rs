//! Owner of a daemon's tasks: every spawned future has a name, an owner and an end.
//!
//! Long tasks select on [`Tasks::drain`] and return when it is cancelled. A panic in a task ends the daemon (as upstream's
//! crash handler does) unless the task was spawned with [`Tasks::spawn_contained`], which is meant for one connection or one
//! request.

use std::{
    future::Future,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use tokio::{
    task::AbortHandle,
    time::{Interval, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

/// A group of named tasks that are drained together. Cheap to clone; clones share the group.
#[derive(Clone, Debug)]
pub struct Tasks {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    drain: CancellationToken,
    abort: CancellationToken,
    tracker: TaskTracker,
    failure: Arc<OnceLock<String>>,
    root_drain: CancellationToken,
    panics: AtomicUsize,
}

impl Default for Tasks {
    fn default() -> Tasks {
        Tasks::new()
    }
}

impl Tasks {
    /// An empty group.
    pub fn new() -> Tasks {
        let drain = CancellationToken::new();
        Tasks {
            inner: Arc::new(Inner {
                root_drain: drain.clone(),
                drain,
                abort: CancellationToken::new(),
                tracker: TaskTracker::new(),
                failure: Arc::default(),
                panics: AtomicUsize::new(0),
            }),
        }
    }

    /// A group that is drained with this one, or earlier by its own [`Tasks::cancel`]. Failures are reported to the parent.
    pub fn child(&self) -> Tasks {
        self.child_of(self.inner.drain.child_token())
    }

    /// As [`Tasks::child`], drained by the given token (for example the one that ends with a leader lease).
    pub fn child_of(&self, drain: CancellationToken) -> Tasks {
        Tasks {
            inner: Arc::new(Inner {
                drain,
                abort: self.inner.abort.child_token(),
                tracker: self.inner.tracker.clone(),
                failure: self.inner.failure.clone(),
                root_drain: self.inner.root_drain.clone(),
                panics: AtomicUsize::new(0),
            }),
        }
    }

    /// Starts `future`. If it panics, the daemon fails: everything is drained and the process exits non-zero.
    pub fn spawn<F>(&self, name: impl Into<String>, future: F) -> AbortHandle
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.start(name.into(), future, true)
    }

    /// Starts `future`, the work for one client or object. If it panics, that is logged and only this task ends.
    pub fn spawn_contained<F>(&self, name: impl Into<String>, future: F) -> AbortHandle
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.start(name.into(), future, false)
    }

    /// As [`Tasks::spawn`], on a thread and a runtime of its own: for the little that must go on in time however busy
    /// the daemon is. What the future starts by [`Tasks::spawn`] is on that runtime and ends with it.
    ///
    /// # Errors
    /// When the system gives no thread or no runtime.
    pub fn spawn_thread<F>(&self, name: &'static str, future: F) -> std::io::Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let guarded = self.guard(name.to_owned(), future, true);
        std::thread::Builder::new().name(name.to_owned()).spawn(move || runtime.block_on(guarded)).map(drop)
    }

    #[allow(clippy::disallowed_methods, reason = "this is the one place that starts tasks")]
    fn start<F>(&self, name: String, future: F, critical: bool) -> AbortHandle
    where
        F: Future<Output = ()> + Send + 'static,
    {
        tokio::spawn(self.guard(name, future, critical)).abort_handle()
    }

    /// The future with its name, tracked, and ending with the group.
    fn guard<F>(&self, name: String, future: F, critical: bool) -> impl Future<Output = ()> + Send + 'static
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let tasks = self.clone();
        let span = tracing::debug_span!("task", name = %name);
        // On the heap once: every future around it would hold it twice, as what it was given and as what it awaits.
        let future = Box::pin(future);
        let guarded = async move {
            let abort = tasks.inner.abort.clone();
            let outcome = tokio::select! {
                biased;
                () = abort.cancelled() => return,
                outcome = std::panic::AssertUnwindSafe(future).catch_unwind() => outcome,
            };
            if let Err(panic) = outcome {
                tasks.panicked(&name, panic_text(panic.as_ref()), critical);
            }
        };
        self.inner.tracker.track_future(guarded.instrument(span))
    }

    fn panicked(&self, name: &str, text: &str, critical: bool) {
        self.inner.panics.fetch_add(1, Ordering::Relaxed);
        tracing::error!(task = name, panic = text, "task panicked");
        if critical {
            self.fail(format!("task {name} panicked: {text}"));
        }
    }

    /// The token every long task of this group selects on.
    pub fn drain(&self) -> CancellationToken {
        self.inner.drain.clone()
    }

    /// The pace of a task that does something every `period`, at once for the first time, until this group drains.
    ///
    /// # Panics
    /// When the period is zero.
    pub fn ticks(&self, period: Duration) -> Ticks {
        let mut interval = tokio::time::interval(period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ticks { interval, drain: self.drain() }
    }

    /// Begins draining: cancels [`Tasks::drain`] and returns at once.
    pub fn cancel(&self) {
        self.inner.drain.cancel();
    }

    /// Records that the daemon cannot go on and drains the whole process. The first reason is kept.
    pub fn fail(&self, reason: impl Into<String>) {
        // Only the first failure is the cause; later ones are its consequences.
        if self.inner.failure.set(reason.into()).is_ok() {
            self.inner.root_drain.cancel();
        }
    }

    /// The reason given to the first [`Tasks::fail`], if any.
    pub fn failure(&self) -> Option<&str> {
        self.inner.failure.get().map(String::as_str)
    }

    /// How many tasks of this group have panicked.
    pub fn panics(&self) -> usize {
        self.inner.panics.load(Ordering::Relaxed)
    }

    /// Cancels, waits up to `grace` for all tasks (of parent and children) to end, and aborts the rest.
    /// Returns how many had to be aborted.
    pub async fn shutdown(&self, grace: Duration) -> usize {
        self.inner.drain.cancel();
        self.inner.tracker.close();
        if tokio::time::timeout(grace, self.inner.tracker.wait()).await.is_ok() {
            return 0;
        }
        let left = self.inner.tracker.len();
        self.inner.abort.cancel();
        left
    }
}

/// What [`Tasks::ticks`] returns; a round that takes longer than the period puts the next one off.
#[derive(Debug)]
pub struct Ticks {
    interval: Interval,
    drain: CancellationToken,
}

impl Ticks {
    /// Waits for the next round; says whether there is one, which there is not after the drain.
    pub async fn next(&mut self) -> bool {
        self.drain.run_until_cancelled(self.interval.tick()).await.is_some()
    }

    /// Waits for `future`, which is dropped at the drain: then there is no output.
    pub async fn until_drain<F: Future>(&self, future: F) -> Option<F::Output> {
        self.drain.run_until_cancelled(future).await
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "panic without a text"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn shutdown_waits_for_drained_tasks_and_aborts_the_stubborn() {
        let tasks = Tasks::new();
        let drain = tasks.drain();
        tasks.spawn("polite", async move { drain.cancelled().await });
        assert_eq!(tasks.shutdown(Duration::from_secs(5)).await, 0);

        let tasks = Tasks::new();
        tasks.spawn("stubborn", std::future::pending());
        assert_eq!(tasks.shutdown(Duration::from_secs(5)).await, 1);
    }

    #[tokio::test]
    async fn a_panic_fails_the_daemon_unless_contained() {
        let tasks = Tasks::new();
        tasks.spawn_contained("connection", async { panic!("one client") });
        while tasks.panics() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(tasks.failure(), None);
        tasks.child().spawn("controller", async { panic!("bug") });
        tasks.drain().cancelled().await;
        assert_eq!(tasks.failure(), Some("task controller panicked: bug"));
    }

    #[tokio::test(start_paused = true)]
    async fn ticks_come_at_once_and_then_at_their_pace_until_the_drain() {
        let tasks = Tasks::new();
        let mut ticks = tasks.ticks(Duration::from_secs(10));
        let begun = tokio::time::Instant::now();
        assert!(ticks.next().await && begun.elapsed().is_zero());
        assert_eq!(ticks.until_drain(async { 1 }).await, Some(1));
        assert!(ticks.next().await && begun.elapsed() == Duration::from_secs(10));
        // A long round puts the next one off by a whole period.
        tokio::time::sleep(Duration::from_secs(25)).await;
        assert!(ticks.next().await && ticks.next().await);
        assert_eq!(begun.elapsed(), Duration::from_secs(45));
        tasks.cancel();
        assert!(!ticks.next().await);
        assert_eq!(ticks.until_drain(std::future::pending::<()>()).await, None);
    }

    #[tokio::test]
    async fn a_child_ends_with_its_parent_but_not_the_other_way_round() {
        let tasks = Tasks::new();
        let (first, second) = (tasks.child(), tasks.child());
        first.cancel();
        assert!(!tasks.drain().is_cancelled());
        tasks.cancel();
        assert!(second.drain().is_cancelled());
    }
}
