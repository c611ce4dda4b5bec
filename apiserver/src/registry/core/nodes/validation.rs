//! What is wrong with a node and with changes of one.
//!
//! Contract: core/v1 `NodeSpec` and `NodeStatus`; declared features are KEP-5328.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::Value;

use crate::{
    field::{Error, ErrorList, Path},
    object::Object,
    registry::{
        kit::{address, at::At, format, resources, shape},
        pod_spec::{check_effect, warnings_of_cidr},
    },
    validate,
};

const TAINTS: &str = "scheduler.alpha.kubernetes.io/taints";
const AVOID_PODS: &str = "scheduler.alpha.kubernetes.io/preferAvoidPods";

/// A node, new or as it is to become.
pub(super) fn check(node: &Object, errors: &mut ErrorList) {
    let (spec, status) = (At::spec(node), At::status(node));
    check_annotations(node, errors);
    check_taints(&spec.get("taints").named(Path::new("metadata").child("taints")), errors);
    check_amounts(&status, errors);
    let swap = status.get("nodeInfo").get("swap").get("capacity");
    if swap.is_set() {
        let path = Path::new("metadata").child("nodeSwapStatus").child("capacity");
        swap.named(path).check_positive(errors);
    }
    check_features(&status.get("declaredFeatures"), errors);
    check_networks(&spec.get("podCIDRs"), errors);
}

/// Annotations that hold lists of their own.
fn check_annotations(node: &Object, errors: &mut ErrorList) {
    let path = Path::new("metadata").child("annotations");
    if let Some(text) = node.annotation(TAINTS).filter(|text| !text.is_empty()) {
        match serde_json::from_str::<Value>(text) {
            Ok(taints) => check_taints(&At::new(&taints, path.child(TAINTS)), errors),
            Err(error) => errors.push(Error::invalid(&path, TAINTS, error.to_string())),
        }
    }
    let Some(text) = node.annotation(AVOID_PODS).filter(|text| !text.is_empty()) else { return };
    match serde_json::from_str::<Value>(text) {
        Ok(avoid) => {
            let entries = At::new(&avoid, path.clone()).get("preferAvoidPods");
            for entry in entries.named(path.child(AVOID_PODS)).items() {
                let owner = entry.get("podSignature").get("podController");
                let at = entry.path().child("PodSignature");
                if !owner.is_set() {
                    errors.push(Error::required(&at, ""));
                } else if !owner.get("controller").is_true() {
                    let at = at.child("PodController").child("Controller");
                    errors.push(Error::invalid(&at, false, "must point to a controller"));
                }
            }
        }
        Err(error) => errors.push(Error::invalid(&path.child("AvoidPods"), AVOID_PODS, error.to_string())),
    }
}

fn check_taints(taints: &At<'_>, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for taint in taints.items() {
        taint.get("key").check_format(errors, format::qualified_name);
        let value = taint.get("value");
        let wrong = format::label_value(value.text());
        if !wrong.is_empty() {
            value.invalid(errors, wrong.join(";"));
        }
        check_effect(&taint.get("effect"), errors);
        if !seen.insert((taint.text_of("effect"), taint.text_of("key"))) {
            let detail = "taints must be unique by key and effect pair".to_owned();
            let twice = Error::duplicate(taint.path(), taint.value().clone()).shown_as(&shape::TAINT);
            errors.push(Error { detail, ..twice });
        }
    }
}

fn check_amounts(status: &At<'_>, errors: &mut ErrorList) {
    for list in ["capacity", "allocatable"].map(|field| status.get(field)) {
        for (name, amount) in list.entries() {
            resources::check_amount(name, &amount.named(list.path().child(name)), errors);
        }
    }
}

/// Features have names like `ThisFeature/part`, in order and once each.
fn check_features(features: &At<'_>, errors: &mut ErrorList) {
    let mut last: Option<At<'_>> = None;
    for feature in features.items() {
        let name = feature.text();
        if let Some(last) = &last {
            if last.text() == name {
                feature.duplicate(errors);
            } else if last.text() > name {
                feature.invalid(errors, "list must be sorted alphabetically");
            }
        }
        if name.len() > validate::DNS_SUBDOMAIN_MAX {
            let most = validate::DNS_SUBDOMAIN_MAX;
            let detail = format!("invalid feature name {name:?}: must be no more than {most} characters");
            feature.invalid_as(errors, name, detail);
        } else if !is_feature(name) {
            feature.invalid_as(
                errors,
                name,
                format!(
                    "invalid feature name {name:?}: must start with an UpperCamelCase segment, with subsequent \
                     segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only \
                     alphanumeric characters and slashes"
                ),
            );
        }
        last = Some(feature);
    }
}

fn is_feature(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.split('/').all(|part| {
            part.starts_with(|c: char| c.is_ascii_alphabetic())
                && part.bytes().all(|b| b.is_ascii_alphanumeric())
        })
}

/// Networks of the node's pods: one of each family.
fn check_networks(networks: &At<'_>, errors: &mut ErrorList) {
    networks.items().for_each(|network| network.check_format(errors, format::legacy_cidr));
    if networks.len() < 2 {
        return;
    }
    let mut families = Vec::new();
    for network in networks.items() {
        let (ip, _) = network.text().split_once('/').unwrap_or_default();
        match address::without_leading_zeros(ip).parse::<IpAddr>() {
            Ok(ip) => families.push(ip.to_canonical().is_ipv4()),
            Err(_) => {
                let detail = format!(
                    "invalid PodCIDRs. failed to check with dual stack with error:invalid CIDR address: {}",
                    network.text()
                );
                errors.push(Error::internal(networks.path(), detail));
                break;
            }
        }
    }
    let dual = families.contains(&true) && families.contains(&false) && families.len() == networks.len();
    if !dual || networks.len() > 2 {
        networks.invalid(errors, "may specify no more than one CIDR for each IP family");
    }
}

/// A node keeps its networks and what its provider calls it.
pub(super) fn check_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    let (spec, status, was) = (At::spec(new), At::status(new), At::spec(old));
    check_annotations(new, errors);
    check_amounts(&status, errors);
    check_features(&status.get("declaredFeatures"), errors);
    let mut seen = BTreeSet::new();
    for address in status.get("addresses").items() {
        if !seen.insert((address.text_of("type"), address.text_of("address"))) {
            address.duplicate(errors);
        }
    }
    let (networks, before) = (spec.get("podCIDRs"), was.get("podCIDRs"));
    let changed = match (before.len(), networks.len()) {
        (0, _) => 0,
        (a, b) if a != b => 1,
        _ => before.items().zip(networks.items()).filter(|(a, b)| a.text() != b.text()).count(),
    };
    for _ in 0..changed {
        networks.forbidden(errors, "node updates may not change podCIDR except from \"\" to valid");
    }
    let provider = was.text_of("providerID");
    if !provider.is_empty() && provider != spec.text_of("providerID") {
        let detail = "node updates may not change providerID except from \"\" to valid";
        spec.get("providerID").forbidden(errors, detail);
    }
    if spec.has("configSource") {
        check_config(&spec.get("configSource"), false, errors);
    }
    for source in ["assigned", "active", "lastKnownGood"].map(|field| status.get("config").get(field)) {
        if source.is_set() {
            check_config(&source, true, errors);
        }
    }
    check_taints(&spec.get("taints").named(Path::new("metadata").child("taints")), errors);
    if spec.text_of("externalID") != was.text_of("externalID") {
        spec.get("externalID").forbidden(errors, "may not be updated");
    }
}

/// Where a node once got its configuration from; `known` when it tells which one it found.
fn check_config(source: &At<'_>, known: bool, errors: &mut ErrorList) {
    let map = source.get("configMap");
    if !map.is_set() {
        return source.invalid(errors, "exactly one reference subfield must be non-nil");
    }
    for field in ["uid", "resourceVersion"] {
        let at = map.get(field);
        if known {
            at.check_required(errors);
        } else if !at.is_empty() {
            at.forbidden(errors, format!("{field} must not be set in spec"));
        }
    }
    map.get("namespace").check_required_format(errors, format::dns_label);
    map.get("name").check_required_format(errors, format::dns_subdomain);
    map.get("kubeletConfigKey").check_required_format(errors, format::config_key);
}

/// What to warn of at a node.
pub(super) fn warnings(node: &Object) -> Vec<String> {
    let spec = At::spec(node);
    let mut warnings = Vec::new();
    if spec.has("configSource") {
        warnings.push("spec.configSource: the feature is removed".to_owned());
    }
    if !spec.text_of("externalID").is_empty() {
        warnings.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
    }
    for network in spec.get("podCIDRs").items() {
        warnings.extend(warnings_of_cidr(network.path(), network.text()));
    }
    warnings
}
