//! The scheduler: decisions alone, and pods from created to bound beside a client that binds them itself.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use hack::layout::Layout;
use http::Version;
use serde_json::{Value, json};

use super::{
    Figure, Goal, block_on, decisions,
    events::Events,
    http::Client,
    median,
    plane::Plane,
    pods::{self, NAMESPACE},
};

const NODES: usize = 500;
/// Pods of one turn.
const PODS: usize = 2_000;
const TURNS: usize = 3;
const IN_FLIGHT: usize = 32;
/// Pods for which room is made, and the seconds that may take: it need only end.
const PREEMPTIONS: usize = 200;
const PREEMPTION_GOAL: f64 = 60.0;

pub(super) fn run(layout: &Layout) -> Result<Vec<Figure>> {
    let mut figures: Vec<Figure> = decisions::ALL
        .iter()
        .map(|workload| {
            let name = format!("decisions, 5,000 nodes: {}", workload.name);
            let goal = ("the goal", workload.goal);
            Ok(Figure::new(name, "/cpu-s", decisions::rate(workload)?, goal, Goal::AtLeast(1.0)))
        })
        .collect::<Result<_>>()?;
    let seconds = decisions::preemptions(PREEMPTIONS)?;
    figures.push(Figure::bounded("200 preemptions, 5,000 full nodes", "s", seconds, PREEMPTION_GOAL));
    figures.push(end_to_end(layout)?);
    Ok(figures)
}

fn end_to_end(layout: &Layout) -> Result<Figure> {
    let plane = Plane::start(layout)?;
    block_on(async {
        let mut client = plane.client(Version::HTTP_2).await?;
        pods::prepare(&mut client).await?;
        nodes(&client).await?;
        plane.start_scheduler()?;
        turn(&client, "warm", 200, Binder::Scheduler).await?;
        let (mut ours, mut raw) = (Vec::new(), Vec::new());
        for number in 0..TURNS {
            ours.push(turn(&client, &format!("s{number}"), PODS, Binder::Scheduler).await?);
            raw.push(turn(&client, &format!("r{number}"), PODS, Binder::Client).await?);
        }
        let peer = ("client that binds", median(raw));
        Ok(Figure::new("pods, created to bound in a watch", "/s", median(ours), peer, Goal::AtLeast(0.8)))
    })
}

/// Who binds the pods of a turn.
#[derive(Clone, Copy)]
enum Binder {
    Scheduler,
    Client,
}

/// Creates pods and waits until a watch has shown all of them bound: pods a second.
async fn turn(client: &Client, prefix: &str, count: usize, binder: Binder) -> Result<f64> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let mut bound = Events::open(client, &path).await?;
    let bodies = (0..count).map(|index| pod(&format!("{prefix}-{index}"), index, binder));
    let bodies: Vec<Bytes> = bodies.collect::<Result<_>>()?;
    let start = Instant::now();
    let path = path.as_str();
    let writes = stream::iter(bodies.into_iter().enumerate())
        .map(|(index, body)| async move {
            let mut client = share(client)?;
            client.json("POST", path, body).await?;
            if let Binder::Client = binder {
                let name = format!("{prefix}-{index}");
                let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
                    "target": {"apiVersion": "v1", "kind": "Node", "name": format!("node-{}", index % NODES)}});
                let body = Bytes::from(binding.to_string());
                client.json("POST", &format!("{path}/{name}/binding"), body).await?;
            }
            anyhow::Ok(())
        })
        .buffer_unordered(IN_FLIGHT)
        .try_for_each(|()| async { Ok(()) });
    let is_bound = |kind: &str, pod: &Value| {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        kind == "MODIFIED" && name.starts_with(prefix) && pod["spec"]["nodeName"].is_string()
    };
    futures::future::try_join(writes, bound.until(count, is_bound)).await?;
    let took = start.elapsed();
    // What was left to do, such as events, is not the next turn's.
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(count as f64 / took.as_secs_f64())
}

fn pod(name: &str, index: usize, binder: Binder) -> Result<Bytes> {
    let body = pods::pod(name, index);
    let Binder::Client = binder else { return Ok(body) };
    let mut pod: Value = serde_json::from_slice(&body)?;
    pod["spec"]["schedulerName"] = json!("nobody");
    Ok(Bytes::from(pod.to_string()))
}

/// Nodes that take pods, though nothing runs on them.
async fn nodes(client: &Client) -> Result<()> {
    stream::iter(0..NODES)
        .map(|index| async move {
            let name = format!("node-{index}");
            let labels = json!({"kubernetes.io/hostname": name, "kubernetes.io/os": "linux",
                "topology.kubernetes.io/zone": format!("zone-{}", index % 3)});
            let node =
                json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
            let mut client = share(client)?;
            client.json("POST", "/api/v1/nodes", Bytes::from(node.to_string())).await?;
            let resources = json!({"cpu": "64", "memory": "256Gi", "pods": "250"});
            let ready = json!([{"type": "Ready", "status": "True", "reason": "KubeletReady"}]);
            let status =
                json!({"status": {"capacity": resources, "allocatable": resources, "conditions": ready}});
            let path = format!("/api/v1/nodes/{name}");
            client.patch(&format!("{path}/status"), Bytes::from(status.to_string())).await?;
            // A new node is tainted until somebody finds it ready.
            client.patch(&path, Bytes::from(json!({"spec": {"taints": null}}).to_string())).await
        })
        .buffer_unordered(IN_FLIGHT)
        .try_for_each(|()| async { Ok(()) })
        .await
}

fn share(client: &Client) -> Result<Client> {
    client.share().context("the load needs HTTP/2")
}
