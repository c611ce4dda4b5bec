//! PodGroupProtection: a group of pods carries the finalizer that keeps it while pods name it.
//!
//! Contract: KEP-4671; only where the gate GenericWorkload is on.

use std::sync::Arc;

use async_trait::async_trait;
use component_base::features::Gate;

use super::{Parts, Plugin, Request};
use crate::{objects::POD_GROUPS, status::Status};

pub(super) const NAME: &str = "PodGroupProtection";

const FINALIZER: &str = "scheduling.k8s.io/podgroup-protection";

struct PodGroupProtection {
    on: bool,
}

pub(super) fn new(parts: &Parts) -> Arc<dyn Plugin> {
    Arc::new(PodGroupProtection { on: parts.gates.has(Gate::GenericWorkload) })
}

#[async_trait]
impl Plugin for PodGroupProtection {
    async fn admit(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if self.on
            && request.is(POD_GROUPS)
            && let Some(group) = request.object.as_deref_mut()
        {
            group.add_finalizer(FINALIZER);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::testing::Write, *};
    use crate::objects::memory::Memory;

    #[tokio::test]
    async fn a_new_group_is_kept_while_in_use() {
        let group = json!({"metadata": {"name": "g", "namespace": "n"}});
        let made = Write::create(POD_GROUPS, group).run(&Memory::with(Vec::new()), &[NAME]).await.unwrap();
        assert_eq!(made["metadata"]["finalizers"], json!([FINALIZER]));
    }
}
