//! `workloads` of scheduling.k8s.io: templates of groups of pods.

use std::sync::Arc;

use component_base::features::{Gate, Gates};
use serde_json::Value;

use super::groups;
use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Resource,
        kit::{
            NAME_AND_AGE, Plain, Rules,
            at::At,
            declared::{self, Declared},
            fill, format,
        },
    },
};

const MAX_TEMPLATES: usize = 8;

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1alpha2"],
        storage_version: "v1alpha2",
        gate: Some(Gate::GenericWorkload),
        strategy: Arc::new(Rules {
            create: |workload, ctx| drop_gated(workload, None, ctx.gates),
            change: |new, old, ctx| drop_gated(new, Some(old), ctx.gates),
            validate_gated: check,
            ..Rules::new(Plain { status: false, generation: false, cells: NAME_AND_AGE })
        }),
        ..Resource::of("scheduling.k8s.io", "Workload", "workloads", "workload")
    }
}

fn drop_gated(workload: &mut Object, old: Option<&Object>, gates: Gates) {
    let before: Vec<At<'_>> =
        old.map(|old| At::spec(old).get("podGroupTemplates").items().collect()).unwrap_or_default();
    let Some(spec) = fill::child(workload.as_map_mut(), "spec") else { return };
    let templates = spec.get_mut("podGroupTemplates").and_then(Value::as_array_mut);
    for (i, template) in templates.into_iter().flatten().enumerate() {
        if let Some(template) = template.as_object_mut() {
            groups::drop_gated(template, before.get(i), gates);
        }
    }
}

fn check(workload: &Object, old: Option<&Object>, gates: Gates, errors: &mut ErrorList) {
    let (spec, was) = (At::spec(workload), old.map(At::spec));
    let was = |field: &'static str| was.as_ref().map(|was| was.get(field));
    let (owner, before) = (spec.get("controllerRef"), was("controllerRef"));
    let reference = Declared::new(&owner, before.as_ref());
    if !reference.is_unchanged() && reference.check_immutable(errors) && owner.is_set() {
        owner.get("apiGroup").check_option_format(errors, format::dns_subdomain);
        owner.get("kind").check_path_name(errors);
        owner.get("name").check_path_name(errors);
    }
    let (templates, before) = (spec.get("podGroupTemplates"), was("podGroupTemplates"));
    let all = Declared::new(&templates, before.as_ref());
    if all.is_unchanged() {
        return;
    }
    let (may, few) =
        (all.check_immutable(errors), declared::check_members(&templates, MAX_TEMPLATES, errors));
    if !templates.check_required(errors) || !may || !few {
        return;
    }
    declared::check_unique(&templates, "name", errors);
    for template in templates.items() {
        template.get("name").check_required_format(errors, format::dns_label);
        groups::check(&template, None, false, gates, errors);
    }
}
