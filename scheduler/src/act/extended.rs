//! The claim of devices that is made for a pod's extended resources, and goes when the pod is not bound after all.

use component_base::client;
use k8s_openapi::api::{core::v1::Pod, resource::v1::ResourceClaim};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;

use super::Actor;
use crate::model::{ExtendedClaim, PodInfo};

impl Actor {
    /// Makes the claim for a pod's extended resources, gives it its devices and tells the pod of it. What is made goes
    /// again where that fails.
    pub(super) async fn make_extended(
        &self,
        pod: &PodInfo,
        extended: &ExtendedClaim,
    ) -> Result<ResourceClaim, kube::Error> {
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &pod.namespace);
        let new = ResourceClaim { status: None, ..extended.claim.clone() };
        let made = api.create(&PostParams::default(), &new).await;
        self.metrics.claim_made(made.is_ok());
        let made = made?;
        let written = self.fill_extended(pod, extended, &made).await;
        if written.is_err() {
            self.delete_claim(&made).await;
        }
        written
    }

    async fn fill_extended(
        &self,
        pod: &PodInfo,
        extended: &ExtendedClaim,
        made: &ResourceClaim,
    ) -> Result<ResourceClaim, kube::Error> {
        let mut next = ResourceClaim { status: extended.claim.status.clone(), ..made.clone() };
        let written = self.write_allocated(&mut next).await?;
        let told = json!({"resourceClaimName": written.metadata.name, "requestMappings": extended.mappings});
        let body = json!({"metadata": {"uid": pod.uid}, "status": {"extendedResourceClaimStatus": told}});
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        api.patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(body)).await?;
        Ok(written)
    }

    /// Removes a claim that was made for extended resources. It is left to the next attempt where that fails.
    pub(super) async fn delete_claim(&self, claim: &ResourceClaim) {
        let (namespace, name) = (&claim.metadata.namespace, &claim.metadata.name);
        let (namespace, name) =
            (namespace.as_deref().unwrap_or_default(), name.as_deref().unwrap_or_default());
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), namespace);
        let free = Patch::Merge(json!({"metadata": {"uid": claim.metadata.uid, "finalizers": null}}));
        let same = Preconditions { uid: claim.metadata.uid.clone(), resource_version: None };
        let done = async {
            api.patch(name, &PatchParams::default(), &free).await?;
            api.delete(name, &DeleteParams::default().preconditions(same)).await.map(drop)
        };
        match done.await {
            Err(e) if !client::is_not_found(&e) && !client::is_conflict(&e) => {
                tracing::error!(claim = name, error = %e, "claim for extended resources not removed");
            }
            _ => {}
        }
    }
}
