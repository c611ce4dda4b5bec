//! The wall clock as a parameter, so that decisions about time can be tested exactly.

use std::{fmt, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

/// Tells the wall-clock time. For waiting use tokio's timers, which tests can pause.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The present moment.
    fn now(&self) -> Timestamp;

    /// How long ago a moment was; zero for one to come.
    fn since(&self, moment: Timestamp) -> Duration {
        self.now().duration_since(moment).try_into().unwrap_or_default()
    }

    /// The present moment as an API time (whole seconds when printed).
    fn time(&self) -> Time {
        Time(self.now())
    }

    /// The present moment as an API time with microseconds.
    fn micro_time(&self) -> MicroTime {
        MicroTime(self.now())
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealClock;

impl Clock for RealClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// The clock as it is passed around.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock, shared.
pub fn real() -> SharedClock {
    Arc::new(RealClock)
}

/// A clock that follows tokio's (possibly paused) timers from a fixed start; for tests that let time pass.
#[derive(Clone, Debug)]
pub struct TokioClock {
    start: Timestamp,
    origin: tokio::time::Instant,
}

impl TokioClock {
    /// Reads `start` now and moves with tokio's time. Must be made inside a runtime.
    pub fn new(start: Timestamp) -> TokioClock {
        TokioClock { start, origin: tokio::time::Instant::now() }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        self.start + self.origin.elapsed()
    }
}

/// A clock that stands still until told otherwise; for tests of pure decisions.
#[derive(Debug)]
pub struct FakeClock(parking_lot::Mutex<Timestamp>);

impl FakeClock {
    /// Shows `now`.
    pub fn new(now: Timestamp) -> FakeClock {
        FakeClock(parking_lot::Mutex::new(now))
    }

    /// Moves forward.
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock();
        *now += by;
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        *self.0.lock()
    }
}
