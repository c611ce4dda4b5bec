//! From nothing to a Ready node, as `hack/up` does it once everything is built.

use std::{fs, time::Instant};

use anyhow::Result;
use hack::layout::Layout;

use super::{Figure, cluster, median, millis, plane};

/// How often a new cluster is made.
const TURNS: usize = 3;
/// Seconds it may take.
const GOAL: f64 = 5.0;

pub(super) fn run(layout: &Layout) -> Result<Vec<Figure>> {
    // The first one builds the images, which is not what is measured.
    cluster::up(layout)?;
    cluster::down(layout)?;
    let mut took = Vec::new();
    for _ in 0..TURNS {
        plane::forget(layout)?;
        match fs::remove_dir_all(layout.dir.join("nodes")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        let start = Instant::now();
        let up = cluster::up(layout);
        took.push(millis(start.elapsed()) / 1e3);
        cluster::down(layout)?;
        up?;
    }
    Ok(vec![Figure::bounded("zero to Ready node, everything built", "s", median(took), GOAL)])
}
