//! Exponential back-off: per key as the kubelet and controllers use it (client-go's `flowcontrol.Backoff`), and for one loop.

use std::{borrow::Borrow, collections::HashMap, hash::Hash, time::Duration};

use jiff::Timestamp;
use rand::Rng;

/// Delays of one retry loop: `initial`, doubled each time up to `max`, each lengthened by up to `jitter` of itself.
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    jitter: f64,
    next: Duration,
}

impl Backoff {
    /// A loop that has not failed yet. `jitter` 0.5 lengthens each delay by 0 to 50 %.
    pub fn new(initial: Duration, max: Duration, jitter: f64) -> Backoff {
        Backoff { initial, max, jitter, next: initial }
    }

    /// The delay before the next attempt.
    pub fn next_delay(&mut self, random: &mut impl Rng) -> Duration {
        let delay = self.next;
        self.next = (self.next * 2).min(self.max);
        jittered(delay, self.jitter, random)
    }

    /// Forgets past failures.
    pub fn reset(&mut self) {
        self.next = self.initial;
    }
}

/// `duration` lengthened by 0 to `factor` of itself (`wait.Jitter`).
pub fn jittered(duration: Duration, factor: f64, random: &mut impl Rng) -> Duration {
    if factor <= 0.0 {
        return duration;
    }
    duration.mul_f64(1.0 + random.random::<f64>() * factor)
}

/// Back-off per key: each failure doubles the key's delay; a key left alone for twice `max` starts anew.
#[derive(Debug)]
pub struct BackoffMap<K> {
    initial: Duration,
    max: Duration,
    entries: HashMap<K, Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    delay: Duration,
    updated: Timestamp,
}

impl<K: Eq + Hash> BackoffMap<K> {
    /// An empty map.
    pub fn new(initial: Duration, max: Duration) -> BackoffMap<K> {
        BackoffMap { initial, max, entries: HashMap::new() }
    }

    /// Records a failure at `now` and returns the delay that follows from it.
    pub fn fail(&mut self, key: K, now: Timestamp) -> Duration {
        let (initial, max) = (self.initial, self.max);
        let delay = match self.entries.get(&key) {
            Some(entry) if !expired(*entry, now, max) => (entry.delay * 2).min(max),
            _ => initial,
        };
        self.entries.insert(key, Entry { delay, updated: now });
        delay
    }

    /// The key's present delay; zero if it has none.
    pub fn delay<Q>(&self, key: &Q) -> Duration
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.entries.get(key).map_or(Duration::ZERO, |entry| entry.delay)
    }

    /// How long the key must still wait at `now`; zero if it may act. `since` is when it last failed or ended.
    pub fn remaining<Q>(&self, key: &Q, since: Timestamp, now: Timestamp) -> Duration
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        match self.entries.get(key) {
            Some(entry) if !expired(*entry, now, self.max) => entry.delay.saturating_sub(passed(since, now)),
            _ => Duration::ZERO,
        }
    }

    /// Forgets a key.
    pub fn reset<Q>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.entries.remove(key);
    }

    /// Drops the entries that have expired at `now`.
    pub fn collect(&mut self, now: Timestamp) {
        let max = self.max;
        self.entries.retain(|_, entry| !expired(*entry, now, max));
    }
}

fn expired(entry: Entry, now: Timestamp, max: Duration) -> bool {
    passed(entry.updated, now) > max * 2
}

fn passed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_caps_and_forgets() {
        let second = Duration::from_secs(1);
        let mut map = BackoffMap::new(10 * second, 60 * second);
        let mut now = Timestamp::UNIX_EPOCH;
        let delays: Vec<u64> = (0..5)
            .map(|_| {
                now += 60 * second;
                map.fail("pod", now).as_secs()
            })
            .collect();
        assert_eq!(delays, [10, 20, 40, 60, 60]);
        assert_eq!(map.remaining("pod", now, now + 45 * second), 15 * second);
        assert_eq!(map.fail("pod", now + 121 * second), 10 * second);
        map.reset("pod");
        assert_eq!(map.delay("pod"), Duration::ZERO);
    }
}
