//! Nodes say what their machines are: where they stand, what kind they are, which addresses they have.
//!
//! Contract: upstream's `cloud-node-controller`: a kubelet with `--cloud-provider=external` registers its node with the taint
//! `node.cloudprovider.kubernetes.io/uninitialized`, which goes when the node says all this; addresses are kept true
//! afterwards. Addresses a kubelet was given come before others of their kind.

use std::{collections::BTreeMap, net::IpAddr};

use component_base::meta::annotation;
use k8s_openapi::api::core::v1::{Node, NodeAddress, Taint};

use crate::provider::Instance;

/// Taint of nodes nobody has looked at yet.
const UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";
/// The addresses a kubelet was given, separated by commas.
const PROVIDED: &str = "alpha.kubernetes.io/provided-node-ip";
const HOSTNAME: &str = "Hostname";
const TYPES: [&str; 2] = ["beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"];
const ZONES: [&str; 2] = ["failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"];
const REGIONS: [&str; 2] = ["failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"];

/// What a node that is looked at for the first time is to have.
#[derive(Clone, Debug, PartialEq)]
pub struct Introduction {
    /// What its machine is called, where it does not say so.
    pub provider_id: Option<String>,
    /// Labels to set.
    pub labels: BTreeMap<String, String>,
    /// Its taints, without the one of new nodes.
    pub taints: Vec<Taint>,
}

/// Why a node's addresses cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The kubelet was given something else.
    #[error("failed to parse node IP {0:?}")]
    Given(String),
    /// The machine does not have it.
    #[error("failed to get node address from cloud provider that matches ip: {0}")]
    Foreign(IpAddr),
}

/// Whether nobody has looked at a node yet.
pub fn is_new(node: &Node) -> bool {
    taints(node).iter().any(|taint| taint.key == UNINITIALIZED)
}

fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default()
}

/// What a new node is to have.
pub fn introduce(node: &Node, instance: &Instance) -> Introduction {
    let known = node.spec.as_ref().and_then(|s| s.provider_id.as_deref()).is_some_and(|id| !id.is_empty());
    let provider_id = Some(instance.provider_id.clone()).filter(|id| !known && !id.is_empty());
    let said = [(TYPES, &instance.instance_type), (ZONES, &instance.zone), (REGIONS, &instance.region)];
    let said = said.into_iter().filter(|(_, value)| !value.is_empty());
    let mut labels: BTreeMap<String, String> =
        said.flat_map(|(keys, value)| keys.map(|key| (key.to_owned(), value.clone()))).collect();
    let more = instance.labels.iter().filter(|(key, _)| !is_reserved(key));
    labels.extend(more.map(|(key, value)| (key.clone(), value.clone())));
    let taints = taints(node).iter().filter(|taint| taint.key != UNINITIALIZED).cloned().collect();
    Introduction { provider_id, labels, taints }
}

/// Whether a label is of a domain of Kubernetes.
fn is_reserved(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    ["kubernetes.io", "k8s.io"]
        .iter()
        .any(|of| domain.strip_suffix(of).is_some_and(|before| before.is_empty() || before.ends_with('.')))
}

/// Labels that follow their older names and do not yet.
pub fn renamed_labels(node: &Node) -> BTreeMap<String, String> {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let stale = |[old, new]: [&str; 2]| {
        let value = labels.get(old)?;
        (labels.get(new) != Some(value)).then(|| (new.to_owned(), value.clone()))
    };
    [ZONES, REGIONS, TYPES].into_iter().filter_map(stale).collect()
}

/// The addresses a node must have, if it has others.
///
/// # Errors
/// When the kubelet was given an address that the machine does not have.
pub fn addresses(node: &Node, instance: &Instance) -> Result<Option<Vec<NodeAddress>>, AddressError> {
    if instance.addresses.is_empty() {
        return Ok(None);
    }
    let told = instance.addresses.iter();
    let mut all: Vec<NodeAddress> =
        told.map(|a| NodeAddress { type_: a.kind.clone(), address: a.address.clone() }).collect();
    let has = node.status.as_ref().and_then(|s| s.addresses.as_deref()).unwrap_or_default();
    if all.iter().all(|a| a.type_ != HOSTNAME) {
        all.extend(has.iter().filter(|a| a.type_ == HOSTNAME).cloned());
    }
    if let Some(given) = annotation(&node.metadata, PROVIDED) {
        all = preferred(given, all)?;
    }
    let differ = all.len() != has.len() || all.iter().any(|a| !has.contains(a));
    Ok(differ.then_some(all))
}

/// The given addresses, then all that are of another kind than those.
fn preferred(given: &str, all: Vec<NodeAddress>) -> Result<Vec<NodeAddress>, AddressError> {
    let mut out: Vec<NodeAddress> = Vec::new();
    for text in given.split(',').map(str::trim) {
        let ip: IpAddr = text.parse().map_err(|_| AddressError::Given(given.to_owned()))?;
        let before = out.len();
        out.extend(all.iter().filter(|a| a.address.parse() == Ok(ip)).cloned());
        if out.len() == before {
            return Err(AddressError::Foreign(ip));
        }
    }
    let others: Vec<NodeAddress> =
        all.into_iter().filter(|a| out.iter().all(|chosen| chosen.type_ != a.type_)).collect();
    out.extend(others);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(metadata: Value, spec: Value, addresses: Value) -> Node {
        serde_json::from_value(
            json!({"metadata": metadata, "spec": spec, "status": {"addresses": addresses}}),
        )
        .unwrap()
    }

    fn instance(more: Value) -> Instance {
        let mut all = json!({"providerId": "metal://1", "instanceType": "big", "zone": "z", "region": "r"});
        for (key, value) in more.as_object().unwrap() {
            all[key] = value.clone();
        }
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn a_new_node_is_introduced() {
        let taints = json!([{"key": UNINITIALIZED, "value": "true", "effect": "NoSchedule"}, {"key": "mine", "effect": "NoExecute"}]);
        let fresh = node(json!({}), json!({"taints": taints}), json!([]));
        assert!(is_new(&fresh) && !is_new(&Node::default()));
        let labels = json!({"rack": "7", "example.com/row": "3", "kubernetes.io/os": "x", "a.k8s.io/b": "x", "notk8s.io/c": "y"});
        let said = introduce(&fresh, &instance(json!({"labels": labels})));
        assert_eq!(said.provider_id.as_deref(), Some("metal://1"));
        assert_eq!(said.taints.iter().map(|t| t.key.as_str()).collect::<Vec<_>>(), ["mine"]);
        let keys: Vec<&str> = said.labels.keys().map(String::as_str).collect();
        let mut expected: Vec<&str> = TYPES
            .into_iter()
            .chain(ZONES)
            .chain(REGIONS)
            .chain(["rack", "example.com/row", "notk8s.io/c"])
            .collect();
        expected.sort_unstable();
        assert_eq!(keys, expected);
        assert_eq!((said.labels[TYPES[1]].as_str(), said.labels[ZONES[0]].as_str()), ("big", "z"));
        // What is not known is not said, and what is known is not said again.
        let named = node(json!({}), json!({"providerID": "metal://9", "taints": taints}), json!([]));
        let nothing = introduce(&named, &Instance { provider_id: "metal://1".into(), ..Instance::default() });
        assert_eq!((nothing.provider_id, nothing.labels.len()), (None, 0));
    }

    #[test]
    fn newer_names_of_labels_follow_the_older_ones() {
        let labelled = |labels: Value| renamed_labels(&node(json!({"labels": labels}), json!({}), json!([])));
        assert!(labelled(json!({ZONES[1]: "new", "x": "y"})).is_empty());
        assert_eq!(labelled(json!({ZONES[0]: "old", ZONES[1]: "new"}))[ZONES[1]], "old");
        assert_eq!(labelled(json!({TYPES[0]: "big"}))[TYPES[1]], "big");
        assert!(labelled(json!({REGIONS[0]: "r", REGIONS[1]: "r"})).is_empty());
    }

    #[test]
    fn addresses_are_those_of_the_machine_the_given_ones_first() {
        let pair = |kind: &str, address: &str| json!({"type": kind, "address": address});
        let of = |all: &[&Value]| instance(json!({"addresses": all}));
        let shown = |given: Option<&str>, has: &[&Value], all: &[&Value]| {
            let metadata = given.map_or(json!({}), |given| json!({"annotations": {PROVIDED: given}}));
            let found = addresses(&node(metadata, json!({}), json!(has)), &of(all))?;
            Ok(found
                .map(|all| all.into_iter().map(|a| format!("{} {}", a.type_, a.address)).collect::<Vec<_>>()))
        };
        let some = |all: &[&str]| Ok(Some(all.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>()));
        let (one, two) = (pair("InternalIP", "10.0.0.1"), pair("InternalIP", "10.0.0.2"));
        let (six, out, host) =
            (pair("InternalIP", "fd00::1"), pair("ExternalIP", "1.2.3.4"), pair("Hostname", "h"));
        assert_eq!(shown(None, &[], &[]), Ok(None));
        assert_eq!(shown(None, &[], &[&one]), some(&["InternalIP 10.0.0.1"]));
        assert_eq!(shown(None, &[&one], &[&one]), Ok(None));
        assert_eq!(shown(None, &[&two], &[&one]), some(&["InternalIP 10.0.0.1"]));
        // The kubelet's hostname stays where the machine has none.
        assert_eq!(shown(None, &[&host], &[&one]), some(&["InternalIP 10.0.0.1", "Hostname h"]));
        let other = pair("Hostname", "other");
        assert_eq!(shown(None, &[&host], &[&other]), some(&["Hostname other"]));
        let all = [&one, &two, &out, &six];
        assert_eq!(shown(Some("10.0.0.2"), &[], &all), some(&["InternalIP 10.0.0.2", "ExternalIP 1.2.3.4"]));
        let dual = some(&["InternalIP 10.0.0.2", "InternalIP fd00::1", "ExternalIP 1.2.3.4"]);
        assert_eq!(shown(Some("10.0.0.2,fd00::1"), &[], &all), dual);
        assert_eq!(
            shown(Some("10.0.0.9"), &[], &all),
            Err(AddressError::Foreign("10.0.0.9".parse().unwrap()))
        );
        assert_eq!(shown(Some("nonsense"), &[], &all), Err(AddressError::Given("nonsense".into())));
    }
}
