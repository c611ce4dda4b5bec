//! emptyDir: a folder of the pod's own, on disk or in memory.

use std::os::unix::fs::PermissionsExt;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

use super::{Context, Mounted, VolumeError, VolumePlugin, mount_tmpfs, ownership};
use crate::pod::resources;

/// The plugin.
pub struct EmptyDir;

#[async_trait]
impl VolumePlugin for EmptyDir {
    fn name(&self) -> &'static str {
        "empty-dir"
    }

    fn supports(&self, volume: &Volume) -> bool {
        volume.empty_dir.is_some()
    }

    async fn set_up(&self, context: &Context<'_>, volume: &Volume) -> Result<Mounted, VolumeError> {
        let path = context.folder(self.name(), &volume.name);
        let source = volume.empty_dir.clone().unwrap_or_default();
        let fresh = !path.exists();
        if source.medium.as_deref() == Some("Memory") {
            mount_tmpfs(&path, memory_size(context, source.size_limit.as_ref().map(|q| q.0.as_str())))?;
        } else {
            std::fs::create_dir_all(&path).map_err(VolumeError::io(&path))?;
        }
        if fresh {
            // Any user of the pod may write, whatever umask the kubelet runs with.
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))
                .map_err(VolumeError::io(&path))?;
            if let Some(group) = context.fs_group() {
                ownership::apply(&path, group, false)?;
            }
        }
        Ok(Mounted { path, read_only: false })
    }
}

/// The smaller of the volume's own limit and the pod's memory limit, in bytes.
fn memory_size(context: &Context<'_>, limit: Option<&str>) -> Option<i64> {
    let own = limit.and_then(resources::whole).filter(|v| *v > 0);
    let pods = resources::pod_limit(context.pod, resources::MEMORY).map(|m| m / 1000).filter(|v| *v > 0);
    match (own, pods) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
