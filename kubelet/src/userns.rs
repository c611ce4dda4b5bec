//! Ranges of user and group ids for pods that run in a user namespace of their own (`hostUsers: false`).
//!
//! Ranges are of one length, 65536 unless `userNamespaces.idsPerPod` says otherwise. The first one is the node's own; those
//! above it are handed out, one to a pod. Which one a pod has is kept in its folder, so that a restarted kubelet does not
//! give it to another.
//! Contract: KEP-127; the file `<root>/pods/<uid>/userns` is upstream's, so that either kubelet goes on with the other's.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{checkpoint::replace, runtime::cri};

/// Ids in a range, and of what all ranges are multiples.
pub const LENGTH: u32 = 65_536;
/// Name of the file in a pod's folder.
const FILE: &str = "userns";

/// Why a pod cannot have a user namespace.
#[derive(Debug, thiserror::Error)]
pub enum UserNamespaceError {
    /// The runtime's handler cannot.
    #[error("can't set `spec.hostUsers: false`, runtime does not support user namespaces")]
    Runtime,
    /// The handler of the pod's runtime class cannot.
    #[error("can't set `spec.hostUsers: false`, RuntimeClass handler {0:?} does not support user namespaces")]
    Handler(String),
    /// All ranges are taken.
    #[error("could not find an empty slot to allocate a user namespace")]
    Full,
    /// What is written down makes no sense.
    #[error("user namespace: invalid mappings in {0}")]
    Record(PathBuf),
    /// It cannot be read or written down.
    #[error("user namespace: {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    #[serde(rename = "uidMappings")]
    uids: Vec<Mapping>,
    #[serde(rename = "gidMappings")]
    gids: Vec<Mapping>,
}

impl Record {
    fn of(slot: u32, length: u32) -> Self {
        let mapping = Mapping { host_id: slot * length, container_id: 0, length };
        Self { uids: vec![mapping], gids: vec![mapping] }
    }

    /// The range it names, if it is one that is handed out here.
    fn slot(&self, length: u32) -> Option<u32> {
        let [mapping] = self.uids.as_slice() else { return None };
        let fits = self.gids == self.uids
            && mapping.container_id == 0
            && mapping.length == length
            && mapping.host_id >= length
            && mapping.host_id.is_multiple_of(length);
        fits.then_some(mapping.host_id / length)
    }
}

/// The ranges of this node.
#[derive(Debug)]
pub struct UserNamespaces {
    pods_dir: PathBuf,
    most: u32,
    length: u32,
    taken: Mutex<HashMap<String, u32>>,
}

impl UserNamespaces {
    /// So many ranges of a length, as far as there are ids; those that pods have already are found in their folders.
    #[must_use]
    pub fn new(pods_dir: PathBuf, most: u32, length: u32) -> Self {
        let most = most.min((u32::MAX / length.max(1)).saturating_sub(1));
        let mut taken = HashMap::new();
        // A folder that is not there yet has no pods.
        for entry in std::fs::read_dir(&pods_dir).into_iter().flatten().filter_map(Result::ok) {
            let slot = read(&entry.path().join(FILE)).ok().flatten().and_then(|record| record.slot(length));
            if let Some(slot) = slot {
                taken.insert(entry.file_name().to_string_lossy().into_owned(), slot);
            }
        }
        Self { pods_dir, most, length, taken: Mutex::new(taken) }
    }

    /// The range of the pod; the same one each time.
    ///
    /// # Errors
    /// When there is none left, or it cannot be written down.
    pub fn of(&self, uid: &str) -> Result<cri::UserNamespace, UserNamespaceError> {
        let path = self.pods_dir.join(uid).join(FILE);
        let mut taken = self.taken.lock();
        let slot = match taken.get(uid) {
            Some(slot) => *slot,
            None => {
                let slot = match read(&path)? {
                    Some(record) => {
                        record.slot(self.length).ok_or_else(|| UserNamespaceError::Record(path.clone()))?
                    }
                    None => {
                        let slot = free(&taken, self.most).ok_or(UserNamespaceError::Full)?;
                        write(&path, &Record::of(slot, self.length))
                            .map_err(|source| UserNamespaceError::File { path: path.clone(), source })?;
                        slot
                    }
                };
                taken.insert(uid.to_owned(), slot);
                slot
            }
        };
        let length = self.length;
        let range = vec![cri::IdMapping { host_id: slot * length, container_id: 0, length }];
        Ok(cri::UserNamespace { mode: cri::NamespaceMode::Pod as i32, uids: range.clone(), gids: range })
    }

    /// Nothing of the pod is left on the node.
    pub fn release(&self, uid: &str) {
        self.taken.lock().remove(uid);
    }
}

/// The lowest range that nobody has.
fn free(taken: &HashMap<String, u32>, most: u32) -> Option<u32> {
    let used: BTreeSet<u32> = taken.values().copied().collect();
    (1..=most).find(|slot| !used.contains(slot))
}

fn read(path: &Path) -> Result<Option<Record>, UserNamespaceError> {
    match std::fs::read(path) {
        Ok(text) => {
            serde_json::from_slice(&text).map(Some).map_err(|_| UserNamespaceError::Record(path.to_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(UserNamespaceError::File { path: path.to_owned(), source }),
    }
}

fn write(path: &Path, record: &Record) -> io::Result<()> {
    replace(path, &serde_json::to_vec(record)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pod_has_a_range_of_its_own_and_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let begin = |made: &cri::UserNamespace| made.uids[0].host_id;
        let all = UserNamespaces::new(dir.path().to_owned(), 2, LENGTH);
        let (a, b) = (all.of("a").unwrap(), all.of("b").unwrap());
        assert_eq!((begin(&a), begin(&b)), (65_536, 131_072));
        assert_eq!(all.of("a").unwrap(), a);
        assert!(matches!(all.of("c"), Err(UserNamespaceError::Full)));
        let after = UserNamespaces::new(dir.path().to_owned(), 2, LENGTH);
        assert!(matches!(after.of("c"), Err(UserNamespaceError::Full)));
        after.release("a");
        assert_eq!(begin(&after.of("c").unwrap()), 65_536);
        let longer = UserNamespaces::new(dir.path().to_owned(), u32::MAX, 2 * LENGTH);
        let made = longer.of("d").unwrap();
        assert_eq!((begin(&made), made.uids[0].length), (131_072, 131_072));
        assert!(
            matches!(longer.of("b"), Err(UserNamespaceError::Record(_))),
            "it has a range of another length"
        );
    }

    #[test]
    fn a_record_of_something_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let all = UserNamespaces::new(dir.path().to_owned(), 9, LENGTH);
        std::fs::create_dir(dir.path().join("a")).unwrap();
        let one =
            |host: u32, length: u32| format!("[{{\"hostId\":{host},\"containerId\":0,\"length\":{length}}}]");
        for (uids, gids) in [
            (one(0, 65_536), one(0, 65_536)),
            (one(65_536, 1), one(65_536, 1)),
            (one(65_536, 65_536), one(131_072, 65_536)),
            ("[]".to_owned(), "[]".to_owned()),
        ] {
            let text = format!("{{\"uidMappings\":{uids},\"gidMappings\":{gids}}}");
            std::fs::write(dir.path().join("a").join(FILE), &text).unwrap();
            assert!(matches!(all.of("a"), Err(UserNamespaceError::Record(_))), "{text}");
        }
    }
}
