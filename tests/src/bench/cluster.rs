//! A whole cluster of one node, started by `hack up` as a user would.

use std::{fs, process::Stdio};

use anyhow::{Result, ensure};
use hack::{
    binaries,
    command::{command, tail},
    layout::Layout,
};

/// Runs `hack` with these arguments on the benchmarks' layout.
pub(super) fn hack(layout: &Layout, args: &[&str]) -> Result<()> {
    fs::create_dir_all(&layout.dir)?;
    let log = layout.dir.join("bench.log");
    let out = fs::File::create(&log)?;
    let mut run = command(&binaries::path(layout, "hack")?.to_string_lossy(), args);
    // Into a file rather than a pipe: the daemons outlive the command.
    let status = run
        .env("KEELSON_DIR", &layout.dir)
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .status()?;
    let said = fs::read_to_string(&log).unwrap_or_default();
    ensure!(status.success(), "hack {}: {status}\n{}", args.join(" "), tail(&said, 20));
    Ok(())
}

/// Starts a cluster with nothing in it.
pub(super) fn up(layout: &Layout) -> Result<()> {
    hack(layout, &["up", "--no-build", "--no-demo"])
}

/// Takes it down; images and keys stay for the next.
pub(super) fn down(layout: &Layout) -> Result<()> {
    hack(layout, &["down"])
}
