//! Writing a set of files so that a reader sees either all of the old or all of the new, even across a crash.
//!
//! ```text
//! <dir>/..2026_11_20_23_00_00.12345/key   the files
//! <dir>/..data -> ..2026_11_20...         swapped by one rename
//! <dir>/key -> ..data/key                 what containers open
//! ```
//! Contract: the layout of upstream's atomic writer, on which programs that watch `..data` rely.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt, fchown, symlink},
    path::{Component, Path, PathBuf},
};

use jiff::Timestamp;

use super::VolumeError;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projection {
    /// Content.
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner, when not root.
    pub owner: Option<u32>,
}

/// Files by path within the volume.
pub type Payload = BTreeMap<String, Projection>;

/// Refuses a path that is absolute, empty, or leaves the volume.
///
/// # Errors
/// When it does.
pub fn check_path(path: &str) -> Result<(), VolumeError> {
    let parsed = Path::new(path);
    let plain = parsed.components().all(|c| matches!(c, Component::Normal(_)));
    if path.is_empty() || path.len() > 4096 || !plain || path.starts_with("..") {
        return Err(VolumeError::Path(path.to_owned()));
    }
    Ok(())
}

/// Makes the volume hold exactly `payload`; true when something changed.
///
/// # Errors
/// When a path is bad or the file system refuses; the old content then still stands.
pub fn write(dir: &Path, payload: &Payload, group: Option<u32>, now: Timestamp) -> Result<bool, VolumeError> {
    for path in payload.keys() {
        check_path(path)?;
    }
    fs::create_dir_all(dir).map_err(VolumeError::io(dir))?;
    // No link means: never written, or a crash before the first swap.
    let old = fs::read_link(dir.join(DATA)).ok();
    let changed = match &old {
        Some(old) => !same(&dir.join(old), payload, group),
        None => true,
    };
    if changed {
        let new = write_files(dir, payload, group, now)?;
        let temporary = dir.join(DATA_NEW);
        // A crash may have left one behind.
        remove_any(&temporary)?;
        symlink(&new, &temporary).map_err(VolumeError::io(&temporary))?;
        fs::rename(&temporary, dir.join(DATA)).map_err(VolumeError::io(dir))?;
    }
    link_names(dir, payload)?;
    remove_stale(dir, payload)?;
    Ok(changed)
}

fn same(dir: &Path, payload: &Payload, group: Option<u32>) -> bool {
    let mut found = BTreeSet::new();
    if list(dir, dir, &mut found).is_err() || found.len() != payload.len() {
        return false;
    }
    payload.iter().all(|(path, file)| {
        let place = dir.join(path);
        let Ok(meta) = fs::metadata(&place) else { return false };
        found.contains(path)
            && meta.mode() & 0o7777 == mode(file, group)
            && meta.uid() == file.owner.unwrap_or(0)
            && meta.len() == file.data.len() as u64
            && fs::read(&place).is_ok_and(|data| data == file.data)
    })
}

fn mode(file: &Projection, group: Option<u32>) -> u32 {
    if group.is_some() { file.mode | 0o440 } else { file.mode }
}

fn list(root: &Path, dir: &Path, found: &mut BTreeSet<String>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list(root, &entry.path(), found)?;
        } else if let Ok(path) = entry.path().strip_prefix(root) {
            found.insert(path.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

fn write_files(
    dir: &Path,
    payload: &Payload,
    group: Option<u32>,
    now: Timestamp,
) -> Result<PathBuf, VolumeError> {
    let stamp = now.strftime("..%Y_%m_%d_%H_%M_%S");
    let name = PathBuf::from(format!("{stamp}.{}", now.subsec_nanosecond()));
    let target = dir.join(&name);
    // A leftover of the same instant is of a crash and incomplete.
    remove_any(&target)?;
    let folder_mode = if group.is_some() { 0o2755 } else { 0o755 };
    make_folder(&target, folder_mode, group)?;
    for (path, file) in payload {
        let place = target.join(path);
        let mut parent = target.clone();
        for part in Path::new(path).parent().into_iter().flat_map(Path::components) {
            parent.push(part);
            if !parent.exists() {
                make_folder(&parent, folder_mode, group)?;
            }
        }
        let mut out = fs::File::create_new(&place).map_err(VolumeError::io(&place))?;
        out.write_all(&file.data).map_err(VolumeError::io(&place))?;
        if file.owner.is_some() || group.is_some() {
            fchown(&out, file.owner, group).map_err(VolumeError::io(&place))?;
        }
        // After the owner, since a change of owner clears bits.
        let permissions = fs::Permissions::from_mode(mode(file, group));
        out.set_permissions(permissions).map_err(VolumeError::io(&place))?;
    }
    Ok(name)
}

fn make_folder(path: &Path, mode: u32, group: Option<u32>) -> Result<(), VolumeError> {
    fs::create_dir(path).map_err(VolumeError::io(path))?;
    if let Some(group) = group {
        std::os::unix::fs::chown(path, None, Some(group)).map_err(VolumeError::io(path))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(VolumeError::io(path))
}

fn top_names(payload: &Payload) -> BTreeSet<&str> {
    payload.keys().filter_map(|p| p.split('/').next()).collect()
}

fn link_names(dir: &Path, payload: &Payload) -> Result<(), VolumeError> {
    for name in top_names(payload) {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link).map_err(VolumeError::io(&link))?;
        }
    }
    Ok(())
}

/// Takes away folders of before and links to what is no longer there. Other entries are places where containers mount
/// other volumes.
fn remove_stale(dir: &Path, payload: &Payload) -> Result<(), VolumeError> {
    let names = top_names(payload);
    let current = fs::read_link(dir.join(DATA)).map_err(VolumeError::io(dir))?;
    for entry in fs::read_dir(dir).map_err(VolumeError::io(dir))? {
        let entry = entry.map_err(VolumeError::io(dir))?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        let old = text.starts_with("..") && text != DATA && Path::new(&name) != current;
        // What is no link has no target.
        let links = fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(DATA));
        if old || (links && text != DATA && !names.contains(&*text)) {
            remove_any(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_any(path: &Path) -> Result<(), VolumeError> {
    let Ok(meta) = fs::symlink_metadata(path) else { return Ok(()) };
    let removed = if meta.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(VolumeError::io(path))
}
