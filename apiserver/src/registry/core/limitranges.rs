//! `limitranges`.

use std::{collections::BTreeSet, sync::Arc};

use component_base::quantity::Quantity;
use serde_json::Value;

use crate::{
    field::{Error, ErrorList},
    object::Object,
    registry::{
        Column, Resource,
        kit::{
            Cell, Plain, Rules,
            at::At,
            column,
            fill::{self, Fields},
            format, resources,
        },
    },
};

const COLUMNS: &[Column] = &[column("Name", "string").name(), column("Created At", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Field("/metadata/creationTimestamp", "")];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["limits"],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            validate,
            create_on_update: true,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
        ..Resource::of("", "LimitRange", "limitranges", "limitrange")
    }
}

/// Containers get what is at most allowed where no default is told, and ask for that, or for the least allowed.
fn default(range: &mut Object) {
    const AMOUNTS: [&str; 5] = ["min", "max", "default", "defaultRequest", "maxLimitRequestRatio"];
    let Some(spec) = fill::spec(range) else { return };
    for limit in fill::members(spec, "limits") {
        AMOUNTS.iter().for_each(|field| resources::round_up(limit.get_mut(*field)));
    }
    for limit in fill::members(spec, "limits").filter(|limit| fill::string(limit, "type") == "Container") {
        copy_missing(limit, "max", "default");
        copy_missing(limit, "default", "defaultRequest");
        copy_missing(limit, "min", "defaultRequest");
    }
}

/// Amounts of one map that another does not have.
fn copy_missing(limit: &mut Fields, from: &str, to: &str) {
    let amounts = limit.get(from).and_then(Value::as_object).cloned().unwrap_or_default();
    if amounts.is_empty() {
        return;
    }
    if let Some(map) = fill::made(limit, to) {
        for (name, amount) in amounts {
            map.entry(name).or_insert(amount);
        }
    }
}

fn validate(range: &Object, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for limit in At::spec(range).get("limits").items() {
        let kind = limit.get("type");
        check_type(&kind, errors);
        if !seen.insert(kind.text()) {
            kind.duplicate(errors);
        }
        check_limit(&limit, kind.text(), errors);
    }
}

fn check_type(kind: &At<'_>, errors: &mut ErrorList) {
    const STANDARD: &[&str] = &["Pod", "Container", "PersistentVolumeClaim"];
    let wrong = format::qualified_name(kind.text());
    if wrong.is_empty() && !kind.text().contains('/') && !STANDARD.contains(&kind.text()) {
        kind.invalid(errors, "must be a standard limit type or fully qualified");
    }
    wrong.into_iter().for_each(|detail| kind.invalid_as(errors, kind.text(), detail));
}

fn check_limit(limit: &At<'_>, kind: &str, errors: &mut ErrorList) {
    let rule = if matches!(kind, "Pod" | "Container") {
        resources::check_container_name
    } else {
        resources::check_name
    };
    let mut names = BTreeSet::new();
    for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        let amounts = limit.get(field);
        let of_containers = matches!(field, "default" | "defaultRequest");
        if field == "maxLimitRequestRatio" && kind == "PersistentVolumeClaim" {
            check_storage(limit, errors);
        }
        if of_containers && kind == "Pod" {
            if !amounts.is_empty() {
                amounts.forbidden(errors, "may not be specified when `type` is 'Pod'");
            }
            continue;
        }
        for (name, amount) in amounts.entries() {
            rule(name, amount.path(), errors);
            names.insert(name);
        }
    }
    names.into_iter().for_each(|name| check_resource(limit, kind, name, errors));
}

fn check_storage(limit: &At<'_>, errors: &mut ErrorList) {
    if !limit.get("min").has("storage") && !limit.get("max").has("storage") {
        let detail = "either minimum or maximum storage value is required, but neither was provided";
        limit.get("limits").required(errors, detail);
    }
}

/// The amounts of one resource go together.
fn check_resource(limit: &At<'_>, kind: &str, name: &str, errors: &mut ErrorList) {
    let amount = |field: &str| match field {
        "default" | "defaultRequest" if kind == "Pod" => None,
        _ => limit.get(field).get(name).quantity(),
    };
    let (min, max) = (amount("min"), amount("max"));
    let (default, request) = (amount("default"), amount("defaultRequest"));
    let ratio = amount("maxLimitRequestRatio");
    let mut tell = |field: &str, shown: Quantity, detail: String| {
        let path = limit.path().child(field).key(name);
        errors.push(Error::invalid(&path, shown.to_string(), detail));
    };
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        tell("min", min, format!("min value {min} is greater than max value {max}"));
    }
    if let (Some(request), Some(min)) = (request, min)
        && min > request
    {
        tell(
            "defaultRequest",
            request,
            format!("min value {min} is greater than default request value {request}"),
        );
    }
    if let (Some(request), Some(max)) = (request, max)
        && request > max
    {
        tell(
            "defaultRequest",
            request,
            format!("default request value {request} is greater than max value {max}"),
        );
    }
    if let (Some(request), Some(default)) = (request, default)
        && request > default
    {
        let detail = format!("default request value {request} is greater than default limit value {default}");
        tell("defaultRequest", request, detail);
    }
    if let (Some(default), Some(min)) = (default, min)
        && min > default
    {
        tell("default", min, format!("min value {min} is greater than default value {default}"));
    }
    if let (Some(default), Some(max)) = (default, max)
        && default > max
    {
        tell("default", max, format!("default value {default} is greater than max value {max}"));
    }
    if let Some(ratio) = ratio {
        if ratio.milli_value() < 1000 {
            tell("maxLimitRequestRatio", ratio, format!("ratio {ratio} is less than 1"));
        }
        if let (Some(min), Some(max)) = (min, max) {
            let most = max.milli_value() as f64 / min.milli_value() as f64;
            if ratio.milli_value() as f64 / 1000.0 > most {
                let shown = if most.is_infinite() { "+Inf".to_owned() } else { format!("{most:.6}") };
                tell(
                    "maxLimitRequestRatio",
                    ratio,
                    format!("ratio {ratio} is greater than max/min = {shown}"),
                );
            }
        }
    }
    if let (Some(default), Some(request)) = (default, request)
        && !resources::may_overcommit(name)
        && default != request
    {
        let detail =
            format!("default value {default} must equal to defaultRequest value {request} in {name}");
        tell("defaultRequest", request, detail);
    }
}
