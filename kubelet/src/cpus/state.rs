//! Who has which processors, on disk: `cpu_manager_state` in the kubelet's folder, written whole and atomically.
//!
//! The file is upstream's, with its checksum.

use std::{collections::BTreeMap, io, path::Path};

use serde::{Deserialize, Serialize};

use super::set::{BadList, CpuSet};
use crate::checkpoint::{self, Checkpoint, CheckpointError, go_map};

/// The file's name.
pub const FILE: &str = "cpu_manager_state";

/// What is on disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It does not read.
    #[error(transparent)]
    File(#[from] CheckpointError),
    /// A list in it is none.
    #[error(transparent)]
    List(#[from] BadList),
    /// It is another policy's.
    #[error("configured policy {configured:?} differs from state checkpoint policy {found:?}")]
    Policy {
        /// What the configuration says.
        configured: String,
        /// What the file says.
        found: String,
    },
    /// The machine is another one by now.
    #[error("current set of available CPUs \"{available}\" doesn't match with CPUs in state \"{found}\"")]
    Machine {
        /// What there is.
        available: CpuSet,
        /// What was there.
        found: CpuSet,
    },
    /// Somebody has what is reserved by now.
    #[error("not all reserved cpus: \"{reserved}\" are present in defaultCpuSet: \"{shared}\"")]
    Reserved {
        /// What is kept from pods.
        reserved: CpuSet,
        /// What is shared.
        shared: CpuSet,
    },
    /// Two have the same.
    #[error("CPUs {0} are given more than once")]
    Twice(CpuSet),
}

/// The file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Stored {
    policy_name: String,
    default_cpu_set: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    entries: BTreeMap<String, BTreeMap<String, String>>,
    /// Zero is none.
    checksum: u64,
}

impl Checkpoint for Stored {
    fn checksum(&mut self) -> &mut u64 {
        &mut self.checksum
    }

    fn printed(&self) -> String {
        let entries = go_map(&self.entries, |own| go_map(own, String::clone));
        format!(
            "(*state.CPUManagerCheckpoint){{PolicyName:(string){} DefaultCPUSet:(string){} \
             Entries:(map[string]map[string]string){entries} Checksum:(checksum.Checksum)0}}",
            self.policy_name, self.default_cpu_set
        )
    }
}

/// Who has which processors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Everybody else's.
    pub shared: CpuSet,
    /// By pod and container.
    given: BTreeMap<String, BTreeMap<String, CpuSet>>,
    /// All that were ever shared, so that what is given back is known to belong there.
    all: CpuSet,
}

impl State {
    /// What a container has for itself.
    #[must_use]
    pub fn of(&self, uid: &str, container: &str) -> Option<&CpuSet> {
        self.given.get(uid)?.get(container)
    }

    /// Gives a pod's container its own.
    pub fn give(&mut self, uid: &str, container: &str, cpus: CpuSet) {
        self.given.entry(uid.to_owned()).or_default().insert(container.to_owned(), cpus);
        self.share();
    }

    /// Takes back what others have than these pods; says whether anybody had any.
    pub fn retain(&mut self, keeps: impl Fn(&str) -> bool) -> bool {
        let before = self.given.len();
        self.given.retain(|uid, _| keeps(uid));
        self.share();
        before != self.given.len()
    }

    fn share(&mut self) {
        let given = self.given.values().flat_map(BTreeMap::values);
        self.shared = given.fold(self.all.clone(), |rest, own| rest.minus(own));
    }

    /// Writes it down.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let text = |cpus: &BTreeMap<String, CpuSet>| {
            cpus.iter().map(|(name, own)| (name.clone(), own.to_string())).collect()
        };
        let stored = Stored {
            policy_name: "static".to_owned(),
            default_cpu_set: self.shared.to_string(),
            entries: self.given.iter().map(|(uid, cpus)| (uid.clone(), text(cpus))).collect(),
            checksum: 0,
        };
        checkpoint::write(path, stored)
    }
}

fn read(path: &Path, policy: &str) -> Result<Option<Stored>, StateError> {
    let Some(stored) = checkpoint::read::<Stored>(path)? else { return Ok(None) };
    if stored.policy_name != policy {
        return Err(StateError::Policy { configured: policy.to_owned(), found: stored.policy_name });
    }
    Ok(Some(stored))
}

/// Makes sure that no other policy left something.
///
/// # Errors
/// When one did.
pub fn expect(path: &Path, policy: &str) -> Result<(), StateError> {
    read(path, policy).map(drop)
}

/// What was written down, or nothing given yet. `all` are the processors that are shared when nothing is given; those of
/// them that are `reserved` nobody has.
///
/// # Errors
/// When the file does not read or does not fit the machine.
pub fn load(path: &Path, all: &CpuSet, reserved: &CpuSet) -> Result<State, StateError> {
    let mut state = State { shared: all.clone(), all: all.clone(), given: BTreeMap::new() };
    let Some(stored) = read(path, "static")? else { return Ok(state) };
    let shared: CpuSet = stored.default_cpu_set.parse()?;
    if shared.is_empty() && stored.entries.is_empty() {
        // It was written before anything was known.
        return Ok(state);
    }
    let reserved = reserved.and(all);
    if !reserved.minus(&shared).is_empty() {
        return Err(StateError::Reserved { reserved, shared });
    }
    let mut found = shared;
    for (uid, containers) in stored.entries {
        // Containers of one pod may have the same one after the other; those of two pods may not.
        let mut own = CpuSet::default();
        for (name, text) in containers {
            let cpus: CpuSet = text.parse()?;
            own = own.plus(&cpus);
            state.given.entry(uid.clone()).or_default().insert(name, cpus);
        }
        let twice = found.and(&own);
        if !twice.is_empty() {
            return Err(StateError::Twice(twice));
        }
        found = found.plus(&own);
    }
    if found != *all {
        return Err(StateError::Machine { available: all.clone(), found });
    }
    state.share();
    Ok(state)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Sums that upstream's kubelet writes.
    #[test]
    fn sums_are_upstreams() {
        let two = BTreeMap::from([("container1", "4-6"), ("container2", "1-3")]);
        for (policy, shared, containers, sum) in [
            ("none", "4-6", None, 354_655_845),
            ("other", "1-3", None, 1_394_507_217),
            ("none", "1-3", Some(two), 3_610_638_499),
        ] {
            let own = |list: BTreeMap<&str, &str>| {
                list.into_iter().map(|(name, cpus)| (name.to_owned(), cpus.to_owned())).collect()
            };
            let stored = Stored {
                policy_name: policy.to_owned(),
                default_cpu_set: shared.to_owned(),
                entries: containers.map(|list| ("pod".to_owned(), own(list))).into_iter().collect(),
                checksum: 9,
            };
            assert_eq!(checkpoint::sum(&stored), sum);
        }
    }

    #[test]
    fn a_file_has_to_fit_the_machine_and_what_is_reserved() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let set = |text: &str| text.parse::<CpuSet>().unwrap();
        let load = |shared: &str, entries: &str, all: &str, reserved: &str| {
            let text = format!(
                r#"{{"policyName":"static","defaultCpuSet":"{shared}","entries":{entries},"checksum":0}}"#
            );
            fs::write(&path, text).unwrap();
            load(&path, &set(all), &set(reserved))
                .map(|state| state.shared.to_string())
                .map_err(|e| e.to_string())
        };
        let (none, one) = ("{}", r#"{"u":{"c":"1-2"}}"#);
        assert_eq!(load("", none, "0-3", "0").as_deref(), Ok("0-3"));
        assert_eq!(load("0,3", one, "0-3", "0").as_deref(), Ok("0,3"));
        assert_eq!(load("3", one, "1-3", "0").as_deref(), Ok("3"), "what is strictly reserved is not shared");
        for (shared, all, reserved, text) in [
            ("0,3", "0-3", "0-1", "not all reserved cpus: \"0-1\" are present in defaultCpuSet: \"0,3\""),
            (
                "0,3",
                "1-3",
                "0",
                "current set of available CPUs \"1-3\" doesn't match with CPUs in state \"0-3\"",
            ),
            ("0,2-3", "0-3", "0", "CPUs 2 are given more than once"),
        ] {
            assert_eq!(load(shared, one, all, reserved).unwrap_err(), text);
        }
    }

    #[test]
    fn a_file_that_was_changed_or_cut_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let all: CpuSet = "0-3".parse().unwrap();
        let mut state = load(&path, &all, &CpuSet::default()).unwrap();
        state.give("u", "c", "1".parse().unwrap());
        state.write(&path).unwrap();
        assert_eq!(load(&path, &all, &CpuSet::default()).unwrap(), state);
        let text = fs::read_to_string(&path).unwrap();
        let changed = text.replace("\"c\":\"1\"", "\"c\":\"2\"").replace("0,2-3", "0-1,3");
        for (bad, expected) in
            [(changed.as_str(), "corrupted"), (&text[..text.len() / 2], "EOF"), ("", "EOF")]
        {
            fs::write(&path, bad).unwrap();
            let error = load(&path, &all, &CpuSet::default()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let start = changed.rfind(",\"checksum\"").unwrap();
        fs::write(&path, format!("{}}}", &changed[..start])).unwrap();
        assert_eq!(
            load(&path, &all, &CpuSet::default()).unwrap().of("u", "c"),
            Some(&"2".parse().unwrap()),
            "without a sum"
        );
    }
}
