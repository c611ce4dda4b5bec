//! Back-off between restarts of one container and between pulls of one image: doubling from 10 s up to a cap,
//! forgotten after ten minutes without an event.

use std::{collections::HashMap, time::Duration};

use jiff::{SignedDuration, Timestamp};

/// First delay.
pub const INITIAL: Duration = Duration::from_secs(10);
/// Longest delay.
pub const MAX: Duration = Duration::from_secs(300);
/// The same where delays are to be short (`ReduceDefaultCrashLoopBackOffDecay`).
pub const SHORT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    delay: Duration,
    updated: Timestamp,
}

/// Delays by key (a container's name or an image).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackOffs {
    entries: HashMap<String, Entry>,
    first: Duration,
    most: Duration,
}

impl Default for BackOffs {
    fn default() -> Self {
        Self::between((INITIAL, MAX))
    }
}

impl BackOffs {
    /// Delays from the first of these to the second, if that is longer.
    #[must_use]
    pub fn between((first, most): (Duration, Duration)) -> Self {
        Self { entries: HashMap::new(), first: first.min(most), most }
    }

    /// When the next try is due, if an event at `event` has to wait at `now`; with the delay that applies.
    #[must_use]
    pub fn wait_until(&self, key: &str, event: Timestamp, now: Timestamp) -> Option<(Timestamp, Duration)> {
        let entry = self.entries.get(key)?;
        if expired(event, entry.updated) {
            return None;
        }
        let due = event.checked_add(SignedDuration::try_from(entry.delay).ok()?).ok()?;
        (due > now).then_some((due, entry.delay))
    }

    /// Notes a try at `now` after an event at `event`: the first one sets the initial delay, later ones double it.
    pub fn next(&mut self, key: &str, event: Timestamp, now: Timestamp) {
        let delay = match self.entries.get(key) {
            Some(entry) if !expired(event, entry.updated) => (entry.delay * 2).min(self.most),
            _ => self.first,
        };
        self.entries.insert(key.to_owned(), Entry { delay, updated: now });
    }

    /// Forgets a key after a success.
    pub fn forget(&mut self, key: &str) {
        self.entries.remove(key);
    }
}

fn expired(event: Timestamp, updated: Timestamp) -> bool {
    event.duration_since(updated) > SignedDuration::try_from(MAX * 2).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    #[test]
    fn a_lower_cap_holds_from_the_first_delay_on() {
        let mut backoffs = BackOffs::between((INITIAL, Duration::from_secs(3)));
        backoffs.next("c", at(0), at(0));
        assert_eq!(backoffs.wait_until("c", at(0), at(0)), Some((at(3), Duration::from_secs(3))));
        backoffs.next("c", at(3), at(3));
        assert_eq!(backoffs.wait_until("c", at(3), at(3)), Some((at(6), Duration::from_secs(3))));
    }

    #[test]
    fn doubles_to_the_cap_and_forgets_after_twice_the_cap() {
        let mut backoffs = BackOffs::default();
        assert_eq!(backoffs.wait_until("c", at(0), at(0)), None);
        let mut now = 0;
        for expected in [10, 20, 40, 80, 160, 300, 300] {
            backoffs.next("c", at(now), at(now));
            let (due, delay) = backoffs.wait_until("c", at(now + 1), at(now + 1)).unwrap();
            assert_eq!(delay, Duration::from_secs(expected));
            assert_eq!(due, at(now + 1 + i64::try_from(expected).unwrap()));
            now += 1 + i64::try_from(expected).unwrap();
            assert_eq!(backoffs.wait_until("c", at(now - i64::try_from(expected).unwrap()), at(now)), None);
        }
        let long_after = now + 601;
        assert_eq!(backoffs.wait_until("c", at(long_after), at(long_after)), None);
        backoffs.next("c", at(long_after), at(long_after));
        assert_eq!(backoffs.wait_until("c", at(long_after), at(long_after)).unwrap().1, INITIAL);
    }
}
