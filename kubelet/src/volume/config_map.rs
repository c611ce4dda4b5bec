//! configMap: keys of a config map as files.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

use super::{
    Context, Mounted, VolumeError, VolumePlugin,
    keyed::{self, Kind, Reference},
};

/// The plugin.
pub struct ConfigMapVolume;

#[async_trait]
impl VolumePlugin for ConfigMapVolume {
    fn name(&self) -> &'static str {
        "configmap"
    }

    fn supports(&self, volume: &Volume) -> bool {
        volume.config_map.is_some()
    }

    async fn set_up(&self, context: &Context<'_>, volume: &Volume) -> Result<Mounted, VolumeError> {
        let source = volume.config_map.clone().unwrap_or_default();
        let reference = Reference {
            kind: Kind::ConfigMap,
            name: &source.name,
            items: source.items.as_deref(),
            default_mode: source.default_mode,
            optional: source.optional,
        };
        let files = keyed::files(context, &reference).await?;
        context.write(self.name(), &volume.name, "", &files)
    }
}
