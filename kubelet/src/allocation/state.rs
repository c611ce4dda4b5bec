//! What pods were given, on disk: `allocated_pods_state` in the kubelet's folder, written whole and atomically.
//!
//! The file is upstream's, with its checksum, so that either kubelet goes on with the other's.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use component_base::hash::fnv32a;
use serde::{Deserialize, Serialize};

use super::Allocated;
use crate::checkpoint::{self, Checkpoint, CheckpointError};

/// The file's name.
pub const FILE: &str = "allocated_pods_state";

/// What is on disk cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "could not restore state from checkpoint: {source}, please drain this node and delete pod resource information \
     checkpoint file {path:?} before restarting Kubelet"
)]
pub struct StateError {
    path: PathBuf,
    source: CheckpointError,
}

/// The file: its data is a text of its own.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Stored {
    data: String,
    checksum: u64,
}

impl Checkpoint for Stored {
    const NEEDS_SUM: bool = true;

    fn checksum(&mut self) -> &mut u64 {
        &mut self.checksum
    }

    fn printed(&self) -> String {
        format!("(string){}", self.data)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entries {
    entries: Option<BTreeMap<String, Allocated>>,
}

/// [`Entries`] that others own.
#[derive(Serialize)]
struct Lent<'a> {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    entries: BTreeMap<&'a str, &'a Allocated>,
}

/// The file, and what of it nobody has asked for yet.
#[derive(Debug)]
pub(super) struct Book {
    path: PathBuf,
    left: BTreeMap<String, Allocated>,
    /// The sum of what is written.
    last: u32,
}

impl Book {
    /// Reads what was written down in this folder.
    ///
    /// # Errors
    /// When it does not read, or is not what was written.
    pub(super) fn open(folder: &Path) -> Result<Self, StateError> {
        let path = folder.join(FILE);
        match read(&path) {
            Ok(left) => Ok(Self { path, left, last: 0 }),
            Err(source) => Err(StateError { path, source }),
        }
    }

    /// What the pod was given by the kubelet before this one.
    pub(super) fn take(&mut self, uid: &str) -> Option<Allocated> {
        self.left.remove(uid)
    }

    /// Others than these are gone. As upstream, that is not worth writing.
    pub(super) fn retain(&mut self, keeps: impl Fn(&str) -> bool) {
        self.left.retain(|uid, _| keeps(uid));
    }

    /// Writes down what pods have now, if it has changed; to the disk itself only where losing it with the machine's power
    /// would be a loss.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub(super) fn write<'a>(
        &'a mut self,
        held: impl Iterator<Item = (&'a str, &'a Allocated)>,
        durably: bool,
    ) -> io::Result<()> {
        let left = self.left.iter().map(|(uid, own)| (uid.as_str(), own));
        let data = serde_json::to_string(&Lent { entries: left.chain(held).collect() })?;
        let now = fnv32a(data.as_bytes());
        if now == self.last {
            return Ok(());
        }
        let stored = Stored { data, checksum: 0 };
        let write = if durably { checkpoint::write } else { checkpoint::write_lazily };
        write(&self.path, stored)?;
        self.last = now;
        Ok(())
    }
}

fn read(path: &Path) -> Result<BTreeMap<String, Allocated>, CheckpointError> {
    // Not everything waits for the disk: what a machine lost with its power is as if it had never been written.
    if std::fs::metadata(path).is_ok_and(|found| found.len() == 0) {
        tracing::warn!(path = %path.display(), "what pods were given was lost");
        return Ok(BTreeMap::new());
    }
    let Some(stored) = checkpoint::read::<Stored>(path)? else { return Ok(BTreeMap::new()) };
    let read: Entries = serde_json::from_str(&stored.data)?;
    Ok(read.entries.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A file that upstream's kubelet takes, with the sum it has there.
    const THEIRS: &str = r#"{"data":"{\"entries\":{\"pod1\":{\"ContainerResources\":{\"container1\":{\"requests\":{\"cpu\":\"1Ki\",\"memory\":\"1Ki\"}}}}}}","checksum":1178570812}"#;

    #[test]
    fn the_file_is_upstreams() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        assert!(Book::open(dir.path()).unwrap().left.is_empty());
        fs::write(&path, THEIRS).unwrap();
        let mut book = Book::open(dir.path()).unwrap();
        let own = book.take("pod1").unwrap();
        assert_eq!(own.containers["container1"].requests.as_ref().unwrap()["memory"].0, "1Ki");
        assert_eq!((own.pod.as_ref(), book.take("pod1")), (None, None));
        book.write([("pod1", &own)].into_iter(), true).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(r#"\"PodLevelResources\":null}}}","checksum":"#), "{text}");
        assert_eq!(Book::open(dir.path()).unwrap().take("pod1"), Some(own));
    }

    #[test]
    fn a_file_that_was_changed_or_cut_is_told_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        for (bad, expected) in [
            (THEIRS.replace("1Ki", "2Ki"), "corrupted"),
            (THEIRS.replace("1178570812", "0"), "corrupted"),
            (THEIRS[..THEIRS.len() / 2].to_owned(), "EOF"),
            ("7".to_owned(), "line"),
        ] {
            fs::write(dir.path().join(FILE), &bad).unwrap();
            let error = Book::open(dir.path()).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains(FILE), "{bad}: {error}");
            assert!(error.contains("please drain this node"), "{error}");
        }
        fs::write(dir.path().join(FILE), "").unwrap();
        assert!(Book::open(dir.path()).unwrap().left.is_empty(), "lost with the machine's power");
    }

    #[test]
    fn what_nobody_asks_for_stays_until_its_pod_is_known_to_be_gone() {
        let dir = tempfile::tempdir().unwrap();
        let own = Allocated::default();
        let mut book = Book::open(dir.path()).unwrap();
        book.write([("a", &own), ("b", &own)].into_iter(), true).unwrap();
        let mut book = Book::open(dir.path()).unwrap();
        book.retain(|uid| uid == "a");
        book.write([("c", &own)].into_iter(), false).unwrap();
        let book = Book::open(dir.path()).unwrap();
        assert_eq!(book.left.into_keys().collect::<Vec<_>>(), ["a", "c"]);
    }
}
