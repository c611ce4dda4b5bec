//! Token secrets of service accounts that nobody uses end: marked first, gone after as long again.
//!
//! ```text
//! token secrets not used for the period, listed by their account, in no pod → invalid-since label → delete
//! ```
//! Contract: KEP-2799; upstream's `legacy-serviceaccount-token-cleaner-controller`. The API server notes the use of
//! tokens in labels and, in the ConfigMap `kube-apiserver-legacy-service-account-token-tracking`, since when it does.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use component_base::{
    client,
    clock::SharedClock,
    informer::{Informer, ListWatch},
    meta::{ObjectKey, annotation, is_deleting, key_of, label},
    workqueue::chain,
};
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;

use super::{Context, run_every};

mod mounted;

const PERIOD: Duration = Duration::from_secs(24 * 60 * 60);
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
const SINCE: &str = "since";
const TYPE: &str = "kubernetes.io/service-account-token";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// What to do with a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Keep,
    /// Label it as invalid since a day.
    Mark(Date),
    Delete,
}

#[derive(Clone)]
struct Controller {
    client: Client,
    clock: SharedClock,
    unused: Duration,
    accounts: Informer<ServiceAccount>,
    secrets: Informer<Secret>,
    pods: Informer<Pod>,
}

pub(super) fn start(ctx: &Context) {
    let controller = Controller {
        client: ctx.client.clone(),
        clock: ctx.clock.clone(),
        unused: ctx.settings.legacy_token_period,
        accounts: ctx.informers.get(ListWatch::default()),
        secrets: ctx.informers.get(token_secrets()),
        pods: ctx.informers.get(ListWatch::default()),
    };
    run_every(&ctx.tasks, "legacy-serviceaccount-token-cleaner-controller", PERIOD, move || {
        let controller = controller.clone();
        async move { controller.pass().await }
    });
}

/// The secrets that hold tokens: others are no business of this process.
pub(super) fn token_secrets() -> ListWatch {
    ListWatch { fields: Some(format!("type={TYPE}")), ..ListWatch::default() }
}

impl Controller {
    async fn pass(&self) -> Result<(), kube::Error> {
        self.accounts.wait_synced().await;
        self.secrets.wait_synced().await;
        self.pods.wait_synced().await;
        let now = self.clock.now();
        let Some(tracked) = self.tracked_since().await? else {
            tracing::debug!("the use of token secrets is not tracked, none ends");
            return Ok(());
        };
        let Some(limit) = limit(tracked, now, self.unused) else { return Ok(()) };
        let mut mounted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for secret in self.secrets.store().list() {
            let namespace = secret.metadata.namespace.clone().unwrap_or_default();
            let names = mounted.entry(namespace).or_insert_with_key(|namespace| {
                let pods = self.pods.store().in_namespace(namespace);
                pods.iter().flat_map(|pod| mounted::secrets(pod)).collect()
            });
            let account = self.account_of(&secret);
            let step = plan(&secret, account.as_deref(), names, limit, now);
            if let Err(error) = self.act(&secret, step).await {
                tracing::error!(secret = %key_of(&secret.metadata), error = chain(&error), "cannot end a token");
            }
        }
        Ok(())
    }

    /// The first whole day on which all use was noted.
    async fn tracked_since(&self) -> Result<Option<Date>, kube::Error> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), "kube-system");
        let map = api.get_opt(TRACKING).await?;
        let since = map.and_then(|m| m.data?.get(SINCE)?.parse::<Date>().ok());
        Ok(since.and_then(|day| day.tomorrow().ok()))
    }

    fn account_of(&self, secret: &Secret) -> Option<std::sync::Arc<ServiceAccount>> {
        let namespace = secret.metadata.namespace.as_deref().unwrap_or_default();
        self.accounts.store().get(&ObjectKey::new(namespace, annotation(&secret.metadata, ACCOUNT)?))
    }

    async fn act(&self, secret: &Secret, step: Step) -> Result<(), kube::Error> {
        let meta = &secret.metadata;
        let api: Api<Secret> =
            Api::namespaced(self.client.clone(), meta.namespace.as_deref().unwrap_or_default());
        let name = meta.name.as_deref().unwrap_or_default();
        let done = match step {
            Step::Keep => return Ok(()),
            Step::Mark(day) => {
                let body = json!({"metadata": {"uid": meta.uid, "labels": {INVALID_SINCE: day.to_string()}}});
                api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(&body)).await.map(drop)
            }
            Step::Delete => {
                let this = Preconditions { resource_version: meta.resource_version.clone(), uid: None };
                let params = DeleteParams { preconditions: Some(this), ..DeleteParams::default() };
                api.delete(name, &params).await.map(drop)
            }
        };
        match done {
            // Changed or gone meanwhile: the next pass looks anew.
            Err(e) if client::is_not_found(&e) || client::is_conflict(&e) => Ok(()),
            done => done,
        }
    }
}

/// The time before which a token must have been used last to be unused; none while use has not been noted that long.
fn limit(tracked: Date, now: Timestamp, unused: Duration) -> Option<Timestamp> {
    let limit = now.checked_sub(unused).ok()?;
    (limit >= tracked.to_zoned(TimeZone::UTC).ok()?.timestamp()).then_some(limit)
}

/// What becomes of a secret.
fn plan(
    secret: &Secret,
    account: Option<&ServiceAccount>,
    mounted: &BTreeSet<String>,
    limit: Timestamp,
    now: Timestamp,
) -> Step {
    let meta = &secret.metadata;
    let day = limit.to_zoned(TimeZone::UTC).date();
    let name = meta.name.clone().unwrap_or_default();
    let young = meta.creation_timestamp.as_ref().is_none_or(|t| t.0 >= limit);
    if secret.type_.as_deref() != Some(TYPE) || is_deleting(meta) || young || mounted.contains(&name) {
        return Step::Keep;
    }
    // A label that says no day says nothing about use.
    if let Some(used) = label(meta, LAST_USED)
        && used.parse::<Date>().map_or(true, |used| used >= day)
    {
        return Step::Keep;
    }
    // Only what an account lists was made for it without being asked for.
    let uid = annotation(meta, ACCOUNT_UID).unwrap_or_default();
    let listed = account.is_some_and(|account| {
        (uid.is_empty() || account.metadata.uid.as_deref() == Some(uid))
            && account.secrets.iter().flatten().any(|s| s.name.as_deref() == Some(&name))
    });
    if !listed {
        return Step::Keep;
    }
    match label(meta, INVALID_SINCE).and_then(|text| text.parse::<Date>().ok()) {
        None => Step::Mark(now.to_zoned(TimeZone::UTC).date()),
        Some(since) if since >= day => Step::Keep,
        Some(_) => Step::Delete,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn secret(change: impl Fn(&mut Value)) -> Secret {
        let mut out = json!({
            "metadata": {
                "name": "t", "namespace": "d", "creationTimestamp": "2024-01-01T00:00:00Z", "labels": {},
                "annotations": {ACCOUNT: "a", ACCOUNT_UID: "u"},
            },
            "type": TYPE,
        });
        change(&mut out);
        serde_json::from_value(out).unwrap()
    }

    fn account(uid: &str, secret: &str) -> ServiceAccount {
        serde_json::from_value(json!({"metadata": {"name": "a", "uid": uid}, "secrets": [{"name": secret}]}))
            .unwrap()
    }

    #[test]
    fn use_must_have_been_noted_for_the_whole_period() {
        let (now, year) = (at("2026-01-01T12:00:00Z"), Duration::from_secs(365 * 86400));
        assert_eq!(limit("2025-01-01".parse().unwrap(), now, year), Some(at("2025-01-01T12:00:00Z")));
        assert_eq!(limit("2025-01-02".parse().unwrap(), now, year), None);
    }

    #[test]
    fn an_unused_token_is_marked_and_ends_as_long_after() {
        let (limit, now) = (at("2025-01-01T12:00:00Z"), at("2026-01-01T12:00:00Z"));
        let mark = Step::Mark("2026-01-01".parse().unwrap());
        let label = |key: &'static str, value: &'static str| {
            move |s: &mut Value| s["metadata"]["labels"][key] = json!(value)
        };
        let (mine, none) = (account("u", "t"), BTreeSet::new());
        let check = |secret: Secret| plan(&secret, Some(&mine), &none, limit, now);
        assert_eq!(check(secret(|_| {})), mark);
        assert_eq!(check(secret(label(LAST_USED, "2024-12-31"))), mark);
        assert_eq!(check(secret(label(LAST_USED, "2025-01-01"))), Step::Keep);
        assert_eq!(check(secret(label(LAST_USED, "never"))), Step::Keep);
        assert_eq!(check(secret(label(INVALID_SINCE, "never"))), mark);
        assert_eq!(check(secret(label(INVALID_SINCE, "2026-01-01"))), Step::Keep);
        assert_eq!(check(secret(label(INVALID_SINCE, "2025-01-01"))), Step::Keep);
        assert_eq!(check(secret(label(INVALID_SINCE, "2024-12-31"))), Step::Delete);
        assert_eq!(check(secret(|s| s["type"] = json!("Opaque"))), Step::Keep);
        let young = |s: &mut Value| s["metadata"]["creationTimestamp"] = json!("2025-06-01T00:00:00Z");
        assert_eq!(check(secret(young)), Step::Keep);
    }

    #[test]
    fn tokens_that_were_asked_for_or_are_mounted_stay() {
        let (limit, now) = (at("2025-01-01T12:00:00Z"), at("2026-01-01T12:00:00Z"));
        let (token, none) = (secret(|_| {}), BTreeSet::new());
        let mounted: BTreeSet<String> = ["t".to_owned()].into();
        assert_eq!(plan(&token, None, &none, limit, now), Step::Keep);
        assert_eq!(plan(&token, Some(&account("other", "t")), &none, limit, now), Step::Keep);
        assert_eq!(plan(&token, Some(&account("u", "other")), &none, limit, now), Step::Keep);
        assert_eq!(plan(&token, Some(&account("u", "t")), &mounted, limit, now), Step::Keep);
        let without = secret(|s| s["metadata"]["annotations"] = json!({ACCOUNT: "a"}));
        assert_ne!(plan(&without, Some(&account("other", "t")), &none, limit, now), Step::Keep);
    }
}
