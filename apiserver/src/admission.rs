//! Admission: plugins that change or refuse a write after authorization.
//!
//! One file per plugin under `admission/`, one line in its list, run in upstream's recommended
//! order. Contract: upstream's `admission.Interface` (mutation first, then validation).

use std::sync::Arc;

use async_trait::async_trait;

use crate::{auth::Attributes, object::Object, registry::Resource, status::Status};

/// What the write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A new object, or POST to a subresource.
    Create,
    /// A change.
    Update,
    /// A deletion; `object` is empty, `old` is what goes.
    Delete,
    /// exec, attach, portforward, proxy.
    Connect,
}

/// One write on its way through admission.
pub struct Request<'a> {
    /// Who, what, where. For generateName the name is still empty.
    pub attributes: &'a Attributes,
    /// The resource written.
    pub resource: &'a Arc<Resource>,
    /// Create, update, delete, connect.
    pub operation: Operation,
    /// The new object (for subresources: its body, e.g. Binding, Eviction, Scale); plugins may change it in `admit`.
    pub object: Option<&'a mut Object>,
    /// The stored object, on update and delete.
    pub old: Option<&'a Object>,
    /// The delete, create or update options as sent.
    pub options: &'a Object,
    /// Whether nothing will be stored.
    pub dry_run: bool,
    /// Warnings for the client.
    pub warnings: &'a mut Vec<String>,
}

/// One admission plugin. A refusal is `Status::forbidden` unless upstream says otherwise.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// Upstream's name, for example `NamespaceLifecycle`.
    fn name(&self) -> &'static str;
    /// Whether the plugin wants this operation.
    fn handles(&self, operation: Operation) -> bool;
    /// Mutation.
    async fn admit(&self, _request: &mut Request<'_>) -> Result<(), Status> {
        Ok(())
    }
    /// Validation of the final object.
    async fn validate(&self, _request: &mut Request<'_>) -> Result<(), Status> {
        Ok(())
    }
}
