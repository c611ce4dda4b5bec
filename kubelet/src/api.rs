//! What the kubelet fetches from the API server, object by object, and the fetched objects it may reuse for a while.
//!
//! The Node authorizer lets a kubelet read only what its pods refer to, so nothing is listed here: every object is
//! fetched by name and kept for [`FRESH`]. Without an API server (standalone) every fetch is an error that says so.

use std::{
    collections::HashMap,
    future::Future,
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    certificates::v1beta1::ClusterTrustBundle,
    core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret, ServiceAccount},
    node::v1::RuntimeClass,
    resource::v1::ResourceClaim,
    storage::v1::{CSIDriver, VolumeAttachment},
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::pod;

/// How long a fetched object is good for: shorter than the refresh of volumes, so that each refresh sees news.
const FRESH: Duration = Duration::from_secs(20);

/// A fetch that failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The kubelet runs without an API server.
    #[error("this kubelet runs standalone, without an API server")]
    Standalone,
    /// The API server's or the connection's error, in its own words: they go into events that users read.
    #[error("{}", words(.0))]
    Api(#[from] Box<kube::Error>),
    /// A token without its text.
    #[error("the API server's token response is incomplete")]
    Incomplete,
}

fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Where objects come from; `None` is: it does not exist. A source answers what it has, and for the rest that it
/// stands alone.
#[async_trait]
pub trait ObjectSource: Send + Sync {
    /// A config map.
    async fn config_map(&self, _: &str, _: &str) -> Result<Option<Arc<ConfigMap>>, FetchError> {
        Err(FetchError::Standalone)
    }
    /// A secret.
    async fn secret(&self, _: &str, _: &str) -> Result<Option<Arc<Secret>>, FetchError> {
        Err(FetchError::Standalone)
    }
    /// A claim.
    async fn claim(&self, _: &str, _: &str) -> Result<Option<Arc<PersistentVolumeClaim>>, FetchError> {
        Err(FetchError::Standalone)
    }
    /// A volume.
    async fn volume(&self, _: &str) -> Result<Option<Arc<PersistentVolume>>, FetchError> {
        Err(FetchError::Standalone)
    }
    /// A runtime class.
    async fn runtime_class(&self, _: &str) -> Result<Option<Arc<RuntimeClass>>, FetchError> {
        Err(FetchError::Standalone)
    }
    /// A claim of dynamic resources, as it is now.
    async fn resource_claim(&self, _: &str, _: &str) -> Result<Option<Arc<ResourceClaim>>, FetchError> {
        Err(FetchError::Standalone)
    }
    /// A bundle of trust anchors.
    async fn trust_bundle(&self, _: &str) -> Result<Option<Arc<ClusterTrustBundle>>, FetchError> {
        Err(FetchError::Standalone)
    }
    /// All bundles of trust anchors of a signer.
    async fn trust_bundles(&self, _: &str) -> Result<Arc<Vec<ClusterTrustBundle>>, FetchError> {
        Err(FetchError::Standalone)
    }
    /// What a storage driver says of itself.
    async fn csi_driver(&self, _: &str) -> Result<Option<Arc<CSIDriver>>, FetchError> {
        Err(FetchError::Standalone)
    }
    /// The attachment of a volume to a node.
    async fn attachment(&self, _: &str) -> Result<Option<Arc<VolumeAttachment>>, FetchError> {
        Err(FetchError::Standalone)
    }
    /// Tells that a claim's volume has grown to this size.
    async fn claim_has_grown(&self, _: &PersistentVolumeClaim, _: &str) -> Result<(), FetchError> {
        Err(FetchError::Standalone)
    }
    /// A service account, as it is now.
    async fn service_account(&self, _: &str, _: &str) -> Result<Option<Arc<ServiceAccount>>, FetchError> {
        Err(FetchError::Standalone)
    }
    /// A token of the pod's service account, bound to the pod; the same one until 80 % of its time has passed.
    async fn token(&self, _pod: &Pod, _audience: Option<&str>, _seconds: i64) -> Result<String, FetchError> {
        Err(FetchError::Standalone)
    }
}

/// No API server.
#[derive(Debug, Clone, Copy)]
pub struct Standalone;

impl ObjectSource for Standalone {}

type Key = (String, String);

/// A bounded-in-time memory of fetched objects. Those who want the same one at once wait for one fetch.
struct Memory<K, V> {
    known: Mutex<HashMap<K, (Instant, V)>>,
    turns: Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>,
}

impl<K: Clone + Eq + Hash, V: Clone> Memory<K, V> {
    fn new() -> Self {
        Self { known: Mutex::default(), turns: Mutex::default() }
    }

    fn get(&self, key: &K, now: Instant) -> Option<V> {
        let mut map = self.known.lock();
        map.retain(|_, (until, _)| *until > now);
        map.get(key).map(|(_, value)| value.clone())
    }

    /// What is known, or else what the fetch gives, which is kept until the time that it tells, if any.
    async fn get_or(
        &self,
        key: K,
        fetch: impl Future<Output = Result<(V, Option<Instant>), FetchError>> + Send,
    ) -> Result<V, FetchError> {
        if let Some(known) = self.get(&key, Instant::now()) {
            return Ok(known);
        }
        let turn = {
            let mut turns = self.turns.lock();
            // Those that nobody waits for any more.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(key.clone()).or_default())
        };
        let _turn = turn.lock().await;
        if let Some(known) = self.get(&key, Instant::now()) {
            return Ok(known);
        }
        let (value, until) = fetch.await?;
        if let Some(until) = until {
            self.known.lock().insert(key, (until, value.clone()));
        }
        Ok(value)
    }
}

/// What a token was asked for: pod uid, audience, seconds.
type TokenKey = (String, Option<String>, i64);

/// Objects of the API server.
pub struct ApiObjects {
    client: Client,
    /// How long a config map or secret is good for.
    fresh: Duration,
    config_maps: Memory<Key, Option<Arc<ConfigMap>>>,
    secrets: Memory<Key, Option<Arc<Secret>>>,
    tokens: Memory<TokenKey, String>,
    csi_drivers: Memory<Key, Option<Arc<CSIDriver>>>,
    trust_bundles: Memory<String, Arc<Vec<ClusterTrustBundle>>>,
}

impl ApiObjects {
    /// Fetches with this client; with the strategy `Get`, config maps and secrets each time that they are looked at.
    #[must_use]
    pub fn new(client: Client, strategy: &str) -> Self {
        Self {
            client,
            fresh: if strategy == "Get" { Duration::ZERO } else { FRESH },
            config_maps: Memory::new(),
            secrets: Memory::new(),
            tokens: Memory::new(),
            csi_drivers: Memory::new(),
            trust_bundles: Memory::new(),
        }
    }
}

async fn get<K>(api: Api<K>, name: &str) -> Result<Option<Arc<K>>, FetchError>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    Ok(api.get_opt(name).await.map_err(Box::new)?.map(Arc::new))
}

/// An object, and how long it is good for; one that does not exist is asked for again.
async fn fresh<K>(
    api: Api<K>,
    name: &str,
    good: Duration,
) -> Result<(Option<Arc<K>>, Option<Instant>), FetchError>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let found = get(api, name).await?;
    let until = found.is_some().then(|| Instant::now() + good);
    Ok((found, until))
}

#[async_trait]
impl ObjectSource for ApiObjects {
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Arc<ConfigMap>>, FetchError> {
        let key = (namespace.to_owned(), name.to_owned());
        self.config_maps
            .get_or(key, fresh(Api::namespaced(self.client.clone(), namespace), name, self.fresh))
            .await
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<Secret>>, FetchError> {
        let key = (namespace.to_owned(), name.to_owned());
        self.secrets
            .get_or(key, fresh(Api::namespaced(self.client.clone(), namespace), name, self.fresh))
            .await
    }

    async fn claim(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<PersistentVolumeClaim>>, FetchError> {
        get(Api::namespaced(self.client.clone(), namespace), name).await
    }

    async fn volume(&self, name: &str) -> Result<Option<Arc<PersistentVolume>>, FetchError> {
        get(Api::all(self.client.clone()), name).await
    }

    async fn runtime_class(&self, name: &str) -> Result<Option<Arc<RuntimeClass>>, FetchError> {
        get(Api::all(self.client.clone()), name).await
    }

    async fn resource_claim(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<ResourceClaim>>, FetchError> {
        get(Api::namespaced(self.client.clone(), namespace), name).await
    }

    async fn service_account(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<ServiceAccount>>, FetchError> {
        get(Api::namespaced(self.client.clone(), namespace), name).await
    }

    async fn trust_bundle(&self, name: &str) -> Result<Option<Arc<ClusterTrustBundle>>, FetchError> {
        get(Api::all(self.client.clone()), name).await
    }

    async fn trust_bundles(&self, signer: &str) -> Result<Arc<Vec<ClusterTrustBundle>>, FetchError> {
        let fetch = async {
            let api: Api<ClusterTrustBundle> = Api::all(self.client.clone());
            let of_signer = ListParams::default().fields(&format!("spec.signerName={signer}"));
            let found = Arc::new(api.list(&of_signer).await.map_err(Box::new)?.items);
            Ok((found, Some(Instant::now() + FRESH)))
        };
        self.trust_bundles.get_or(signer.to_owned(), fetch).await
    }

    async fn csi_driver(&self, name: &str) -> Result<Option<Arc<CSIDriver>>, FetchError> {
        let fetch =
            async { Ok((get(Api::all(self.client.clone()), name).await?, Some(Instant::now() + FRESH))) };
        self.csi_drivers.get_or((String::new(), name.to_owned()), fetch).await
    }

    async fn attachment(&self, name: &str) -> Result<Option<Arc<VolumeAttachment>>, FetchError> {
        get(Api::all(self.client.clone()), name).await
    }

    async fn claim_has_grown(&self, claim: &PersistentVolumeClaim, size: &str) -> Result<(), FetchError> {
        let (namespace, name) = (claim.metadata.namespace.as_deref(), claim.metadata.name.as_deref());
        let api: Api<PersistentVolumeClaim> =
            Api::namespaced(self.client.clone(), namespace.unwrap_or_default());
        let body = json!({ "status": {
            "capacity": { "storage": size },
            "allocatedResourceStatuses": null,
            "conditions": [
                { "type": "FileSystemResizePending", "$patch": "delete" },
                { "type": "Resizing", "$patch": "delete" },
            ],
        }});
        let patch = Patch::Strategic(&body);
        api.patch_status(name.unwrap_or_default(), &PatchParams::default(), &patch)
            .await
            .map_err(Box::new)?;
        Ok(())
    }

    async fn token(&self, pod: &Pod, audience: Option<&str>, seconds: i64) -> Result<String, FetchError> {
        let key = (pod::uid(pod).to_owned(), audience.map(str::to_owned), seconds);
        self.tokens.get_or(key, self.ask_for_token(pod, audience, seconds)).await
    }
}

impl ApiObjects {
    /// A new token, and until when it is used.
    async fn ask_for_token(
        &self,
        pod: &Pod,
        audience: Option<&str>,
        seconds: i64,
    ) -> Result<(String, Option<Instant>), FetchError> {
        let account = pod::spec(pod).service_account_name.as_deref().unwrap_or("default");
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: audience.map(|a| vec![a.to_owned()]),
                expiration_seconds: Some(seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
            }),
            ..TokenRequest::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), pod::namespace(pod));
        let answer =
            api.create_token_request(account, &PostParams::default(), &request).await.map_err(Box::new)?;
        let status = answer.status.ok_or(FetchError::Incomplete)?;
        let token = status.token.ok_or(FetchError::Incomplete)?;
        let expires = status.expiration_timestamp.ok_or(FetchError::Incomplete)?.0;
        // A negative remainder reads as zero: such a token is not kept.
        let life =
            Duration::try_from(expires.duration_since(Timestamp::now())).unwrap_or_default().mul_f64(0.8);
        Ok((token, Some(Instant::now() + life)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn those_who_want_the_same_wait_for_one_fetch() {
        let (memory, fetched) = (Memory::<&str, usize>::new(), AtomicUsize::new(0));
        let fetch = |keeps: bool| {
            let fetched = &fetched;
            async move {
                tokio::task::yield_now().await;
                let until = keeps.then(|| Instant::now() + FRESH);
                Ok((fetched.fetch_add(1, Ordering::SeqCst), until))
            }
        };
        let all = (0..5).map(|_| memory.get_or("a", fetch(true)));
        let answers = futures::future::join_all(all).await;
        assert!(answers.into_iter().all(|answer| matches!(answer, Ok(0))));
        assert!(matches!(memory.get_or("b", fetch(false)).await, Ok(1)));
        assert!(matches!(memory.get_or("b", fetch(false)).await, Ok(2)), "it was not to be kept");
        let failed = memory.get_or("c", async { Err(FetchError::Incomplete) }).await;
        assert!(failed.is_err());
        assert!(matches!(memory.get_or("c", fetch(true)).await, Ok(3)));
        assert!(memory.turns.lock().len() <= 1);
    }
}
