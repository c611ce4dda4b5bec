//! Facts of the machine, from /proc and /sys.

use std::{fs, io, path::Path};

use crate::cpus::set::CpuSet;

/// What does not change while the machine runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// Processors online.
    pub cpus: i64,
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of swap.
    pub swap: i64,
    /// Most process ids.
    pub pids: i64,
    /// Huge pages: their size and how many bytes of them there are.
    pub huge_pages: Vec<(i64, i64)>,
    /// Id from /etc/machine-id.
    pub machine_id: String,
    /// Id of the hardware.
    pub system_uuid: String,
    /// Id of this boot.
    pub boot_id: String,
    /// Kernel release.
    pub kernel: String,
    /// Name and version of the operating system.
    pub os_image: String,
}

/// Reads the facts; `root` is `/` but in tests.
///
/// # Errors
/// When /proc cannot be read.
pub fn read(root: &Path) -> io::Result<Machine> {
    let meminfo = fs::read_to_string(root.join("proc/meminfo"))?;
    let text = |path: &str| {
        // Not every machine has every id; a missing one stays empty.
        fs::read_to_string(root.join(path)).unwrap_or_default().trim().to_owned()
    };
    // All that are there, however few of them the kubelet itself may use; where /sys does not tell, those.
    let online = text("sys/devices/system/cpu/online").parse::<CpuSet>().map_or(0, |set| set.len());
    let cpus = if online > 0 { online } else { std::thread::available_parallelism().map_or(1, usize::from) };
    Ok(Machine {
        cpus: i64::try_from(cpus).unwrap_or(1),
        memory: kilobytes(&meminfo, "MemTotal:").unwrap_or(0) * 1024,
        swap: kilobytes(&meminfo, "SwapTotal:").unwrap_or(0) * 1024,
        pids: most_tasks(root).unwrap_or(i64::MAX),
        huge_pages: huge_pages(&root.join("sys/kernel/mm/hugepages")),
        machine_id: text("etc/machine-id"),
        system_uuid: text("sys/class/dmi/id/product_uuid"),
        boot_id: text("proc/sys/kernel/random/boot_id"),
        kernel: text("proc/sys/kernel/osrelease"),
        os_image: os_image(&text("etc/os-release")),
    })
}

/// How many processes and threads there can be: as many as have numbers and as the kernel has room for. `root` is `/` but in
/// tests.
#[must_use]
pub fn most_tasks(root: &Path) -> Option<i64> {
    let files = ["pid_max", "threads-max"].map(|file| root.join("proc/sys/kernel").join(file));
    files.iter().filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok()).min()
}

/// The sizes of huge pages that the kernel has set aside, with all their bytes; folders are named `hugepages-2048kB`.
fn huge_pages(folder: &Path) -> Vec<(i64, i64)> {
    // A kernel without huge pages has no such folder.
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let one = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let size =
            name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<i64>().ok()?.checked_mul(1024)?;
        let count = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?.trim().parse::<i64>().ok()?;
        Some((size, size.saturating_mul(count)))
    };
    let mut all: Vec<(i64, i64)> = entries.filter_map(one).collect();
    all.sort_unstable();
    all
}

/// A line of /proc/meminfo, in kB.
#[must_use]
pub fn kilobytes(meminfo: &str, key: &str) -> Option<i64> {
    meminfo.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace().next()?.parse().ok()
}

fn os_image(text: &str) -> String {
    let line = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    line.unwrap_or("Linux").trim_matches('"').to_owned()
}

/// How full a file system is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FsUsage {
    /// Bytes in all.
    pub capacity: i64,
    /// Bytes free for users.
    pub available: i64,
    /// Inodes in all.
    pub inodes: i64,
    /// Inodes free.
    pub inodes_free: i64,
}

/// Looks at the file system that holds `path`.
///
/// # Errors
/// When the path does not exist.
pub fn fs_usage(path: &Path) -> io::Result<FsUsage> {
    let stat = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(stat.f_frsize)).unwrap_or(i64::MAX);
    Ok(FsUsage {
        capacity: bytes(stat.f_blocks),
        available: bytes(stat.f_bavail),
        inodes: i64::try_from(stat.f_files).unwrap_or(i64::MAX),
        inodes_free: i64::try_from(stat.f_ffree).unwrap_or(i64::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_from_the_root() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("proc")).unwrap();
        fs::create_dir_all(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("proc/meminfo"), "MemTotal:  2048 kB\nSwapTotal: 0 kB\n").unwrap();
        fs::write(dir.path().join("etc/os-release"), "ID=x\nPRETTY_NAME=\"An OS\"\n").unwrap();
        let pages = dir.path().join("sys/kernel/mm/hugepages/hugepages-2048kB");
        fs::create_dir_all(&pages).unwrap();
        fs::write(pages.join("nr_hugepages"), "3\n").unwrap();
        assert!(read(dir.path()).unwrap().cpus > 0);
        fs::create_dir_all(dir.path().join("sys/devices/system/cpu")).unwrap();
        fs::write(dir.path().join("sys/devices/system/cpu/online"), "0-3,8-11\n").unwrap();
        let machine = read(dir.path()).unwrap();
        assert_eq!(machine.cpus, 8);
        assert_eq!(machine.huge_pages, [(2 << 20, 6 << 20)]);
        assert_eq!((machine.memory, machine.os_image.as_str()), (2048 * 1024, "An OS"));
        assert!(read(&dir.path().join("none")).is_err());
        assert_eq!((most_tasks(dir.path()), machine.pids), (None, i64::MAX));
        fs::create_dir_all(dir.path().join("proc/sys/kernel")).unwrap();
        fs::write(dir.path().join("proc/sys/kernel/pid_max"), "4194304\n").unwrap();
        assert_eq!(most_tasks(dir.path()), Some(4_194_304));
        fs::write(dir.path().join("proc/sys/kernel/threads-max"), "31000\n").unwrap();
        assert_eq!(read(dir.path()).unwrap().pids, 31_000);
    }
}
