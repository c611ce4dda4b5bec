//! Admission and resizes on a node with two cpus.

use serde_json::json;

use super::*;
use crate::{runtime::swap::Behavior, testing};

fn asking(name: &str, cpu: &str) -> Arc<Pod> {
    let pod = testing::pod(name).container("c").with(|p| {
        let resources = json!({ "requests": { "cpu": cpu } });
        p.spec.get_or_insert_default().containers[0].resources = serde_json::from_value(resources).unwrap();
    });
    Arc::new(pod.build())
}

fn cpu(pod: &Pod) -> String {
    pod::containers(pod)[0].resources.clone().unwrap().requests.unwrap()["cpu"].0.clone()
}

/// The sender keeps the node known.
fn two_cpus(folder: &Path) -> (Allocations, watch::Sender<Option<Arc<Node>>>) {
    with(folder, Gates::default(), Exclusive::default())
}

fn with(folder: &Path, gates: Gates, own: Exclusive) -> (Allocations, watch::Sender<Option<Arc<Node>>>) {
    let node = json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "2", "pods": "10"}}});
    let (sender, node) = watch::channel(Some(Arc::new(serde_json::from_value(node).unwrap())));
    (Allocations::new(folder, Some(node), vec![], gates, own).unwrap(), sender)
}

#[tokio::test]
async fn pods_are_taken_while_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let (node, _sender) = two_cpus(dir.path());
    node.admit(&asking("a", "1500m")).await.unwrap();
    assert_eq!(node.admit(&asking("b", "1")).await.unwrap_err().reason, "OutOfcpu");
    node.release("uid-a");
    node.admit(&asking("b", "1")).await.unwrap();
}

#[tokio::test]
async fn a_pod_that_was_taken_before_is_not_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    two_cpus(dir.path()).0.admit(&asking("a", "500m")).await.unwrap();
    // After a restart, with a node that has shrunk in the meantime, and a wish that came while nobody looked.
    let (node, _sender) = two_cpus(dir.path());
    let wished = asking("a", "5");
    node.admit(&wished).await.unwrap();
    assert_eq!(cpu(&node.given(&wished)), "500m");
    let Resize::Pending(pending) = node.resize(&wished, &Arc::default()) else { panic!("given") };
    assert_eq!(pending.reason, "Infeasible");
}

#[tokio::test]
async fn a_resize_waits_for_room_and_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let (node, _sender) = two_cpus(dir.path());
    node.admit(&asking("a", "1")).await.unwrap();
    node.admit(&asking("b", "1")).await.unwrap();
    let (bigger, wake) = (asking("a", "1500m"), Arc::new(Notify::new()));
    let Resize::Pending(pending) = node.resize(&bigger, &wake) else { panic!("given") };
    assert_eq!(pending.reason, "Deferred");
    assert_eq!(
        pending.message,
        "Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000"
    );
    assert_eq!(cpu(&node.given(&bigger)), "1");
    assert_eq!(node.resize(&asking("b", "500m"), &Arc::default()), Resize::Given);
    // Told, since the other has become smaller.
    wake.notified().await;
    assert_eq!(node.resize(&bigger, &wake), Resize::Given);
    assert_eq!(node.resize(&bigger, &wake), Resize::Settled);
    let (again, _sender) = two_cpus(dir.path());
    again.admit(&asking("a", "1")).await.unwrap();
    assert_eq!(cpu(&again.given(&asking("a", "1"))), "1500m");
}

#[test]
fn what_containers_have_for_themselves_is_not_resized() {
    let sized = |resources: serde_json::Value, policy: &str| {
        let policy = json!([{"resourceName": "memory", "restartPolicy": policy}]);
        let one = testing::pod("a").container("c").with(|p| {
            let container = &mut p.spec.get_or_insert_default().containers[0];
            container.resources = serde_json::from_value(resources).unwrap();
            container.resize_policy = serde_json::from_value(policy).unwrap();
        });
        one.build()
    };
    let all = |cpu: &str, memory: &str| {
        let amounts = json!({"cpu": cpu, "memory": memory});
        sized(json!({"requests": amounts, "limits": amounts}), "NotRequired")
    };
    let some = |memory: &str, policy: &str| sized(json!({"requests": {"memory": memory}}), policy);
    let swap = Swap { behavior: Behavior::LimitedSwap, capacity: 1 << 30, memory: 1 << 40, unified: true };
    let exclusive = Exclusive { cpus: true, memory: true, swap: Some(swap) };
    let held = all("1", "1Gi");
    for (settings, held, wanted, expected) in [
        (exclusive, &held, all("2", "1Gi"), Some(Pinned::Cpus)),
        (exclusive, &held, all("1", "2Gi"), Some(Pinned::Memory)),
        (exclusive, &held, all("1", "1Gi"), None),
        (Exclusive { cpus: false, ..exclusive }, &held, all("2", "1Gi"), None),
        (Exclusive::default(), &held, all("2", "2Gi"), None),
        (exclusive, &some("1Gi", "NotRequired"), some("2Gi", "NotRequired"), Some(Pinned::Swap)),
        (exclusive, &some("1Gi", "NotRequired"), some("1Gi", "NotRequired"), None),
        (exclusive, &some("1Gi", "RestartContainer"), some("2Gi", "RestartContainer"), None),
        (
            Exclusive { swap: None, ..exclusive },
            &some("1Gi", "NotRequired"),
            some("2Gi", "NotRequired"),
            None,
        ),
    ] {
        assert_eq!(settings.pins(held, &wanted), expected, "{settings:?} {wanted:?}");
    }
}

/// A pod with resources of its own as a whole, and an init container that ends.
fn whole(cpu: &str, init: &str) -> Arc<Pod> {
    let pod = testing::pod("a").init("i").container("c").with(|p| {
        let resources = |cpu: &str| serde_json::from_value(json!({ "requests": { "cpu": cpu } })).unwrap();
        let spec = p.spec.get_or_insert_default();
        spec.resources = resources(cpu);
        spec.init_containers.as_mut().unwrap()[0].resources = resources(init);
    });
    Arc::new(pod.build())
}

#[tokio::test]
async fn what_is_resized_goes_by_gates() {
    let of = |resize| match resize {
        Resize::Pending(pending) => (pending.reason, pending.detail),
        Resize::Given => ("given", None),
        Resize::Settled => ("settled", None),
    };
    let cases = [
        (None, "2", "1", ("given", None)),
        (None, "1", "2", ("given", None)),
        (
            Some(Gate::InPlacePodLevelResourcesVerticalScaling),
            "2",
            "1",
            ("Infeasible", Some("plr_feature_gate_off")),
        ),
        (Some(Gate::InPlacePodLevelResourcesVerticalScaling), "1", "2", ("given", None)),
        (Some(Gate::InPlacePodVerticalScalingInitContainers), "1", "2", ("settled", None)),
    ];
    for (gate, cpu, init, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let gates = gate.map_or(Gates::default(), |gate| Gates::default().with(gate, false));
        let (node, _sender) = with(dir.path(), gates, Exclusive::default());
        node.admit(&whole("1", "1")).await.unwrap();
        let wished = whole(cpu, init);
        assert_eq!(of(node.resize(&wished, &Arc::default())), expected, "{gate:?} {cpu} {init}");
    }
}

#[tokio::test]
async fn guaranteed_pods_are_resized_beside_exclusive_processors_where_the_gate_is_on() {
    let guaranteed = |cpu: &str| {
        let all = json!({ "cpu": cpu, "memory": "1Gi" });
        Arc::new(testing::pod("a").container("c").resources(json!({"requests": all, "limits": all})).build())
    };
    let own = Exclusive { cpus: true, memory: true, swap: None };
    for on in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let gates = Gates::default().with(Gate::InPlacePodVerticalScalingExclusiveCPUs, on);
        let (node, _sender) = with(dir.path(), gates, own);
        node.admit(&guaranteed("1")).await.unwrap();
        let given = node.resize(&guaranteed("2"), &Arc::default()) == Resize::Given;
        assert_eq!(given, on);
    }
}
