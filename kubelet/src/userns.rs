//! Ranges of user and group ids for pods that run in a user namespace of their own (`hostUsers: false`).
//!
//! Ranges are of one length, 65536 unless `userNamespaces.idsPerPod` says otherwise. Where the node has a user `kubelet`, its
//! subordinate ids are handed out, one range to a pod; else all but the first range, which is the node's own. Which one a pod has is kept in its folder, so that a restarted kubelet does not
//! give it to another.
//! Contract: KEP-127; the file `<root>/pods/<uid>/userns` is upstream's, so that either kubelet goes on with the other's.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::Stdio,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::{checkpoint::replace, runtime::cri};

/// Ids in a range, and of what all ranges are multiples.
pub const LENGTH: u32 = 65_536;
/// Name of the file in a pod's folder.
const FILE: &str = "userns";
/// Whose subordinate ids are handed out.
const USER: &str = "kubelet";
/// The program that tells of subordinate ids.
const PROGRAM: &str = "getsubids";

/// Why a pod cannot have a user namespace.
#[derive(Debug, thiserror::Error)]
pub enum UserNamespaceError {
    /// The runtime's handler cannot.
    #[error("can't set `spec.hostUsers: false`, runtime does not support user namespaces")]
    Runtime,
    /// The handler of the pod's runtime class cannot.
    #[error("can't set `spec.hostUsers: false`, RuntimeClass handler {0:?} does not support user namespaces")]
    Handler(String),
    /// The ids of the kubelet's user cannot be told.
    #[error("kubelet mappings: {0}")]
    Subordinate(String),
    /// The ids of the kubelet's user are not whole ranges, or too few.
    #[error("kubelet user assigned {0}")]
    Unfit(String),
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

/// The ranges that this node has for so many pods, by their numbers.
///
/// # Errors
/// When there is a user whose ids are to be used, and they cannot be.
pub async fn slots(length: u32, pods: u32) -> Result<RangeInclusive<u32>, UserNamespaceError> {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    if !users.lines().any(|line| line.split(':').next() == Some(USER)) {
        return Ok(above_the_nodes(length));
    }
    let fail = |error: io::Error| UserNamespaceError::Subordinate(error.to_string());
    let (users, groups) = match tokio::try_join!(ask(&[USER]), ask(&["-g", USER])) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(above_the_nodes(length)),
        answers => answers.map_err(fail)?,
    };
    if users != groups {
        let text = format!("mismatched subuids and subgids for user {USER:?}");
        return Err(UserNamespaceError::Subordinate(text));
    }
    whole(parse(&users)?, length, pods)
}

async fn ask(arguments: &[&str]) -> io::Result<String> {
    let run = Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let done = run.await?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    Err(io::Error::other(format!("error retrieving additional ids for user {USER:?}: {}", done.status)))
}

/// All ranges but the first.
fn above_the_nodes(length: u32) -> RangeInclusive<u32> {
    1..=(u32::MAX / length.max(1)).saturating_sub(1)
}

/// First id and how many there are, of a line such as `0: kubelet 65536 2147483648`.
fn parse(text: &str) -> Result<(u32, u32), UserNamespaceError> {
    let fail = |what: &str| UserNamespaceError::Subordinate(format!("{what} {text:?}"));
    let lines: Vec<&str> = text.trim_matches('\n').split('\n').collect();
    let [line] = lines.as_slice() else { return Err(fail("not one line:")) };
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, _, first, count] = words.as_slice() else { return Err(fail("invalid line")) };
    let number = |text: &str| text.parse::<u32>().map_err(|_| fail("error parsing line"));
    Ok((number(first)?, number(count)?))
}

/// The ids as whole ranges.
fn whole(
    (first, count): (u32, u32),
    length: u32,
    pods: u32,
) -> Result<RangeInclusive<u32>, UserNamespaceError> {
    let fail = |text: String| Err(UserNamespaceError::Unfit(text));
    if !first.is_multiple_of(length) {
        return fail(format!("ID {first} is not a multiple of {length}"));
    }
    if first < length {
        return fail(format!("ID {first} must be greater or equal to {length}"));
    }
    if !count.is_multiple_of(length) {
        return fail(format!("IDs length {count} is not a multiple of {length}"));
    }
    if count / length < pods.max(1) {
        return fail(format!("IDs are not enough to support {pods} pods"));
    }
    Ok(first / length..=(first / length).saturating_add(count / length - 1))
}

/// The ranges of this node.
#[derive(Debug)]
pub struct UserNamespaces {
    pods_dir: PathBuf,
    slots: RangeInclusive<u32>,
    length: u32,
    taken: Mutex<HashMap<String, u32>>,
}

impl UserNamespaces {
    /// These ranges of a length; those that pods have already are found in their folders.
    #[must_use]
    pub fn new(pods_dir: PathBuf, slots: RangeInclusive<u32>, length: u32) -> Self {
        let mut taken = HashMap::new();
        // A folder that is not there yet has no pods.
        for entry in std::fs::read_dir(&pods_dir).into_iter().flatten().filter_map(Result::ok) {
            let slot = read(&entry.path().join(FILE)).ok().flatten().and_then(|record| record.slot(length));
            if let Some(slot) = slot {
                taken.insert(entry.file_name().to_string_lossy().into_owned(), slot);
            }
        }
        Self { pods_dir, slots, length, taken: Mutex::new(taken) }
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
                        let slot = free(&taken, self.slots.clone()).ok_or(UserNamespaceError::Full)?;
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
fn free(taken: &HashMap<String, u32>, mut slots: RangeInclusive<u32>) -> Option<u32> {
    let used: BTreeSet<u32> = taken.values().copied().collect();
    slots.find(|slot| !used.contains(slot))
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
        let all = UserNamespaces::new(dir.path().to_owned(), 1..=2, LENGTH);
        let (a, b) = (all.of("a").unwrap(), all.of("b").unwrap());
        assert_eq!((begin(&a), begin(&b)), (65_536, 131_072));
        assert_eq!(all.of("a").unwrap(), a);
        assert!(matches!(all.of("c"), Err(UserNamespaceError::Full)));
        let after = UserNamespaces::new(dir.path().to_owned(), 1..=2, LENGTH);
        assert!(matches!(after.of("c"), Err(UserNamespaceError::Full)));
        after.release("a");
        assert_eq!(begin(&after.of("c").unwrap()), 65_536);
        let longer = UserNamespaces::new(dir.path().to_owned(), above_the_nodes(2 * LENGTH), 2 * LENGTH);
        let made = longer.of("d").unwrap();
        assert_eq!((begin(&made), made.uids[0].length), (131_072, 131_072));
        assert!(
            matches!(longer.of("b"), Err(UserNamespaceError::Record(_))),
            "it has a range of another length"
        );
    }

    #[test]
    fn ids_of_the_kubelets_user_are_whole_ranges() {
        let of = |text: &str, length, pods| {
            parse(text).and_then(|ids| whole(ids, length, pods)).map_err(|error| error.to_string())
        };
        assert_eq!(of("0: kubelet 65536 7208960\n", LENGTH, 110), Ok(1..=110));
        assert_eq!(of("\n0: kubelet 262144 131072", LENGTH, 2), Ok(4..=5));
        assert_eq!(of("0: kubelet 131072 262144", 2 * LENGTH, 2), Ok(1..=2));
        for (text, length, pods, why) in [
            ("", LENGTH, 1, "kubelet mappings: invalid line \"\""),
            ("0: kubelet 1 2\n1: kubelet 3 4\n", LENGTH, 1, "kubelet mappings: not one line:"),
            ("0: kubelet 65536 4294967296", LENGTH, 1, "kubelet mappings: error parsing line"),
            (
                "0: kubelet 65537 65536",
                LENGTH,
                1,
                "kubelet user assigned ID 65537 is not a multiple of 65536",
            ),
            ("0: kubelet 0 65536", LENGTH, 1, "kubelet user assigned ID 0 must be greater or equal to 65536"),
            (
                "0: kubelet 65536 65537",
                LENGTH,
                1,
                "kubelet user assigned IDs length 65537 is not a multiple of 65536",
            ),
            (
                "0: kubelet 65536 65536",
                LENGTH,
                2,
                "kubelet user assigned IDs are not enough to support 2 pods",
            ),
            ("0: kubelet 65536 0", LENGTH, 0, "kubelet user assigned IDs are not enough to support 0 pods"),
        ] {
            let error = of(text, length, pods).unwrap_err();
            assert!(error.starts_with(why), "{error}");
        }
        assert_eq!(above_the_nodes(LENGTH), 1..=65_534);
    }

    #[test]
    fn a_record_of_something_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let all = UserNamespaces::new(dir.path().to_owned(), 1..=9, LENGTH);
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
