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
    let mut at = root;
    for part in relative.components().filter(|c| matches!(c, Component::Normal(_))) {
        let name = part.as_os_str();
        match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o750)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(io(&volume.join(relative), error)),
        }
        at = rustix::fs::openat2(&at, name, flags | OFlags::NOFOLLOW, Mode::empty(), beneath)
            .map_err(|e| io(&volume.join(relative), e))?;
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
