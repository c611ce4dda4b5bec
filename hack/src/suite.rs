//! `hack/test`: the whole suite, step by step, with a summary.

use std::{
    env, fs,
    process::{Command, Stdio},
    time::Instant,
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
        let outcome = (step.run)(layout).and_then(|mut c| {
            let status =
                c.stdin(Stdio::null()).status().with_context(|| format!("cannot run {}", step.name))?;
            if status.success() { Ok(()) } else { bail!("{status}") }
        });
        if let Err(error) = &outcome {
            screen::failure(error);
        }
        results.push((step.name, outcome.is_ok(), start.elapsed()));
    }
    summary(&results)
}

fn summary(results: &[(&str, bool, std::time::Duration)]) -> Result<()> {
    screen::line("\nSummary");
    for (name, passed, took) in results {
        let word = if *passed { "passed" } else { "FAILED" };
        screen::line(&format!("  {word}  {name} ({:.0}s)", took.as_secs_f64()));
    }
    let failed = results.iter().filter(|r| !r.1).count();
    screen::line(&format!("{} passed, {failed} failed", results.len() - failed));
    if failed > 0 {
        bail!("{failed} of {} steps failed", results.len());
    }
    Ok(())
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
