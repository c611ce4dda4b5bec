//! Where upstream's facts (discovery, schemas, golden objects, roles, flags) stand, for tests that compare with them.

use std::{env, fs, path::PathBuf};

use crate::flags::FlagSet;

/// The folder that `KEELSON_REFERENCE` names, else the one beside the source tree; none where neither has `part`.
///
/// A test that gets none has nothing to compare with and passes.
#[expect(clippy::print_stderr, reason = "who runs the tests is told")]
pub fn reference(part: &str) -> Option<PathBuf> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference");
    let found = env::var_os("KEELSON_REFERENCE").map_or_else(beside, PathBuf::from).join(part);
    if !found.exists() {
        eprintln!("skipped: no reference data at {}", found.display());
        return None;
    }
    Some(found)
}

/// Flags of upstream's program of the same name that a set lacks; none without the reference.
pub fn flags_lacking(set: &FlagSet) -> Vec<String> {
    let path = reference("flags").map(|folder| folder.join(format!("{}.tsv", set.program())));
    let list = path.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    // A heading, then a line for each, its name first. Every set has those two.
    let names = list.lines().skip(1).filter_map(|line| line.split('\t').next());
    let has = |name: &&str| ["help", "version"].contains(name) || set.flags().iter().any(|f| f.name == *name);
    names.filter(|name| !has(name)).map(str::to_owned).collect()
}
