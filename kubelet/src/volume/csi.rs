//! csi: a volume that a driver makes for this one pod.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

use super::{Context, Mounted, VolumeError, VolumePlugin};
use crate::csi::{CsiVolume, mount::Request};

/// The plugin.
pub struct Inline;

#[async_trait]
impl VolumePlugin for Inline {
    fn name(&self) -> &'static str {
        "csi"
    }

    fn supports(&self, volume: &Volume) -> bool {
        volume.csi.is_some()
    }

    async fn set_up(&self, context: &Context<'_>, volume: &Volume) -> Result<Mounted, VolumeError> {
        let source = volume.csi.clone().unwrap_or_default();
        let read_only = source.read_only == Some(true);
        let made = CsiVolume::inline(context.pod, &volume.name, &source);
        let (pod, pod_dir, name) = (context.pod, context.pod_dir, volume.name.as_str());
        let request = Request { pod, pod_dir, volume: &made, name, read_only };
        Ok(Mounted { path: context.csi.set_up(&request).await?, read_only })
    }
}
