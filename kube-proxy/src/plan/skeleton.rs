//! What our table holds whatever services there are.

use smallvec::smallvec;

use super::{
    name,
    route::{Place, balance, by_pods},
};
use crate::{
    model::Settings,
    tables::{
        Chain, Data, Family, Field, Hook, HookPoint, Key, Kind, Part, Statement, Table, Value, Verdict,
    },
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

/// What elements of our sets lead to.
#[derive(Clone, Copy, Debug)]
enum Holds {
    Nothing,
    Verdicts,
    /// Address and port of an endpoint.
    Targets,
}

/// Key of what arrives at an address, and at a node port.
const ADDRESS_KEY: &[Kind] = &[Kind::Address, Kind::Protocol, Kind::Port];
const NODE_KEY: &[Kind] = &[Kind::Protocol, Kind::Port];

/// The sets and maps: there from the beginning to the end.
const SETS: &[(&str, &[Kind], Holds)] = &[
    (name::CLUSTER_IPS, &[Kind::Address], Holds::Nothing),
    (name::NODE_PORT_IPS, &[Kind::Address], Holds::Nothing),
    (name::HAIRPIN, &[Kind::Address, Kind::Address], Holds::Nothing),
    (name::BY_COUNT[0], ADDRESS_KEY, Holds::Nothing),
    (name::BY_COUNT[1], ADDRESS_KEY, Holds::Nothing),
    (name::BY_COUNT[2], ADDRESS_KEY, Holds::Nothing),
    (name::BY_COUNT[3], ADDRESS_KEY, Holds::Nothing),
    (name::BY_COUNT[4], ADDRESS_KEY, Holds::Nothing),
    (name::BY_COUNT[5], ADDRESS_KEY, Holds::Nothing),
    (name::BY_COUNT[6], ADDRESS_KEY, Holds::Nothing),
    (name::BY_COUNT[7], ADDRESS_KEY, Holds::Nothing),
    (name::NO_ENDPOINT_IPS, ADDRESS_KEY, Holds::Nothing),
    (name::NO_LOCAL_ENDPOINT_IPS, ADDRESS_KEY, Holds::Nothing),
    (name::NO_ENDPOINT_NODE_PORTS, NODE_KEY, Holds::Nothing),
    (name::ENDPOINTS, &[Kind::Address, Kind::Protocol, Kind::Port, Kind::Slot], Holds::Targets),
    (name::NODE_PORT_ENDPOINTS, &[Kind::Protocol, Kind::Port, Kind::Slot], Holds::Targets),
    (name::SERVICE_IPS, ADDRESS_KEY, Holds::Verdicts),
    (name::NODE_PORTS, NODE_KEY, Holds::Verdicts),
    (name::FIREWALL_IPS, ADDRESS_KEY, Holds::Verdicts),
    (name::STICKY, &[Kind::Slot], Holds::Verdicts),
];

/// Keys of what arrives at an address, and at a node port.
pub(super) const AT_ADDRESS: [Field; 3] = [Field::Destination, Field::Protocol, Field::DestinationPort];
pub(super) const AT_NODE: [Field; 2] = [Field::Protocol, Field::DestinationPort];

pub(super) fn table(family: Family, settings: &Settings) -> Table {
    let mut table = Table::default();
    SETS.iter().for_each(|(set, key, data)| declare(&mut table, set, key, *data));
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
    let listed =
        |key: &[Field], set: &str| Statement::In { key: key.to_vec(), set: set.to_owned(), negate: false };
    let at_cluster_ip = || listed(&[Field::Destination], name::CLUSTER_IPS);
    let inside = Statement::Verdict(Verdict::Goto(name::INSIDE.into()));
    table.rule(name::SERVICES, "", vec![at_cluster_ip(), inside]);
    table.rule(name::SERVICES, "", vec![vmap(&AT_ADDRESS, name::SERVICE_IPS)]);
    table.rule(name::SERVICES, "", vec![at_node.clone(), vmap(&AT_NODE, name::NODE_PORTS)]);
    // From elsewhere than the pods the answer must come back through here.
    let mut from_elsewhere = by_pods(family, settings, true);
    if settings.masquerade_all || !from_elsewhere.is_empty() {
        from_elsewhere.retain(|_| !settings.masquerade_all);
        from_elsewhere.push(Statement::Verdict(Verdict::Jump(name::MARK.into())));
        table.rule(name::INSIDE, "", from_elsewhere);
    }
    for (count, set) in (1..).zip(name::BY_COUNT) {
        table.rule(name::INSIDE, "", vec![listed(&AT_ADDRESS, set), balance(Place::Address, 0, count)]);
    }
    table.rule(name::INSIDE, "", vec![vmap(&AT_ADDRESS, name::SERVICE_IPS)]);
    for (set, end) in [
        (name::NO_ENDPOINT_IPS, Statement::Reject),
        (name::NO_LOCAL_ENDPOINT_IPS, Statement::Verdict(Verdict::Drop)),
    ] {
        table.rule("service-endpoints-check", "", vec![listed(&AT_ADDRESS, set), end]);
    }
    let none = listed(&AT_NODE, name::NO_ENDPOINT_NODE_PORTS);
    table.rule("nodeport-endpoints-check", "", vec![at_node, none, Statement::Reject]);
    table.rule("firewall-check", "", vec![vmap(&AT_ADDRESS, name::FIREWALL_IPS)]);
    table.rule("cluster-ips-check", "no such port of a service", vec![at_cluster_ip(), Statement::Reject]);
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
        table.element(name::NODE_PORT_IPS, smallvec![Part::Address(*ip)], Value::None);
    }
    table
}

/// Adds an element to one of the sets, declared if need be.
pub(super) fn element(table: &mut Table, name: &str, key: Key, value: Value) {
    if !table.sets.contains_key(name)
        && let Some((set, key, data)) = SETS.iter().find(|(set, ..)| *set == name)
    {
        declare(table, set, key, *data);
    }
    table.element(name, key, value);
}

/// Declares in both parts of tables the sets that one has: none of them comes or goes.
pub(super) fn agree(one: &mut Table, other: &mut Table) {
    for (set, key, data) in SETS {
        match (one.sets.contains_key(*set), other.sets.contains_key(*set)) {
            (true, false) => declare(other, set, key, *data),
            (false, true) => declare(one, set, key, *data),
            _ => {}
        }
    }
}

fn declare(table: &mut Table, name: &str, key: &[Kind], data: Holds) {
    let data = match data {
        Holds::Nothing => Data::None,
        Holds::Verdicts => Data::Verdict,
        Holds::Targets => Data::Parts(vec![Kind::Address, Kind::Port]),
    };
    table.declare(name, key, data);
}
