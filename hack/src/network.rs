//! Addresses and kernel networking of the machine's nodes.
//!
//! One node is the host itself. Several nodes are network namespaces joined by a bridge on the
//! host, which routes between them and hides pods behind its own address for the outside.

use std::{fs, net::Ipv4Addr, path::Path};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    command::{command, feed, output, try_output},
    layout::Layout,
};

/// Cluster-wide ranges.
pub const POD_CIDR: &str = "10.244.0.0/16";
/// Service addresses.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// The `kubernetes` service.
pub const KUBERNETES_IP: &str = "10.96.0.1";
/// The `kube-dns` service.
pub const DNS_IP: &str = "10.96.0.10";
/// Addresses handed to LoadBalancer services.
pub const LOAD_BALANCER_CIDR: &str = "10.97.0.0/24";
/// The fabric of several nodes: the host is .1, node i is .(10+i).
const FABRIC: [u8; 3] = [10, 98, 0];

/// The address of the host that nodes and pods reach the control plane by.
pub fn host_address(layout: &Layout, nodes: u32) -> Result<Ipv4Addr> {
    if nodes > 1 {
        return Ok(fabric_address(layout, 1));
    }
    // The address traffic to the outside leaves with; loopback may carry load balancer addresses of global scope.
    let route = output(&mut command("ip", ["-4", "-o", "route", "get", "192.0.0.8"])).unwrap_or_default();
    let mut words = route.split_whitespace();
    let source = words.find(|w| *w == "src").and(words.next()).and_then(|a| a.parse().ok());
    if let Some(source) = source.filter(|a: &Ipv4Addr| !a.is_loopback()) {
        return Ok(source);
    }
    let addresses = output(&mut command("ip", ["-4", "-o", "addr", "show", "scope", "global"]))?;
    let mut others = addresses.lines().filter(|l| l.split_whitespace().nth(1) != Some("lo"));
    others.find_map(first_address).context(
        "this machine has no IPv4 address besides loopback: give an interface one and run hack/up again",
    )
}

/// The address of a line of `ip -o addr`.
fn first_address(line: &str) -> Option<Ipv4Addr> {
    let mut words = line.split_whitespace();
    words.find(|w| *w == "inet")?;
    words.next()?.split('/').next()?.parse().ok()
}

/// Takes load balancer addresses off the host's loopback interface, where a stopped controller left them.
pub fn remove_load_balancer_addresses() -> Result<()> {
    let listed =
        output(&mut command("ip", ["-4", "-o", "addr", "show", "dev", "lo", "to", LOAD_BALANCER_CIDR]))?;
    for address in listed.lines().filter_map(first_address) {
        ip(&["addr", "del", &format!("{address}/32"), "dev", "lo"])?;
    }
    Ok(())
}

/// The address of node `index` (1-based) on the fabric.
pub fn node_address(layout: &Layout, index: u32) -> Ipv4Addr {
    fabric_address(layout, u8::try_from(10 + index).unwrap_or(u8::MAX))
}

fn fabric_address(layout: &Layout, last: u8) -> Ipv4Addr {
    // Two clusters on one machine must not share a fabric.
    let third = if layout.mark.is_empty() { FABRIC[2] } else { 1 + layout.mark.as_bytes()[0] % 200 };
    Ipv4Addr::new(FABRIC[0], FABRIC[1], third, last)
}

/// The network namespace of a node.
pub fn namespace(layout: &Layout, node: &str) -> String {
    layout.kernel_name(&format!("keelson-{node}"))
}

/// Switches forwarding on, remembering what it was.
pub fn enable_forwarding(layout: &Layout) -> Result<()> {
    let path = Path::new("/proc/sys/net/ipv4/ip_forward");
    let memory = layout.dir.join("ip_forward.before");
    let now = fs::read_to_string(path)?;
    if !memory.exists() {
        fs::write(&memory, &now)?;
    }
    if now.trim() != "1" {
        fs::write(path, "1").context("cannot switch IPv4 forwarding on")?;
    }
    Ok(())
}

/// Puts forwarding back to what it was.
pub fn restore_forwarding(layout: &Layout) -> Result<()> {
    let memory = layout.dir.join("ip_forward.before");
    if let Ok(before) = fs::read_to_string(&memory) {
        fs::write("/proc/sys/net/ipv4/ip_forward", before.trim())?;
        fs::remove_file(memory)?;
    }
    Ok(())
}

/// Leads to pods of other nodes by way of a machine that knows where they are, or of the router on the way there.
pub fn route_pods(gateway: &str) -> Result<()> {
    let route = output(&mut command("ip", ["-4", "-o", "route", "get", gateway]))?;
    ip(&["route", "replace", POD_CIDR, "via", router(&route).unwrap_or(gateway)])
}

/// The router of a route as `ip route get` shows it; none where the destination is reached directly.
fn router(route: &str) -> Option<&str> {
    let mut words = route.split_whitespace();
    words.find(|word| *word == "via")?;
    words.next()
}

/// Removes the route of [`route_pods`].
pub fn remove_pod_route() -> Result<()> {
    if output(&mut command("ip", ["-4", "route", "show", POD_CIDR]))?.trim().is_empty() {
        return Ok(());
    }
    ip(&["route", "del", POD_CIDR])
}

/// Makes pods' traffic to the outside leave with the host's address. Replaces an older table at once.
pub fn masquerade(layout: &Layout, netns: Option<&str>) -> Result<()> {
    let table = layout.kernel_name("keelson-egress");
    let rules = format!(
        "table ip {table}\ndelete table ip {table}\ntable ip {table} {{\n chain postrouting {{\n  \
         type nat hook postrouting priority srcnat + 10; policy accept;\n  \
         ip saddr {POD_CIDR} ip daddr != {{ {POD_CIDR}, {SERVICE_CIDR}, {LOAD_BALANCER_CIDR}, {}/24 }} masquerade\n }}\n}}\n",
        fabric_address(layout, 0)
    );
    feed(&mut inside(netns, "nft", &["-f", "-"]), &rules).map(drop)
}

/// Removes the table of [`masquerade`] from the host.
pub fn remove_masquerade(layout: &Layout) -> Result<()> {
    let table = layout.kernel_name("keelson-egress");
    delete_table("ip", &table)
}

/// Deletes an nftables table if it is there.
pub fn delete_table(family: &str, table: &str) -> Result<()> {
    if try_output(&mut command("nft", ["list", "table", family, table]))?.status.success() {
        output(&mut command("nft", ["delete", "table", family, table]))?;
    }
    Ok(())
}

/// Removes what the portmap plugin of CNI keeps in the host's `nat` tables once it has led a port to a pod, if it leads
/// no port any more: with those of others that still use it, it stays.
pub fn remove_host_ports() -> Result<()> {
    for family in ["ip", "ip6"] {
        let listed = try_output(&mut command("nft", ["--json", "list", "table", family, "nat"]))?;
        if !listed.status.success() {
            continue;
        }
        let commands = host_port_leftovers(family, &serde_json::from_slice(&listed.stdout)?);
        if !commands.is_empty() {
            feed(&mut command("nft", ["-f", "-"]), &commands.join("\n"))?;
        }
    }
    Ok(())
}

/// What to tell nft so that the plugin's chains go, given a `nat` table as nft shows it: first the ways into them.
fn host_port_leftovers(family: &str, table: &Value) -> Vec<String> {
    let all = || table["nftables"].as_array().into_iter().flatten();
    let chains = || all().filter_map(|o| o["chain"]["name"].as_str()).filter(|n| is_of_host_ports(n));
    let rules = || all().map(|object| &object["rule"]).filter(|rule| rule.is_object());
    if rules().any(|rule| rule["chain"] == HOST_PORTS) {
        return Vec::new();
    }
    let jumps = rules().filter(|rule| {
        let mut parts = rule["expr"].as_array().into_iter().flatten();
        parts.any(|part| part["jump"]["target"].as_str().is_some_and(is_of_host_ports))
    });
    let mut commands: Vec<String> = jumps
        .filter_map(|rule| Some((rule["chain"].as_str()?, rule["handle"].as_u64()?)))
        .map(|(chain, handle)| format!("delete rule {family} nat {chain} handle {handle}"))
        .collect();
    for verb in ["flush", "delete"] {
        commands.extend(chains().map(|chain| format!("{verb} chain {family} nat {chain}")));
    }
    commands
}

/// The chain with one rule for each port that leads to a pod.
const HOST_PORTS: &str = "CNI-HOSTPORT-DNAT";

fn is_of_host_ports(chain: &str) -> bool {
    chain.starts_with("CNI-HOSTPORT-")
}

/// The bridge that joins namespaced nodes.
pub fn ensure_bridge(layout: &Layout) -> Result<()> {
    let bridge = layout.kernel_name("keelson0");
    if !link_exists(&bridge)? {
        ip(&["link", "add", &bridge, "type", "bridge"])?;
    }
    ip(&["addr", "replace", &format!("{}/24", fabric_address(layout, 1)), "dev", &bridge])?;
    ip(&["link", "set", &bridge, "up"])
}

/// Removes the bridge.
pub fn remove_bridge(layout: &Layout) -> Result<()> {
    let bridge = layout.kernel_name("keelson0");
    if link_exists(&bridge)? { ip(&["link", "del", &bridge]) } else { Ok(()) }
}

/// A node's namespace with its link to the bridge and default route.
pub fn ensure_namespace(layout: &Layout, node: &str, index: u32) -> Result<()> {
    let netns = namespace(layout, node);
    if !Path::new("/run/netns").join(&netns).exists() {
        ip(&["netns", "add", &netns])?;
    }
    let (outer, bridge) = (layout.kernel_name(&format!("kl-n{index}-")), layout.kernel_name("keelson0"));
    if !link_exists(&outer)? {
        ip(&["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &netns])?;
    }
    ip(&["link", "set", &outer, "master", &bridge, "up"])?;
    let address = format!("{}/24", node_address(layout, index));
    for args in [
        vec!["addr", "replace", &address, "dev", "eth0"],
        vec!["link", "set", "lo", "up"],
        vec!["link", "set", "eth0", "up"],
        vec!["route", "replace", "default", "via", &fabric_address(layout, 1).to_string()],
    ] {
        output(&mut inside(Some(&netns), "ip", &args))?;
    }
    output(&mut inside(Some(&netns), "sysctl", &["-q", "-w", "net.ipv4.ip_forward=1"])).map(drop)
}

/// Removes a node's namespace; its links go with it.
pub fn remove_namespace(layout: &Layout, node: &str) -> Result<()> {
    let netns = namespace(layout, node);
    if Path::new("/run/netns").join(&netns).exists() { ip(&["netns", "del", &netns]) } else { Ok(()) }
}

/// A command in a network namespace. `nsenter` is used because `ip netns exec` hides the cgroups.
pub fn inside(netns: Option<&str>, program: &str, args: &[&str]) -> std::process::Command {
    match netns {
        None => command(program, args),
        Some(name) => {
            let mut c =
                command("nsenter", [format!("--net=/run/netns/{name}"), "--".to_owned(), program.to_owned()]);
            c.args(args);
            c
        }
    }
}

/// Fails when a port on this host is taken by a stranger.
pub fn check_port(address: &str, port: u16, who: &str) -> Result<()> {
    if std::net::TcpListener::bind((address, port)).is_err() {
        bail!(
            "{who} needs {address}:{port}, which another program uses: stop that program and run hack/up again"
        );
    }
    Ok(())
}

fn link_exists(name: &str) -> Result<bool> {
    Ok(try_output(&mut command("ip", ["link", "show", name]))?.status.success())
}

fn ip(args: &[&str]) -> Result<()> {
    output(&mut command("ip", args)).map(drop)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chain(name: &str) -> Value {
        json!({"chain": {"family": "ip", "table": "nat", "name": name}})
    }

    fn rule(chain: &str, handle: u64, target: &str) -> Value {
        json!({"rule": {"family": "ip", "table": "nat", "chain": chain, "handle": handle,
            "expr": [{"xt": null}, {"counter": {"packets": 0}}, {"jump": {"target": target}}]}})
    }

    #[test]
    fn the_router_is_read_from_the_route() {
        let far = "192.0.2.7 via 10.0.0.1 dev eth0 src 10.0.0.2 uid 0 \\    cache";
        assert_eq!(router(far), Some("10.0.0.1"));
        assert_eq!(router("10.0.0.7 dev eth0 src 10.0.0.2 uid 0"), None);
    }

    #[test]
    fn the_ways_into_the_plugins_chains_go_before_them() {
        let names = ["PREROUTING", "CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-MASQ", "OTHER"];
        let mut objects: Vec<Value> = names.map(chain).into();
        objects.extend([rule("PREROUTING", 7, "CNI-HOSTPORT-DNAT"), rule("PREROUTING", 8, "OTHER")]);
        objects.push(rule("CNI-HOSTPORT-MASQ", 9, "OTHER"));
        let commands = host_port_leftovers("ip", &json!({ "nftables": objects.clone() }));
        let expected = [
            "delete rule ip nat PREROUTING handle 7",
            "flush chain ip nat CNI-HOSTPORT-DNAT",
            "flush chain ip nat CNI-HOSTPORT-MASQ",
            "delete chain ip nat CNI-HOSTPORT-DNAT",
            "delete chain ip nat CNI-HOSTPORT-MASQ",
        ];
        assert_eq!(commands, expected);
        objects.push(rule("CNI-HOSTPORT-DNAT", 10, "CNI-DN-0123"));
        assert!(host_port_leftovers("ip", &json!({ "nftables": objects })).is_empty(), "a port is in use");
        assert!(host_port_leftovers("ip", &json!({ "nftables": [chain("PREROUTING")] })).is_empty());
    }
}
