//! What nodes have of the resources that are scored, and how much of it is taken.

use crate::{
    model::{Cluster, NodeInfo, Resources, pod::may_be_devices},
    plugins::dynamic_resources::Backing,
};

/// Resources that every pod uses, whether it says so or not.
const USUAL: &[&str] = &["cpu", "memory", "ephemeral-storage"];

/// Whether nodes alone have these resources, so that their scores follow from a node and its pods.
pub(super) fn are_of_nodes(resources: &[(String, i64)]) -> bool {
    resources.iter().all(|(name, _)| USUAL.contains(&name.as_str()))
}

/// What a node has of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Amount {
    /// Taken before the pod comes.
    pub(super) used: i64,
    /// What the pod asks for.
    pub(super) asked: i64,
    /// All there is, never nothing.
    pub(super) have: i64,
    pub(super) weight: i64,
}

struct Scored<'a> {
    name: String,
    weight: i64,
    asked: i64,
    /// What stands for the resource where a node has none itself.
    devices: Option<Backing<'a>>,
}

/// The resources that are scored for a pod.
pub(super) struct Amounts<'a>(Vec<Scored<'a>>);

impl<'a> Amounts<'a> {
    /// Of resources with their weights. Those that not every pod uses count only for pods that ask for them.
    pub(super) fn new(resources: &[(String, i64)], asked: &Resources, cluster: &'a Cluster) -> Self {
        let all = resources.iter().filter_map(|(name, weight)| {
            let amount = asked.get(name);
            let usual = USUAL.contains(&name.as_str());
            let devices = || Backing::new(name, &cluster.devices).filter(|_| may_be_devices(name));
            (usual || amount > 0).then(|| Scored {
                name: name.clone(),
                weight: *weight,
                asked: amount,
                devices: if usual { None } else { devices() },
            })
        });
        Self(all.collect())
    }

    /// Those that a node has, given what is taken of them.
    pub(super) fn on(&self, node: &NodeInfo, used: &Resources) -> impl Iterator<Item = Amount> {
        self.0.iter().filter_map(move |scored| {
            let Scored { name, weight, asked, devices } = scored;
            let own = (node.allocatable.get(name), used.get(name));
            let (have, used) = match devices {
                Some(devices) if own.0 == 0 => devices.on(node),
                _ => own,
            };
            (have != 0).then_some(Amount { used, asked: *asked, have, weight: *weight })
        })
    }
}
