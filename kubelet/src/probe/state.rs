//! From single findings to settled results: thresholds and delays. Pure.

use k8s_openapi::api::core::v1::Probe;

use super::{Finding, Kind, Outcome};

/// The state of one probe of one container instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeState {
    kind: Kind,
    settled: Outcome,
    last: Option<Outcome>,
    run: i32,
    announced: bool,
}

impl ProbeState {
    /// Before the first finding: alive, not ready, not started.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        let settled = if kind == Kind::Liveness { Outcome::Success } else { Outcome::Failure };
        Self { kind, settled, last: None, run: 0, announced: false }
    }

    /// Takes a finding; answers with the result when it has just become settled or has changed.
    pub fn step(&mut self, finding: &Finding, probe: &Probe) -> Option<Outcome> {
        let found = match finding {
            Finding::Success | Finding::Warning(_) => Outcome::Success,
            Finding::Failure(_) => Outcome::Failure,
            Finding::Unknown(_) => return None,
        };
        if self.last == Some(found) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(found);
            self.run = 1;
        }
        let threshold = match found {
            Outcome::Success => probe.success_threshold.unwrap_or(1),
            Outcome::Failure => probe.failure_threshold.unwrap_or(3),
        };
        if self.run < threshold.max(1) || (self.announced && self.settled == found) {
            return None;
        }
        self.settled = found;
        self.announced = true;
        Some(found)
    }

    /// Nothing more to ask: a startup probe that succeeded, or a container that is about to be killed for its result.
    #[must_use]
    pub fn is_over(&self) -> bool {
        match self.kind {
            Kind::Startup => self.announced,
            Kind::Liveness => self.announced && self.settled == Outcome::Failure,
            Kind::Readiness => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(success: i32, failure: i32) -> Probe {
        Probe { success_threshold: Some(success), failure_threshold: Some(failure), ..Probe::default() }
    }

    fn fail() -> Finding {
        Finding::Failure("no".into())
    }

    #[test]
    fn failures_settle_at_the_threshold_and_a_success_starts_over() {
        let mut state = ProbeState::new(Kind::Liveness);
        let probe = probe(1, 3);
        assert_eq!(state.step(&fail(), &probe), None);
        assert_eq!(state.step(&fail(), &probe), None);
        assert_eq!(state.step(&Finding::Success, &probe), Some(Outcome::Success));
        for expected in [None, None, Some(Outcome::Failure)] {
            assert_eq!(state.step(&fail(), &probe), expected);
        }
        assert!(state.is_over());
    }

    #[test]
    fn readiness_goes_up_and_down() {
        let mut state = ProbeState::new(Kind::Readiness);
        let probe = probe(2, 1);
        assert_eq!(state.step(&Finding::Success, &probe), None);
        assert_eq!(state.step(&Finding::Unknown("x".into()), &probe), None);
        assert_eq!(state.step(&Finding::Success, &probe), Some(Outcome::Success));
        assert_eq!(state.step(&Finding::Success, &probe), None);
        assert_eq!(state.step(&fail(), &probe), Some(Outcome::Failure));
        assert!(!state.is_over());
    }

    #[test]
    fn startup_is_asked_until_it_is_settled() {
        let mut state = ProbeState::new(Kind::Startup);
        assert!(!state.is_over());
        assert_eq!(state.step(&Finding::Success, &probe(1, 1)), Some(Outcome::Success));
        assert!(state.is_over());
    }
}
