//! One priority level at work: requests enter, wait, get their seats, leave.

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    Work,
    lingering::{Lingering, Seats},
    metrics,
    queues::{Dispatched, Id, Queues, Queuing, Seen},
    sharing::Demand,
};
use crate::auth::Attributes;

/// How fast past demand is forgotten: what remains of it after each period.
const SMOOTHING: f64 = 0.977;

/// What a level may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Seats by its shares.
    pub(super) nominal: u32,
    /// Seats it never lends.
    pub(super) lower: u32,
    /// Seats it has at most, borrowed ones included.
    pub(super) upper: u32,
    /// Whether it has no limit at all.
    pub(super) is_exempt: bool,
    /// How requests wait; `None` turns them away instead.
    pub(super) queuing: Option<Queuing>,
}

/// A priority level.
pub(super) struct Level {
    pub(super) name: Arc<str>,
    pub(super) uid: Arc<str>,
    begun: Instant,
    state: Mutex<State>,
}

struct State {
    limits: Limits,
    /// Seats it has now.
    limit: u32,
    queues: Queues,
    waiting: HashMap<Id, oneshot::Sender<Dispatched>>,
    /// Who waits; those that need not are never here.
    asked: HashMap<Id, Asked>,
    next: Id,
    meter: Meter,
    /// Requests being served.
    running: usize,
    counts: Counts,
}

/// Who waits, for those who want to know.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) schema: Arc<str>,
    /// What tells its flow from others of the schema.
    pub(super) flow: String,
    pub(super) since: Timestamp,
    pub(super) attributes: Attributes,
}

/// What became of requests since the level is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) dispatched: u64,
    pub(super) rejected: u64,
    pub(super) timed_out: u64,
    pub(super) cancelled: u64,
}

/// A level as it is now.
pub(super) struct Dump {
    /// Queues, if it has any.
    pub(super) queues: Vec<Seen>,
    pub(super) running: usize,
    pub(super) counts: Counts,
    pub(super) waiting: HashMap<Id, Asked>,
}

/// Seats in use and wanted over time.
#[derive(Debug)]
struct Meter {
    since: Instant,
    at: Instant,
    now: f64,
    sum: f64,
    squares: f64,
    peak: f64,
    smoothed: f64,
}

/// A request that found no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused;

enum Placed {
    Running(Dispatched),
    Waiting(Id, oneshot::Receiver<Dispatched>),
    Refused(&'static str),
}

/// Seats held by a request; they are free again when it is dropped.
#[derive(Debug)]
pub struct Ticket {
    level: Arc<Level>,
    schema: Arc<str>,
    dispatched: Dispatched,
    begun: Instant,
    is_watch: bool,
    /// What it was taken to need, and who holds its seats after it.
    work: Option<(Work, Arc<Lingering>)>,
}

/// A place in a queue; given up when dropped.
struct Place<'a> {
    level: &'a Arc<Level>,
    id: Id,
    receiver: oneshot::Receiver<Dispatched>,
    /// Whether the wait was too long.
    is_over: bool,
}

impl Level {
    pub(super) fn new(name: &str, uid: &str, limits: Limits) -> Self {
        metrics::limits(name, &limits, limits.nominal);
        let now = Instant::now();
        Self {
            name: name.into(),
            uid: uid.into(),
            begun: now,
            state: Mutex::new(State {
                limits,
                limit: limits.nominal,
                queues: Queues::new(limits.queuing.unwrap_or(Queuing { queues: 1, hand: 1, length: 1 })),
                waiting: HashMap::new(),
                asked: HashMap::new(),
                running: 0,
                counts: Counts::default(),
                next: 0,
                meter: Meter::new(now),
            }),
        }
    }

    /// The most seats one request may take: about a seventh of the level's own.
    pub(super) fn widest(&self) -> u32 {
        let limits = self.state.lock().limits;
        if limits.is_exempt { u32::MAX } else { (limits.nominal * 3).div_ceil(20).max(1) }
    }

    /// Takes over changed limits; what is borrowed or lent is settled anew.
    pub(super) fn configure(&self, limits: Limits, now: Instant) {
        let mut state = self.state.lock();
        if state.limits == limits {
            return;
        }
        state.limits = limits;
        if let Some(queuing) = limits.queuing {
            state.queues.configure(queuing);
        }
        drop(state);
        self.set_limit(limits.nominal, now);
    }

    /// Changes the seats it has now.
    pub(super) fn set_limit(&self, limit: u32, now: Instant) {
        let mut state = self.state.lock();
        state.limit = limit;
        metrics::limits(&self.name, &state.limits, limit);
        state.dispatch(self.seconds(now), now);
    }

    /// What it needed since the last time.
    pub(super) fn demand(&self, now: Instant) -> Demand {
        let mut state = self.state.lock();
        let limits = state.limits;
        let (peak, smoothed) = state.meter.take(now, &self.name);
        Demand {
            nominal: limits.nominal,
            lower: limits.lower,
            upper: limits.upper,
            peak,
            smoothed,
            is_exempt: limits.is_exempt,
        }
    }

    /// Waits for seats, `wait` at most.
    pub(super) async fn enter(
        self: &Arc<Self>,
        schema: Arc<str>,
        flow: u64,
        seats: u32,
        wait: Duration,
        asked: impl FnOnce() -> Asked,
    ) -> Result<Ticket, Refused> {
        let begun = Instant::now();
        let outcome = match self.place(flow, seats, begun, &schema, asked) {
            Placed::Running(dispatched) => Ok(dispatched),
            Placed::Refused(why) => Err(why),
            Placed::Waiting(id, receiver) => {
                let _counted = metrics::Waiting::new(&self.name, &schema, seats);
                let mut place = Place { level: self, id, receiver, is_over: false };
                match tokio::time::timeout(wait, &mut place.receiver).await {
                    Ok(Ok(dispatched)) => Ok(dispatched),
                    Ok(Err(_)) | Err(_) => {
                        place.is_over = true;
                        Err("time-out")
                    }
                }
            }
        };
        metrics::waited(&self.name, &schema, begun.elapsed(), outcome.is_ok());
        match outcome {
            Ok(dispatched) => {
                self.count(|state| {
                    state.running += 1;
                    state.counts.dispatched += 1;
                });
                metrics::running(&self.name, &schema, dispatched.seats);
                let begun = Instant::now();
                Ok(Ticket { level: self.clone(), schema, dispatched, begun, is_watch: false, work: None })
            }
            Err(why) => {
                self.count(|state| match why {
                    "time-out" => state.counts.timed_out += 1,
                    _ => state.counts.rejected += 1,
                });
                metrics::rejected(&self.name, &schema, why);
                Err(Refused)
            }
        }
    }

    fn count(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
    }

    /// The level as it is now.
    pub(super) fn dump(&self) -> Dump {
        let state = self.state.lock();
        Dump {
            queues: state.limits.queuing.map(|_| state.queues.seen()).unwrap_or_default(),
            running: state.running,
            counts: state.counts,
            waiting: state.asked.clone(),
        }
    }

    fn place(
        &self,
        flow: u64,
        seats: u32,
        at: Instant,
        schema: &str,
        asked: impl FnOnce() -> Asked,
    ) -> Placed {
        let now = self.seconds(at);
        let mut state = self.state.lock();
        let state = &mut *state;
        let placed = if state.limits.is_exempt {
            Placed::Running(state.queues.straight(seats))
        } else if state.limits.queuing.is_none() {
            let running = state.queues.running_seats();
            match running > 0 && running + seats > state.limit {
                true => Placed::Refused("concurrency-limit"),
                false => Placed::Running(state.queues.straight(seats)),
            }
        } else {
            state.next += 1;
            let (id, limit) = (state.next, state.limit);
            match state.queues.enter(now, limit, flow, id, seats) {
                None => Placed::Refused("queue-full"),
                Some(length) => {
                    metrics::queue_length(&self.name, schema, length);
                    let (sender, mut receiver) = oneshot::channel();
                    state.waiting.insert(id, sender);
                    state.dispatch(now, at);
                    match receiver.try_recv() {
                        Ok(dispatched) => Placed::Running(dispatched),
                        Err(_) => {
                            state.asked.insert(id, asked());
                            Placed::Waiting(id, receiver)
                        }
                    }
                }
            }
        };
        state.measure(at);
        placed
    }

    /// A request is over, or was never begun.
    pub(super) fn leave(&self, dispatched: Dispatched, lasted: Duration) {
        let at = Instant::now();
        let now = self.seconds(at);
        let mut state = self.state.lock();
        let limit = state.limit;
        state.queues.leave(now, limit, dispatched, lasted.as_secs_f64());
        state.dispatch(now, at);
    }

    fn seconds(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.begun).as_secs_f64()
    }
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Level").field("name", &self.name).field("uid", &self.uid).finish_non_exhaustive()
    }
}

impl State {
    /// Gives seats to those whose turn it is.
    fn dispatch(&mut self, now: f64, at: Instant) {
        while let Some(next) = self.queues.next(now, self.limit) {
            let taken = self.waiting.remove(&next.id).is_some_and(|sender| sender.send(next).is_ok());
            if !taken {
                self.queues.leave(now, self.limit, next, 0.0);
            }
        }
        self.measure(at);
    }

    fn measure(&mut self, at: Instant) {
        let wanted = self.queues.running_seats() + self.queues.waiting_seats();
        self.meter.set(at, f64::from(wanted));
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.level.state.lock();
        state.waiting.remove(&self.id);
        state.asked.remove(&self.id);
        let waited = state.queues.forget(self.id);
        state.counts.cancelled += u64::from(waited && !self.is_over);
        state.measure(Instant::now());
        drop(state);
        // Its turn may have come just now, with nobody there to take it.
        if let (false, Ok(dispatched)) = (waited, self.receiver.try_recv()) {
            self.level.leave(dispatched, Duration::ZERO);
        }
    }
}

impl Ticket {
    /// Notes that the seats were for the beginning of a watch.
    #[must_use]
    pub fn of_watch(mut self) -> Self {
        self.is_watch = true;
        self
    }

    /// Notes what becomes of its seats when the request is over.
    pub(super) fn lingering(mut self, work: Work, held: &Arc<Lingering>) -> Self {
        self.work = (!work.linger.is_zero()).then(|| (work, held.clone()));
        self
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let lasted = self.begun.elapsed();
        metrics::executed(&self.level.name, &self.schema, lasted, self.is_watch);
        self.level.count(|state| state.running = state.running.saturating_sub(1));
        let mut seats = Seats {
            level: self.level.clone(),
            schema: self.schema.clone(),
            dispatched: self.dispatched,
            lasted,
        };
        match self.work.take() {
            None => seats.free(),
            Some((work, held)) => {
                seats.lasted = work.evened(lasted);
                held.hold(Instant::now() + work.linger, seats);
            }
        }
    }
}

// === impl Meter ===

impl Meter {
    fn new(now: Instant) -> Self {
        Self { since: now, at: now, now: 0.0, sum: 0.0, squares: 0.0, peak: 0.0, smoothed: 0.0 }
    }

    fn set(&mut self, at: Instant, value: f64) {
        let passed = at.saturating_duration_since(self.at).as_secs_f64();
        self.sum += self.now * passed;
        self.squares += self.now * self.now * passed;
        self.at = self.at.max(at);
        self.now = value;
        self.peak = self.peak.max(value);
    }

    /// Peak and smoothed demand; a new period begins.
    fn take(&mut self, at: Instant, level: &str) -> (f64, f64) {
        self.set(at, self.now);
        let passed = at.saturating_duration_since(self.since).as_secs_f64().max(f64::EPSILON);
        let average = self.sum / passed;
        let deviation = (self.squares / passed - average * average).max(0.0).sqrt();
        let envelope = average + deviation;
        self.smoothed = envelope.max(SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * envelope);
        let peak = self.peak;
        metrics::demand(level, [peak, average, deviation, self.smoothed]);
        *self = Self { smoothed: self.smoothed, now: self.now, peak: self.now, ..Self::new(at) };
        (peak, self.smoothed)
    }
}
