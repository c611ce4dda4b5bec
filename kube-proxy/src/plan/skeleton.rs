//! What our table holds whatever services there are.

use super::name;
use crate::{
    model::Settings,
    tables::{Chain, Data, Family, Field, Hook, HookPoint, Kind, Part, Statement, Table, Value, Verdict},
};

const DSTNAT: i32 = -100;
const SRCNAT: i32 = 100;
const FILTER: i32 = 0;

/// Base chains: name, kind, point, priority, and the chains they lead to.
/// Filters on the way to a service run before its address is replaced, hence 10 before dstnat.
const BASE: &[(&str, &str, HookPoint, i32, &[&str])] = &[
    ("nat-prerouting", "nat", HookPoint::Prerouting, DSTNAT, &[name::SERVICES]),
    ("nat-output", "nat", HookPoint::Output, DSTNAT, &[name::SERVICES]),
    ("nat-postrouting", "nat", HookPoint::Postrouting, SRCNAT, &["masquerading"]),
    ("filter-prerouting-pre-dnat", "filter", HookPoint::Prerouting, DSTNAT - 10, &["firewall-check"]),
    (
        "filter-output-pre-dnat",
        "filter",
        HookPoint::Output,
        DSTNAT - 10,
        &["service-endpoints-check", "firewall-check"],
    ),
    (
        "filter-input",
        "filter",
        HookPoint::Input,
        FILTER,
        &["nodeport-endpoints-check", "service-endpoints-check"],
    ),
    (
        "filter-forward",
        "filter",
        HookPoint::Forward,
        FILTER,
        &["service-endpoints-check", "cluster-ips-check"],
    ),
    ("filter-output", "filter", HookPoint::Output, FILTER, &["cluster-ips-check"]),
];

/// Keys of what arrives at an address, and at a node port.
pub(super) const AT_ADDRESS: [Field; 3] = [Field::Destination, Field::Protocol, Field::DestinationPort];
const AT_NODE: [Field; 2] = [Field::Protocol, Field::DestinationPort];

pub(super) fn table(family: Family, settings: &Settings) -> Table {
    let mut table = Table::default();
    declare_sets(&mut table);
    for (chain, kind, point, priority, targets) in BASE {
        let hook = Some(Hook { kind, point: *point, priority: *priority });
        table.chains.insert((*chain).to_owned(), Chain { hook, rules: vec![] });
        for target in *targets {
            let mut statements = vec![Statement::Verdict(Verdict::Jump((*target).to_owned()))];
            if *kind == "filter" {
                // The nat hooks see first packets only; filters see all.
                statements.insert(0, Statement::NewConnection);
            }
            table.rule(chain, "", statements);
        }
    }
    let vmap = |key: &[Field], map: &str| Statement::VerdictMap { key: key.to_vec(), map: map.to_owned() };
    let at_node =
        Statement::In { key: vec![Field::Destination], set: name::NODE_PORT_IPS.into(), negate: false };
    table.rule(name::SERVICES, "", vec![vmap(&AT_ADDRESS, name::SERVICE_IPS)]);
    table.rule(name::SERVICES, "", vec![at_node.clone(), vmap(&AT_NODE, name::NODE_PORTS)]);
    table.rule("service-endpoints-check", "", vec![vmap(&AT_ADDRESS, name::NO_ENDPOINT_IPS)]);
    table.rule("nodeport-endpoints-check", "", vec![at_node, vmap(&AT_NODE, name::NO_ENDPOINT_NODE_PORTS)]);
    table.rule("firewall-check", "", vec![vmap(&AT_ADDRESS, name::FIREWALL_IPS)]);
    let at_cluster_ip =
        Statement::In { key: vec![Field::Destination], set: name::CLUSTER_IPS.into(), negate: false };
    table.rule("cluster-ips-check", "no such port of a service", vec![at_cluster_ip, Statement::Reject]);
    table.rule(name::REJECT, "", vec![Statement::Reject]);
    let mark = settings.masquerade_mark;
    table.rule(name::MARK, "", vec![Statement::SetMark(mark)]);
    table.rule(
        "masquerading",
        "",
        vec![Statement::MarkSet(mark), Statement::ClearMark(mark), Statement::Masquerade],
    );
    let hairpin = Statement::In {
        key: vec![Field::Source, Field::Destination],
        set: name::HAIRPIN.into(),
        negate: false,
    };
    table.rule("masquerading", "a pod reaching itself", vec![hairpin, Statement::Masquerade]);
    for ip in settings.node_port_ips.iter().filter(|ip| family.has(ip)) {
        table.element(name::NODE_PORT_IPS, vec![Part::Address(*ip)], Value::None);
    }
    table
}

fn declare_sets(table: &mut Table) {
    let at_address = [Kind::Address, Kind::Protocol, Kind::Port];
    let at_node = [Kind::Protocol, Kind::Port];
    for (set, key) in [
        (name::SERVICE_IPS, &at_address[..]),
        (name::NO_ENDPOINT_IPS, &at_address),
        (name::FIREWALL_IPS, &at_address),
        (name::NODE_PORTS, &at_node),
        (name::NO_ENDPOINT_NODE_PORTS, &at_node),
    ] {
        table.declare(set, key, Data::Verdict);
    }
    table.declare(name::CLUSTER_IPS, &[Kind::Address], Data::None);
    table.declare(name::NODE_PORT_IPS, &[Kind::Address], Data::None);
    table.declare(name::HAIRPIN, &[Kind::Address, Kind::Address], Data::None);
    table.declare(name::STICKY, &[Kind::Slot], Data::Verdict);
    table.declare(name::ENDPOINTS, &[Kind::Slot], Data::Parts(vec![Kind::Address, Kind::Port]));
}
