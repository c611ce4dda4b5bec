//! What the plan needs to know of this node. Pure, but for the list of the machine's addresses.

use std::net::IpAddr;

use crate::{
    model::Settings,
    objects::Node,
    options::{Config, DetectLocal, NodePortAddresses},
};

const ZONE: &str = "topology.kubernetes.io/zone";
/// The cluster autoscaler is about to remove the node.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// The settings of a plan: from the configuration, the Node as the API has it, and the machine's
/// own addresses.
pub fn settings(config: &Config, node: Option<&Node>, machine: &[IpAddr]) -> Settings {
    let zone = node.and_then(|n| n.metadata.labels.as_ref()?.get(ZONE)).map_or("", String::as_str);
    let pod_ranges = match (&config.detect_local, node) {
        (DetectLocal::ClusterCidr(ranges), _) => ranges.clone(),
        (DetectLocal::NodeCidr, Some(node)) => {
            node.spec.pod_cidrs.iter().filter_map(|range| range.parse().ok()).collect()
        }
        (DetectLocal::NodeCidr, None) | (DetectLocal::Bridge(_) | DetectLocal::InterfacePrefix(_), _) => {
            Vec::new()
        }
    };
    let pod_interfaces = match &config.detect_local {
        DetectLocal::Bridge(name) => Some((name.clone(), false)),
        DetectLocal::InterfacePrefix(prefix) => Some((prefix.clone(), true)),
        _ => None,
    };
    let node_port_ips = match &config.node_port_addresses {
        NodePortAddresses::Primary => primary(config, node),
        NodePortAddresses::Within(ranges) => {
            let within = |ip: &&IpAddr| !ip.is_loopback() && ranges.iter().any(|range| range.contains(*ip));
            machine.iter().filter(within).copied().collect()
        }
    };
    Settings {
        node: config.node_name.as_str().into(),
        zone: zone.into(),
        node_port_ips,
        pod_ranges,
        pod_interfaces,
        masquerade_all: config.masquerade_all,
        masquerade_mark: config.masquerade_mark,
    }
}

/// Whether load balancers may still choose the node (KEP-3836).
pub fn is_eligible(node: Option<&Node>) -> bool {
    node.is_none_or(|node| {
        node.metadata.deletion_timestamp.is_none() && !node.spec.taints.iter().any(|t| t.key == TO_BE_DELETED)
    })
}

/// The machine's addresses.
pub fn machine_addresses() -> Vec<IpAddr> {
    let interfaces = match nix::ifaddrs::getifaddrs() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            tracing::warn!(%error, "addresses of this machine are not known");
            return Vec::new();
        }
    };
    interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::from(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::from(a.ip())))
        })
        .collect()
}

/// The node's first internal address (else external) of each family.
fn primary(config: &Config, node: Option<&Node>) -> Vec<IpAddr> {
    let all = node.map(|node| node.status.addresses.as_slice()).unwrap_or_default();
    let of = |kind: &str, v4: bool| {
        let mut parsed =
            all.iter().filter(|a| a.kind == kind).filter_map(|a| a.address.parse::<IpAddr>().ok());
        parsed.find(|ip| ip.is_ipv4() == v4)
    };
    let found: Vec<IpAddr> = [true, false]
        .into_iter()
        .filter_map(|v4| of("InternalIP", v4).or_else(|| of("ExternalIP", v4)))
        .collect();
    match config.bind_address {
        bind if found.is_empty() && !bind.is_unspecified() => vec![bind],
        _ => found,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::options;

    fn config(flags: &[&str]) -> Config {
        options::configured(&[&["--hostname-override=n1"], flags].concat()).unwrap()
    }

    fn node() -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "a"}},
            "spec": {"podCIDRs": ["10.244.1.0/24", "fd00:1::/64"]},
            "status": {"addresses": [
                {"type": "Hostname", "address": "n1"}, {"type": "ExternalIP", "address": "203.0.113.5"},
                {"type": "InternalIP", "address": "192.168.0.5"}, {"type": "InternalIP", "address": "192.168.0.6"},
                {"type": "ExternalIP", "address": "2001:db8::5"},
            ]},
        }))
        .unwrap()
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn node_ports_are_served_where_told() {
        let machine = ips(&["127.0.0.1", "192.168.0.5", "10.0.0.1", "fe80::1"]);
        let node = node();
        for (flags, node, want) in [
            (&[][..], Some(&node), ips(&["192.168.0.5", "2001:db8::5"])),
            (&["--nodeport-addresses=primary"], Some(&node), ips(&["192.168.0.5", "2001:db8::5"])),
            (&["--bind-address=192.0.2.7"], None, ips(&["192.0.2.7"])),
            (&[], None, ips(&[])),
            (&["--nodeport-addresses=0.0.0.0/0"], None, ips(&["192.168.0.5", "10.0.0.1"])),
            (&["--nodeport-addresses=10.0.0.0/8,fe80::/10"], None, ips(&["10.0.0.1", "fe80::1"])),
        ] {
            assert_eq!(settings(&config(flags), node, &machine).node_port_ips, want, "{flags:?}");
        }
    }

    #[test]
    fn local_traffic_and_zone_come_from_the_node() {
        let made = settings(&config(&["--detect-local-mode=NodeCIDR"]), Some(&node()), &[]);
        assert_eq!(made.pod_ranges, ["10.244.1.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()]);
        assert_eq!((&*made.zone, &*made.node), ("a", "n1"));
        let made = settings(&config(&["--cluster-cidr=10.244.0.0/16"]), None, &[]);
        assert_eq!(made.pod_ranges, ["10.244.0.0/16".parse().unwrap()]);
    }

    #[test]
    fn a_node_about_to_go_takes_no_new_traffic() {
        assert!(is_eligible(None) && is_eligible(Some(&node())));
        let mut tainted = node();
        tainted
            .spec
            .taints
            .push(serde_json::from_value(json!({"key": TO_BE_DELETED, "effect": "NoSchedule"})).unwrap());
        assert!(!is_eligible(Some(&tainted)));
    }
}
