//! The node's addresses: those it is told, else that of the interface with the default route.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
};

/// The node's addresses, primary first. Unspecified ones in `told` choose the family only.
///
/// # Errors
/// When none can be found.
pub fn of_node(told: &[IpAddr]) -> io::Result<Vec<IpAddr>> {
    if !told.is_empty() && told.iter().all(|ip| !ip.is_unspecified()) {
        return Ok(told.to_vec());
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

/// The address the kernel would send from; connecting a UDP socket sends nothing.
fn source_for(target: &str) -> Option<IpAddr> {
    let target: SocketAddr = target.parse().ok()?;
    let any: SocketAddr = if target.is_ipv6() { "[::]:0".parse().ok()? } else { "0.0.0.0:0".parse().ok()? };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(target).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified() && !ip.is_loopback()).then_some(ip)
}
