//! What the processes of a cgroup use, in one shape for both versions.

use std::path::Path;

use super::{Cgroups, Version};

/// What a cgroup with all below it uses. A figure that the kernel does not give is zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Nanoseconds of cpu time since the cgroup was made.
    pub cpu: u64,
    /// Bytes of memory, caches included.
    pub memory: u64,
    /// Bytes of memory that cannot simply be dropped.
    pub working_set: u64,
    /// Bytes of memory that no file stands behind.
    pub rss: u64,
    /// Page faults.
    pub faults: u64,
    /// Page faults that had to read.
    pub major_faults: u64,
    /// Processes and threads.
    pub tasks: u64,
}

impl Cgroups {
    /// What the cgroup uses; `None` when it does not exist.
    #[must_use]
    pub fn usage(&self, path: &str) -> Option<Usage> {
        let read = |controller: &str, file: &str| {
            std::fs::read_to_string(self.stats_folder(controller, path).join(file)).ok()
        };
        if !self.stats_folder("memory", path).is_dir() {
            return None;
        }
        Some(match self.version() {
            Version::V1 => of_v1(&read),
            Version::V2 => of_v2(&|file| read("", file)),
        })
    }

    /// Some process that runs in the cgroup or below it.
    #[must_use]
    pub fn some_process(&self, path: &str) -> Option<u32> {
        first_process(&self.stats_folder("memory", path))
    }
}

fn first_process(folder: &Path) -> Option<u32> {
    // A cgroup that has gone has no process.
    let own = std::fs::read_to_string(folder.join("cgroup.procs")).ok()?;
    if let Some(id) = own.lines().find_map(|line| line.trim().parse().ok()) {
        return Some(id);
    }
    let entries = std::fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let mut folders = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    folders.find_map(|entry| first_process(&entry.path()))
}

fn number(text: Option<String>) -> u64 {
    text.and_then(|t| t.trim().parse().ok()).unwrap_or(0)
}

/// The value of a line `key value`.
pub(crate) fn line(text: &str, key: &str) -> u64 {
    let mut lines = text.lines().filter_map(|l| l.split_once(' '));
    lines.find(|(name, _)| *name == key).and_then(|(_, v)| v.trim().parse().ok()).unwrap_or(0)
}

fn of_v1(read: &dyn Fn(&str, &str) -> Option<String>) -> Usage {
    let stat = read("memory", "memory.stat").unwrap_or_default();
    let memory = number(read("memory", "memory.usage_in_bytes"));
    Usage {
        cpu: number(read("cpuacct", "cpuacct.usage")),
        memory,
        working_set: memory.saturating_sub(line(&stat, "total_inactive_file")),
        rss: line(&stat, "total_rss"),
        faults: line(&stat, "total_pgfault"),
        major_faults: line(&stat, "total_pgmajfault"),
        tasks: number(read("pids", "pids.current")),
    }
}

fn of_v2(read: &dyn Fn(&str) -> Option<String>) -> Usage {
    let stat = read("memory.stat").unwrap_or_default();
    let memory = number(read("memory.current"));
    Usage {
        cpu: line(&read("cpu.stat").unwrap_or_default(), "usage_usec").saturating_mul(1000),
        memory,
        working_set: memory.saturating_sub(line(&stat, "inactive_file")),
        rss: line(&stat, "anon"),
        faults: line(&stat, "pgfault"),
        major_faults: line(&stat, "pgmajfault"),
        tasks: number(read("pids.current")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_give_the_same_figures() {
        let wanted = Usage {
            cpu: 5_000_000,
            memory: 100,
            working_set: 60,
            rss: 50,
            faults: 7,
            major_faults: 1,
            tasks: 3,
        };
        let v1 = |controller: &str, file: &str| {
            let text = match (controller, file) {
                ("cpuacct", "cpuacct.usage") => "5000000\n",
                ("memory", "memory.usage_in_bytes") => "100\n",
                ("memory", "memory.stat") => {
                    "rss 1\ntotal_rss 50\ntotal_inactive_file 40\ntotal_pgfault 7\ntotal_pgmajfault 1\n"
                }
                ("pids", "pids.current") => "3\n",
                _ => return None,
            };
            Some(text.to_owned())
        };
        assert_eq!(of_v1(&v1), wanted);
        let v2 = |file: &str| {
            let text = match file {
                "cpu.stat" => "usage_usec 5000\nuser_usec 1\n",
                "memory.current" => "100\n",
                "memory.stat" => "anon 50\ninactive_file 40\npgfault 7\npgmajfault 1\n",
                "pids.current" => "3\n",
                _ => return None,
            };
            Some(text.to_owned())
        };
        assert_eq!(of_v2(&v2), wanted);
        assert_eq!(of_v2(&|_| None), Usage::default());
    }

    #[test]
    fn a_process_is_found_at_any_depth() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("a");
        std::fs::create_dir(&below).unwrap();
        std::fs::write(dir.path().join("cgroup.procs"), "").unwrap();
        std::fs::write(below.join("cgroup.procs"), "42\n43\n").unwrap();
        assert_eq!(first_process(dir.path()), Some(42));
        assert_eq!(first_process(&dir.path().join("none")), None);
    }
}
