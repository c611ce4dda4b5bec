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

/// What of a cgroup is swapped out, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swap {
    /// It is.
    pub used: u64,
    /// It may be besides, where that is limited.
    pub left: Option<u64>,
}

impl Cgroups {
    /// What of the cgroup is swapped out; `None` where the kernel does not count that.
    #[must_use]
    pub fn swap(&self, path: &str) -> Option<Swap> {
        let folder = self.stats_folder("memory", path);
        swap(self.version(), &|file| std::fs::read_to_string(folder.join(file)).ok())
    }

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

/// From so many bytes on a limit is none: the kernel writes the largest number of pages it knows, or `max`.
const NO_LIMIT: u64 = 1 << 62;

/// The first version's limit is that of memory and swap together, and counts as the one of swap; without one nothing is left.
fn swap(version: Version, read: &dyn Fn(&str) -> Option<String>) -> Option<Swap> {
    let (used, most) = match version {
        Version::V1 => {
            let most = read("memory.memsw.limit_in_bytes").map_or(Some(0), |text| text.trim().parse().ok());
            (line(&read("memory.stat")?, "total_swap"), most)
        }
        Version::V2 => {
            let most = read("memory.swap.max").and_then(|text| text.trim().parse().ok());
            (read("memory.swap.current")?.trim().parse().ok()?, most)
        }
    };
    let most: Option<u64> = most.filter(|most| *most < NO_LIMIT);
    Some(Swap { used, left: most.map(|most| most.saturating_sub(used)) })
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
    fn swap_may_be_limited_unlimited_or_not_counted() {
        let told = |version, files: [(&str, &str); 2]| {
            swap(version, &|file| files.iter().find(|(name, _)| *name == file).map(|f| format!("{}\n", f.1)))
        };
        let second =
            |max| told(Version::V2, [("memory.swap.current", "30"), ("memory.swap.max", max)]).unwrap();
        assert_eq!(second("max"), Swap { used: 30, left: None });
        assert_eq!(second("100"), Swap { used: 30, left: Some(70) });
        assert_eq!(second("0"), Swap { used: 30, left: Some(0) }, "swapped out before the limit was set");
        let stat = ("memory.stat", "swap 1\ntotal_swap 30");
        let first = |file, limit| told(Version::V1, [stat, (file, limit)]).unwrap().left;
        assert_eq!(first("memory.memsw.limit_in_bytes", "100"), Some(70));
        assert_eq!(first("memory.memsw.limit_in_bytes", "9223372036854771712"), None);
        assert_eq!(first("other", ""), Some(0));
        for version in [Version::V1, Version::V2] {
            assert_eq!(swap(version, &|_| None), None);
        }
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
