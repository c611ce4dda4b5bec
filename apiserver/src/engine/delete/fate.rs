//! What a deletion does to an object: it goes, it is marked and stays for those who have something to do first, or it is
//! on its way already.
//!
//! Contract: upstream `rest.BeforeDelete`, `registry.Store.updateForGracefulDeletionAndFinalizers` and the storage of
//! namespaces. Pure: from the object, the options and the clock.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    object::Object,
    objects::rfc3339,
    registry::{Propagation, Resource},
};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const GRACE: &str = "deletionGracePeriodSeconds";

/// What becomes of an object.
#[derive(Debug, PartialEq)]
pub(super) enum Fate {
    /// It goes; this is the last that is said of it.
    Gone(Object),
    /// It stays, marked so.
    Marked(Object),
    /// It goes at the time that was set for it, and this deletion changes nothing.
    Pending,
}

/// What a deletion with these options does at `now`. Where nobody `collects` garbage, nobody would take the finalizers
/// away that ask for it.
pub(super) fn decide(
    resource: &Resource,
    object: &Object,
    options: &Object,
    collects: bool,
    now: Timestamp,
) -> Fate {
    if resource.is_namespaces() {
        if !object.is_terminating() {
            return Fate::Marked(closing(object, options, collects, now));
        }
        if has_content(object) {
            return Fate::Pending;
        }
    }
    let mut next = object.clone();
    if !object.is_terminating() {
        resource.strategy.prepare_delete(&mut next, now);
    }
    // A negative grace period is one second.
    let requested = options.get("gracePeriodSeconds").and_then(Value::as_i64);
    let requested = requested.map(|seconds| if seconds < 0 { 1 } else { seconds });
    // How long it is given by this deletion; nothing where it is given no time of its own.
    let given = match (resource.strategy.grace_period(&next, requested), earlier(object)) {
        (None, _) => None,
        (Some(seconds), _) if !object.is_terminating() => {
            mark(&mut next, after(now, seconds), seconds);
            Some(seconds)
        }
        (Some(_), None | Some(0)) => None,
        (Some(_), Some(earlier)) => match requested.filter(|seconds| *seconds < earlier) {
            Some(seconds) => {
                shorten(&mut next, earlier, seconds, now);
                Some(seconds)
            }
            None => return Fate::Pending,
        },
    };
    if collects {
        let policy = propagation(resource, &next, options);
        choose_collector(&mut next, policy);
    }
    let waits = !next.finalizers().is_empty();
    match given {
        Some(0) if !waits => Fate::Gone(next),
        Some(_) => Fate::Marked(next),
        None if waits => {
            let at = next.deletion_timestamp().filter(|at| *at <= now).unwrap_or(now);
            mark(&mut next, at, 0);
            Fate::Marked(next)
        }
        None => Fate::Gone(object.clone()),
    }
}

/// Whether a namespace is not empty yet, or not known to be.
pub(in crate::engine) fn has_content(namespace: &Object) -> bool {
    namespace.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|all| !all.is_empty())
}

/// The seconds it was given when it was marked; a negative number of them is one.
fn earlier(object: &Object) -> Option<i64> {
    let said = object.metadata().and_then(|metadata| metadata.get(GRACE)).and_then(Value::as_i64);
    said.map(|seconds| if seconds < 0 { 1 } else { seconds })
}

/// Seconds later, or as late as there is a time.
fn after(start: Timestamp, seconds: i64) -> Timestamp {
    start.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(start)
}

/// Marks an object to go at `at`; its generation is another one from the first mark on.
fn mark(object: &mut Object, at: Timestamp, seconds: i64) {
    if !object.is_terminating() && object.generation() > 0 {
        let generation = object.generation() + 1;
        object.metadata_mut().insert("generation".to_owned(), generation.into());
    }
    if object.deletion_timestamp() != Some(at) {
        object.set_meta_str("deletionTimestamp", &rfc3339(at));
    }
    object.metadata_mut().insert(GRACE.to_owned(), seconds.into());
}

/// Gives less time than before, counted from the deletion that set it. What would be over already is over now, but who
/// was to be told of it has a second.
fn shorten(object: &mut Object, earlier: i64, seconds: i64, now: Timestamp) {
    let set = object.deletion_timestamp().unwrap_or(now);
    let at = after(set, seconds - earlier);
    if at < now {
        mark(object, now, seconds.min(1));
    } else {
        mark(object, at, seconds);
    }
}

/// A namespace that begins to end: what is in it goes first, so that no time is set.
fn closing(object: &Object, options: &Object, collects: bool, now: Timestamp) -> Object {
    let mut next = object.clone();
    next.set_meta_str("deletionTimestamp", &rfc3339(now));
    let status = next.as_map_mut().entry("status").or_insert_with(|| json!({}));
    status["phase"] = json!("Terminating");
    if !collects {
        return next;
    }
    let orphan = options.get("orphanDependents").and_then(Value::as_bool);
    let policy = options.get("propagationPolicy").and_then(Value::as_str);
    for (finalizer, name, asked) in
        [(ORPHAN, "Orphan", orphan), (FOREGROUND, "Foreground", orphan.map(|orphan| !orphan))]
    {
        let mut finalizers: Vec<String> = next.finalizers().into_iter().map(str::to_owned).collect();
        let has = finalizers.iter().any(|f| f == finalizer);
        let wanted = asked.or(policy.map(|policy| policy == name)).unwrap_or(has);
        if wanted == has {
            continue;
        }
        finalizers.retain(|f| f != finalizer);
        if wanted {
            finalizers.push(finalizer.to_owned());
        }
        next.set_finalizers(&finalizers.iter().map(String::as_str).collect::<Vec<_>>());
    }
    next
}

/// What dependents get: what is asked for, else what finalizers of the object say, else what is usual for the kind.
fn propagation(resource: &Resource, object: &Object, options: &Object) -> Propagation {
    let usual = resource.strategy.default_propagation();
    if usual == Propagation::Unsupported {
        return usual;
    }
    match options.get("orphanDependents").and_then(Value::as_bool) {
        Some(true) => return Propagation::Orphan,
        Some(false) => return Propagation::Background,
        None => {}
    }
    match options.get("propagationPolicy").and_then(Value::as_str) {
        Some("Orphan") => return Propagation::Orphan,
        Some("Background") => return Propagation::Background,
        Some("Foreground") => return Propagation::Foreground,
        _ => {}
    }
    let first = object.finalizers().into_iter().find_map(|finalizer| match finalizer {
        ORPHAN => Some(Propagation::Orphan),
        FOREGROUND => Some(Propagation::Foreground),
        _ => None,
    });
    first.unwrap_or(usual)
}

/// Leaves the one finalizer that a policy asks for; where that is so already, nothing moves.
fn choose_collector(object: &mut Object, policy: Propagation) {
    let wanted = match policy {
        Propagation::Orphan => Some(ORPHAN),
        Propagation::Foreground => Some(FOREGROUND),
        Propagation::Background | Propagation::Unsupported => None,
    };
    let has = object.finalizers();
    let is_so = [ORPHAN, FOREGROUND].iter().all(|one| has.contains(one) == (wanted == Some(*one)));
    if is_so {
        return;
    }
    let kept = has.into_iter().filter(|one| !matches!(*one, ORPHAN | FOREGROUND)).chain(wanted);
    let kept: Vec<String> = kept.map(str::to_owned).collect();
    object.set_finalizers(&kept.iter().map(String::as_str).collect::<Vec<_>>());
}

#[cfg(test)]
mod tests;
