//! The guard of roles and bindings, run as the last plugin so that it sees the final object.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Operation, Plugin, Request};
use crate::{
    auth::Authorizer,
    authz::rbac::{Rbac, escalation::Escalation},
    status::Status,
};

struct RbacEscalation(Escalation);

pub(super) fn new(rbac: Arc<Rbac>, authorizer: Arc<dyn Authorizer>) -> Arc<dyn Plugin> {
    Arc::new(RbacEscalation(Escalation::new(rbac, authorizer)))
}

#[async_trait]
impl Plugin for RbacEscalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if request.resource.group != "rbac.authorization.k8s.io" {
            return Ok(());
        }
        match request.object.as_deref() {
            Some(object) => self.0.check(request.attributes, object, request.old).await,
            None => Ok(()),
        }
    }
}
