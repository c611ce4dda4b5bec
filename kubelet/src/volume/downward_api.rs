//! downwardAPI: the pod's own fields and resources as files, in memory only.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, Volume};

use super::{
    Context, Mounted, VolumeError, VolumePlugin,
    atomic::{Payload, Projection},
    empty_dir::MEMORY,
};
use crate::env;

/// The plugin.
pub struct DownwardApi;

#[async_trait]
impl VolumePlugin for DownwardApi {
    fn name(&self) -> &'static str {
        "downward-api"
    }

    fn supports(&self, volume: &Volume) -> bool {
        volume.downward_api.is_some()
    }

    async fn set_up(&self, context: &Context<'_>, volume: &Volume) -> Result<Mounted, VolumeError> {
        let source = volume.downward_api.clone().unwrap_or_default();
        let files = files(context, source.items.as_deref().unwrap_or_default(), source.default_mode)?;
        context.write(self.name(), &volume.name, MEMORY, &files)
    }
}

/// The files of these items.
///
/// # Errors
/// When a field or resource does not exist.
pub fn files(
    context: &Context<'_>,
    items: &[DownwardAPIVolumeFile],
    default_mode: Option<i32>,
) -> Result<Payload, VolumeError> {
    let mut payload = Payload::new();
    for item in items {
        let value = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => env::field_value(context.pod, &field.field_path, context.node)?,
            (None, Some(r)) => {
                let divisor = r.divisor.as_ref().map(|q| q.0.as_str());
                let name = r.container_name.as_deref();
                env::resource_value(context.pod, None, name, &r.resource, divisor, context.node)?
            }
            (None, None) => String::new(),
        };
        let mode = item.mode.or(default_mode).unwrap_or(0o644);
        let mode = u32::try_from(mode).unwrap_or(0o644);
        payload.insert(item.path.clone(), Projection { data: value.into_bytes(), mode, owner: None });
    }
    Ok(payload)
}
