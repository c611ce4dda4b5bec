//! Patches: how a body changes an object. Pure.
//!
//! JSON patch (RFC 6902) and merge patch (RFC 7396) come from a library; strategic merge patch is ours,
//! driven by the type table.

mod json;
mod strategic;

pub use json::JsonPatch;
pub use strategic::strategic;

use serde_json::Value;

use crate::status::{Details, Reason, Status};

/// Why a strategic merge patch does not apply, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// A directive about a list or map has the wrong form.
    #[error("invalid patch format of {0}")]
    Format(&'static str),
    /// A directive that does not exist.
    #[error("unknown patch type: {directive} in map: {map}")]
    Directive {
        /// What it says.
        directive: String,
        /// Where it stands, as Go prints it.
        map: String,
    },
    /// A directive that lists do not have.
    #[error("merging lists cannot yet be specified in the patch")]
    MergingLists,
    /// A list member lacks the key by which members are told apart.
    #[error("map: {member} does not contain declared merge key: {key}")]
    MergeKey {
        /// The member, as Go prints it.
        member: String,
        /// The key it lacks.
        key: String,
    },
    /// A list has members of different types.
    #[error("list element types are not identical: {0}")]
    MixedList(String),
    /// A list has lists in it.
    #[error("lists of lists are not supported")]
    ListOfLists,
    /// Something else stands where a list belongs.
    #[error("expected a []interface {{}}, but received a {0}")]
    NoList(&'static str),
    /// Members of a patch stand in another order than its directive says.
    #[error("The order in patch list:\n{patch}\n doesn't match $setElementOrder list:\n{order}\n")]
    Order {
        /// The members.
        patch: String,
        /// What the directive says.
        order: String,
    },
}

impl From<PatchError> for Status {
    /// Of the wrong form the client is told; other errors have no kind at upstream's.
    fn from(error: PatchError) -> Self {
        match error {
            PatchError::Format(_) => Self::bad_request(error.to_string()),
            PatchError::ListOfLists => rejected(),
            _ => Self::new(500, Reason::Unknown, error.to_string()),
        }
    }
}

/// The refusal of a patch that does not apply.
fn rejected() -> Status {
    let why = "the server rejected our request due to an error in our request";
    Status::new(422, Reason::Invalid, why).with_details(Details::default())
}

/// A value as Go prints one that it has no name for.
pub fn go_text(value: &Value) -> String {
    let joined = |all: Vec<String>| all.join(" ");
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(all) => format!("[{}]", joined(all.iter().map(go_text).collect())),
        Value::Object(members) => {
            let mut members: Vec<(&String, &Value)> = members.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            let members = members.into_iter().map(|(name, value)| format!("{name}:{}", go_text(value)));
            format!("map[{}]", joined(members.collect()))
        }
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_shown_as_go_shows_them() {
        let patch = json!({"spec": {"replicas": "x", "b": [1, null, true]}, "a": {}});
        assert_eq!(go_text(&patch), "map[a:map[] spec:map[b:[1 <nil> true] replicas:x]]");
    }
}
