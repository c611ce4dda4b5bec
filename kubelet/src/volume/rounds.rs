//! A pod's volumes from round to round: which are there, and when those that failed are tried again. Each has a pace of
//! its own, so one that cannot be had holds up no other; and one that was there stays of use when bringing it up to date
//! fails.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::{Mounted, VolumeError};

/// Wait after the first failure; each further one doubles it.
const FIRST: Duration = Duration::from_millis(500);
/// Longest wait after a volume could not be made.
const MOST: Duration = Duration::from_secs(122);
/// Longest wait for what others have to do first: an object, a claim's volume, an attachment. Looking costs little.
const LOOK: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct Volume {
    mounted: Option<Mounted>,
    failed: Option<Failed>,
}

#[derive(Debug)]
struct Failed {
    wait: Duration,
    due: Timestamp,
}

/// The volumes of one pod, by name.
#[derive(Debug, Default)]
pub struct Rounds(BTreeMap<String, Volume>);

impl Rounds {
    /// Whether the volume is to be set up, or brought up to date, in this round.
    #[must_use]
    pub fn is_due(&self, volume: &str, now: Timestamp) -> bool {
        self.failed(volume).is_none_or(|failed| failed.due <= now)
    }

    /// Notes how it went.
    pub fn note(&mut self, volume: &str, result: Result<Mounted, &VolumeError>, now: Timestamp) {
        let known = self.0.entry(volume.to_owned()).or_default();
        known.failed = match result {
            Ok(mounted) => {
                known.mounted = Some(mounted);
                None
            }
            Err(error) => {
                let most = if error.waits_for_others() { LOOK } else { MOST };
                let wait = known.failed.as_ref().map_or(FIRST, |failed| failed.wait * 2).min(most);
                let due = now.saturating_add(SignedDuration::try_from(wait).unwrap_or(SignedDuration::ZERO));
                Some(Failed { wait, due: due.unwrap_or(now) })
            }
        };
    }

    /// When the first of the volumes that failed is due again.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.0.values().filter_map(|volume| volume.failed.as_ref()).map(|failed| failed.due).min()
    }

    /// What containers mount, once every one of these volumes has been there.
    #[must_use]
    pub fn all<'a>(&self, volumes: impl Iterator<Item = &'a str>) -> Option<BTreeMap<String, Mounted>> {
        let one = |name: &str| Some((name.to_owned(), self.0.get(name)?.mounted.clone()?));
        volumes.map(one).collect()
    }

    fn failed(&self, volume: &str) -> Option<&Failed> {
        self.0.get(volume)?.failed.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    fn mounted(path: &str) -> Mounted {
        Mounted { path: path.into(), read_only: false }
    }

    fn missing() -> VolumeError {
        VolumeError::NotFound { resource: "configmap", name: "m".into() }
    }

    /// The waits of so many failures in a row, in milliseconds.
    fn waits(error: &VolumeError, count: usize) -> Vec<i64> {
        let (mut rounds, mut now) = (Rounds::default(), at(0));
        let mut waits = Vec::new();
        for _ in 0..count {
            assert!(rounds.is_due("v", now));
            rounds.note("v", Err(error), now);
            let due = rounds.next_due().unwrap();
            assert!(!rounds.is_due("v", now) && rounds.is_due("v", due));
            waits.push(i64::try_from(due.duration_since(now).as_millis()).unwrap());
            now = due;
        }
        waits
    }

    #[test]
    fn failures_of_one_volume_come_less_and_less_often() {
        let refused = VolumeError::Mount { arguments: String::new(), message: String::new() };
        assert_eq!(
            waits(&refused, 10),
            [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 122_000, 122_000]
        );
        assert_eq!(waits(&missing(), 7), [500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
    }

    #[test]
    fn a_success_ends_the_pace_and_other_volumes_have_their_own() {
        let mut rounds = Rounds::default();
        rounds.note("a", Err(&missing()), at(0));
        rounds.note("a", Err(&missing()), at(1));
        rounds.note("b", Ok(mounted("/b")), at(1));
        assert!(!rounds.is_due("a", at(1)) && rounds.is_due("b", at(1)));
        assert_eq!(rounds.all(["a", "b"].into_iter()), None);
        rounds.note("a", Ok(mounted("/a")), at(2));
        assert_eq!(rounds.next_due(), None);
        rounds.note("a", Err(&missing()), at(3));
        assert!(rounds.is_due("a", at(4)), "the first wait is short again");
    }

    #[test]
    fn what_was_there_stays_of_use() {
        let mut rounds = Rounds::default();
        assert_eq!(rounds.all(std::iter::empty()), Some(BTreeMap::new()));
        rounds.note("a", Ok(mounted("/a")), at(0));
        rounds.note("a", Err(&missing()), at(60));
        assert_eq!(rounds.all(["a"].into_iter()), Some(BTreeMap::from([("a".to_owned(), mounted("/a"))])));
        assert!(rounds.next_due().is_some());
    }
}
