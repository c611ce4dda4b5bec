//! GET of one pod: answers per second of the server's processor, beside nginx sending the same bytes.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Result;
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
    usage,
};

const PATH: &str = "/api/v1/namespaces/default/pods/get-0";
/// Connections that ask at the same time.
const READERS: usize = 32;
const TURN: Duration = Duration::from_millis(1500);
const TURNS: usize = 5;

pub(super) fn run(layout: &Layout) -> Result<Vec<Figure>> {
    let plane = Plane::start(layout)?;
    block_on(async {
        let client = plane.client(Version::HTTP_2).await?;
        fill(&client, "get", 1).await?;
        let bytes = plane.client(Version::HTTP_11).await?.json("GET", PATH, Bytes::new()).await?;
        let nginx = Nginx::start(&layout.dir.join("nginx"), plane.ca(), &[("pod.json", &bytes)])?;
        let (trust, api) = (plane.trust()?, plane.api_pid()?);
        let mut figures = Vec::new();
        for (name, path, goal) in [
            ("GET of a pod, per second of processor", PATH.to_owned(), 0.5),
            ("GET of a pod, resourceVersion=0", format!("{PATH}?resourceVersion=0"), 0.5),
        ] {
            let (mut ours, mut peers) = (Vec::new(), Vec::new());
            for _ in 0..TURNS {
                ours.push(answers(Plane::address(), &trust, &path, || usage::cpu(api)).await?);
                let used = || usage::cpu_with_children(nginx.pid());
                peers.push(answers(nginx.address(), &trust, "/pod.json", used).await?);
            }
            let peer = ("nginx", median(peers));
            figures.push(Figure::new(name, "/cpu-s", median(ours), peer, Goal::AtLeast(goal)));
        }
        Ok(figures)
    })
}

/// Asks for one turn and returns the answers per second of processor that `used` tells of.
async fn answers(
    address: SocketAddr,
    trust: &Trust,
    path: &str,
    used: impl Fn() -> Result<Duration>,
) -> Result<f64> {
    let clients =
        try_join_all((0..READERS).map(|_| Client::connect(address, trust, Version::HTTP_11))).await?;
    let (before, start) = (used()?, Instant::now());
    let counts = clients.into_iter().map(|mut client| async move {
        let mut count = 0_u32;
        while start.elapsed() < TURN {
            client.length(path, &[("accept", "application/json")]).await?;
            count += 1;
        }
        anyhow::Ok(count)
    });
    let count: u32 = try_join_all(counts).await?.into_iter().sum();
    Ok(f64::from(count) / (used()? - before).as_secs_f64())
}
