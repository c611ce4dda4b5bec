//! What a slice offers: devices of a pool, their attributes, capacities and taints.
//!
//! Contract: resource.k8s.io/v1 `ResourceSliceSpec`; counters are KEP-4815, shares of capacity KEP-5075.

use std::sync::LazyLock;

use component_base::quantity::Quantity;
use regex::Regex;
use serde_json::Value;

use super::{
    claims::{self, EFFECTS, each},
    names,
};
use crate::{
    field::{Error, ErrorList},
    object::Object,
    registry::{
        kit::{at::At, format, resources, semantic},
        pod_spec::check_node_selector,
    },
};

const MAX_DEVICES: usize = 128;
const MAX_ADVANCED_DEVICES: usize = 64;
const MAX_COUNTER_SETS: usize = 8;
const MAX_COUNTERS: usize = 32;
const MAX_CONSUMPTIONS: usize = 2;
const MAX_FACTS: usize = 32;
const MAX_VALUES: usize = 48;
const MAX_VALUE: usize = 64;
const MAX_TAINTS: usize = 16;
const MAX_OPTIONS: usize = 10;
const LISTS: [&str; 4] = ["bools", "ints", "strings", "versions"];

#[expect(clippy::expect_used, reason = "the pattern is a constant that compiles")]
static VERSION: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)",
        r"(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?",
        r"(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?$"
    ))
    .expect("the pattern compiles")
});

/// A slice, new or as it is to become.
pub(super) fn check(slice: &Object, old: Option<&Object>, errors: &mut ErrorList) {
    let spec = At::spec(slice);
    names::check_driver(&spec.get("driver"), errors);
    let pool = spec.get("pool");
    names::check_pool(&pool.get("name"), errors);
    pool.get("resourceSliceCount").check_positive(errors);
    let generation = pool.get("generation");
    if generation.int() < 0 {
        generation.invalid(errors, "must be greater than or equal to zero");
    }
    if let Some(old) = old {
        let was = At::spec(old);
        pool.get("name").check_unchanged(&was.get("pool").get("name"), errors);
        spec.get("driver").check_unchanged(&was.get("driver"), errors);
        spec.get("nodeName").check_unchanged(&was.get("nodeName"), errors);
    }
    check_placement(&spec, errors);
    if spec.has("sharedCounters") && spec.has("devices") {
        spec.invalid_as(errors, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let devices = spec.get("devices");
    let lists = |device: &At<'_>| {
        device.get("attributes").entries().any(|(_, value)| LISTS.iter().any(|list| value.has(list)))
    };
    let advanced = devices.items().any(|device| {
        !device.get("taints").is_empty() || !device.get("consumesCounters").is_empty() || lists(&device)
    });
    let most = if advanced { MAX_ADVANCED_DEVICES } else { MAX_DEVICES };
    let chosen = spec.get("perDeviceNodeSelection").is_true();
    each(&devices, most, Some("name"), errors, |device, errors| {
        let name = device.text_of("name");
        let before = old.and_then(|old| {
            At::spec(old).get("devices").items().find(|before| before.text_of("name") == name)
        });
        check_device(device, before.as_ref(), chosen, errors);
    });
    each(&spec.get("sharedCounters"), MAX_COUNTER_SETS, Some("name"), errors, |set, errors| {
        set.get("name").check_required_format(errors, format::dns_label);
        check_counters(&set.get("counters"), errors);
    });
}

/// Where the devices are: on one node, on some, on all, or each somewhere else.
fn check_placement(spec: &At<'_>, errors: &mut ErrorList) {
    const ONE: &str =
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let mut set = Vec::new();
    let (node, selector) = (spec.get("nodeName"), spec.get("nodeSelector"));
    if !node.is_empty() {
        set.push("`nodeName`");
        node.check_format(errors, format::dns_subdomain);
    } else if node.is_set() {
        node.invalid(errors, "must be either unset or set to a non-empty string");
    }
    if selector.is_set() {
        set.push("`nodeSelector`");
        check_node_selector(&selector, false, errors);
        let terms = selector.get("nodeSelectorTerms");
        if terms.len() != 1 {
            terms.invalid(errors, "must have exactly one node selector term");
        }
    }
    for (field, told) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")]
    {
        let flag = spec.get(field);
        if flag.is_true() {
            set.push(told);
        } else if flag.is_set() {
            flag.invalid(errors, "must be either unset or set to true");
        }
    }
    match set.len() {
        0 => spec.required(errors, ONE),
        1 => {}
        _ => {
            let all = format!("{{{}}}", set.join(", "));
            spec.invalid_as(errors, all, format!("{ONE}, but multiple fields are set"));
        }
    }
}

fn check_counters(counters: &At<'_>, errors: &mut ErrorList) {
    if !counters.check_required(errors) {
        return;
    }
    if counters.len() > MAX_COUNTERS {
        return counters.check_members(errors, MAX_COUNTERS);
    }
    for (name, _) in counters.entries() {
        format::dns_label(name).into_iter().for_each(|detail| counters.invalid_as(errors, name, detail));
    }
}

fn check_device(device: &At<'_>, before: Option<&At<'_>>, chosen: bool, errors: &mut ErrorList) {
    device.get("name").check_format(errors, format::dns_label);
    let (attributes, capacity) = (device.get("attributes"), device.get("capacity"));
    let facts = attributes.len() + capacity.len();
    if facts > MAX_FACTS {
        let detail = format!("the total number of attributes and capacities must not exceed {MAX_FACTS}");
        device.invalid_as(errors, facts, detail);
    }
    let values =
        |attribute: &At<'_>| LISTS.iter().map(|list| attribute.get(list).len()).sum::<usize>().max(1);
    let values: usize = attributes.entries().map(|(_, attribute)| values(&attribute)).sum();
    if values > MAX_VALUES {
        let detail = format!("the total number of attribute values must not exceed {MAX_VALUES}");
        device.invalid_as(errors, values, detail);
    }
    for (name, attribute) in attributes.entries() {
        names::check_qualified(name, &attributes, errors);
        check_attribute(&attribute, errors);
    }
    let shared = device.get("allowMultipleAllocations").is_true();
    for (name, amount) in capacity.entries() {
        names::check_qualified(name, &capacity, errors);
        let policy = amount.get("requestPolicy");
        if policy.is_set() && shared {
            check_policy(&policy, &amount.get("value"), errors);
        } else if policy.is_set() {
            policy.forbidden(errors, "allowMultipleAllocations must be true");
        }
    }
    let taints = device.get("taints");
    let same = before.is_some_and(|before| semantic::same(before.get("taints").value(), taints.value()));
    if !same {
        each(&taints, MAX_TAINTS, None, errors, |taint, errors| check_taint(taint, None, errors));
    }
    each(&device.get("consumesCounters"), MAX_CONSUMPTIONS, Some("counterSet"), errors, |one, errors| {
        one.get("counterSet").check_required_format(errors, format::dns_label);
        check_counters(&one.get("counters"), errors);
    });
    check_own_placement(device, chosen, errors);
    claims::check_bindings(device, errors);
    check_mappings(&device.get("nodeAllocatableResourceMappings"), &capacity, errors);
}

/// What a device takes of its node's own resources.
fn check_mappings(mappings: &At<'_>, capacity: &At<'_>, errors: &mut ErrorList) {
    for (resource, mapping) in mappings.entries() {
        if !resources::is_native(resource) {
            mapping.invalid_as(errors, resource, "must be a node allocatable resource name");
        }
        let (multiplier, key) = (mapping.get("allocationMultiplier"), mapping.get("capacityKey"));
        if !multiplier.is_set() && !key.is_set() {
            mapping.invalid_as(errors, "", "at least one of allocationMultiplier or capacityKey must be set");
        }
        if let Some(amount) = multiplier.quantity().filter(|amount| *amount <= Quantity::default()) {
            multiplier.invalid_as(errors, amount.to_string(), "must be positive");
        }
        if key.is_set() && key.is_empty() {
            key.invalid(errors, "capacityKey must not be an empty string");
        } else if key.is_set() && !capacity.has(key.text()) {
            key.not_found(errors);
        }
    }
}

fn check_own_placement(device: &At<'_>, chosen: bool, errors: &mut ErrorList) {
    const FIELDS: [&str; 3] = ["nodeName", "nodeSelector", "allNodes"];
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when \
                       `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    if !chosen {
        if FIELDS.iter().any(|field| device.has(field)) {
            let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is \
                          set to true in the ResourceSlice spec";
            device.invalid_as(errors, Value::Null, detail);
        }
        return;
    }
    let [node, selector, all] = FIELDS.map(|field| device.get(field));
    let mut set = Vec::new();
    if !node.is_empty() {
        set.push("`nodeName`");
        node.check_format(errors, format::dns_subdomain);
    } else if node.is_set() {
        node.invalid(errors, "must not be empty");
    }
    if selector.is_set() {
        set.push("`nodeSelector`");
        check_node_selector(&selector, false, errors);
    }
    if all.is_true() {
        set.push("`allNodes`");
    } else if all.is_set() {
        all.invalid(errors, "must be either unset or set to true");
    }
    match set.len() {
        0 => device.required(errors, ONE),
        1 => {}
        _ => device.invalid_as(errors, format!("{{{}}}", set.join(", ")), ONE),
    }
}

/// A fact: one value, or one list of them.
fn check_attribute(attribute: &At<'_>, errors: &mut ErrorList) {
    const ONE: &str = "exactly one value must be specified";
    let string = |at: &At<'_>, errors: &mut ErrorList| at.check_length(errors, MAX_VALUE);
    let version = |at: &At<'_>, errors: &mut ErrorList| {
        if !VERSION.is_match(at.text()) {
            at.invalid_as(errors, at.text(), "must be a string compatible with semver.org spec 2.0.0");
        }
        at.check_length(errors, MAX_VALUE);
    };
    if attribute.has("string") {
        string(&attribute.get("string"), errors);
    }
    if attribute.has("version") {
        version(&attribute.get("version"), errors);
    }
    for list in LISTS.map(|list| attribute.get(list)).into_iter().filter(At::is_set) {
        if list.is_empty() {
            list.invalid(errors, "must not be empty if specified");
        }
    }
    attribute.get("strings").items().for_each(|item| string(&item, errors));
    attribute.get("versions").items().for_each(|item| version(&item, errors));
    let single = ["bool", "int", "string", "version"];
    match single.iter().chain(&LISTS).filter(|field| attribute.has(field)).count() {
        0 => attribute.invalid_as(errors, "", ONE),
        1 => {}
        _ => attribute.invalid(errors, ONE),
    }
}

/// A taint of a device; the effect it had stays allowed.
pub(super) fn check_taint(taint: &At<'_>, before: Option<&At<'_>>, errors: &mut ErrorList) {
    taint.get("key").check_format(errors, format::qualified_name);
    taint.get("value").check_option_format(errors, format::label_value);
    let effect = taint.get("effect");
    if before.is_none_or(|before| before.text_of("effect") != effect.text()) {
        effect.check_one_of(errors, EFFECTS);
    }
}

/// Which parts of a capacity may be asked for.
fn check_policy(policy: &At<'_>, whole: &At<'_>, errors: &mut ErrorList) {
    let (values, range, default) =
        (policy.get("validValues"), policy.get("validRange"), policy.get("default"));
    let whole = whole.quantity().unwrap_or_default();
    if !values.is_empty() && range.is_set() {
        return policy.forbidden(
            errors,
            r#"exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time"#,
        );
    }
    let told = if values.is_empty() { "validRange" } else { "validValues" };
    match default.quantity() {
        _ if values.is_empty() && !range.is_set() => {}
        None => default.required(errors, format!("required when {told} is defined")),
        Some(default) if values.is_empty() => check_range(&range, default, whole, errors),
        Some(default) => check_options(&values, default, whole, errors),
    }
}

fn check_options(values: &At<'_>, default: Quantity, whole: Quantity, errors: &mut ErrorList) {
    let all: Vec<(At<'_>, Quantity)> =
        values.items().filter_map(|value| Some((value.clone(), value.quantity()?))).collect();
    for pair in all.windows(2).filter(|pair| pair[0].1 > pair[1].1) {
        pair[1].0.invalid_as(errors, pair[1].1.to_string(), "values must be sorted in ascending order");
    }
    if all.len() > MAX_OPTIONS {
        values.check_members(errors, MAX_OPTIONS);
    } else {
        for (value, amount) in all.iter().filter(|(_, amount)| *amount > whole) {
            let detail = format!("option is larger than capacity value: {whole}");
            value.invalid_as(errors, amount.to_string(), detail);
        }
        for (i, (value, amount)) in all.iter().enumerate() {
            if all[..i].iter().any(|(_, other)| other.value() == amount.value()) {
                errors.push(Error::duplicate(value.path(), amount.value().to_string()));
            }
        }
    }
    if !all.iter().any(|(_, amount)| *amount == default) {
        let detail = "default value is not valid according to the requestPolicy";
        values.invalid_as(errors, default.to_string(), detail);
    }
}

fn check_range(range: &At<'_>, default: Quantity, whole: Quantity, errors: &mut ErrorList) {
    let [min_at, max_at, step_at] = ["min", "max", "step"].map(|field| range.get(field));
    let Some(min) = min_at.quantity() else {
        return min_at.required(errors, "required when validRange is defined");
    };
    let mut tell =
        |at: &At<'_>, shown: Quantity, detail: String| at.invalid_as(errors, shown.to_string(), detail);
    if min > whole {
        tell(&min_at, min, format!("min is larger than capacity value: {whole}"));
    }
    if default < min {
        tell(&min_at, default, format!("default is less than min: {min}"));
    }
    let max = max_at.quantity();
    if let Some(max) = max {
        if min > max {
            tell(&max_at, min, format!("min is larger than max: {max}"));
        }
        if max > whole {
            tell(&max_at, max, format!("max is larger than capacity value: {whole}"));
        }
        if default > max {
            tell(&max_at, default, format!("default is more than max: {max}"));
        }
    }
    let Some(step) = step_at.quantity() else { return };
    let one = min + step;
    if one > whole {
        tell(&step_at, step, format!("one step {one} is larger than capacity value: {whole}"));
    }
    for value in [Some(default), max].into_iter().flatten() {
        let rest = (value.value() - min.value()).checked_rem(step.value());
        if rest != Some(0) {
            tell(&step_at, value, format!("value is not a multiple of a given step ({step}) from ({min})"));
        }
    }
}
