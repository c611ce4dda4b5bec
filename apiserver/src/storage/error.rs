//! What can go wrong in storage, as the engine needs to tell it apart.

use std::sync::Arc;

use super::Entry;

/// A failed storage operation; the engine turns it into a `Status` in one function.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StorageError {
    /// No object has this key, or the resource is not registered.
    #[error("{0}: not found")]
    NotFound(String),
    /// A create found an object.
    #[error("{0}: already exists")]
    AlreadyExists(String),
    /// The object is not at the expected revision.
    #[error("{key}: modified meanwhile")]
    Conflict {
        /// The object's key.
        key: String,
        /// The object as it is; none when it is gone.
        current: Option<Arc<Entry>>,
    },
    /// The revision asked for is older than what is kept (410 Expired).
    #[error("too old resource version: {requested} ({oldest})")]
    TooOldResourceVersion {
        /// What was asked for.
        requested: u64,
        /// The oldest that can be served; 0 when unknown.
        oldest: u64,
    },
    /// The revision asked for is not reached yet (504 with a retry hint of one second).
    #[error("Too large resource version: {requested}, current: {current}")]
    TooLargeResourceVersion {
        /// What was asked for.
        requested: u64,
        /// What is reached.
        current: u64,
    },
    /// The continue token's revision is compacted (410 Expired). `restart` goes on from the same
    /// key at today's revision and belongs in the Status' `metadata.continue`.
    #[error("{}", EXPIRED_CONTINUE)]
    ExpiredContinue {
        /// A token for the inconsistent remainder.
        restart: String,
    },
    /// The continue token does not decode (400); the text says why.
    #[error("{0}")]
    InvalidContinue(String),
    /// etcd cannot be reached or has no leader (503).
    #[error("{0}")]
    Unavailable(String),
    /// The caches did not reach the read point in time, or etcd was too slow (504).
    #[error("{0}")]
    Timeout(String),
    /// The object is larger than etcd takes (413).
    #[error("{0}: object is too large to store")]
    TooLarge(String),
    /// The stored value cannot be read (500): unknown encoding or failed decryption.
    #[error("{key}: {why}")]
    Undecodable {
        /// The object's key.
        key: String,
        /// What the decoder said.
        why: Unreadable,
    },
    /// Anything etcd answered that should not happen (500).
    #[error("{0}")]
    Internal(String),
}

/// Why a stored value cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// No provider of encryption opens it.
    #[error("data from the storage is not transformable revision=0: {0}")]
    Sealed(String),
    /// What was opened is no object.
    #[error("object not decodable revision={rev}: {why}")]
    Malformed {
        /// Where the value was written.
        rev: u64,
        /// What the decoder said.
        why: String,
    },
}

/// The message of an expired continue token.
const EXPIRED_CONTINUE: &str = "The provided continue parameter is too old to display a consistent list \
result. You can start a new list without the continue parameter, or use the continue token in this response to \
retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - \
objects that were created, modified, or deleted between the time the first chunk was returned and now may show \
up in the list.";

// === impl Unreadable ===

impl Unreadable {
    /// What the decoder said, without the step that failed.
    pub fn cause(&self) -> &str {
        match self {
            Self::Sealed(why) | Self::Malformed { why, .. } => why,
        }
    }
}
