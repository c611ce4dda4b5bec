//! Whose memory comes from where on machines of one, two and four nodes, and what a restarted kubelet knows of it.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::{testing, topology::nodes::MemoryNode};

const GIB: u64 = 1 << 30;

/// Nodes of ten gibibytes each, one of them kept from pods, and four of huge pages.
fn machine(nodes: u32) -> MemoryNodes {
    let node = MemoryNode {
        memory: 14 * GIB,
        huge_pages: BTreeMap::from([(GIB, 4 * GIB)]),
        ..MemoryNode::default()
    };
    MemoryNodes((0..nodes).map(|number| (number, node.clone())).collect())
}

fn settings(nodes: u32) -> (Settings, Amounts) {
    let one =
        |numa_node| Reservation { numa_node, limits: BTreeMap::from([("memory".into(), "1Gi".into())]) };
    let settings = Settings { pinned: true, reserved: (0..nodes).map(one).collect() };
    (settings, Amounts::from([("memory".into(), u64::from(nodes) * GIB)]))
}

fn pinned(nodes: u32, folder: &Path) -> Memory {
    let (settings, kept) = settings(nodes);
    Memory::new(&settings, &machine(nodes), &kept, folder).unwrap()
}

/// A Guaranteed pod; an init container is named with `init`, a sidecar with `side`.
fn pod(name: &str, containers: &[(&str, &str)]) -> Pod {
    let mut builder = testing::pod(name);
    for (container, _) in containers {
        builder = match container.get(..4) {
            Some("init") => builder.init(container),
            Some("side") => builder.sidecar(container),
            _ => builder.container(container),
        };
    }
    let amount = |name: &str| containers.iter().find(|(n, _)| *n == name).map(|(_, text)| *text).unwrap();
    builder
        .with(|pod| {
            let spec = pod.spec.as_mut().unwrap();
            for one in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
                let (memory, pages) = amount(&one.name).split_once('+').unwrap_or((amount(&one.name), ""));
                let mut list = json!({ "cpu": "1", "memory": memory });
                if !pages.is_empty() {
                    list["hugepages-1Gi"] = pages.into();
                }
                one.resources = serde_json::from_value(json!({ "requests": list, "limits": list })).unwrap();
            }
        })
        .build()
}

fn give(memory: &Memory, pod: &Pod, nodes: Option<&[u32]>, preferred: bool) -> Result<Vec<String>, String> {
    let hint = Hint { nodes: nodes.map(|n| n.iter().copied().collect()), preferred };
    let all: Vec<Container> = pod::init_containers(pod).iter().chain(pod::containers(pod)).cloned().collect();
    for container in &all {
        memory.allocate(pod, container, hint).map_err(|verdict| verdict.message)?;
    }
    let place = |c: &Container| memory.place(pod::uid(pod), &c.name).map(|nodes| nodes.to_string());
    Ok(all.iter().map(|c| place(c).unwrap_or_default()).collect())
}

/// What is free on each node, in gibibytes.
fn free(memory: &Memory) -> Vec<u64> {
    let state = memory.state.as_ref().unwrap().lock();
    state.machine.values().map(|node| node.memory_map["memory"].free / GIB).collect()
}

fn failed(text: &str) -> Result<Vec<String>, String> {
    Err(format!("Allocate failed due to [memorymanager] {text}, which is unexpected"))
}

#[test]
fn as_few_nodes_as_can_be_serve_a_request() {
    for (nodes, asked, expected) in [
        (1, "9Gi", Ok(vec!["0".to_owned()])),
        (
            1,
            "10Gi",
            failed("failed to get the default NUMA affinity, no NUMA nodes with enough memory is available"),
        ),
        (2, "9Gi", Ok(vec!["0".to_owned()])),
        (2, "10Gi", Ok(vec!["0,1".to_owned()])),
        (4, "20Gi", Ok(vec!["0,1,2".to_owned()])),
        (4, "1Gi+6Gi", Ok(vec!["0,1".to_owned()])),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let memory = pinned(nodes, dir.path());
        assert_eq!(give(&memory, &pod("a", &[("c", asked)]), None, false), expected, "{asked} of {nodes}");
    }
}

#[test]
fn a_node_serves_alone_or_in_one_group() {
    let dir = tempfile::tempdir().unwrap();
    let memory = pinned(2, dir.path());
    let one = |name: &str, asked| pod(name, &[("c", asked)]);
    assert_eq!(give(&memory, &one("a", "4Gi"), Some(&[1]), true), Ok(vec!["1".into()]));
    assert_eq!(free(&memory), [9, 5]);
    // Node 1 serves alone, so both together serve nobody.
    let none = "failed to get the default NUMA affinity, no NUMA nodes with enough memory is available";
    assert_eq!(give(&memory, &one("b", "12Gi"), None, false), failed(none));
    let extension = "failed to find NUMA nodes to extend the current topology hint";
    assert_eq!(give(&memory, &one("b", "12Gi"), Some(&[0]), false), failed(extension));
    let violates = "preferred hint violates NUMA node allocation";
    assert_eq!(give(&memory, &one("b", "2Gi"), Some(&[0, 1]), false), failed(violates));
    memory.release("uid-a");
    assert_eq!(give(&memory, &one("b", "12Gi"), Some(&[0]), true), Ok(vec!["0,1".into()]));
    assert_eq!(free(&memory), [0, 6]);
    let alone = pod("c", &[("c", "1Gi")]);
    let hints = memory.hints(&alone, &pod::containers(&alone)[0]);
    let both = Hint { nodes: Some([0, 1].into_iter().collect()), preferred: false };
    assert_eq!(hints["memory"], Some(vec![both]));
    let preferred = "failed to find the default preferred hint";
    assert_eq!(give(&memory, &alone, None, true), failed(preferred));
    assert_eq!(give(&memory, &alone, None, false), Ok(vec!["0,1".into()]));
    memory.release("uid-b");
    memory.release("uid-c");
    assert_eq!(free(&memory), [9, 9]);
}

#[test]
fn ended_containers_hand_their_memory_on() {
    let dir = tempfile::tempdir().unwrap();
    let memory = pinned(1, dir.path());
    let of = |name: &str, list: &[(&str, &str)]| give(&memory, &pod(name, list), None, false).map(drop);
    of("a", &[("init1", "4Gi"), ("init2", "6Gi"), ("c", "2Gi"), ("d", "3Gi")]).unwrap();
    assert_eq!(free(&memory), [3], "the largest need");
    let sizes = |container: &str| memory.own("uid-a", container)[0].size / GIB;
    assert_eq!(["init1", "init2", "c", "d"].map(sizes), [0, 1, 2, 3], "all blocks add up to it");
    memory.release("uid-a");
    of("b", &[("init1", "4Gi"), ("side", "2Gi"), ("c", "4Gi")]).unwrap();
    assert_eq!(free(&memory), [3], "a sidecar keeps what it has");
}

#[test]
fn hints_tell_where_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let memory = pinned(4, dir.path());
    let hints = |pod: &Pod| -> Vec<String> {
        let all = memory.pod_hints(pod).remove("memory").flatten().unwrap_or_default();
        let text = |hint: &Hint| format!("{}{}", hint.nodes.unwrap(), if hint.preferred { "!" } else { "" });
        all.iter().map(text).collect()
    };
    give(&memory, &pod("a", &[("c", "8Gi")]), Some(&[0]), true).unwrap();
    give(&memory, &pod("b", &[("c", "12Gi")]), Some(&[1, 2]), true).unwrap();
    assert_eq!(hints(&pod("c", &[("c", "2Gi")])), ["3!", "1,2"]);
    assert_eq!(hints(&pod("c", &[("c", "1Gi")])), ["0!", "3!", "1,2"]);
    assert_eq!(hints(&pod("c", &[("init", "8Gi"), ("c", "4Gi"), ("d", "5Gi")])), ["3!"]);
    assert_eq!(hints(&pod("c", &[("c", "12Gi")])), [] as [String; 0]);
    // What a pod has already, it is to have again.
    assert_eq!(hints(&pod("b", &[("c", "12Gi")])), ["1,2!"]);
    assert_eq!(memory.pod_hints(&pod("b", &[("c", "11Gi")])), Hints::new());
    assert_eq!(memory.pod_hints(&testing::pod("d").container("c").build()), Hints::new(), "not Guaranteed");
}

#[test]
fn what_was_given_survives_a_restart_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let memory = pinned(2, dir.path());
    give(&memory, &pod("a", &[("c", "12Gi+1Gi")]), None, false).unwrap();
    let again = pinned(2, dir.path());
    assert_eq!(again.own("uid-a", "c"), memory.own("uid-a", "c"));
    assert_eq!(give(&again, &pod("a", &[("c", "12Gi+1Gi")]), None, false), Ok(vec!["0,1".into()]));
    assert_eq!(free(&again), [0, 6]);
    let (wanted, kept) = settings(2);
    let error = |settings: &Settings, machine: &MemoryNodes, kept: &Amounts| {
        Memory::new(settings, machine, kept, dir.path()).err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert!(error(&Settings::default(), &machine(2), &kept).contains("configured policy \"None\" differs"));
    let mut less = machine(2);
    less.0.get_mut(&1).unwrap().memory = 13 * GIB;
    assert!(error(&wanted, &less, &kept).contains("different from the real one"));
    let (one, kept_of_one) = settings(1);
    assert!(error(&one, &machine(1), &kept_of_one).contains("uses what does not exist"));
    again.retain(|uid| uid != "uid-a");
    assert_eq!(free(&pinned(2, dir.path())), [9, 9]);
}

#[test]
fn nothing_is_managed_unless_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let memory = Memory::new(&Settings::default(), &machine(1), &Amounts::new(), dir.path()).unwrap();
    assert_eq!(give(&memory, &pod("a", &[("c", "100Gi")]), None, false), Ok(vec![String::new()]));
    assert!(!memory.is_pinned() && memory.allocatable().is_empty());
    assert!(!dir.path().join(state::FILE).exists());
    let pinned = pinned(2, dir.path());
    let all: Vec<(String, u64)> = pinned.allocatable().into_iter().map(|b| (b.kind, b.size / GIB)).collect();
    let each = [("hugepages-1Gi".to_owned(), 4), ("memory".to_owned(), 9)];
    assert_eq!(all, [each.clone(), each].concat());
    let none = Settings { pinned: true, ..Settings::default() };
    assert!(matches!(
        Memory::new(&none, &machine(1), &Amounts::new(), dir.path()),
        Err(MemoryError::Reserved(ReservedError::Nothing))
    ));
}
