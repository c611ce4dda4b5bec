//! cgroup v1: one hierarchy per controller.

use std::path::Path;

use super::{CgroupError, Setting};
use crate::pod::resources::CgroupLimits;

/// The hierarchies the kubelet makes its cgroups in; one that is not mounted is skipped.
pub const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "memory", "pids", "hugetlb"];

/// Ends the names of files that limit huge pages.
pub const HUGE_PAGES_END: &str = ".limit_in_bytes";

/// What to write for these limits.
#[must_use]
pub fn settings(limits: &CgroupLimits) -> Vec<Setting> {
    let one = |controller, file, value: Option<i64>| {
        value.map(|value| Setting { controller, file, value: value.to_string() })
    };
    [
        one("cpu", "cpu.shares", limits.cpu_shares),
        one("cpu", "cpu.cfs_period_us", limits.cpu_period.filter(|_| limits.cpu_quota.is_some())),
        one("cpu", "cpu.cfs_quota_us", limits.cpu_quota),
        one("memory", "memory.limit_in_bytes", limits.memory_limit),
        one("pids", "pids.max", limits.pids_limit),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What these files say; the kernel writes "no limit" as a number larger than any machine.
pub fn limits(read: &dyn Fn(&str, &str) -> Option<String>) -> CgroupLimits {
    // What is no number is no limit.
    let number = |controller, file| read(controller, file)?.trim().parse::<i64>().ok();
    CgroupLimits {
        cpu_shares: number("cpu", "cpu.shares"),
        cpu_quota: number("cpu", "cpu.cfs_quota_us").filter(|q| *q > 0),
        cpu_period: number("cpu", "cpu.cfs_period_us"),
        memory_limit: number("memory", "memory.limit_in_bytes").filter(|m| *m < i64::MAX / 4096 * 4096),
        pids_limit: number("pids", "pids.max"),
        ..CgroupLimits::default()
    }
}

/// A new cpuset is empty and takes no process until it is given its parent's cpus and memory nodes.
///
/// # Errors
/// When the kernel refuses.
pub fn inherit_cpuset(parent: &Path, folder: &Path) -> Result<(), CgroupError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let from = parent.join(file);
        let value =
            std::fs::read_to_string(&from).map_err(|source| CgroupError::File { path: from, source })?;
        if value.trim().is_empty() {
            continue;
        }
        let to = folder.join(file);
        std::fs::write(&to, value.trim()).map_err(|source| CgroupError::File { path: to, source })?;
    }
    Ok(())
}
