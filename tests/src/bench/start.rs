//! kube-apiserver from exec to ready.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hack::layout::Layout;
use http::Version;

use super::{
    Figure, block_on,
    http::Client,
    median, millis,
    plane::{self, Plane},
};

/// How often it is started.
const TURNS: usize = 5;
/// Seconds it may take.
const GOAL: f64 = 0.5;

pub(super) fn run(layout: &Layout) -> Result<Vec<Figure>> {
    let mut took = Vec::new();
    for _ in 0..TURNS {
        let plane = Plane::start(layout)?;
        // Started again on an etcd as empty as before: what the first start wrote is taken away.
        plane.stop("kube-apiserver")?;
        block_on(async {
            let mut etcd = plane.etcd().await?;
            let all = etcd_client::DeleteOptions::new().with_all_keys();
            etcd.delete("", Some(all)).await.context("cannot empty etcd")?;
            Ok(())
        })?;
        let start = Instant::now();
        plane.launch_api()?;
        block_on(ready(&plane, start + Duration::from_secs(30)))?;
        took.push(millis(start.elapsed()) / 1e3);
    }
    plane::stop_all(layout)?;
    Ok(vec![Figure::bounded("kube-apiserver, exec to readyz, empty etcd", "s", median(took), GOAL)])
}

/// Asks until the answer is yes.
pub(super) async fn ready(plane: &Plane, deadline: Instant) -> Result<()> {
    let trust = plane.trust()?;
    loop {
        if let Ok(mut client) = Client::connect(Plane::address(), &trust, Version::HTTP_11).await
            && let Ok(answer) = client.send("GET", "/readyz", &[], Bytes::new()).await
            && answer.status().is_success()
        {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "kube-apiserver is not ready after 30 s");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
