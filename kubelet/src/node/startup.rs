//! How long the node takes to come up: from the machine's start to the kubelet's, to its registration, to its being ready.
//!
//! Contract: upstream's `kubelet_node_startup_*`: each is told once, by the kubelet that registered the node.

use std::sync::LazyLock;

use jiff::Timestamp;
use parking_lot::Mutex;

use crate::metrics;

/// What has happened when.
#[derive(Debug, Default, Clone, Copy)]
pub struct Startup {
    /// The machine's start, where that is known.
    pub boot: Option<Timestamp>,
    /// The kubelet's.
    pub kubelet: Timestamp,
    attempted: Option<Timestamp>,
    registered: Option<Timestamp>,
    ready: Option<Timestamp>,
}

/// What has happened to this node.
pub static STARTUP: LazyLock<Mutex<Startup>> = LazyLock::new(Mutex::default);

impl Startup {
    /// The kubelet tries to register the node.
    pub fn attempt(&mut self, now: Timestamp) {
        self.attempted.get_or_insert(now);
    }

    /// The node is new, and registered. Answers with seconds to tell: before the kubelet, before registration, and of it.
    pub fn register(&mut self, now: Timestamp) -> Option<(Option<f64>, f64, f64)> {
        let attempted = self.attempted.filter(|_| self.registered.is_none())?;
        self.registered = Some(now);
        let before = self.boot.map(|boot| seconds(boot, self.kubelet));
        Some((before, seconds(self.kubelet, attempted), seconds(attempted, now)))
    }

    /// The node is ready. Answers with seconds to tell: since registration, and since the machine's start.
    pub fn ready(&mut self, now: Timestamp) -> Option<(f64, Option<f64>)> {
        let registered = self.registered.filter(|_| self.ready.is_none())?;
        self.ready = Some(now);
        Some((seconds(registered, now), self.boot.map(|boot| seconds(boot, now))))
    }
}

fn seconds(from: Timestamp, until: Timestamp) -> f64 {
    until.duration_since(from).as_secs_f64()
}

/// The kubelet starts, on a machine that came up at `boot`.
pub fn begin(boot: Option<Timestamp>, now: Timestamp) {
    *STARTUP.lock() = Startup { boot, kubelet: now, ..Startup::default() };
}

/// The node is new, and registered.
pub fn registered(now: Timestamp) {
    let [before_kubelet, before, during, ..] = &metrics::get().startup;
    if let Some((kubelet, attempt, done)) = STARTUP.lock().register(now) {
        kubelet.into_iter().for_each(|seconds| before_kubelet.set(seconds));
        before.set(attempt);
        during.set(done);
    }
}

/// The node is ready.
pub fn is_ready(now: Timestamp) {
    let [.., after, all] = &metrics::get().startup;
    if let Some((since, total)) = STARTUP.lock().ready(now) {
        after.set(since);
        total.into_iter().for_each(|seconds| all.set(seconds));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_is_told_once_and_in_order() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut startup = Startup { boot: Some(at(0)), kubelet: at(10), ..Startup::default() };
        assert_eq!(startup.ready(at(11)), None, "of a node that was there before nothing is told");
        assert_eq!(startup.register(at(11)), None);
        startup.attempt(at(12));
        startup.attempt(at(13));
        assert_eq!(startup.register(at(15)), Some((Some(10.0), 2.0, 3.0)));
        assert_eq!(startup.register(at(16)), None);
        assert_eq!(startup.ready(at(20)), Some((5.0, Some(20.0))));
        assert_eq!(startup.ready(at(21)), None);
    }
}
