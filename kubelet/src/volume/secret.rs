//! secret: keys of a secret as files, in memory only.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

use super::{
    Context, Mounted, VolumeError, VolumePlugin,
    empty_dir::MEMORY,
    keyed::{self, Kind, Reference},
};

/// The plugin.
pub struct SecretVolume;

#[async_trait]
impl VolumePlugin for SecretVolume {
    fn name(&self) -> &'static str {
        "secret"
    }

    fn supports(&self, volume: &Volume) -> bool {
        volume.secret.is_some()
    }

    async fn set_up(&self, context: &Context<'_>, volume: &Volume) -> Result<Mounted, VolumeError> {
        let source = volume.secret.clone().unwrap_or_default();
        let reference = Reference {
            kind: Kind::Secret,
            name: source.secret_name.as_deref().unwrap_or_default(),
            items: source.items.as_deref(),
            default_mode: source.default_mode,
            optional: source.optional,
        };
        let files = keyed::files(context, &reference).await?;
        context.write(self.name(), &volume.name, MEMORY, &files)
    }
}
