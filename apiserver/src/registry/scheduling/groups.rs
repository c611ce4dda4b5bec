//! What groups of pods and templates of them have in common.
//!
//! Contract: scheduling.k8s.io/v1alpha2 `PodGroupSpec` and `PodGroupTemplate` (KEP-4671), with the fields of KEP-5732
//! (topology), KEP-5710 (preemption) and KEP-5729 (claims), each behind a gate of its own.

use component_base::features::{Gate, Gates};

use crate::{
    field::ErrorList,
    registry::kit::{
        at::At,
        declared::{self, Declared},
        fill::{self, Fields},
        format,
    },
};

/// Fields, and the gates they are behind.
const GATED: [(&str, Gate); 5] = [
    ("schedulingConstraints", Gate::TopologyAwareWorkloadScheduling),
    ("resourceClaims", Gate::DRAWorkloadResourceClaims),
    ("disruptionMode", Gate::WorkloadAwarePreemption),
    ("priorityClassName", Gate::WorkloadAwarePreemption),
    ("priority", Gate::WorkloadAwarePreemption),
];
const HIGHEST_PRIORITY: i64 = 1_000_000_000;
const LOWEST_PRIORITY: i64 = i32::MIN as i64;
pub(super) const MAX_CLAIMS: usize = 4;

/// Takes out fields whose gate is off, but those that are there already.
pub(super) fn drop_gated(group: &mut Fields, old: Option<&At<'_>>, gates: Gates) {
    for (field, gate) in GATED {
        let was = |old: &At<'_>| !old.get(field).is_empty();
        if !gates.has(gate) && !old.is_some_and(was) {
            group.remove(field);
        }
    }
}

/// Groups of an object say how they are disrupted.
pub(super) fn default(spec: &mut Fields) {
    fill::missing(spec, "disruptionMode", "Pod");
}

/// The fields that a group and a template have; those of a group stay as they are.
pub(super) fn check(new: &At<'_>, old: Option<&At<'_>>, stays: bool, gates: Gates, errors: &mut ErrorList) {
    let was = |field: &'static str| old.map(|old| old.get(field));
    let part = |field: &'static str, check: &mut dyn FnMut(Declared<'_, '_>)| {
        let (now, before) = (new.get(field), was(field));
        let declared = Declared::new(&now, before.as_ref());
        if !declared.is_unchanged() {
            check(declared);
        }
    };
    part("schedulingPolicy", &mut |field| {
        if !stays || field.check_immutable(errors) {
            check_policy(field, errors);
        }
    });
    part("schedulingConstraints", &mut |field| {
        if is_open(field, Gate::TopologyAwareWorkloadScheduling, stays, gates, errors) {
            check_constraints(field.new, errors);
        }
    });
    part("resourceClaims", &mut |field| {
        // Claims of a template stay as they are, too.
        let (stays, few) =
            (field.check_immutable(errors), declared::check_members(field.new, MAX_CLAIMS, errors));
        if stays && few {
            check_claims(field.new, errors);
        }
    });
    part("disruptionMode", &mut |field| {
        let preempts = gates.has(Gate::WorkloadAwarePreemption);
        if stays && preempts && !field.new.is_set() {
            field.new.required(errors, "");
        }
        if is_open(field, Gate::WorkloadAwarePreemption, stays, gates, errors) {
            field.new.check_option_of(errors, &["Pod", "PodGroup"]);
        }
    });
    part("priorityClassName", &mut |field| {
        if is_open(field, Gate::WorkloadAwarePreemption, stays, gates, errors) {
            field.new.check_format(errors, format::dns_subdomain);
        }
    });
    part("priority", &mut |field| {
        if is_open(field, Gate::WorkloadAwarePreemption, stays, gates, errors) {
            declared::check_between(field.new, LOWEST_PRIORITY, HIGHEST_PRIORITY, errors);
        }
    });
}

/// Whether a changed field behind a gate is there and may be looked at.
fn is_open(field: Declared<'_, '_>, gate: Gate, stays: bool, gates: Gates, errors: &mut ErrorList) -> bool {
    if gates.has(gate) {
        let may = !stays || field.check_immutable(errors);
        return may && !field.new.is_empty();
    }
    if !field.new.is_empty() {
        field.new.forbidden(errors, "");
    }
    false
}

fn check_policy(policy: Declared<'_, '_>, errors: &mut ErrorList) {
    policy.check_union(&["basic", "gang"], errors);
    let gang = policy.new.get("gang");
    if gang.is_set() {
        let count = gang.get("minCount");
        if count.int() == 0 {
            count.required(errors, "");
        } else {
            declared::check_between(&count, 1, i64::MAX, errors);
        }
    }
}

fn check_constraints(constraints: &At<'_>, errors: &mut ErrorList) {
    let topology = constraints.get("topology");
    if declared::check_members(&topology, 1, errors) {
        topology.items().for_each(|one| one.get("key").check_required_format(errors, format::qualified_name));
    }
}

fn check_claims(claims: &At<'_>, errors: &mut ErrorList) {
    declared::check_unique(claims, "name", errors);
    for claim in claims.items() {
        Declared::new(&claim, None).check_union(&["resourceClaimName", "resourceClaimTemplateName"], errors);
        claim.get("name").check_required_format(errors, format::dns_label);
        for field in ["resourceClaimName", "resourceClaimTemplateName"] {
            declared::check_format_if_set(&claim.get(field), format::dns_subdomain, errors);
        }
    }
}
