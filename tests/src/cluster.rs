//! [`Cluster`]: what `hack/up` makes, spoken to as a user does.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{control_plane::poll, path_from, tail};

/// One node's cluster, taken down when dropped.
#[derive(Debug)]
pub struct Cluster {
    dir: tempfile::TempDir,
    binaries: PathBuf,
    kubectl: PathBuf,
}

impl Cluster {
    /// Starts a cluster with one node, the host itself, and its demo images.
    ///
    /// # Errors
    /// With the last lines of `hack up` when it fails.
    pub fn start() -> Result<Cluster> {
        let cluster = Cluster {
            dir: tempfile::Builder::new().prefix("keelson-test").tempdir()?,
            binaries: path_from("KEELSON_BIN_DIR")?,
            kubectl: path_from("KEELSON_KUBECTL")?,
        };
        cluster.hack(&["up", "--no-build", "--no-demo"])?;
        Ok(cluster)
    }

    /// Runs a subcommand of `hack` on this cluster.
    ///
    /// # Errors
    /// When it fails, with the end of what it said.
    pub fn hack(&self, args: &[&str]) -> Result<()> {
        let log = self.dir.path().with_extension("hack.log");
        let out = fs::File::create(&log)?;
        let target = self.binaries.parent().context("the binaries lie in a target directory")?;
        // Into a file rather than a pipe: the daemons outlive the command.
        let status = Command::new(self.binaries.join("hack"))
            .args(args)
            .env("KEELSON_DIR", self.state())
            .env("CARGO_TARGET_DIR", target)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .status()?;
        let said = fs::read_to_string(&log).unwrap_or_default();
        fs::remove_file(&log)?;
        ensure!(status.success(), "hack {} failed: {status}\n{}", args.join(" "), tail(&said, 30));
        Ok(())
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Runs kubectl as the admin and returns what it prints.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        text(self.kubectl_command(args).stdin(Stdio::null()).output()?, args)
    }

    /// The same with a standard input, such as manifests for `apply -f -`.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn kubectl_with(&self, args: &[&str], input: &str) -> Result<String> {
        let mut child = self
            .kubectl_command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("kubectl has a standard input")?.write_all(input.as_bytes())?;
        text(child.wait_with_output()?, args)
    }

    fn kubectl_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(self.state().join("admin.kubeconfig")).arg("--request-timeout=30s");
        command.args(args);
        command
    }

    /// Polls until `probe` says something; `what` names what is waited for.
    ///
    /// # Errors
    /// After `seconds`, with the last failure of the probe.
    pub fn eventually<T>(
        &self,
        what: &str,
        seconds: u64,
        probe: impl Fn(&Cluster) -> Result<Option<T>>,
    ) -> Result<T> {
        poll(what, seconds, Duration::from_millis(200), &mut || probe(self))
    }

    /// The last lines of every daemon's log, for a failure nobody can look at.
    pub fn logs(&self) -> String {
        let files = fs::read_dir(self.state().join("log")).into_iter().flatten().flatten();
        let of = |path: &Path| tail(&fs::read_to_string(path).unwrap_or_default(), 12);
        files.map(|f| format!("--- {}\n{}\n", f.file_name().to_string_lossy(), of(&f.path()))).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.hack(&["down", "--purge"]) {
            // Nothing else can be done here; what is left shows in the next start.
            let _told = writeln!(std::io::stderr(), "cannot take the cluster down: {error:#}");
        }
    }
}

fn text(output: Output, args: &[&str]) -> Result<String> {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "kubectl {}: {}{said}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(said)
}
