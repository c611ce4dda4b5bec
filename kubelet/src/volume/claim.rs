//! persistentVolumeClaim: the volume a claim is bound to: a path of this node (hostPath or local), a folder of a file
//! server (nfs), or a driver's volume.

use std::path::Path;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Volume};

use super::{Context, Mounted, VolumeError, VolumePlugin, host_path, nfs, ownership};
use crate::{
    csi::{CsiVolume, mount::Request},
    pod::{self, resources},
};

/// The plugin.
pub struct Claim;

#[async_trait]
impl VolumePlugin for Claim {
    fn name(&self) -> &'static str {
        "claim"
    }

    fn supports(&self, volume: &Volume) -> bool {
        volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()
    }

    async fn set_up(&self, context: &Context<'_>, volume: &Volume) -> Result<Mounted, VolumeError> {
        let (name, read_only) = match &volume.persistent_volume_claim {
            Some(source) => (source.claim_name.clone(), source.read_only == Some(true)),
            // A generic ephemeral volume's claim is named after pod and volume.
            None => (format!("{}-{}", pod::name(context.pod), volume.name), false),
        };
        let claim =
            context.objects.claim(pod::namespace(context.pod), &name).await?.ok_or_else(|| {
                VolumeError::NotFound { resource: "persistentvolumeclaim", name: name.clone() }
            })?;
        let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        let volume_name = claim.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|_| bound);
        let volume_name = volume_name.ok_or(VolumeError::NotBound(name))?;
        let persistent = context
            .objects
            .volume(&volume_name)
            .await?
            .ok_or(VolumeError::NotFound { resource: "persistentvolume", name: volume_name })?;
        if let Some(made) = CsiVolume::persistent(&persistent) {
            let (pod, pod_dir) = (context.pod, context.pod_dir);
            let request = Request { pod, pod_dir, volume: &made, name: &volume.name, read_only };
            let path = context.csi.set_up(&request).await?;
            grow(context, &claim, &persistent, &made, &path).await?;
            return Ok(Mounted { path, read_only: read_only || made.read_only });
        }
        let spec = persistent.spec.clone().unwrap_or_default();
        if let Some(source) = &spec.nfs {
            let read_only = read_only || source.read_only == Some(true);
            let options = spec.mount_options.as_deref().unwrap_or_default();
            return nfs::set_up(context, &volume.name, source, options, read_only).await;
        }
        let path = node_path(&persistent)?;
        if let Some(group) = context.fs_group()
            && persistent
                .spec
                .as_ref()
                .is_some_and(|s| s.local.is_some() && s.volume_mode.as_deref() != Some("Block"))
        {
            let context = pod::spec(context.pod).security_context.as_ref();
            let policy = context.and_then(|c| c.fs_group_change_policy.as_deref());
            if !ownership::is_settled(path.as_ref(), group, read_only, policy) {
                ownership::apply(path.as_ref(), group, read_only)?;
            }
        }
        Ok(Mounted { path: path.into(), read_only })
    }
}

/// Lets the file system grow where the volume has, and tells the claim.
async fn grow(
    context: &Context<'_>,
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
    made: &CsiVolume,
    path: &Path,
) -> Result<(), VolumeError> {
    let Some(size) = waiting_size(claim, volume) else { return Ok(()) };
    let bytes = resources::whole(&size).unwrap_or(0);
    if context.csi.expand(made, path, bytes).await? {
        context.objects.claim_has_grown(claim, &size).await?;
    }
    Ok(())
}

/// The size the volume has and its file system is still to get.
fn waiting_size(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<String> {
    let status = claim.status.as_ref()?;
    let pending = status
        .conditions
        .iter()
        .flatten()
        .any(|c| c.type_ == "FileSystemResizePending" && c.status == "True")
        || status
            .allocated_resource_statuses
            .as_ref()
            .and_then(|s| s.get("storage"))
            .is_some_and(|s| s == "NodeResizePending");
    let size = volume.spec.as_ref()?.capacity.as_ref()?.get("storage")?.0.clone();
    let has = status.capacity.as_ref().and_then(|c| c.get("storage")).and_then(|q| resources::whole(&q.0));
    (pending && resources::whole(&size)? > has.unwrap_or(0)).then_some(size)
}

fn node_path(volume: &PersistentVolume) -> Result<String, VolumeError> {
    let spec = volume.spec.clone().unwrap_or_default();
    if let Some(host) = spec.host_path {
        host_path::check(&host.path, host.type_.as_deref().unwrap_or_default())?;
        return Ok(host.path);
    }
    if let Some(local) = spec.local {
        let block = spec.volume_mode.as_deref() == Some("Block");
        host_path::check(&local.path, if block { "BlockDevice" } else { "Directory" })?;
        return Ok(local.path);
    }
    Err(VolumeError::NoPlugin(volume.metadata.name.clone().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_file_system_grows_only_when_that_is_what_is_waited_for() {
        let of = |has: &str, status: serde_json::Value| {
            let mut status = status;
            status["capacity"] = json!({ "storage": has });
            let claim = serde_json::from_value(json!({ "status": status })).unwrap();
            let volume =
                serde_json::from_value(json!({ "spec": { "capacity": { "storage": "2Gi" } } })).unwrap();
            waiting_size(&claim, &volume)
        };
        let pending = json!({ "conditions": [{ "type": "FileSystemResizePending", "status": "True" }] });
        assert_eq!(of("1Gi", pending.clone()), Some("2Gi".into()));
        assert_eq!(of("2Gi", pending), None);
        assert_eq!(of("1Gi", json!({})), None);
        let statuses = json!({ "allocatedResourceStatuses": { "storage": "NodeResizePending" } });
        assert_eq!(of("1Gi", statuses), Some("2Gi".into()));
    }
}
