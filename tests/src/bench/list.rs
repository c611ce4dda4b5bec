//! LIST of 5,000 pods as JSON over TLS, beside nginx sending the same bytes.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use hack::layout::Layout;
use http::Version;

use super::{
    Figure, Goal, block_on,
    create::fill,
    http::{Client, Trust},
    median,
    nginx::Nginx,
    plane::Plane,
};

const PODS: usize = 5_000;
const PATH: &str = "/api/v1/namespaces/default/pods";
const FILE: &str = "/pods.json";
/// Connections that read at the same time.
const READERS: usize = 4;
/// How long one side reads before it is the other's turn.
const TURN: Duration = Duration::from_millis(1500);
const TURNS: usize = 5;

pub(super) fn run(layout: &Layout) -> Result<Vec<Figure>> {
    let plane = Plane::start(layout)?;
    block_on(async {
        let client = plane.client(Version::HTTP_2).await?;
        fill(&client, "list", PODS).await?;
        let mut reader = plane.client(Version::HTTP_11).await?;
        let bytes = reader.json("GET", PATH, Bytes::new()).await?;
        let zipped = zipped(&mut reader).await?;
        let files: [(&str, &[u8]); 2] = [("pods.json", &bytes), ("pods.json.gz", &zipped)];
        let nginx = Nginx::start(&layout.dir.join("nginx"), plane.ca(), &files)?;
        let trust = plane.trust()?;
        let plain = [("accept", "application/json")];
        let gzip = [("accept", "application/json"), ("accept-encoding", "gzip")];
        let mut figures = Vec::new();
        for (name, headers, goal) in
            [("LIST of 5,000 pods, JSON", &plain[..], 0.5), ("LIST of 5,000 pods, gzip", &gzip[..], 0.5)]
        {
            let (mut ours, mut peers) = (Vec::new(), Vec::new());
            for _ in 0..TURNS {
                ours.push(read(Plane::address(), &trust, PATH, headers).await?);
                peers.push(read(nginx.address(), &trust, FILE, headers).await?);
            }
            figures.push(Figure::new(
                name,
                "MB/s",
                median(ours),
                ("nginx", median(peers)),
                Goal::AtLeast(goal),
            ));
        }
        Ok(figures)
    })
}

/// The answer as the server compresses it, so that both send the same bytes.
async fn zipped(client: &mut Client) -> Result<Bytes> {
    use http_body_util::BodyExt;
    let headers = [("accept", "application/json"), ("accept-encoding", "gzip")];
    let answer = client.send("GET", PATH, &headers, Bytes::new()).await?;
    let coding = answer.headers().get("content-encoding").context("the list is not compressed")?;
    ensure!(coding == "gzip", "the list is compressed as {coding:?}");
    Ok(answer.into_body().collect().await?.to_bytes())
}

/// Reads for one turn and returns megabytes a second.
async fn read(address: SocketAddr, trust: &Trust, path: &str, headers: &[(&str, &str)]) -> Result<f64> {
    let clients =
        try_join_all((0..READERS).map(|_| Client::connect(address, trust, Version::HTTP_11))).await?;
    let start = Instant::now();
    let lengths = clients.into_iter().map(|mut client| async move {
        let mut total = 0;
        while start.elapsed() < TURN {
            total += client.length(path, headers).await?;
        }
        anyhow::Ok(total)
    });
    let total: u64 = try_join_all(lengths).await?.into_iter().sum();
    Ok(total as f64 / 1e6 / start.elapsed().as_secs_f64())
}
