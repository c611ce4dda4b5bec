//! `<root>/pod-resources/kubelet.sock`: which containers have which devices, claims and processors, for monitoring agents on the node.
//!
//! Contract: pod resources API v1.

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc, time::Instant};

use async_trait::async_trait;
use component_base::{features::Gate, task::Tasks};
use k8s_openapi::api::core::v1::Pod;
use proto::{
    deviceplugin::v1beta1::Device,
    podresources::v1::{
        AllocatableResourcesRequest, AllocatableResourcesResponse, CdiDevice, ClaimResource,
        ContainerDevices, ContainerMemory, ContainerResources, DynamicResource, GetPodResourcesRequest,
        GetPodResourcesResponse, ListPodResourcesRequest, ListPodResourcesResponse, NumaNode, PodResources,
        TopologyInfo,
        pod_resources_lister_server::{PodResourcesLister, PodResourcesListerServer},
    },
};
use tonic::{Request, Response, Status, transport::Server};

use super::{Devices, State};
use crate::{
    claims::{self, state::Info},
    cpus::set::CpuSet,
    memory::plan::Block,
    metrics,
    pod::{self, Role},
    pods::Pods,
    sockets::{self, Limiter},
    worker::Shared,
};

/// The version of the API, as metrics name it.
const VERSION: &str = "v1";

/// Counts a call: lists are the first, what there is the second, single pods the third.
fn counted(which: usize) {
    let metrics = metrics::get();
    metrics.pod_resources.with_label_values(&[VERSION]).inc();
    metrics.pod_resources_calls[which].with_label_values(&[VERSION]).inc();
}

/// Serves the API.
pub struct Lister {
    shared: Arc<Shared>,
    pods: Arc<Pods>,
    limiter: Limiter,
}

impl Lister {
    fn of_pod(&self, pod: &Pod) -> PodResources {
        let mut found = self.shared.devices.of_pod(pod);
        for container in &mut found.containers {
            container.cpu_ids = numbers(&self.shared.cpus.own(pod::uid(pod), &container.name));
            let memory = self.shared.memory.own(pod::uid(pod), &container.name);
            container.memory = memory.into_iter().map(of_nodes).collect();
            if let Some((_, spec)) = pod::container_named(pod, &container.name) {
                let claims = self.shared.claims.of_container(pod, &spec);
                container.dynamic_resources = claims.into_iter().map(dynamic).collect();
            }
        }
        found
    }
}

fn dynamic(claim: Info) -> DynamicResource {
    let devices = claim
        .drivers
        .into_iter()
        .flat_map(|(name, of)| of.devices.into_iter().map(move |d| (name.clone(), d)));
    let one = |(driver_name, device): (String, claims::state::Device)| ClaimResource {
        cdi_devices: device.cdi.into_iter().map(|name| CdiDevice { name }).collect(),
        driver_name,
        pool_name: device.pool_name,
        device_name: device.device_name,
        share_id: device.share_id,
    };
    DynamicResource {
        claim_name: claim.name,
        claim_namespace: claim.namespace,
        claim_resources: devices.map(one).collect(),
    }
}

fn of_nodes(block: Block) -> ContainerMemory {
    let nodes = block.numa_affinity.iter().map(|node| NumaNode { id: i64::from(*node) }).collect();
    ContainerMemory { memory_type: block.kind, size: block.size, topology: Some(TopologyInfo { nodes }) }
}

fn numbers(cpus: &CpuSet) -> Vec<i64> {
    cpus.iter().map(i64::from).collect()
}

/// Serves the socket until the drain.
///
/// # Errors
/// When the socket cannot be made.
pub fn run(folder: PathBuf, shared: Arc<Shared>, pods: Arc<Pods>, tasks: &Tasks) -> io::Result<()> {
    let listener = sockets::bind(&folder, "kubelet.sock")?;
    let limiter = Limiter::new(Instant::now());
    let (service, drain) = (PodResourcesListerServer::new(Lister { shared, pods, limiter }), tasks.drain());
    tasks.spawn("pod-resources", async move {
        let server = Server::builder().add_service(service);
        if let Err(error) = server.serve_with_incoming_shutdown(listener, drain.cancelled_owned()).await {
            tracing::error!(%error, "cannot serve pod resources");
        }
    });
    Ok(())
}

fn topology(device: Option<&Device>) -> Option<TopologyInfo> {
    let nodes = &device?.topology.as_ref()?.nodes;
    let nodes: Vec<NumaNode> = nodes.iter().map(|n| NumaNode { id: n.id }).collect();
    (!nodes.is_empty()).then_some(TopologyInfo { nodes })
}

/// One entry for each device, since each may be near another processor.
fn each(state: &State, resource: &str, ids: impl Iterator<Item = String>) -> Vec<ContainerDevices> {
    let known = state.resources.get(resource);
    let one = |id: String| ContainerDevices {
        resource_name: resource.to_owned(),
        topology: topology(known.and_then(|r| r.devices.get(&id))),
        device_ids: vec![id],
    };
    ids.map(one).collect()
}

impl Devices {
    /// What the pod's containers have; those of init containers that ended are others' by now.
    #[must_use]
    pub fn of_pod(&self, pod: &Pod) -> PodResources {
        let state = self.state.lock();
        let containers = pod::all_containers(pod).into_iter().filter(|(role, c)| match role {
            Role::Regular(_) => true,
            Role::Init(_) => pod::is_sidecar(c),
            Role::Ephemeral(_) => false,
        });
        let one = |name: String| {
            let grants = state.of(pod::uid(pod), &name);
            let devices =
                grants.flat_map(|g| each(&state, &g.resource, g.devices().into_iter().cloned())).collect();
            ContainerResources { devices, name, ..ContainerResources::default() }
        };
        PodResources {
            name: pod::name(pod).to_owned(),
            namespace: pod::namespace(pod).to_owned(),
            containers: containers.map(|(_, c)| one(c.name.clone())).collect(),
        }
    }

    /// All devices there are.
    #[must_use]
    pub fn all(&self) -> Vec<ContainerDevices> {
        let state = self.state.lock();
        let ids: BTreeMap<&String, Vec<String>> =
            state.resources.iter().map(|(name, r)| (name, r.devices.keys().cloned().collect())).collect();
        ids.into_iter().flat_map(|(name, ids)| each(&state, name, ids.into_iter())).collect()
    }
}

#[async_trait]
impl PodResourcesLister for Lister {
    async fn list(
        &self,
        _: Request<ListPodResourcesRequest>,
    ) -> Result<Response<ListPodResourcesResponse>, Status> {
        self.limiter.enter(Instant::now())?;
        counted(0);
        let active = self.shared.gates.has(Gate::KubeletPodResourcesListUseActivePods);
        let pods = self.pods.list().into_iter().filter(|p| !active || !pod::is_terminal(p));
        let pod_resources = pods.map(|p| self.of_pod(&p)).collect();
        Ok(Response::new(ListPodResourcesResponse { pod_resources }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        self.limiter.enter(Instant::now())?;
        counted(1);
        let (devices, cpu_ids) = (self.shared.devices.all(), numbers(&self.shared.cpus.allocatable()));
        let memory = self.shared.memory.allocatable().into_iter().map(of_nodes).collect();
        Ok(Response::new(AllocatableResourcesResponse { devices, cpu_ids, memory }))
    }

    async fn get(
        &self,
        request: Request<GetPodResourcesRequest>,
    ) -> Result<Response<GetPodResourcesResponse>, Status> {
        self.limiter.enter(Instant::now())?;
        counted(2);
        let GetPodResourcesRequest { pod_name, pod_namespace } = request.into_inner();
        let found = self.pods.named(&pod_namespace, &pod_name).filter(|p| !pod::is_terminal(p));
        let pod = found.ok_or_else(|| {
            metrics::get().pod_resources_errors[2].with_label_values(&[VERSION]).inc();
            Status::not_found(format!("pod {pod_name} in namespace {pod_namespace} not found"))
        })?;
        Ok(Response::new(GetPodResourcesResponse { pod_resources: Some(self.of_pod(&pod)) }))
    }
}
