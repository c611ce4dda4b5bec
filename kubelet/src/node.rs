//! This node: what the machine has, where it can be reached, and what the API server is told of it.

pub mod addresses;
pub mod features;
pub mod machine;
pub mod network;
pub mod own;
pub mod report;
pub mod startup;
pub mod status;

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeStatus;
use parking_lot::Mutex;
use tokio::sync::watch;

use self::{
    machine::Machine,
    status::{Input, Pressure},
};
use crate::{
    csi::mount::Csi,
    devices::Devices,
    eviction::threshold::{self, Signal},
    options::Config,
    pleg::Seen,
    runtime::Runtime,
    shutdown::Shutdown,
};

/// Looks at the node and makes its status.
pub struct Observer {
    /// The configuration.
    pub config: Config,
    /// The machine.
    pub machine: Machine,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// The runtime.
    pub runtime: Runtime,
    /// When the runtime was last seen.
    pub seen: Arc<Seen>,
    /// Why the network does not work.
    pub network: watch::Receiver<Option<String>>,
    /// What presses on the node.
    pub pressure: Arc<Mutex<Pressure>>,
    /// Volumes of storage drivers.
    pub csi: Arc<Csi>,
    /// Devices of plugins.
    pub devices: Arc<Devices>,
    /// Whether the machine is going down.
    pub shutdown: Arc<Shutdown>,
}

#[async_trait]
impl report::StatusSource for Observer {
    async fn status(&self, previous: Option<&NodeStatus>) -> NodeStatus {
        let mut unready = Vec::new();
        if !self.seen.is_fresh() {
            unready.push("PLEG is not healthy: the container runtime has not answered for 3m0s".to_owned());
        }
        let (mut handlers, mut version, mut runtime) = (Vec::new(), String::new(), None);
        match self.runtime.status().await {
            Ok(answer) => {
                handlers = answer.runtime_handlers;
                runtime = answer.features;
                let conditions = answer.status.unwrap_or_default().conditions;
                if let Some(down) = conditions.iter().find(|c| c.r#type == "RuntimeReady" && !c.status) {
                    let (reason, message) = (&down.reason, &down.message);
                    unready.push(format!(
                        "container runtime not ready: RuntimeReady=false reason:{reason} message:{message}"
                    ));
                }
            }
            Err(error) => unready.push(format!("container runtime is down: {error}")),
        }
        unready.extend(self.network.borrow().clone());
        if self.shutdown.is_on() {
            unready.push("node is shutting down".to_owned());
        }
        if let Ok(answer) = self.runtime.version().await {
            version = format!("{}://{}", answer.runtime_name, answer.runtime_version);
        }
        // Without an answer the list is empty for one round; readiness tells of the runtime.
        let images = self.runtime.list_images().await.unwrap_or_default();
        // The folder is made at start; should it vanish, the disk reads as empty.
        let disk = machine::fs_usage(&PathBuf::from(&self.config.root_dir)).unwrap_or_default();
        let file = &self.config.file;
        let kept = |signal, all| threshold::kept(&self.config.thresholds, signal, all);
        let reserved = status::reserved(
            [&file.system_reserved, &file.kube_reserved].into_iter(),
            kept(Signal::MemoryAvailable, self.machine.memory),
            kept(Signal::NodeFsAvailable, disk.capacity),
        );
        let pressure = *self.pressure.lock();
        status::generate(&Input {
            name: &self.config.node_name,
            addresses: addresses::to_tell(
                self.config.external_cloud,
                &self.config.node_ips,
                &self.ips,
                previous,
            ),
            machine: &self.machine,
            disk: file.local_storage_capacity_isolation.then_some(disk),
            max_pods: self.config.most_pods(self.machine.cpus),
            reserved: &reserved,
            runtime_version: &version,
            handlers: &handlers,
            runtime,
            declared: features::declared(self.config.gates),
            images: &images,
            max_images: file.node_status_max_images,
            port: file.port,
            pressure,
            unready: &unready,
            volumes_in_use: self.csi.in_use(),
            devices: self.devices.capacity(Timestamp::now()),
            previous,
            now: Timestamp::now(),
        })
    }

    async fn changed(&self) {
        self.shutdown.changed().await;
    }

    async fn pod_cidr(&self, cidr: &str) {
        if let Err(error) = self.runtime.set_pod_cidr(cidr).await {
            tracing::error!(%error, cidr, "cannot tell the runtime the range of pod addresses");
        }
    }
}
