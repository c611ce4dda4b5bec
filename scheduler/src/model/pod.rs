//! A pod as the scheduler sees it: parsed once, shared by the queue, the model and every cycle.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use component_base::{
    features::{Gate, Gates},
    meta::{ObjectKey, controller_of},
    quantity::Quantity,
    selector::LabelSelector,
    taints::whole_number,
};
use k8s_openapi::api::core::v1 as core;
use smol_str::SmolStr;

use super::{
    Labels,
    affinity::{NodeSelectorTerms, NodeTerm, PodTerm, WeightedPodTerm, compile},
    migration::Handle,
    node::{Taint, TaintEffect},
    resources::{Resources, pod_requests},
    selectors::Selecting,
};

/// A pod's facts for scheduling.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid: the identity across updates.
    pub uid: String,
    /// resourceVersion this was parsed from.
    pub resource_version: String,
    /// Labels.
    pub labels: Labels,
    /// Node it is bound to; empty while pending.
    pub node_name: String,
    /// Node preemption made room on.
    pub nominated_node: String,
    /// `spec.schedulerName`.
    pub scheduler_name: String,
    /// Priority; 0 when unset.
    pub priority: i32,
    /// `spec.preemptionPolicy` is not `Never`.
    pub may_preempt: bool,
    /// Whether deletion has begun.
    pub terminating: bool,
    /// Whether deletion has begun because a more important pod is to have its place.
    pub preempted: bool,
    /// Whether the pod has ended (Succeeded, Failed).
    pub finished: bool,
    /// Seconds since the epoch.
    pub created: i64,
    /// Seconds since the epoch the pod started at, for preemption.
    pub started: i64,
    /// The group it is placed with, in its namespace.
    pub group: Option<SmolStr>,
    /// Names of scheduling gates still closed.
    pub gates: Vec<String>,
    /// Effective requests.
    pub requests: Resources,
    /// Requests with defaults, for scoring.
    pub counted: Resources,
    /// Host ports.
    pub ports: Vec<HostPort>,
    /// Images of all containers.
    pub images: Vec<String>,
    /// Images of its volumes.
    pub mounted_images: Vec<String>,
    /// `spec.nodeSelector`.
    pub node_selector: Labels,
    /// Required node affinity.
    pub node_required: Option<NodeSelectorTerms>,
    /// Preferred node affinity, with weights.
    pub node_preferred: Vec<(NodeTerm, i64)>,
    /// Required pod affinity.
    pub affinity: Vec<PodTerm>,
    /// Required pod anti-affinity.
    pub anti_affinity: Vec<PodTerm>,
    /// Preferred pod affinity.
    pub prefer: Vec<WeightedPodTerm>,
    /// Preferred pod anti-affinity.
    pub avoid: Vec<WeightedPodTerm>,
    /// Tolerations.
    pub tolerations: Vec<Toleration>,
    /// Topology spread constraints.
    pub spread: Vec<SpreadConstraint>,
    /// Claims the pod mounts.
    pub claims: Vec<ClaimUse>,
    /// Claims of devices the pod uses.
    pub device_claims: Vec<DeviceClaimUse>,
    /// What its containers ask of resources that devices may stand for, in the order of the containers.
    pub device_asks: Vec<DeviceAsk>,
    /// Features that its node must have declared.
    pub features: Vec<&'static str>,
    /// Disks the pod mounts without a claim that cannot be shared at will.
    pub disks: Vec<Disk>,
    /// What matters where devices are made of what nodes have for pods anyway.
    pub node_side: Option<Arc<NodeSide>>,
    /// Volumes described in the pod that a CSI driver looks after.
    pub inline: Vec<Handle>,
    /// What it belongs to, by kind and name in its namespace, if that selects pods.
    pub owner: Option<(Selecting, String)>,
    /// A hash of what [`PodInfo::is_like`] compares.
    pub class: u64,
}

/// A claim that a pod mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimUse {
    /// The claim's name, in the pod's namespace.
    pub name: String,
    /// Whether the claim is made for the pod and goes with it.
    pub ephemeral: bool,
}

/// A claim of devices that a pod uses.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceClaimUse {
    /// The claim's name, in the pod's namespace; `None` until one is made.
    pub name: Option<String>,
    /// Whether it is made for the pod.
    pub is_own: bool,
    /// As the pod asks for it.
    pub asked: core::PodResourceClaim,
}

/// What a container asks of a resource that devices may stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceAsk {
    /// The container's name.
    pub container: String,
    /// Its place among the init containers and, after them, the containers.
    pub at: usize,
    /// Whether it keeps what it has as long as the pod lasts.
    pub lasts: bool,
    /// The resource.
    pub resource: SmolStr,
    /// The resource's place among all that the container asks for, by their names.
    pub place: usize,
    /// How many devices.
    pub count: i64,
}

/// A disk mounted without a claim, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    id: DiskId,
    read_only: bool,
}

/// Which disk.
#[derive(Clone, Debug, PartialEq, Eq)]
enum DiskId {
    Gce(String),
    Ebs(String),
    Iscsi(String),
    Rbd { monitors: Vec<String>, pool: String, image: String },
}

/// A port taken on the host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// Address; `0.0.0.0` for all.
    pub ip: String,
    /// `TCP`, `UDP`, `SCTP`.
    pub protocol: String,
    /// Port.
    pub port: i32,
}

/// A toleration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Toleration {
    key: String,
    values: Tolerated,
    /// `None`: all effects.
    effect: Option<TaintEffect>,
}

/// Values that a toleration puts up with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Tolerated {
    Any,
    One(String),
    /// Whole numbers below this one.
    Below(i64),
    /// Whole numbers above this one.
    Above(i64),
    None,
}

/// A topology spread constraint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SpreadConstraint {
    /// Most the counts of two places may differ, at least 1.
    pub max_skew: i64,
    /// Node label that makes places.
    pub topology_key: String,
    /// `DoNotSchedule`: a filter; else a score.
    pub hard: bool,
    /// Which pods count.
    pub selector: LabelSelector,
    /// Fewest places below which the least-loaded counts as empty.
    pub min_domains: i64,
    /// Whether nodes the pod's affinity excludes are left out of the count.
    pub honor_affinity: bool,
    /// Whether nodes with taints the pod does not tolerate are left out.
    pub honor_taints: bool,
}

/// What of a pod matters where devices are made of what a node has for its pods anyway (`DRANodeAllocatableResources`).
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSide {
    /// The pod's names of its claims, each with a container that uses it.
    pub users: Vec<(String, String)>,
    /// Resources that the pod requests as a whole: what claims come to is among them.
    pub whole: Vec<String>,
    /// Names of claims that have come to something.
    pub held: Vec<String>,
    /// What the pod requests, and counts as, without such claims.
    bare: (Resources, Resources),
    /// What its containers request together.
    containers: Resources,
}

// === impl NodeSide ===

impl NodeSide {
    fn new(spec: &core::PodSpec, status: Option<&core::PodStatus>, gates: Gates) -> Option<Self> {
        let told = status.and_then(|s| s.node_allocatable_resource_claim_statuses.as_ref());
        let has_claims = spec.resource_claims.as_ref().is_some_and(|all| !all.is_empty());
        if !gates.has(Gate::DRANodeAllocatableResources) || !(has_claims || told.is_some()) {
            return None;
        }
        let uses = |c: &core::Container| -> Vec<(String, String)> {
            let claims = c.resources.iter().flat_map(|r| r.claims.iter().flatten());
            claims.map(|claim| (claim.name.clone(), c.name.clone())).collect()
        };
        let whole = spec.resources.as_ref().filter(|_| gates.has(Gate::PodLevelResources));
        let without = gates.with(Gate::DRANodeAllocatableResources, false);
        let of_containers = without.with(Gate::PodLevelResources, false);
        Some(Self {
            users: containers(spec).flat_map(uses).collect(),
            whole: whole
                .into_iter()
                .flat_map(|r| r.requests.iter().flatten())
                .map(|(n, _)| n.clone())
                .collect(),
            held: told.into_iter().flatten().map(|claim| claim.resource_claim_name.clone()).collect(),
            bare: pod_requests(spec, status, without),
            containers: pod_requests(spec, status, of_containers).0,
        })
    }

    /// What the pod requests when its claims come to this.
    pub fn requests(&self, claims: &[core::NodeAllocatableResourceClaimStatus]) -> Resources {
        self.more(&self.bare.0, claims)
    }

    /// What its containers and claims request together.
    pub fn together(&self, claims: &[core::NodeAllocatableResourceClaimStatus]) -> Resources {
        let mut out = self.containers.clone();
        claims.iter().for_each(|claim| out.add(&Resources::from_list(&claim.resources), 1));
        out
    }

    fn more(&self, bare: &Resources, claims: &[core::NodeAllocatableResourceClaimStatus]) -> Resources {
        let mut out = bare.clone();
        for claim in claims {
            let own = claim.resources.iter().filter(|(name, _)| !self.whole.contains(name));
            out.add(&Resources::from_list(&own.map(|(n, a)| (n.clone(), a.clone())).collect()), 1);
        }
        out
    }
}

/// Whether the scheduler told a pod to go.
fn was_preempted(status: Option<&core::PodStatus>) -> bool {
    let mut conditions = status.into_iter().flat_map(|s| s.conditions.iter().flatten());
    let target = conditions.find(|c| c.type_ == "DisruptionTarget");
    target.is_some_and(|c| c.status == "True" && c.reason.as_deref() == Some("PreemptionByScheduler"))
}

// === impl PodInfo ===

impl PodInfo {
    /// Parses a pod; the gates say what counts of it.
    pub fn new(pod: &core::Pod, gates: Gates) -> Arc<Self> {
        let (meta, empty) = (&pod.metadata, core::PodSpec::default());
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let status = pod.status.as_ref();
        let text = |s: &Option<String>| s.clone().unwrap_or_default();
        let namespace = text(&meta.namespace);
        let labels = meta.labels.clone().unwrap_or_default();
        let (requests, counted) = pod_requests(spec, status, gates);
        let compare = gates.has(Gate::TaintTolerationComparisonOperators);
        let affinity = spec.affinity.clone().unwrap_or_default();
        let node = affinity.node_affinity.unwrap_or_default();
        let (with, against) =
            (affinity.pod_affinity.unwrap_or_default(), affinity.pod_anti_affinity.unwrap_or_default());
        let required = |terms: &Option<Vec<core::PodAffinityTerm>>| {
            terms.iter().flatten().map(|t| PodTerm::new(t, &namespace, &labels)).collect()
        };
        let preferred = |terms: &Option<Vec<core::WeightedPodAffinityTerm>>| {
            let weigh = |w: &core::WeightedPodAffinityTerm| WeightedPodTerm {
                term: PodTerm::new(&w.pod_affinity_term, &namespace, &labels),
                weight: w.weight.into(),
            };
            terms.iter().flatten().map(weigh).collect()
        };
        let mut out = Self {
            name: text(&meta.name),
            uid: text(&meta.uid),
            resource_version: text(&meta.resource_version),
            node_name: text(&spec.node_name),
            nominated_node: status.map(|s| text(&s.nominated_node_name)).unwrap_or_default(),
            scheduler_name: text(&spec.scheduler_name),
            priority: spec.priority.unwrap_or(0),
            may_preempt: spec.preemption_policy.as_deref() != Some("Never"),
            terminating: meta.deletion_timestamp.is_some(),
            preempted: meta.deletion_timestamp.is_some() && was_preempted(status),
            finished: matches!(status.and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed")),
            created: meta.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second()),
            started: status.and_then(|s| s.start_time.as_ref()).map_or(i64::MAX, |t| t.0.as_second()),
            group: spec.scheduling_group.as_ref().and_then(|g| g.pod_group_name.as_deref()).map(SmolStr::new),
            gates: spec.scheduling_gates.iter().flatten().map(|g| g.name.clone()).collect(),
            requests,
            counted,
            ports: host_ports(spec),
            images: containers(spec).filter_map(|c| c.image.clone()).collect(),
            mounted_images: mounted_images(spec),
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            node_required: node
                .required_during_scheduling_ignored_during_execution
                .as_ref()
                .map(NodeSelectorTerms::new),
            node_preferred: node
                .preferred_during_scheduling_ignored_during_execution
                .iter()
                .flatten()
                .map(|p| (NodeTerm::new(&p.preference), p.weight.into()))
                .collect(),
            affinity: required(&with.required_during_scheduling_ignored_during_execution),
            anti_affinity: required(&against.required_during_scheduling_ignored_during_execution),
            prefer: preferred(&with.preferred_during_scheduling_ignored_during_execution),
            avoid: preferred(&against.preferred_during_scheduling_ignored_during_execution),
            tolerations: spec.tolerations.iter().flatten().map(|t| Toleration::new(t, compare)).collect(),
            spread: spec
                .topology_spread_constraints
                .iter()
                .flatten()
                .map(|c| {
                    SpreadConstraint::new(c, &labels, gates.has(Gate::MatchLabelKeysInPodTopologySpread))
                })
                .collect(),
            claims: claims(spec, meta.name.as_deref().unwrap_or_default()),
            device_claims: device_claims(spec, status),
            device_asks: device_asks(spec),
            features: if gates.has(Gate::NodeDeclaredFeatures) { features(spec) } else { Vec::new() },
            disks: spec.volumes.iter().flatten().filter_map(Disk::new).collect(),
            node_side: NodeSide::new(spec, status, gates).map(Arc::new),
            inline: spec.volumes.iter().flatten().filter_map(Handle::of_inline).collect(),
            owner: controller_of(meta)
                .and_then(|owner| Some((Selecting::of_owner(owner)?, owner.name.clone()))),
            namespace,
            labels,
            class: 0,
        };
        let class = hash_of(&out.asks());
        out.class = class;
        Arc::new(out)
    }

    /// Whether every node by itself says the same to both pods: they ask for the same of it. What other pods and other
    /// objects say is left aside.
    pub fn is_like(&self, other: &Self) -> bool {
        self.class == other.class && self.asks() == other.asks()
    }

    fn asks(&self) -> impl Hash + PartialEq + '_ {
        (
            (&self.node_name, &self.node_selector, &self.node_required, &self.node_preferred),
            (&self.requests, &self.counted, &self.ports, &self.tolerations, &self.features),
        )
    }

    /// The pod on a node, its claims having come to this there.
    pub fn placed(&self, node: &str, claims: &[core::NodeAllocatableResourceClaimStatus]) -> Self {
        let mut out = Self { node_name: node.to_owned(), ..self.clone() };
        if let Some(side) = out.node_side.as_mut().filter(|_| !claims.is_empty()).map(Arc::make_mut) {
            out.requests = side.more(&side.bare.0, claims);
            out.counted = side.more(&side.bare.1, claims);
            side.held = claims.iter().map(|claim| claim.resource_claim_name.clone()).collect();
        }
        out
    }

    /// `namespace/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The group it is placed with.
    pub fn group_key(&self) -> Option<ObjectKey> {
        self.group.as_deref().map(|name| ObjectKey::new(self.namespace.as_str(), name))
    }

    /// Whether the pod mounts a claim.
    pub fn has_claim(&self, key: &ObjectKey) -> bool {
        *key.namespace == *self.namespace && self.claims.iter().any(|used| *used.name == *key.name)
    }

    /// The claims of devices that the pod uses and that are made.
    pub fn device_claim_keys(&self) -> impl Iterator<Item = ObjectKey> {
        let names = self.device_claims.iter().filter_map(|used| used.name.as_deref());
        names.map(|name| ObjectKey::new(self.namespace.as_str(), name))
    }

    /// Whether node selector and required node affinity accept a node.
    pub fn accepts_node(&self, name: &str, labels: &Labels) -> bool {
        self.node_selector.iter().all(|(k, v)| labels.get(k) == Some(v))
            && self.node_required.as_ref().is_none_or(|r| r.matches(name, labels))
    }

    /// The first taint of the given effects the pod does not tolerate.
    pub fn untolerated<'a>(&self, taints: &'a [Taint], effects: &[TaintEffect]) -> Option<&'a Taint> {
        taints
            .iter()
            .filter(|t| effects.contains(&t.effect))
            .find(|t| !self.tolerations.iter().any(|toleration| toleration.tolerates(t)))
    }
}

/// A hash that is the same throughout this process.
pub(crate) fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn containers(spec: &core::PodSpec) -> impl Iterator<Item = &core::Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// What a pod asks of its node that not every node can (upstream's `nodedeclaredfeatures/features`).
fn features(spec: &core::PodSpec) -> Vec<&'static str> {
    let restarts_all = containers(spec)
        .flat_map(|c| c.restart_policy_rules.iter().flatten())
        .any(|rule| rule.action == "RestartAllContainers");
    let shares_network = spec.host_network == Some(true) && spec.host_users == Some(false);
    let all = [
        (restarts_all, "RestartAllContainersOnContainerExits"),
        (shares_network, "UserNamespacesHostNetworkSupport"),
    ];
    all.into_iter().filter(|(needed, _)| *needed).map(|(_, name)| name).collect()
}

fn mounted_images(spec: &core::PodSpec) -> Vec<String> {
    let all = spec.volumes.iter().flatten().filter_map(|volume| volume.image.as_ref());
    all.filter_map(|image| image.reference.clone()).collect()
}

fn host_ports(spec: &core::PodSpec) -> Vec<HostPort> {
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    sidecars
        .chain(&spec.containers)
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| {
            Some(HostPort {
                port: p.host_port.filter(|p| *p > 0)?,
                ip: p.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".into()),
                protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()),
            })
        })
        .collect()
}

fn device_claims(spec: &core::PodSpec, status: Option<&core::PodStatus>) -> Vec<DeviceClaimUse> {
    let made = |name: &str| {
        let all = status.and_then(|s| s.resource_claim_statuses.as_ref());
        all.into_iter().flatten().find(|s| s.name == name).map(|s| s.resource_claim_name.clone())
    };
    let used = |entry: &core::PodResourceClaim| {
        let (name, is_own) = match &entry.resource_claim_name {
            Some(name) => (Some(name.clone()), false),
            None => match made(&entry.name) {
                // It turned out that none is needed.
                Some(None) => return None,
                Some(name) => (name, true),
                None => (None, true),
            },
        };
        Some(DeviceClaimUse { name, is_own, asked: entry.clone() })
    };
    spec.resource_claims.iter().flatten().filter_map(used).collect()
}

/// Resources that are named after a class of devices.
pub(super) const CLASS_PREFIX: &str = "deviceclass.resource.kubernetes.io/";

/// Whether devices may stand for a resource: it is none of Kubernetes' own, or is named after a class of them.
pub fn may_be_devices(resource: &str) -> bool {
    let foreign = resource.contains('/') && !resource.contains("kubernetes.io/");
    resource.starts_with(CLASS_PREFIX) || (foreign && !resource.starts_with("requests."))
}

fn device_asks(spec: &core::PodSpec) -> Vec<DeviceAsk> {
    let init = spec.init_containers.iter().flatten();
    let init = init.map(|c| (c, c.restart_policy.as_deref() == Some("Always")));
    let all = init.chain(spec.containers.iter().map(|c| (c, true)));
    let mut out = Vec::new();
    for (at, (container, lasts)) in all.enumerate() {
        let requests = container.resources.iter().flat_map(|r| r.requests.iter().flatten());
        for (place, (resource, amount)) in requests.enumerate() {
            let count = amount.0.parse::<Quantity>().ok().and_then(|q| whole(&q)).unwrap_or(0);
            if count > 0 && may_be_devices(resource) {
                let container = container.name.clone();
                out.push(DeviceAsk {
                    container,
                    at,
                    lasts,
                    resource: resource.as_str().into(),
                    place,
                    count,
                });
            }
        }
    }
    out
}

/// An amount without fraction.
fn whole(amount: &Quantity) -> Option<i64> {
    let value = amount.value();
    (amount.milli_value() == value.saturating_mul(1000)).then_some(value)
}

fn claims(spec: &core::PodSpec, pod: &str) -> Vec<ClaimUse> {
    spec.volumes
        .iter()
        .flatten()
        .filter_map(|v| {
            let named = v.persistent_volume_claim.as_ref().map(|c| (c.claim_name.clone(), false));
            let (name, ephemeral) =
                named.or_else(|| v.ephemeral.as_ref().map(|_| (format!("{pod}-{}", v.name), true)))?;
            Some(ClaimUse { name, ephemeral })
        })
        .collect()
}

// === impl Disk ===

impl Disk {
    fn new(volume: &core::Volume) -> Option<Disk> {
        let disk = |id, read_only: Option<bool>| Some(Disk { id, read_only: read_only.unwrap_or(false) });
        if let Some(v) = &volume.gce_persistent_disk {
            return disk(DiskId::Gce(v.pd_name.clone()), v.read_only);
        }
        if let Some(v) = &volume.aws_elastic_block_store {
            return disk(DiskId::Ebs(v.volume_id.clone()), v.read_only);
        }
        if let Some(v) = &volume.iscsi {
            return disk(DiskId::Iscsi(v.iqn.clone()), v.read_only);
        }
        let v = volume.rbd.as_ref()?;
        let pool = v.pool.clone().unwrap_or_else(|| "rbd".into());
        disk(DiskId::Rbd { monitors: v.monitors.clone(), pool, image: v.image.clone() }, v.read_only)
    }

    /// Whether two pods of one node cannot have these two.
    pub fn excludes(&self, other: &Self) -> bool {
        let both_read = self.read_only && other.read_only;
        match (&self.id, &other.id) {
            (DiskId::Ebs(a), DiskId::Ebs(b)) => a == b,
            (DiskId::Gce(a), DiskId::Gce(b)) | (DiskId::Iscsi(a), DiskId::Iscsi(b)) => a == b && !both_read,
            (DiskId::Rbd { monitors, pool, image }, DiskId::Rbd { monitors: theirs, pool: p, image: i }) => {
                monitors.iter().any(|m| theirs.contains(m)) && (pool, image) == (p, i) && !both_read
            }
            _ => false,
        }
    }
}

// === impl HostPort ===

impl HostPort {
    /// Whether two ports exclude each other on one host.
    pub fn conflicts(&self, other: &Self) -> bool {
        const ALL: &str = "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || self.ip == ALL || other.ip == ALL)
    }
}

// === impl Toleration ===

impl Toleration {
    /// Compiles a toleration; `compare` says whether there are operators that compare numbers.
    pub fn new(t: &core::Toleration, compare: bool) -> Self {
        let value = t.value.as_deref().unwrap_or_default();
        let bound = || whole_number(value).filter(|_| compare);
        Self {
            key: t.key.clone().unwrap_or_default(),
            values: match t.operator.as_deref().unwrap_or_default() {
                "" | "Equal" => Tolerated::One(value.to_owned()),
                "Exists" => Tolerated::Any,
                "Lt" => bound().map_or(Tolerated::None, Tolerated::Below),
                "Gt" => bound().map_or(Tolerated::None, Tolerated::Above),
                _ => Tolerated::None,
            },
            effect: t.effect.as_deref().filter(|e| !e.is_empty()).map(TaintEffect::parse),
        }
    }

    /// Whether it tolerates a taint.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        let found = || whole_number(&taint.value);
        self.effect.is_none_or(|e| e == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && match &self.values {
                Tolerated::Any => true,
                Tolerated::One(value) => *value == taint.value,
                Tolerated::Below(bound) => found().is_some_and(|found| found < *bound),
                Tolerated::Above(bound) => found().is_some_and(|found| found > *bound),
                Tolerated::None => false,
            }
    }
}

// === impl SpreadConstraint ===

impl SpreadConstraint {
    /// Parses a constraint of a pod with these labels; `keys` is whether labels may be named that pods share.
    pub fn new(c: &core::TopologySpreadConstraint, labels: &Labels, keys: bool) -> Self {
        let shared = c.match_label_keys.iter().filter(|_| keys).flatten();
        let selector = compile(c.label_selector.as_ref(), labels, shared, []);
        Self {
            max_skew: c.max_skew.into(),
            topology_key: c.topology_key.clone(),
            hard: c.when_unsatisfiable == "DoNotSchedule",
            selector,
            min_domains: c.min_domains.unwrap_or(1).into(),
            honor_affinity: c.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: c.node_taints_policy.as_deref() == Some("Honor"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tolerations_follow_the_taints_page() {
        let taint = Taint { key: "k".into(), value: "v".into(), effect: TaintEffect::NoSchedule };
        let cases = [
            (json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}), true),
            (json!({"key": "k", "value": "v"}), true),
            (json!({"key": "k", "value": "w"}), false),
            (json!({"key": "k", "operator": "Exists"}), true),
            (json!({"operator": "Exists"}), true),
            (json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), false),
            (json!({"key": "other", "operator": "Exists"}), false),
            (json!({"key": "k", "operator": "Like", "value": "v"}), false),
        ];
        for (toleration, want) in cases {
            let t = Toleration::new(&serde_json::from_value(toleration.clone()).unwrap(), false);
            assert_eq!(t.tolerates(&taint), want, "{toleration}");
        }
    }

    #[test]
    fn tolerations_compare_whole_numbers_where_the_gate_is_on() {
        let cases = [
            ("Lt", "10", "9", true),
            ("Lt", "10", "10", false),
            ("Lt", "-1", "-2", true),
            ("Gt", "10", "11", true),
            ("Gt", "10", "10", false),
            ("Gt", "0", "-1", false),
            ("Gt", "9", "010", false),
            ("Gt", "1.5", "2", false),
            ("Lt", "10", "", false),
            ("Lt", "9223372036854775808", "1", false),
        ];
        for (operator, value, found, want) in cases {
            let toleration =
                json!({"key": "k", "operator": operator, "value": value, "effect": "NoSchedule"});
            let toleration = serde_json::from_value(toleration).unwrap();
            let taint = Taint { key: "k".into(), value: found.into(), effect: TaintEffect::NoSchedule };
            assert_eq!(
                Toleration::new(&toleration, true).tolerates(&taint),
                want,
                "{found} {operator} {value}"
            );
            assert!(!Toleration::new(&toleration, false).tolerates(&taint));
        }
    }

    #[test]
    fn features_of_nodes_and_labels_that_pods_share_count_where_they_may() {
        let rule = json!([{"action": "RestartAllContainers"}]);
        let spread = json!([{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "a"}}, "matchLabelKeys": ["version"]}]);
        let pod: core::Pod = serde_json::from_value(json!({
            "metadata": {"labels": {"app": "a", "version": "1"}},
            "spec": {"containers": [{"name": "c", "restartPolicyRules": rule}], "topologySpreadConstraints": spread},
        }))
        .unwrap();
        let older: Labels =
            [("app", "a"), ("version", "0")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let of = |gates: Gates| {
            let info = PodInfo::new(&pod, gates);
            (info.features.len(), info.spread[0].selector.matches(&older))
        };
        assert_eq!(of(Gates::default()), (1, false));
        assert_eq!(of(Gates::default().with(Gate::NodeDeclaredFeatures, false)), (0, false));
        assert_eq!(of(Gates::default().with(Gate::MatchLabelKeysInPodTopologySpread, false)), (1, true));
    }

    #[test]
    fn the_wildcard_address_conflicts_with_every_address() {
        let port = |ip: &str| HostPort { ip: ip.into(), protocol: "TCP".into(), port: 80 };
        assert!(port("0.0.0.0").conflicts(&port("10.0.0.1")));
        assert!(!port("10.0.0.2").conflicts(&port("10.0.0.1")));
        assert!(!port("0.0.0.0").conflicts(&HostPort { protocol: "UDP".into(), ..port("0.0.0.0") }));
    }
}
