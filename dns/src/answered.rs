//! Answers from the cluster's zone as they were sent, for questions that come again byte by byte.
//!
//! An answer holds until something of its service changes ([`Versions`]). There are two halves: when the new one is
//! full the old one goes, and what is asked for again moves from the old one to the new.

use std::{
    collections::HashMap,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use hickory_proto::{op::ResponseCode, rr::RecordType};
use parking_lot::RwLock;

use crate::metrics::Counted;

/// Services share a version by the hash of their names: a change of one lets go the answers about a few.
const VERSIONS: usize = 4096;
/// Answers in each half.
const HALF: usize = 12_288;
/// Bytes of a question and of an answer that is kept; longer ones are rare.
const LONGEST_QUESTION: usize = 300;
const LONGEST_ANSWER: usize = 1232;
/// Bytes of a message's identity, which differs from question to question.
const ID: usize = 2;

/// How often services have changed.
#[derive(Debug)]
pub struct Versions(Vec<AtomicU32>);

/// A service's version at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    at: usize,
    number: u32,
}

/// Answers that were given.
#[derive(Debug, Default)]
pub struct Answered {
    halves: RwLock<Halves>,
    counted: RwLock<HashMap<Kind, Arc<Counted>>>,
}

/// What counted queries have in common: zone, type, response code, and whether DNSSEC records were wanted.
type Kind = (String, RecordType, ResponseCode, bool);

#[derive(Debug, Default)]
struct Halves {
    new: HashMap<Box<[u8]>, Entry>,
    old: HashMap<Box<[u8]>, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    answer: Arc<[u8]>,
    version: Version,
    counted: Arc<Counted>,
}

// === impl Versions ===

impl Default for Versions {
    fn default() -> Self {
        Self((0..VERSIONS).map(|_| AtomicU32::new(0)).collect())
    }
}

impl Versions {
    /// The version of a service, by its namespace and name.
    pub fn of(&self, namespace: &str, service: &str) -> Version {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one((namespace, service));
        let at = usize::try_from(hash % VERSIONS as u64).unwrap_or_default();
        Version { at, number: self.0[at].load(Ordering::Acquire) }
    }

    /// A service has changed.
    pub fn advance(&self, namespace: &str, service: &str) {
        self.0[self.of(namespace, service).at].fetch_add(1, Ordering::Release);
    }

    fn holds(&self, version: Version) -> bool {
        self.0[version.at].load(Ordering::Acquire) == version.number
    }
}

// === impl Answered ===

impl Answered {
    /// Appends the answer to a question, if there is one that holds, and counts it.
    pub fn recall(
        &self,
        question: &[u8],
        is_v4: bool,
        took: impl Fn() -> Duration,
        versions: &Versions,
        out: &mut Vec<u8>,
    ) -> bool {
        let Some((_, key)) = question.split_at_checked(ID).filter(|(_, key)| key.len() <= LONGEST_QUESTION)
        else {
            return false;
        };
        let old = {
            let halves = self.halves.read();
            if let Some(entry) = halves.new.get(key) {
                return entry.give(question, is_v4, took, versions, out);
            }
            halves.old.get(key).cloned()
        };
        let Some(entry) = old.filter(|entry| versions.holds(entry.version)) else { return false };
        self.put(key, entry.clone());
        entry.give(question, is_v4, took, versions, out)
    }

    /// Keeps an answer.
    pub fn remember(&self, question: &[u8], answer: &[u8], version: Version, counted: Arc<Counted>) {
        if question.len() <= LONGEST_QUESTION && answer.len() <= LONGEST_ANSWER {
            let entry = Entry { answer: answer.into(), version, counted };
            self.put(&question[ID..], entry);
        }
    }

    /// The counters of answers of a kind, made by `make` when there are none yet.
    pub fn counters(
        &self,
        block: &str,
        kind: RecordType,
        code: ResponseCode,
        dnssec: bool,
        make: impl FnOnce() -> Counted,
    ) -> Arc<Counted> {
        let key = (block.to_owned(), kind, code, dnssec);
        if let Some(counted) = self.counted.read().get(&key) {
            return counted.clone();
        }
        self.counted.write().entry(key).or_insert_with(|| Arc::new(make())).clone()
    }

    /// How many answers are remembered.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        let halves = self.halves.read();
        halves.new.len() + halves.old.len()
    }

    fn put(&self, key: &[u8], entry: Entry) {
        let mut halves = self.halves.write();
        if halves.new.len() >= HALF {
            halves.old = std::mem::take(&mut halves.new);
        }
        halves.new.insert(key.into(), entry);
    }
}

impl Entry {
    fn give(
        &self,
        question: &[u8],
        is_v4: bool,
        took: impl Fn() -> Duration,
        versions: &Versions,
        out: &mut Vec<u8>,
    ) -> bool {
        if !versions.holds(self.version) {
            return false;
        }
        out.extend_from_slice(&question[..ID]);
        out.extend_from_slice(&self.answer[ID..]);
        self.counted.observe(is_v4, (question.len(), self.answer.len()), took());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn question(id: u8, name: u16) -> Vec<u8> {
        let [high, low] = name.to_be_bytes();
        vec![id, id, high, low]
    }

    struct World {
        answered: Answered,
        versions: Versions,
        counted: Arc<Counted>,
    }

    impl World {
        fn new() -> Self {
            let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
            let place = crate::metrics::Place { server: "s", zone: "z", view: "" };
            Self {
                answered: Answered::default(),
                versions: Versions::default(),
                counted: Arc::new(metrics.counted(place, "A", false, "NOERROR", "kubernetes")),
            }
        }

        fn remember(&self, name: u16, answer: &[u8]) {
            let version = self.versions.of("ns", &name.to_string());
            self.answered.remember(&question(0, name), answer, version, self.counted.clone());
        }

        fn recall(&self, id: u8, name: u16) -> Option<Vec<u8>> {
            let mut out = vec![];
            let took = || Duration::ZERO;
            self.answered.recall(&question(id, name), true, took, &self.versions, &mut out).then_some(out)
        }
    }

    #[test]
    fn an_answer_is_given_again_under_the_new_identity_until_its_service_changes() {
        let world = World::new();
        assert_eq!(world.recall(7, 1), None);
        world.remember(1, &[0, 0, 42]);
        assert_eq!(world.recall(7, 1), Some(vec![7, 7, 42]));
        world.versions.advance("ns", "1");
        assert_eq!(world.recall(7, 1), None);
        world.remember(1, &[0, 0, 43]);
        assert_eq!(world.recall(8, 1), Some(vec![8, 8, 43]));
    }

    #[test]
    fn what_is_asked_for_stays_and_what_is_not_goes() {
        let world = World::new();
        let half = u16::try_from(HALF).unwrap();
        world.remember(0, &[0, 0, 1]);
        world.remember(1, &[0, 0, 1]);
        (2..half + 1).for_each(|name| world.remember(name, &[0, 0, 1]));
        assert!(world.recall(1, 0).is_some(), "from the old half, to the new one");
        (half + 1..2 * half - 1).for_each(|name| world.remember(name, &[0, 0, 1]));
        world.remember(2 * half, &[0, 0, 1]);
        assert!(world.recall(1, 0).is_some());
        assert_eq!(world.recall(1, 1), None);
        let halves = world.answered.halves.read();
        assert!(halves.new.len() <= HALF && halves.old.len() <= HALF);
    }

    #[test]
    fn what_is_too_short_or_too_long_is_not_looked_for() {
        let world = World::new();
        let mut out = vec![];
        for length in [0, 1, LONGEST_QUESTION + 3] {
            let question = vec![0; length];
            let took = || Duration::ZERO;
            assert!(!world.answered.recall(&question, true, took, &world.versions, &mut out));
        }
    }
}
