//! AlwaysAdmit and AlwaysDeny: everything, and nothing. Both are deprecated, and there for who names them.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Parts, Plugin, Request};
use crate::status::Status;

pub(super) const ADMIT: &str = "AlwaysAdmit";
pub(super) const DENY: &str = "AlwaysDeny";

struct AlwaysAdmit;
struct AlwaysDeny;

pub(super) fn admit(_: &Parts) -> Arc<dyn Plugin> {
    Arc::new(AlwaysAdmit)
}

pub(super) fn deny(_: &Parts) -> Arc<dyn Plugin> {
    Arc::new(AlwaysDeny)
}

#[async_trait]
impl Plugin for AlwaysAdmit {}

#[async_trait]
impl Plugin for AlwaysDeny {
    async fn admit(&self, request: &mut Request<'_>) -> Result<(), Status> {
        Err(request.forbid("admission control is denying all modifications"))
    }

    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        Err(request.forbid("admission control is denying all modifications"))
    }
}
