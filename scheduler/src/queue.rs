//! The scheduling queue: what to try next, what backs off, what waits for an event.
//!
//! Plain data with time passed in. Contract: upstream's scheduling queue (active, back-off and
//! unschedulable pods; queueing hints, KEP-4247): back-off 1 s doubling to 10 s, forgotten waits end
//! after 5 minutes.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use crate::{
    extender,
    framework::{ClusterEvent, Plugin},
    model::PodInfo,
};

/// Back-off between attempts.
#[derive(Clone, Copy, Debug)]
pub struct BackOff {
    /// After the first failure.
    pub initial: Duration,
    /// Most.
    pub max: Duration,
    /// Longest a pod waits for an event before it is tried again anyway.
    pub forgotten: Duration,
    /// Whether pods that were refused are tried before their time while no other pod is ready (KEP-5142).
    pub early: bool,
    /// Whether pods of groups are tried again after their back-off, whatever happens: no event tells about a whole group.
    pub groups: bool,
}

impl BackOff {
    /// When a back-off is over that lasts until then. Where pods are tried early they are so in the order of whole seconds,
    /// and those of one second are over with it.
    fn end(&self, until: Instant) -> Instant {
        if self.early { Duration::from_secs(until.as_secs() + 1) } else { until }
    }
}

/// How often placing a pod has failed: what its back-off goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// Attempts in which somebody refused it.
    pub refusals: u32,
    /// Errors since it was refused last. While there are some, they alone count.
    pub errors: u32,
}

impl Failures {
    fn count(self) -> u32 {
        if self.errors > 0 { self.errors } else { self.refusals }
    }
}

/// Time since an arbitrary start; monotonic.
pub type Instant = Duration;

/// Order of the active queue: higher priority first, then first come.
type Rank = (Reverse<i32>, Instant, u64);

/// Order of pods that back off and are tried before their time: by the second in which it ends, then as active ones.
type EarlyRank = (u64, Rank);

#[derive(Clone, Debug)]
struct Entry {
    pod: Arc<PodInfo>,
    /// Failed attempts so far.
    attempts: u32,
    failures: Failures,
    /// When it first could be tried.
    added: Instant,
    /// When it came, or last failed: among pods of one priority those that failed last have to stand behind.
    since: Instant,
    /// Plugins that refused it last.
    refused_by: Vec<&'static str>,
    /// It is tried because nothing happened for long.
    forgotten: bool,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active(Rank),
    /// Until then; `early` is where it stands among those that are tried before, if it is one of them.
    BackOff {
        until: Instant,
        early: Option<EarlyRank>,
    },
    Waiting,
    /// Refused by a pre-enqueue plugin.
    Gated,
    /// Being decided on; events meanwhile are remembered.
    InFlight {
        /// An event that may help came while deciding.
        woken: bool,
    },
}

/// Pods waiting for a node.
pub struct Queue {
    entries: HashMap<String, Entry>,
    active: BTreeMap<Rank, String>,
    backing_off: BTreeSet<(Instant, String)>,
    /// Those of them that are tried while no other pod is ready. Errors are no fault of the pod, and keep their time.
    early: BTreeMap<EarlyRank, String>,
    back_off: BackOff,
    sequence: u64,
    incoming: Incoming,
}

/// How many pods came to which queue because of what, for the `scheduler_queue_incoming_pods_total` metric.
pub type Incoming = BTreeMap<(&'static str, &'static str), u64>;

/// A pod came to be.
const POD_ADDED: &str = "UnschedulablePodAdd";
/// A pod that waits changed.
const POD_UPDATED: &str = "UnschedulablePodUpdate";
const FAILED: &str = "ScheduleAttemptFailure";
const BACKED_OFF: &str = "BackoffComplete";
const EARLY: &str = "PopFromBackoffQ";
const FORGOTTEN: &str = "UnschedulableTimeout";

/// Counts for the `scheduler_pending_pods` metric.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Ready to be tried.
    pub active: usize,
    /// Waiting for their back-off.
    pub backoff: usize,
    /// Waiting for an event.
    pub unschedulable: usize,
    /// Gated.
    pub gated: usize,
}

impl Default for BackOff {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { initial: seconds(1), max: seconds(10), forgotten: seconds(300), early: false, groups: false }
    }
}

impl Queue {
    /// An empty queue.
    pub fn new(back_off: BackOff) -> Self {
        Self {
            entries: HashMap::new(),
            active: BTreeMap::new(),
            backing_off: BTreeSet::new(),
            early: BTreeMap::new(),
            back_off,
            sequence: 0,
            incoming: Incoming::new(),
        }
    }

    /// Adds a new pod, or takes over the new state of one that waits.
    /// `gated` is the plugin that holds it back, if one does.
    pub fn add(&mut self, pod: Arc<PodInfo>, gated: Option<&'static str>, now: Instant) {
        let uid = pod.uid.clone();
        match self.entries.get_mut(&uid) {
            None => {
                let entry = Entry {
                    pod,
                    attempts: 0,
                    failures: Failures::default(),
                    added: now,
                    since: now,
                    refused_by: gated.into_iter().collect(),
                    forgotten: false,
                    place: Place::Gated,
                };
                self.entries.insert(uid.clone(), entry);
                match gated {
                    Some(_) => self.came("unschedulable", POD_ADDED),
                    None => self.activate(&uid, POD_ADDED),
                }
            }
            Some(entry) => {
                entry.pod = pod;
                if entry.place == Place::Gated && gated.is_none() {
                    entry.added = now;
                    self.activate(&uid, POD_UPDATED);
                }
            }
        }
    }

    /// A pod that had left for a node comes back unbound, which is an error more: it backs off as after so many failed
    /// `attempts`. `waited` is how long it had waited by then.
    pub fn put_back(
        &mut self,
        pod: Arc<PodInfo>,
        (attempts, failures): (u32, Failures),
        waited: Duration,
        now: Instant,
    ) {
        let uid = pod.uid.clone();
        self.remove(&uid);
        let entry = Entry {
            pod,
            attempts,
            failures: Failures { errors: failures.errors + 1, ..failures },
            added: now.saturating_sub(waited),
            since: now,
            refused_by: Vec::new(),
            forgotten: false,
            place: Place::InFlight { woken: false },
        };
        self.entries.insert(uid.clone(), entry);
        self.begin_back_off(&uid, now, FAILED);
    }

    /// Forgets a pod that was bound, deleted, or taken by another scheduler.
    pub fn remove(&mut self, uid: &str) {
        if let Some(entry) = self.entries.remove(uid) {
            self.unlink(&entry);
        }
    }

    /// Whether the queue knows the pod.
    pub fn contains(&self, uid: &str) -> bool {
        self.entries.contains_key(uid)
    }

    /// The next pod to try, with the number of this attempt and how long it has waited in all.
    pub fn pop(&mut self, now: Instant) -> Option<(Arc<PodInfo>, u32, Duration)> {
        self.end_waits(now);
        if self.active.is_empty()
            && let Some((_, uid)) = self.early.pop_first()
        {
            if let Some(Place::BackOff { until, .. }) = self.entries.get(&uid).map(|entry| entry.place) {
                self.backing_off.remove(&(until, uid.clone()));
            }
            self.activate(&uid, EARLY);
        }
        let (_, uid) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&uid)?;
        entry.place = Place::InFlight { woken: false };
        Some((entry.pod.clone(), entry.attempts + 1, now.saturating_sub(entry.added)))
    }

    /// Whether a pod is tried because no event came that would help.
    pub fn was_forgotten(&self, uid: &str) -> bool {
        self.entries.get(uid).is_some_and(|entry| entry.forgotten)
    }

    /// How often placing a pod has failed.
    pub fn failures(&self, uid: &str) -> Failures {
        self.entries.get(uid).map(|entry| entry.failures).unwrap_or_default()
    }

    /// A certain pod out of its turn, as [`Queue::pop`] would give it, unless it is gated or being decided on.
    pub fn pop_pod(&mut self, uid: &str, now: Instant) -> Option<(Arc<PodInfo>, u32, Duration)> {
        let entry = self.entries.get(uid)?;
        if matches!(entry.place, Place::Gated | Place::InFlight { .. }) {
            return None;
        }
        let entry = entry.clone();
        self.unlink(&entry);
        let there = self.entries.get_mut(uid)?;
        there.place = Place::InFlight { woken: false };
        Some((entry.pod, entry.attempts + 1, now.saturating_sub(entry.added)))
    }

    /// A pod may not be tried any more, for what others do: this plugin holds it back.
    pub fn gate(&mut self, uid: &str, by: &'static str) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let before = entry.clone();
        entry.place = Place::Gated;
        entry.refused_by = vec![by];
        self.unlink(&before);
        self.came("unschedulable", FAILED);
    }

    /// A gated pod may be tried, because of something that happened to others.
    pub fn ungate(&mut self, uid: &str, event: &'static str, now: Instant) {
        if let Some(entry) = self.entries.get_mut(uid).filter(|entry| entry.place == Place::Gated) {
            if entry.attempts == 0 {
                entry.added = now;
            }
            self.activate(uid, event);
        }
    }

    /// The pod in flight found no node: it waits for an event one of `refused_by` cares about, or, when an
    /// event came meanwhile or nobody refused (an error), backs off.
    pub fn failed(&mut self, uid: &str, refused_by: Vec<&'static str>, now: Instant) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let woken = matches!(entry.place, Place::InFlight { woken: true });
        entry.attempts += 1;
        entry.failures = match refused_by.is_empty() {
            true => Failures { errors: entry.failures.errors + 1, ..entry.failures },
            false => Failures { refusals: entry.failures.refusals + 1, errors: 0 },
        };
        entry.forgotten = false;
        entry.since = now;
        let is_of_group = self.back_off.groups && entry.pod.group.is_some();
        let retry = woken || refused_by.is_empty() || is_of_group;
        entry.refused_by = refused_by;
        if retry {
            self.begin_back_off(uid, now, FAILED);
        } else {
            entry.place = Place::Waiting;
            self.came("unschedulable", FAILED);
        }
    }

    /// Something happened: wakes the pods it may help.
    pub fn event(&mut self, event: &ClusterEvent, plugins: &[&dyn Plugin], now: Instant) {
        // Who may be tried is not known here.
        drop(self.event_for(|_| true, event, plugins, now));
    }

    /// Something happened that only some pods are to know of. Gated ones that it may help are told of: they may be tried if
    /// nobody holds them back any more.
    pub fn event_for(
        &mut self,
        is_told: impl Fn(&PodInfo) -> bool,
        event: &ClusterEvent,
        plugins: &[&dyn Plugin],
        now: Instant,
    ) -> Vec<Arc<PodInfo>> {
        let woken: Vec<String> = self
            .entries
            .iter()
            .filter(|(_, e)| is_told(&e.pod) && helped(e, event, plugins))
            .map(|(uid, _)| uid.clone())
            .collect();
        let mut gated = Vec::new();
        for uid in woken {
            match self.entries.get(&uid) {
                Some(entry) if entry.place == Place::Gated => gated.push(entry.pod.clone()),
                _ => self.wake_for(&uid, now, event.label()),
            }
        }
        gated
    }

    fn wake_for(&mut self, uid: &str, now: Instant, event: &'static str) {
        match self.entries.get_mut(uid).map(|e| &mut e.place) {
            Some(Place::InFlight { woken }) => *woken = true,
            Some(Place::Waiting) => self.begin_back_off(uid, now, event),
            _ => {}
        }
    }

    /// When `pop` may have something new, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        let back_off = self.backing_off.first().map(|(at, _)| *at);
        let forgotten = self
            .entries
            .values()
            .filter(|e| e.place == Place::Waiting)
            .map(|e| e.since + self.back_off.forgotten);
        back_off.into_iter().chain(forgotten.min()).min()
    }

    /// Whether a pod can be popped without waiting.
    pub fn is_ready(&self) -> bool {
        !self.active.is_empty() || !self.early.is_empty()
    }

    /// Counts by place.
    pub fn pending(&self) -> Pending {
        let mut out = Pending::default();
        for entry in self.entries.values() {
            match entry.place {
                Place::Active(_) => out.active += 1,
                Place::BackOff { .. } => out.backoff += 1,
                Place::Waiting => out.unschedulable += 1,
                Place::Gated => out.gated += 1,
                Place::InFlight { .. } => {}
            }
        }
        out
    }

    /// How many pods each plugin refused last or holds back, by the scheduler they name, until they are tried again.
    pub fn refusals(&self) -> BTreeMap<(&'static str, &str), i64> {
        let mut out = BTreeMap::new();
        let waiting = |e: &&Entry| !matches!(e.place, Place::InFlight { .. });
        for entry in self.entries.values().filter(waiting) {
            for plugin in &entry.refused_by {
                *out.entry((*plugin, entry.pod.scheduler_name.as_str())).or_insert(0) += 1;
            }
        }
        out
    }

    /// What came since this was asked last.
    pub fn take_incoming(&mut self) -> Incoming {
        std::mem::take(&mut self.incoming)
    }

    fn came(&mut self, queue: &'static str, event: &'static str) {
        *self.incoming.entry((queue, event)).or_insert(0) += 1;
    }

    fn end_waits(&mut self, now: Instant) {
        while let Some((at, uid)) = self.backing_off.first().cloned() {
            if at > now {
                break;
            }
            self.backing_off.remove(&(at, uid.clone()));
            if let Some(Place::BackOff { early: Some(rank), .. }) = self.entries.get(&uid).map(|e| e.place) {
                self.early.remove(&rank);
            }
            self.activate(&uid, BACKED_OFF);
        }
        let after = self.back_off.forgotten;
        let forgotten = |e: &Entry| e.place == Place::Waiting && e.since + after <= now;
        let due: Vec<String> =
            self.entries.iter().filter(|(_, e)| forgotten(e)).map(|(u, _)| u.clone()).collect();
        for uid in due {
            if let Some(entry) = self.entries.get_mut(&uid) {
                entry.forgotten = true;
            }
            self.activate(&uid, FORGOTTEN);
        }
    }

    fn begin_back_off(&mut self, uid: &str, now: Instant, event: &'static str) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let count = entry.failures.count();
        let doubled = self.back_off.initial * 2u32.saturating_pow(count.saturating_sub(1).min(16));
        let until = self.back_off.end(entry.since + doubled.min(self.back_off.max));
        if count == 0 || self.back_off.max.is_zero() || until <= now {
            self.activate(uid, event);
        } else {
            self.sequence += 1;
            let rank = (Reverse(entry.pod.priority), entry.since, self.sequence);
            let early =
                (self.back_off.early && !entry.refused_by.is_empty()).then_some((until.as_secs(), rank));
            entry.place = Place::BackOff { until, early };
            self.backing_off.insert((until, uid.to_owned()));
            if let Some(rank) = early {
                self.early.insert(rank, uid.to_owned());
            }
            self.came("backoff", event);
        }
    }

    fn activate(&mut self, uid: &str, event: &'static str) {
        self.came("active", event);
        self.sequence += 1;
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let rank = (Reverse(entry.pod.priority), entry.since, self.sequence);
        entry.place = Place::Active(rank);
        self.active.insert(rank, uid.to_owned());
    }

    fn unlink(&mut self, entry: &Entry) {
        match entry.place {
            Place::Active(rank) => drop(self.active.remove(&rank)),
            Place::BackOff { until, early } => {
                self.backing_off.remove(&(until, entry.pod.uid.clone()));
                if let Some(rank) = early {
                    self.early.remove(&rank);
                }
            }
            _ => {}
        }
    }
}

fn helped(entry: &Entry, event: &ClusterEvent, plugins: &[&dyn Plugin]) -> bool {
    match entry.place {
        // Nobody knows what changes an extender's mind.
        Place::Waiting if entry.refused_by.contains(&extender::NAME) => true,
        Place::Waiting | Place::Gated => plugins
            .iter()
            .filter(|p| entry.refused_by.contains(&p.name()))
            .any(|p| p.wakes(&entry.pod, event)),
        // It is not known yet who will refuse: remember any event somebody cares about.
        Place::InFlight { woken: false } => plugins.iter().any(|p| p.wakes(&entry.pod, event)),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
