//! Where a cluster's files live: one directory for what must survive, one for sockets and pids.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// Where state lives unless `KEELSON_DIR` says otherwise.
pub const DEFAULT_DIR: &str = "/var/lib/keelson";

/// Paths of one cluster on this machine.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Data that survives a restart: etcd, PKI, kubeconfigs, logs, containerd roots.
    pub dir: PathBuf,
    /// Sockets, containerd state and pid files; on a tmpfs, short enough for unix sockets.
    pub run: PathBuf,
    /// Short mark of `dir`, empty for the default: keeps names of two clusters apart.
    pub mark: String,
    /// The source tree.
    pub source: PathBuf,
}

impl Layout {
    /// Reads `KEELSON_DIR`.
    pub fn from_env() -> Result<Self> {
        let dir = PathBuf::from(env::var_os("KEELSON_DIR").unwrap_or_else(|| DEFAULT_DIR.into()));
        if !dir.is_absolute() {
            bail!("KEELSON_DIR must be an absolute path, not {}", dir.display());
        }
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("hack has no parent folder")?;
        Ok(Self::new(dir, source.to_owned()))
    }

    /// The layout of a cluster under `dir`.
    pub fn new(dir: PathBuf, source: PathBuf) -> Self {
        let mark = if dir == Path::new(DEFAULT_DIR) {
            String::new()
        } else {
            Sha256::digest(dir.as_os_str().as_encoded_bytes())
                .iter()
                .take(2)
                .map(|b| format!("{b:02x}"))
                .collect()
        };
        let run = PathBuf::from(if mark.is_empty() {
            "/run/keelson".into()
        } else {
            format!("/run/keelson-{mark}")
        });
        Self { dir, run, mark, source }
    }

    /// The administrator's kubeconfig.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
    }

    /// Certificates and keys.
    pub fn pki(&self) -> PathBuf {
        self.dir.join("pki")
    }

    /// Logs, one file a process.
    pub fn logs(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Image archives and what they are made of.
    pub fn images(&self) -> PathBuf {
        self.dir.join("images")
    }

    /// Pid files, one a process.
    pub fn pids(&self) -> PathBuf {
        self.run.join("pid")
    }

    /// What `up` was asked for last, for `down`.
    pub fn state_file(&self) -> PathBuf {
        self.dir.join("cluster.json")
    }

    /// Name of a kernel object (bridge, veth, table), at most 15 bytes with `base` up to 10.
    pub fn kernel_name(&self, base: &str) -> String {
        format!("{base}{}", self.mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_cluster_shares_no_name_with_the_default_one() {
        let first = Layout::new(DEFAULT_DIR.into(), "/src".into());
        let second = Layout::new("/tmp/other".into(), "/src".into());
        assert_eq!(first.run, Path::new("/run/keelson"));
        assert_ne!(first.run, second.run);
        assert_ne!(first.kernel_name("keelson"), second.kernel_name("keelson"));
        assert!(second.kernel_name("keelson0").len() <= 15);
    }
}
