//! What was said of pods last, so that what is said again and again is told as a series: the first and the second time,
//! and then so often that the series shows it goes on. Attempts come with every event that may help, and each would be
//! a write.

use std::{collections::HashMap, time::Duration};

use crate::queue::Instant;

/// How often a series is brought up to date.
const PACE: Duration = Duration::from_secs(300);

/// Last messages by the uids of pods.
#[derive(Debug, Default)]
pub(super) struct Said(HashMap<String, Last>);

#[derive(Debug)]
struct Last {
    message: String,
    is_series: bool,
    at: Instant,
}

impl Said {
    /// Whether a message is to be told now; it counts as told then.
    pub(super) fn is_due(&mut self, uid: &str, message: &str, now: Instant) -> bool {
        let last = self.0.get(uid).filter(|last| last.message == message);
        let is_due = last.is_none_or(|last| !last.is_series || now.saturating_sub(last.at) >= PACE);
        if is_due {
            let is_series = last.is_some();
            self.0.insert(uid.to_owned(), Last { message: message.to_owned(), is_series, at: now });
        }
        is_due
    }

    /// The pod has its node or is gone.
    pub(super) fn forget(&mut self, uid: &str) {
        self.0.remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_again_is_a_series_that_is_told_of_now_and_then() {
        let mut said = Said::default();
        let mut at = |seconds: u64, message: &str| said.is_due("p", message, Duration::from_secs(seconds));
        assert!(at(0, "no room"));
        assert!(at(1, "no room"), "the second makes it a series");
        assert!(!at(2, "no room") && !at(300, "no room"));
        assert!(at(301, "no room") && !at(302, "no room"));
        assert!(at(303, "tainted"), "that is something else");
        assert!(at(304, "tainted") && !at(305, "tainted"));
        assert!(said.is_due("q", "tainted", Duration::from_secs(305)), "of another pod");
        said.forget("p");
        assert!(said.is_due("p", "tainted", Duration::from_secs(306)));
    }
}
