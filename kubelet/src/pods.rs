//! The pods of this node: what the sources want, and one worker for each.
//!
//! Sources call [`Pods::set`] with everything they want; what is missing from the next call has to end. A static pod waits
//! for an older one of the same name to be gone, so no two of them ever run at once; a pod that comes back under its uid waits for
//! the end of the one before.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::{
    allocation,
    events::{Severity, pod_reference},
    metrics,
    node::features,
    pod,
    starts::STARTS,
    worker::{End, Seen, Shared, Wanted, Worker},
};

/// Where a pod comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The API server.
    Api,
    /// A manifest on the node.
    File,
    /// A manifest elsewhere.
    Http,
}

impl Source {
    /// Its pods are static: the API server has but mirrors of them.
    fn is_of_manifests(self) -> bool {
        self != Self::Api
    }
}

struct Running {
    source: Source,
    wanted: watch::Sender<Wanted>,
    nudge: Arc<Notify>,
    seen: Arc<Seen>,
}

/// The pods of this node.
pub struct Pods {
    shared: Arc<Shared>,
    running: Mutex<HashMap<String, Running>>,
    /// Pods that wait for another one to be gone: static pods for one of their name, others for one of their uid.
    waiting: Mutex<Vec<(Source, Arc<Pod>)>>,
    synced: Mutex<HashMap<Source, ()>>,
    expected: Vec<Source>,
}

impl Pods {
    /// No pods yet; `expected` sources must have spoken before anything counts as orphaned.
    #[must_use]
    pub fn new(shared: Arc<Shared>, expected: Vec<Source>) -> Arc<Self> {
        let this = Arc::new(Self {
            shared,
            running: Mutex::default(),
            waiting: Mutex::default(),
            synced: Mutex::default(),
            expected,
        });
        if this.shared.pods.set(Arc::downgrade(&this)).is_err() {
            tracing::error!("there is more than one list of pods");
        }
        this
    }

    /// Everything a source wants.
    pub fn set(self: &Arc<Self>, source: Source, pods: Vec<Arc<Pod>>) {
        let uids: Vec<&str> = pods.iter().map(|p| pod::uid(p)).collect();
        for (uid, running) in self.running.lock().iter().filter(|(_, r)| r.source == source) {
            if !uids.contains(&uid.as_str()) {
                running.wanted.send_if_modified(gone);
            }
        }
        self.waiting.lock().retain(|(of, p)| *of != source || uids.contains(&pod::uid(p)));
        for pod in &pods {
            self.upsert(source, Arc::clone(pod));
        }
        self.synced.lock().insert(source, ());
    }

    /// One pod is new or has changed.
    pub fn upsert(self: &Arc<Self>, source: Source, pod: Arc<Pod>) {
        if source == Source::Api && pod::is_mirror(&pod) {
            return;
        }
        let pod = features::understood(pod, self.shared.gates);
        self.place(source, pod, &mut self.running.lock());
    }

    /// Nobody else may find the uid or the name free in the meantime, so who calls this has the list.
    fn place(self: &Arc<Self>, source: Source, pod: Arc<Pod>, all: &mut HashMap<String, Running>) {
        match turn(all, source, &pod) {
            Turn::Starts => {
                STARTS.follow(&pod);
                self.start(source, pod, all);
            }
            Turn::Waits => wait(&mut self.waiting.lock(), source, pod),
            Turn::Changes(running) => self.change(running, pod),
        }
    }

    fn change(&self, running: &Running, pod: Arc<Pod>) {
        STARTS.seen(&pod, Timestamp::now());
        running.wanted.send_if_modified(|wanted| {
            if !is_older(&pod, &wanted.pod) {
                allocation::count_resizes(&wanted.pod, &pod);
                self.tell_missing(&wanted.pod, &pod);
            }
            // The list of everything may have been made before a change that was told in the meantime.
            if is_older(&pod, &wanted.pod) {
                return false;
            }
            let wakes = wakes(&wanted.pod, &pod);
            if !wakes {
                self.shared.allocations.follow(&pod);
                self.shared.statuses.follow(&pod);
            }
            wanted.pod = pod;
            wakes
        });
    }

    /// Tells that a newer version of a pod needs what this node cannot.
    fn tell_missing(&self, old: &Pod, new: &Pod) {
        if let Some(text) = features::missing_for_change(old, new, self.shared.gates) {
            tracing::warn!(pod = %pod::display(new), "{text}");
            let reason = "FailedNodeDeclaredFeaturesCheck";
            self.shared.events.send(pod_reference(new), Severity::Warning, reason, &text);
        }
    }

    /// A pod is gone from its source.
    pub fn remove(&self, uid: &str) {
        self.waiting.lock().retain(|(_, pod)| pod::uid(pod) != uid);
        if let Some(running) = self.running.lock().get(uid) {
            running.wanted.send_if_modified(gone);
        }
    }

    /// Ends a pod from within, as an eviction does; one that ends already does so in no more than the time given here.
    pub fn end(&self, uid: &str, end: End) {
        if let Some(running) = self.running.lock().get(uid) {
            running.wanted.send_if_modified(|wanted| {
                let before = wanted.end.clone();
                wanted.end.get_or_insert_default().join(end);
                wanted.end != before
            });
        }
    }

    /// The runtime changed something of this pod; `now` is what there is of it. A worker that knows that is left alone.
    pub fn changed(&self, uid: &str, now: &BTreeMap<&str, i32>) {
        if let Some(running) = self.running.lock().get(uid)
            && !running.seen.is(now)
        {
            running.nudge.notify_one();
        }
    }

    /// Something that this pod waits for may have come.
    pub fn nudge(&self, uid: &str) {
        if let Some(running) = self.running.lock().get(uid) {
            running.nudge.notify_one();
        }
    }

    /// Wakes every worker: the node's state has changed.
    pub fn nudge_all(&self) {
        self.running.lock().values().for_each(|r| r.nudge.notify_one());
    }

    /// This pod has a worker.
    #[must_use]
    pub fn knows(&self, uid: &str) -> bool {
        self.running.lock().contains_key(uid)
    }

    /// The pod has ended and its status says so.
    #[must_use]
    pub fn has_ended(&self, uid: &str) -> bool {
        let status = self.shared.statuses.get(uid);
        matches!(status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
    }

    /// Every source has said what it wants at least once.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        let synced = self.synced.lock();
        self.expected.iter().all(|s| synced.contains_key(s))
    }

    /// All pods with a worker, each with its newest status.
    #[must_use]
    pub fn list(&self) -> Vec<Pod> {
        let mut pods: Vec<Pod> = self.current().iter().map(|pod| self.with_status(pod)).collect();
        pods.sort_by(|a, b| (pod::namespace(a), pod::name(a)).cmp(&(pod::namespace(b), pod::name(b))));
        pods
    }

    /// All pods with a worker, as their sources have them, in no order: for those who look at all of them often.
    #[must_use]
    pub fn current(&self) -> Vec<Arc<Pod>> {
        self.running.lock().values().map(|r| Arc::clone(&r.wanted.borrow().pod)).collect()
    }

    /// How many pods are worked on: by how far they are, whether they are still wanted, and whether they are static.
    #[must_use]
    pub fn working(&self) -> BTreeMap<(&'static str, &'static str, bool), i64> {
        let mut counts = BTreeMap::new();
        for running in self.running.lock().values() {
            let wanted = running.wanted.borrow();
            let ends = wanted.end.is_some() || wanted.pod.metadata.deletion_timestamp.is_some();
            let gone = wanted.end.as_ref().is_some_and(|end| end.gone);
            let lifecycle = if ends { "terminating" } else { "sync" };
            let config = if gone { "orphan" } else { "desired" };
            *counts.entry((lifecycle, config, pod::is_static(&wanted.pod))).or_default() += 1;
        }
        counts
    }

    /// The pod of this name. One that is gone may still be worked on when another has its name already.
    #[must_use]
    pub fn named(&self, namespace: &str, name: &str) -> Option<Pod> {
        let all: Vec<Wanted> = self.running.lock().values().map(|r| r.wanted.borrow().clone()).collect();
        let found =
            newest(all.iter().filter(|w| pod::namespace(&w.pod) == namespace && pod::name(&w.pod) == name));
        found.map(|wanted| self.with_status(&wanted.pod))
    }

    fn with_status(&self, pod: &Pod) -> Pod {
        let mut pod = pod.clone();
        if let Some(status) = self.shared.statuses.get(pod::uid(&pod)) {
            pod.status = Some(PodStatus::clone(&status));
        }
        pod
    }

    fn start(self: &Arc<Self>, source: Source, pod: Arc<Pod>, all: &mut HashMap<String, Running>) {
        let uid = pod::uid(&pod).to_owned();
        tracing::info!(pod = %pod::display(&pod), "pod worker starts");
        let (wanted, updates) = watch::channel(Wanted { pod, end: None });
        let containers = pod::spec(&wanted.borrow().pod).containers.len();
        metrics::get().containers_per_pod.observe(f64::from(u32::try_from(containers).unwrap_or(u32::MAX)));
        let since = Instant::now();
        let (nudge, seen) = (Arc::new(Notify::new()), Arc::<Seen>::default());
        let (this, drain) = (Arc::clone(self), self.shared.tasks.drain());
        let (shared, wakes, known) = (Arc::clone(&self.shared), Arc::clone(&nudge), Arc::clone(&seen));
        all.insert(uid.clone(), Running { source, wanted, nudge, seen });
        self.shared.tasks.spawn_contained("pod", async move {
            metrics::get().pod_worker_start.observe(since.elapsed().as_secs_f64());
            let attempt = || {
                let (wakes, known) = (Arc::clone(&wakes), Arc::clone(&known));
                let worker = Worker::new(Arc::clone(&shared), updates.clone(), wakes, known);
                Box::pin(worker.run(drain.clone()))
            };
            let pause = || drain.run_until_cancelled(tokio::time::sleep(AFTER_PANIC));
            until_through(&uid, attempt, || async { pause().await.is_some() }).await;
            this.ended(&uid);
        });
    }

    /// A worker is through: what waited for its name may start.
    fn ended(self: &Arc<Self>, uid: &str) {
        let mut all = self.running.lock();
        all.remove(uid);
        STARTS.forget(uid);
        let waiting = std::mem::take(&mut *self.waiting.lock());
        for (source, pod) in waiting {
            if pod::uid(&pod) == uid {
                let of = if source.is_of_manifests() { "true" } else { "" };
                metrics::get().restarted_pods.with_label_values(&[of]).inc();
            }
            self.place(source, pod, &mut all);
        }
    }
}

/// What becomes of a pod that a source has.
enum Turn<'a> {
    /// It has a worker, which is told.
    Changes(&'a Running),
    /// Another one has to end first.
    Waits,
    /// It gets a worker.
    Starts,
}

/// Decides that. A pod that is gone from its source and comes back under its uid is another one, as is that of a manifest
/// which was taken away and put back.
fn turn<'a>(all: &'a HashMap<String, Running>, source: Source, pod: &Pod) -> Turn<'a> {
    if let Some(running) = all.get(pod::uid(pod)) {
        let gone = running.wanted.borrow().end.as_ref().is_some_and(|end| end.gone);
        return if gone { Turn::Waits } else { Turn::Changes(running) };
    }
    let mut others = all.values().filter(|running| running.source.is_of_manifests());
    let is_taken = others.any(|running| {
        let other = &running.wanted.borrow().pod;
        pod::namespace(other) == pod::namespace(pod) && pod::name(other) == pod::name(pod)
    });
    if source.is_of_manifests() && is_taken { Turn::Waits } else { Turn::Starts }
}

/// Those that wait start in the order in which they came, whatever has changed about them since.
fn wait(waiting: &mut Vec<(Source, Arc<Pod>)>, source: Source, pod: Arc<Pod>) {
    match waiting.iter_mut().find(|(_, other)| pod::uid(other) == pod::uid(&pod)) {
        Some(place) => *place = (source, pod),
        None => waiting.push((source, pod)),
    }
}

/// How long a pod is left alone after its worker has panicked.
const AFTER_PANIC: Duration = Duration::from_secs(1);

/// Runs a worker to its end. One that panics is replaced by a new one, which finds out from the runtime how things stand,
/// so that no pod is ever without a worker. `pause` comes before each new one and says whether to go on.
async fn until_through<W, P>(uid: &str, mut attempt: impl FnMut() -> W, mut pause: impl FnMut() -> P)
where
    W: Future<Output = ()>,
    P: Future<Output = bool>,
{
    while AssertUnwindSafe(attempt()).catch_unwind().await.is_err() {
        tracing::error!(uid, "the pod's worker panicked, a new one takes over");
        if !pause().await {
            return;
        }
    }
}

/// The first was in the API server before the second, as far as both have been there.
fn is_older(pod: &Pod, than: &Pod) -> bool {
    // What is no number was never in the API server, and is compared with nothing.
    let revision = |pod: &Pod| pod.metadata.resource_version.as_deref()?.parse::<u64>().ok();
    revision(pod).zip(revision(than)).is_some_and(|(a, b)| a < b)
}

/// The conditions that the kubelet itself writes.
const OWN_CONDITIONS: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// Whether a new version of a pod calls for a round: not when it differs only by what the kubelet wrote itself.
fn wakes(old: &Pod, new: &Pod) -> bool {
    let foreign = |pod: &Pod| -> Vec<(String, String)> {
        let all = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        all.filter(|c| !OWN_CONDITIONS.contains(&c.type_.as_str()))
            .map(|c| (c.type_.clone(), c.status.clone()))
            .collect()
    };
    let (a, b) = (&old.metadata, &new.metadata);
    a.deletion_timestamp != b.deletion_timestamp
        || a.deletion_grace_period_seconds != b.deletion_grace_period_seconds
        || a.labels != b.labels
        || a.annotations != b.annotations
        || old.spec != new.spec
        || foreign(old) != foreign(new)
}

fn gone(wanted: &mut Wanted) -> bool {
    let end = wanted.end.get_or_insert_default();
    !std::mem::replace(&mut end.gone, true)
}

/// Seconds since the pod was made, for the order in which pods are taken on.
#[must_use]
pub fn created(pod: &Pod) -> Timestamp {
    pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0)
}

/// Of pods of one name the one that is meant: that its source has, that is not on its way out, that was made last.
fn newest<'a>(all: impl Iterator<Item = &'a Wanted>) -> Option<&'a Wanted> {
    all.max_by_key(|wanted| {
        let gone = wanted.end.as_ref().is_some_and(|end| end.gone);
        let made = wanted.pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (!gone, !wanted.ends(), made)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{status::generate::Verdict, testing};

    #[tokio::test]
    async fn a_worker_that_panics_is_replaced_until_it_comes_through() {
        let run = |panics: usize, pauses: usize| async move {
            let (mut begun, mut paused) = (0, 0);
            let attempt = || {
                begun += 1;
                let fails = begun <= panics;
                async move { assert!(!fails, "a bug") }
            };
            until_through("u", attempt, || {
                paused += 1;
                std::future::ready(paused < pauses)
            })
            .await;
            (begun, paused)
        };
        assert_eq!(run(0, 9).await, (1, 0));
        assert_eq!(run(2, 9).await, (3, 2));
        assert_eq!(run(9, 2).await, (2, 2));
    }

    fn running(source: Source, pod: Pod, end: Option<End>) -> (String, Running) {
        let uid = pod::uid(&pod).to_owned();
        let (wanted, _) = watch::channel(Wanted { pod: Arc::new(pod), end });
        (uid, Running { source, wanted, nudge: Arc::default(), seen: Arc::default() })
    }

    fn with_uid(name: &str, uid: &str) -> Pod {
        testing::pod(name).with(|p| p.metadata.uid = Some(uid.to_owned())).build()
    }

    #[test]
    fn a_pod_starts_when_no_other_one_has_its_uid_or_its_manifests_name() {
        let gone = || Some(End { gone: true, ..End::default() });
        let all = HashMap::from([
            running(Source::File, with_uid("a", "1"), None),
            running(Source::Http, with_uid("b", "2"), gone()),
            running(Source::Api, with_uid("c", "3"), Some(End::default())),
            running(Source::Api, with_uid("d", "4"), gone()),
        ]);
        let turn = |source, name: &str, uid: &str| match turn(&all, source, &with_uid(name, uid)) {
            Turn::Changes(_) => "changes",
            Turn::Waits => "waits",
            Turn::Starts => "starts",
        };
        for (source, name, uid, expected) in [
            (Source::File, "a", "1", "changes"),
            (Source::File, "a", "9", "waits"),
            (Source::File, "b", "2", "waits"),
            (Source::File, "b", "9", "waits"),
            (Source::Api, "a", "9", "starts"),
            (Source::File, "c", "9", "starts"),
            (Source::Api, "c", "9", "starts"),
            (Source::Api, "c", "3", "changes"),
            (Source::Api, "d", "4", "waits"),
            (Source::File, "e", "9", "starts"),
        ] {
            assert_eq!(turn(source, name, uid), expected, "{source:?} {name} {uid}");
        }
    }

    #[test]
    fn who_waits_keeps_its_place() {
        let mut waiting = Vec::new();
        for (name, uid) in [("a", "1"), ("b", "2"), ("c", "1")] {
            wait(&mut waiting, Source::File, Arc::new(with_uid(name, uid)));
        }
        let names: Vec<&str> = waiting.iter().map(|(_, pod)| pod::name(pod)).collect();
        assert_eq!(names, ["c", "b"]);
    }

    #[test]
    fn time_only_gets_shorter() {
        let end = |grace, reason: Option<&str>, gone| {
            let verdict = reason.map(|reason| Verdict {
                reason: reason.to_owned(),
                message: String::new(),
                disrupted: false,
            });
            End { grace, verdict, gone }
        };
        for (deletion, spec, ends, seconds, reason) in [
            (None, Some(9), vec![], 9, None),
            (Some(5), Some(9), vec![], 5, None),
            (Some(20), Some(9), vec![], 20, None),
            (Some(0), Some(9), vec![], 1, None),
            (None, Some(0), vec![end(None, None, true)], 1, None),
            (None, None, vec![], 30, None),
            (Some(5), None, vec![end(Some(7), Some("Evicted"), false)], 5, Some("Evicted")),
            (
                Some(5),
                None,
                vec![end(None, None, true), end(Some(2), Some("Evicted"), false)],
                2,
                Some("Evicted"),
            ),
            (None, None, vec![end(Some(3), Some("a"), false), end(Some(8), None, true)], 3, Some("a")),
            (None, None, vec![end(Some(3), Some("a"), false), end(Some(0), Some("b"), false)], 1, Some("b")),
        ] {
            let pod = testing::pod("a").with(|p| {
                p.metadata.deletion_grace_period_seconds = deletion;
                p.spec.as_mut().unwrap().termination_grace_period_seconds = spec;
            });
            let mut wanted = Wanted { pod: Arc::new(pod.build()), end: None };
            let gone = ends.iter().any(|end| end.gone);
            for end in ends {
                wanted.end.get_or_insert_default().join(end);
            }
            let verdict = wanted.end.as_ref().and_then(|end| end.verdict.as_ref());
            assert_eq!(verdict.map(|v| v.reason.as_str()), reason);
            assert_eq!(wanted.end.as_ref().is_some_and(|end| end.gone), gone);
            assert_eq!(wanted.grace(), Duration::from_secs(seconds), "{deletion:?} {spec:?}");
        }
    }

    #[test]
    fn what_is_older_is_told_by_its_revision() {
        let at = |revision: Option<&str>| {
            testing::pod("a").with(|p| p.metadata.resource_version = revision.map(str::to_owned)).build()
        };
        for (pod, than, older) in [
            (Some("9"), Some("10"), true),
            (Some("10"), Some("9"), false),
            (Some("9"), Some("9"), false),
            (None, Some("9"), false),
            (Some("9"), None, false),
            (Some("x"), Some("9"), false),
        ] {
            assert_eq!(is_older(&at(pod), &at(than)), older, "{pod:?} {than:?}");
        }
    }

    #[test]
    fn own_writes_wake_nobody() {
        let old = testing::pod("a").container("c").build();
        let change = |edit: &dyn Fn(&mut Pod)| {
            let mut new = old.clone();
            edit(&mut new);
            wakes(&old, &new)
        };
        let condition = |kind: &str| k8s_openapi::api::core::v1::PodCondition {
            type_: kind.into(),
            status: "True".into(),
            ..Default::default()
        };
        let with = |kind: &str| {
            let condition = condition(kind);
            change(&move |p| {
                p.metadata.resource_version = Some("9".into());
                p.status.get_or_insert_default().conditions = Some(vec![condition.clone()]);
            })
        };
        assert!(!with("Ready"));
        assert!(with("example.com/gate"));
        assert!(change(&|p| p.metadata.deletion_grace_period_seconds = Some(1)));
        assert!(change(&|p| p.spec.as_mut().unwrap().containers[0].image = Some("other".into())));
    }

    #[test]
    fn of_pods_of_one_name_the_one_that_is_there_is_meant() {
        let wanted = |uid: &str, made: i64, end: Option<End>| {
            let pod = testing::pod("a").with(|p| {
                p.metadata.uid = Some(uid.to_owned());
                p.metadata.creation_timestamp =
                    Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(testing::at(made)));
            });
            Wanted { pod: Arc::new(pod.build()), end }
        };
        let gone = || Some(End { gone: true, ..End::default() });
        for (all, uid) in [
            (vec![wanted("old", 1, gone()), wanted("new", 1, None)], "new"),
            (vec![wanted("new", 2, None), wanted("old", 1, gone())], "new"),
            (vec![wanted("old", 3, Some(End::default())), wanted("new", 2, None)], "new"),
            (vec![wanted("old", 1, gone()), wanted("older", 0, gone())], "old"),
        ] {
            let found = newest(all.iter()).map(|wanted| pod::uid(&wanted.pod).to_owned());
            assert_eq!(found.as_deref(), Some(uid));
        }
        assert!(newest(std::iter::empty()).is_none());
    }
}
