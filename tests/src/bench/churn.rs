//! The steady load of a large cluster: the leases of 5,000 nodes and the status of pods, in time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, future::try_join, stream};
use hack::layout::Layout;
use http::Version;
use serde_json::{Value, json};
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
        let leases = create_leases(&client).await?;
        let (mut renewals, ()) = try_join(renew(&client, leases), change(&client)).await?;
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

/// Creates the leases; each as the answer has it.
async fn create_leases(client: &Client) -> Result<Vec<Value>> {
    stream::iter(0..NODES)
        .map(|index| async move {
            let name = format!("node-{index}");
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": name, "namespace": "kube-node-lease"},
                "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": "2026-01-01T00:00:00.000000Z"}});
            let answer = share(client)?.json("POST", LEASES, lease.to_string().into()).await?;
            anyhow::Ok(serde_json::from_slice(&answer)?)
        })
        .buffer_unordered(IN_FLIGHT)
        .try_collect()
        .await
}

fn share(client: &Client) -> Result<Client> {
    client.share().context("the load needs HTTP/2")
}

/// Renews every lease in its turn; how long each renewal took, counted from when it was due.
async fn renew(client: &Client, leases: Vec<Value>) -> Result<Vec<Duration>> {
    let begun = Instant::now();
    let took: Vec<Vec<Duration>> = stream::iter(leases.into_iter().enumerate())
        .map(|(index, lease)| hold(client, lease, begun + RENEWAL.mul_f64(index as f64 / NODES as f64)))
        // As many as can be late at all: the load does not wait for answers.
        .buffer_unordered(NODES)
        .try_collect()
        .await?;
    Ok(took.concat())
}

/// Renews one lease as a kubelet does, again and again: the object of the last answer, with another time.
async fn hold(client: &Client, mut lease: Value, first: Instant) -> Result<Vec<Duration>> {
    let rounds = LOAD.as_millis() / RENEWAL.as_millis();
    let mut took = Vec::new();
    for round in 0..u32::try_from(rounds)? {
        let due = first + RENEWAL * round;
        tokio::time::sleep_until(due.into()).await;
        lease["spec"]["renewTime"] = format!("2026-01-01T00:01:{:02}.000000Z", 10 + round).into();
        let name = lease["metadata"]["name"].as_str().context("a lease without a name")?;
        let path = format!("{LEASES}/{name}");
        let answer = share(client)?.json("PUT", &path, lease.to_string().into()).await?;
        took.push(due.elapsed());
        lease = serde_json::from_slice(&answer)?;
    }
    Ok(took)
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
