//! `devicetaintrules` of resource.k8s.io.

use std::sync::Arc;

use super::{names, slices};
use crate::{
    field::ErrorList,
    object::Object,
    objects::rfc3339,
    registry::{
        Column, Resource, StrategyContext, Subresource,
        kit::{Cell, Plain, Rules, at::At, column, conditions, fill, format},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Key", "string"),
    column("Value", "string"),
    column("Effect", "string"),
    column("TimeAdded", "string"),
    column("Age", "string"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Field("/spec/taint/key", ""),
    Cell::Field("/spec/taint/value", ""),
    Cell::Field("/spec/taint/effect", ""),
    Cell::Since("/spec/taint/timeAdded", ""),
    Cell::Age,
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1beta2", "v1alpha3"],
        storage_version: "v1beta2",
        namespaced: false,
        subresources: &[Subresource::Status],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            create: |rule, ctx| date(rule, None, ctx),
            change: |new, old, ctx| date(new, Some(old), ctx),
            validate_new: |rule, errors| check(rule, None, errors),
            validate_change: |new, old, errors| check(new, Some(old), errors),
            validate_status,
            status_alone: true,
            ..Rules::new(Plain { status: true, generation: true, cells: CELLS })
        }),
        returns_deleted: true,
        ..Resource::of("resource.k8s.io", "DeviceTaintRule", "devicetaintrules", "devicetaintrule")
    }
}

const MAX_CONDITIONS: usize = 8;

/// The time of a taint is that of its effect.
fn date(rule: &mut Object, old: Option<&Object>, ctx: &StrategyContext<'_>) {
    if ctx.subresource == "status" {
        return;
    }
    let was = old.map(|old| At::spec(old).get("taint"));
    let Some(taint) = fill::spec(rule).and_then(|spec| fill::child(spec, "taint")) else { return };
    let before = |field: &str| was.as_ref().map(|was| was.text_of(field)).unwrap_or_default();
    if old.is_some() && fill::string(taint, "timeAdded").is_empty() {
        fill::missing(taint, "timeAdded", before("timeAdded"));
    }
    let changed = old.is_some()
        && fill::string(taint, "effect") != before("effect")
        && fill::string(taint, "timeAdded") == before("timeAdded");
    if changed || fill::string(taint, "timeAdded").is_empty() {
        taint.insert("timeAdded".to_owned(), rfc3339(ctx.now).into());
    }
}

fn check(rule: &Object, old: Option<&Object>, errors: &mut ErrorList) {
    let spec = At::spec(rule);
    let selector = spec.get("deviceSelector");
    if selector.has("driver") {
        names::check_driver(&selector.get("driver"), errors);
    }
    if selector.has("pool") {
        names::check_pool(&selector.get("pool"), errors);
    }
    if selector.has("device") {
        selector.get("device").check_format(errors, format::dns_label);
    }
    let before = old.map(|old| At::spec(old).get("taint"));
    slices::check_taint(&spec.get("taint"), before.as_ref(), errors);
}

fn validate_status(new: &Object, _old: &Object, errors: &mut ErrorList) {
    let all = At::status(new).get("conditions");
    conditions::check(&all, errors);
    all.check_members(errors, MAX_CONDITIONS);
}
