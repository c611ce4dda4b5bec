//! `resourcepoolstatusrequests` of resource.k8s.io: asks once how much of a driver's pools is free.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource, Subresource,
        kit::{
            NAME_AND_AGE, Plain, Rules,
            at::At,
            column, conditions,
            declared::{self, Declared},
            fill, format, items, text,
        },
    },
    table,
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Driver", "string"),
    column("Total", "string"),
    column("Available", "string"),
    column("Allocated", "string"),
    column("Unavailable", "string"),
    column("Errors", "string"),
    column("Pools", "integer"),
    column("Status", "string"),
    column("Completed", "string"),
];
const MAX_POOLS: usize = 1000;
const MAX_CONDITIONS: usize = 10;
const MAX_ERROR: usize = 256;

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1alpha3"],
        storage_version: "v1alpha3",
        namespaced: false,
        subresources: &[Subresource::Status],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default: |request| {
                if let Some(spec) = fill::spec(request) {
                    fill::missing(spec, "limit", 100);
                }
            },
            validate_over: check,
            validate_status,
            status_alone: true,
            unconditional_update: false,
            row: Some(row),
            ..Rules::new(Plain { status: true, generation: false, cells: NAME_AND_AGE })
        }),
        returns_deleted: true,
        ..Resource::of(
            "resource.k8s.io",
            "ResourcePoolStatusRequest",
            "resourcepoolstatusrequests",
            "resourcepoolstatusrequest",
        )
    }
}

/// The state of a request, and since when it is answered.
fn state(request: &Object, pools: usize, all: i64) -> (String, Option<&str>) {
    for condition in items(request.pointer("/status/conditions")) {
        match (text(condition, "/type"), text(condition, "/status")) {
            ("Complete", "True") => {
                let told = if all > i64::try_from(pools).unwrap_or(i64::MAX) {
                    format!("Complete ({pools}/{all} pools)")
                } else {
                    "Complete".to_owned()
                };
                return (told, condition.pointer("/lastTransitionTime").and_then(Value::as_str));
            }
            ("Failed", "True") => return ("Failed".to_owned(), None),
            _ => {}
        }
    }
    ("Pending".to_owned(), None)
}

fn row(request: &Object, now: Timestamp) -> Vec<Value> {
    const COUNTS: [&str; 4] = ["totalDevices", "availableDevices", "allocatedDevices", "unavailableDevices"];
    let status = At::status(request);
    let (pools, all) = (status.get("pools"), status.get("poolCount").int());
    let (told, since) = state(request, pools.len(), all);
    let shown = status.is_set() && told != "Failed";
    let sum = |count: &dyn Fn(&At<'_>) -> i64| -> Value {
        if shown {
            pools.items().map(|pool| count(&pool)).sum::<i64>().to_string().into()
        } else {
            "-".into()
        }
    };
    let mut cells = vec![request.name().into(), At::spec(request).text_of("driver").into()];
    cells.extend(COUNTS.map(|field| sum(&|pool: &At<'_>| pool.get(field).int())));
    cells.push(sum(&|pool: &At<'_>| i64::from(pool.has("validationError"))));
    cells.push(all.into());
    cells.push(told.into());
    cells.push(since.map_or_else(|| "<none>".to_owned(), |time| table::since(time, now)).into());
    cells
}

/// What is asked stays as it is.
fn check(request: &Object, old: Option<&Object>, errors: &mut ErrorList) {
    let (spec, was) = (At::spec(request), old.map(At::spec));
    let asked = Declared::new(&spec, was.as_ref());
    if asked.is_unchanged() || !asked.check_immutable(errors) {
        return;
    }
    spec.get("driver").check_required_format(errors, declared::caseless_subdomain);
    if spec.has("poolName") {
        declared::check_pool(&spec.get("poolName"), errors);
    }
    let limit = spec.get("limit");
    if limit.check_there(errors) {
        declared::check_between(&limit, 1, 1000, errors);
    }
}

/// An answer is given once.
fn validate_status(new: &Object, old: &Object, errors: &mut ErrorList) {
    let (status, was) = (At::status(new), At::status(old));
    let all = status.get("conditions");
    if was.is_set() {
        status.check_unchanged(&was, errors);
    } else if status.is_set() {
        conditions::check(&all, errors);
    }
    if !status.is_set() || Declared::new(&status, Some(&was)).is_unchanged() {
        return;
    }
    let count = status.get("poolCount");
    if count.check_there(errors) {
        declared::check_between(&count, 0, i64::MAX, errors);
    }
    let pools = status.get("pools");
    if declared::check_members(&pools, MAX_POOLS, errors) {
        pools.items().for_each(|pool| check_pool(&pool, errors));
    }
    if declared::check_members(&all, MAX_CONDITIONS, errors) {
        declared::check_unique(&all, "type", errors);
    }
}

fn check_pool(pool: &At<'_>, errors: &mut ErrorList) {
    const COUNTS: [(&str, i64); 5] = [
        ("resourceSliceCount", 1),
        ("totalDevices", 0),
        ("allocatedDevices", 0),
        ("availableDevices", 0),
        ("unavailableDevices", 0),
    ];
    pool.get("driver").check_required_format(errors, declared::caseless_subdomain);
    let name = pool.get("poolName");
    if name.check_required(errors) {
        declared::check_pool(&name, errors);
    }
    let generation = pool.get("generation");
    if generation.int() == 0 {
        generation.required(errors, "");
    } else {
        declared::check_between(&generation, 0, i64::MAX, errors);
    }
    for (count, least) in COUNTS.map(|(field, least)| (pool.get(field), least)) {
        if count.is_set() {
            declared::check_between(&count, least, i64::MAX, errors);
        }
    }
    declared::check_format_if_set(&pool.get("nodeName"), format::dns_subdomain, errors);
    pool.get("validationError").check_length(errors, MAX_ERROR);
}
