//! Readers of large lists that read slowly: what they cost the API server in memory.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures::{
    StreamExt, TryStreamExt,
    future::{try_join, try_join_all},
    stream,
};
use hack::layout::Layout;
use http::Version;
use http_body_util::BodyExt;
use serde_json::json;

use super::{Figure, block_on, http::Client, plane::Plane, usage};

const SECRETS: usize = 400;
/// Bytes of each in base64, below what etcd takes.
const SIZE: usize = 1_000_000;
const IN_FLIGHT: usize = 4;
const READERS: usize = 16;
/// How long they read, and the pause after each piece.
const READING: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);
/// Megabytes they may cost together.
const GOAL: f64 = 64.0;
const PATH: &str = "/api/v1/namespaces/default/secrets";

pub(super) fn run(layout: &Layout) -> Result<Vec<Figure>> {
    let plane = Plane::start(layout)?;
    block_on(async {
        let client = plane.client(Version::HTTP_2).await?;
        fill(&client).await?;
        let pid = plane.api_pid()?;
        // One fast list, so that what every list needs once is there.
        plane.client(Version::HTTP_11).await?.length(PATH, &[("accept", "application/json")]).await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let before = usage::memory(pid)?;
        let start = Instant::now();
        let readers =
            (0..READERS).map(|_| async { slow(plane.client(Version::HTTP_11).await?, start).await });
        let peak = async {
            let mut peak = 0;
            while start.elapsed() < READING {
                peak = peak.max(usage::memory(pid)?);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            anyhow::Ok(peak)
        };
        let (peak, read) = try_join(peak, try_join_all(readers)).await?;
        ensure!(read.iter().all(|bytes| *bytes > 0), "a reader got nothing");
        let grown = peak.saturating_sub(before) as f64 / 1e6;
        Ok(vec![Figure::bounded("16 slow LISTs of 400 MB, memory", "MB", grown, GOAL)])
    })
}

/// Reads a list with pauses; answers how much of it came.
async fn slow(mut client: Client, start: Instant) -> Result<usize> {
    let answer = client.send("GET", PATH, &[("accept", "application/json")], Bytes::new()).await?;
    ensure!(answer.status().is_success(), "GET {PATH}: {}", answer.status());
    let (mut body, mut read) = (answer.into_body(), 0);
    while start.elapsed() < READING {
        let Some(frame) = body.frame().await else { break };
        read += frame?.data_ref().map_or(0, Bytes::len);
        tokio::time::sleep(PAUSE).await;
    }
    Ok(read)
}

async fn fill(client: &Client) -> Result<()> {
    stream::iter(0..SECRETS)
        .map(|index| async move {
            // The same letter would be as large; base64 has to be a multiple of four.
            let data = "QUJD".repeat(SIZE / 4);
            let object = json!({"apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": format!("large-{index}")}, "data": {"blob": data}});
            let Some(mut client) = client.share() else { anyhow::bail!("filling needs HTTP/2") };
            client.json("POST", PATH, Bytes::from(object.to_string())).await.map(drop)
        })
        .buffer_unordered(IN_FLIGHT)
        .try_for_each(|()| async { Ok(()) })
        .await
}
