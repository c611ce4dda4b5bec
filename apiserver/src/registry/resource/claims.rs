//! What a claim asks for and how it is settled: requests, constraints, configuration, allocation.
//!
//! Contract: resource.k8s.io/v1 `ResourceClaimSpec` and `ResourceClaimStatus` (KEP-4381, KEP-4816, KEP-5007).

use std::collections::{BTreeMap, BTreeSet};

use component_base::features::{Gate, Gates};
use serde_json::Value;

use super::{names, selectors};
use crate::{
    field::{Error, ErrorList},
    registry::{
        kit::{
            at::At,
            conditions,
            fill::{self, Fields},
            format, semantic,
        },
        pod_spec::check_node_selector,
    },
};

const MAX_REQUESTS: usize = 32;
const MAX_ENTRIES: usize = 32;
const MAX_ALTERNATIVES: usize = 8;
const MAX_PARAMETERS: usize = 10 * 1024;
const MAX_CONSUMERS: usize = 256;
const MAX_CONDITIONS: usize = 8;
const MAX_INTERFACE: usize = 256;
const MAX_HARDWARE: usize = 128;
const MAX_ADDRESSES: usize = 16;

/// One device, where nothing else is said; in either form requests have had.
pub(super) fn fill_requests(spec: &mut Fields) {
    let Some(devices) = fill::child(spec, "devices") else { return };
    for request in fill::members(devices, "requests") {
        fill::members(request, "firstAvailable").for_each(fill_count);
        if request.contains_key("deviceClassName") {
            fill_count(request);
        }
        if let Some(exact) = fill::child(request, "exactly") {
            fill_count(exact);
        }
    }
}

fn fill_count(request: &mut Fields) {
    fill::missing(request, "allocationMode", "ExactCount");
    let counted = fill::string(request, "allocationMode") == "ExactCount";
    if counted && request.get("count").is_none_or(|count| count.is_null() || *count == 0) {
        request.insert("count".to_owned(), 1.into());
    }
    for toleration in fill::members(request, "tolerations") {
        fill::missing(toleration, "operator", "Equal");
    }
}

/// Names of requests, each with those of its alternatives.
type Requests<'v> = BTreeMap<&'v str, BTreeSet<&'v str>>;

fn requests<'v>(devices: &At<'v>) -> Requests<'v> {
    let of = |request: At<'v>| {
        let alternatives = request.get("firstAvailable").items().map(|one| one.text_of("name"));
        (request.text_of("name"), alternatives.collect())
    };
    devices.get("requests").items().map(of).collect()
}

/// The spec of a claim, by itself or in a template.
pub(super) fn check_spec(spec: &At<'_>, gates: Gates, errors: &mut ErrorList) {
    let devices = spec.get("devices");
    let known = requests(&devices);
    each(&devices.get("requests"), MAX_REQUESTS, Some("name"), errors, |request, errors| {
        check_request(request, gates, errors);
    });
    each(&devices.get("constraints"), MAX_ENTRIES, None, errors, |constraint, errors| {
        check_references(&constraint.get("requests"), &known, errors);
        let (same, distinct) = (constraint.get("matchAttribute"), constraint.get("distinctAttribute"));
        if same.is_set() {
            names::check_full(&same, errors);
        } else if distinct.is_set() {
            names::check_full(&distinct, errors);
        } else if !gates.has(Gate::DRAConsumableCapacity) {
            same.required(errors, "");
        } else {
            constraint.required(
                errors,
                r#"exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set"#,
            );
        }
    });
    each(&devices.get("config"), MAX_ENTRIES, None, errors, |config, errors| {
        check_references(&config.get("requests"), &known, errors);
        check_config(config, errors);
    });
}

/// Members of a list of limited length, and those that stand twice by a field of theirs; an empty field is the member.
pub(super) fn each<'v>(
    list: &At<'v>,
    max: usize,
    key: Option<&str>,
    errors: &mut ErrorList,
    check: impl Fn(&At<'v>, &mut ErrorList),
) {
    if list.len() > max {
        return list.check_members(errors, max);
    }
    list.items().for_each(|item| check(&item, errors));
    let Some(key) = key else { return };
    let mut seen = BTreeSet::new();
    for item in list.items() {
        let own = if key.is_empty() { item.text() } else { item.text_of(key) };
        if !seen.insert(own) {
            errors.push(Error::duplicate(item.path(), own));
        }
    }
}

fn check_request(request: &At<'_>, gates: Gates, errors: &mut ErrorList) {
    request.get("name").check_format(errors, format::dns_label);
    let (alternatives, exact) = (request.get("firstAvailable"), request.get("exactly"));
    match (alternatives.is_empty(), exact.is_set()) {
        (true, false) => request.required(errors, "exactly one of `exactly` or `firstAvailable` is required"),
        (false, true) => {
            let detail =
                "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            request.invalid_as(errors, Value::Null, detail);
        }
        (false, false) => each(&alternatives, MAX_ALTERNATIVES, Some("name"), errors, |one, errors| {
            one.get("name").check_format(errors, format::dns_label);
            check_exact(one, gates, errors);
        }),
        (true, true) => check_exact(&exact, gates, errors),
    }
}

fn check_exact(request: &At<'_>, gates: Gates, errors: &mut ErrorList) {
    request.get("deviceClassName").check_required_format(errors, format::dns_subdomain);
    check_selectors(&request.get("selectors"), false, gates, errors);
    let (mode, count) = (request.get("allocationMode"), request.get("count"));
    match mode.text() {
        "All" if count.int() != 0 => {
            count.invalid(errors, "must not be specified when allocationMode is 'All'");
        }
        "All" => {}
        "ExactCount" => count.check_positive(errors),
        other => errors.push(Error::not_among(mode.path(), other, &["All", "ExactCount"])),
    }
    request.get("tolerations").items().for_each(|toleration| check_toleration(&toleration, errors));
}

/// Selectors of devices, new ones or those that are `stored` already.
pub(super) fn check_selectors(list: &At<'_>, stored: bool, gates: Gates, errors: &mut ErrorList) {
    each(list, MAX_ENTRIES, None, errors, |selector, errors| {
        let cel = selector.get("cel");
        if cel.check_there(errors) {
            selectors::check(&cel.get("expression"), stored, gates, errors);
        }
    });
}

fn check_toleration(toleration: &At<'_>, errors: &mut ErrorList) {
    let get = |field: &'static str| toleration.get(field);
    let (key, operator, value, effect) = (get("key"), get("operator"), get("value"), get("effect"));
    key.check_option_format(errors, format::qualified_name);
    match operator.text() {
        "Exists" if !value.is_empty() => value.invalid(errors, "must be empty for operator `Exists`"),
        "Exists" => {}
        "Equal" => value.check_format(errors, format::label_value),
        "" => operator.required(errors, ""),
        other => errors.push(Error::not_among(operator.path(), other, &["Equal", "Exists"])),
    }
    if !effect.is_empty() {
        effect.check_is_one_of(errors, EFFECTS);
    }
}

/// What a taint does.
pub(super) const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];

/// Requests named elsewhere in the claim: `request` or `request/alternative`.
fn check_references(list: &At<'_>, known: &Requests<'_>, errors: &mut ErrorList) {
    each(list, MAX_REQUESTS, Some(""), errors, |name, errors| check_reference(name, known, errors));
}

fn check_reference(name: &At<'_>, known: &Requests<'_>, errors: &mut ErrorList) {
    const UNKNOWN: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    let parts: Vec<&str> = name.text().split('/').collect();
    if parts.len() > 2 {
        return name.invalid(errors, UNKNOWN);
    }
    for part in &parts {
        format::dns_label(part).into_iter().for_each(|detail| name.invalid_as(errors, *part, detail));
    }
    let found = known.get(parts[0]).is_some_and(|alternatives| match parts.get(1) {
        Some(alternative) => alternatives.contains(alternative),
        None => true,
    });
    if !found {
        name.invalid_as(errors, name.text(), UNKNOWN);
    }
}

/// Configuration for a driver.
pub(super) fn check_config(config: &At<'_>, errors: &mut ErrorList) {
    check_config_after(config, false, errors);
}

/// The same; one that `is_kept` from before there was a limit may be of any size.
pub(super) fn check_config_after(config: &At<'_>, is_kept: bool, errors: &mut ErrorList) {
    let opaque = config.get("opaque");
    if !opaque.check_there(errors) {
        return;
    }
    names::check_driver(&opaque.get("driver"), errors);
    check_raw(&opaque.get("parameters"), if is_kept { usize::MAX } else { MAX_PARAMETERS }, errors);
}

/// An object of any kind, of limited size.
fn check_raw(raw: &At<'_>, max: usize, errors: &mut ErrorList) {
    if !raw.is_set() {
        raw.required(errors, "");
    } else if raw.value().to_string().len() > max {
        errors.push(Error::too_long(raw.path(), max));
    } else if !raw.value().is_object() {
        raw.invalid_as(errors, "<value omitted>", "must be a valid JSON object");
    }
}

/// The status of a claim after a change; `leaving` when the claim is being deleted.
pub(super) fn check_status(
    status: &At<'_>,
    was: &At<'_>,
    spec: &At<'_>,
    leaving: bool,
    errors: &mut ErrorList,
) {
    let consumers = status.get("reservedFor");
    each(&consumers, MAX_CONSUMERS, Some("uid"), errors, |consumer, errors| {
        for field in ["resource", "name", "uid"] {
            consumer.get(field).check_required(errors);
        }
    });
    let allocation = status.get("allocation");
    check_device_states(&status.get("devices"), &allocation, errors);
    if !consumers.is_empty() {
        let new =
            |consumer: At<'_>| !was.get("reservedFor").items().any(|old| old.value() == consumer.value());
        if !allocation.is_set() {
            consumers.forbidden(errors, "may not be specified when `allocated` is not set");
        } else if leaving && consumers.items().any(new) {
            let detail =
                "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            consumers.forbidden(errors, detail);
        }
    }
    let before = was.get("allocation");
    if before.is_set() && allocation.is_set() {
        if !semantic::same(before.value(), allocation.value()) {
            allocation.invalid(errors, "field is immutable");
        }
    } else if allocation.is_set() {
        check_allocation(&allocation, &requests(&spec.get("devices")), errors);
    }
}

fn check_allocation(allocation: &At<'_>, known: &Requests<'_>, errors: &mut ErrorList) {
    let devices = allocation.get("devices");
    each(&devices.get("results"), MAX_REQUESTS, None, errors, |result, errors| {
        check_reference(&result.get("request"), known, errors);
        names::check_device(result, errors);
        check_bindings(result, errors);
        names::check_share(&result.get("shareID"), errors);
    });
    each(&devices.get("config"), 2 * MAX_ENTRIES, None, errors, |config, errors| {
        let source = config.get("source");
        match source.text() {
            "" => source.required(errors, ""),
            "FromClaim" | "FromClass" => {}
            other => errors.push(Error::not_among(source.path(), other, &["FromClaim", "FromClass"])),
        }
        check_references(&config.get("requests"), known, errors);
        check_config(config, errors);
    });
    if allocation.has("nodeSelector") {
        check_node_selector(&allocation.get("nodeSelector"), false, errors);
    }
}

/// Conditions a device waits for before its pod is bound, and those that say it never will be.
pub(super) fn check_bindings(device: &At<'_>, errors: &mut ErrorList) {
    const MAX: usize = 4;
    let (good, bad) = (device.get("bindingConditions"), device.get("bindingFailureConditions"));
    for list in [&good, &bad] {
        each(list, MAX, None, errors, |name, errors| name.check_format(errors, format::qualified_name));
    }
    for list in [&good, &bad] {
        let mut seen = BTreeSet::new();
        for name in list.items() {
            if !seen.insert(name.text()) {
                name.duplicate(errors);
            }
            if list.path() == bad.path() && good.items().any(|other| other.text() == name.text()) {
                name.invalid(errors, "bindingFailureConditions must not overlap with bindingConditions");
            }
        }
    }
    if good.is_empty() && !bad.is_empty() {
        good.invalid(errors, "bindingConditions are required to use bindingFailureConditions");
    }
    if bad.is_empty() && !good.is_empty() {
        bad.invalid(errors, "bindingFailureConditions are required to use bindingConditions");
    }
}

/// A device of an allocation: driver, pool, device and share.
pub(super) fn identity(device: &At<'_>) -> String {
    let parts = ["driver", "pool", "device"].map(|field| device.text_of(field));
    let share = device.text_of("shareID");
    if share.is_empty() { parts.join("/") } else { format!("{}/{share}", parts.join("/")) }
}

/// What drivers tell of the devices they were asked for.
fn check_device_states(states: &At<'_>, allocation: &At<'_>, errors: &mut ErrorList) {
    let allocated: BTreeSet<String> =
        allocation.get("devices").get("results").items().map(|result| identity(&result)).collect();
    let mut seen = BTreeSet::new();
    for state in states.items() {
        names::check_device(&state, errors);
        names::check_share(&state.get("shareID"), errors);
        if !allocated.contains(&identity(&state)) {
            state.invalid_as(errors, identity(&state), "must be an allocated device in the claim");
        }
        let all = state.get("conditions");
        all.check_members(errors, MAX_CONDITIONS);
        conditions::check(&all, errors);
        if state.has("data") {
            check_raw(&state.get("data"), MAX_PARAMETERS, errors);
        }
        check_network(&state.get("networkData"), errors);
    }
    for state in states.items() {
        if !seen.insert(identity(&state)) {
            errors.push(Error::duplicate(state.path(), identity(&state)));
        }
    }
}

fn check_network(network: &At<'_>, errors: &mut ErrorList) {
    network.get("interfaceName").check_length(errors, MAX_INTERFACE);
    network.get("hardwareAddress").check_length(errors, MAX_HARDWARE);
    each(&network.get("ips"), MAX_ADDRESSES, Some(""), errors, |address, errors| {
        address.check_format(errors, format::interface_address);
    });
}
