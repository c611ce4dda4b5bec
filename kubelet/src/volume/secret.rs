//! secret: keys of a secret as files, in memory only.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{KeyToPath, Volume};

use super::{
    Context, Mounted, VolumeError, VolumePlugin,
    atomic::{self, Payload},
    config_map::project,
    mount_tmpfs,
};
use crate::pod;

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
        let name = source.secret_name.clone().unwrap_or_default();
        let optional = source.optional == Some(true);
        let files = files(context, &name, source.items.as_deref(), source.default_mode, optional).await?;
        let path = context.folder(self.name(), &volume.name);
        mount_tmpfs(&path, None)?;
        atomic::write(&path, &files, context.fs_group(), context.now)?;
        Ok(Mounted { path, read_only: true })
    }
}

/// The files a reference to a secret makes.
///
/// # Errors
/// When the secret or a key is missing and not optional.
pub async fn files(
    context: &Context<'_>,
    name: &str,
    items: Option<&[KeyToPath]>,
    default_mode: Option<i32>,
    optional: bool,
) -> Result<Payload, VolumeError> {
    let Some(secret) = context.objects.secret(pod::namespace(context.pod), name).await? else {
        if optional {
            return Ok(Payload::new());
        }
        return Err(VolumeError::NotFound { resource: "secret", name: name.to_owned() });
    };
    let data = secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect();
    project(&data, items, default_mode, optional, "secret")
}
