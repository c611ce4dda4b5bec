//! The cgroups of the kubelet itself and of the system's processes: looked after every minute.
//!
//! Contract: `kubeletCgroups` and `systemCgroups` of KubeletConfiguration. The cgroups are made where they are missing. Of the
//! processes in the root cgroup all are moved but the first one and the kernel's.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use component_base::task::Tasks;
use nix::errno::Errno;

use super::{CgroupError, Cgroups, Version};

const PERIOD: Duration = Duration::from_secs(60);
const PROCESSES: &str = "cgroup.procs";
/// Rounds until all processes are where they belong: some begin while others are moved.
const ROUNDS: usize = 10;

/// Who belongs where.
#[derive(Debug)]
pub struct System {
    cgroups: Cgroups,
    proc: PathBuf,
    kubelet: Option<String>,
    system: Option<String>,
}

impl System {
    /// Empty names are for nobody; nothing where both are empty.
    #[must_use]
    pub fn new(mount: &Path, proc: &Path, kubelet: &str, system: &str) -> Option<Self> {
        let cgroups = Cgroups::new(mount, "/", None);
        let named = |name: &str| (!name.is_empty()).then(|| cgroups.named(name));
        let (kubelet, system) = (named(kubelet), named(system));
        let any = kubelet.is_some() || system.is_some();
        any.then(|| Self { cgroups, proc: proc.to_owned(), kubelet, system })
    }

    /// Looks after it until the drain.
    pub fn run(self, tasks: &Tasks) {
        let mut ticks = tasks.ticks(PERIOD);
        tasks.spawn("system-cgroups", async move {
            while ticks.next().await {
                if let Err(error) = self.ensure(std::process::id()) {
                    tracing::warn!(%error, "failed to ensure state of system cgroups");
                }
            }
        });
    }

    /// Brings everybody to his place; `own` is the kubelet's process.
    fn ensure(&self, own: u32) -> Result<(), CgroupError> {
        if let Some(system) = &self.system {
            self.cgroups.make_folders(system)?;
            self.empty_root(system)?;
        }
        if let Some(kubelet) = &self.kubelet {
            self.cgroups.make_folders(kubelet)?;
            if self.is_at(own).as_ref() != Some(kubelet) {
                self.cgroups.take_in(kubelet, own)?;
            }
        }
        Ok(())
    }

    fn empty_root(&self, to: &str) -> Result<(), CgroupError> {
        for _ in 0..ROUNDS {
            let path = self.cgroups.stats_folder("cpu", "/").join(PROCESSES);
            let text = fs::read_to_string(&path).map_err(|source| CgroupError::File { path, source })?;
            let all = text.lines().filter_map(|line| line.trim().parse::<u32>().ok());
            let strays: Vec<u32> = all.filter(|id| *id > 1 && !self.is_of_kernel(*id)).collect();
            if strays.is_empty() {
                break;
            }
            for id in strays {
                self.cgroups.take_in(to, id)?;
            }
        }
        Ok(())
    }

    /// Processes of the kernel have no program.
    fn is_of_kernel(&self, id: u32) -> bool {
        let program = fs::read_link(self.proc.join(id.to_string()).join("exe"));
        program.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// The cgroup of a process, by the controllers that are counted by.
    fn is_at(&self, id: u32) -> Option<String> {
        // A process that has ended is nowhere.
        let text = fs::read_to_string(self.proc.join(id.to_string()).join("cgroup")).ok()?;
        own(&text, self.cgroups.version()).map(str::to_owned)
    }
}

/// The path in the content of `/proc/<pid>/cgroup`.
fn own(text: &str, version: Version) -> Option<&str> {
    text.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let is_it = match version {
            Version::V1 => controllers.split(',').any(|one| one == "memory"),
            Version::V2 => controllers.is_empty(),
        };
        is_it.then_some(path)
    })
}

impl Cgroups {
    /// Moves a process; one that has ended in the meantime needs no place.
    fn take_in(&self, path: &str, id: u32) -> Result<(), CgroupError> {
        for controller in self.controllers() {
            let file = self.folder(controller, path).join(PROCESSES);
            if !self.mount.join(controller).exists() {
                continue;
            }
            match fs::write(&file, id.to_string()) {
                Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => {}
                Err(source) => return Err(CgroupError::File { path: file, source }),
                Ok(()) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_that_of_the_memory_controller() {
        let v1 = "5:cpu,cpuacct:/a\n4:memory:/b:c\n1:name=systemd:/d\n0::/e\n";
        assert_eq!((own(v1, Version::V1), own(v1, Version::V2)), (Some("/b:c"), Some("/e")));
        assert_eq!(own("", Version::V1), None);
    }

    #[test]
    fn the_kubelet_and_the_systems_processes_are_moved() {
        let dir = tempfile::tempdir().unwrap();
        let (mount, proc) = (dir.path().join("cgroup"), dir.path().join("proc"));
        for controller in ["cpu", "memory"] {
            fs::create_dir_all(mount.join(controller)).unwrap();
        }
        // The first process, one of the kernel, and one that ended since.
        fs::write(mount.join("cpu").join(PROCESSES), "1\n2\n").unwrap();
        for (id, program) in [(1, true), (2, false), (7, true)] {
            let folder = proc.join(id.to_string());
            fs::create_dir_all(&folder).unwrap();
            if program {
                std::os::unix::fs::symlink("/bin/true", folder.join("exe")).unwrap();
            }
            fs::write(folder.join("cgroup"), "4:memory:/\n").unwrap();
        }
        assert!(System::new(&mount, &proc, "", "").is_none());
        let system = System::new(&mount, &proc, "/kubelet", "/system").unwrap();
        system.ensure(7).unwrap();
        let read = |path: &str| fs::read_to_string(mount.join(path).join(PROCESSES)).ok();
        assert_eq!(
            (read("cpu/kubelet").as_deref(), read("memory/kubelet").as_deref()),
            (Some("7"), Some("7"))
        );
        assert!(mount.join("cpu/system").is_dir() && read("cpu/system").is_none(), "nobody had to move");
        fs::write(mount.join("cpu").join(PROCESSES), "7\n").unwrap();
        system.ensure(7).unwrap();
        assert_eq!(read("memory/system").as_deref(), Some("7"));
        fs::remove_file(mount.join("cpu/kubelet").join(PROCESSES)).unwrap();
        fs::write(mount.join("cpu").join(PROCESSES), "").unwrap();
        fs::write(proc.join("7/cgroup"), "4:memory:/kubelet\n").unwrap();
        system.ensure(7).unwrap();
        assert_eq!(read("cpu/kubelet"), None, "who is there stays there");
    }
}
