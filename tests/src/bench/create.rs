//! Creating pods, beside transactions of the same size sent to etcd by a client of its own.

use std::{
    process,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use etcd_client::{Compare, CompareOp, GetOptions, Txn, TxnOp};
use futures::{StreamExt, TryStreamExt, stream};
use hack::{layout::Layout, screen};
use http::Version;

use super::{Figure, Goal, block_on, http::Client, median, millis, plane::Plane, pods, usage};

/// Requests under way at the same time.
const IN_FLIGHT: usize = 32;
/// Writes of one turn.
const WRITES: usize = 1_000;
const TURNS: usize = 5;
/// Writes one after the other, for the latency.
const SINGLE: usize = 300;

pub(super) fn run(layout: &Layout) -> Result<Vec<Figure>> {
    let plane = Plane::start(layout)?;
    block_on(async {
        let mut client = plane.client(Version::HTTP_2).await?;
        let etcd = plane.etcd().await?;
        pods::prepare(&mut client).await?;
        create(&client, "warm", 200, IN_FLIGHT).await?;
        let value = sample(&etcd).await?;
        let (api, store, load) = (plane.api_pid()?, plane.etcd_pid()?, process::id().cast_signed());
        let (mut ours, mut raw) = (Vec::new(), Vec::new());
        let mut spent = Spent::default();
        for turn in 0..TURNS {
            let used = || anyhow::Ok([usage::cpu(api)?, usage::cpu(store)?, usage::cpu(load)?]);
            let before = used()?;
            ours.push(rate(create(&client, &format!("p{turn}"), WRITES, IN_FLIGHT).await?));
            let between = used()?;
            raw.push(rate(transactions(&etcd, &format!("p{turn}"), &value, WRITES, IN_FLIGHT).await?));
            spent.add(before, between, used()?);
        }
        spent.tell();
        let mut figures = vec![Figure::new(
            "creates, 32 in flight",
            "/s",
            median(ours),
            ("raw etcd", median(raw)),
            Goal::AtLeast(0.6),
        )];
        let (mut ours, mut raw) = (Vec::new(), Vec::new());
        for turn in 0..3 {
            ours.extend(create(&client, &format!("s{turn}"), SINGLE, 1).await?.1);
            raw.extend(transactions(&etcd, &format!("s{turn}"), &value, SINGLE, 1).await?.1);
        }
        figures.push(Figure::new(
            "create, one at a time, p50",
            "ms",
            median(ours),
            ("raw etcd", median(raw)),
            Goal::AtMost(2.0),
        ));
        Ok(figures)
    })
}

/// Creates `count` pods and gives each the status of a running one.
pub(super) async fn fill(client: &Client, prefix: &str, count: usize) -> Result<()> {
    let share = || client.share().context("filling needs HTTP/2");
    pods::prepare(&mut share()?).await?;
    create(client, prefix, count, IN_FLIGHT).await?;
    stream::iter(0..count)
        .map(|index| async move {
            let name = format!("{prefix}-{index}");
            let path = format!("/api/v1/namespaces/{}/pods/{name}/status", pods::NAMESPACE);
            share()?.patch(&path, pods::running(&name, index)).await
        })
        .buffer_unordered(IN_FLIGHT)
        .try_for_each(|()| async { Ok(()) })
        .await
}

/// Processor time of all turns, of the API server, of etcd and of the load: while creating, and while writing to
/// etcd alone.
#[derive(Default)]
struct Spent {
    creates: [Duration; 3],
    raw: [Duration; 3],
}

impl Spent {
    fn add(&mut self, before: [Duration; 3], between: [Duration; 3], after: [Duration; 3]) {
        for part in 0..3 {
            self.creates[part] += between[part] - before[part];
            self.raw[part] += after[part] - between[part];
        }
    }

    fn tell(&self) {
        let each = |time: Duration| time.as_secs_f64() * 1e6 / (TURNS * WRITES) as f64;
        let [api, store, load] = self.creates.map(each);
        screen::detail(&format!(
            "processor time of a create: kube-apiserver {api:.0} µs, etcd {store:.0} µs, its client {load:.0} µs"
        ));
        let [_, store, load] = self.raw.map(each);
        screen::detail(&format!(
            "processor time of a raw transaction: etcd {store:.0} µs, its client {load:.0} µs"
        ));
    }
}

/// Seconds of the whole and milliseconds of each.
type Times = (f64, Vec<f64>);

fn rate((seconds, each): Times) -> f64 {
    each.len() as f64 / seconds
}

async fn create(client: &Client, prefix: &str, count: usize, in_flight: usize) -> Result<Times> {
    let path = format!("/api/v1/namespaces/{}/pods", pods::NAMESPACE);
    // Bodies are made before the clock starts: the load's own cost is not what is measured.
    let bodies: Vec<Bytes> = (0..count).map(|index| pods::pod(&format!("{prefix}-{index}"), index)).collect();
    timed(bodies, in_flight, |body| async {
        let mut client = client.share().context("creating needs HTTP/2")?;
        client.json("POST", &path, body).await.map(drop)
    })
    .await
}

async fn transactions(
    etcd: &etcd_client::Client,
    prefix: &str,
    value: &[u8],
    count: usize,
    in_flight: usize,
) -> Result<Times> {
    let keys = (0..count).map(|index| format!("/bench/pods/default/{prefix}-{index}")).collect();
    timed(keys, in_flight, |key: String| async move {
        // As the API server writes: only if nobody did.
        let txn = Txn::new()
            .when([Compare::mod_revision(key.as_str(), CompareOp::Equal, 0)])
            .and_then([TxnOp::put(key.as_str(), value, None)]);
        let answer = etcd.kv_client().txn(txn).await?;
        ensure!(answer.succeeded(), "{key} is there already");
        Ok(())
    })
    .await
}

async fn timed<I, F: Future<Output = Result<()>>>(
    items: Vec<I>,
    in_flight: usize,
    work: impl Fn(I) -> F,
) -> Result<Times> {
    let start = Instant::now();
    let each = stream::iter(items.into_iter().map(|item| {
        let work = work(item);
        async {
            let start = Instant::now();
            work.await?;
            anyhow::Ok(millis(start.elapsed()))
        }
    }))
    .buffer_unordered(in_flight)
    .try_collect()
    .await?;
    Ok((start.elapsed().as_secs_f64(), each))
}

/// A pod as it is stored, so that raw transactions carry as much.
async fn sample(etcd: &etcd_client::Client) -> Result<Vec<u8>> {
    let first = GetOptions::new().with_prefix().with_limit(1);
    let mut found = etcd.kv_client().get("/registry/pods/default/", Some(first)).await?;
    Ok(found.take_kvs().pop().context("no pod in etcd")?.into_key_value().1)
}
