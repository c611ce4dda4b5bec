//! `fsGroup`: the group that owns a volume's files.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, lchown},
    path::Path,
};

use super::VolumeError;

/// Gives everything below `root` to the group: readable and writable by it (readable only for read-only volumes),
/// folders with the set-group-id bit so that new files follow.
///
/// # Errors
/// When the file system refuses.
pub fn apply(root: &Path, group: u32, read_only: bool) -> Result<(), VolumeError> {
    let meta = fs::symlink_metadata(root).map_err(VolumeError::io(root))?;
    if meta.gid() != group {
        lchown(root, None, Some(group)).map_err(VolumeError::io(root))?;
    }
    if meta.is_symlink() {
        return Ok(());
    }
    let mask = if read_only { 0o440 } else { 0o660 };
    let extra = if meta.is_dir() { 0o2110 } else { 0 };
    let mode = meta.mode() & 0o7777;
    if mode | mask | extra != mode {
        let permissions = fs::Permissions::from_mode(mode | mask | extra);
        fs::set_permissions(root, permissions).map_err(VolumeError::io(root))?;
    }
    if meta.is_dir() {
        for entry in fs::read_dir(root).map_err(VolumeError::io(root))? {
            apply(&entry.map_err(VolumeError::io(root))?.path(), group, read_only)?;
        }
    }
    Ok(())
}
