//! What the kubelet sets for itself and in the kernel when it starts: how much it is worth when memory runs out, how many
//! files it may open, what the kernel does when it fails; and the file that is locked while it runs.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use component_base::task::Tasks;
use nix::{
    fcntl::{Flock, FlockArg},
    sys::resource::{Resource, getrlimit, setrlimit},
};
use rustix::fs::inotify;

/// How often it is looked whether somebody wants the lock file.
const LOOK: Duration = Duration::from_secs(1);

/// Kernel settings below /proc/sys and what they have to be: memory may be promised without limit, what is too much is
/// killed rather than the machine, and a kernel that fails starts again.
const KERNEL: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// The kernel is not as it has to be.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// It must not be changed.
    #[error("invalid kernel flag: {flag}, expected value: {expected}, actual value: {actual}")]
    Kept {
        /// The setting.
        flag: &'static str,
        /// What it has to be.
        expected: &'static str,
        /// What it is.
        actual: String,
    },
    /// It cannot be changed.
    #[error("cannot set the kernel's {flag} to {expected}")]
    Fixed {
        /// The setting.
        flag: &'static str,
        /// What it has to be.
        expected: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Whether this is a user namespace of its own, by the ranges of ids it has: the first one has them all.
fn is_confined(uid_map: &str) -> bool {
    let all: Vec<&str> = uid_map.split_whitespace().collect();
    !all.is_empty() && all != ["0", "0", "4294967295"]
}

/// Makes the kernel's settings what they have to be. `proc` is `/proc` but in tests. In a user namespace they are as they
/// are, which is well where the kubelet is meant to be `confined`.
///
/// # Errors
/// With `protect`, what is not as it has to be: nothing is changed then. Without, what cannot be changed.
pub fn kernel(proc: &Path, protect: bool, confined: bool) -> Result<(), KernelError> {
    let map = fs::read_to_string(proc.join("self/uid_map")).unwrap_or_default();
    for (flag, expected) in KERNEL {
        let path = proc.join("sys").join(flag);
        // A kernel that does not have the setting needs none.
        let Ok(actual) = fs::read_to_string(&path) else { continue };
        let actual = actual.trim().to_owned();
        if actual == expected {
            continue;
        }
        if protect {
            return Err(KernelError::Kept { flag, expected, actual });
        }
        match fs::write(&path, expected) {
            Err(error) if confined && is_confined(&map) => {
                tracing::info!(flag, expected, actual, %error, "cannot set the kernel's flag in a user namespace");
            }
            Err(source) => return Err(KernelError::Fixed { flag, expected, source }),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Sets the kubelet's own limits. What the system does not allow is told and left: the kubelet works as well.
pub fn limits(oom_score: i32, open_files: i64) {
    if let Err(error) = fs::write("/proc/self/oom_score_adj", oom_score.to_string()) {
        tracing::info!(oom_score, %error, "cannot set the kubelet's oom_score_adj");
    }
    let wanted = u64::try_from(open_files).unwrap_or(0);
    let set = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted.max(hard)));
    if let Err(error) = set {
        tracing::info!(open_files, %error, "cannot set how many files the kubelet may open");
    }
}

/// A file that is locked as long as this lives.
#[derive(Debug)]
pub struct Lock(Flock<File>);

/// Locks the file; waits until nobody else has it.
///
/// # Errors
/// When it cannot be made or locked.
pub async fn lock(path: PathBuf) -> io::Result<Lock> {
    let wait = move || {
        let file = File::options().create(true).truncate(false).write(true).open(&path)?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| io::Error::from(error))
    };
    tokio::task::spawn_blocking(wait).await.map_err(io::Error::other)?.map(Lock)
}

/// Keeps the lock until the drain; with `yields`, the kubelet ends when somebody else opens the file.
///
/// # Errors
/// When the file cannot be watched.
pub fn hold(lock: Lock, path: &Path, yields: bool, tasks: &Tasks) -> io::Result<()> {
    let events = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
    if yields {
        inotify::add_watch(&events, path, inotify::WatchFlags::OPEN | inotify::WatchFlags::DELETE_SELF)?;
    }
    let (owner, mut ticks) = (tasks.clone(), tasks.ticks(LOOK));
    tasks.spawn("lock-file", async move {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 512];
        while ticks.next().await {
            // Nothing to be read is an error, too.
            if inotify::Reader::new(&events, &mut buffer).next().is_ok() {
                tracing::info!("somebody else wants the lock file");
                break;
            }
        }
        owner.cancel();
        drop(lock.0.unlock());
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_set_or_told_to_be_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let vm = dir.path().join("sys/vm");
        fs::create_dir_all(&vm).unwrap();
        fs::write(vm.join("overcommit_memory"), "0\n").unwrap();
        fs::write(vm.join("panic_on_oom"), "0\n").unwrap();
        assert_eq!(
            kernel(dir.path(), true, false).unwrap_err().to_string(),
            "invalid kernel flag: vm/overcommit_memory, expected value: 1, actual value: 0"
        );
        kernel(dir.path(), false, false).unwrap();
        assert_eq!(fs::read_to_string(vm.join("overcommit_memory")).unwrap(), "1");
        kernel(dir.path(), true, false).unwrap();
    }

    #[test]
    fn in_a_user_namespace_the_kernel_is_as_it_is_where_that_is_meant() {
        let dir = tempfile::tempdir().unwrap();
        let (vm, own) = (dir.path().join("sys/vm"), dir.path().join("self"));
        fs::create_dir_all(&vm).unwrap();
        fs::create_dir_all(&own).unwrap();
        // Nobody can write to what this leads to.
        std::os::unix::fs::symlink("/proc/version", vm.join("overcommit_memory")).unwrap();
        let all = "         0          0 4294967295\n";
        for (map, confined, expected) in [
            (all, false, false),
            (all, true, false),
            ("0 1000 1\n1 100000 65536\n", false, false),
            ("0 1000 1\n1 100000 65536\n", true, true),
        ] {
            fs::write(own.join("uid_map"), map).unwrap();
            let made = kernel(dir.path(), false, confined);
            assert_eq!(made.is_ok(), expected, "{map} {confined}");
        }
    }

    #[tokio::test]
    async fn the_kubelet_ends_when_another_wants_its_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let tasks = Tasks::new();
        let held = lock(path.clone()).await.unwrap();
        hold(held, &path, true, &tasks).unwrap();
        let drain = tasks.drain();
        let (other, ()) = tokio::join!(lock(path), drain.cancelled());
        other.unwrap();
    }
}
