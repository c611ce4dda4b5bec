//! `networkpolicies` of networking.k8s.io.

use std::sync::Arc;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, address, at::At, column, fill, format},
        pod_spec::warnings_of_cidr,
    },
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("Pod-Selector", "string"), column("Age", "string")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Selector("/spec/podSelector"), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["netpol"],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            validate_new: |policy, errors| check(policy, &Allowed::default(), errors),
            validate_change: |new, old, errors| check(new, &Allowed::by(old), errors),
            warnings,
            ..Rules::new(Plain { status: false, generation: true, cells: CELLS })
        }),
        ..Resource::of("networking.k8s.io", "NetworkPolicy", "networkpolicies", "networkpolicy")
    }
}

/// A policy is about what comes in, and about what goes out if it has rules for that.
fn default(obj: &mut Object) {
    let Some(spec) = fill::spec(obj) else { return };
    if fill::none(spec, "policyTypes") {
        let types: &[&str] = if fill::none(spec, "egress") { &["Ingress"] } else { &["Ingress", "Egress"] };
        spec.insert("policyTypes".to_owned(), types.into());
    }
    for rules in ["ingress", "egress"] {
        for rule in fill::members(spec, rules) {
            fill::members(rule, "ports").for_each(|port| fill::absent(port, "protocol", "TCP"));
        }
    }
}

/// Rules and their peers.
const RULES: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];

/// What an old policy breaks, which then stays allowed.
#[derive(Default)]
struct Allowed<'o> {
    selectors: bool,
    networks: Vec<&'o str>,
}

impl<'o> Allowed<'o> {
    fn by(old: &'o Object) -> Self {
        let blocks = blocks(old);
        let networks = blocks.iter().flat_map(|block| {
            block.get("except").items().chain([block.get("cidr")]).map(|network| network.text())
        });
        Self { selectors: !At::spec(old).get("podSelector").selects(), networks: networks.collect() }
    }

    fn check_selector(&self, selector: &At<'_>, errors: &mut ErrorList) {
        selector.check_selector_after(self.selectors, errors);
    }

    fn check_network(&self, network: &At<'_>, errors: &mut ErrorList) {
        if !self.networks.contains(&network.text()) {
            network.check_format(errors, format::legacy_cidr);
        }
    }
}

/// All blocks of addresses of a policy.
fn blocks(policy: &Object) -> Vec<At<'_>> {
    let spec = At::spec(policy);
    let rules = RULES.iter().flat_map(|(rules, peers)| {
        spec.get(rules).items().flat_map(|rule| rule.get(peers).items().map(|peer| peer.get("ipBlock")))
    });
    rules.filter(At::is_set).collect()
}

fn warnings(policy: &Object, _old: Option<&Object>) -> Vec<String> {
    let blocks = blocks(policy);
    let networks =
        blocks.iter().flat_map(|block| [block.get("cidr")].into_iter().chain(block.get("except").items()));
    networks.flat_map(|network| warnings_of_cidr(network.path(), network.text())).collect()
}

fn check(policy: &Object, allowed: &Allowed<'_>, errors: &mut ErrorList) {
    let spec = At::spec(policy);
    allowed.check_selector(&spec.get("podSelector"), errors);
    for (rules, peers) in RULES {
        for rule in spec.get(rules).items() {
            rule.get("ports").items().for_each(|port| check_port(&port, errors));
            rule.get(peers).items().for_each(|peer| check_peer(&peer, allowed, errors));
        }
    }
    let types = spec.get("policyTypes");
    if types.len() > 2 {
        return types.invalid(errors, "may not specify more than two policyTypes");
    }
    for kind in types.items().filter(|kind| !matches!(kind.text(), "Ingress" | "Egress")) {
        kind.not_among(errors, &["Ingress", "Egress"]);
    }
}

fn check_port(port: &At<'_>, errors: &mut ErrorList) {
    let protocol = port.get("protocol");
    if protocol.is_set() && !matches!(protocol.text(), "TCP" | "UDP" | "SCTP") {
        protocol.not_among(errors, &["TCP", "UDP", "SCTP"]);
    }
    let (first, last) = (port.get("port"), port.get("endPort"));
    if !first.is_set() {
        if last.is_set() {
            last.invalid(errors, "may not be specified when `port` is not specified");
        }
    } else if let Some(number) = first.number() {
        first.check_range(errors, 1, 65535);
        if last.is_set() {
            if last.int() < number {
                last.invalid_as(errors, number, "must be greater than or equal to `port`");
            }
            last.check_range(errors, 1, 65535);
        }
    } else {
        if last.is_set() {
            last.invalid(errors, "may not be specified when `port` is non-numeric");
        }
        first.check_format(errors, format::port_name);
    }
}

fn check_peer(peer: &At<'_>, allowed: &Allowed<'_>, errors: &mut ErrorList) {
    let (pods, namespaces, block) =
        (peer.get("podSelector"), peer.get("namespaceSelector"), peer.get("ipBlock"));
    allowed.check_selector(&pods, errors);
    allowed.check_selector(&namespaces, errors);
    if block.is_set() {
        check_block(&block, allowed, errors);
        if pods.is_set() || namespaces.is_set() {
            peer.forbidden(errors, "may not specify both ipBlock and another peer");
        }
    } else if !pods.is_set() && !namespaces.is_set() {
        peer.required(errors, "must specify a peer");
    }
}

fn check_block(block: &At<'_>, allowed: &Allowed<'_>, errors: &mut ErrorList) {
    let cidr = block.get("cidr");
    if !cidr.check_required(errors) {
        return;
    }
    allowed.check_network(&cidr, errors);
    let Some(whole) = address::loose_cidr(cidr.text()) else { return };
    for except in block.get("except").items() {
        allowed.check_network(&except, errors);
        if let Some(part) = address::loose_cidr(except.text())
            && !(whole.contains(&part.network()) && whole.prefix_len() < part.prefix_len())
        {
            except.invalid(errors, "must be a strict subset of `cidr`");
        }
    }
}
