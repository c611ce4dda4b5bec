//! [`Cluster`]: what `hack/up` makes, spoken to as a user does.

use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use hack::layout::Layout;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{Background, control_plane::poll, path_from, tail};

/// A cluster on this machine, taken down when dropped.
///
/// `KEELSON_TEST_CLUSTER` names the state folder of one that runs already: where it has as many nodes as are asked for,
/// it is used instead and left as it is.
#[derive(Debug)]
pub struct Cluster {
    dir: tempfile::TempDir,
    state: PathBuf,
    nodes: u32,
    own: bool,
    binaries: PathBuf,
    kubectl: PathBuf,
}

/// Image archives of a cluster that has ended, for the next one.
#[derive(Debug)]
pub struct Images(tempfile::TempDir);

impl Cluster {
    /// Starts a cluster with this many nodes (one is the host itself) and the demo images.
    ///
    /// # Errors
    /// With the last lines of `hack up` when it fails.
    pub fn start(nodes: u32, images: Option<Images>) -> Result<Cluster> {
        let dir = tempfile::Builder::new().prefix("keelson-test").tempdir()?;
        let running =
            env::var_os("KEELSON_TEST_CLUSTER").filter(|state| nodes_of(Path::new(state)) == Some(nodes));
        let own = running.is_none();
        let state = running.map_or_else(|| dir.path().join("state"), PathBuf::from);
        if let Some(Images(old)) = images.filter(|_| own) {
            fs::create_dir_all(&state)?;
            fs::rename(old.path().join("images"), state.join("images"))?;
        }
        let (binaries, kubectl) = (path_from("KEELSON_BIN_DIR")?, path_from("KEELSON_KUBECTL")?);
        let cluster = Cluster { dir, state, nodes, own, binaries, kubectl };
        if own {
            cluster.up()?;
        }
        Ok(cluster)
    }

    /// Brings back what was stopped.
    ///
    /// # Errors
    /// With the last lines of `hack up` when it fails.
    pub fn up(&self) -> Result<()> {
        self.hack(&["up", "--no-build", "--no-demo", "--nodes", &self.nodes.to_string()]).map(drop)
    }

    /// Takes the cluster down and keeps its image archives.
    ///
    /// # Errors
    /// When they cannot be moved.
    pub fn end(self) -> Result<Images> {
        let kept = tempfile::Builder::new().prefix("keelson-images").tempdir()?;
        if self.own {
            fs::rename(self.state.join("images"), kept.path().join("images"))?;
        } else {
            fs::create_dir(kept.path().join("images"))?;
        }
        Ok(Images(kept))
    }

    /// Stops one process of it, as `kubelet-node-2`.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&self, process: &str) -> Result<()> {
        let layout = Layout::new(self.state.clone(), PathBuf::new());
        hack::process::stop(&layout, process, Duration::from_secs(20))
    }

    /// Process id of one process of it while it runs.
    pub fn pid(&self, process: &str) -> Option<i32> {
        let layout = Layout::new(self.state.clone(), PathBuf::new());
        hack::process::running(&layout).into_iter().find(|r| r.name == process).map(|r| r.pid)
    }

    /// Sends a signal to one process of it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, process: &str, signal: Signal) -> Result<()> {
        let pid = self.pid(process).with_context(|| format!("{process} does not run"))?;
        Ok(kill(Pid::from_raw(pid), signal)?)
    }

    /// The end of a process's log.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn log(&self, process: &str) -> Result<String> {
        let file = self.state.join("log").join(format!("{process}.log"));
        Ok(tail(&fs::read_to_string(&file).with_context(|| file.display().to_string())?, 40))
    }

    /// Where the cluster's state is.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Runs a subcommand of `hack` on this cluster; what it said.
    ///
    /// # Errors
    /// When it fails, with the end of what it said.
    pub fn hack(&self, args: &[&str]) -> Result<String> {
        self.hack_on(Command::new(self.binaries.join("hack")), &self.state, args)
    }

    /// The same on another host, which is a network namespace, with a state folder of its own.
    ///
    /// # Errors
    /// As [`Self::hack`].
    pub fn hack_inside(&self, namespace: &str, state: &Path, args: &[&str]) -> Result<String> {
        let mut command = Command::new("nsenter");
        // Not by `ip netns exec`, which hides the cgroups.
        command.arg(format!("--net=/run/netns/{namespace}")).arg("--").arg(self.binaries.join("hack"));
        self.hack_on(command, state, args)
    }

    fn hack_on(&self, mut command: Command, state: &Path, args: &[&str]) -> Result<String> {
        let log = self.dir.path().with_extension("hack.log");
        let out = fs::File::create(&log)?;
        let target = self.binaries.parent().context("the binaries lie in a target directory")?;
        let own = self.kubectl.parent().unwrap_or(Path::new("/"));
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths(env::split_paths(&path).chain([own.to_owned()]))?;
        // Into a file rather than a pipe: the daemons outlive the command.
        let status = command
            .args(args)
            .env("KEELSON_DIR", state)
            .env("CARGO_TARGET_DIR", target)
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .status()?;
        let said = fs::read_to_string(&log).unwrap_or_default();
        fs::remove_file(&log)?;
        ensure!(status.success(), "hack {} failed: {status}\n{}", args.join(" "), tail(&said, 30));
        Ok(said)
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

    /// kubectl in a namespace that goes on while the test looks at it; on a terminal if it is to be interactive.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn kubectl_background(&self, namespace: &str, args: &[&str], terminal: bool) -> Result<Background> {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(self.state.join("admin.kubeconfig"));
        command.args(["--namespace", namespace]).args(args);
        if terminal { Background::on_terminal(command) } else { Background::start(command) }
    }

    /// The path of kubectl.
    pub fn kubectl_path(&self) -> &Path {
        &self.kubectl
    }

    /// A folder for files of the tests.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// kubectl as the admin, to which a test may add.
    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(self.state.join("admin.kubeconfig")).arg("--request-timeout=30s");
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
        let files = fs::read_dir(self.state.join("log")).into_iter().flatten().flatten();
        let telling = |path: &Path| -> String {
            let all = fs::read_to_string(path).unwrap_or_default();
            all.lines().filter(|l| !l.contains("level=info")).fold(String::new(), |text, l| text + l + "\n")
        };
        let of = |path: &Path| tail(&telling(path), 12);
        files.map(|f| format!("--- {}\n{}\n", f.file_name().to_string_lossy(), of(&f.path()))).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.own {
            return;
        }
        if let Err(error) = self.hack(&["down", "--purge"]) {
            // Nothing else can be done here; what is left shows in the next start.
            let _told = writeln!(std::io::stderr(), "cannot take the cluster down: {error:#}");
        }
    }
}

/// How many nodes the cluster of a state folder was started with.
fn nodes_of(state: &Path) -> Option<u32> {
    let told: Value = serde_json::from_slice(&fs::read(state.join("cluster.json")).ok()?).ok()?;
    u32::try_from(told["nodes"].as_u64()?).ok()
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
