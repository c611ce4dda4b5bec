//! Watches: what an event costs that a thousand watchers get, and what a watcher costs that gets none.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use hack::layout::Layout;
use http::Version;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Figure, block_on, http::Client, plane::Plane, usage};

const WATCHERS: usize = 1_000;
/// Connections they share, as the informers of a daemon do.
const CONNECTIONS: usize = 10;
/// Events each of them gets.
const EVENTS: usize = 500;
const IN_FLIGHT: usize = 32;
/// Watchers that get nothing, and their connections.
const IDLE: usize = 5_000;
const IDLE_CONNECTIONS: usize = 10;
/// Microseconds of processor an event may cost.
const EVENT_GOAL: f64 = 1.0;
/// Kilobytes an idle watcher may cost.
const IDLE_GOAL: f64 = 4.0;
const PATIENCE: Duration = Duration::from_secs(120);
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SECRETS: &str = "/api/v1/secrets?resourceVersion=0";

pub(super) fn run(layout: &Layout) -> Result<Vec<Figure>> {
    let plane = Plane::start(layout)?;
    block_on(async { Ok(vec![idle(&plane).await?, events(&plane).await?]) })
}

/// Memory of watchers that get nothing.
async fn idle(plane: &Plane) -> Result<Figure> {
    let pid = plane.api_pid()?;
    let clients = connect(plane, IDLE_CONNECTIONS).await?;
    // What a connection costs is not the watchers'.
    let first = watch(&clients, IDLE_CONNECTIONS, SECRETS, &Arc::default()).await?;
    settle().await;
    let before = usage::memory(pid)?;
    let mut watchers = watch(&clients, IDLE, SECRETS, &Arc::default()).await?;
    settle().await;
    let grown = usage::memory(pid)?.saturating_sub(before);
    ensure!(watchers.try_join_next().is_none(), "a watch ended");
    drop((first, watchers));
    Ok(Figure::bounded("idle watch, memory", "KB", grown as f64 / 1024.0 / IDLE as f64, IDLE_GOAL))
}

/// Processor time of events, without what the writes themselves cost.
async fn events(plane: &Plane) -> Result<Figure> {
    let pid = plane.api_pid()?;
    let writer = plane.client(Version::HTTP_2).await?;
    write(&writer, "warm", EVENTS).await?;
    let before = usage::cpu(pid)?;
    write(&writer, "alone", EVENTS).await?;
    let writes = usage::cpu(pid)? - before;
    let list = plane.client(Version::HTTP_11).await?.json("GET", CONFIG_MAPS, Bytes::new()).await?;
    let list: Value = serde_json::from_slice(&list)?;
    let now = list["metadata"]["resourceVersion"].as_str().context("a list without resourceVersion")?;
    let path = format!("{CONFIG_MAPS}?resourceVersion={now}");
    let clients = connect(plane, CONNECTIONS).await?;
    let seen = Arc::new(AtomicU64::new(0));
    let watchers = watch(&clients, WATCHERS, &path, &seen).await?;
    let before = usage::cpu(pid)?;
    write(&writer, "seen", EVENTS).await?;
    let all = (WATCHERS * EVENTS) as u64;
    reached(&seen, all).await?;
    let used = (usage::cpu(pid)? - before).saturating_sub(writes);
    drop(watchers);
    let each = used.as_secs_f64() * 1e6 / all as f64;
    Ok(Figure::bounded("event to one of 1,000 watchers, processor", "us", each, EVENT_GOAL))
}

async fn settle() {
    tokio::time::sleep(Duration::from_secs(3)).await;
}

async fn reached(seen: &AtomicU64, count: u64) -> Result<()> {
    let start = Instant::now();
    loop {
        let now = seen.load(Ordering::Relaxed);
        if now >= count {
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "watchers saw {now} of {count} events in {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn connect(plane: &Plane, count: usize) -> Result<Vec<Client>> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        clients.push(plane.client(Version::HTTP_2).await?);
    }
    Ok(clients)
}

/// Opens watches and counts the lines that come.
async fn watch(
    clients: &[Client],
    count: usize,
    path: &str,
    seen: &Arc<AtomicU64>,
) -> Result<JoinSet<Result<()>>> {
    let mut watchers = JoinSet::new();
    for index in 0..count {
        let mut client = clients[index % clients.len()].share().context("watching needs HTTP/2")?;
        let path = format!("{path}&watch=true&timeoutSeconds=3000");
        let answer = client.send("GET", &path, &[("accept", "application/json")], Bytes::new()).await?;
        ensure!(answer.status().is_success(), "watch: {}", answer.status());
        let seen = seen.clone();
        watchers.spawn(async move {
            let mut body = answer.into_body();
            while let Some(frame) = body.frame().await {
                let frame = frame?;
                let lines = frame.data_ref().map_or(0, |data| data.iter().filter(|b| **b == b'\n').count());
                seen.fetch_add(lines as u64, Ordering::Relaxed);
            }
            // Keeps the connection as long as its watches.
            drop(client);
            Ok(())
        });
    }
    Ok(watchers)
}

/// Creates config maps of about half a kilobyte.
async fn write(client: &Client, prefix: &str, count: usize) -> Result<()> {
    stream::iter(0..count)
        .map(|index| async move {
            let data = "a value of some length, as settings have ".repeat(4);
            let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": format!("{prefix}-{index}")}, "data": {"settings": data}});
            let mut client = client.share().context("writing needs HTTP/2")?;
            client.json("POST", CONFIG_MAPS, Bytes::from(object.to_string())).await.map(drop)
        })
        .buffer_unordered(IN_FLIGHT)
        .try_for_each(|()| async { Ok(()) })
        .await
}
