//! A hundred thousand pods in the cache: memory beside what is stored, start beside reading it from etcd.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use etcd_client::{Client, GetOptions, Txn, TxnOp};
use futures::{StreamExt, TryStreamExt, stream};
use hack::layout::Layout;
use http::Version;
use serde_json::json;

use super::{Figure, Goal, block_on, create, median, plane::Plane, start, usage};

pub(super) const PODS: usize = 100_000;
/// Namespaces the pods are in.
const TEAMS: usize = 200;
const PREFIX: &str = "/registry/pods/";
/// Pods written by one transaction; etcd takes 128 operations at most.
const TOGETHER: usize = 100;
const IN_FLIGHT: usize = 4;
/// Pods read at once, as many as the API server of upstream does.
const PAGE: i64 = 10_000;
const TURNS: usize = 3;

pub(super) fn run(layout: &Layout) -> Result<Vec<Figure>> {
    let plane = Plane::start(layout)?;
    block_on(async {
        let empty = usage::memory(plane.api_pid()?)?;
        fill(&plane).await?;
        let etcd = plane.etcd().await?;
        let (mut ours, mut raw, mut stored, mut memory) = (Vec::new(), Vec::new(), 0, Vec::new());
        for _ in 0..TURNS {
            let begun = Instant::now();
            stored = read(&etcd).await?;
            raw.push(begun.elapsed().as_secs_f64());
            let begun = Instant::now();
            plane.launch_api()?;
            start::ready(&plane, begun + Duration::from_secs(120)).await?;
            ours.push(begun.elapsed().as_secs_f64());
            tokio::time::sleep(Duration::from_secs(3)).await;
            memory.push(usage::memory(plane.api_pid()?)?.saturating_sub(empty) as f64 / 1e6);
            plane.stop("kube-apiserver")?;
        }
        let peer = ("stored", stored as f64 / 1e6);
        Ok(vec![
            Figure::new("cache of 100,000 pods", "MB", median(memory), peer, Goal::AtMost(1.3)),
            Figure::new(
                "exec to readyz, 100,000 pods",
                "s",
                median(ours),
                ("range read", median(raw)),
                Goal::AtMost(1.5),
            ),
        ])
    })
}

/// Stores the pods as the API server would have, and leaves it stopped.
pub(super) async fn fill(plane: &Plane) -> Result<()> {
    let mut client = plane.client(Version::HTTP_2).await?;
    create::fill(&client, "model", 1).await?;
    for team in 0..TEAMS {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace(team)}});
        client.json("POST", "/api/v1/namespaces", object.to_string().into()).await?;
    }
    plane.stop("kube-apiserver")?;
    store(&plane.etcd().await?).await
}

/// Namespace and name of a pod; spread as in a cluster of that size.
pub(super) fn names(index: usize) -> (String, String) {
    (namespace(index % TEAMS), format!("pod-{index:06}"))
}

fn namespace(team: usize) -> String {
    format!("team-{team:03}")
}

/// Stores pods like the one that is there.
async fn store(etcd: &Client) -> Result<()> {
    let first = GetOptions::new().with_prefix().with_limit(1);
    let mut found = etcd.kv_client().get(PREFIX, Some(first)).await?;
    let model = found.take_kvs().pop().context("no pod in etcd")?;
    let model = std::str::from_utf8(model.value())?.to_owned();
    let chunks: Vec<usize> = (0..PODS).step_by(TOGETHER).collect();
    stream::iter(chunks)
        .map(|from| {
            let model = &model;
            async move {
                let puts = (from..from + TOGETHER).map(|index| {
                    let (namespace, name) = names(index);
                    let value =
                        model.replace("model-0", &name).replace("\"default\"", &format!("\"{namespace}\""));
                    TxnOp::put(format!("{PREFIX}{namespace}/{name}"), value, None)
                });
                let txn = Txn::new().and_then(puts.collect::<Vec<_>>());
                let answer = etcd.kv_client().txn(txn).await?;
                ensure!(answer.succeeded(), "etcd refused pods");
                anyhow::Ok(())
            }
        })
        .buffer_unordered(IN_FLIGHT)
        .try_for_each(|()| async { Ok(()) })
        .await
}

/// Reads all pods page by page, keeping nothing; answers their bytes.
async fn read(etcd: &Client) -> Result<u64> {
    let mut kv = etcd.kv_client().max_decoding_message_size(1 << 30);
    let end = format!("{}0", PREFIX.trim_end_matches('/'));
    let (mut start, mut bytes) = (PREFIX.to_owned(), 0);
    loop {
        let options = GetOptions::new().with_range(end.as_str()).with_limit(PAGE);
        let page = kv.get(start.as_str(), Some(options)).await?;
        bytes += page.kvs().iter().map(|kv| (kv.key().len() + kv.value().len()) as u64).sum::<u64>();
        match page.kvs().last() {
            Some(last) if page.more() => start = format!("{}\0", last.key_str()?),
            _ => return Ok(bytes),
        }
    }
}
