//! Patches: how a body changes an object. Pure.
//!
//! JSON patch (RFC 6902) and merge patch (RFC 7396) come from a library; strategic merge patch is ours,
//! driven by the type table.

mod json;
mod strategic;

pub use json::JsonPatch;
pub use strategic::strategic;

use crate::status::Status;

/// Why a patch does not apply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// A directive that does not exist or has the wrong form.
    #[error("invalid strategic merge patch: {0}")]
    Directive(String),
    /// A list member lacks the key by which members are told apart.
    #[error("map: {member} does not contain declared merge key: {key}")]
    MergeKey {
        /// The member, as JSON.
        member: String,
        /// The key it lacks.
        key: String,
    },
    /// A list has members of different types.
    #[error("list element types are not identical at {0}")]
    MixedList(String),
}

impl From<PatchError> for Status {
    /// A patch that cannot be understood is the client's fault.
    fn from(error: PatchError) -> Self {
        Self::bad_request(error.to_string())
    }
}
