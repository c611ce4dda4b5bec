//! configMap: keys of a config map as files.

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, KeyToPath, Volume};

use super::{
    Context, Mounted, VolumeError, VolumePlugin,
    atomic::{self, Payload, Projection},
};
use crate::pod;

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
        let optional = source.optional == Some(true);
        let files =
            files(context, &source.name, source.items.as_deref(), source.default_mode, optional).await?;
        let path = context.folder(self.name(), &volume.name);
        atomic::write(&path, &files, context.fs_group(), context.now)?;
        Ok(Mounted { path, read_only: true })
    }
}

/// The files a reference to a config map makes.
///
/// # Errors
/// When the config map or a key is missing and not optional.
pub async fn files(
    context: &Context<'_>,
    name: &str,
    items: Option<&[KeyToPath]>,
    default_mode: Option<i32>,
    optional: bool,
) -> Result<Payload, VolumeError> {
    let Some(map) = context.objects.config_map(pod::namespace(context.pod), name).await? else {
        if optional {
            return Ok(Payload::new());
        }
        return Err(VolumeError::NotFound { resource: "configmap", name: name.to_owned() });
    };
    project(&contents(&map), items, default_mode, optional, "config")
}

fn contents(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
    text.chain(binary).collect()
}

/// Chooses keys by items, or takes all; shared with secrets.
///
/// # Errors
/// When an item's key is missing and the reference is not optional.
pub fn project(
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    default_mode: Option<i32>,
    optional: bool,
    kind: &'static str,
) -> Result<Payload, VolumeError> {
    let mode = |own: Option<i32>| u32::try_from(own.or(default_mode).unwrap_or(0o644)).unwrap_or(0o644);
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        let all = data
            .iter()
            .map(|(k, v)| (k.clone(), Projection { data: v.clone(), mode: mode(None), owner: None }));
        return Ok(all.collect());
    };
    let mut payload = Payload::new();
    for item in items {
        match data.get(&item.key) {
            Some(value) => {
                let file = Projection { data: value.clone(), mode: mode(item.mode), owner: None };
                payload.insert(item.path.clone(), file);
            }
            None if optional => {}
            None => return Err(VolumeError::KeyNotFound(kind, item.key.clone())),
        }
    }
    Ok(payload)
}
