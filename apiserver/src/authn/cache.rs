//! Answers of webhooks that are kept for a while.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Answers kept at most; when there are more, those that are over go, and all of them when none is.
const MAX: usize = 4096;

/// Answers by question.
pub struct Cache<K, V> {
    good: Duration,
    bad: Duration,
    known: Mutex<HashMap<K, (Instant, V)>>,
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    /// Good answers are kept for `good`, others for `bad`; zero keeps none.
    pub fn new(good: Duration, bad: Duration) -> Self {
        Self { good, bad, known: Mutex::default() }
    }

    /// The answer, if it still counts.
    pub fn get(&self, key: &K, now: Instant) -> Option<V> {
        let known = self.known.lock();
        known.get(key).filter(|(until, _)| now < *until).map(|(_, value)| value.clone())
    }

    /// Keeps an answer.
    pub fn put(&self, key: K, value: V, is_good: bool, now: Instant) {
        let ttl = if is_good { self.good } else { self.bad };
        if ttl.is_zero() {
            return;
        }
        let mut known = self.known.lock();
        if known.len() >= MAX {
            known.retain(|_, (until, _)| now < *until);
            if known.len() >= MAX {
                known.clear();
            }
        }
        known.insert(key, (now + ttl, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_end() {
        let cache = Cache::new(Duration::from_secs(10), Duration::ZERO);
        let now = Instant::now();
        cache.put(1, "a", true, now);
        cache.put(2, "b", false, now);
        assert_eq!(cache.get(&1, now + Duration::from_secs(9)), Some("a"));
        assert_eq!(cache.get(&1, now + Duration::from_secs(10)), None);
        assert_eq!(cache.get(&2, now), None);
        for key in 0..10_000 {
            cache.put(key, "c", true, now);
        }
        assert!(cache.known.lock().len() <= MAX);
    }
}
