//! `fsGroup`: the group that owns a volume's files.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, lchown},
    path::Path,
};

use super::VolumeError;

/// Whether the walk through a volume can be spared: its root is as it should be, and the pod says that this is enough.
#[must_use]
pub fn is_settled(root: &Path, group: u32, read_only: bool, policy: Option<&str>) -> bool {
    if policy != Some("OnRootMismatch") {
        return false;
    }
    // A root that cannot be looked at is told by the walk.
    let Ok(meta) = fs::symlink_metadata(root) else { return false };
    let wanted = if read_only { 0o2550 } else { 0o2770 };
    meta.is_dir() && meta.gid() == group && meta.mode() & wanted == wanted
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_that_fits_spares_the_walk_only_where_that_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let own = fs::metadata(dir.path()).unwrap().gid();
        let policy = Some("OnRootMismatch");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o750)).unwrap();
        assert!(!is_settled(dir.path(), own, false, policy));
        apply(dir.path(), own, false).unwrap();
        assert!(is_settled(dir.path(), own, false, policy));
        assert!(is_settled(dir.path(), own, true, policy));
        assert!(!is_settled(dir.path(), own + 1, false, policy));
        assert!(!is_settled(dir.path(), own, false, Some("Always")));
        assert!(!is_settled(dir.path(), own, false, None));
    }
}
