//! `runtimeclasses` of node.k8s.io.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::json;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, at::At, column, format, resources},
        pod_spec::{check_comparing, check_tolerations, warnings_of_node_label},
    },
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("Handler", "string"), column("Age", "string")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Field("/handler", ""), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        namespaced: false,
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            unconditional_update: false,
            create_on_update: true,
            validate,
            validate_change,
            warnings,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
        ..Resource::of("node.k8s.io", "RuntimeClass", "runtimeclasses", "runtimeclass")
    }
}

fn validate(obj: &Object, errors: &mut ErrorList) {
    let handler = At::field(obj, "handler");
    if handler.check_required(errors) {
        handler.check_format(errors, format::dns_label);
    }
    check_overhead(&At::field(obj, "overhead"), errors);
    let scheduling = At::field(obj, "scheduling");
    scheduling.get("nodeSelector").check_labels(errors);
    let tolerations = scheduling.get("tolerations");
    check_tolerations(&tolerations, errors);
    check_comparing(&tolerations, false, errors);
    let mut seen = BTreeSet::new();
    for toleration in tolerations.items() {
        let part = |field| toleration.text_of(field);
        if !seen.insert((part("key"), part("operator"), part("value"), part("effect"))) {
            toleration.duplicate(errors);
        }
    }
}

fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    At::field(new, "handler").check_unchanged(&At::field(old, "handler"), errors);
}

/// What a pod costs beside its containers, held against the rules for limits.
fn check_overhead(overhead: &At<'_>, errors: &mut ErrorList) {
    let limits = json!({"limits": overhead.get("podFixed").value()});
    let rule = resources::Rule {
        names: resources::check_container_name,
        claims: &BTreeSet::new(),
        broken_pages: false,
    };
    resources::check_requirements(&At::new(&limits, overhead.path().clone()), rule, errors);
}

fn warnings(class: &Object, _old: Option<&Object>) -> Vec<String> {
    let labels = At::field(class, "scheduling").get("nodeSelector");
    let deprecated = labels.entries().filter_map(|(label, _)| warnings_of_node_label(label));
    deprecated.map(|message| format!("{}: {message}", labels.path())).collect()
}
