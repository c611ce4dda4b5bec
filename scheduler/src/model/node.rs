//! A node and what runs on it.

use std::{collections::HashMap, sync::Arc};

use k8s_openapi::api::core::v1 as core;
use smol_str::SmolStr;

use super::{
    Labels,
    pod::{HostPort, PodInfo},
    resources::Resources,
};

/// What a taint does to pods that do not tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TaintEffect {
    /// New pods stay away.
    NoSchedule,
    /// New pods rather go elsewhere.
    PreferNoSchedule,
    /// New pods stay away, running ones are evicted.
    NoExecute,
    /// Written by a newer client: does nothing here.
    Unknown,
}

/// A taint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value, may be empty.
    pub value: String,
    /// Effect.
    pub effect: TaintEffect,
}

/// An image on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageState {
    /// Bytes.
    pub size: i64,
}

/// A node's facts and the sum of its pods. Cheap to clone: parts are shared.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// Where tables over all nodes of a cluster have it. The cluster gives it, and no other node of the cluster has it.
    pub slot: usize,
    /// Name.
    pub name: SmolStr,
    /// Labels.
    pub labels: Arc<Labels>,
    /// Taints.
    pub taints: Arc<[Taint]>,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// `status.allocatable`.
    pub allocatable: Resources,
    /// `status.declaredFeatures`.
    pub features: Arc<[String]>,
    /// Images by full name.
    pub images: Arc<HashMap<String, ImageState>>,
    /// Pods bound or assumed here.
    pub pods: Vec<Arc<PodInfo>>,
    /// Sum of requests.
    pub requested: Resources,
    /// Sum of requests with defaults.
    pub counted: Resources,
    /// Host ports in use.
    pub ports: Vec<HostPort>,
}

impl TaintEffect {
    /// From the API's word.
    pub fn parse(word: &str) -> Self {
        match word {
            "NoSchedule" => Self::NoSchedule,
            "PreferNoSchedule" => Self::PreferNoSchedule,
            "NoExecute" => Self::NoExecute,
            _ => Self::Unknown,
        }
    }
}

impl NodeInfo {
    /// A node without pods.
    pub fn new(node: &core::Node) -> Self {
        let (spec, status) = (node.spec.as_ref(), node.status.as_ref());
        let taint = |t: &core::Taint| Taint {
            key: t.key.clone(),
            value: t.value.clone().unwrap_or_default(),
            effect: TaintEffect::parse(&t.effect),
        };
        let mut images = HashMap::new();
        for image in status.and_then(|s| s.images.as_ref()).into_iter().flatten() {
            for name in image.names.iter().flatten() {
                images.insert(name.clone(), ImageState { size: image.size_bytes.unwrap_or(0) });
            }
        }
        Self {
            slot: 0,
            name: node.metadata.name.as_deref().unwrap_or_default().into(),
            labels: Arc::new(node.metadata.labels.clone().unwrap_or_default()),
            taints: spec.and_then(|s| s.taints.as_ref()).into_iter().flatten().map(taint).collect(),
            unschedulable: spec.and_then(|s| s.unschedulable).unwrap_or(false),
            allocatable: status
                .and_then(|s| s.allocatable.as_ref())
                .map(Resources::from_list)
                .unwrap_or_default(),
            features: status.and_then(|s| s.declared_features.as_deref()).unwrap_or_default().into(),
            images: Arc::new(images),
            pods: Vec::new(),
            requested: Resources::default(),
            counted: Resources::default(),
            ports: Vec::new(),
        }
    }

    /// Whether a newer state of the same node takes the pods this one took, and no others.
    pub fn takes_the_same(&self, newer: &NodeInfo) -> bool {
        let facts = |n: &NodeInfo| (n.labels.clone(), n.taints.clone(), n.unschedulable, n.features.clone());
        facts(self) == facts(newer) && self.allocatable == newer.allocatable
    }

    /// Takes over the pods of an older state of the same node.
    pub fn adopt(&mut self, pods: &[Arc<PodInfo>]) {
        for pod in pods {
            self.add(pod.clone());
        }
    }

    /// Adds a pod.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests, 1);
        self.counted.add(&pod.counted, 1);
        self.ports.extend(pod.ports.iter().cloned());
        self.pods.push(pod);
    }

    /// Takes a pod away, if it is here.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let at = self.pods.iter().position(|p| p.uid == uid)?;
        let pod = self.pods.swap_remove(at);
        self.requested.add(&pod.requests, -1);
        self.counted.add(&pod.counted, -1);
        for port in &pod.ports {
            if let Some(at) = self.ports.iter().position(|p| p == port) {
                self.ports.swap_remove(at);
            }
        }
        Some(pod)
    }
}
