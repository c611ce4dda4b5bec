//! `storageclasses` of storage.k8s.io.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;

use crate::{
    field::{Error, ErrorList},
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, at::At, column, fill, format},
        pod_spec::warnings_of_node_label,
        storage::provision,
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Provisioner", "string"),
    column("ReclaimPolicy", "string"),
    column("VolumeBindingMode", "string"),
    column("AllowVolumeExpansion", "string"),
    column("Age", "string"),
];
const CELLS: &[Cell] = &[
    Cell::With(name),
    Cell::Field("/provisioner", ""),
    Cell::Field("/reclaimPolicy", "Delete"),
    Cell::Field("/volumeBindingMode", "Immediate"),
    Cell::Field("/allowVolumeExpansion", "false"),
    Cell::Age,
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["sc"],
        namespaced: false,
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            validate,
            validate_change,
            warnings,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
        returns_deleted: true,
        ..Resource::of("storage.k8s.io", "StorageClass", "storageclasses", "storageclass")
    }
}

/// Volumes are bound at once and go with their claims.
fn default(obj: &mut Object) {
    fill::absent(obj.as_map_mut(), "reclaimPolicy", "Delete");
    fill::absent(obj.as_map_mut(), "volumeBindingMode", "Immediate");
}

fn validate(class: &Object, errors: &mut ErrorList) {
    provision::check_provisioner(&At::field(class, "provisioner"), errors);
    provision::check_parameters(&At::field(class, "parameters"), errors);
    let policy = At::field(class, "reclaimPolicy");
    if !policy.is_empty() {
        policy.check_is_one_of(errors, &["Delete", "Retain"]);
    }
    let mode = At::field(class, "volumeBindingMode");
    if mode.check_there(errors) {
        mode.check_is_one_of(errors, &["Immediate", "WaitForFirstConsumer"]);
    }
    check_topologies(&At::field(class, "allowedTopologies"), errors);
}

/// Where volumes may be made: labels with values, each term once.
fn check_topologies(topologies: &At<'_>, errors: &mut ErrorList) {
    let mut terms: Vec<BTreeMap<&str, BTreeSet<&str>>> = vec![BTreeMap::new(); topologies.len()];
    for topology in topologies.items() {
        let mut term = BTreeMap::new();
        let expressions = topology.get("matchLabelExpressions");
        for expression in expressions.items() {
            let (key, values) = (expression.get("key"), expression.get("values"));
            values.check_required(errors);
            let mut set = BTreeSet::new();
            for value in values.items() {
                if !set.insert(value.text()) {
                    value.duplicate(errors);
                }
            }
            key.check_format(errors, format::qualified_name);
            if term.insert(key.text(), set).is_some() {
                key.duplicate(errors);
            }
        }
        // A term that says nothing is the same as what stands in for every term.
        for _ in 0..terms.iter().filter(|other| **other == term).count() {
            errors.push(Error::duplicate(expressions.path(), ""));
        }
        terms.push(term);
    }
}

/// What volumes are made of stays.
fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
        At::field(new, field).check_unchanged(&At::field(old, field), errors);
    }
}

fn warnings(class: &Object, _old: Option<&Object>) -> Vec<String> {
    let topologies = At::field(class, "allowedTopologies");
    let expressions = topologies.items().flat_map(|topology| topology.get("matchLabelExpressions").items());
    let keys = expressions.map(|expression| expression.get("key"));
    keys.filter_map(|key| Some(format!("{}: {}", key.path(), warnings_of_node_label(key.text())?))).collect()
}

/// The name, and whether claims without a class are of this one.
fn name(class: &Object) -> Value {
    const DEFAULT: [&str; 2] =
        ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
    let default = DEFAULT.iter().any(|key| class.annotation(key) == Some("true"));
    format!("{}{}", class.name(), if default { " (default)" } else { "" }).into()
}
