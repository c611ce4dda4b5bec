//! What a process has used: processor time and memory, read from /proc.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

/// Processor time of a process and of those it has started and that live now, and theirs.
pub(super) fn cpu_with_children(pid: i32) -> Result<Duration> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let mut total = cpu(pid)?;
    for child in children.split_whitespace() {
        total += cpu_with_children(child.parse()?)?;
    }
    Ok(total)
}

/// Processor time of a process, its own and the kernel's for it.
pub(super) fn cpu(pid: i32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything.
    let rest = stat.rsplit_once(')').context("no name in stat")?.1;
    let ticks = |field: usize| -> Result<u64> {
        Ok(rest.split_whitespace().nth(field).context("a short stat")?.parse()?)
    };
    // utime and stime are the fields 14 and 15 of proc_pid_stat(5); the name is the second.
    let used = ticks(11)? + ticks(12)?;
    let a_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock")?;
    Ok(Duration::from_secs_f64(used as f64 / a_second as f64))
}

/// Resident memory of a process, in bytes.
pub(super) fn memory(pid: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes * 1024)
}
