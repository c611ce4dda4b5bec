//! From measurements and thresholds to what presses on the node and what has to be won back. Pure: time comes in.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::threshold::{Signal, Starved, Threshold};
use crate::node::status::Pressure;

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// What is left.
    pub available: i64,
    /// What there is in all.
    pub capacity: i64,
}

/// All measurements of one round; a signal that could not be measured is missing.
pub type Observations = BTreeMap<Signal, Observation>;

/// What is remembered from round to round.
#[derive(Debug, Default)]
pub struct State {
    /// Since when each threshold has been crossed, by its place in the list.
    since: BTreeMap<usize, Timestamp>,
    /// Thresholds that were acted on and are not won back yet.
    acted: Vec<usize>,
    /// When each kind of pressure was last seen.
    pressed: BTreeMap<&'static str, Timestamp>,
}

/// What a round finds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Judgement {
    /// What the node's conditions say.
    pub pressure: Pressure,
    /// Thresholds to act on, the most urgent first.
    pub act: Vec<Threshold>,
}

fn condition(signal: Signal) -> &'static str {
    match signal.starved() {
        Starved::Memory => "MemoryPressure",
        Starved::Disk | Starved::Inodes => "DiskPressure",
        Starved::Pids => "PIDPressure",
    }
}

/// The threshold is crossed; with `reclaim`, also while it has not been left by far enough.
#[must_use]
pub fn crossed(threshold: &Threshold, seen: &Observations, reclaim: bool) -> bool {
    let Some(now) = seen.get(&threshold.signal) else { return false };
    let more = threshold.reclaim.filter(|_| reclaim).map_or(0, |r| r.amount(now.capacity));
    now.available < threshold.limit.amount(now.capacity).saturating_add(more)
}

impl State {
    /// Judges one round. A condition stays for `transition` after it was last seen, so that it does not flap.
    pub fn judge(
        &mut self,
        thresholds: &[Threshold],
        seen: &Observations,
        transition: Duration,
        now: Timestamp,
    ) -> Judgement {
        let is_crossed = |i: &usize| {
            thresholds.get(*i).is_some_and(|t| crossed(t, seen, false))
                || (self.acted.contains(i) && crossed(&thresholds[*i], seen, true))
        };
        let on: Vec<usize> = (0..thresholds.len()).filter(is_crossed).collect();
        self.since.retain(|i, _| on.contains(i));
        for i in &on {
            self.since.entry(*i).or_insert(now);
            self.pressed.insert(condition(thresholds[*i].signal), now);
        }
        let transition = SignedDuration::try_from(transition).unwrap_or(SignedDuration::MAX);
        self.pressed.retain(|_, at| *at == now || now.duration_since(*at) < transition);
        let due = |i: &usize| {
            let waited = now.duration_since(self.since[i]);
            thresholds[*i]
                .grace
                .is_none_or(|grace| waited >= SignedDuration::try_from(grace).unwrap_or_default())
        };
        self.acted = on.into_iter().filter(due).collect();
        let mut act: Vec<Threshold> = self.acted.iter().map(|i| thresholds[*i]).collect();
        // Memory goes first: without it everything else stands still. Hard thresholds go before soft ones.
        act.sort_by_key(|t| (t.signal.starved() != Starved::Memory, t.grace.is_some(), t.signal));
        let is_on = |name| self.pressed.contains_key(name);
        let pressure = Pressure {
            memory: is_on("MemoryPressure"),
            disk: is_on("DiskPressure"),
            pids: is_on("PIDPressure"),
        };
        Judgement { pressure, act }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{eviction::threshold::Limit, testing::at};

    const HARD: Threshold =
        Threshold { signal: Signal::MemoryAvailable, limit: Limit::Amount(100), grace: None, reclaim: None };

    fn seen(signal: Signal, available: i64) -> Observations {
        BTreeMap::from([(signal, Observation { available, capacity: 1000 })])
    }

    fn minute() -> Duration {
        Duration::from_secs(60)
    }

    #[test]
    fn a_condition_stays_for_a_while_and_then_goes() {
        let mut state = State::default();
        let mut judge = |available, second| {
            state.judge(&[HARD], &seen(Signal::MemoryAvailable, available), minute(), at(second))
        };
        assert_eq!(judge(100, 0), Judgement::default());
        let low = judge(99, 10);
        assert_eq!((low.pressure.memory, low.act.as_slice()), (true, &[HARD][..]));
        let better = judge(500, 60);
        assert_eq!((better.pressure.memory, better.act.len()), (true, 0));
        assert!(!judge(500, 70).pressure.memory);
    }

    #[test]
    fn a_soft_threshold_presses_at_once_and_acts_later() {
        let soft = Threshold { grace: Some(Duration::from_secs(30)), ..HARD };
        let mut state = State::default();
        let mut judge = |available, second| {
            let made = state.judge(&[soft], &seen(Signal::MemoryAvailable, available), minute(), at(second));
            (made.pressure.memory, made.act.len())
        };
        assert_eq!(judge(50, 0), (true, 0));
        assert_eq!(judge(50, 29), (true, 0));
        assert_eq!(judge(50, 30), (true, 1));
        assert_eq!(judge(150, 40), (true, 0));
        // It begins anew.
        assert_eq!(judge(50, 50), (true, 0));
    }

    #[test]
    fn what_was_acted_on_has_to_be_left_by_far_enough() {
        let greedy = Threshold { reclaim: Some(Limit::Part(0.1)), ..HARD };
        let mut state = State::default();
        let mut judge = |available, second| {
            state.judge(&[greedy], &seen(Signal::MemoryAvailable, available), minute(), at(second)).act.len()
        };
        assert_eq!(judge(150, 0), 0);
        assert_eq!(judge(50, 1), 1);
        assert_eq!(judge(150, 2), 1);
        assert_eq!(judge(200, 3), 0);
        assert_eq!(judge(150, 4), 0);
    }

    #[test]
    fn memory_is_the_most_urgent_and_the_unmeasured_is_nothing() {
        let disk = Threshold { signal: Signal::NodeFsAvailable, ..HARD };
        let mut both = seen(Signal::MemoryAvailable, 0);
        both.extend(seen(Signal::NodeFsAvailable, 0));
        let mut state = State::default();
        let made = state.judge(&[disk, HARD], &both, minute(), at(0));
        assert_eq!(made.act, [HARD, disk]);
        assert!(made.pressure.disk && made.pressure.memory && !made.pressure.pids);
        let mut state = State::default();
        assert_eq!(state.judge(&[disk, HARD], &BTreeMap::new(), minute(), at(0)), Judgement::default());
    }
}
