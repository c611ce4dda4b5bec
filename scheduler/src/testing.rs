//! Builders of small objects for tests.

use std::sync::Arc;

use component_base::{
    features::{Gate, Gates},
    informer::Event,
};
use k8s_openapi::api::{core::v1 as core, scheduling::v1alpha2::PodGroup};
use serde_json::{Value, json};

use crate::{
    framework::Plugin,
    model::{Cluster, NodeInfo, PodInfo},
};

/// With all gates on that plugins depend on.
pub(crate) fn all_gates() -> Gates {
    let of_plugins = crate::plugins::REGISTRY.iter().filter_map(|plugin| plugin.gate);
    of_plugins.fold(Gates::default().with(Gate::GenericWorkload, true), |gates, gate| gates.with(gate, true))
}

/// A pod under construction.
#[derive(Clone, Debug)]
pub(crate) struct Pod(Value);

/// A pod named `name` in the default namespace with one container.
pub(crate) fn pod(name: &str) -> Pod {
    Pod(json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }))
}

impl Pod {
    /// Sets the value at a JSON pointer, making maps on the way.
    pub(crate) fn set(mut self, pointer: &str, value: Value) -> Self {
        let mut at = &mut self.0;
        for part in pointer.split('/').skip(1) {
            at = match part.parse::<usize>() {
                Ok(index) => &mut at[index],
                Err(_) => &mut at[part],
            };
        }
        *at = value;
        self
    }

    pub(crate) fn cpu(self, cpu: &str) -> Self {
        self.set("/spec/containers/0/resources", json!({"requests": {"cpu": cpu}}))
    }

    pub(crate) fn label(self, key: &str, value: &str) -> Self {
        self.set(&format!("/metadata/labels/{key}"), json!(value))
    }

    pub(crate) fn group(self, name: &str) -> Self {
        self.set("/spec/schedulingGroup", json!({"podGroupName": name}))
    }

    pub(crate) fn on(self, node: &str) -> Self {
        self.set("/spec/nodeName", json!(node))
    }

    pub(crate) fn priority(self, priority: i32) -> Self {
        self.set("/spec/priority", json!(priority))
    }

    pub(crate) fn info(self) -> Arc<PodInfo> {
        self.info_with(all_gates())
    }

    pub(crate) fn info_with(self, gates: Gates) -> Arc<PodInfo> {
        let pod: core::Pod = serde_json::from_value(self.0).expect("a valid pod");
        PodInfo::new(&pod, gates)
    }
}

/// A group of pods with a scheduling policy, just made.
pub(crate) fn gang(name: &str, policy: Value) -> Event<PodGroup> {
    let group = json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": {"schedulingPolicy": policy},
    });
    Event::Added { new: serde_json::from_value(group).expect("a valid group"), initial: false }
}

/// A node of 4 cores and 8 Gi for 110 pods, labelled with its name and a zone, with `extra` merged in.
pub(crate) fn node(name: &str, zone: &str, extra: Value) -> NodeInfo {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone}},
        "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
    });
    merge(&mut node, extra);
    NodeInfo::new(&serde_json::from_value(node).expect("a valid node"))
}

/// What nodes score for a pod, brought to 0..=100; nothing where the plugin does not care.
pub(crate) fn scores<const N: usize>(
    plugin: &dyn Plugin,
    pod: &PodInfo,
    cluster: &Cluster,
    nodes: [&str; N],
) -> Option<[i64; N]> {
    let nodes = nodes.map(|name| cluster.node(name).expect("a node of this name").as_ref());
    let scorer = plugin.score(pod, cluster, &nodes)?;
    let mut out = nodes.map(|node| scorer.score(node));
    scorer.normalize(&nodes, &mut out);
    Some(out)
}

/// A cluster of nodes and bound pods.
pub(crate) fn cluster(nodes: Vec<NodeInfo>, pods: Vec<Arc<PodInfo>>) -> Cluster {
    let mut out = Cluster::default();
    for node in nodes {
        out.set_node(node);
    }
    for pod in pods {
        out.place(pod);
    }
    out
}

pub(crate) fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(a), Value::Object(b)) => {
            for (k, v) in b {
                merge(a.entry(k).or_insert(Value::Null), v);
            }
        }
        (slot, value) => *slot = value,
    }
}
