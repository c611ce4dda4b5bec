//! Controllers with much to write, beside a client that does the same writes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::try_join, stream};
use hack::layout::Layout;
use http::Version;
use serde_json::{Value, json};

use super::{Figure, Goal, block_on, events::Events, http::Client, plane::Plane, pods};

/// Pods of the deployment.
const PODS: usize = 10_000;
const NAMESPACES: usize = 100;
/// Objects in each namespace.
const OBJECTS: usize = 100;
const SERVICES: usize = 1_000;
/// Ready pods behind each service; services share them.
const ENDPOINTS: usize = 100;
/// Pods behind all services together.
const BACKENDS: usize = 1_000;
const NODE: &str = "node-0";
/// Pods that stop or begin to be ready.
const CHANGES: usize = 20;
const IN_FLIGHT: usize = 32;
/// How long nothing must happen until everything has.
const QUIET: Duration = Duration::from_secs(5);
const BACKGROUND: &[u8] = br#"{"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Background"}"#;

pub(super) fn run(layout: &Layout) -> Result<Vec<Figure>> {
    let plane = Plane::start(layout)?;
    block_on(async {
        let client = plane.client(Version::HTTP_2).await?;
        plane.start_controller_manager()?;
        // The account is made by a controller: the first sign that they work.
        let accounts = "/api/v1/namespaces/default/serviceaccounts/default";
        wait(&client, accounts).await?;
        let mut figures = deployment(&client).await?;
        figures.push(namespaces(&client).await?);
        figures.push(slices(&client).await?);
        Ok(figures)
    })
}

/// A deployment of 10,000 pods appears and goes; then a client makes as many pods and deletes them.
async fn deployment(client: &Client) -> Result<Vec<Figure>> {
    let path = "/api/v1/namespaces/default/pods";
    let of = |prefix: &'static str, wanted: &'static str| {
        move |kind: &str, pod: &Value| {
            kind == wanted && pod["metadata"]["name"].as_str().unwrap_or_default().starts_with(prefix)
        }
    };
    let mut seen = Events::open(client, path).await?;
    let start = Instant::now();
    let sets = "/apis/apps/v1/namespaces/default/deployments";
    let mut template: Value = serde_json::from_slice(&pods::pod("web", 0))?;
    template["metadata"] = json!({"labels": {"app": "web"}});
    let large = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "large"},
        "spec": {"replicas": PODS, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": template["metadata"], "spec": template["spec"]}}});
    share(client)?.json("POST", sets, body(&large)).await?;
    seen.until(PODS, of("large-", "ADDED")).await?;
    let made = start.elapsed();
    tokio::time::sleep(QUIET).await;
    let start = Instant::now();
    let large = format!("{sets}/large");
    share(client)?.json("DELETE", &large, Bytes::from_static(BACKGROUND)).await?;
    seen.until(PODS, of("large-", "DELETED")).await?;
    let gone = start.elapsed();
    tokio::time::sleep(QUIET).await;

    let start = Instant::now();
    let create = each(0..PODS, |index| async move {
        let name = format!("raw-{index}");
        share(client)?.json("POST", path, pods::pod(&name, index)).await.map(drop)
    });
    try_join(create, seen.until(PODS, of("raw-", "ADDED"))).await?;
    let raw_made = start.elapsed();
    tokio::time::sleep(QUIET).await;
    let start = Instant::now();
    let delete = each(0..PODS, |index| async move {
        share(client)?.json("DELETE", &format!("{path}/raw-{index}"), Bytes::new()).await.map(drop)
    });
    try_join(delete, seen.until(PODS, of("raw-", "DELETED"))).await?;
    let raw_gone = start.elapsed();
    Ok(vec![
        rates("deployment, 0 to 10,000 pods", PODS, made, raw_made),
        rates("10,000 pods deleted with their deployment", PODS, gone, raw_gone),
    ])
}

/// Namespaces with objects go; then a client deletes as many objects one by one.
async fn namespaces(client: &Client) -> Result<Figure> {
    let objects = |prefix: &'static str| {
        each(0..NAMESPACES * OBJECTS, move |index| async move {
            let path = format!("/api/v1/namespaces/{prefix}-{}/configmaps", index % NAMESPACES);
            let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": format!("object-{}", index / NAMESPACES)}, "data": {"key": "value"}});
            share(client)?.json("POST", &path, body(&object)).await.map(drop)
        })
    };
    for prefix in ["ours", "raw"] {
        each(0..NAMESPACES, |index| async move {
            let name = format!("{prefix}-{index}");
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            share(client)?.json("POST", "/api/v1/namespaces", body(&namespace)).await.map(drop)
        })
        .await?;
        objects(prefix).await?;
    }
    tokio::time::sleep(QUIET).await;
    let mut seen = Events::open(client, "/api/v1/namespaces").await?;
    let start = Instant::now();
    let delete = each(0..NAMESPACES, |index| async move {
        let path = format!("/api/v1/namespaces/ours-{index}");
        share(client)?.json("DELETE", &path, Bytes::new()).await.map(drop)
    });
    try_join(delete, seen.until(NAMESPACES, |kind, _| kind == "DELETED")).await?;
    let ours = start.elapsed();
    let start = Instant::now();
    each(0..NAMESPACES * OBJECTS, |index| async move {
        let (namespace, number) = (index % NAMESPACES, index / NAMESPACES);
        let path = format!("/api/v1/namespaces/raw-{namespace}/configmaps/object-{number}");
        share(client)?.json("DELETE", &path, Bytes::new()).await.map(drop)
    })
    .await?;
    Ok(rates("100 namespaces of 100 objects deleted", NAMESPACES * OBJECTS, ours, start.elapsed()))
}

/// Pods behind a thousand services stop and begin to be ready: writes of slices per change of an endpoint.
async fn slices(client: &Client) -> Result<Figure> {
    let groups = BACKENDS / ENDPOINTS;
    let path = "/api/v1/namespaces/default/pods";
    // Pods of a node that is not there are no endpoints.
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}});
    share(client)?.json("POST", "/api/v1/nodes", body(&node)).await?;
    each(0..BACKENDS, |index| async move {
        let name = format!("backend-{index}");
        let mut pod: Value = serde_json::from_slice(&pods::pod(&name, index))?;
        pod["metadata"]["labels"] = json!({"group": format!("g{}", index % groups)});
        pod["spec"]["nodeName"] = json!(NODE);
        share(client)?.json("POST", path, body(&pod)).await?;
        share(client)?.patch(&format!("{path}/{name}/status"), pods::running(&name, index)).await
    })
    .await?;
    each(0..SERVICES, |index| async move {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{index}")},
            "spec": {"clusterIP": "None", "ports": [{"port": 80}], "selector": {"group": format!("g{}", index % groups)}}});
        share(client)?.json("POST", "/api/v1/namespaces/default/services", body(&service)).await.map(drop)
    })
    .await?;
    let mut seen =
        Events::open(client, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices").await?;
    seen.count(QUIET).await?;
    for change in 0..CHANGES {
        let ready = if change % 2 == 0 { "False" } else { "True" };
        let name = format!("backend-{}", change / 2);
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": ready}]}});
        let path = format!("{path}/{name}/status");
        let body = Bytes::from(status.to_string());
        share(client)?.strategic(&path, body).await?;
        // Each change by itself: what comes close together may be written at once.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let writes = seen.count(QUIET).await?;
    let changes = CHANGES * SERVICES / groups;
    anyhow::ensure!(writes > 0, "no slice follows its pods");
    Ok(Figure::new(
        "1,000 services of 100 endpoints: slice writes",
        "writes",
        writes as f64,
        ("changes", changes as f64),
        Goal::AtMost(1.2),
    ))
}

/// Ours and the client's time for the same number of writes, as rates.
fn rates(name: &str, writes: usize, ours: Duration, raw: Duration) -> Figure {
    let rate = |took: Duration| writes as f64 / took.as_secs_f64();
    Figure::new(name, "/s", rate(ours), ("client's writes", rate(raw)), Goal::AtLeast(0.7))
}

/// Does the work for each number, some of it at the same time.
async fn each<F: Future<Output = Result<()>>>(
    numbers: std::ops::Range<usize>,
    work: impl Fn(usize) -> F,
) -> Result<()> {
    stream::iter(numbers.map(work)).buffer_unordered(IN_FLIGHT).try_for_each(|()| async { Ok(()) }).await
}

async fn wait(client: &Client, path: &str) -> Result<()> {
    let start = Instant::now();
    while share(client)?.json("GET", path, Bytes::new()).await.is_err() {
        anyhow::ensure!(start.elapsed() < Duration::from_secs(60), "{path} is not there after a minute");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

fn body(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}

fn share(client: &Client) -> Result<Client> {
    client.share().context("the load needs HTTP/2")
}
