//! Resident memory of a cluster nobody uses.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hack::{binaries, layout::Layout, process, screen};

use super::{Figure, cluster};

/// How long the cluster is left alone before it is measured.
const IDLE: Duration = Duration::from_secs(30);
/// Megabytes of the API server.
const API_SERVER: f64 = 40.0;
/// Megabytes of all seven daemons.
const ALL: f64 = 150.0;

pub(super) fn run(layout: &Layout) -> Result<Vec<Figure>> {
    cluster::up(layout)?;
    screen::pause(IDLE);
    let measured = measure(layout);
    cluster::down(layout)?;
    measured
}

fn measure(layout: &Layout) -> Result<Vec<Figure>> {
    let running = process::running(layout);
    let megabytes = |daemon: &str| {
        let one = running.iter().find(|r| r.name == daemon);
        Ok(one.with_context(|| format!("{daemon} does not run"))?.rss as f64 / 1024.0)
    };
    let each = binaries::DAEMONS.iter().map(|(name, _)| megabytes(name)).collect::<Result<Vec<f64>>>()?;
    ensure!(each.iter().all(|m| *m > 0.0), "a daemon ended while it was measured");
    Ok(vec![
        Figure::bounded("kube-apiserver, idle", "MB", megabytes("kube-apiserver")?, API_SERVER),
        Figure::bounded("seven daemons, idle", "MB", each.iter().sum(), ALL),
    ])
}
