//! Where upstream's facts (discovery, schemas, golden objects, roles, flags) stand, for tests that compare with them.

use std::{env, fs, path::PathBuf};

use crate::flags::{FlagSet, Kind};

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
    let list = flags(set);
    // Every set has those two.
    let has = |name: &&str| ["help", "version"].contains(name) || set.flags().iter().any(|f| f.name == *name);
    names(&list).map(|[name, ..]| name).filter(|name| !has(name)).map(str::to_owned).collect()
}

/// Flags of a set whose kind or default is not that of upstream's, with upstream's; none without the reference. Kinds
/// of the language's own making are not compared.
pub fn flags_differing(set: &FlagSet) -> Vec<String> {
    let list = flags(set);
    let mut out = Vec::new();
    for [name, kind, default] in names(&list) {
        let Some(flag) = set.flags().iter().find(|flag| flag.name == name) else { continue };
        let is_other = kind_of(kind).is_some_and(|kind| kind != flag.kind);
        if is_other || plain(default) != plain(&flag.default) {
            out.push(format!("{name}: {kind} {default}"));
        }
    }
    out
}

/// A heading, then a line for each.
fn flags(set: &FlagSet) -> String {
    let path = reference("flags").map(|folder| folder.join(format!("{}.tsv", set.program())));
    path.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default()
}

/// Name, kind and default of each.
fn names(list: &str) -> impl Iterator<Item = [&str; 3]> {
    list.lines().skip(1).map(|line| {
        let mut fields = line.split('\t');
        std::array::from_fn(|_| fields.next().unwrap_or_default())
    })
}

fn kind_of(kind: &str) -> Option<Kind> {
    Some(match kind {
        "bool" => Kind::Bool,
        "int" | "int32" => Kind::Int,
        "float" | "float32" => Kind::Float,
        "string" => Kind::String,
        "duration" => Kind::Duration,
        "ip" => Kind::Ip,
        "quantity" => Kind::Quantity,
        "strings" => Kind::Strings,
        _ => return None,
    })
}

/// A default without the marks of its kind; nothing for what is off, nought or empty.
fn plain(default: &str) -> &str {
    let text = default.trim_matches('"');
    let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if ["false", "0", "0s"].contains(&text) { "" } else { text }
}
