//! Building the release binaries and knowing where they are.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    command::{command, interactive},
    layout::Layout,
};

/// The seven daemons: binary name and package.
pub const DAEMONS: &[(&str, &str)] = &[
    ("kube-apiserver", "apiserver"),
    ("kube-scheduler", "scheduler"),
    ("kube-controller-manager", "controller-manager"),
    ("cloud-controller-manager", "cloud-controller"),
    ("kubelet", "kubelet"),
    ("kube-proxy", "kube-proxy"),
    ("kube-dns", "dns"),
];

/// The statically linked pause program of the pause image.
pub const STATIC_PAUSE: &str = "pause-static";

/// Where release binaries are, honouring CARGO_TARGET_DIR.
pub fn release_dir(layout: &Layout) -> PathBuf {
    env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| layout.source.join("target"), PathBuf::from)
        .join("release")
}

/// Builds the daemons and the static pause program; cargo shows its progress.
pub fn build(layout: &Layout) -> Result<()> {
    let mut args = vec!["build", "--release", "--bins"];
    for (_, package) in DAEMONS {
        args.extend(["-p", package]);
    }
    interactive(command("cargo", args).current_dir(&layout.source))?;
    interactive(
        command("cargo", ["rustc", "--release", "-q", "-p", "hack", "--bin", "pause", "--"])
            .args(["-C", "target-feature=+crt-static", "-C", "relocation-model=static"])
            .current_dir(&layout.source),
    )?;
    // Under a name of its own: a plain build of the workspace replaces `pause` by one that needs a loader.
    let release = release_dir(layout);
    fs::copy(release.join("pause"), release.join(STATIC_PAUSE)).context("cannot keep the static pause")?;
    Ok(())
}

/// The path of a built binary.
pub fn path(layout: &Layout, name: &str) -> Result<PathBuf> {
    let path = release_dir(layout).join(name);
    if !Path::new(&path).is_file() {
        bail!("{} is not built: run hack/up without --no-build", path.display());
    }
    Ok(path)
}
