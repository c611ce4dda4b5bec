//! Building the release binaries and knowing where they are.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

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
    )
}

/// The path of a built binary.
pub fn path(layout: &Layout, name: &str) -> Result<PathBuf> {
    let path = release_dir(layout).join(name);
    if !Path::new(&path).is_file() {
        bail!("{} is not built: run hack/up without --no-build", path.display());
    }
    Ok(path)
}
