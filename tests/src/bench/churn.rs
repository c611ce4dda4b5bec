//! The steady load of a large cluster: the leases of 5,000 nodes and the status of pods, in time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::try_join, stream};
use hack::layout::Layout;
use http::Version;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use super::{
    Figure, block_on,
    cache::{self, PODS},
    http::Client,
    plane::Plane,
    pods, start,
};

const NODES: usize = 5_000;
/// How often a node renews its lease.
const RENEWAL: Duration = Duration::from_secs(10);
/// How long the load goes on.
const LOAD: Duration = Duration::from_secs(30);
const IN_FLIGHT: usize = 32;
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
/// How often the status of a pod changes: of each of them about twice an hour.
const CHANGE: Duration = Duration::from_millis(20);

pub(super) fn run(layout: &Layout) -> Result<Vec<Figure>> {
    let plane = Plane::start(layout)?;
    block_on(async {
        cache::fill(&plane).await?;
        plane.launch_api()?;
        start::ready(&plane, Instant::now() + Duration::from_secs(120)).await?;
        let client = plane.client(Version::HTTP_2).await?;
        create_leases(&client).await?;
        let (mut renewals, ()) = try_join(renew(&client), change(&client)).await?;
        renewals.sort_unstable();
        let at = |thousandth: usize| {
            let index = (renewals.len() * thousandth / 1000).min(renewals.len() - 1);
            renewals[index].as_secs_f64()
        };
        let goal = RENEWAL.as_secs_f64();
        Ok(vec![
            Figure::bounded("5,000 leases, 100,000 pods: slowest renewal", "s", at(1000), goal),
            Figure::bounded("5,000 leases, 100,000 pods: renewal, p99", "s", at(990), goal / 10.0),
        ])
    })
}

fn lease(index: usize, at: &str) -> (String, Bytes) {
    let name = format!("node-{index}");
    let object = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": name, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": at}});
    (name, Bytes::from(object.to_string()))
}

async fn create_leases(client: &Client) -> Result<()> {
    stream::iter(0..NODES)
        .map(|index| async move {
            let (_, body) = lease(index, "2026-01-01T00:00:00.000000Z");
            share(client)?.json("POST", LEASES, body).await.map(drop)
        })
        .buffer_unordered(IN_FLIGHT)
        .try_for_each(|()| async { Ok(()) })
        .await
}

fn share(client: &Client) -> Result<Client> {
    client.share().context("the load needs HTTP/2")
}

/// Renews every lease in its turn; how long each took, counted from when it was due.
async fn renew(client: &Client) -> Result<Vec<Duration>> {
    let begun = Instant::now();
    let rounds = LOAD.as_millis() / RENEWAL.as_millis();
    let due = (0..NODES * usize::try_from(rounds)?).map(|number| {
        let after = RENEWAL.mul_f64(number as f64 / NODES as f64);
        (number, begun + after)
    });
    stream::iter(due)
        .map(|(number, due)| async move {
            tokio::time::sleep_until(due.into()).await;
            let at = format!("2026-01-01T00:01:{:02}.000000Z", 10 + number / NODES);
            let (name, body) = lease(number % NODES, &at);
            share(client)?.json("PUT", &format!("{LEASES}/{name}"), body).await?;
            anyhow::Ok(due.elapsed())
        })
        // As many as can be late at all: the load does not wait for answers.
        .buffer_unordered(NODES)
        .try_collect()
        .await
}

/// Changes the status of pods all over the cluster.
async fn change(client: &Client) -> Result<()> {
    let begun = Instant::now();
    let mut ticks = interval(CHANGE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut index = 0;
    while begun.elapsed() < LOAD {
        ticks.tick().await;
        index = (index + 7_919) % PODS;
        let (namespace, name) = cache::names(index);
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/status");
        share(client)?.patch(&path, pods::running(&name, index + 1)).await?;
    }
    Ok(())
}
