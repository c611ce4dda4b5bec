//! Mounting a part of a volume: the path is resolved by the kernel beneath the volume (openat2), and what was resolved
//! is bound by its descriptor, so that no symbolic link planted in between leads outside.

use std::{
    fs,
    os::fd::{AsRawFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::{VolumeError, is_mount_point};

/// Binds `sub` of `volume` at `target` and answers with `target`. A missing sub-path is made as a folder.
///
/// # Errors
/// When the path leads out of the volume or the kernel refuses.
pub fn bind(volume: &Path, sub: &str, target: &Path) -> Result<PathBuf, VolumeError> {
    let relative = Path::new(sub);
    if relative.components().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(VolumeError::Path(sub.to_owned()));
    }
    let source = resolve(volume, relative)?;
    let meta = rustix::fs::fstat(&source).map_err(|e| io(volume, e))?;
    let is_dir = rustix::fs::FileType::from_raw_mode(meta.st_mode).is_dir();
    prepare(target, is_dir)?;
    let from = format!("/proc/self/fd/{}", source.as_raw_fd());
    let flags = nix::mount::MsFlags::MS_BIND | nix::mount::MsFlags::MS_REC;
    nix::mount::mount(Some(from.as_str()), target, None::<&str>, flags, None::<&str>)
        .map_err(|e| VolumeError::Io { path: target.to_owned(), source: e.into() })?;
    Ok(target.to_owned())
}

fn io(path: &Path, errno: rustix::io::Errno) -> VolumeError {
    VolumeError::Io { path: path.to_owned(), source: errno.into() }
}

/// Opens the sub-path beneath the volume, making the folders that are missing.
fn resolve(volume: &Path, relative: &Path) -> Result<OwnedFd, VolumeError> {
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root =
        rustix::fs::open(volume, flags | OFlags::DIRECTORY, Mode::empty()).map_err(|e| io(volume, e))?;
    match rustix::fs::openat2(&root, relative, flags, Mode::empty(), beneath) {
        Err(rustix::io::Errno::NOENT) => {}
        other => return other.map_err(|e| io(&volume.join(relative), e)),
    }
    // Who may use the volume may use what is made in it, whatever umask the kubelet runs with.
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&root).map_err(|e| io(volume, e))?.st_mode & 0o777);
    let mut at = root;
    for part in relative.components().filter(|c| matches!(c, Component::Normal(_))) {
        let name = part.as_os_str();
        let failed = |error| io(&volume.join(relative), error);
        let made = match rustix::fs::mkdirat(&at, name, Mode::RWXU) {
            Ok(()) => true,
            Err(rustix::io::Errno::EXIST) => false,
            Err(error) => return Err(failed(error)),
        };
        let kind = if made { OFlags::DIRECTORY | OFlags::CLOEXEC } else { flags };
        at = rustix::fs::openat2(&at, name, kind | OFlags::NOFOLLOW, Mode::empty(), beneath)
            .map_err(failed)?;
        if made {
            // The group's folders pass the group on.
            let group = Mode::from_raw_mode(rustix::fs::fstat(&at).map_err(failed)?.st_mode) & Mode::SGID;
            rustix::fs::fchmod(&at, mode | group).map_err(failed)?;
        }
    }
    Ok(at)
}

fn prepare(target: &Path, is_dir: bool) -> Result<(), VolumeError> {
    if is_mount_point(target)? {
        // Of an earlier instance of the container: what the path leads to may have changed since.
        nix::mount::umount2(target, nix::mount::MntFlags::MNT_DETACH)
            .map_err(|e| VolumeError::Io { path: target.to_owned(), source: e.into() })?;
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).map_err(VolumeError::io(parent))?;
    }
    match fs::symlink_metadata(target) {
        Ok(meta) if meta.is_dir() == is_dir => return Ok(()),
        Ok(meta) if meta.is_dir() => fs::remove_dir(target).map_err(VolumeError::io(target))?,
        Ok(_) => fs::remove_file(target).map_err(VolumeError::io(target))?,
        Err(_) => {}
    }
    if is_dir {
        fs::create_dir(target).map_err(VolumeError::io(target))
    } else {
        fs::File::create(target).map(drop).map_err(VolumeError::io(target))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_made_may_be_used_as_the_volume_may() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o7777;
        let set = |path: &str, mode| {
            fs::set_permissions(dir.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
        };
        fs::create_dir(dir.path().join("there")).unwrap();
        set("there", 0o700);
        set("", 0o777);
        resolve(dir.path(), Path::new("there/a/b")).unwrap();
        assert_eq!((mode("there"), mode("there/a"), mode("there/a/b")), (0o700, 0o777, 0o777));
        set("", 0o2770);
        resolve(dir.path(), Path::new("c/d")).unwrap();
        assert_eq!((mode("c"), mode("c/d")), (0o2770, 0o2770));
        set("", 0o1755);
        resolve(dir.path(), Path::new("e")).unwrap();
        assert_eq!(mode("e"), 0o755);
    }
}
