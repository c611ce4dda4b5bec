//! Which container's memory comes from which nodes, on disk: `memory_manager_state` in the kubelet's folder, written whole and
//! atomically.
//!
//! The file is upstream's, with its checksum.

use std::{collections::BTreeMap, io, path::Path};

use serde::{Deserialize, Serialize};

use super::plan::{Block, Machine};
use crate::checkpoint::{self, Checkpoint, CheckpointError, go_list, go_map, go_nil};

/// The file's name.
pub const FILE: &str = "memory_manager_state";

/// What is on disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It does not read.
    #[error(transparent)]
    File(#[from] CheckpointError),
    /// It is another policy's.
    #[error(
        "[memorymanager] configured policy {configured:?} differs from state checkpoint policy {found:?}"
    )]
    Policy {
        /// What the configuration says.
        configured: String,
        /// What the file says.
        found: String,
    },
    /// It gives what the machine does not have.
    #[error(
        "[memorymanager] (pod: {pod}, container: {container}) the memory assignment uses what does not exist"
    )]
    Missing {
        /// Whose it is.
        pod: String,
        /// Whose of these.
        container: String,
    },
    /// The machine or what is reserved of it is another by now.
    #[error("[memorymanager] the expected machine state is different from the real one")]
    Machine,
}

/// What containers have, by pod and container.
pub type Given = BTreeMap<String, BTreeMap<String, Vec<Block>>>;

/// Who has what, and what is left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The machine's nodes.
    pub machine: Machine,
    /// What containers have of them.
    pub given: Given,
}

impl State {
    /// What a container has.
    #[must_use]
    pub fn of(&self, uid: &str, container: &str) -> Option<&[Block]> {
        self.given.get(uid)?.get(container).map(Vec::as_slice)
    }
}

/// The file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Stored {
    policy_name: String,
    machine_state: Option<Machine>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    entries: Given,
    /// Zero is none.
    checksum: u64,
}

impl Checkpoint for Stored {
    fn checksum(&mut self) -> &mut u64 {
        &mut self.checksum
    }

    fn printed(&self) -> String {
        let machine = go_nil(self.machine_state.as_ref(), |machine| {
            go_map(machine, |node| {
                let memory = go_map(&node.memory_map, |table| {
                    format!(
                        "<*>{{TotalMemSize:(uint64){} SystemReserved:(uint64){} Allocatable:(uint64){} \
                         Reserved:(uint64){} Free:(uint64){}}}",
                        table.total, table.system_reserved, table.allocatable, table.reserved, table.free
                    )
                });
                format!(
                    "<*>{{NumberOfAssignments:(int){} MemoryMap:(map[v1.ResourceName]*state.MemoryTable){memory} \
                     Cells:([]int){}}}",
                    node.number_of_assignments,
                    go_list(&node.cells)
                )
            })
        });
        let block = |block: &Block| {
            let nodes = go_list(&block.numa_affinity);
            let (kind, size) = (&block.kind, block.size);
            format!("{{NUMAAffinity:([]int){nodes} Type:(v1.ResourceName){kind} Size:(uint64){size}}}")
        };
        let entries = go_map(&self.entries, |own| go_map(own, |blocks| go_list(blocks.iter().map(block))));
        format!(
            "(*state.MemoryManagerCheckpoint){{PolicyName:(string){} MachineState:(state.NUMANodeMap){machine} \
             Entries:(state.ContainerMemoryAssignments){entries} Checksum:(checksum.Checksum)0}}",
            self.policy_name
        )
    }
}

/// Writes it down.
///
/// # Errors
/// When the folder cannot be written to.
pub fn write(path: &Path, state: &State) -> io::Result<()> {
    let stored = Stored {
        policy_name: super::STATIC.to_owned(),
        machine_state: Some(state.machine.clone()),
        entries: state.given.clone(),
        checksum: 0,
    };
    checkpoint::write(path, stored)
}

/// What was written down, if anything was: what the machine was, and who has what of it.
///
/// # Errors
/// When the file does not read or is another policy's.
pub fn read(path: &Path, policy: &str) -> Result<Option<State>, StateError> {
    let Some(stored) = checkpoint::read::<Stored>(path)? else { return Ok(None) };
    if stored.policy_name != policy {
        return Err(StateError::Policy { configured: policy.to_owned(), found: stored.policy_name });
    }
    Ok(Some(State { machine: stored.machine_state.unwrap_or_default(), given: stored.entries }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A file that upstream's kubelet takes, with the sum it has there.
    const UPSTREAMS: &str = r#"{"policyName":"static",
        "machineState":{"0":{"numberOfAssignments":0,"memoryMap":{"memory":{"total":2048,"systemReserved":512,
            "allocatable":1536,"reserved":512,"free":1024}},"cells":[]}},
        "entries":{"pod":{"container1":[{"numaAffinity":[0],"type":"memory","size":512}]}},
        "checksum":4215593881}"#;

    #[test]
    fn sums_are_upstreams() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        assert_eq!(read(&path, "static").unwrap(), None);
        fs::write(&path, UPSTREAMS).unwrap();
        let state = read(&path, "static").unwrap().unwrap();
        assert_eq!(state.of("pod", "container1").unwrap()[0].size, 512);
        let error = read(&path, "Static").unwrap_err().to_string();
        assert_eq!(
            error,
            "[memorymanager] configured policy \"Static\" differs from state checkpoint policy \"static\""
        );
        for (bad, expected) in [
            (UPSTREAMS.replace("1024", "1025"), "corrupted"),
            (UPSTREAMS.replace("\"size\":512", "\"size\":-1"), "invalid"),
            (UPSTREAMS[..UPSTREAMS.len() / 2].to_owned(), "EOF"),
        ] {
            fs::write(&path, bad).unwrap();
            let error = read(&path, "static").unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        fs::write(&path, UPSTREAMS.replace("4215593881", "0").replace("1024", "7")).unwrap();
        assert!(read(&path, "static").is_ok(), "without a sum");
    }

    #[test]
    fn what_is_written_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        fs::write(&path, UPSTREAMS).unwrap();
        let state = read(&path, "static").unwrap().unwrap();
        write(&path, &state).unwrap();
        assert_eq!(read(&path, "Static").unwrap(), Some(state));
    }
}
