//! Long-running processes: start detached, find again, stop, show why one died.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{command, layout::Layout, screen};

/// A process `up` keeps running.
#[derive(Clone, Debug)]
pub struct Process {
    /// Unique name, for example `kubelet-node-1`.
    pub name: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Extra environment.
    pub env: Vec<(String, String)>,
    /// Files whose change calls for a restart (configuration, certificates).
    pub inputs: Vec<PathBuf>,
    /// What is shown as its address.
    pub address: String,
}

/// What a pid file says.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    pid: i32,
    /// Start time in clock ticks since boot, so that a reused pid is not taken for ours.
    started: u64,
    /// Digest of the program, its arguments and inputs.
    digest: String,
    address: String,
}

/// A running process, for the closing table.
#[derive(Debug)]
pub struct Running {
    /// Process name.
    pub name: String,
    /// Process id.
    pub pid: i32,
    /// Resident memory in KiB.
    pub rss: u64,
    /// Address shown.
    pub address: String,
    /// Log file.
    pub log: PathBuf,
}

impl Process {
    /// Starts the process unless the same one runs already; restarts it when anything about it changed.
    /// Returns whether it was started.
    pub fn ensure(&self, layout: &Layout) -> Result<bool> {
        let digest = self.digest()?;
        if let Some(record) = live(layout, &self.name) {
            if record.digest == digest {
                return Ok(false);
            }
            screen::detail(&format!("{} changed: restarting", self.name));
            stop(layout, &self.name, Duration::from_secs(20))?;
        }
        fs::create_dir_all(layout.logs())?;
        fs::create_dir_all(layout.pids())?;
        let log = OpenOptions::new().create(true).append(true).open(log_file(layout, &self.name))?;
        let child = Command::new(&self.argv[0])
            .args(&self.argv[1..])
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", self.argv[0]))?;
        let pid = i32::try_from(child.id()).context("pid out of range")?;
        let started = start_time(pid).unwrap_or(0);
        let record = Record { pid, started, digest, address: self.address.clone() };
        fs::write(pid_file(layout, &self.name), serde_json::to_vec(&record)?)?;
        Ok(true)
    }

    /// Starts a process that has ended again, once: as a leader does that lost its lease while its store was away.
    /// When it ends again that is an error, with the last log lines.
    pub fn keep(&self, layout: &Layout, started_again: &mut BTreeSet<String>) -> Result<()> {
        if live(layout, &self.name).is_some() {
            return Ok(());
        }
        if !started_again.insert(self.name.clone()) {
            return self.check(layout);
        }
        screen::detail(&format!("{} ended: starting it again", self.name));
        self.ensure(layout).map(drop)
    }

    /// An error with the last log lines if the process is not running.
    pub fn check(&self, layout: &Layout) -> Result<()> {
        if live(layout, &self.name).is_some() {
            return Ok(());
        }
        bail!(
            "{} stopped. Last lines of {}:\n{}\nWhat to do: mend the cause shown there and run hack/up again",
            self.name,
            log_file(layout, &self.name).display(),
            last_log_lines(layout, &self.name)
        );
    }

    fn digest(&self) -> Result<String> {
        let mut hash = Sha256::new();
        for part in self.argv.iter().chain(self.env.iter().flat_map(|(k, v)| [k, v])) {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        for arg in &self.argv {
            // The daemon's own binary may stand behind a wrapper such as nsenter.
            if arg.starts_with('/') && Path::new(arg).is_file() {
                let meta = fs::metadata(arg)?;
                hash.update(format!("{:?}{}", meta.modified().ok(), meta.len()));
            }
        }
        for input in &self.inputs {
            hash.update(fs::read(input).with_context(|| format!("cannot read {}", input.display()))?);
        }
        Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
    }
}

/// The last lines a process logged.
pub fn last_log_lines(layout: &Layout, name: &str) -> String {
    let text = fs::read(log_file(layout, name)).unwrap_or_default();
    let start = text.len().saturating_sub(8192);
    command::tail(&String::from_utf8_lossy(&text[start..]), 15)
}

/// The log file of a process.
pub fn log_file(layout: &Layout, name: &str) -> PathBuf {
    layout.logs().join(format!("{name}.log"))
}

/// All processes with a pid file, running ones only.
pub fn running(layout: &Layout) -> Vec<Running> {
    let mut out: Vec<Running> = names(layout)
        .into_iter()
        .filter_map(|name| {
            let record = live(layout, &name)?;
            let log = log_file(layout, &name);
            Some(Running { pid: record.pid, rss: rss(record.pid), address: record.address, log, name })
        })
        .collect();
    out.sort_by(|a, b| a.name.cmp(&b.name));
    out
}

/// Names of all processes ever started here.
pub fn names(layout: &Layout) -> Vec<String> {
    let entries = fs::read_dir(layout.pids()).into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|e| Some(e.path().file_stem()?.to_str()?.to_owned())).collect()
}

/// Stops a process: SIGTERM, then SIGKILL when `grace` is over. Fine if it is gone.
pub fn stop(layout: &Layout, name: &str, grace: Duration) -> Result<()> {
    if let Some(record) = live(layout, name) {
        let pid = Pid::from_raw(record.pid);
        signal(pid, Signal::SIGTERM)?;
        if !gone_within(layout, name, grace) {
            screen::detail(&format!("{name} did not end within {}s: killing it", grace.as_secs()));
            signal(pid, Signal::SIGKILL)?;
            gone_within(layout, name, Duration::from_secs(5));
        }
    }
    match fs::remove_file(pid_file(layout, name)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}

fn signal(pid: Pid, signal: Signal) -> Result<()> {
    match kill(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(e) => Err(e).with_context(|| format!("cannot signal process {pid}")),
    }
}

fn gone_within(layout: &Layout, name: &str, grace: Duration) -> bool {
    let start = Instant::now();
    while live(layout, name).is_some() {
        if start.elapsed() > grace {
            return false;
        }
        screen::pause(Duration::from_millis(20));
    }
    true
}

fn pid_file(layout: &Layout, name: &str) -> PathBuf {
    layout.pids().join(format!("{name}.pid"))
}

fn live(layout: &Layout, name: &str) -> Option<Record> {
    let record: Record = serde_json::from_reader(File::open(pid_file(layout, name)).ok()?).ok()?;
    (start_time(record.pid) == Some(record.started)).then_some(record)
}

/// Start time of a process that is not a zombie, in clock ticks since boot (proc(5), field 22).
fn start_time(pid: i32) -> Option<u64> {
    // A child of ours that ended stays a zombie until reaped; for the children of others this fails.
    if waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)).is_ok_and(|s| s != WaitStatus::StillAlive) {
        return None;
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = &stat[stat.rfind(')')? + 2..];
    let mut fields = after_name.split(' ');
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

fn rss(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .and_then(|v| v.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
