//! Decisions of the scheduler alone, on one core and 5,000 nodes: no API server, no wire. Counted by processor time, so
//! that what else the machine does is left aside.

use std::sync::Arc;

use anyhow::{Result, ensure};
use component_base::features::Gates;
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1 as core};
use scheduler::{
    config::args::DefaultPreemptionArgs,
    model::{Cluster, NodeInfo, PodInfo, SelectorChange},
    plan::{self, Means, Memo, Options, Preemption},
    plugins::{self, Weighted},
};
use serde_json::{Value, json};

use super::usage;

const NODES: usize = 5_000;
const REPLICA_SETS: usize = 50;
const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";

/// One kind of pods in the cluster it meets.
pub(super) struct Workload {
    pub(super) name: &'static str,
    /// Decisions a second that are asked for.
    pub(super) goal: f64,
    /// Pods that are there before, then pods that are decided on.
    before: usize,
    count: usize,
    pod: fn(usize) -> Value,
}

/// The workloads, as upstream's own scheduling benchmark has them.
pub(super) const ALL: &[Workload] = &[
    Workload { name: "basic", goal: 20_000.0, before: 10_000, count: 20_000, pod: basic },
    Workload { name: "replica sets", goal: 2_000.0, before: 10_000, count: 4_000, pod: replica },
    Workload {
        name: "required anti-affinity, namespace selector",
        goal: 2_000.0,
        before: 2_000,
        count: 2_000,
        pod: apart,
    },
    Workload { name: "required affinity", goal: 2_000.0, before: 5_000, count: 4_000, pod: together },
    Workload { name: "hard spreading", goal: 2_000.0, before: 5_000, count: 4_000, pod: spread },
];

/// Decisions a second of processor for a workload.
pub(super) fn rate(workload: &Workload) -> Result<f64> {
    let mut bench = Bench::new();
    for number in 0..workload.before {
        bench.decide(&parse(&(workload.pod)(number)));
    }
    let last = workload.before + workload.count;
    let pods: Vec<Arc<PodInfo>> = (workload.before..last).map(|n| parse(&(workload.pod)(n))).collect();
    let before = used()?;
    let placed = pods.iter().filter(|pod| bench.decide(pod)).count();
    let took = used()? - before;
    ensure!(placed == workload.count, "{}: {placed} of {} pods found a place", workload.name, workload.count);
    Ok(workload.count as f64 / took)
}

/// Seconds of processor for that many preemptions where every node is full of less important pods.
pub(super) fn preemptions(count: usize) -> Result<f64> {
    let mut bench = Bench::new();
    for number in 0..NODES * 4 {
        let mut pod = sized(number, "low", "8", "16Gi");
        pod["spec"]["nodeName"] = json!(node_name(number % NODES));
        bench.cluster.place(parse(&pod));
    }
    let pods: Vec<Arc<PodInfo>> = (0..count)
        .map(|number| {
            let mut pod = sized(number, "high", "16", "32Gi");
            pod["spec"]["priority"] = json!(100);
            parse(&pod)
        })
        .collect();
    let before = used()?;
    let helped = pods.iter().filter(|pod| bench.preempt(pod)).count();
    let took = used()? - before;
    ensure!(helped == count, "{helped} of {count} pods found victims");
    Ok(took)
}

/// Seconds of processor this process has used.
fn used() -> Result<f64> {
    Ok(usage::cpu(nix::unistd::getpid().as_raw())?.as_secs_f64())
}

struct Bench {
    cluster: Cluster,
    plugins: Vec<Weighted>,
    memo: Memo,
    start: usize,
    /// Counted instead of drawn: runs are alike.
    tie: u64,
}

impl Bench {
    fn new() -> Bench {
        let mut cluster = Cluster::default();
        for number in 0..100 {
            let labels = [("team".to_owned(), "devops".to_owned())].into();
            cluster.set_namespace(&format!("namespace-{number}"), Some(labels));
        }
        for number in 0..NODES {
            let name = node_name(number);
            let node: core::Node = decode(&json!({
                "metadata": {"name": name, "labels": {HOST: name, ZONE: format!("zone-{}", number % 3),
                    "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}},
                "status": {"allocatable": {"cpu": "32", "memory": "64Gi", "pods": "110"}},
            }));
            cluster.set_node(NodeInfo::new(&node));
        }
        for number in 0..REPLICA_SETS {
            let app = app(number);
            let set: ReplicaSet = decode(&json!({
                "metadata": {"name": app, "namespace": "namespace-0"},
                "spec": {"selector": {"matchLabels": {"app": app}}},
            }));
            cluster.selectors.take(SelectorChange::of(&set));
        }
        Bench {
            cluster,
            plugins: plugins::defaults(Gates::default()),
            memo: Memo::default(),
            start: 0,
            tie: 0,
        }
    }

    fn options(&mut self) -> Options<'static> {
        self.tie = self.tie.wrapping_add(7_919);
        Options { start: self.start, tie: self.tie, ..Options::default() }
    }

    /// Decides and counts the pod as placed, as the scheduler does before it is bound.
    fn decide(&mut self, pod: &Arc<PodInfo>) -> bool {
        let options = self.options();
        let decided = plan::schedule(pod, &self.cluster, &self.plugins, &[], options, &mut self.memo);
        let Ok(placement) = decided else { return false };
        self.start = self.start.wrapping_add(placement.evaluated);
        self.cluster.place(Arc::new(PodInfo { node_name: placement.node, ..PodInfo::clone(pod) }));
        true
    }

    /// Finds victims, takes them away and places the pod.
    fn preempt(&mut self, pod: &Arc<PodInfo>) -> bool {
        let options = self.options();
        let decided = plan::schedule(pod, &self.cluster, &self.plugins, &[], options, &mut self.memo);
        let Err(failure) = decided else { return false };
        let args = DefaultPreemptionArgs::default();
        let means = Means { budgets: &[], args, nominated: &[], start: self.start };
        match plan::preempt(pod, &self.cluster, &self.plugins, &failure, means) {
            Preemption::Helpless(_) | Preemption::Hopeless(_) => false,
            Preemption::Evict { node, victims } => {
                for victim in &victims {
                    self.cluster.displace(&victim.uid);
                }
                self.cluster.place(Arc::new(PodInfo { node_name: node, ..PodInfo::clone(pod) }));
                true
            }
        }
    }
}

fn node_name(number: usize) -> String {
    format!("node-{number:04}")
}

fn decode<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).expect("an object of ours decodes")
}

fn parse(value: &Value) -> Arc<PodInfo> {
    PodInfo::new(&decode(value), Gates::default())
}

fn sized(number: usize, kind: &str, cpu: &str, memory: &str) -> Value {
    let name = format!("{kind}-{number}");
    let container = json!({"name": "c", "image": "registry.example.com/app:1",
        "resources": {"requests": {"cpu": cpu, "memory": memory}}});
    json!({"metadata": {"name": name, "namespace": format!("namespace-{}", number % 100), "uid": name},
        "spec": {"containers": [container]}})
}

fn basic(number: usize) -> Value {
    sized(number, "basic", "100m", "200Mi")
}

fn app(number: usize) -> String {
    format!("app-{}", number % REPLICA_SETS)
}

/// Of one of the replica sets, spread by the default constraints.
fn replica(number: usize) -> Value {
    let mut pod = basic(number);
    let app = app(number);
    pod["metadata"]["namespace"] = json!("namespace-0");
    pod["metadata"]["labels"] = json!({"app": app});
    pod["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": app, "uid": app, "controller": true}]);
    pod
}

fn term(color: &str, key: &str) -> Value {
    json!([{"labelSelector": {"matchLabels": {"color": color}}, "topologyKey": key,
        "namespaceSelector": {"matchLabels": {"team": "devops"}}}])
}

fn apart(number: usize) -> Value {
    let mut pod = basic(number);
    pod["metadata"]["labels"] = json!({"color": "green"});
    let required = term("green", HOST);
    pod["spec"]["affinity"] =
        json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}});
    pod
}

fn together(number: usize) -> Value {
    let mut pod = basic(number);
    pod["metadata"]["labels"] = json!({"color": "blue"});
    let required = term("blue", ZONE);
    pod["spec"]["affinity"] =
        json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}});
    pod
}

fn spread(number: usize) -> Value {
    let mut pod = basic(number);
    pod["metadata"]["namespace"] = json!("namespace-0");
    pod["metadata"]["labels"] = json!({"color": "red"});
    let constraint = |key: &str, skew: usize| {
        json!({"maxSkew": skew, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"color": "red"}}})
    };
    pod["spec"]["topologySpreadConstraints"] = json!([constraint(ZONE, 5), constraint(HOST, 1)]);
    pod
}
