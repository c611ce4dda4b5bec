//! Pods are given processors, memory and devices together, by every policy and scope.

use std::{collections::BTreeMap, path::Path};

use component_base::quantity::Quantity;
use parking_lot::Mutex;
use serde_json::json;

use super::{nodes::MemoryNode, *};
use crate::{
    cpus::{self, Cpus},
    memory::{self, Memory, plan::Amounts, reserved::Reservation},
    testing,
};

const GIB: u64 = 1 << 30;

/// Some nodes with two processors, ten gibibytes and two devices each; of each a processor and a gibibyte are kept from pods.
struct Machine {
    _dir: tempfile::TempDir,
    cpus: Arc<Cpus>,
    memory: Arc<Memory>,
    topology: Topology,
}

/// Gives out devices: `d0a` and `d0b` are near node 0, and so on.
#[derive(Default)]
struct Devices {
    nodes: u32,
    given: Mutex<BTreeMap<String, NodeSet>>,
}

fn count(container: &Container, name: &str) -> usize {
    let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
    let amount = limits.and_then(|l| l.get(name)).map(|q| q.0.parse::<Quantity>().unwrap().value());
    usize::try_from(amount.unwrap_or(0)).unwrap()
}

#[async_trait]
impl Provider for Devices {
    fn hints(&self, _: &Pod, container: &Container) -> Hints {
        let wanted = count(container, "d");
        let all: NodeSet = (0..self.nodes).collect();
        let given = self.given.lock().clone();
        let free = |part: NodeSet| given.values().all(|taken| taken.and(part).is_empty());
        let hints = hints(all, |p| p.len() * 2 >= wanted, |p| p.len() * 2 >= wanted && free(p));
        if wanted > 0 { Hints::from([("d".to_owned(), Some(hints))]) } else { Hints::new() }
    }
    fn pod_hints(&self, pod: &Pod) -> Hints {
        pod::containers(pod).first().map(|c| self.hints(pod, c)).unwrap_or_default()
    }
    async fn give(&self, pod: &Pod, container: &Container, from: Hint) -> Result<(), Verdict> {
        if count(container, "d") > 0 {
            self.given.lock().insert(pod::uid(pod).to_owned(), from.nodes.unwrap_or_default());
        }
        Ok(())
    }
    fn release(&self, uid: &str) {
        self.given.lock().remove(uid);
    }
}

fn processors(root: &Path, nodes: u32) {
    let folder = root.join("sys/devices/system/cpu");
    for cpu in 0..nodes * 3 {
        std::fs::create_dir_all(folder.join(format!("cpu{cpu}/node{}", cpu / 3))).unwrap();
    }
    std::fs::write(folder.join("online"), format!("0-{}", nodes * 3 - 1)).unwrap();
}

fn machine(nodes: u32, policy: Policy, scope: Scope) -> Machine {
    let dir = tempfile::tempdir().unwrap();
    processors(dir.path(), nodes);
    let reserved = (0..nodes).map(|node| node * 3).collect();
    let settings = cpus::Settings { exclusive: true, reserved, ..cpus::Settings::default() };
    let cpus = Arc::new(Cpus::new(&settings, dir.path(), dir.path()).unwrap());
    let node = MemoryNode { memory: 11 * GIB, ..MemoryNode::default() };
    let all = MemoryNodes((0..nodes).map(|number| (number, node.clone())).collect());
    let one =
        |numa_node| Reservation { numa_node, limits: BTreeMap::from([("memory".into(), "1Gi".into())]) };
    let settings = memory::Settings { pinned: true, reserved: (0..nodes).map(one).collect() };
    let kept = Amounts::from([("memory".into(), u64::from(nodes) * GIB)]);
    let memory = Arc::new(Memory::new(&settings, &all, &kept, dir.path()).unwrap());
    let devices = Arc::new(Devices { nodes, ..Devices::default() });
    let providers: Vec<Arc<dyn Provider>> = vec![devices, Arc::clone(&cpus) as _, Arc::clone(&memory) as _];
    let settings = Settings { policy, scope, ..Settings::default() };
    let topology = Topology::new(settings, all, providers).unwrap();
    Machine { _dir: dir, cpus, memory, topology }
}

/// Containers with processors, gibibytes and devices.
fn pod(name: &str, containers: &[(&str, u32, u32, u32)]) -> Pod {
    let mut builder = testing::pod(name);
    for (name, cpus, memory, devices) in containers {
        let mut list = json!({ "cpu": cpus.to_string(), "memory": format!("{memory}Gi") });
        if *devices > 0 {
            list["d"] = devices.to_string().into();
        }
        builder = builder.container(name).resources(json!({ "requests": list, "limits": list }));
    }
    builder.build()
}

impl Machine {
    /// `processors @ nodes of memory` of each container, or why the pod was refused.
    async fn admit(&self, pod: &Pod) -> Result<Vec<String>, String> {
        self.topology.admit(pod).await.map_err(|verdict| verdict.reason)?;
        let uid = pod::uid(pod);
        let one = |c: &Container| {
            let memory = self.memory.place(uid, &c.name).unwrap_or_default();
            format!("{}@{memory}", self.cpus.own(uid, &c.name))
        };
        Ok(pod::containers(pod).iter().map(one).collect())
    }
}

fn refused() -> Result<Vec<String>, String> {
    Err("TopologyAffinityError".into())
}

fn given(list: &[&str]) -> Result<Vec<String>, String> {
    Ok(list.iter().map(|text| (*text).to_owned()).collect())
}

#[tokio::test]
async fn every_policy_takes_what_it_may() {
    // Three processors are on no node, which only the memory does not mind.
    for (policy, wide, apart) in [
        (Policy::None, given(&["4-5,7@0"]), given(&["8@1"])),
        (Policy::BestEffort, given(&["4-5,7@1,2"]), given(&["10@3"])),
        (Policy::Restricted, refused(), given(&["4@1"])),
        (Policy::SingleNode, refused(), given(&["4@1"])),
    ] {
        let machine = machine(4, policy, Scope::Container);
        let first = machine.admit(&pod("first", &[("c", 2, 4, 1)])).await;
        assert_eq!(first, given(&["1-2@0"]), "{policy:?}");
        assert_eq!(machine.admit(&pod("wide", &[("c", 3, 2, 0)])).await, wide, "{policy:?}");
        assert_eq!(machine.admit(&pod("apart", &[("c", 1, 9, 0)])).await, apart, "{policy:?}");
    }
}

#[tokio::test]
async fn a_pod_as_a_whole_needs_more_than_its_containers_each() {
    let both = [("a", 1, 6, 0), ("b", 1, 6, 0)];
    let each = machine(2, Policy::SingleNode, Scope::Container);
    assert_eq!(each.admit(&pod("p", &both)).await, given(&["1@0", "4@1"]));
    let whole = machine(2, Policy::SingleNode, Scope::Pod);
    assert_eq!(whole.admit(&pod("p", &both)).await, refused());
    assert_eq!(whole.admit(&pod("p", &[("a", 1, 5, 0), ("b", 1, 5, 0)])).await, given(&["1@0", "2@0"]));
    let one = machine(1, Policy::SingleNode, Scope::Pod);
    assert_eq!(one.admit(&pod("p", &[("a", 2, 10, 2)])).await, given(&["1-2@0"]));
    assert_eq!(one.admit(&pod("q", &[("a", 1, 1, 0)])).await, refused());
}

#[tokio::test]
async fn a_refused_pod_has_nothing_and_an_ended_one_gives_back() {
    let machine = machine(2, Policy::SingleNode, Scope::Container);
    let (first, second) = (pod("first", &[("a", 2, 2, 0), ("b", 1, 2, 0)]), pod("second", &[("a", 2, 2, 0)]));
    machine.admit(&first).await.unwrap();
    let torn = pod("torn", &[("a", 1, 1, 0), ("b", 1, 9, 0)]);
    assert_eq!(machine.admit(&torn).await, refused());
    assert!(machine.cpus.own("uid-torn", "a").is_empty() && machine.memory.own("uid-torn", "a").is_empty());
    assert_eq!(machine.admit(&second).await, refused());
    machine.topology.release("uid-first");
    assert_eq!(machine.admit(&second).await, given(&["1-2@0"]));
    assert_eq!(machine.admit(&second).await, given(&["1-2@0"]), "again, as after a restart");
}

#[test]
fn machines_that_cannot_be_managed_are_refused() {
    let nodes = |count: u32| MemoryNodes((0..count).map(|n| (n, MemoryNode::default())).collect());
    let of = |settings, count| Topology::new(settings, nodes(count), vec![]).err().map(|e| e.to_string());
    let on = Settings { policy: Policy::BestEffort, ..Settings::default() };
    assert_eq!(of(on, 8), None);
    assert_eq!(of(on, 9).unwrap(), "unsupported on machines with more than 8 NUMA Nodes");
    assert_eq!(of(Settings { most_nodes: 10, ..on }, 9), None);
    assert_eq!(
        of(Settings { most_nodes: 60, ..on }, 20).unwrap(),
        "unsupported on machines with more than 16 NUMA Nodes"
    );
    assert!(of(Settings { closest: true, ..on }, 2).unwrap().contains("distances"));
    assert_eq!(of(Settings::default(), 40), None);
}
