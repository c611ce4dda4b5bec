//! Pod statuses on their way to the API server: the newest one of each pod is sent, older ones are skipped.
//!
//! A pod whose deletion has been asked for and of which nothing is left is deleted here, with grace period 0 and its uid
//! as a condition. Making a status is in `generate`, putting it into a patch in `patch`.

pub mod generate;
pub mod patch;

use std::{collections::HashMap, sync::Arc, time::Duration};

use component_base::task::Tasks;
use futures::{StreamExt as _, stream::FuturesUnordered};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, broadcast},
    time::Instant,
};

use crate::{metrics, pod};

/// How long after a failed call it is made again.
const RETRY: Duration = Duration::from_secs(2);
/// Calls under way at once, each about another pod.
const AT_ONCE: usize = 4;

struct Entry {
    pod: Arc<Pod>,
    status: Option<Arc<PodStatus>>,
    sent: Option<Arc<PodStatus>>,
    /// Since when there is something that the API server has not been told.
    since: Option<Instant>,
    finished: bool,
    deleted: bool,
    /// A call about it is being made.
    under_way: bool,
    /// The API server's reflection of a static pod: its status goes there.
    mirror: Option<Arc<Pod>>,
    /// After a failed call: not before.
    held_until: Option<Instant>,
}

/// What becomes of a pod, for those who watch.
#[derive(Debug, Clone)]
pub enum Change {
    /// It has this status now.
    Set {
        /// The pod, with an older status.
        pod: Arc<Pod>,
        /// Its status.
        status: Arc<PodStatus>,
        /// It had none before.
        added: bool,
    },
    /// It is gone.
    Gone(Arc<Pod>),
}

/// How many changes wait for somebody who watches; one takes two pointers.
const WATCHED: usize = 128;

/// The newest status of every pod.
pub struct Statuses {
    entries: Mutex<HashMap<String, Entry>>,
    dirty: Notify,
    changes: broadcast::Sender<Change>,
}

impl Default for Statuses {
    fn default() -> Self {
        Self { entries: Mutex::default(), dirty: Notify::default(), changes: broadcast::Sender::new(WATCHED) }
    }
}

/// One call to be made.
enum Call {
    Patch { key: String, pod: Arc<Pod>, sent: Option<Arc<PodStatus>>, status: Arc<PodStatus> },
    Delete { pod: Arc<Pod> },
}

impl Call {
    /// The entry it is about.
    fn key(&self) -> &str {
        match self {
            Self::Patch { key, .. } => key,
            Self::Delete { pod } => pod::uid(pod),
        }
    }

    /// There is no use in making the call again after this answer. A conflict ends the status of a pod whose name another
    /// has, but not a deletion: that may as well have come in the way of another write.
    fn is_pointless_after(&self, code: u16) -> bool {
        code == 404 || (code == 409 && matches!(self, Self::Patch { .. }))
    }
}

impl Statuses {
    /// Takes a pod's new status.
    pub fn set(&self, pod: &Arc<Pod>, status: Arc<PodStatus>) {
        let mut entries = self.entries.lock();
        let entry = entries.entry(pod::uid(pod).to_owned()).or_insert_with(|| Entry::new(pod));
        entry.pod = Arc::clone(pod);
        if entry.status.as_ref() != Some(&status) {
            crate::starts::count_ends(entry.status.as_deref().or(pod.status.as_ref()), &status);
            let added = entry.status.replace(Arc::clone(&status)).is_none();
            self.tell(|| Change::Set { pod: Arc::clone(pod), status, added });
            entry.since.get_or_insert_with(Instant::now);
            self.dirty.notify_one();
        }
    }

    /// A newer version of a pod: it takes the place of the older one, which nobody else holds.
    pub fn follow(&self, pod: &Arc<Pod>) {
        if let Some(entry) = self.entries.lock().get_mut(pod::uid(pod)) {
            entry.pod = Arc::clone(pod);
            if let Some(status) = &entry.status {
                self.tell(|| Change::Set { pod: Arc::clone(pod), status: Arc::clone(status), added: false });
            }
        }
    }

    /// What becomes of pods, from now on.
    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    fn tell(&self, change: impl FnOnce() -> Change) {
        if self.changes.receiver_count() > 0 {
            // Who has gone in the meantime need not be told.
            drop(self.changes.send(change()));
        }
    }

    /// Nothing of the pod is left: it may be deleted.
    pub fn finished(&self, pod: &Arc<Pod>) {
        let mut entries = self.entries.lock();
        let entry = entries.entry(pod::uid(pod).to_owned()).or_insert_with(|| Entry::new(pod));
        entry.pod = Arc::clone(pod);
        entry.finished = true;
        self.dirty.notify_one();
    }

    /// The pod is gone from its source.
    pub fn forget(&self, pod: &Pod) {
        if let Some(entry) = self.entries.lock().remove(pod::uid(pod)) {
            self.tell(|| Change::Gone(entry.pod));
        }
    }

    /// A static pod's mirror; one that is new has no status yet.
    pub fn mirrored(&self, uid: &str, mirror: &Arc<Pod>) {
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(uid) else { return };
        if entry.mirror.as_ref().map(|m| pod::uid(m)) != Some(pod::uid(mirror)) {
            entry.mirror = Some(Arc::clone(mirror));
            entry.sent = None;
            self.dirty.notify_one();
        }
    }

    /// The newest status of a pod.
    #[must_use]
    pub fn get(&self, uid: &str) -> Option<Arc<PodStatus>> {
        self.entries.lock().get(uid)?.status.clone()
    }

    /// Begins the next call. Pods that still wait for their containers come last: while there is more to tell, a newer
    /// status of theirs often comes before their turn does.
    fn begin(&self, now: Instant) -> Option<Call> {
        let mut entries = self.entries.lock();
        let due = |entry: &&mut Entry| {
            !entry.under_way && entry.held_until.is_none_or(|until| until <= now) && entry.call().is_some()
        };
        let entry = entries.values_mut().filter(due).min_by_key(|entry| entry.is_pending())?;
        entry.under_way = true;
        entry.call()
    }

    /// Ends a call: what it told need not be told again, or it is made again, but not before `again`, so that others are
    /// not held up by it.
    fn end(&self, call: Call, again: Option<Instant>) {
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(call.key()) else { return };
        entry.under_way = false;
        entry.held_until = again;
        match call {
            _ if again.is_some() => {}
            Call::Patch { status, .. } => {
                entry.sent = Some(status);
                if let Some(since) = entry.since {
                    metrics::get().status_sync.observe(since.elapsed().as_secs_f64());
                }
                // What came in the meantime is still to be told.
                entry.since = entry.since.filter(|_| entry.sent != entry.status);
            }
            Call::Delete { .. } => entry.deleted = true,
        }
    }

    /// Sends statuses until the drain.
    pub fn run(self: &Arc<Self>, client: Client, tasks: &Tasks) {
        let (this, drain) = (Arc::clone(self), tasks.drain());
        tasks.spawn("pod-status", async move {
            tokio::select! {
                () = drain.cancelled() => {}
                () = this.send_all(client) => {}
            }
        });
    }

    async fn send_all(&self, client: Client) {
        let mut under_way = FuturesUnordered::new();
        loop {
            while under_way.len() < AT_ONCE
                && let Some(call) = self.begin(Instant::now())
            {
                under_way.push(make(&client, call));
            }
            tokio::select! {
                Some((call, again)) = under_way.next() => self.end(call, again),
                () = self.dirty.notified() => {}
                // Those that were put off are due again without a new status.
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }
}

impl Entry {
    fn new(pod: &Arc<Pod>) -> Self {
        Self {
            pod: Arc::clone(pod),
            status: None,
            sent: None,
            since: None,
            finished: false,
            deleted: false,
            under_way: false,
            mirror: None,
            held_until: None,
        }
    }

    /// What there is to tell.
    fn call(&self) -> Option<Call> {
        let target = if pod::is_static(&self.pod) { self.mirror.as_ref()? } else { &self.pod };
        if let Some(status) = self.status.as_ref().filter(|s| self.sent.as_ref() != Some(*s)) {
            return Some(Call::Patch {
                key: pod::uid(&self.pod).to_owned(),
                pod: Arc::clone(target),
                sent: self.sent.clone(),
                status: Arc::clone(status),
            });
        }
        let deletes = self.finished && !self.deleted && self.pod.metadata.deletion_timestamp.is_some();
        deletes.then(|| Call::Delete { pod: Arc::clone(&self.pod) })
    }

    fn is_pending(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Pending"))
    }
}

/// Makes a call; answers when it is to be made again, if so.
async fn make(client: &Client, call: Call) -> (Call, Option<Instant>) {
    let again = match send(client, &call).await {
        Ok(()) => None,
        // The pod is gone, or another of its name is there: nothing is left to say. The pod is forgotten once its
        // source says so, too; until then, a deletion that was refused is asked for again.
        Err(kube::Error::Api(status)) if call.is_pointless_after(status.code) => None,
        Err(error) => {
            tracing::warn!(%error, "cannot send the pod's status");
            Some(Instant::now() + RETRY)
        }
    };
    (call, again)
}

async fn send(client: &Client, call: &Call) -> Result<(), kube::Error> {
    match call {
        Call::Patch { pod, sent, status, .. } => {
            let api: Api<Pod> = Api::namespaced(client.clone(), pod::namespace(pod));
            let before = sent.as_deref().or(pod.status.as_ref());
            let body = patch::status(pod, before, status);
            api.patch_status(pod::name(pod), &PatchParams::default(), &Patch::Strategic(&body)).await?;
        }
        Call::Delete { pod } => {
            let api: Api<Pod> = Api::namespaced(client.clone(), pod::namespace(pod));
            api.delete(pod::name(pod), &pod::at_once(pod)).await?;
        }
    }
    Ok(())
}
