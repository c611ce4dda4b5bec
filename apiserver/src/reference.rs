//! Where upstream's facts (discovery, schemas, golden objects, roles) stand, for tests that compare with them.

use std::{env, path::PathBuf};

/// The folder that `KEELSON_REFERENCE` names, else the one beside the source tree; none where neither has `part`.
///
/// A test that gets none has nothing to compare with and passes.
pub(crate) fn reference(part: &str) -> Option<PathBuf> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference");
    let found = env::var_os("KEELSON_REFERENCE").map_or_else(beside, PathBuf::from).join(part);
    if !found.exists() {
        eprintln!("skipped: no reference data at {}", found.display());
        return None;
    }
    Some(found)
}
