//! Files in which the kubelet keeps what the next one must know: replaced as a whole, so that whoever reads one finds
//! what it was before or what it is now, and those of upstream's resource managers with their sums.
//!
//! Contract: upstream's checkpoint files, whose checksum is the FNV-1a of the text in which Go prints the fields.

use std::{
    collections::BTreeMap,
    fmt::Display,
    fs, io,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use component_base::hash::fnv32a;
use serde::{Serialize, de::DeserializeOwned};

/// A file of which another program knows the sum.
pub trait Checkpoint: Serialize + DeserializeOwned {
    /// Zero is a sum as any other; else it is none, and the file is taken as it is.
    const NEEDS_SUM: bool = false;

    /// All fields as Go prints them, with a sum of zero.
    fn printed(&self) -> String;
    /// The sum.
    fn checksum(&mut self) -> &mut u64;
}

/// What is on disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] io::Error),
    /// It is not what a kubelet writes.
    #[error(transparent)]
    Decode(#[from] serde_json::Error),
    /// It was changed, or only a part of it was written.
    #[error("checkpoint is corrupted: its checksum is {found}, and not {stated} as it says")]
    Corrupt {
        /// The sum of what is there.
        found: u64,
        /// The sum it says.
        stated: u64,
    },
}

/// Reads a checkpoint; `None` where there is none.
///
/// # Errors
/// When it does not read, or is not what was written.
pub fn read<T: Checkpoint>(path: &Path) -> Result<Option<T>, CheckpointError> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    let mut read: T = serde_json::from_slice(&text)?;
    let (found, stated) = (sum(&read), *read.checksum());
    if (T::NEEDS_SUM || stated != 0) && found != stated {
        return Err(CheckpointError::Corrupt { found, stated });
    }
    Ok(Some(read))
}

/// Writes a checkpoint with its sum.
///
/// # Errors
/// When the folder cannot be written to.
pub fn write<T: Checkpoint>(path: &Path, mut checkpoint: T) -> io::Result<()> {
    *checkpoint.checksum() = sum(&checkpoint);
    replace(path, &serde_json::to_vec(&checkpoint)?)
}

/// [`write`] that does not wait for the disk: for what may be lost with the machine's power.
///
/// # Errors
/// When the folder cannot be written to.
pub fn write_lazily<T: Checkpoint>(path: &Path, mut checkpoint: T) -> io::Result<()> {
    *checkpoint.checksum() = sum(&checkpoint);
    replace_lazily(path, &serde_json::to_vec(&checkpoint)?)
}

/// The sum of all else, as upstream makes it.
pub fn sum(checkpoint: &impl Checkpoint) -> u64 {
    fnv32a(checkpoint.printed().as_bytes()).into()
}

/// A list as Go prints it.
pub fn go_list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    format!("[{}]", items.join(" "))
}

/// A map as Go prints it.
pub fn go_map<K: Display, V>(map: &BTreeMap<K, V>, value: impl Fn(&V) -> String) -> String {
    format!("map{}", go_list(map.iter().map(|(key, v)| format!("{key}:{}", value(v)))))
}

/// Something that may be nil, as Go prints it.
pub fn go_nil<T>(value: Option<T>, print: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "<nil>".to_owned(), print)
}

/// Replaces a file, readable by its owner alone, and waits until it is on the disk. Its folder is made where it is missing;
/// nothing half written is left.
///
/// # Errors
/// When the folder cannot be written to: then the file is what it was.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    replace_with(path, content, fs::File::sync_all)
}

/// [`replace`] that does not wait for the disk: for what may be lost with the machine's power.
///
/// # Errors
/// When the folder cannot be written to: then the file is what it was.
pub fn replace_lazily(path: &Path, content: &[u8]) -> io::Result<()> {
    replace_with(path, content, |_| Ok(()))
}

fn replace_with(path: &Path, content: &[u8], sync: impl Fn(&fs::File) -> io::Result<()>) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let next = next(path);
    let write = || {
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&next)?;
        file.write_all(content)?;
        sync(&file)?;
        fs::rename(&next, path)
    };
    write().inspect_err(|_| {
        // What cannot be written can often not be removed either; the first error tells.
        fs::remove_file(&next).ok();
    })
}

/// Where the next content of a file is written first.
pub fn next(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(NEXT);
    path.with_file_name(name)
}

/// The end of names of files that are being written.
pub const NEXT: &str = ".next";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made").join("record.json");
        for content in ["one", "the second", ""] {
            replace(&path, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        replace_lazily(&path, b"kept").unwrap();
        // A folder in the way of the next content.
        fs::create_dir(next(&path)).unwrap();
        replace(&path, b"lost").unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
        fs::remove_dir(next(&path)).unwrap();
        // A folder in the way of the file: nothing is left beside it.
        let taken = dir.path().join("taken");
        fs::create_dir(&taken).unwrap();
        replace(&taken, b"lost").unwrap_err();
        assert!(!next(&taken).exists());
    }

    #[test]
    fn lists_and_maps_are_gos() {
        assert_eq!(go_list([1, 2]), "[1 2]");
        assert_eq!(go_map(&BTreeMap::from([("b", 1), ("a", 2)]), ToString::to_string), "map[a:2 b:1]");
        assert_eq!(go_map(&BTreeMap::<u8, u8>::new(), ToString::to_string), "map[]");
    }
}
