//! Nodes say how long kubelets may believe objects that pods refer to: longer in larger clusters.
//!
//! Contract: upstream's `ttl-controller`, annotation `node.alpha.kubernetes.io/ttl` (seconds). The sizes at which it
//! changes overlap, so that a cluster at a border does not rewrite all its nodes with every node that comes or goes.

use std::sync::Arc;

use component_base::{
    client,
    informer::{Informer, ListWatch},
    meta::{ObjectKey, annotation},
    workqueue::{Outcome, WorkQueue, run_workers},
};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use parking_lot::Mutex;
use serde_json::json;

use super::{Context, enqueue_changes};

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";
const WORKERS: usize = 5;

/// Fewest and most nodes of a step, and its seconds.
const STEPS: &[(usize, usize, u32)] =
    &[(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

pub(super) fn start(ctx: &Context) {
    let nodes: Informer<Node> = ctx.informers.get(ListWatch::default());
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("ttlcontroller");
    // Kubelets report every few seconds: that brings every node here after the cluster has grown.
    enqueue_changes(&nodes, &queue);
    let api: Api<Node> = Api::all(ctx.client.clone());
    let current = Arc::new(Mutex::new(0));
    run_workers(&ctx.tasks, &queue, WORKERS, move |key| {
        let (nodes, api, current) = (nodes.clone(), api.clone(), current.clone());
        async move {
            nodes.wait_synced().await;
            let Some(node) = nodes.store().get(&key) else { return Ok(Outcome::Done) };
            let at = {
                let mut current = current.lock();
                *current = step(*current, nodes.store().len());
                *current
            };
            match plan(&node, at) {
                Some(value) => write(&api, &key.name, &value).await,
                None => Ok(Outcome::Done),
            }
        }
    });
}

/// The step of a cluster that was at another one.
fn step(mut at: usize, nodes: usize) -> usize {
    while nodes > STEPS[at].1 {
        at += 1;
    }
    while nodes < STEPS[at].0 {
        at -= 1;
    }
    at
}

/// The annotation's value, if the node has another.
fn plan(node: &Node, at: usize) -> Option<String> {
    let (_, _, seconds) = STEPS[at];
    let has = annotation(&node.metadata, ANNOTATION).and_then(|text| text.parse::<i64>().ok());
    (has != Some(i64::from(seconds))).then(|| seconds.to_string())
}

async fn write(api: &Api<Node>, name: &str, value: &str) -> Result<Outcome, kube::Error> {
    let patch = json!({"metadata": {"annotations": {ANNOTATION: value}}});
    match api.patch_metadata(name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
        Err(e) if !client::is_not_found(&e) => Err(e),
        _ => Ok(Outcome::Done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_overlap() {
        let table = [
            ((0, 0), 0),
            ((0, 100), 0),
            ((0, 101), 1),
            ((1, 100), 1),
            ((1, 90), 1),
            ((1, 89), 0),
            ((0, 5000), 4),
            ((4, 1800), 4),
            ((4, 1799), 3),
            ((4, 10), 0),
        ];
        for ((at, nodes), expected) in table {
            assert_eq!(step(at, nodes), expected, "{nodes} nodes at {at}");
        }
    }

    #[test]
    fn a_step_once_taken_stays() {
        for at in 0..STEPS.len() {
            for nodes in 0..2500 {
                let once = step(at, nodes);
                assert_eq!(step(once, nodes), once, "{nodes} nodes at {at}");
            }
        }
    }

    #[test]
    fn only_other_values_are_written() {
        let node = |value: &str| -> Node {
            serde_json::from_value(json!({"metadata": {"annotations": {ANNOTATION: value}}})).unwrap()
        };
        assert_eq!(plan(&Node::default(), 0), Some("0".into()));
        assert_eq!(plan(&node("0"), 0), None);
        assert_eq!(plan(&node("0"), 1), Some("15".into()));
        assert_eq!(plan(&node("x"), 4), Some("300".into()));
    }
}
