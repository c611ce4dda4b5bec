//! Bootstrap tokens: the public cluster information is signed with them, and they go when their time is over.
//!
//! Contract: upstream's `bootstrap-signer-controller` and `token-cleaner-controller` (`pkg/controller/bootstrap`):
//! secrets of type `bootstrap.kubernetes.io/token` in `kube-system`, ConfigMap `kube-public/cluster-info`. Both are off
//! by default.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use component_base::{
    client,
    clock::SharedClock,
    informer::{Informer, ListWatch},
    meta::ObjectKey,
    workqueue::{Outcome, WorkQueue, run_workers},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api,
    api::{DeleteParams, PostParams, Preconditions},
};
use serde_json::json;

use super::{Context, enqueue_changes};

const TYPE: &str = "bootstrap.kubernetes.io/token";
const SECRETS: &str = "kube-system";
const NAME_PREFIX: &str = "bootstrap-token-";
const PUBLIC: &str = "kube-public";
const INFORMATION: &str = "cluster-info";
const SIGNED: &str = "kubeconfig";
const SIGNATURE_PREFIX: &str = "jws-kubeconfig-";

fn secrets(ctx: &Context) -> Informer<Secret> {
    ctx.informers.get(ListWatch {
        namespace: Some(SECRETS.into()),
        fields: Some(format!("type={TYPE}")),
        ..ListWatch::default()
    })
}

/// Removes tokens whose time is over.
pub(super) fn start_cleaner(ctx: &Context) {
    let secrets = secrets(ctx);
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("token_cleaner");
    enqueue_changes(&secrets, &queue);
    let (api, clock) = (Api::<Secret>::namespaced(ctx.client.clone(), SECRETS), ctx.clock.clone());
    run_workers(&ctx.tasks, &queue, 1, move |key| {
        let (secrets, api, clock) = (secrets.clone(), api.clone(), clock.clone());
        async move {
            let Some(secret) = secrets.store().get(&key) else { return Ok(Outcome::Done) };
            let Some(end) = expiry(&secret) else { return Ok(Outcome::Done) };
            if let Some(left) = left(end, clock.now()) {
                return Ok(Outcome::RequeueAfter(left));
            }
            let same = Preconditions { uid: secret.metadata.uid.clone(), resource_version: None };
            match api.delete(&key.name, &DeleteParams::default().preconditions(same)).await {
                Err(e) if !client::is_not_found(&e) && !client::is_conflict(&e) => Err(e),
                _ => Ok(Outcome::Done),
            }
        }
    });
}

/// Signs the cluster information.
pub(super) fn start_signer(ctx: &Context) {
    let secrets = secrets(ctx);
    let maps: Informer<ConfigMap> = ctx.informers.get(ListWatch {
        namespace: Some(PUBLIC.into()),
        fields: Some(format!("metadata.name={INFORMATION}")),
        ..ListWatch::default()
    });
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("bootstrap_signer_queue");
    let key = ObjectKey::new(PUBLIC, INFORMATION);
    enqueue_changes(&maps, &queue);
    let of_secret = queue.clone();
    secrets.on_event(move |_| of_secret.add(key.clone()));
    let (api, clock) = (Api::<ConfigMap>::namespaced(ctx.client.clone(), PUBLIC), ctx.clock.clone());
    run_workers(&ctx.tasks, &queue, 1, move |key| {
        let (secrets, maps, api, clock) = (secrets.clone(), maps.clone(), api.clone(), clock.clone());
        async move { sign(&secrets, &maps, &api, &clock, &key).await }
    });
}

async fn sign(
    secrets: &Informer<Secret>,
    maps: &Informer<ConfigMap>,
    api: &Api<ConfigMap>,
    clock: &SharedClock,
    key: &ObjectKey,
) -> Result<Outcome, kube::Error> {
    secrets.wait_synced().await;
    maps.wait_synced().await;
    let Some(map) = maps.store().get(key) else { return Ok(Outcome::Done) };
    let Some(data) = signed(&map, &secrets.store().list(), clock.now()) else { return Ok(Outcome::Done) };
    let next = ConfigMap { data: Some(data), ..(*map).clone() };
    match api.replace(&key.name, &PostParams::default(), &next).await {
        Err(e) if !client::is_not_found(&e) && !client::is_conflict(&e) => Err(e),
        _ => Ok(Outcome::Done),
    }
}

/// The map's data with one signature per token, if it must be another.
fn signed(map: &ConfigMap, secrets: &[Arc<Secret>], now: Timestamp) -> Option<BTreeMap<String, String>> {
    let old = map.data.as_ref()?;
    let content = old.get(SIGNED)?;
    let mut next = old.clone();
    next.retain(|key, _| !key.starts_with(SIGNATURE_PREFIX));
    for (id, secret) in secrets.iter().filter_map(|s| signing_token(s, now)) {
        next.insert(format!("{SIGNATURE_PREFIX}{id}"), signature(content, &id, &secret));
    }
    (next != *old).then_some(next)
}

/// A JWS without its payload (RFC 7515, appendix F), HMAC-SHA256 keyed by the whole token's secret half.
fn signature(content: &str, id: &str, secret: &str) -> String {
    let header = BASE64_URL_SAFE_NO_PAD.encode(json!({"alg": "HS256", "kid": id}).to_string());
    let payload = BASE64_URL_SAFE_NO_PAD.encode(content);
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, format!("{header}.{payload}").as_bytes());
    format!("{header}..{}", BASE64_URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

fn text(secret: &Secret, key: &str) -> String {
    let bytes = secret.data.as_ref().and_then(|d| d.get(key));
    bytes.map_or_else(String::new, |b| String::from_utf8_lossy(&b.0).into_owned())
}

/// Identifier and secret of a token that may sign.
fn signing_token(secret: &Secret, now: Timestamp) -> Option<(String, String)> {
    let (id, value) = (text(secret, "token-id"), text(secret, "token-secret"));
    let well_formed = id.len() == 6 && id.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
    let named = well_formed && secret.metadata.name.as_deref()?.strip_prefix(NAME_PREFIX)? == id;
    let lives = expiry(secret).is_none_or(|end| left(end, now).is_some());
    (named && lives && !value.is_empty() && text(secret, "usage-bootstrap-signing") == "true")
        .then_some((id, value))
}

/// When a token ends; what cannot be read has ended.
fn expiry(secret: &Secret) -> Option<Timestamp> {
    let end = text(secret, "expiration");
    (!end.is_empty()).then(|| end.parse().unwrap_or(Timestamp::MIN))
}

fn left(end: Timestamp, now: Timestamp) -> Option<Duration> {
    Duration::try_from(end.duration_since(now)).ok().filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn token(id: &str, fields: &[(&str, &str)]) -> Arc<Secret> {
        let mut secret = Secret::default();
        secret.metadata.name = Some(format!("{NAME_PREFIX}{id}"));
        let base =
            [("token-id", id), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-signing", "true")];
        let bytes = |v: &str| ByteString(v.as_bytes().to_vec());
        secret.data = Some(base.iter().chain(fields).map(|(k, v)| ((*k).to_owned(), bytes(v))).collect());
        Arc::new(secret)
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_information_is_signed_by_every_living_token() {
        let mut map = ConfigMap::default();
        map.data = Some(
            [(SIGNED, "content"), ("jws-kubeconfig-gone", "old")].map(|(k, v)| (k.into(), v.into())).into(),
        );
        let tokens = [
            token("abcdef", &[]),
            token("ended1", &[("expiration", "2026-01-01T00:00:00Z")]),
            token("other1", &[("usage-bootstrap-signing", "false")]),
            token("toolong", &[]),
            token("UPPERS", &[]),
            token("empty1", &[("token-secret", "")]),
            token("named1", &[("token-id", "named2")]),
        ];
        let now = at("2026-01-02T00:00:00Z");
        let data = signed(&map, &tokens, now).unwrap();
        let keys: Vec<&str> = data.keys().map(String::as_str).collect();
        assert_eq!(keys, ["jws-kubeconfig-abcdef", "kubeconfig"]);
        // Three parts, the payload left out.
        let parts: Vec<&str> = data["jws-kubeconfig-abcdef"].split('.').collect();
        assert_eq!((parts.len(), parts[1]), (3, ""));
        assert_eq!(BASE64_URL_SAFE_NO_PAD.decode(parts[0]).unwrap(), br#"{"alg":"HS256","kid":"abcdef"}"#);
        map.data = Some(data);
        assert_eq!(signed(&map, &tokens, now), None);
        assert_eq!(signed(&ConfigMap::default(), &tokens, now), None);
    }

    #[test]
    fn tokens_end_when_they_say_or_say_nothing_readable() {
        assert_eq!(expiry(&token("a", &[])), None);
        assert_eq!(
            expiry(&token("a", &[("expiration", "2026-01-01T00:00:00Z")])),
            Some(at("2026-01-01T00:00:00Z"))
        );
        assert_eq!(expiry(&token("a", &[("expiration", "soon")])), Some(Timestamp::MIN));
    }
}
