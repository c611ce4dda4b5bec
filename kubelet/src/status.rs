//! Pod statuses on their way to the API server: the newest one of each pod is sent, older ones are skipped.
//!
//! A pod whose deletion has been asked for and of which nothing is left is deleted here, with grace period 0 and its uid
//! as a condition. Making a status is in `generate`, putting it into a patch in `patch`.

pub mod generate;
pub mod patch;

use std::{collections::HashMap, sync::Arc, time::Duration};

use component_base::task::Tasks;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use crate::pod;

/// How long after a failed call it is made again.
const RETRY: Duration = Duration::from_secs(2);

struct Entry {
    pod: Arc<Pod>,
    status: Option<Arc<PodStatus>>,
    sent: Option<Arc<PodStatus>>,
    finished: bool,
    deleted: bool,
    /// The API server's reflection of a static pod: its status goes there.
    mirror: Option<Arc<Pod>>,
    /// After a failed call: not before.
    held_until: Option<Instant>,
}

/// The newest status of every pod.
#[derive(Default)]
pub struct Statuses {
    entries: Mutex<HashMap<String, Entry>>,
    dirty: Notify,
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
            entry.status = Some(status);
            self.dirty.notify_one();
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
        self.entries.lock().remove(pod::uid(pod));
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

    fn next(&self, now: Instant) -> Option<Call> {
        let entries = self.entries.lock();
        for entry in entries.values().filter(|e| e.held_until.is_none_or(|until| until <= now)) {
            let target = if pod::is_static(&entry.pod) { entry.mirror.as_ref() } else { Some(&entry.pod) };
            let Some(target) = target else { continue };
            if let Some(status) = entry.status.as_ref().filter(|s| entry.sent.as_ref() != Some(*s)) {
                return Some(Call::Patch {
                    key: pod::uid(&entry.pod).to_owned(),
                    pod: Arc::clone(target),
                    sent: entry.sent.clone(),
                    status: Arc::clone(status),
                });
            }
            if entry.finished && !entry.deleted && entry.pod.metadata.deletion_timestamp.is_some() {
                return Some(Call::Delete { pod: Arc::clone(&entry.pod) });
            }
        }
        None
    }

    fn done(&self, call: Call) {
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(call.key()) else { return };
        match call {
            Call::Patch { status, .. } => entry.sent = Some(status),
            Call::Delete { .. } => entry.deleted = true,
        }
    }

    /// Puts a pod off after a failed call, so that others are not held up by it.
    fn hold(&self, call: &Call, until: Instant) {
        if let Some(entry) = self.entries.lock().get_mut(call.key()) {
            entry.held_until = Some(until);
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
        loop {
            let Some(call) = self.next(Instant::now()) else {
                // Those that were put off are due again without a new status.
                let _woken = tokio::time::timeout(RETRY, self.dirty.notified()).await.is_ok();
                continue;
            };
            match send(&client, &call).await {
                Ok(()) => self.done(call),
                // The pod is gone, or another of its name is there: nothing is left to say. The pod is forgotten once its
                // source says so, too; until then, a deletion that was refused is asked for again.
                Err(kube::Error::Api(status)) if call.is_pointless_after(status.code) => self.done(call),
                Err(error) => {
                    tracing::warn!(%error, "cannot send the pod's status");
                    self.hold(&call, Instant::now() + RETRY);
                }
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
            finished: false,
            deleted: false,
            mirror: None,
            held_until: None,
        }
    }
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
