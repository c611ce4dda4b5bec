//! Object metadata every controller reads and writes: keys, owner references, finalizers, conditions.

use std::{fmt, str::FromStr, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, OwnerReference, Time};
use kube::Resource;

/// Namespace and name of an object; the namespace is empty for cluster-scoped kinds. Displays as `ns/name` or `name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ObjectKey {
    /// From its two parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> ObjectKey {
        ObjectKey { namespace: namespace.into(), name: name.into() }
    }

    /// The key of a cluster-scoped object.
    pub fn cluster(name: impl Into<Arc<str>>) -> ObjectKey {
        ObjectKey::new("", name)
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            out.write_str(&self.name)
        } else {
            write!(out, "{}/{}", self.namespace, self.name)
        }
    }
}

/// A text that is not `name` or `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unexpected key format: {0:?}")]
pub struct KeyError(String);

impl FromStr for ObjectKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<ObjectKey, KeyError> {
        match text.split('/').collect::<Vec<_>>()[..] {
            [name] => Ok(ObjectKey::cluster(name)),
            [namespace, name] => Ok(ObjectKey::new(namespace, name)),
            _ => Err(KeyError(text.to_owned())),
        }
    }
}

/// The key of an object.
pub fn object_key<K: Resource>(object: &K) -> ObjectKey {
    key_of(object.meta())
}

/// The key in an object's metadata.
pub fn key_of(meta: &ObjectMeta) -> ObjectKey {
    ObjectKey::new(meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""))
}

/// The owner reference marked as controller, if any.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_deref()?.iter().find(|owner| owner.controller == Some(true))
}

/// Whether `owner` (by uid) controls the object.
pub fn is_controlled_by(meta: &ObjectMeta, owner: &ObjectMeta) -> bool {
    owner.uid.is_some() && controller_of(meta).map(|reference| &reference.uid) == owner.uid.as_ref()
}

/// The reference a controller puts on what it creates: it controls, and blocks the owner's foreground deletion.
pub fn new_controller_ref<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whether deletion has begun.
pub fn is_deleting(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
}

/// Whether the finalizer is set.
pub fn has_finalizer(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|name| name == finalizer)
}

/// Adds the finalizer; false if it was there.
pub fn add_finalizer(meta: &mut ObjectMeta, finalizer: &str) -> bool {
    if has_finalizer(meta, finalizer) {
        return false;
    }
    meta.finalizers.get_or_insert_default().push(finalizer.to_owned());
    true
}

/// Removes the finalizer; false if it was not there.
pub fn remove_finalizer(meta: &mut ObjectMeta, finalizer: &str) -> bool {
    let found = has_finalizer(meta, finalizer);
    if let Some(finalizers) = &mut meta.finalizers {
        finalizers.retain(|name| name != finalizer);
    }
    found
}

/// An annotation's value.
pub fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Sets an annotation.
pub fn annotate(meta: &mut ObjectMeta, key: &str, value: &str) {
    meta.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
}

/// A label's value.
pub fn label<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(key).map(String::as_str)
}

/// The condition of a type.
pub fn condition<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether the condition of a type is `True`.
pub fn is_condition_true(conditions: &[Condition], type_: &str) -> bool {
    condition(conditions, type_).is_some_and(|condition| condition.status == "True")
}

/// Sets or replaces a condition; the transition time moves only with the status. Returns whether anything changed.
/// (`meta.SetStatusCondition`: the caller's `last_transition_time` is used only on a transition, `now` if it is the epoch.)
pub fn set_condition(conditions: &mut Vec<Condition>, mut new: Condition, now: &Time) -> bool {
    if new.last_transition_time.0 == jiff::Timestamp::UNIX_EPOCH {
        new.last_transition_time = now.clone();
    }
    let Some(old) = conditions.iter_mut().find(|condition| condition.type_ == new.type_) else {
        conditions.push(new);
        return true;
    };
    if old.status == new.status {
        new.last_transition_time = old.last_transition_time.clone();
    }
    let changed = *old != new;
    *old = new;
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip() {
        for text in ["node-1", "default/web"] {
            assert_eq!(text.parse::<ObjectKey>().unwrap().to_string(), text);
        }
        assert!("a/b/c".parse::<ObjectKey>().is_err());
    }

    #[test]
    fn condition_keeps_its_transition_time_while_the_status_stays() {
        let at = |second| Time(jiff::Timestamp::from_second(second).unwrap());
        let condition = |status: &str, reason: &str| Condition {
            type_: "Ready".into(),
            status: status.into(),
            reason: reason.into(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
        };
        let mut conditions = Vec::new();
        assert!(set_condition(&mut conditions, condition("True", "A"), &at(1)));
        assert!(!set_condition(&mut conditions, condition("True", "A"), &at(2)));
        assert!(set_condition(&mut conditions, condition("True", "B"), &at(3)));
        assert_eq!(conditions[0].last_transition_time, at(1));
        assert!(set_condition(&mut conditions, condition("False", "B"), &at(4)));
        assert_eq!(conditions[0].last_transition_time, at(4));
        assert!(!is_condition_true(&conditions, "Ready"));
    }

    #[test]
    fn finalizers_are_a_set() {
        let mut meta = ObjectMeta::default();
        assert!(add_finalizer(&mut meta, "x"));
        assert!(!add_finalizer(&mut meta, "x"));
        assert!(remove_finalizer(&mut meta, "x"));
        assert!(!remove_finalizer(&mut meta, "x"));
    }
}
