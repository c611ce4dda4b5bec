//! projected: config maps, secrets, downward values, service account tokens, trust anchors and certificates in one folder,
//! in memory only.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{
    Pod, PodCertificateProjection, ServiceAccountTokenProjection, Volume, VolumeProjection,
};

use super::{
    Context, Mounted, VolumeError, VolumePlugin,
    atomic::{Payload, Projection},
    downward_api,
    empty_dir::MEMORY,
    keyed::{self, Kind, Reference},
    trust_bundle,
};
use crate::{
    api::{FetchError, ObjectSource},
    pod,
};

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
        for (index, part) in source.sources.iter().flatten().enumerate() {
            let more = match &part.pod_certificate {
                Some(wanted) => {
                    certificate_files(context, (&volume.name, index), wanted, source.default_mode).await?
                }
                None => part_files(context, part, source.default_mode).await?,
            };
            files.extend(more);
        }
        context.write(self.name(), &volume.name, MEMORY, &files)
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
    let token = token(context.pod, context.objects, source).await?;
    Ok(Payload::from([(source.path.clone(), private(context, token.into_bytes(), mode))]))
}

/// The token that a source asks for.
pub(super) async fn token(
    pod: &Pod,
    objects: &dyn ObjectSource,
    source: &ServiceAccountTokenProjection,
) -> Result<String, FetchError> {
    let audience = source.audience.as_deref().filter(|a| !a.is_empty());
    objects.token(pod, audience, source.expiration_seconds.unwrap_or(3600)).await
}

/// Key and certificates of the source at this place of a volume: in one file, in one each, or both.
async fn certificate_files(
    context: &Context<'_>,
    (volume, index): (&str, usize),
    source: &PodCertificateProjection,
    mode: Option<i32>,
) -> Result<Payload, VolumeError> {
    let certificates = context.certificates.ok_or(VolumeError::NoCertificates)?;
    let bundle = certificates.bundle(context.pod, volume, index, source, context.now).await?;
    let key = bundle.key.into_bytes();
    let both = [key.as_slice(), &bundle.chain].concat();
    let files = [
        (&source.credential_bundle_path, both),
        (&source.key_path, key),
        (&source.certificate_chain_path, bundle.chain),
    ];
    let named =
        files.into_iter().filter_map(|(path, data)| Some((path.clone().filter(|p| !p.is_empty())?, data)));
    Ok(named.map(|(path, data)| (path, private(context, data, mode))).collect())
}

/// A file for the pod's user, and for the group when there is one.
fn private(context: &Context<'_>, data: Vec<u8>, mode: Option<i32>) -> Projection {
    let owner = sole_user(context.pod);
    let mut mode = mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(0o644);
    if owner.is_some() || context.fs_group().is_some() {
        mode = 0o600;
    }
    Projection { data, mode, owner }
}

/// The one user all containers run as, if they do.
fn sole_user(pod: &Pod) -> Option<u32> {
    let mut users = pod::all_containers(pod)
        .into_iter()
        .map(|(_, c)| crate::runtime::security::run_as_user(pod, &c).and_then(|u| u32::try_from(u).ok()));
    let first = users.next()??;
    users.all(|u| u == Some(first)).then_some(first)
}
