//! What a controller still waits to see in its cache before it may act on a key again (client-go's ControllerExpectations).
//!
//! A controller that has asked for three pods expects three additions; until the informer has shown them (or five minutes
//! have passed) its cached count is too old to act on. Deletions are tracked by uid ([`Expectations::expect_deletions_of`]),
//! so that one pod seen deleted twice counts once.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;

use crate::{clock::SharedClock, meta::ObjectKey};

/// After this long, unmet expectations are taken as lost.
pub const TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Expectations of one controller, by the key it works on.
#[derive(Debug)]
pub struct Expectations {
    clock: SharedClock,
    entries: Mutex<HashMap<ObjectKey, Entry>>,
}

#[derive(Debug)]
struct Entry {
    additions: i64,
    deletions: i64,
    awaited_uids: HashSet<String>,
    since: Timestamp,
}

impl Entry {
    fn fulfilled(&self) -> bool {
        self.additions <= 0 && self.deletions <= 0 && self.awaited_uids.is_empty()
    }
}

impl Expectations {
    /// No expectations.
    pub fn new(clock: SharedClock) -> Expectations {
        Expectations { clock, entries: Mutex::default() }
    }

    /// Replaces the key's expectations by `count` additions.
    pub fn expect_additions(&self, key: &ObjectKey, count: usize) {
        self.set(key, count, 0, HashSet::new());
    }

    /// Replaces the key's expectations by `count` deletions.
    pub fn expect_deletions(&self, key: &ObjectKey, count: usize) {
        self.set(key, 0, count, HashSet::new());
    }

    /// Replaces the key's expectations by both.
    pub fn expect(&self, key: &ObjectKey, additions: usize, deletions: usize) {
        self.set(key, additions, deletions, HashSet::new());
    }

    /// Replaces the key's expectations by the deletion of the objects with these uids.
    pub fn expect_deletions_of(&self, key: &ObjectKey, uids: impl IntoIterator<Item = String>) {
        self.set(key, 0, 0, uids.into_iter().collect());
    }

    fn set(&self, key: &ObjectKey, additions: usize, deletions: usize, awaited_uids: HashSet<String>) {
        let entry = Entry {
            additions: additions as i64,
            deletions: deletions as i64,
            awaited_uids,
            since: self.clock.now(),
        };
        self.entries.lock().insert(key.clone(), entry);
    }

    /// An addition was seen, or its creation failed.
    pub fn creation_observed(&self, key: &ObjectKey) {
        if let Some(entry) = self.entries.lock().get_mut(key) {
            entry.additions -= 1;
        }
    }

    /// A deletion was seen, or it failed.
    pub fn deletion_observed(&self, key: &ObjectKey) {
        if let Some(entry) = self.entries.lock().get_mut(key) {
            entry.deletions -= 1;
        }
    }

    /// The deletion of one awaited object was seen (also: it got its deletion timestamp), or it failed.
    pub fn deletion_observed_of(&self, key: &ObjectKey, uid: &str) {
        if let Some(entry) = self.entries.lock().get_mut(key) {
            entry.awaited_uids.remove(uid);
        }
    }

    /// Whether the key may be acted on: nothing expected, all seen, or waited too long.
    pub fn satisfied(&self, key: &ObjectKey) -> bool {
        match self.entries.lock().get(key) {
            Some(entry) => {
                entry.fulfilled()
                    || self.clock.now().duration_since(entry.since) > TIMEOUT.try_into().unwrap_or_default()
            }
            None => true,
        }
    }

    /// Forgets a key (its object is gone).
    pub fn forget(&self, key: &ObjectKey) {
        self.entries.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::FakeClock;

    #[test]
    fn satisfied_when_seen_or_expired() {
        let clock = Arc::new(FakeClock::new(Timestamp::UNIX_EPOCH));
        let expectations = Expectations::new(clock.clone());
        let key = ObjectKey::new("default", "web");
        assert!(expectations.satisfied(&key));
        expectations.expect(&key, 2, 1);
        expectations.creation_observed(&key);
        expectations.creation_observed(&key);
        assert!(!expectations.satisfied(&key));
        expectations.deletion_observed(&key);
        assert!(expectations.satisfied(&key));
        expectations.expect_deletions_of(&key, ["a".to_owned(), "b".to_owned()]);
        expectations.deletion_observed_of(&key, "a");
        expectations.deletion_observed_of(&key, "a");
        assert!(!expectations.satisfied(&key));
        clock.advance(TIMEOUT + Duration::from_secs(1));
        assert!(expectations.satisfied(&key));
    }
}
