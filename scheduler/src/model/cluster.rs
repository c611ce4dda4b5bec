//! All nodes with their pods, the namespaces' labels, storage and devices: the snapshot decisions are made on.
//!
//! Cloning is cheap (nodes are shared by `Arc` and copied on change), so a cycle works on a
//! snapshot while events go on changing the model.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use smol_str::SmolStr;

use super::{Devices, Labels, NodeInfo, PodInfo, Storage};

/// Nodes by name, pods by uid.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    nodes: BTreeMap<SmolStr, Arc<NodeInfo>>,
    /// Pods whose node is not known (yet, or no more), by node name.
    orphans: HashMap<SmolStr, Vec<Arc<PodInfo>>>,
    /// Node of every pod placed, by uid.
    placed: HashMap<SmolStr, SmolStr>,
    /// Claims, volumes and what makes them.
    pub storage: Storage,
    /// Devices and the claims that hold them.
    pub devices: Devices,
    /// Labels of namespaces.
    namespaces: HashMap<String, Arc<Labels>>,
}

impl Cluster {
    /// Nodes in name order.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Arc<NodeInfo>> {
        self.nodes.values()
    }

    /// One node.
    pub fn node(&self, name: &str) -> Option<&Arc<NodeInfo>> {
        self.nodes.get(name)
    }

    /// Labels of a namespace; none when it is unknown.
    pub fn namespace_labels(&self, name: &str) -> Arc<Labels> {
        self.namespaces.get(name).cloned().unwrap_or_default()
    }

    /// Sets or (with `None`) forgets a namespace.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        match labels {
            Some(labels) => self.namespaces.insert(name.to_owned(), Arc::new(labels)),
            None => self.namespaces.remove(name),
        };
    }

    /// Adds a node or takes over its new state; its pods stay.
    pub fn set_node(&mut self, mut node: NodeInfo) {
        let name = node.name.clone();
        match self.nodes.get(&name) {
            Some(old) => node.adopt(&old.pods),
            None => node.adopt(&self.orphans.remove(&name).unwrap_or_default()),
        }
        self.nodes.insert(name, Arc::new(node));
    }

    /// Forgets a node; its pods are kept in case it comes back.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(node) = self.nodes.remove(name)
            && !node.pods.is_empty()
        {
            self.orphans.insert(name.into(), node.pods.clone());
        }
    }

    /// Places a pod on its node, replacing an older state of it wherever that was.
    pub fn place(&mut self, pod: Arc<PodInfo>) {
        self.displace(&pod.uid);
        let name = SmolStr::new(&pod.node_name);
        self.placed.insert(SmolStr::new(&pod.uid), name.clone());
        match self.nodes.get_mut(&name) {
            Some(node) => Arc::make_mut(node).add(pod),
            None => self.orphans.entry(name).or_default().push(pod),
        }
    }

    /// Takes a pod away; false if it was nowhere.
    pub fn displace(&mut self, uid: &str) -> bool {
        let Some(name) = self.placed.remove(uid) else {
            return false;
        };
        if let Some(node) = self.nodes.get_mut(&name) {
            return Arc::make_mut(node).remove(uid);
        }
        if let Some(pods) = self.orphans.get_mut(&name) {
            pods.retain(|p| p.uid != uid);
            if pods.is_empty() {
                self.orphans.remove(&name);
            }
        }
        true
    }

    /// The node a pod is placed on.
    pub fn placement(&self, uid: &str) -> Option<&str> {
        self.placed.get(uid).map(SmolStr::as_str)
    }

    /// Number of pods placed.
    pub fn pod_count(&self) -> usize {
        self.placed.len()
    }
}
