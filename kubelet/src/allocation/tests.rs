//! Admission and resizes on a node with two cpus.

use serde_json::json;

use super::*;
use crate::testing;

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
    let node = json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "2", "pods": "10"}}});
    let (sender, node) = watch::channel(Some(Arc::new(serde_json::from_value(node).unwrap())));
    (Allocations::new(folder, Some(node), vec![], Exclusive::default()).unwrap(), sender)
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
