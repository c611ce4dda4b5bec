//! `podgroups` of scheduling.k8s.io: pods that are scheduled together.

use std::sync::Arc;

use component_base::features::{Gate, Gates};
use serde_json::Value;

use super::groups;
use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource, StrategyContext, Subresource,
        kit::{
            Cell, Plain, Rules,
            at::At,
            column, conditions,
            declared::{self, Declared},
            fill, format, items, text,
        },
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Policy", "string"),
    column("Workload", "string"),
    column("Status", "string"),
    column("Age", "string"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::With(policy),
    Cell::Field("/spec/podGroupTemplateRef/workload/workloadName", "<none>"),
    Cell::With(state),
    Cell::Age,
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1alpha2"],
        storage_version: "v1alpha2",
        subresources: &[Subresource::Status],
        columns: COLUMNS,
        gate: Some(Gate::GenericWorkload),
        strategy: Arc::new(Rules {
            default: |group| {
                if let Some(spec) = fill::spec(group) {
                    groups::default(spec);
                }
            },
            create: |group, ctx| drop_gated(group, None, ctx),
            change: |new, old, ctx| drop_gated(new, Some(old), ctx),
            validate_gated: check,
            validate_status,
            status_alone: true,
            ..Rules::new(Plain { status: true, generation: false, cells: CELLS })
        }),
        ..Resource::of("scheduling.k8s.io", "PodGroup", "podgroups", "podgroup")
    }
}

fn policy(group: &Object) -> Value {
    let gang = group.pointer("/spec/schedulingPolicy/gang").is_some_and(|gang| !gang.is_null());
    if gang { "Gang".into() } else { "Basic".into() }
}

fn state(group: &Object) -> Value {
    let condition = |kind: &str| {
        items(group.pointer("/status/conditions")).filter(|one| text(one, "/type") == kind).last()
    };
    match (condition("DisruptionTarget"), condition("PodGroupScheduled")) {
        (Some(disrupted), _) => text(disrupted, "/reason").into(),
        (None, Some(scheduled)) if text(scheduled, "/status") == "True" => "Scheduled".into(),
        (None, Some(_)) => "Unschedulable".into(),
        (None, None) => "Pending".into(),
    }
}

fn drop_gated(group: &mut Object, old: Option<&Object>, ctx: &StrategyContext<'_>) {
    let was = old.map(At::spec);
    if ctx.subresource == "status" {
        let claims = was.as_ref().is_some_and(|was| !was.get("resourceClaims").is_empty());
        let status = fill::child(group.as_map_mut(), "status");
        if let Some(status) = status.filter(|_| !claims && !ctx.gates.has(Gate::DRAWorkloadResourceClaims)) {
            status.remove("resourceClaimStatuses");
        }
    } else if let Some(spec) = fill::child(group.as_map_mut(), "spec") {
        groups::drop_gated(spec, was.as_ref(), ctx.gates);
    }
}

fn check(group: &Object, old: Option<&Object>, gates: Gates, errors: &mut ErrorList) {
    let (spec, was) = (At::spec(group), old.map(At::spec));
    let (of, before) =
        (spec.get("podGroupTemplateRef"), was.as_ref().map(|was| was.get("podGroupTemplateRef")));
    let reference = Declared::new(&of, before.as_ref());
    if !reference.is_unchanged() && reference.check_immutable(errors) && of.is_set() {
        reference.check_union(&["workload"], errors);
        let workload = of.get("workload");
        if workload.is_set() {
            workload.get("workloadName").check_required_format(errors, format::dns_subdomain);
            workload.get("podGroupTemplateName").check_required_format(errors, format::dns_label);
        }
    }
    groups::check(&spec, was.as_ref(), true, gates, errors);
}

fn validate_status(new: &Object, old: &Object, errors: &mut ErrorList) {
    let (status, was) = (At::status(new), At::status(old));
    conditions::check(&status.get("conditions"), errors);
    let claims = At::spec(new).get("resourceClaims");
    let (now, before) = (status.get("resourceClaimStatuses"), was.get("resourceClaimStatuses"));
    for name in now.items().map(|one| one.get("name")) {
        if !claims.items().any(|claim| claim.text_of("name") == name.text()) {
            name.invalid_as(errors, name.text(), "must match the name of an entry in `spec.resourceClaims`");
        }
    }
    if Declared::new(&now, Some(&before)).is_unchanged()
        || !declared::check_members(&now, groups::MAX_CLAIMS, errors)
    {
        return;
    }
    declared::check_unique(&now, "name", errors);
    for one in now.items() {
        declared::check_format_if_set(&one.get("resourceClaimName"), format::dns_subdomain, errors);
    }
}
