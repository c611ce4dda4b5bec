//! How much of a disk folders take. Walking them is slow, so what was found is kept for a while.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::metrics;

/// Bytes and inodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// Bytes of blocks.
    pub bytes: u64,
    /// Files, folders and links.
    pub inodes: u64,
}

impl Taken {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, inodes: self.inodes + other.inodes }
    }
}

/// Walks a folder: its own blocks and all below it on the same file system; a file with several names counts once. What
/// cannot be read, or goes away meanwhile, counts nothing.
#[must_use]
pub fn taken(root: &Path) -> Taken {
    let Ok(meta) = fs::symlink_metadata(root) else { return Taken::default() };
    let device = meta.dev();
    let (mut sum, mut seen, mut open) = (Taken::default(), HashSet::new(), vec![root.to_owned()]);
    while let Some(path) = open.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.dev() != device || (meta.nlink() > 1 && !meta.is_dir() && !seen.insert(meta.ino())) {
            continue;
        }
        sum = sum.and(Taken { bytes: meta.blocks().saturating_mul(512), inodes: 1 });
        if meta.is_dir() {
            let entries = fs::read_dir(&path).into_iter().flatten().filter_map(Result::ok);
            open.extend(entries.map(|e| e.path()));
        }
    }
    sum
}

/// What was found, by folder.
#[derive(Debug)]
pub struct Walks {
    found: Mutex<HashMap<PathBuf, (Instant, Taken)>>,
    fresh: Duration,
}

impl Walks {
    /// Keeps what was found for so long.
    #[must_use]
    pub fn new(fresh: Duration) -> Self {
        Self { found: Mutex::default(), fresh }
    }

    /// What the folder takes, walked at `now` unless that was done lately.
    #[must_use]
    pub fn taken(&self, path: &Path, now: Instant) -> Taken {
        let known = self.found.lock().get(path).copied();
        if let Some((at, taken)) = known
            && now.duration_since(at) < self.fresh
        {
            return taken;
        }
        let timed = metrics::get().volume_collection.with_label_values(&["du"]).start_timer();
        let taken = taken(path);
        timed.observe_duration();
        let mut found = self.found.lock();
        // Folders of pods that are gone are not asked for any more.
        found.retain(|_, (at, _)| now.duration_since(*at) < self.fresh.saturating_mul(10));
        found.insert(path.to_owned(), (now, taken));
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_file_count_once_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("below");
        fs::create_dir(&below).unwrap();
        fs::write(below.join("file"), vec![1; 100_000]).unwrap();
        let one = taken(dir.path());
        assert_eq!(one.inodes, 3);
        assert!(one.bytes >= 100_000, "{one:?}");
        fs::hard_link(below.join("file"), below.join("other")).unwrap();
        std::os::unix::fs::symlink("/usr", below.join("link")).unwrap();
        assert_eq!(taken(dir.path()).inodes, 4);
        assert_eq!(taken(Path::new("/nowhere")), Taken::default());
    }

    #[test]
    fn a_walk_is_kept_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let (walks, begun) = (Walks::new(Duration::from_secs(60)), Instant::now());
        assert_eq!(walks.taken(dir.path(), begun).inodes, 1);
        fs::write(dir.path().join("a"), "").unwrap();
        assert_eq!(walks.taken(dir.path(), begun).inodes, 1);
        assert_eq!(walks.taken(dir.path(), begun + Duration::from_secs(61)).inodes, 2);
    }
}
