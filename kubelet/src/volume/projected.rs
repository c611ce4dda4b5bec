//! projected: config maps, secrets, downward values, service account tokens and trust anchors in one folder, in memory only.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ServiceAccountTokenProjection, Volume, VolumeProjection};

use super::{
    Context, Mounted, VolumeError, VolumePlugin,
    atomic::{self, Payload, Projection},
    downward_api,
    keyed::{self, Kind, Reference},
    mount_tmpfs, trust_bundle,
};
use crate::pod;

/// The plugin.
pub struct Projected;

#[async_trait]
impl VolumePlugin for Projected {
    fn name(&self) -> &'static str {
        "projected"
    }

    fn supports(&self, volume: &Volume) -> bool {
        volume.projected.is_some()
    }

    async fn set_up(&self, context: &Context<'_>, volume: &Volume) -> Result<Mounted, VolumeError> {
        let source = volume.projected.clone().unwrap_or_default();
        let mut files = Payload::new();
        for part in source.sources.iter().flatten() {
            files.extend(part_files(context, part, source.default_mode).await?);
        }
        let path = context.folder(self.name(), &volume.name);
        mount_tmpfs(&path, None)?;
        atomic::write(&path, &files, context.fs_group(), context.now)?;
        Ok(Mounted { path, read_only: true })
    }
}

async fn part_files(
    context: &Context<'_>,
    part: &VolumeProjection,
    mode: Option<i32>,
) -> Result<Payload, VolumeError> {
    let of = |kind, name, items, optional| Reference { kind, name, items, default_mode: mode, optional };
    if let Some(map) = &part.config_map {
        let reference = of(Kind::ConfigMap, &map.name, map.items.as_deref(), map.optional);
        return keyed::files(context, &reference).await;
    }
    if let Some(secret) = &part.secret {
        let reference = of(Kind::Secret, &secret.name, secret.items.as_deref(), secret.optional);
        return keyed::files(context, &reference).await;
    }
    if let Some(downward) = &part.downward_api {
        return downward_api::files(context, downward.items.as_deref().unwrap_or_default(), mode);
    }
    if let Some(token) = &part.service_account_token {
        return token_file(context, token, mode).await;
    }
    if let Some(source) = &part.cluster_trust_bundle {
        let data = trust_bundle::content(context, source).await?;
        return Ok(Payload::from([(source.path.clone(), private(context, data, mode))]));
    }
    Err(VolumeError::NoPlugin("projected source".to_owned()))
}

async fn token_file(
    context: &Context<'_>,
    source: &ServiceAccountTokenProjection,
    mode: Option<i32>,
) -> Result<Payload, VolumeError> {
    let seconds = source.expiration_seconds.unwrap_or(3600);
    let audience = source.audience.as_deref().filter(|a| !a.is_empty());
    let token = context.objects.token(context.pod, audience, seconds).await?;
    Ok(Payload::from([(source.path.clone(), private(context, token.into_bytes(), mode))]))
}

/// A file for the pod's user, and for the group when there is one.
fn private(context: &Context<'_>, data: Vec<u8>, mode: Option<i32>) -> Projection {
    let owner = sole_user(context);
    let mut mode = mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(0o644);
    if owner.is_some() || context.fs_group().is_some() {
        mode = 0o600;
    }
    Projection { data, mode, owner }
}

/// The one user all containers run as, if they do.
fn sole_user(context: &Context<'_>) -> Option<u32> {
    if context.fs_group().is_some() {
        return None;
    }
    let mut users = pod::all_containers(context.pod).into_iter().map(|(_, c)| {
        crate::runtime::security::run_as_user(context.pod, &c).and_then(|u| u32::try_from(u).ok())
    });
    let first = users.next()??;
    users.all(|u| u == Some(first)).then_some(first)
}
