//! `networkpolicies` of networking.k8s.io.

use std::sync::Arc;

use ipnet::IpNet;

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, at::At, column, fill, format},
    },
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("Pod-Selector", "string"), column("Age", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Pairs("/spec/podSelector/matchLabels"), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["netpol"],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            validate,
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
            fill::members(rule, "ports").for_each(|port| fill::missing(port, "protocol", "TCP"));
        }
    }
}

fn validate(obj: &Object, errors: &mut ErrorList) {
    let spec = At::spec(obj);
    spec.get("podSelector").check_selector(errors);
    for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.get(rules).items() {
            rule.get("ports").items().for_each(|port| check_port(&port, errors));
            rule.get(peers).items().for_each(|peer| check_peer(&peer, errors));
        }
    }
    let types = spec.get("policyTypes");
    if types.len() > 2 {
        return types.invalid(errors, "may not specify more than two policyTypes");
    }
    types.items().for_each(|kind| kind.check_is_one_of(errors, &["Ingress", "Egress"]));
}

fn check_port(port: &At<'_>, errors: &mut ErrorList) {
    port.get("protocol").check_option_of(errors, &["TCP", "UDP", "SCTP"]);
    let (first, last) = (port.get("port"), port.get("endPort"));
    if !first.is_set() {
        if last.is_set() {
            last.invalid(errors, "may not be specified when `port` is not specified");
        }
    } else if let Some(number) = first.number() {
        first.check_range(errors, 1, 65535);
        if last.is_set() {
            if last.int() < number {
                last.invalid(errors, "must be greater than or equal to `port`");
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

fn check_peer(peer: &At<'_>, errors: &mut ErrorList) {
    let (pods, namespaces, block) =
        (peer.get("podSelector"), peer.get("namespaceSelector"), peer.get("ipBlock"));
    pods.check_selector(errors);
    namespaces.check_selector(errors);
    if block.is_set() {
        check_block(&block, errors);
        if pods.is_set() || namespaces.is_set() {
            peer.forbidden(errors, "may not specify both ipBlock and another peer");
        }
    } else if !pods.is_set() && !namespaces.is_set() {
        peer.required(errors, "must specify a peer");
    }
}

fn check_block(block: &At<'_>, errors: &mut ErrorList) {
    let cidr = block.get("cidr");
    if !cidr.check_required(errors) {
        return;
    }
    cidr.check_format(errors, format::cidr);
    let Ok(whole) = cidr.text().parse::<IpNet>() else { return };
    for except in block.get("except").items() {
        except.check_format(errors, format::cidr);
        if let Ok(part) = except.text().parse::<IpNet>()
            && !(whole.contains(&part.network()) && whole.prefix_len() < part.prefix_len())
        {
            except.invalid(errors, "must be a strict subset of `cidr`");
        }
    }
}
