//! What a status of a pod may not say.
//!
//! Contract: upstream's `ValidatePodStatusUpdate`; containers that may start again are KEP-5307.

use std::{collections::BTreeSet, net::IpAddr};

use component_base::quantity::Quantity;
use serde_json::Value;

use crate::{
    field::{Error, ErrorList},
    object::Object,
    registry::{
        kit::{at::At, format, items, resources, shape, text},
        pod_spec,
    },
};

/// What is wrong with a status.
pub(super) fn check(new: &Object, old: &Object, errors: &mut ErrorList) {
    pod_spec::check_annotation_change(new, old, errors);
    let (status, before, spec) = (At::status(new), At::status(old), At::spec(old));
    check_conditions(&status.get("conditions"), errors);
    check_nominated(&status, &before, errors);
    let generation = status.get("observedGeneration");
    if generation.int() < 0 {
        generation.invalid(errors, "must be a non-negative integer");
    }
    let class = status.get("qosClass");
    if class.text() != before.text_of("qosClass") {
        class.invalid_as(errors, class.text(), "field is immutable");
    }
    check_transitions(&status, &before, &spec, errors);
    check_claims(&status.get("resourceClaimStatuses"), &spec, errors);
    check_extended(&status.get("extendedResourceClaimStatus"), &spec, errors);
    check_of_node(&status, &spec, errors);
    check_ips(&status.get("podIPs"), &before.get("podIPs"), errors);
    check_host_ips(&status, &before, errors);
    check_users(&status, spec.get("os").text_of("name"), errors);
    check_allocated(&status, &spec, errors);
}

fn check_conditions(conditions: &At<'_>, errors: &mut ErrorList) {
    for condition in conditions.items() {
        let generation = condition.get("observedGeneration");
        if generation.int() < 0 {
            generation.invalid(errors, "must be a non-negative integer");
        }
        let kind = condition.get("type");
        if !matches!(kind.text(), "PodScheduled" | "Ready" | "Initialized") {
            kind.named(condition.path().child("Type")).check_format(errors, format::qualified_name);
        }
    }
}

fn check_nominated(status: &At<'_>, before: &At<'_>, errors: &mut ErrorList) {
    let node = status.get("nominatedNodeName");
    if node.is_empty() || node.text() == before.text_of("nominatedNodeName") {
        return;
    }
    node.check_format(errors, format::dns_subdomain);
}

/// What has ended stays so, unless it may start again.
fn check_transitions(status: &At<'_>, before: &At<'_>, spec: &At<'_>, errors: &mut ErrorList) {
    let all_restart = ["initContainers", "containers"].iter().any(|list| {
        items(spec.value().get(list))
            .flat_map(|container| items(container.get("restartPolicyRules")))
            .any(|rule| text(rule, "/action") == "RestartAllContainers")
    });
    let lists = [
        ("containerStatuses", "containers"),
        ("initContainerStatuses", "initContainers"),
        ("ephemeralContainerStatuses", ""),
    ];
    for (list, containers) in lists {
        if all_restart && !containers.is_empty() {
            continue;
        }
        let now = status.get(list);
        for (i, old) in before.get(list).items().enumerate() {
            let ended = old.get("state").get("terminated");
            let name = old.text_of("name");
            let again =
                now.items().find(|new| new.text_of("name") == name && !new.get("state").has("terminated"));
            if !ended.is_set() || again.is_none() {
                continue;
            }
            let container = items(spec.value().get(containers)).find(|c| text(c, "/name") == name);
            if !container.is_some_and(|c| restarts(c, spec, ended.get("exitCode").int())) {
                let path = now.path().index(i).child("state");
                errors.push(Error::forbidden(&path, "may not be transitioned to non-terminated state"));
            }
        }
    }
}

/// Whether a container that ended with a code is started again.
fn restarts(container: &Value, spec: &At<'_>, code: i64) -> bool {
    let by = |policy: &str| match policy {
        "Always" => Some(true),
        "OnFailure" => Some(code != 0),
        "Never" => Some(false),
        _ => None,
    };
    let own = text(container, "/restartPolicy");
    if !own.is_empty() {
        let rule = items(container.get("restartPolicyRules")).find(|rule| {
            let listed = items(rule.pointer("/exitCodes/values")).any(|value| *value == code);
            match text(rule, "/exitCodes/operator") {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
        });
        if rule.is_some_and(|rule| matches!(text(rule, "/action"), "Restart" | "RestartAllContainers")) {
            return true;
        }
        if let Some(again) = by(own) {
            return again;
        }
    }
    by(spec.text_of("restartPolicy")).unwrap_or(true)
}

fn check_claims(statuses: &At<'_>, spec: &At<'_>, errors: &mut ErrorList) {
    let mut names = BTreeSet::new();
    for status in statuses.items() {
        let name = status.get("name");
        if !items(spec.value().get("resourceClaims")).any(|claim| text(claim, "/name") == name.text()) {
            let detail = "must match the name of an entry in `spec.resourceClaims`";
            name.invalid_as(errors, name.text(), detail);
        }
        if !names.insert(name.text()) {
            name.duplicate(errors);
        }
        if status.has("resourceClaimName") {
            status.get("resourceClaimName").check_format(errors, format::dns_subdomain);
        }
    }
}

/// What claims take of the node's own resources: of claims the pod has, for containers of it.
fn check_of_node(status: &At<'_>, spec: &At<'_>, errors: &mut ErrorList) {
    const EMPTY: &str = "must not be empty";
    let names = |claims: At<'_>, name: &str| {
        claims
            .items()
            .any(|claim| claim.has("resourceClaimName") && claim.text_of("resourceClaimName") == name)
    };
    for one in status.get("nodeAllocatableResourceClaimStatuses").items() {
        let claim = one.get("resourceClaimName");
        if claim.is_empty() {
            claim.required(errors, EMPTY);
        }
        let name = claim.text();
        if !names(spec.get("resourceClaims"), name) && !names(status.get("resourceClaimStatuses"), name) {
            claim.invalid_as(errors, name, "no mapping found in pod reference");
        }
        let resources = one.get("resources");
        for field in [one.get("containers"), resources.clone()].iter().filter(|field| field.is_empty()) {
            field.required(errors, EMPTY);
        }
        for (name, amount) in resources.entries() {
            if !resources::is_native(name) {
                amount.invalid_as(errors, name, "must be a node allocatable resource name");
            }
            if let Some(less) = amount.quantity().filter(|amount| *amount < Quantity::default()) {
                amount.invalid_as(errors, less.to_string(), "must be non-negative");
            }
        }
    }
}

fn check_extended(status: &At<'_>, spec: &At<'_>, errors: &mut ErrorList) {
    if !status.is_set() {
        return;
    }
    let mappings = status.get("requestMappings");
    if mappings.is_empty() {
        mappings.required(errors, "at least one request mapping is required");
    }
    let mut seen = BTreeSet::new();
    for mapping in mappings.items() {
        let fields = ["containerName", "resourceName", "requestName"].map(|field| mapping.get(field));
        let [container, resource, request] = &fields;
        let found = ["containers", "initContainers"]
            .iter()
            .flat_map(|list| items(spec.value().get(list)))
            .find(|c| text(c, "/name") == container.text());
        match found {
            None => container.invalid_as(
                errors,
                container.text(),
                "must match the name of an entry in spec.initContainers.name or spec.containers.name",
            ),
            Some(found) => {
                let requests = found.pointer("/resources/requests");
                if requests.and_then(|requests| requests.get(resource.text())).is_none() {
                    let detail = "must match the extended resource name of an entry in \
                                  spec.initContainers.resources.requests or spec.containers.resources.requests";
                    resource.invalid_as(errors, resource.text(), detail);
                }
            }
        }
        request.named(status.path().child("requestName")).check_format(errors, format::dns_label);
        if !seen.insert(fields.clone().map(|field| field.text())) {
            fields.iter().for_each(|field| field.duplicate(errors));
        }
    }
    status.get("resourceClaimName").check_required_format(errors, format::dns_subdomain);
}

/// Addresses are good ones, at most one of each family; old ones may be anything.
fn check_ips(list: &At<'_>, before: &At<'_>, errors: &mut ErrorList) {
    let mut families = Vec::new();
    for entry in list.items() {
        let ip = entry.get("ip").named(entry.path().clone());
        if !before.items().any(|old| old.text_of("ip") == ip.text()) {
            ip.check_format(errors, format::legacy_ip);
        }
        families.push(ip.text().parse::<IpAddr>().map(|ip| ip.is_ipv4()));
    }
    let broken = list.items().zip(&families).enumerate().find(|(_, (_, family))| family.is_err());
    if let Some((i, (entry, _))) = broken.filter(|_| families.len() > 1) {
        let ip = entry.text_of("ip");
        let detail = format!("failed to check for dual stack with error:invalid IP[{i}]: {ip}");
        return errors.push(Error::internal(list.path(), detail));
    }
    let both = matches!(families.as_slice(), [Ok(a), Ok(b)] if a != b);
    if families.len() > 1 && !both {
        list.invalid_go(errors, &shape::IP, "may specify no more than one IP for each IP family");
    }
}

fn check_host_ips(status: &At<'_>, before: &At<'_>, errors: &mut ErrorList) {
    let list = status.get("hostIPs");
    let Some(first) = list.items().next() else { return };
    if first.text_of("ip") != status.text_of("hostIP") {
        first.get("ip").invalid_as(errors, first.text_of("ip"), "must be equal to `hostIP`");
    }
    check_ips(&list, &before.get("hostIPs"), errors);
}

/// Statuses of containers of all kinds.
fn statuses<'v>(status: &At<'v>) -> impl Iterator<Item = At<'v>> {
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    lists.map(|list| status.get(list).items().collect::<Vec<_>>()).into_iter().flatten()
}

fn check_users(status: &At<'_>, os: &str, errors: &mut ErrorList) {
    for user in statuses(status).map(|container| container.get("user").get("linux")) {
        if !user.is_set() {
            continue;
        }
        if os == "windows" {
            user.forbidden(errors, "cannot be set for a windows pod");
            continue;
        }
        let groups = user.get("supplementalGroups");
        for id in [user.get("uid"), user.get("gid")].into_iter().chain(groups.items()) {
            id.check_range(errors, 0, i64::from(i32::MAX));
        }
    }
}

fn check_allocated(status: &At<'_>, spec: &At<'_>, errors: &mut ErrorList) {
    for (list, containers) in
        [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")]
    {
        for container in status.get(list).items() {
            let found =
                items(spec.value().get(containers)).find(|c| text(c, "/name") == container.text_of("name"));
            for allocated in container.get("allocatedResourcesStatus").items() {
                if let Some(found) = found {
                    check_allocated_name(&allocated.get("name"), found, errors);
                }
                check_health(&allocated.get("resources"), errors);
            }
        }
    }
    for container in status.get("ephemeralContainerStatuses").items() {
        let allocated = container.get("allocatedResourcesStatus");
        if !allocated.is_empty() {
            allocated.forbidden(errors, "must not be specified in container status");
        }
    }
}

fn check_allocated_name(name: &At<'_>, container: &Value, errors: &mut ErrorList) {
    let (known, detail) = match name.text().strip_prefix("claim:") {
        Some(claim) => {
            let is = |c: &Value| match text(c, "/request") {
                "" => claim == text(c, "/name"),
                request => claim == format!("{}/{request}", text(c, "/name")),
            };
            let known = items(container.pointer("/resources/claims")).any(is);
            let detail = "must match one of the container's resource claims in a format \
                          'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty";
            (known, detail)
        }
        None => {
            let requests = container.pointer("/resources/requests");
            let known = requests.and_then(|requests| requests.get(name.text())).is_some();
            (known, "must match one of the container's resource requests")
        }
    };
    if !known {
        name.invalid_as(errors, name.text(), detail);
    }
}

fn check_health(resources: &At<'_>, errors: &mut ErrorList) {
    let mut ids = BTreeSet::new();
    for resource in resources.items() {
        resource.get("health").check_is_one_of(errors, &["Healthy", "Unhealthy", "Unknown"]);
        let message = resource.get("message");
        if message.is_set() && message.is_empty() {
            message.required(errors, "must be non-empty if specified");
        }
        message.check_length(errors, 1024);
        let id = resource.get("resourceID");
        if !ids.insert(id.text()) {
            id.duplicate(errors);
        }
    }
}
