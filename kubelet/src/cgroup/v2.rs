//! cgroup v2: the unified hierarchy.

use std::path::Path;

use super::{CgroupError, Setting};
use crate::pod::resources::CgroupLimits;

/// The controllers pods are given.
const WANTED: [&str; 6] = ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"];

/// Ends the names of files that limit huge pages.
pub const HUGE_PAGES_END: &str = ".max";

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
        one("memory.min", limits.memory_min.map(|m| m.to_string())),
        one("memory.low", limits.memory_low.map(|m| m.to_string())),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What these files say; `max` is no limit.
pub fn limits(read: &dyn Fn(&str) -> Option<String>) -> CgroupLimits {
    // What is no number (`max`) is no limit.
    let parse = |text: &str| text.parse::<i64>().ok();
    let number = |file| parse(read(file)?.trim());
    let max = read("cpu.max").unwrap_or_default();
    let mut parts = max.split_whitespace().map(parse);
    CgroupLimits {
        cpu_shares: number("cpu.weight").map(shares),
        cpu_quota: parts.next().flatten(),
        cpu_period: parts.next().flatten(),
        memory_limit: number("memory.max"),
        pids_limit: number("pids.max"),
        ..CgroupLimits::default()
    }
}

/// A weight as shares. Many shares have the same weight; these are the fewest, or one less.
pub(super) fn shares(weight: i64) -> i64 {
    2 + ((weight.clamp(1, 10_000) - 1) * 262_142) / 9999
}

/// Lets a cgroup's children have the controllers it has itself.
///
/// # Errors
/// When the kernel refuses.
pub fn delegate(folder: &Path) -> Result<(), CgroupError> {
    let from = folder.join("cgroup.controllers");
    let available =
        std::fs::read_to_string(&from).map_err(|source| CgroupError::File { path: from, source })?;
    let file = folder.join("cgroup.subtree_control");
    for controller in available.split_whitespace().filter(|c| WANTED.contains(c)) {
        std::fs::write(&file, format!("+{controller}"))
            .map_err(|source| CgroupError::File { path: file.clone(), source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_read_back() {
        let read = |file: &str| {
            let pairs = [("cpu.weight", "39"), ("cpu.max", "50000 100000"), ("memory.max", "max")];
            pairs.iter().find(|(name, _)| *name == file).map(|(_, text)| format!("{text}\n"))
        };
        let limits = limits(&read);
        assert_eq!((limits.cpu_quota, limits.cpu_period), (Some(50_000), Some(100_000)));
        assert_eq!((limits.memory_limit, limits.pids_limit), (None, None));
    }

    #[test]
    fn weights_span_the_range() {
        assert_eq!(weight(2), 1);
        assert_eq!(weight(1024), 39);
        assert_eq!(weight(262_144), 10_000);
        assert_eq!([1, 20, 39, 100, 10_000].map(shares), [2, 500, 998, 2597, 262_144]);
    }
}
