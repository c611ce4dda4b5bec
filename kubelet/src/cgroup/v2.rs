//! cgroup v2: the unified hierarchy.

use std::path::Path;

use super::{CgroupError, Setting};
use crate::pod::resources::CgroupLimits;

/// The controllers pods are given.
const WANTED: [&str; 6] = ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"];

/// Shares (2..=262144) as a weight (1..=10000), the way container runtimes convert them.
#[must_use]
pub fn weight(shares: i64) -> i64 {
    1 + ((shares.clamp(2, 262_144) - 2) * 9999) / 262_142
}

/// What to write for these limits.
#[must_use]
pub fn settings(limits: &CgroupLimits) -> Vec<Setting> {
    let period = limits.cpu_period.unwrap_or(100_000);
    let one = |file, value: Option<String>| value.map(|value| Setting { controller: "", file, value });
    [
        one("cpu.weight", limits.cpu_shares.map(|s| weight(s).to_string())),
        one(
            "cpu.max",
            limits.cpu_quota.map(|q| if q < 0 { format!("max {period}") } else { format!("{q} {period}") }),
        ),
        one("memory.max", limits.memory_limit.map(|m| m.to_string())),
        one("pids.max", limits.pids_limit.map(|p| p.to_string())),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Lets a cgroup's children have the controllers it has itself.
///
/// # Errors
/// When the kernel refuses.
pub fn delegate(folder: &Path) -> Result<(), CgroupError> {
    let from = folder.join("cgroup.controllers");
    let available = std::fs::read_to_string(&from).map_err(|source| CgroupError { path: from, source })?;
    let file = folder.join("cgroup.subtree_control");
    for controller in available.split_whitespace().filter(|c| WANTED.contains(c)) {
        std::fs::write(&file, format!("+{controller}"))
            .map_err(|source| CgroupError { path: file.clone(), source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_span_the_range() {
        assert_eq!(weight(2), 1);
        assert_eq!(weight(1024), 39);
        assert_eq!(weight(262_144), 10_000);
    }
}
