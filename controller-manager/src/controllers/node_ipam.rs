//! Every node has a range of pod addresses (upstream's RangeAllocator).
//!
//! What is taken is read from all nodes each time, so nothing is remembered and nothing can get lost; one
//! worker hands out ranges, and a write that meets a newer node is repeated on what is there then.

use std::collections::BTreeSet;

use component_base::{
    client,
    informer::ListWatch,
    meta::ObjectKey,
    workqueue::{Outcome, WorkQueue, run_workers},
};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{Context, Settings, enqueue_changes};

/// Why a node gets no range.
#[derive(Debug, thiserror::Error)]
enum IpamError {
    #[error("no free range in {0}")]
    Exhausted(IpNet),
    #[error("cannot assign ranges to node {node}")]
    Api {
        node: String,
        #[source]
        source: Box<kube::Error>,
    },
}

pub(super) fn start(ctx: &Context) {
    if ctx.settings.cluster_cidrs.is_empty() {
        return;
    }
    let nodes = ctx.informers.get::<Node>(ListWatch::default());
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("cidrallocator");
    enqueue_changes(&nodes, &queue);
    let (api, settings) = (Api::<Node>::all(ctx.client.clone()), ctx.settings.clone());
    // One worker: two would hand out the same range.
    run_workers(&ctx.tasks, &queue, 1, move |key| {
        let (nodes, api, settings) = (nodes.clone(), api.clone(), settings.clone());
        async move {
            nodes.wait_synced().await;
            let Some(node) = nodes.store().get(&key).filter(|n| ranges(n).is_empty()) else {
                return Ok(Outcome::Done);
            };
            let taken = nodes.store().list().iter().flat_map(|n| ranges(n)).collect();
            let assigned = plan(&settings, &taken)?;
            let texts: Vec<String> = assigned.iter().map(IpNet::to_string).collect();
            let body = json!({
                "metadata": {"uid": node.metadata.uid}, "spec": {"podCIDR": texts.first(), "podCIDRs": texts},
            });
            match api.patch(&key.name, &PatchParams::default(), &Patch::Merge(body)).await {
                // The next node must see this one's range as taken.
                Ok(written) => {
                    let version = written.metadata.resource_version.unwrap_or_default();
                    nodes.wait_seen(&key, &version).await;
                    Ok(Outcome::Done)
                }
                Err(e) if client::is_not_found(&e) => Ok(Outcome::Done),
                Err(source) => Err(IpamError::Api { node: key.name.to_string(), source: Box::new(source) }),
            }
        }
    });
}

fn ranges(node: &Node) -> Vec<IpNet> {
    let spec = node.spec.as_ref();
    let all = spec.and_then(|s| s.pod_cidrs.clone()).unwrap_or_default();
    all.iter().filter_map(|r| r.parse().ok()).collect()
}

/// The first free range of each cluster range.
fn plan(settings: &Settings, taken: &BTreeSet<IpNet>) -> Result<Vec<IpNet>, IpamError> {
    settings
        .cluster_cidrs
        .iter()
        .map(|cluster| {
            let mask = if cluster.addr().is_ipv4() { settings.node_mask_v4 } else { settings.node_mask_v6 };
            let free = |range: &IpNet| !taken.iter().any(|t| t.contains(range) || range.contains(t));
            let mut all = cluster.subnets(mask).map_err(|_| IpamError::Exhausted(*cluster))?;
            all.find(free).ok_or(IpamError::Exhausted(*cluster))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(cidr: &str, mask: u8) -> Settings {
        Settings {
            cluster_cidrs: vec![cidr.parse().unwrap()],
            node_mask_v4: mask,
            node_mask_v6: 64,
            ..Settings::default()
        }
    }

    fn assigned(settings: &Settings, taken: &[&str]) -> String {
        match plan(settings, &taken.iter().map(|t| t.parse().unwrap()).collect()) {
            Ok(ranges) => ranges.iter().map(IpNet::to_string).collect::<Vec<_>>().join(","),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn the_first_free_range_is_handed_out() {
        let small = settings("10.244.0.0/22", 24);
        assert_eq!(assigned(&small, &[]), "10.244.0.0/24");
        assert_eq!(assigned(&small, &["10.244.0.0/24", "10.244.2.0/24"]), "10.244.1.0/24");
        assert_eq!(assigned(&small, &["10.244.0.128/25"]), "10.244.1.0/24", "no overlap with odd ranges");
        assert_eq!(assigned(&small, &["10.244.0.0/22"]), "no free range in 10.244.0.0/22");
        assert_eq!(assigned(&settings("10.244.0.0/24", 16), &[]), "no free range in 10.244.0.0/24");
    }
}
