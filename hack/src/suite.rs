//! `hack/test`: the whole suite, step by step, with a summary.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{binaries, command::command, layout::Layout, packages, screen};

/// Options of `hack/test`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Run only steps whose name contains this text.
    #[arg(long)]
    only: Option<String>,
}

/// One step of the suite.
struct Step {
    name: &'static str,
    run: fn(&Layout) -> Result<Command>,
}

/// The suite, in order: cheap and telling first.
const STEPS: &[Step] = &[
    Step { name: "format", run: |l| Ok(cargo(l, &["fmt", "--all", "--check"])) },
    Step {
        name: "lints",
        run: |l| Ok(cargo(l, &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])),
    },
    Step {
        name: "unit tests",
        run: |l| Ok(cargo(l, &["test", "--workspace", "--exclude", "tests", "--no-fail-fast", "--quiet"])),
    },
    Step {
        name: "release binaries",
        run: |l| {
            binaries::build(l)?;
            Ok(command("true", [] as [&str; 0]))
        },
    },
    Step { name: "systemd units", run: systemd_units },
    Step { name: "conformance-style tests", run: conformance },
];

/// Runs the steps; fails if any failed, after all have run.
pub fn run(layout: &Layout, args: &Args) -> Result<()> {
    packages::ensure()?;
    packages::install(if packages::find("systemd-analyze").is_none() { &["systemd"] } else { &[] })?;
    let mut results = Vec::new();
    for step in STEPS.iter().filter(|s| args.only.as_deref().is_none_or(|o| s.name.contains(o))) {
        screen::step(step.name);
        let start = Instant::now();
        let mut failures = Failures::default();
        let outcome = (step.run)(layout).and_then(|c| watch(c, step.name, &mut failures));
        if let Err(error) = &outcome {
            screen::failure(error);
        }
        results.push(Report { step: step.name, passed: outcome.is_ok(), took: start.elapsed(), failures });
    }
    summary(&results)
}

/// How a step went.
struct Report {
    step: &'static str,
    passed: bool,
    took: Duration,
    failures: Failures,
}

/// Runs a step, shows what it prints and keeps what it says of failures.
fn watch(mut step: Command, name: &str, failures: &mut Failures) -> Result<()> {
    let run = || format!("cannot run {name}");
    let mut child = step.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().with_context(run)?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.with_context(run)?;
            let line = String::from_utf8_lossy(&line);
            screen::line(&line);
            failures.see(&line);
        }
    }
    let status = child.wait().with_context(run)?;
    if status.success() { Ok(()) } else { bail!("{status}") }
}

fn summary(results: &[Report]) -> Result<()> {
    screen::line("\nSummary");
    for Report { step, passed, took, .. } in results {
        let word = if *passed { "passed" } else { "FAILED" };
        screen::line(&format!("  {word}  {step} ({:.0}s)", took.as_secs_f64()));
    }
    let failed = results.iter().filter(|r| !r.passed).count();
    screen::line(&format!("{} passed, {failed} failed", results.len() - failed));
    for line in results.iter().flat_map(|r| &r.failures.lines) {
        screen::line(line);
    }
    if failed > 0 {
        bail!("{failed} of {} steps failed", results.len());
    }
    Ok(())
}

/// What tests said of their failures, told again where a log is read first: at its end.
#[derive(Default)]
struct Failures {
    lines: Vec<String>,
    /// Lines that still belong to the last failure.
    open: usize,
}

// === impl Failures ===

impl Failures {
    /// Lines kept of one failure, characters of a line, and lines in all.
    const EACH: usize = 4;
    const WIDTH: usize = 300;
    const ALL: usize = 60;

    /// Takes a line of a step's output.
    fn see(&mut self, line: &str) {
        let named = line.starts_with("test ") && line.contains("... FAILED");
        // The standard harness, asked to be quiet, names a failure where it shows what the test printed.
        let shown = line.starts_with("---- ");
        if named || shown {
            self.open = Self::EACH;
        }
        if line.starts_with("test ") && !named {
            self.open = 0;
        }
        if self.open > 0 && self.lines.len() < Self::ALL && !line.trim().is_empty() {
            self.open -= 1;
            self.lines.push(line.chars().take(Self::WIDTH).collect());
        }
    }
}

fn cargo(layout: &Layout, args: &[&str]) -> Command {
    let mut c = command(&env::var("CARGO").unwrap_or_else(|_| "cargo".into()), args);
    c.current_dir(&layout.source);
    c
}

/// Checks the units as they would be installed; the check insists that ExecStart exists.
fn systemd_units(layout: &Layout) -> Result<Command> {
    let built = binaries::release_dir(layout);
    let copies = layout.dir.join("systemd-verify");
    fs::create_dir_all(&copies)?;
    let mut c = command("systemd-analyze", ["verify", "--man=no"]);
    for entry in fs::read_dir(layout.source.join("hack/systemd"))? {
        let entry = entry?;
        let text = fs::read_to_string(entry.path())?;
        let copy = copies.join(entry.file_name());
        fs::write(&copy, text.replace("/usr/local/bin/", &format!("{}/", built.display())))?;
        c.arg(copy);
    }
    Ok(c)
}

/// The tests crate runs the release binaries; a cluster test starts `hack/up` itself.
fn conformance(layout: &Layout) -> Result<Command> {
    let mut c = cargo(layout, &["test", "-p", "tests", "--no-fail-fast"]);
    c.env("KEELSON_BIN_DIR", binaries::release_dir(layout));
    c.env("KEELSON_KUBECTL", packages::kubectl(layout)?);
    Ok(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_kept_with_what_explains_them() {
        let mut failures = Failures::default();
        for line in [
            "test a pod starts ... ok (1.0s)",
            "test a pod ends ... FAILED (2.0s) in pods-1",
            "it never ended",
            "",
            "events: none",
            "test a pod is replaced ... ok (1.0s)",
            "running 3 tests",
            "---- plan::tests::idempotent stdout ----",
            "assertion failed",
        ] {
            failures.see(line);
        }
        assert_eq!(
            failures.lines,
            [
                "test a pod ends ... FAILED (2.0s) in pods-1",
                "it never ended",
                "events: none",
                "---- plan::tests::idempotent stdout ----",
                "assertion failed",
            ]
        );
    }
}
