//! persistentVolumeClaim: the volume a claim is bound to, when it is a path of this node (hostPath or local).

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolume, Volume};

use super::{Context, Mounted, VolumeError, VolumePlugin, host_path, ownership};
use crate::pod;

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
        let path = node_path(&persistent)?;
        if let Some(group) = context.fs_group()
            && persistent.spec.as_ref().is_some_and(|s| s.local.is_some())
        {
            ownership::apply(path.as_ref(), group, read_only)?;
        }
        Ok(Mounted { path: path.into(), read_only })
    }
}

fn node_path(volume: &PersistentVolume) -> Result<String, VolumeError> {
    let spec = volume.spec.clone().unwrap_or_default();
    if let Some(host) = spec.host_path {
        host_path::check(&host.path, host.type_.as_deref().unwrap_or_default())?;
        return Ok(host.path);
    }
    if let Some(local) = spec.local {
        host_path::check(&local.path, "Directory")?;
        return Ok(local.path);
    }
    Err(VolumeError::NoPlugin(volume.metadata.name.clone().unwrap_or_default()))
}
