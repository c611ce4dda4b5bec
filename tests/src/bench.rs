//! Benchmarks: what the project promises in figures, each beside a peer measured in the same run.
//!
//! Machines are noisy, so ratios count; ours and the peer take turns within one run, and the median of the turns is
//! printed. A missed goal is printed as such and is no error: a benchmark fails only if it cannot run.

use std::{fs, io, time::Duration};

use anyhow::{Result, ensure};
use hack::{binaries, layout::Layout, packages, process, screen};
use serde::Serialize;

mod cache;
mod churn;
mod cluster;
mod controllers;
mod create;
mod decisions;
mod dns;
mod events;
mod get;
mod http;
mod list;
mod memory;
mod nginx;
mod node;
mod plane;
mod pods;
mod proxy;
mod ready;
mod scheduler;
mod slow_lists;
mod start;
mod usage;
mod watch;

/// One benchmark. A new one is a file and a line in [`ALL`].
pub struct Benchmark {
    /// Name on the command line.
    pub name: &'static str,
    /// What it measures.
    pub about: &'static str,
    run: fn(&Layout) -> Result<Vec<Figure>>,
}

/// All benchmarks, cheap ones first.
pub const ALL: &[Benchmark] = &[
    Benchmark { name: "start", about: "kube-apiserver from exec to ready on an empty etcd", run: start::run },
    Benchmark { name: "ready", about: "a new cluster from nothing to a Ready node", run: ready::run },
    Benchmark { name: "memory", about: "resident memory of the idle daemons", run: memory::run },
    Benchmark { name: "create", about: "creating pods, beside raw transactions of etcd", run: create::run },
    Benchmark {
        name: "list",
        about: "listing 5,000 pods, beside nginx sending the same bytes",
        run: list::run,
    },
    Benchmark {
        name: "get",
        about: "reading one pod, beside nginx sending the same bytes, by processor time",
        run: get::run,
    },
    Benchmark { name: "watch", about: "watchers with much to see, and with nothing", run: watch::run },
    Benchmark { name: "slow-lists", about: "large lists read slowly", run: slow_lists::run },
    Benchmark {
        name: "cache",
        about: "memory and start with 100,000 pods, beside what etcd stores and how fast it is read",
        run: cache::run,
    },
    Benchmark {
        name: "scheduler",
        about: "decisions at 5,000 nodes, and pods from created to bound, beside a client that binds them itself",
        run: scheduler::run,
    },
    Benchmark {
        name: "controllers",
        about: "a large deployment, its deletion, namespaces and endpoints, beside a client doing the same writes",
        run: controllers::run,
    },
    Benchmark {
        name: "dns",
        about: "DNS answers for 10,000 services, beside NSD with the same records",
        run: dns::run,
    },
    Benchmark {
        name: "proxy",
        about: "10,000 and 44,000 services in the kernel, beside its smallest transactions and nft",
        run: proxy::run,
    },
    Benchmark {
        name: "node",
        about: "pods from created to running, and what 110 of them cost the kubelet, beside bare CRI calls",
        run: node::run,
    },
    Benchmark { name: "churn", about: "leases of 5,000 nodes beside 100,000 pods", run: churn::run },
];

/// What to run and how to print it.
#[derive(Debug, Default)]
pub struct Options {
    /// Names of benchmarks; all when empty.
    pub names: Vec<String>,
    /// One JSON object a line instead of a table.
    pub json: bool,
    /// Use the release binaries that are there.
    pub no_build: bool,
}

/// One measured figure.
#[derive(Debug, Serialize)]
pub struct Figure {
    /// What was measured.
    name: String,
    /// Unit of `ours` and `peer`.
    unit: &'static str,
    /// Our value.
    ours: f64,
    /// What it is measured against: another program's value in the same run, or a fixed goal.
    peer: f64,
    /// Who the peer is.
    against: &'static str,
    /// `ours / peer`.
    ratio: f64,
    /// The bound the ratio is to keep.
    goal: Goal,
    /// Whether it does.
    met: bool,
}

/// A bound of a ratio.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
enum Goal {
    /// More is better.
    AtLeast(f64),
    /// Less is better.
    AtMost(f64),
}

impl Figure {
    fn new(
        name: impl Into<String>,
        unit: &'static str,
        ours: f64,
        peer: (&'static str, f64),
        goal: Goal,
    ) -> Self {
        let (against, peer) = peer;
        let ratio = ours / peer;
        let met = match goal {
            Goal::AtLeast(least) => ratio >= least,
            Goal::AtMost(most) => ratio <= most,
        };
        Self { name: name.into(), unit, ours, peer, against, ratio, goal, met }
    }

    /// A figure with a fixed upper bound.
    fn bounded(name: impl Into<String>, unit: &'static str, ours: f64, most: f64) -> Self {
        Self::new(name, unit, ours, ("the goal", most), Goal::AtMost(1.0))
    }

    fn line(&self) -> String {
        let goal = match self.goal {
            Goal::AtLeast(least) => format!("≥ {least:.2}"),
            Goal::AtMost(most) => format!("≤ {most:.2}"),
        };
        let verdict = if self.met { "met" } else { "MISSED" };
        let Self { name, unit, ours, peer, against, ratio, .. } = self;
        format!(
            "{name:44} {ours:>10.2} {unit:8} {against} {peer:.2} {unit}: ratio {ratio:.2} ({goal}) {verdict}"
        )
    }
}

/// Runs the named benchmarks and prints their figures.
///
/// # Errors
/// When one cannot run; the figures of the others are printed all the same.
pub fn run(options: &Options) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "hack/bench must run as root: it starts clusters");
    let default = Layout::from_env()?;
    ensure!(
        process::running(&default).is_empty(),
        "a cluster runs under {}: take it down with hack/down first, its ports and load would be in the way",
        default.dir.display()
    );
    let place = tempfile::Builder::new().prefix("keelson-bench").tempdir()?;
    let layout = Layout::new(place.path().join("state"), default.source.clone());
    packages::ensure()?;
    packages::install(if packages::find("nginx").is_none() { &["nginx-light"] } else { &[] })?;
    if !options.no_build {
        screen::step("binaries (release)");
        binaries::build(&layout)?;
    }
    let mut failed = Vec::new();
    let mut figures = Vec::new();
    for benchmark in
        ALL.iter().filter(|b| options.names.is_empty() || options.names.iter().any(|n| n == b.name))
    {
        screen::step(&format!("{}: {}", benchmark.name, benchmark.about));
        let outcome = (benchmark.run)(&layout);
        plane::stop_all(&layout)?;
        match outcome {
            Ok(measured) => {
                measured.iter().for_each(|f| screen::detail(&f.line()));
                figures.extend(measured);
            }
            Err(error) => {
                screen::failure(&error);
                failed.push(benchmark.name);
            }
        }
    }
    match fs::remove_dir_all(&layout.run) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    report(&figures, options.json)?;
    ensure!(failed.is_empty(), "could not run: {}", failed.join(", "));
    Ok(())
}

fn report(figures: &[Figure], json: bool) -> Result<()> {
    if json {
        for figure in figures {
            screen::line(&serde_json::to_string(figure)?);
        }
        return Ok(());
    }
    screen::line("\nFigures");
    figures.iter().for_each(|f| screen::line(&format!("  {}", f.line())));
    let missed = figures.iter().filter(|f| !f.met).count();
    screen::line(&format!("{} met, {missed} missed", figures.len() - missed));
    Ok(())
}

/// The middle one; of an even number the upper of the two.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Milliseconds of a duration.
fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Runs `work` on a runtime of its own.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_says_whether_its_ratio_keeps_the_bound() {
        let rate = |ours| Figure::new("x", "MB/s", ours, ("nginx", 100.0), Goal::AtLeast(0.5));
        assert!(rate(50.0).met);
        assert!(!rate(49.0).met);
        assert!(Figure::bounded("x", "MB", 40.0, 40.0).met);
        let over = Figure::bounded("x", "MB", 41.0, 40.0);
        assert!(!over.met && over.line().ends_with("MISSED"), "{}", over.line());
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![5.0]), 5.0);
        assert!(median(vec![]).is_nan());
    }
}
