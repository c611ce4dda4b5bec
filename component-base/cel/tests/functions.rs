//! The functions that Kubernetes 1.36 gives to expressions are there.

use std::collections::BTreeSet;

/// Ids of overloads: those of the language, of its extensions in the versions Kubernetes takes, of Kubernetes' libraries. Those
/// there are one of for each type of items (`list_int_sum_int`) are not among them.
const IDS: &str = include_str!("functions.txt");

#[test]
fn no_function_is_missing() {
    let ours: BTreeSet<&str> = cel_engine::library::functions().flat_map(|(_, ids)| ids).collect();
    let wanted = IDS.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace);
    let missing: Vec<&str> = wanted.filter(|id| !ours.contains(id)).collect();
    assert_eq!(missing, Vec::<&str>::new());
    for kind in ["int", "uint", "double", "bool", "string", "bytes", "duration", "timestamp"] {
        for id in ["list_%_is_sorted_bool", "list_%_max_%", "list_%_min_%", "list_%_sort"] {
            let id = id.replace('%', kind);
            assert!(ours.contains(id.as_str()), "{id}");
        }
    }
    for kind in ["int", "uint", "double", "duration"] {
        assert!(ours.contains(format!("list_{kind}_sum_{kind}").as_str()), "{kind}");
    }
}
