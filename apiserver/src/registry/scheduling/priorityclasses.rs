//! `priorityclasses` of scheduling.k8s.io.

use std::sync::Arc;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, at::At, column, fill},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Value", "integer"),
    column("Global-Default", "boolean"),
    column("Age", "string"),
    column("PreemptionPolicy", "string"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Field("/value", "0"),
    Cell::Field("/globalDefault", "false"),
    Cell::Age,
    Cell::Field("/preemptionPolicy", ""),
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["pc"],
        namespaced: false,
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            // It is counted once: nothing of it that matters may change.
            create: |class, _| drop(class.metadata_mut().insert("generation".to_owned(), 1.into())),
            validate_new: validate,
            validate_change,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
        ..Resource::of("scheduling.k8s.io", "PriorityClass", "priorityclasses", "priorityclass")
    }
}

/// Its pods may push others out.
fn default(obj: &mut Object) {
    fill::absent(obj.as_map_mut(), "preemptionPolicy", "PreemptLowerPriority");
}

/// Greatest priority a user may define.
const HIGHEST: i64 = 1_000_000_000;
const SYSTEM: [(&str, i64); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

fn validate(obj: &Object, errors: &mut ErrorList) {
    let value = At::field(obj, "value");
    if obj.name().starts_with("system-") {
        let known = SYSTEM.iter().find(|(name, _)| *name == obj.name());
        let why = match known {
            None => Some(format!("{} is not a known system priority class", obj.name())),
            Some((name, want)) if *want != value.int() => {
                Some(format!("value of {name} PriorityClass must be {want}"))
            }
            Some((name, _)) if At::field(obj, "globalDefault").is_true() => {
                Some(format!("globalDefault of {name} PriorityClass must be false"))
            }
            Some(_) => None,
        };
        if let Some(why) = why {
            At::field(obj, "metadata").get("name").forbidden(
                errors,
                format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
                ),
            );
        }
    } else if value.int() > HIGHEST {
        value.forbidden(errors, format!("maximum allowed value of a user defined priority is {HIGHEST}"));
    }
    let policy = At::field(obj, "preemptionPolicy");
    if policy.is_set() {
        policy.check_among(errors, &["PreemptLowerPriority", "Never"]);
    }
}

fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    let value = At::field(new, "value");
    if value.int() != At::field(old, "value").int() {
        value.forbidden(errors, "may not be changed in an update.");
    }
    At::field(new, "preemptionPolicy").check_unchanged(&At::field(old, "preemptionPolicy"), errors);
}
