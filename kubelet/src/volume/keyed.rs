//! Files made of the keys of a config map or a secret: what volumes of their own and projected ones have in common.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, KeyToPath};

use super::{
    Context, VolumeError,
    atomic::{Payload, Projection},
};
use crate::pod;

/// What the keys belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A config map.
    ConfigMap,
    /// A secret.
    Secret,
}

/// What a volume says of an object whose keys are to be files.
#[derive(Debug, Clone, Copy)]
pub struct Reference<'a> {
    /// The object's kind.
    pub kind: Kind,
    /// Its name, in the pod's namespace.
    pub name: &'a str,
    /// The keys to take and where to put them; none means all, under their own names.
    pub items: Option<&'a [KeyToPath]>,
    /// Permissions of files that have none of their own.
    pub default_mode: Option<i32>,
    /// Neither the object nor a key needs to exist.
    pub optional: Option<bool>,
}

/// The files a reference makes.
///
/// # Errors
/// When the object or a key is missing and not optional.
pub async fn files(context: &Context<'_>, reference: &Reference<'_>) -> Result<Payload, VolumeError> {
    let (namespace, name) = (pod::namespace(context.pod), reference.name);
    let (resource, found) = match reference.kind {
        Kind::ConfigMap => {
            ("configmap", context.objects.config_map(namespace, name).await?.map(|map| contents(&map)))
        }
        Kind::Secret => {
            let found = context.objects.secret(namespace, name).await?;
            let data = found
                .map(|secret| secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect());
            ("secret", data)
        }
    };
    match found {
        Some(data) => project(&data, reference),
        None if reference.optional == Some(true) => Ok(Payload::new()),
        None => Err(VolumeError::NotFound { resource, name: name.to_owned() }),
    }
}

fn contents(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
    text.chain(binary).collect()
}

/// Chooses keys by items, or takes all.
fn project(data: &BTreeMap<String, Vec<u8>>, reference: &Reference<'_>) -> Result<Payload, VolumeError> {
    let default = reference.default_mode;
    let mode = |own: Option<i32>| u32::try_from(own.or(default).unwrap_or(0o644)).unwrap_or(0o644);
    let Some(items) = reference.items.filter(|i| !i.is_empty()) else {
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
            None if reference.optional == Some(true) => {}
            None => {
                let text = match reference.kind {
                    Kind::Secret => "references non-existent secret key",
                    Kind::ConfigMap => "configmap references non-existent config key",
                };
                return Err(VolumeError::KeyNotFound(text, item.key.clone()));
            }
        }
    }
    Ok(payload)
}
