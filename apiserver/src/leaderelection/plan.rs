//! Who is to hold a lease: decided from the lease, its candidates and the time, and nothing else.

use std::cmp::Ordering;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use crate::{object::Object, objects::micro};

/// The one way to choose that the server knows; others are somebody else's.
const OLDEST: &str = "OldestEmulationVersion";
/// Time candidates have to say that they live, and for which what they said counts.
const TO_ANSWER: SignedDuration = SignedDuration::from_secs(5);
/// A candidate that said nothing for so long is none any more.
const SILENCE: SignedDuration = SignedDuration::from_mins(30);
/// Seconds a lease that is given to somebody lasts until its holder says more.
const FIRST_TERM: i64 = 5;

/// Three numbers, and what comes before their release.
type Version = (u64, u64, u64, Prerelease);

/// A release is newer than what came before it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Prerelease {
    Before(Vec<Identifier>),
    Released,
}

/// Numbers go before words (Semantic Versioning, 11.4).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Identifier {
    Number(u64),
    Word(String),
}

/// What a `LeaseCandidate` says.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    name: String,
    /// The lease it is for, in its own namespace.
    pub(super) lease: String,
    created: Option<Timestamp>,
    strategy: String,
    binary: Option<Version>,
    emulated: Option<Version>,
    asked: Option<Timestamp>,
    answered: Option<Timestamp>,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// The right one holds the lease, or somebody else chooses.
    Settled,
    /// Candidates have been asked whether they live.
    Waits,
    /// These have to be asked.
    Ask(Vec<&'a str>),
    /// The lease is chosen this way, and held by this one if the server chooses.
    Choose { strategy: &'a str, holder: Option<&'a str> },
    /// Nothing can be decided, for this reason.
    Undecided(String),
}

// === impl Candidate ===

impl Candidate {
    pub(super) fn of(object: &Object) -> Self {
        let spec = object.get("spec");
        let text = |field: &str| text(spec, field).to_owned();
        Self {
            name: object.name().to_owned(),
            lease: text("leaseName"),
            created: object.meta_str("creationTimestamp").parse().ok(),
            strategy: text("strategy"),
            binary: version(&text("binaryVersion")),
            emulated: version(&text("emulationVersion")),
            asked: time(spec, "pingTime"),
            answered: time(spec, "renewTime"),
        }
    }

    /// Whether it has been asked something that it has not answered.
    pub(super) fn is_asked(&self) -> bool {
        matches!((self.asked, self.answered), (Some(asked), Some(answered)) if answered < asked)
    }

    /// Whether it is none any more.
    pub(super) fn is_silent(&self, now: Timestamp) -> bool {
        self.answered.is_none_or(|at| now.duration_since(at) > SILENCE)
    }

    fn has_answered(&self, now: Timestamp) -> bool {
        self.answered.is_some_and(|at| now.duration_since(at) < TO_ANSWER)
    }

    /// Which of two goes first: the oldest API, then the oldest binary, then who was there first.
    fn order(&self, other: &Self) -> Ordering {
        (&self.emulated, &self.binary, self.created).cmp(&(&other.emulated, &other.binary, other.created))
    }
}

/// `1.2.3` with or without a `v` in front, a part after a dash, and what was built.
fn version(text: &str) -> Option<Version> {
    let text = text.trim().trim_start_matches('v').split('+').next()?;
    let (numbers, before) = text.split_once('-').map_or((text, None), |(n, before)| (n, Some(before)));
    let mut parts = numbers.splitn(3, '.').map(|part| part.parse::<u64>().ok());
    let version = (parts.next()??, parts.next().unwrap_or(Some(0))?, parts.next().unwrap_or(Some(0))?);
    let identifier =
        |part: &str| part.parse().map_or_else(|_| Identifier::Word(part.to_owned()), Identifier::Number);
    let before = before
        .map_or(Prerelease::Released, |all| Prerelease::Before(all.split('.').map(identifier).collect()));
    Some((version.0, version.1, version.2, before))
}

fn text<'a>(spec: Option<&'a Value>, field: &str) -> &'a str {
    spec.and_then(|spec| spec.get(field)?.as_str()).unwrap_or_default()
}

fn time(spec: Option<&Value>, field: &str) -> Option<Timestamp> {
    text(spec, field).parse().ok()
}

/// Whether nobody holds a lease any more.
fn is_over(lease: &Object, now: Timestamp) -> bool {
    let spec = lease.get("spec");
    let seconds = spec.and_then(|spec| spec.get("leaseDurationSeconds")?.as_i64());
    match (time(spec, "renewTime"), seconds) {
        (Some(renewed), Some(seconds)) => now.duration_since(renewed) > SignedDuration::from_secs(seconds),
        _ => true,
    }
}

/// What is to be done for a lease with these candidates, all of which have answered within [`SILENCE`].
pub(super) fn step<'a>(lease: Option<&Object>, candidates: &'a [Candidate], now: Timestamp) -> Step<'a> {
    match is_settled(lease, candidates, now) {
        Ok(true) => return Step::Settled,
        Ok(false) => {}
        Err(why) => return Step::Undecided(why),
    }
    let (mut waits, mut ask) = (false, Vec::new());
    for candidate in candidates {
        let asked_lately = candidate.asked.is_some_and(|at| now.duration_since(at) < TO_ANSWER);
        if asked_lately && candidate.is_asked() {
            waits = true;
        } else if !candidate.has_answered(now) && !candidate.is_asked() {
            ask.push(candidate.name.as_str());
        }
    }
    match (ask.is_empty(), waits) {
        (false, _) => return Step::Ask(ask),
        (true, true) => return Step::Waits,
        (true, false) => {}
    }
    let present: Vec<&Candidate> = candidates.iter().filter(|one| one.has_answered(now)).collect();
    match strategy_of(&present) {
        Err(why) => Step::Undecided(why),
        Ok(OLDEST) => match oldest(&present) {
            Some(holder) => Step::Choose { strategy: OLDEST, holder: Some(&holder.name) },
            None => Step::Undecided("no candidate has versions".to_owned()),
        },
        Ok(strategy) => Step::Choose { strategy, holder: None },
    }
}

/// Whether no election is needed.
fn is_settled(lease: Option<&Object>, candidates: &[Candidate], now: Timestamp) -> Result<bool, String> {
    let Some(lease) = lease else { return Ok(false) };
    let holder = text(lease.get("spec"), "holderIdentity");
    // All are asked now and then, so that those who are gone are found out.
    let long_ago = |one: &Candidate| one.answered.is_some_and(|at| now.duration_since(at) > SILENCE / 2);
    if holder.is_empty() || is_over(lease, now) || candidates.iter().any(long_ago) {
        return Ok(false);
    }
    let all: Vec<&Candidate> = candidates.iter().collect();
    if strategy_of(&all)? != OLDEST {
        return Ok(true);
    }
    Ok(oldest(&all).is_none_or(|best| best.name == holder))
}

/// How is chosen: as the newest binaries want it.
fn strategy_of<'a>(candidates: &[&'a Candidate]) -> Result<&'a str, String> {
    let newest = candidates.iter().max_by(|a, b| a.binary.cmp(&b.binary)).ok_or("no available candidates")?;
    let other = candidates.iter().find(|one| one.binary == newest.binary && one.strategy != newest.strategy);
    match other {
        None => Ok(&newest.strategy),
        Some(other) => Err(format!(
            "candidates {:?}, {:?} at same binary version but received differing strategies {}, {}",
            newest.name, other.name, newest.strategy, other.strategy
        )),
    }
}

fn oldest<'a>(candidates: &[&'a Candidate]) -> Option<&'a Candidate> {
    let versioned = candidates.iter().filter(|one| one.binary.is_some() && one.emulated.is_some());
    versioned.copied().min_by(|a, b| a.order(b))
}

/// The spec of an object, which has one from now on.
pub(super) fn spec_of(object: &mut Object) -> &mut Map<String, Value> {
    let spec = object.as_map_mut().entry("spec").or_insert_with(|| json!({}));
    if !spec.is_object() {
        *spec = json!({});
    }
    spec.as_object_mut().expect("it is one now")
}

/// A new lease, for its first holder if there is one.
pub(super) fn begin(lease: &mut Object, strategy: &str, holder: Option<&str>, now: Timestamp) {
    let spec = spec_of(lease);
    spec.insert("strategy".to_owned(), strategy.into());
    spec.insert("leaseDurationSeconds".to_owned(), FIRST_TERM.into());
    spec.insert("renewTime".to_owned(), micro(now).into());
    if let Some(holder) = holder {
        spec.insert("holderIdentity".to_owned(), holder.into());
    }
}

/// Brings a lease to what was chosen; whether that changed it. Who holds it now goes on until it has heard of the one
/// who is preferred.
pub(super) fn amend(lease: &mut Object, strategy: &str, holder: Option<&str>, now: Timestamp) -> bool {
    let before = lease.get("spec").cloned();
    let over = is_over(lease, now);
    let held_by = text(before.as_ref(), "holderIdentity").to_owned();
    spec_of(lease).insert("strategy".to_owned(), strategy.into());
    match holder {
        Some(holder) if holder == held_by => {}
        Some(holder) if held_by.is_empty() || over => {
            let spec = spec_of(lease);
            spec.remove("preferredHolder");
            spec.remove("acquireTime");
            begin(lease, strategy, Some(holder), now);
        }
        Some(holder) => drop(spec_of(lease).insert("preferredHolder".to_owned(), holder.into())),
        None => {}
    }
    lease.get("spec").cloned() != before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    /// `name emulated binary`, made in the order of `second`, which answered then.
    fn candidate(text: &str, second: i64) -> Candidate {
        let mut words = text.split(' ');
        let mut word = || words.next().unwrap_or_default();
        let object = json!({"metadata": {"name": word(), "namespace": "n", "creationTimestamp": at(second).to_string()},
            "spec": {"leaseName": "l", "emulationVersion": word(), "binaryVersion": word(),
                "strategy": OLDEST, "renewTime": micro(at(second))}});
        Candidate::of(&Object::from_value(object).unwrap())
    }

    fn lease(spec: Value) -> Object {
        Object::from_value(json!({"metadata": {"name": "l", "namespace": "n"}, "spec": spec})).unwrap()
    }

    fn held(holder: &str, renewed: i64) -> Object {
        lease(json!({"holderIdentity": holder, "strategy": OLDEST, "leaseDurationSeconds": 15,
            "renewTime": micro(at(renewed)), "acquireTime": micro(at(0))}))
    }

    fn chosen(holder: &str) -> Step<'_> {
        Step::Choose { strategy: OLDEST, holder: Some(holder) }
    }

    #[test]
    fn the_oldest_version_wins_then_who_was_there_first() {
        for (candidates, best) in [
            (&["a 1.36.0 1.36.0", "b 1.35.0 1.36.0"][..], "b"),
            (&["a 1.35.0 1.36.0", "b 1.35.0 1.35.0"], "b"),
            (&["a 1.35.0 1.36.0", "b 1.35.0 1.36.0"], "a"),
            (&["a v1.36.0 1.36.0", "b 1.36.0-beta.2 1.36.0"], "b"),
            (&["a 1.36.0-beta.11 1.36.0", "b 1.36.0-beta.2 1.36.0"], "b"),
            (&["a nonsense 1.1.0", "b 1.36.0 1.36.0"], "b"),
        ] {
            let numbered = candidates.iter().zip(0..);
            let all: Vec<Candidate> = numbered.map(|(text, second)| candidate(text, second)).collect();
            assert_eq!(step(None, &all, at(2)), chosen(best), "{candidates:?}");
        }
    }

    #[test]
    fn candidates_are_asked_whether_they_live_before_they_are_chosen() {
        let mut all = vec![candidate("a 1.35.0 1.36.0", 0), candidate("b 1.36.0 1.36.0", 58)];
        assert_eq!(step(None, &all, at(60)), Step::Ask(vec!["a"]));
        all[0].asked = Some(at(60));
        assert_eq!(step(None, &all, at(62)), Step::Waits);
        // Who does not answer is not chosen; who does is.
        all[1].answered = Some(at(65));
        assert_eq!(step(None, &all, at(66)), chosen("b"));
        all[0].answered = Some(at(66));
        assert_eq!(step(None, &all, at(66)), chosen("a"));
        assert_eq!(step(None, &all[1..], at(80)), Step::Ask(vec!["b"]));
        all.iter_mut().for_each(|one| one.asked = Some(at(90)));
        assert_eq!(step(None, &all, at(96)), Step::Undecided("no available candidates".to_owned()));
    }

    #[test]
    fn a_lease_that_is_held_by_the_best_stays() {
        let mut all = vec![candidate("a 1.36.0 1.36.0", 0), candidate("b 1.35.0 1.36.0", 50)];
        assert_eq!(step(Some(&held("b", 50)), &all, at(52)), Step::Settled);
        assert_eq!(step(Some(&held("a", 50)), &all, at(52)), Step::Ask(vec!["a"]));
        assert_eq!(step(Some(&held("b", 10)), &all, at(52)), Step::Ask(vec!["a"]));
        // After a quarter of an hour all are asked, whoever holds it.
        assert_eq!(step(Some(&held("b", 1000)), &all, at(1000)), Step::Ask(vec!["a", "b"]));
        all[1].strategy = "example.com/other".to_owned();
        assert!(
            matches!(step(Some(&held("b", 50)), &all, at(52)), Step::Undecided(why) if why.contains("differing"))
        );
        all[0].strategy = all[1].strategy.clone();
        assert_eq!(step(Some(&held("a", 50)), &all, at(52)), Step::Settled);
        let others = Step::Choose { strategy: "example.com/other", holder: None };
        assert_eq!(step(None, &all[1..], at(52)), others);
    }

    #[test]
    fn a_holder_is_told_of_the_one_who_is_preferred_and_a_lease_that_is_over_is_given_away() {
        let mut running = held("a", 50);
        assert!(amend(&mut running, OLDEST, Some("b"), at(52)));
        let spec = running.get("spec").unwrap();
        assert_eq!((&spec["holderIdentity"], &spec["preferredHolder"]), (&json!("a"), &json!("b")));
        assert!(!amend(&mut running, OLDEST, Some("b"), at(53)));
        assert!(amend(&mut running, OLDEST, Some("b"), at(70)));
        let given = json!({"holderIdentity": "b", "strategy": OLDEST, "leaseDurationSeconds": 5, "renewTime": micro(at(70))});
        assert_eq!(running.get("spec"), Some(&given));
        let mut others = held("a", 50);
        assert!(amend(&mut others, "example.com/other", None, at(52)));
        assert_eq!(others.pointer("/spec/strategy"), Some(&json!("example.com/other")));
        let mut nobody = lease(json!({}));
        assert!(amend(&mut nobody, OLDEST, Some("a"), at(0)));
        assert_eq!(nobody.pointer("/spec/holderIdentity"), Some(&json!("a")));
    }
}
