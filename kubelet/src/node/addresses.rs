//! The node's addresses: those it is told, else that of the interface with the default route.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use k8s_openapi::api::core::v1::NodeStatus;

/// The annotation that tells a cloud's controller which addresses the kubelet was given.
pub const PROVIDED: &str = "alpha.kubernetes.io/provided-node-ip";

/// The node's addresses, primary first. Unspecified ones in `told` choose the family only; without any the node's name
/// may be one.
///
/// # Errors
/// When none can be found.
pub fn of_node(told: &[IpAddr], name: &str) -> io::Result<Vec<IpAddr>> {
    let given = specified(told);
    if !given.is_empty() {
        return Ok(given);
    }
    if let Ok(ip) = name.parse() {
        return Ok(vec![ip]);
    }
    let v6_first = told.first().is_some_and(IpAddr::is_ipv6);
    let order =
        if v6_first { ["[2001:db8::1]:9", "192.0.2.1:9"] } else { ["192.0.2.1:9", "[2001:db8::1]:9"] };
    for target in order {
        if let Some(ip) = source_for(target) {
            return Ok(vec![ip]);
        }
    }
    // Without a route the node can still run pods of its own.
    Ok(vec![IpAddr::from([127, 0, 0, 1])])
}

/// Those of `told` that are addresses; the first that is not one leaves it open which the node has.
fn specified(told: &[IpAddr]) -> Vec<IpAddr> {
    match told {
        [first, ..] if !first.is_unspecified() => {
            told.iter().copied().filter(|ip| !ip.is_unspecified()).collect()
        }
        _ => vec![],
    }
}

/// What is to be said of the addresses: with a cloud's controller it has the last word, and where the kubelet was told
/// nothing it knows the name alone.
#[must_use]
pub fn to_tell<'a>(
    cloud: bool,
    told: &[IpAddr],
    ips: &'a [IpAddr],
    previous: Option<&NodeStatus>,
) -> Option<&'a [IpAddr]> {
    let known = previous.and_then(|p| p.addresses.as_ref()).is_some_and(|list| !list.is_empty());
    match cloud {
        true if known => None,
        true if told.is_empty() => Some(&[]),
        _ => Some(ips),
    }
}

/// What a cloud's controller is told of the addresses the node was given; `None` is nothing.
#[must_use]
pub fn hint(cloud: bool, told: &[IpAddr]) -> Option<String> {
    let given: Vec<String> = specified(told).iter().map(ToString::to_string).collect();
    (cloud && !given.is_empty()).then(|| given.join(","))
}

/// The address the kernel would send from; connecting a UDP socket sends nothing.
fn source_for(target: &str) -> Option<IpAddr> {
    let target: SocketAddr = target.parse().ok()?;
    let any: SocketAddr = if target.is_ipv6() { "[::]:0".parse().ok()? } else { "0.0.0.0:0".parse().ok()? };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(target).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified() && !ip.is_loopback()).then_some(ip)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::NodeAddress;

    use super::*;

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_told_comes_before_the_name_and_the_route() {
        let of = |told: &[&str], name: &str| of_node(&ips(told), name).unwrap();
        assert_eq!(of(&["192.0.2.1", "2001:db8::1"], "198.51.100.1"), ips(&["192.0.2.1", "2001:db8::1"]));
        assert_eq!(of(&["192.0.2.1", "::"], "n"), ips(&["192.0.2.1"]));
        assert_eq!(of(&["::"], "198.51.100.1"), ips(&["198.51.100.1"]));
        assert_eq!(of(&["0.0.0.0"], "n").len(), 1);
    }

    #[test]
    fn a_cloud_has_the_last_word() {
        let (told, found) = (ips(&["192.0.2.1"]), ips(&["192.0.2.7"]));
        let known = NodeStatus { addresses: Some(vec![NodeAddress::default()]), ..NodeStatus::default() };
        let fresh = NodeStatus { addresses: Some(vec![]), ..NodeStatus::default() };
        let empty: &[IpAddr] = &[];
        for (cloud, given, previous, expected) in [
            (false, empty, None, Some(&*found)),
            (false, empty, Some(&known), Some(&*found)),
            (true, empty, None, Some(empty)),
            (true, empty, Some(&fresh), Some(empty)),
            (true, &told, Some(&fresh), Some(&*found)),
            (true, &ips(&["0.0.0.0"]), None, Some(&*found)),
            (true, &told, Some(&known), None),
        ] {
            assert_eq!(to_tell(cloud, given, &found, previous), expected, "{cloud} {given:?} {previous:?}");
        }
    }

    #[test]
    fn a_cloud_is_told_what_was_given() {
        assert_eq!(hint(false, &ips(&["192.0.2.1"])), None);
        assert_eq!(hint(true, &[]), None);
        assert_eq!(hint(true, &ips(&["::"])), None);
        assert_eq!(hint(true, &ips(&["192.0.2.1"])).as_deref(), Some("192.0.2.1"));
        let both = hint(true, &ips(&["192.0.2.1", "2001:db8::1"]));
        assert_eq!(both.as_deref(), Some("192.0.2.1,2001:db8::1"));
    }
}
