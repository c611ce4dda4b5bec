//! `leasecandidates` of coordination.k8s.io.

use std::sync::Arc;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, at::At, column, format},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("LeaseName", "string"),
    column("BinaryVersion", "string"),
    column("EmulationVersion", "string"),
    column("Age", "string"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Field("/spec/leaseName", ""),
    Cell::Field("/spec/binaryVersion", ""),
    Cell::Field("/spec/emulationVersion", ""),
    Cell::Age,
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1beta1", "v1alpha2"],
        storage_version: "v1beta1",
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            name: |name, _| format::config_key(name),
            unconditional_update: false,
            create_on_update: true,
            validate,
            validate_change,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
        ..Resource::of("coordination.k8s.io", "LeaseCandidate", "leasecandidates", "leasecandidate")
    }
}

fn validate(candidate: &Object, errors: &mut ErrorList) {
    const FORM: &str = "must be a valid semantic version";
    let spec = At::spec(candidate);
    spec.get("leaseName").check_required(errors);
    let (binary, emulated) = (spec.get("binaryVersion"), spec.get("emulationVersion"));
    let (built, played) = (version(binary.text()), version(emulated.text()));
    if !emulated.is_empty() && played.is_none() {
        emulated.invalid(errors, FORM);
    }
    if binary.check_required(errors) && built.is_none() {
        binary.invalid(errors, FORM);
    }
    let (built, played) = (built.unwrap_or_default(), played.unwrap_or_default());
    if !binary.is_empty() && !emulated.is_empty() && built < played {
        binary.invalid(errors, "must be greater than or equal to `emulationVersion`");
    }
    let strategy = spec.get("strategy");
    if !strategy.check_required(errors) {
        return;
    }
    if strategy.text() == "OldestEmulationVersion" && played == <(u64, u64, u64)>::default() {
        emulated.required(errors, "must be specified when `strategy` is 'OldestEmulationVersion'");
    }
    super::check_strategy(&strategy, errors);
}

/// The lease a candidate is for stays.
fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    At::spec(new).get("leaseName").check_unchanged(&At::spec(old).get("leaseName"), errors);
}

/// A version of three parts.
fn version(text: &str) -> Option<(u64, u64, u64)> {
    let plain = text.split(['-', '+']).next().unwrap_or_default();
    let mut parts = plain.split('.').map(|part| part.parse::<u64>());
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch)), None) => Some((major, minor, patch)),
        _ => None,
    }
}
