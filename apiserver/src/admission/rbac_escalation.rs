//! The guard of roles and bindings, run as the last plugin so that it sees the final object.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Plugin, Request};
use crate::{
    auth::Authorizer,
    authz::rbac::{Rbac, escalation::Escalation},
    status::Status,
};

pub(super) const NAME: &str = "RBACEscalation";

struct RbacEscalation(Escalation);

pub(super) fn new(rbac: Arc<Rbac>, authorizer: Arc<dyn Authorizer>) -> Arc<dyn Plugin> {
    Arc::new(RbacEscalation(Escalation::new(rbac, authorizer)))
}

#[async_trait]
impl Plugin for RbacEscalation {
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
