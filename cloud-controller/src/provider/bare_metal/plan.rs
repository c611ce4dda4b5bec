//! Which address a service gets, and how the kernel's addresses and routes must change.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use crate::provider::{LoadBalancer, ProviderError, Route};

/// Addresses and routes of this machine, as far as they matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// Addresses of all interfaces but loopback.
    pub(super) own: BTreeSet<IpAddr>,
    /// Single addresses on the loopback interface.
    pub(super) loopback: BTreeSet<IpAddr>,
    /// Routes with our protocol mark.
    pub(super) routes: BTreeMap<IpNet, IpAddr>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    AddAddress(IpAddr),
    RemoveAddress(IpAddr),
    SetRoute(Route),
    RemoveRoute(Route),
}

/// The address a service gets: the one asked for, else the one it has, else the first free one.
pub(super) fn choose(
    pool: &[IpNet],
    current: Option<IpAddr>,
    requested: Option<IpAddr>,
    taken: &BTreeSet<IpAddr>,
) -> Result<IpAddr, ProviderError> {
    let pooled = |ip: &IpAddr| pool.iter().any(|net| net.contains(ip));
    if let Some(ip) = requested {
        let refuse = |why| Err(ProviderError::AddressUnavailable { address: ip.to_string(), why });
        return match () {
            () if !pooled(&ip) => refuse("is not in the load balancer pool"),
            () if taken.contains(&ip) => refuse("belongs to another service"),
            () => Ok(ip),
        };
    }
    if let Some(ip) = current.filter(|ip| pooled(ip) && !taken.contains(ip)) {
        return Ok(ip);
    }
    // Of n taken addresses at most n can stand before the first free one, so this walk is short.
    pool.iter().flat_map(all_addresses).find(|ip| !taken.contains(ip)).ok_or_else(|| {
        ProviderError::PoolExhausted {
            pool: pool.iter().map(IpNet::to_string).collect::<Vec<_>>().join(", "),
        }
    })
}

/// Every address of a range, network and broadcast address too: each is routed on its own.
fn all_addresses(net: &IpNet) -> Box<dyn Iterator<Item = IpAddr>> {
    match net {
        IpNet::V4(v4) => {
            let (first, last) = (u32::from(v4.network()), u32::from(v4.broadcast()));
            Box::new((first..=last).map(|n| IpAddr::V4(n.into())))
        }
        IpNet::V6(v6) => {
            let (first, last) = (u128::from(v6.network()), u128::from(v6.broadcast()));
            Box::new((first..=last).map(|n| IpAddr::V6(n.into())))
        }
    }
}

/// Changes that make the machine answer for, or route, exactly the wanted load balancers.
pub(super) fn load_balancers(pool: &[IpNet], wanted: &[LoadBalancer], now: &State) -> Vec<Change> {
    let (mut local, mut routed) = (BTreeSet::new(), BTreeMap::new());
    for lb in wanted {
        // Nobody here looks whether a node answers: those that say they are ready come first.
        let some_ready = lb.nodes.iter().any(|n| n.ready);
        let mut nodes = lb.nodes.iter().filter(|n| n.ready || !some_ready);
        if nodes.clone().any(|n| now.own.contains(&n.address)) {
            local.insert(lb.address);
        } else if let Some(node) = nodes.find(|n| n.address.is_ipv4() == lb.address.is_ipv4()) {
            routed.insert(IpNet::from(lb.address), node.address);
        }
    }
    let pooled = |ip: &IpAddr| pool.iter().any(|net| net.contains(ip));
    let mut out: Vec<Change> = Vec::new();
    out.extend(
        now.loopback
            .iter()
            .filter(|ip| pooled(ip) && !local.contains(ip))
            .map(|ip| Change::RemoveAddress(*ip)),
    );
    out.extend(local.difference(&now.loopback).map(|ip| Change::AddAddress(*ip)));
    out.extend(route_changes(&routed, now, |net| {
        pooled(&net.addr()) && net.prefix_len() == net.max_prefix_len()
    }));
    out
}

/// Changes that make exactly the wanted pod routes exist; a node on this machine needs none.
pub(super) fn routes(wanted: &[Route], now: &State) -> Vec<Change> {
    let wanted: BTreeMap<IpNet, IpAddr> = wanted
        .iter()
        .filter(|r| !now.own.contains(&r.gateway))
        .map(|r| (r.destination.trunc(), r.gateway))
        .collect();
    route_changes(&wanted, now, |net| net.prefix_len() != net.max_prefix_len())
}

/// Single addresses are load balancers', wider routes are pods': each side minds its own.
fn route_changes(
    wanted: &BTreeMap<IpNet, IpAddr>,
    now: &State,
    mine: impl Fn(&IpNet) -> bool,
) -> Vec<Change> {
    let stale = now.routes.iter().filter(|(net, _)| mine(net) && !wanted.contains_key(net));
    let stale = stale.map(|(d, g)| Change::RemoveRoute(Route { destination: *d, gateway: *g }));
    let fresh = wanted.iter().filter(|(net, gateway)| now.routes.get(net) != Some(gateway));
    stale.chain(fresh.map(|(d, g)| Change::SetRoute(Route { destination: *d, gateway: *g }))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::NodeAddress;

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    fn net(s: &str) -> IpNet {
        s.parse().unwrap()
    }

    fn set(ips: &[&str]) -> BTreeSet<IpAddr> {
        ips.iter().map(|s| ip(s)).collect()
    }

    #[test]
    fn addresses_are_kept_requested_or_the_first_free() {
        let pool = [net("10.0.0.0/30")];
        let text = |r: Result<IpAddr, ProviderError>| r.map(|ip| ip.to_string()).map_err(|e| e.to_string());
        let cases = [
            (None, None, set(&[]), Ok("10.0.0.0")),
            (None, None, set(&["10.0.0.0", "10.0.0.1"]), Ok("10.0.0.2")),
            (Some(ip("10.0.0.3")), None, set(&[]), Ok("10.0.0.3")),
            (Some(ip("10.0.0.3")), None, set(&["10.0.0.3"]), Ok("10.0.0.0")),
            (Some(ip("192.168.0.1")), None, set(&[]), Ok("10.0.0.0")),
            (Some(ip("10.0.0.3")), Some(ip("10.0.0.2")), set(&[]), Ok("10.0.0.2")),
            (
                None,
                Some(ip("10.0.0.2")),
                set(&["10.0.0.2"]),
                Err("address 10.0.0.2 belongs to another service"),
            ),
            (None, Some(ip("1.1.1.1")), set(&[]), Err("address 1.1.1.1 is not in the load balancer pool")),
            (
                None,
                None,
                set(&["10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3"]),
                Err("no free address in the load balancer pool 10.0.0.0/30"),
            ),
        ];
        for (current, requested, taken, want) in cases {
            let got = text(choose(&pool, current, requested, &taken));
            assert_eq!(got, want.map(str::to_owned).map_err(str::to_owned));
        }
    }

    #[test]
    fn an_address_lives_here_or_is_routed_to_a_node_and_goes_with_its_service() {
        let pool = [net("10.97.0.0/24")];
        let lb = |address: &str, node: &str| LoadBalancer {
            service: "default/web".into(),
            address: ip(address),
            nodes: vec![NodeAddress { name: "n".into(), address: ip(node), ready: true }],
        };
        let now = State {
            own: set(&["10.98.0.1"]),
            loopback: set(&["127.0.0.1", "10.97.0.9"]),
            routes: [(net("10.97.0.8/32"), ip("10.98.0.12")), (net("10.244.0.0/24"), ip("10.98.0.12"))]
                .into(),
        };
        let changes =
            load_balancers(&pool, &[lb("10.97.0.1", "10.98.0.1"), lb("10.97.0.2", "10.98.0.11")], &now);
        assert_eq!(
            changes,
            [
                Change::RemoveAddress(ip("10.97.0.9")),
                Change::AddAddress(ip("10.97.0.1")),
                Change::RemoveRoute(Route { destination: net("10.97.0.8/32"), gateway: ip("10.98.0.12") }),
                Change::SetRoute(Route { destination: net("10.97.0.2/32"), gateway: ip("10.98.0.11") }),
            ]
        );
    }

    #[test]
    fn traffic_goes_to_nodes_that_are_ready_while_any_is() {
        let pool = [net("10.97.0.0/24")];
        let now = State { own: set(&["10.98.0.1"]), ..State::default() };
        let change = |own: bool, other: bool| {
            let node =
                |address: &str, ready| NodeAddress { name: address.into(), address: ip(address), ready };
            let nodes = vec![node("10.98.0.1", own), node("10.98.0.2", other)];
            let lb = LoadBalancer { service: "d/web".into(), address: ip("10.97.0.1"), nodes };
            load_balancers(&pool, &[lb], &now)
        };
        let here = [Change::AddAddress(ip("10.97.0.1"))];
        let there = Route { destination: net("10.97.0.1/32"), gateway: ip("10.98.0.2") };
        assert_eq!(change(true, true), here);
        assert_eq!(change(true, false), here);
        assert_eq!(change(false, true), [Change::SetRoute(there)]);
        assert_eq!(change(false, false), here, "none is worse than any");
    }

    #[test]
    fn routes_converge_and_leave_load_balancers_alone() {
        let now = State {
            own: set(&["10.98.0.1"]),
            loopback: set(&[]),
            routes: [
                (net("10.97.0.8/32"), ip("10.98.0.12")),
                (net("10.244.0.0/24"), ip("10.98.0.12")),
                (net("10.244.9.0/24"), ip("10.98.0.19")),
            ]
            .into(),
        };
        let route = |d: &str, g: &str| Route { destination: net(d), gateway: ip(g) };
        let wanted = [
            route("10.244.0.0/24", "10.98.0.11"),
            route("10.244.1.0/24", "10.98.0.12"),
            route("10.244.2.0/24", "10.98.0.1"),
        ];
        assert_eq!(
            routes(&wanted, &now),
            [
                Change::RemoveRoute(route("10.244.9.0/24", "10.98.0.19")),
                Change::SetRoute(route("10.244.0.0/24", "10.98.0.11")),
                Change::SetRoute(route("10.244.1.0/24", "10.98.0.12")),
            ]
        );
    }
}
