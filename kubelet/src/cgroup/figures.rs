//! Everything the kernel tells of a cgroup, in one shape for both versions: what `/metrics/cadvisor` shows, and pressure.
//!
//! Contract: cgroup v1 and v2 of the kernel's documentation; what is taken from which file is cAdvisor's choice.

use std::path::{Path, PathBuf};

use super::{Cgroups, Version, usage::line};

/// From so many bytes on a limit is none: the kernel writes the largest number of pages it knows.
const NO_LIMIT: u64 = 1 << 62;

/// What the kernel tells. Counters that it does not have are zero; times are nanoseconds, amounts bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    /// Cpu time: all of it, of the programs, of the kernel for them.
    pub cpu: [u64; 3],
    /// Periods of the quota, those in which it was used up, and for how long; the same of bursts beyond it.
    pub periods: u64,
    /// Periods in which somebody had to wait.
    pub throttled: u64,
    /// For how long.
    pub throttled_time: u64,
    /// Periods with a burst.
    pub bursts: u64,
    /// How much in bursts.
    pub burst_time: u64,
    /// Memory.
    pub memory: Memory,
    /// Times that somebody was killed for want of memory.
    pub oom_kills: u64,
    /// Threads there are, and may be; zero is no limit.
    pub threads: [u64; 2],
    /// By device.
    pub io: Vec<Io>,
    /// Of cpu, memory and input and output; where the kernel measures it.
    pub pressure: [Option<Pressure>; 3],
    /// What it may have.
    pub limits: Limits,
}

/// Memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub usage: u64,
    /// The most there ever was.
    pub most: u64,
    /// What cannot simply be dropped.
    pub working_set: u64,
    /// Pages of files.
    pub cache: u64,
    /// Pages no file stands behind.
    pub rss: u64,
    /// Of the kernel.
    pub kernel: u64,
    /// Files that are mapped.
    pub mapped: u64,
    /// Swapped out.
    pub swap: u64,
    /// Pages of files that are in use, and those that are not.
    pub active_file: u64,
    /// See above.
    pub inactive_file: u64,
    /// Times that the limit was hit.
    pub failures: u64,
    /// Page faults.
    pub faults: u64,
    /// Page faults that had to read.
    pub major_faults: u64,
}

/// What went to and from one device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Io {
    /// Its numbers, `8:0`.
    pub device: String,
    /// Bytes read, and how often.
    pub read: [u64; 2],
    /// Bytes written, and how often.
    pub written: [u64; 2],
}

/// For how long something was short: for some of the processes, and for all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// Some.
    pub some: Stall,
    /// All.
    pub full: Stall,
}

/// For how long processes waited.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    /// Microseconds.
    pub total: u64,
    /// Percent of the last 10, 60 and 300 seconds.
    pub average: [f64; 3],
}

/// What a cgroup may have; zero is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Weight of cpu time, as shares.
    pub shares: u64,
    /// Microseconds in which the quota counts.
    pub period: u64,
    /// Microseconds of cpu time in each.
    pub quota: u64,
    /// Memory.
    pub memory: u64,
    /// Memory that is kept.
    pub reservation: u64,
    /// Swap; with the memory, in version 1.
    pub swap: u64,
}

impl Cgroups {
    /// What the kernel tells of the cgroup; `None` when it does not exist.
    #[must_use]
    pub fn figures(&self, path: &str) -> Option<Figures> {
        let folder = |controller: &str| self.stats_folder(controller, path);
        folder("memory").is_dir().then(|| read(self.version(), &folder))
    }

    /// What the kernel tells of pressure on the cgroup. Version 1 does not know.
    #[must_use]
    pub fn pressure(&self, path: &str) -> [Option<Pressure>; 3] {
        match self.version() {
            Version::V1 => [None; 3],
            Version::V2 => pressure_in(&self.stats_folder("", path), ".pressure"),
        }
    }

    /// All processes in the cgroup and below it.
    #[must_use]
    pub fn processes(&self, path: &str) -> Vec<u32> {
        let mut all = Vec::new();
        collect(&self.stats_folder("memory", path), &mut all);
        all
    }
}

/// What presses on the whole machine; `root` is `/` but in tests.
#[must_use]
pub fn pressure_of_node(root: &Path) -> [Option<Pressure>; 3] {
    pressure_in(&root.join("proc/pressure"), "")
}

fn pressure_in(folder: &Path, end: &str) -> [Option<Pressure>; 3] {
    ["cpu", "memory", "io"].map(|kind| {
        // A kernel without these files does not measure, and one that has them may have it switched off.
        pressure(&std::fs::read_to_string(folder.join(format!("{kind}{end}"))).ok()?)
    })
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same of `full`.
fn pressure(text: &str) -> Option<Pressure> {
    let stall = |kind: &str| {
        let fields = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
        let value =
            |name: &str| fields.split_whitespace().find_map(|f| f.strip_prefix(name)?.strip_prefix('='));
        let average = |name: &str| value(name)?.parse::<f64>().ok();
        Some(Stall {
            total: value("total")?.parse().ok()?,
            average: [average("avg10")?, average("avg60")?, average("avg300")?],
        })
    };
    // Older kernels do not tell of all processes and the cpu.
    Some(Pressure { some: stall("some")?, full: stall("full").unwrap_or_default() })
}

fn collect(folder: &Path, all: &mut Vec<u32>) {
    // What has gone meanwhile has no processes.
    let own = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    all.extend(own.lines().filter_map(|line| line.trim().parse::<u32>().ok()));
    for entry in std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), all);
        }
    }
}

fn read(version: Version, folder: &dyn Fn(&str) -> PathBuf) -> Figures {
    let read = |controller: &str, file: &str| {
        // Not every kernel has every file.
        std::fs::read_to_string(folder(controller).join(file)).unwrap_or_default()
    };
    match version {
        Version::V1 => of_v1(&read),
        Version::V2 => {
            Figures { pressure: pressure_in(&folder(""), ".pressure"), ..of_v2(&|file| read("", file)) }
        }
    }
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

/// A limit; none is zero.
fn limit(text: &str) -> u64 {
    Some(number(text)).filter(|bytes| *bytes < NO_LIMIT).unwrap_or(0)
}

fn of_v1(read: &dyn Fn(&str, &str) -> String) -> Figures {
    let (stat, cpu) = (read("memory", "memory.stat"), read("cpu", "cpu.stat"));
    let usage = number(&read("memory", "memory.usage_in_bytes"));
    let inactive_file = line(&stat, "total_inactive_file");
    let swap_with_memory = limit(&read("memory", "memory.memsw.limit_in_bytes"));
    Figures {
        cpu: ["cpuacct.usage", "cpuacct.usage_user", "cpuacct.usage_sys"]
            .map(|file| number(&read("cpuacct", file))),
        periods: line(&cpu, "nr_periods"),
        throttled: line(&cpu, "nr_throttled"),
        throttled_time: line(&cpu, "throttled_time"),
        bursts: line(&cpu, "nr_bursts"),
        burst_time: line(&cpu, "burst_time"),
        memory: Memory {
            usage,
            most: number(&read("memory", "memory.max_usage_in_bytes")),
            working_set: usage.saturating_sub(inactive_file),
            cache: line(&stat, "total_cache"),
            rss: line(&stat, "total_rss"),
            kernel: number(&read("memory", "memory.kmem.usage_in_bytes")),
            mapped: line(&stat, "total_mapped_file"),
            swap: line(&stat, "total_swap"),
            active_file: line(&stat, "total_active_file"),
            inactive_file,
            failures: number(&read("memory", "memory.failcnt")),
            faults: line(&stat, "total_pgfault"),
            major_faults: line(&stat, "total_pgmajfault"),
        },
        oom_kills: line(&read("memory", "memory.oom_control"), "oom_kill"),
        threads: [number(&read("pids", "pids.current")), number(&read("pids", "pids.max"))],
        io: io_v1(
            &read("blkio", "blkio.throttle.io_service_bytes_recursive"),
            &read("blkio", "blkio.throttle.io_serviced_recursive"),
        ),
        pressure: [None; 3],
        limits: Limits {
            shares: number(&read("cpu", "cpu.shares")),
            period: number(&read("cpu", "cpu.cfs_period_us")),
            // Less than nothing is no quota.
            quota: number(&read("cpu", "cpu.cfs_quota_us")),
            memory: limit(&read("memory", "memory.limit_in_bytes")),
            reservation: limit(&read("memory", "memory.soft_limit_in_bytes")),
            swap: swap_with_memory,
        },
    }
}

fn of_v2(read: &dyn Fn(&str) -> String) -> Figures {
    let (stat, cpu, events) = (read("memory.stat"), read("cpu.stat"), read("memory.events"));
    let usage = number(&read("memory.current"));
    let inactive_file = line(&stat, "inactive_file");
    let micros = |key: &str| line(&cpu, key).saturating_mul(1000);
    let max = read("cpu.max");
    let mut quota = max.split_whitespace();
    Figures {
        cpu: ["usage_usec", "user_usec", "system_usec"].map(micros),
        periods: line(&cpu, "nr_periods"),
        throttled: line(&cpu, "nr_throttled"),
        throttled_time: micros("throttled_usec"),
        bursts: line(&cpu, "nr_bursts"),
        burst_time: micros("burst_usec"),
        memory: Memory {
            usage,
            most: number(&read("memory.peak")),
            working_set: usage.saturating_sub(inactive_file),
            cache: line(&stat, "file"),
            rss: line(&stat, "anon"),
            kernel: line(&stat, "kernel"),
            mapped: line(&stat, "file_mapped"),
            swap: number(&read("memory.swap.current")),
            active_file: line(&stat, "active_file"),
            inactive_file,
            failures: line(&events, "max"),
            faults: line(&stat, "pgfault"),
            major_faults: line(&stat, "pgmajfault"),
        },
        oom_kills: line(&events, "oom_kill"),
        threads: [number(&read("pids.current")), number(&read("pids.max"))],
        io: io_v2(&read("io.stat")),
        pressure: [None; 3],
        limits: Limits {
            shares: match number(&read("cpu.weight")) {
                0 => 0,
                weight => u64::try_from(super::v2::shares(i64::try_from(weight).unwrap_or(1))).unwrap_or(0),
            },
            quota: quota.next().map_or(0, number),
            period: quota.next().map_or(0, number),
            memory: limit(&read("memory.max")),
            reservation: limit(&read("memory.min")),
            swap: limit(&read("memory.swap.max")),
        },
    }
}

/// Lines `8:0 Read 4096`, of bytes and of operations.
fn io_v1(bytes: &str, counts: &str) -> Vec<Io> {
    let mut all: Vec<Io> = Vec::new();
    for (i, text) in [bytes, counts].into_iter().enumerate() {
        for line in text.lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [device, operation, value] = fields.as_slice() else { continue };
            let at = all.iter().position(|io| io.device == *device).unwrap_or_else(|| {
                all.push(Io { device: (*device).to_owned(), ..Io::default() });
                all.len() - 1
            });
            match *operation {
                "Read" => all[at].read[i] = number(value),
                "Write" => all[at].written[i] = number(value),
                _ => {}
            }
        }
    }
    all
}

/// Lines `8:0 rbytes=4096 wbytes=0 rios=1 wios=0`.
fn io_v2(text: &str) -> Vec<Io> {
    let one = |line: &str| {
        let (device, fields) = line.split_once(' ')?;
        let value = |name: &str| {
            let mut fields = fields.split_whitespace().filter_map(|field| field.split_once('='));
            fields.find(|(key, _)| *key == name).map_or(0, |(_, value)| number(value))
        };
        Some(Io {
            device: device.to_owned(),
            read: [value("rbytes"), value("rios")],
            written: [value("wbytes"), value("wios")],
        })
    };
    text.lines().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    const V1: &[(&str, &str)] = &[
        ("cpuacct/cpuacct.usage", "9000\n"),
        ("cpuacct/cpuacct.usage_user", "5000\n"),
        ("cpuacct/cpuacct.usage_sys", "4000\n"),
        ("cpu/cpu.stat", "nr_periods 10\nnr_throttled 2\nthrottled_time 3000\n"),
        ("cpu/cpu.shares", "1024\n"),
        ("cpu/cpu.cfs_period_us", "100000\n"),
        ("cpu/cpu.cfs_quota_us", "50000\n"),
        (
            "memory/memory.stat",
            "cache 1\ntotal_cache 30\ntotal_rss 20\ntotal_mapped_file 7\ntotal_swap 6\ntotal_active_file 5\n\
             total_inactive_file 10\ntotal_pgfault 4\ntotal_pgmajfault 1\n",
        ),
        ("memory/memory.usage_in_bytes", "60\n"),
        ("memory/memory.max_usage_in_bytes", "90\n"),
        ("memory/memory.kmem.usage_in_bytes", "8\n"),
        ("memory/memory.failcnt", "3\n"),
        ("memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
        ("memory/memory.limit_in_bytes", "4096\n"),
        ("memory/memory.soft_limit_in_bytes", "9223372036854771712\n"),
        ("memory/memory.memsw.limit_in_bytes", "8192\n"),
        ("pids/pids.current", "5\n"),
        ("pids/pids.max", "max\n"),
        (
            "blkio/blkio.throttle.io_service_bytes_recursive",
            "8:0 Read 4096\n8:0 Write 512\n8:0 Total 4608\nTotal 4608\n",
        ),
        ("blkio/blkio.throttle.io_serviced_recursive", "8:0 Read 2\n8:0 Write 1\n"),
    ];

    const V2: &[(&str, &str)] = &[
        (
            "cpu.stat",
            "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_periods 10\nnr_throttled 2\nthrottled_usec 3\n",
        ),
        ("cpu.weight", "39\n"),
        ("cpu.max", "50000 100000\n"),
        (
            "memory.stat",
            "anon 20\nfile 30\nkernel 8\nfile_mapped 7\nactive_file 5\ninactive_file 10\npgfault 4\npgmajfault 1\n",
        ),
        ("memory.current", "60\n"),
        ("memory.peak", "90\n"),
        ("memory.swap.current", "6\n"),
        ("memory.events", "low 0\nhigh 0\nmax 3\noom 2\noom_kill 2\n"),
        ("memory.max", "4096\n"),
        ("memory.min", "0\n"),
        ("memory.swap.max", "8192\n"),
        ("pids.current", "5\n"),
        ("pids.max", "max\n"),
        ("io.stat", "8:0 rbytes=4096 wbytes=512 rios=2 wios=1 dbytes=0 dios=0\n"),
        ("cpu.pressure", "some avg10=1.50 avg60=0.50 avg300=0.10 total=77\n"),
        (
            "memory.pressure",
            "some avg10=0.00 avg60=0.00 avg300=0.00 total=7\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n",
        ),
    ];

    #[test]
    fn both_versions_give_the_same_figures() {
        let (v1, v2) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        files(v1.path(), V1);
        files(v2.path(), V2);
        let first = read(Version::V1, &|controller| v1.path().join(controller));
        let second = read(Version::V2, &|_| v2.path().to_owned());
        assert_eq!((first.cpu, first.throttled_time), ([9000, 5000, 4000], 3000));
        let memory = Memory {
            usage: 60,
            most: 90,
            working_set: 50,
            cache: 30,
            rss: 20,
            kernel: 8,
            mapped: 7,
            swap: 6,
            active_file: 5,
            inactive_file: 10,
            failures: 3,
            faults: 4,
            major_faults: 1,
        };
        assert_eq!((first.memory, first.oom_kills, first.threads), (memory, 2, [5, 0]));
        let limits = Limits { period: 100_000, quota: 50_000, memory: 4096, swap: 8192, ..first.limits };
        assert_eq!((first.limits, first.limits.reservation), (limits, 0));
        assert_eq!(first.io, [Io { device: "8:0".into(), read: [4096, 2], written: [512, 1] }]);
        assert_eq!(first.pressure, [None; 3]);
        // A weight is coarser than shares.
        assert!(second.limits.shares.abs_diff(1024) < 30, "{}", second.limits.shares);
        let limits = Limits { shares: first.limits.shares, ..second.limits };
        assert_eq!(Figures { pressure: [None; 3], limits, ..second.clone() }, first);
        let [cpu, memory, io] = second.pressure;
        let cpu = cpu.unwrap();
        assert_eq!((cpu.some, cpu.full), (Stall { total: 77, average: [1.5, 0.5, 0.1] }, Stall::default()));
        assert_eq!((memory.unwrap().full.total, io), (5, None));
    }

    #[test]
    fn what_the_kernel_does_not_tell_is_nothing() {
        let none = tempfile::tempdir().unwrap();
        for version in [Version::V1, Version::V2] {
            assert_eq!(read(version, &|controller| none.path().join(controller)), Figures::default());
        }
        for bad in
            ["", "some", "some avg10=x avg60=0 avg300=0 total=1", "full avg10=0 avg60=0 avg300=0 total=1"]
        {
            assert_eq!(pressure(bad), None, "{bad}");
        }
        assert_eq!(number("-1"), 0, "no quota");
    }

    #[test]
    fn processes_are_those_of_all_cgroups_below() {
        let dir = tempfile::tempdir().unwrap();
        files(
            dir.path(),
            &[("cgroup.procs", "1\n"), ("a/cgroup.procs", "2\n3\n"), ("a/b/cgroup.procs", "4\n")],
        );
        let mut all = Vec::new();
        collect(dir.path(), &mut all);
        assert_eq!(all, [1, 2, 3, 4]);
    }
}
