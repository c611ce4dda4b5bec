//! Names and amounts of resources: cpu, memory, huge pages and what nodes offer beside them.
//!
//! Contract: core/v1 `ResourceRequirements`, "Extended resources" and "Manage HugePages"; pod-level resources are
//! KEP-2837.

use std::{collections::BTreeMap, collections::BTreeSet};

use component_base::quantity::Quantity;
use serde_json::Value;

use super::{at::At, format, items};
use crate::field::{Error, ErrorList, Path};

/// A rule for names of resources: name, where it stands, errors.
pub type NameRule = fn(&str, &Path, &mut ErrorList);

const CONTAINER: &[&str] = &["cpu", "memory", "ephemeral-storage"];
const COUNTS: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
const QUOTA: &[&str] = &[
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];

/// Rounds the amounts of a map up to thousandths, which is as fine as amounts of resources are kept.
pub fn round_up(amounts: Option<&mut Value>) {
    for amount in amounts.and_then(Value::as_object_mut).into_iter().flat_map(|map| map.values_mut()) {
        // Nothing finer than a thousandth is written without one of these.
        let Some(text) = amount.as_str().filter(|t| t.ends_with(['n', 'u']) || t.contains("e-")) else {
            continue;
        };
        let rounded = text.parse::<Quantity>().ok().map(|exact| format!("{}m", exact.milli_value()));
        if let Some(rounded) = rounded.and_then(|text| text.parse::<Quantity>().ok()) {
            *amount = rounded.to_string().into();
        }
    }
}

/// Rounds limits and requests up.
pub fn round_requirements(resources: Option<&mut Value>) {
    if let Some(resources) = resources.and_then(Value::as_object_mut) {
        ["limits", "requests"].iter().for_each(|field| round_up(resources.get_mut(*field)));
    }
}

/// Whether a resource is huge pages of some size.
pub fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn is_quota_huge_page(name: &str) -> bool {
    is_huge_page(name) || name.starts_with("requests.hugepages-")
}

/// Whether a resource is Kubernetes' own.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether a resource is one that a vendor adds to nodes.
pub fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && format::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether limits may be above requests.
pub fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

/// Whether amounts of a resource are whole numbers.
fn is_counted(name: &str) -> bool {
    COUNTS.contains(&name) || is_extended(name)
}

/// A name of any resource.
pub fn check_name(name: &str, path: &Path, errors: &mut ErrorList) {
    let wrong = format::qualified_name(name);
    let standard = || {
        CONTAINER.contains(&name)
            || name == "storage"
            || QUOTA.contains(&name)
            || COUNTS.contains(&name)
            || is_quota_huge_page(name)
    };
    if wrong.is_empty() && !name.contains('/') && !standard() {
        errors.push(Error::invalid(path, name, "must be a standard resource type or fully qualified"));
    }
    wrong.into_iter().for_each(|detail| errors.push(Error::invalid(path, name, detail)));
}

/// A name of a resource of containers.
pub fn check_container_name(name: &str, path: &Path, errors: &mut ErrorList) {
    check_name(name, path, errors);
    if !name.contains('/') {
        if !CONTAINER.contains(&name) && !is_huge_page(name) {
            errors.push(Error::invalid(path, name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.push(Error::invalid(path, name, "doesn't follow extended resource name standard"));
    }
}

/// Whether a pod as a whole may have a resource.
pub fn is_of_pods(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_huge_page(name)
}

/// A name of a resource of pods as a whole.
pub fn check_pod_name(name: &str, path: &Path, errors: &mut ErrorList) {
    let mut wrong = ErrorList::new();
    check_name(name, path, &mut wrong);
    if wrong.is_empty() && !is_of_pods(name) {
        wrong.push(Error::not_among(path, name, &["cpu", "hugepages-", "memory"]));
    }
    errors.extend(wrong);
}

/// Whether a resource is one of those that a quota knows of itself.
pub fn is_of_quotas(name: &str) -> bool {
    CONTAINER.contains(&name) || QUOTA.contains(&name) || COUNTS.contains(&name) || is_quota_huge_page(name)
}

/// A name of a resource under quota.
pub fn check_quota_name(name: &str, path: &Path, errors: &mut ErrorList) {
    check_name(name, path, errors);
    if !name.contains('/') && !is_of_quotas(name) {
        errors.push(Error::invalid(path, name, "must be a standard resource for quota"));
    }
}

/// An amount of a resource.
pub fn check_amount(name: &str, at: &At<'_>, errors: &mut ErrorList) {
    check_not_negative(at, errors);
    let Some(quantity) = at.quantity() else { return };
    if is_counted(name) && quantity.milli_value() % 1000 != 0 {
        at.invalid_as(errors, quantity.to_string(), "must be an integer");
    }
}

/// An amount is zero or more.
pub fn check_not_negative(at: &At<'_>, errors: &mut ErrorList) {
    if let Some(quantity) = at.quantity().filter(|quantity| quantity.sign() < 0) {
        at.invalid_as(errors, quantity.to_string(), "must be greater than or equal to 0");
    }
}

/// An amount of storage is none below zero.
pub fn check_basic(at: &At<'_>, errors: &mut ErrorList) {
    if let Some(quantity) = at.quantity().filter(|quantity| quantity.value() < 0) {
        at.invalid_as(errors, quantity.value(), "must be a valid resource quantity");
    }
}

/// An amount is above zero.
pub fn check_above_zero(at: &At<'_>, errors: &mut ErrorList) {
    if let Some(quantity) = at.quantity().filter(|quantity| quantity.sign() <= 0) {
        at.invalid_as(errors, quantity.to_string(), "must be greater than zero");
    }
}

/// Whether an amount of huge pages is a whole number of pages.
fn is_whole_pages(name: &str, quantity: Quantity) -> bool {
    let page = name.strip_prefix("hugepages-").and_then(|size| size.parse::<Quantity>().ok());
    page.is_some_and(|page| {
        page.sign() > 0 && page.milli_value() % 1000 == 0 && quantity.value() % page.value() == 0
    })
}

/// What resource requirements are held against.
#[derive(Clone, Copy)]
pub struct Rule<'r> {
    /// Which resources may be asked for.
    pub names: NameRule,
    /// Names of the claims of the pod.
    pub claims: &'r BTreeSet<&'r str>,
    /// Whether broken huge pages are let pass.
    pub broken_pages: bool,
}

/// The limits, requests and claims of a container or a pod.
pub fn check_requirements(resources: &At<'_>, rule: Rule<'_>, errors: &mut ErrorList) {
    let (limits, requests) = (resources.get("limits"), resources.get("requests"));
    let mut main = false;
    let mut pages = false;
    for (name, amount) in limits.entries() {
        check_named_amount(name, &amount, rule, errors);
        main |= matches!(name, "cpu" | "memory");
        pages |= is_huge_page(name);
    }
    for (name, amount) in requests.entries() {
        (rule.names)(name, amount.path(), errors);
        check_amount(name, &amount, errors);
        check_against_limit(name, &amount, &limits, &requests, errors);
        check_pages(name, &amount, rule, errors);
        main |= matches!(name, "cpu" | "memory");
        pages |= is_huge_page(name);
    }
    if pages && !main {
        resources.forbidden(errors, "HugePages require cpu or memory");
    }
    check_claims(&resources.get("claims"), rule.claims, errors);
}

fn check_named_amount(name: &str, amount: &At<'_>, rule: Rule<'_>, errors: &mut ErrorList) {
    (rule.names)(name, amount.path(), errors);
    check_amount(name, amount, errors);
    check_pages(name, amount, rule, errors);
}

fn check_pages(name: &str, amount: &At<'_>, rule: Rule<'_>, errors: &mut ErrorList) {
    let Some(quantity) = amount.quantity() else { return };
    if is_huge_page(name) && !rule.broken_pages && !is_whole_pages(name, quantity) {
        let detail = format!("{quantity} is not positive integer multiple of {name}");
        amount.invalid_as(errors, quantity.to_string(), detail);
    }
}

fn check_against_limit(
    name: &str,
    request: &At<'_>,
    limits: &At<'_>,
    requests: &At<'_>,
    errors: &mut ErrorList,
) {
    let limit = limits.value().get(name).map(|value| At::new(value, Path::root()));
    match (request.quantity(), limit.and_then(|limit| limit.quantity())) {
        (Some(request), Some(limit)) if request != limit && !may_overcommit(name) => {
            let detail = format!("must be equal to {name} limit of {limit}");
            requests.invalid_as(errors, request.to_string(), detail);
        }
        (Some(request), Some(limit)) if request > limit => {
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            requests.invalid_as(errors, request.to_string(), detail);
        }
        (_, None) if !may_overcommit(name) => {
            limits.required(errors, "Limit must be set for non overcommitable resources");
        }
        _ => {}
    }
}

/// Claims a container uses are the pod's, each once, or requests of them.
fn check_claims(claims: &At<'_>, known: &BTreeSet<&str>, errors: &mut ErrorList) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for claim in claims.items() {
        let (name, request) = (claim.text_of("name"), claim.text_of("request"));
        if name.is_empty() {
            claim.required(errors, "");
            continue;
        }
        if seen.contains(name) {
            errors.push(Error::duplicate(claim.path(), name));
        } else {
            let key = if request.is_empty() { name.to_owned() } else { format!("{name}/{request}") };
            if !request.is_empty() {
                claim.get("request").check_format(errors, format::dns_label);
            }
            let parts = seen.iter().filter(|seen| seen.split_once('/').is_some_and(|(of, _)| of == name));
            let overlapping = if request.is_empty() { parts.count() } else { 0 };
            if seen.contains(&key) {
                errors.push(Error::duplicate(claim.path(), key.as_str()));
            }
            (0..overlapping).for_each(|_| errors.push(Error::duplicate(claim.path(), name)));
            seen.insert(key);
        }
        if !known.contains(name) {
            let mut detail = "must be one of the names in pod.spec.resourceClaims".to_owned();
            match known.is_empty() {
                true => detail.push_str(" which is empty"),
                false => {
                    let all: Vec<&str> = known.iter().copied().collect();
                    detail.push_str(&format!(": {}", all.join(", ")));
                }
            }
            errors.push(Error { detail, ..Error::not_found(claim.path(), name) });
        }
    }
}

/// What all containers of a pod need at a time: the containers and sidecars together, or the greediest of the
/// init containers with the sidecars before it. `field` is `requests` or `limits`.
pub fn of_containers(spec: &Value, field: &str) -> BTreeMap<String, Quantity> {
    let mut running = BTreeMap::new();
    for container in items(spec.get("containers")) {
        add(&mut running, &amounts(container, field));
    }
    let (mut sidecars, mut starting) = (BTreeMap::new(), BTreeMap::new());
    for container in items(spec.get("initContainers")) {
        let own = amounts(container, field);
        let mut now = own.clone();
        if container.get("restartPolicy").is_some_and(|policy| policy == "Always") {
            add(&mut running, &own);
            add(&mut sidecars, &own);
            now.clone_from(&sidecars);
        } else {
            add(&mut now, &sidecars);
        }
        raise(&mut starting, &now);
    }
    raise(&mut running, &starting);
    running
}

fn amounts(container: &Value, field: &str) -> BTreeMap<String, Quantity> {
    let map = container.get("resources").and_then(|r| r.get(field)).and_then(Value::as_object);
    let quantity = |value: &Value| At::new(value, Path::root()).quantity();
    map.into_iter().flatten().filter_map(|(name, v)| Some((name.clone(), quantity(v)?))).collect()
}

fn add(sum: &mut BTreeMap<String, Quantity>, more: &BTreeMap<String, Quantity>) {
    for (name, amount) in more {
        sum.entry(name.clone()).and_modify(|sum| *sum = *sum + *amount).or_insert(*amount);
    }
}

fn raise(top: &mut BTreeMap<String, Quantity>, other: &BTreeMap<String, Quantity>) {
    for (name, amount) in other {
        top.entry(name.clone()).and_modify(|top| *top = (*top).max(*amount)).or_insert(*amount);
    }
}
