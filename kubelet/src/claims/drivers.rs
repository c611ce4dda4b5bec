//! The drivers of dynamic resources on this node: registered by their sockets, called for claims, and their ResourceSlices
//! taken away when they are gone for good.
//!
//! Contract: dra/v1 `DRAPlugin` and its beta; of several sockets of one driver the one that came last is called.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use component_base::{grpc::code_name, task::Tasks};
use http::uri::PathAndQuery;
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams},
};
use parking_lot::Mutex;
use proto::dra::v1::{
    Claim, Device, NodePrepareResourcesRequest, NodePrepareResourcesResponse, NodeUnprepareResourcesRequest,
    NodeUnprepareResourcesResponse,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::health::Health;
use crate::{
    metrics,
    plugin::{Introduction, PluginKind, channel},
};

/// How long a driver may take for one call.
const PATIENCE: Duration = Duration::from_secs(45);
/// How long a driver may be away, for an update for instance, before its ResourceSlices go.
const ABSENCE: Duration = Duration::from_secs(30);
/// The first wait after slices could not be taken away, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// A driver's service, in one of its versions. They differ in name only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Service {
    version: &'static str,
    prepare: &'static str,
    unprepare: &'static str,
}

/// As drivers name them, the best first.
const SERVICES: [Service; 2] = [
    Service {
        version: "v1.DRAPlugin",
        prepare: "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources",
        unprepare: "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodeUnprepareResources",
    },
    Service {
        version: "v1beta1.DRAPlugin",
        prepare: "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodePrepareResources",
        unprepare: "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodeUnprepareResources",
    },
];

/// A driver cannot or will not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// It is not on this node.
    #[error("DRA driver {0} is not registered")]
    Unknown(String),
    /// The call failed.
    #[error("{call}: rpc error: code = {code} desc = {message}")]
    Call {
        /// What it was asked for.
        call: &'static str,
        /// gRPC's code.
        code: &'static str,
        /// The driver's words.
        message: String,
    },
    /// It refuses one claim.
    #[error("{call} failed for ResourceClaim {claim}: {message}")]
    Claim {
        /// What it was asked for.
        call: &'static str,
        /// The claim.
        claim: String,
        /// The driver's words.
        message: String,
    },
    /// It says nothing of some claims.
    #[error("{call} skipped {count} ResourceClaims")]
    Skipped {
        /// What it was asked for.
        call: &'static str,
        /// How many.
        count: usize,
    },
}

/// A driver that can be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    name: String,
    endpoint: PathBuf,
    service: Service,
}

impl Driver {
    async fn call<Q, A>(&self, call: &'static str, path: &'static str, message: Q) -> Result<A, DriverError>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let begun = Instant::now();
        let mut client = tonic::client::Grpc::new(channel(&self.endpoint));
        let answer = async {
            client.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
            let codec = tonic_prost::ProstCodec::<Q, A>::default();
            client.unary(tonic::Request::new(message), PathAndQuery::from_static(path), codec).await
        };
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        let answer = answer.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no answer")));
        let code = code_name(answer.as_ref().map_or_else(tonic::Status::code, |_| tonic::Code::Ok));
        let took = metrics::get().claim_calls.with_label_values(&[&self.name, code, path]);
        took.observe(begun.elapsed().as_secs_f64());
        let answer = answer.map_err(|status| DriverError::Call {
            call,
            code: code_name(status.code()),
            message: status.message().to_owned(),
        })?;
        Ok(answer.into_inner())
    }

    /// Has the claims' devices made ready. Answers with them by the claim's uid.
    ///
    /// # Errors
    /// When the driver fails, refuses a claim or says nothing of one.
    pub async fn prepare(
        &self,
        name: &str,
        claims: &[Claim],
    ) -> Result<HashMap<String, Vec<Device>>, DriverError> {
        const CALL: &str = "NodePrepareResources";
        tracing::debug!(driver = name, claims = claims.len(), "preparing claims");
        let request = NodePrepareResourcesRequest { claims: claims.to_vec() };
        let answer: NodePrepareResourcesResponse = self.call(CALL, self.service.prepare, request).await?;
        let errors = answer.claims.iter().map(|(uid, of)| (uid.as_str(), of.error.as_str())).collect();
        check(CALL, claims, &errors)?;
        Ok(answer.claims.into_iter().map(|(uid, of)| (uid, of.devices)).collect())
    }

    /// Has the claims' devices taken back.
    ///
    /// # Errors
    /// When the driver fails, refuses a claim or says nothing of one.
    pub async fn unprepare(&self, name: &str, claims: &[Claim]) -> Result<(), DriverError> {
        const CALL: &str = "NodeUnprepareResources";
        tracing::debug!(driver = name, claims = claims.len(), "taking claims back");
        let request = NodeUnprepareResourcesRequest { claims: claims.to_vec() };
        let answer: NodeUnprepareResourcesResponse = self.call(CALL, self.service.unprepare, request).await?;
        let errors = answer.claims.iter().map(|(uid, of)| (uid.as_str(), of.error.as_str())).collect();
        check(CALL, claims, &errors)
    }
}

/// Every claim has an answer, and none is an error. Answers for others are nobody's.
fn check(call: &'static str, claims: &[Claim], errors: &HashMap<&str, &str>) -> Result<(), DriverError> {
    let mut skipped = 0;
    for claim in claims {
        match errors.get(claim.uid.as_str()) {
            None => skipped += 1,
            Some(&"") => {}
            Some(message) => {
                let (claim, message) = (claim.name.clone(), (*message).to_owned());
                return Err(DriverError::Claim { call, claim, message });
            }
        }
    }
    if skipped > 0 { Err(DriverError::Skipped { call, count: skipped }) } else { Ok(()) }
}

/// The drivers on this node.
pub struct Drivers {
    client: Option<Client>,
    node: String,
    /// By name, in the order in which they came.
    known: Mutex<BTreeMap<String, Vec<Driver>>>,
    gone: tokio::sync::Notify,
    health: Arc<Health>,
    tasks: Arc<Tasks>,
    /// Ears at sockets; dropping one ends the listening.
    ears: Mutex<HashMap<PathBuf, DropGuard>>,
}

impl Drivers {
    /// None yet.
    #[must_use]
    pub fn new(client: Option<Client>, node: &str, tasks: Arc<Tasks>) -> Self {
        Self {
            client,
            node: node.to_owned(),
            known: Mutex::default(),
            gone: tokio::sync::Notify::new(),
            health: Arc::default(),
            tasks,
            ears: Mutex::default(),
        }
    }

    /// How their devices are.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Listens to what a driver tells of its devices until it leaves.
    fn listen(&self, plugin: &Introduction) {
        let (health, drain, ended) = (Arc::clone(&self.health), self.tasks.drain(), CancellationToken::new());
        let (name, endpoint) = (plugin.name.clone(), plugin.endpoint.clone());
        let guard = ended.clone().drop_guard();
        self.tasks.spawn("device-health", async move {
            tokio::select! {
                () = drain.cancelled() => {}
                () = ended.cancelled() => health.silent(&name),
                () = health.listen(&name, &endpoint) => {}
            }
        });
        self.ears.lock().insert(plugin.endpoint.clone(), guard);
    }

    /// A registered driver.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn get(&self, name: &str) -> Result<Driver, DriverError> {
        let known = self.known.lock();
        let driver = known.get(name).and_then(|all| all.last()).cloned();
        driver.ok_or_else(|| DriverError::Unknown(name.to_owned()))
    }

    /// Takes away the ResourceSlices of this node: those of one driver, or all. Tries until that is done.
    async fn wipe(&self, driver: Option<&str>) {
        let Some(client) = &self.client else { return };
        let slices: Api<ResourceSlice> = Api::all(client.clone());
        let mut fields = format!("spec.nodeName={}", self.node);
        if let Some(driver) = driver {
            fields = format!("{fields},spec.driver={driver}");
        }
        let mut wait = RETRY.0;
        loop {
            let which = ListParams::default().fields(&fields);
            match slices.delete_collection(&DeleteParams::default(), &which).await {
                Ok(_) => return,
                // A cluster without the resource has no slices to take away.
                Err(kube::Error::Api(status)) if status.code == 404 => return,
                Err(error) => tracing::debug!(fields, %error, "cannot take ResourceSlices away yet"),
            }
            tokio::time::sleep(wait).await;
            wait = wait.saturating_mul(2).min(RETRY.1);
        }
    }

    /// Takes away the slices of earlier kubelets' drivers, then those of drivers that go and do not come back.
    pub async fn keep_slices(&self) {
        self.wipe(None).await;
        let mut wiped: Vec<String> = Vec::new();
        loop {
            self.gone.notified().await;
            tokio::time::sleep(ABSENCE).await;
            let away: Vec<String> = {
                let known = self.known.lock();
                wiped.retain(|name| known.get(name).is_some_and(Vec::is_empty));
                let none = known.iter().filter(|(_, all)| all.is_empty()).map(|(name, _)| name.clone());
                none.filter(|name| !wiped.contains(name)).collect()
            };
            for name in away {
                self.wipe(Some(&name)).await;
                wiped.push(name);
            }
        }
    }
}

#[async_trait]
impl PluginKind for Drivers {
    fn kind(&self) -> &'static str {
        "DRAPlugin"
    }

    async fn register(&self, plugin: &Introduction) -> Result<(), String> {
        let speaks = |service: &&Service| plugin.versions.iter().any(|v| v == service.version);
        let service = SERVICES.iter().find(speaks).ok_or_else(|| {
            let ours = SERVICES.map(|s| s.version);
            format!(
                "none of the services of DRA driver plugin {} ({:?}) are supported by the kubelet ({ours:?})",
                plugin.name, plugin.versions
            )
        })?;
        let mut known = self.known.lock();
        let all = known.entry(plugin.name.clone()).or_default();
        all.retain(|driver| driver.endpoint != plugin.endpoint);
        let (name, endpoint) = (plugin.name.clone(), plugin.endpoint.clone());
        all.push(Driver { name, endpoint, service: *service });
        self.listen(plugin);
        Ok(())
    }

    async fn deregister(&self, plugin: &Introduction) {
        if let Some(all) = self.known.lock().get_mut(&plugin.name) {
            all.retain(|driver| driver.endpoint != plugin.endpoint);
        }
        self.ears.lock().remove(&plugin.endpoint);
        self.gone.notify_one();
    }
}
