//! The machine is about to go down: logind is asked to wait, and in that time the pods are ended, the least important first.
//!
//! ```text
//! logind --PrepareForShutdown(true)--> no pod is taken on, the node is not ready
//!                                      group by group: end the pods, wait for them and their volumes --> let logind go on
//!        --PrepareForShutdown(false)-> all that is over
//! ```
//! Who ends when and with how much time is in `plan`, the talk with logind in `logind`.
//! Contract: graceful node shutdown (KEP-2000) and by priority (KEP-2712); off unless the configuration gives it time.

pub mod logind;
pub mod plan;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use component_base::task::Tasks;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio::sync::Notify;

use self::plan::Period;
use crate::{
    checkpoint::replace_lazily,
    events::{Severity, node_reference},
    metrics, pod,
    pods::Pods,
    status::generate::Verdict,
    worker::{End, Shared},
};

/// Why pods end.
const REASON: &str = "Terminated";
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
/// The file that tells when the last shutdown began and ended.
const FILE: &str = "graceful_node_shutdown_state";
/// How often the pods of a group are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// The first wait after logind could not be talked to, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// logind, for as long as the connection lasts.
#[async_trait]
pub trait Sessions: Send {
    /// How long logind waits for those who ask it to.
    async fn patience(&mut self) -> Result<Duration, logind::LogindError>;
    /// Makes it wait longer.
    async fn ask_for(&mut self, time: Duration) -> Result<(), logind::LogindError>;
    /// Asks it to wait from now on, until what this returns is dropped.
    async fn inhibit(&mut self) -> Result<Box<dyn Send>, logind::LogindError>;
    /// The next word on a shutdown: it begins, or is called off. `None` when the connection has ended.
    async fn next(&mut self) -> Option<bool>;
}

/// Whether the machine is going down.
#[derive(Debug, Default)]
pub struct Shutdown {
    now: AtomicBool,
    changed: Notify,
}

impl Shutdown {
    /// It is.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.now.load(Ordering::Relaxed)
    }

    /// Waits until that changes, or has changed since it was last waited for.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn set(&self, now: bool) {
        self.now.store(now, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Refuses pods while it is.
    ///
    /// # Errors
    /// What the pod is told.
    pub fn admit(&self) -> Result<(), Verdict> {
        if !self.is_on() {
            return Ok(());
        }
        let (reason, message) = ("NodeShutdown", "Pod was rejected as the node is shutting down.");
        Err(Verdict { reason: reason.to_owned(), message: message.to_owned(), disrupted: false })
    }
}

/// Ends the pods of this node.
#[async_trait]
pub trait Ender: Send + Sync {
    /// The pods that run.
    fn active(&self) -> Vec<Arc<Pod>>;
    /// Begins to end a pod, with at most so many seconds.
    fn end(&self, pod: &Pod, seconds: i64);
    /// Nothing of the pod runs or is mounted any more.
    fn is_over(&self, pod: &Pod) -> bool;
    /// Tells people that a shutdown has begun, or was called off.
    fn tell(&self, begins: bool);
    /// Lets time pass.
    async fn pause(&self, time: Duration);
}

struct OfNode {
    shared: Arc<Shared>,
    pods: Arc<Pods>,
}

#[async_trait]
impl Ender for OfNode {
    fn active(&self) -> Vec<Arc<Pod>> {
        self.shared.allocations.pods()
    }

    fn end(&self, pod: &Pod, seconds: i64) {
        let verdict = Verdict { reason: REASON.to_owned(), message: MESSAGE.to_owned(), disrupted: true };
        self.pods.end(pod::uid(pod), End { grace: Some(seconds), verdict: Some(verdict), gone: false });
    }

    fn is_over(&self, pod: &Pod) -> bool {
        // Its folder goes last, with its volumes.
        let uid = pod::uid(pod);
        !self.shared.allocations.holds(uid) && !self.shared.pods_dir.join(uid).exists()
    }

    fn tell(&self, begins: bool) {
        let text = match begins {
            true => "Shutdown manager detected shutdown event",
            false => "Shutdown manager detected shutdown cancellation",
        };
        tracing::warn!("{text}");
        self.shared.events.send(
            node_reference(&self.shared.node.name),
            Severity::Normal,
            "NodeShutdown",
            text,
        );
    }

    async fn pause(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

/// Waits for shutdowns until the drain. Without time for any, nothing is done.
pub fn run(periods: Vec<Period>, folder: &Path, shared: Arc<Shared>, pods: Arc<Pods>, tasks: &Tasks) {
    let needed = plan::all(&periods);
    if needed.is_zero() {
        return;
    }
    let (file, state) = (folder.join(FILE), Arc::clone(&shared.shutdown));
    let drain = tasks.drain();
    tasks.spawn("shutdown", async move {
        let watcher = Watcher { periods, needed, file, state, node: OfNode { shared, pods } };
        tokio::select! {
            () = drain.cancelled() => {}
            () = watcher.connect_again_and_again() => {}
        }
    });
}

struct Watcher<E> {
    periods: Vec<Period>,
    needed: Duration,
    file: PathBuf,
    state: Arc<Shutdown>,
    node: E,
}

impl<E: Ender> Watcher<E> {
    async fn connect_again_and_again(&self) {
        let mut wait = RETRY.0;
        loop {
            match logind::connect().await {
                Ok(mut sessions) => match self.watch(&mut sessions).await {
                    Ok(()) => wait = RETRY.0,
                    Err(error) => tracing::error!(%error, "cannot wait for shutdowns"),
                },
                Err(error) => tracing::error!(%error, "cannot wait for shutdowns"),
            }
            tokio::time::sleep(wait).await;
            wait = wait.saturating_mul(2).min(RETRY.1);
        }
    }

    /// Waits for shutdowns until the connection ends.
    async fn watch(&self, sessions: &mut impl Sessions) -> Result<(), logind::LogindError> {
        let patience = sessions.patience().await?;
        if patience < self.needed {
            sessions.ask_for(self.needed).await?;
            if sessions.patience().await? < self.needed {
                return Err(logind::LogindError::Impatient { needed: self.needed, given: patience });
            }
        }
        let mut lock = Some(sessions.inhibit().await?);
        while let Some(begins) = sessions.next().await {
            self.node.tell(begins);
            self.state.set(begins);
            if begins {
                self.end_all().await;
                // The machine goes down now.
                lock = None;
            } else if lock.is_none() {
                lock = Some(sessions.inhibit().await?);
            }
        }
        Ok(())
    }

    async fn end_all(&self) {
        let begun = Timestamp::now();
        metrics::get().shutdown_start.set(begun.as_second());
        metrics::get().shutdown_end.set(0);
        self.keep(begun, None);
        for group in plan::groups(&self.periods, self.node.active()) {
            for pod in &group.pods {
                tracing::info!(pod = %pod::display(pod), seconds = group.period.seconds, "ending the pod for the shutdown");
                self.node.end(pod, group.period.seconds);
            }
            let mut left = Duration::from_secs(u64::try_from(group.period.seconds).unwrap_or(0));
            while group.pods.iter().any(|pod| !self.node.is_over(pod)) && !left.is_zero() {
                let nap = LOOK.min(left);
                self.node.pause(nap).await;
                left -= nap;
            }
        }
        let ended = Timestamp::now();
        metrics::get().shutdown_end.set(ended.as_second());
        self.keep(begun, Some(ended));
        tracing::info!("all pods have had their time, the node goes down");
    }

    /// Writes down when the shutdown began and ended, for the metrics of the next kubelet.
    fn keep(&self, begun: Timestamp, ended: Option<Timestamp>) {
        let text = json!({ "startTime": begun, "endTime": ended }).to_string();
        if let Err(error) = replace_lazily(&self.file, text.as_bytes()) {
            tracing::error!(file = %self.file.display(), %error, "cannot write down the shutdown");
        }
    }
}

/// Seconds at which the last shutdown began and ended, as an earlier kubelet wrote them down; zero is unknown.
#[must_use]
pub fn last(folder: &Path) -> (i64, i64) {
    let path = folder.join(FILE);
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (0, 0),
        text => text,
    };
    let value = text.map_err(|e| e.to_string()).and_then(|text| {
        serde_json::from_slice::<serde_json::Value>(&text).map_err(|error| error.to_string())
    });
    let value = value.unwrap_or_else(|error| {
        tracing::warn!(file = %path.display(), error, "what the last shutdown left does not read");
        serde_json::Value::Null
    });
    let second = |name: &str| {
        // Go writes a time that is not set as that of the year one.
        let time = value.get(name).and_then(|v| v.as_str()).and_then(|text| text.parse::<Timestamp>().ok());
        time.map_or(0, |time| time.as_second().max(0))
    };
    (second("startTime"), second("endTime"))
}

#[cfg(test)]
mod tests;
