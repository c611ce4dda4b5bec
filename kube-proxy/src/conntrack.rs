//! UDP flows the kernel still sends to endpoints that are gone, or past endpoints that have come.
//!
//! UDP has no end of connection, so a client that keeps sending keeps its old translation. After a
//! change, flows to our UDP services that are answered by none of their endpoints are deleted.
//!
//! Contract: ctnetlink (linux/netfilter/nfnetlink_conntrack.h); upstream's conntrack reconciler.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, SocketAddr},
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol as FlowProtocol, Tuple},
};
use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_NETFILTER};

use crate::{
    model::{Model, Protocol, Settings},
    tables::Family,
};

/// A UDP flow: whom the client wrote to, and who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Destination as the client sees it.
    pub to: SocketAddr,
    /// Source of the answers.
    pub from: SocketAddr,
}

/// What UDP services answer where: for comparing two models, and for judging flows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    at_address: HashMap<SocketAddr, HashSet<SocketAddr>>,
    at_node: HashMap<u16, HashSet<SocketAddr>>,
    node_ips: Vec<IpAddr>,
}

// === impl Expected ===

impl Expected {
    /// What a model expects.
    pub fn of(model: &Model, settings: &Settings) -> Self {
        let mut expected = Self { node_ips: settings.node_port_ips.clone(), ..Self::default() };
        for (key, service) in model.services.iter().filter(|(key, _)| key.protocol == Protocol::Udp) {
            let endpoints: HashSet<SocketAddr> = model
                .endpoints
                .get(key)
                .into_iter()
                .flatten()
                .filter(|e| e.ready || e.serving)
                .map(|e| SocketAddr::new(e.address, e.port))
                .collect();
            let addresses = [&service.cluster_ips[..], &service.external_ips, &service.load_balancer_ips];
            for ip in addresses.into_iter().flatten() {
                expected.at_address.insert(SocketAddr::new(*ip, service.port), endpoints.clone());
            }
            if service.node_port != 0 {
                expected.at_node.insert(service.node_port, endpoints);
            }
        }
        expected
    }

    /// Whether there is anything to judge.
    pub fn is_empty(&self) -> bool {
        self.at_address.is_empty() && self.at_node.is_empty()
    }

    /// Whether a flow leads to none of the endpoints it should. A flow nobody translated is only
    /// stale once there is an endpoint to take it.
    pub fn is_stale(&self, flow: &Flow) -> bool {
        let endpoints = self
            .at_address
            .get(&flow.to)
            .or_else(|| self.at_node.get(&flow.to.port()).filter(|_| self.node_ips.contains(&flow.to.ip())));
        endpoints.is_some_and(|endpoints| {
            let translated = flow.from != flow.to;
            let same_family = endpoints.iter().any(|e| e.is_ipv4() == flow.to.is_ipv4());
            (translated || same_family) && !endpoints.contains(&flow.from)
        })
    }
}

/// Deletes the stale flows of a family; answers how many.
pub fn clean(family: Family, expected: &Expected) -> io::Result<usize> {
    let socket = open()?;
    let mut stale = Vec::new();
    dump(&socket, family, |attributes| {
        if flow(&attributes).is_some_and(|flow| expected.is_stale(&flow)) {
            let original = |a: &ConntrackAttribute| matches!(a, ConntrackAttribute::CtaTupleOrig(_));
            stale.extend(attributes.into_iter().find(original));
        }
    })?;
    let mut deleted = 0;
    for original in stale {
        send(&socket, family, ConntrackMessage::Delete(vec![original]), NLM_F_ACK)?;
        match receive(&socket, |_| {})? {
            // The flow ended by itself meanwhile.
            Some(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => {}
            Some(error) => return Err(error),
            None => deleted += 1,
        }
    }
    Ok(deleted)
}

/// Makes the kernel load connection tracking, as any request about it does. A fresh machine has not done so yet.
///
/// # Errors
/// When the kernel refuses, or has none.
pub fn load() -> io::Result<()> {
    dump(&open()?, Family::V4, |_| {})
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    Ok(socket)
}

/// The UDP flow an entry describes.
fn flow(attributes: &[ConntrackAttribute]) -> Option<Flow> {
    let mut flow = (None, None);
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuples) => flow.0 = udp_end(tuples, true),
            ConntrackAttribute::CtaTupleReply(tuples) => flow.1 = udp_end(tuples, false),
            _ => {}
        }
    }
    Some(Flow { to: flow.0?, from: flow.1? })
}

/// Destination or source of a UDP tuple.
fn udp_end(tuples: &[Tuple], destination: bool) -> Option<SocketAddr> {
    let (mut address, mut port, mut udp) = (None, None, false);
    for tuple in tuples {
        match tuple {
            Tuple::Ip(parts) => {
                for part in parts {
                    match part {
                        IPTuple::DestinationAddress(ip) if destination => address = Some(*ip),
                        IPTuple::SourceAddress(ip) if !destination => address = Some(*ip),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(parts) => {
                for part in parts {
                    match part {
                        ProtoTuple::Protocol(protocol) => udp = *protocol == FlowProtocol::Udp,
                        ProtoTuple::DestinationPort(p) if destination => port = Some(*p),
                        ProtoTuple::SourcePort(p) if !destination => port = Some(*p),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(SocketAddr::new(address.filter(|_| udp)?, port?))
}

fn dump(socket: &Socket, family: Family, mut each: impl FnMut(Vec<ConntrackAttribute>)) -> io::Result<()> {
    send(socket, family, ConntrackMessage::Get(Vec::new()), NLM_F_DUMP)?;
    receive(socket, |message| {
        if let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = message.inner {
            each(attributes);
        }
    })?
    .map_or(Ok(()), Err)
}

fn send(socket: &Socket, family: Family, message: ConntrackMessage, flags: u16) -> io::Result<()> {
    let family = match family {
        Family::V4 => NetfilterProtoFamily::IPv4,
        Family::V6 => NetfilterProtoFamily::IPv6,
    };
    let header = NetfilterHeader::new(family, 0, 0);
    let mut packet = NetlinkMessage::from(NetfilterMessage::new(header, message));
    packet.header.flags = NLM_F_REQUEST | flags;
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0).map(drop)
}

/// Reads to the end of an answer: a dump's last message, or an acknowledgement. `Some` is the
/// kernel's refusal.
fn receive(socket: &Socket, mut each: impl FnMut(NetfilterMessage)) -> io::Result<Option<io::Error>> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let size = socket.recv(&mut &mut buffer[..], 0)?;
        let mut rest = &buffer[..size];
        while !rest.is_empty() {
            let answer = NetlinkMessage::<NetfilterMessage>::deserialize(rest)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            let length = (answer.header.length as usize).next_multiple_of(4).max(4);
            rest = rest.get(length..).unwrap_or_default();
            match answer.payload {
                NetlinkPayload::Done(_) => return Ok(None),
                NetlinkPayload::Error(error) => return Ok(error.code.map(|_| error.to_io())),
                NetlinkPayload::InnerMessage(message) => each(message),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;
    use crate::model::{Endpoint, PortName, ServicePort};

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn expected(endpoints: &[&str]) -> Expected {
        let key = PortName {
            namespace: "ns".into(),
            service: "dns".into(),
            port: "".into(),
            protocol: Protocol::Udp,
        };
        let key = std::sync::Arc::new(key);
        let endpoint = |text: &&str| Endpoint {
            address: at(text).ip(),
            port: at(text).port(),
            ready: true,
            serving: true,
            terminating: false,
            local: false,
            zones: Vec::new(),
            nodes: Vec::new(),
        };
        let service = ServicePort {
            cluster_ips: smallvec!["10.96.0.10".parse().unwrap()],
            port: 53,
            node_port: 30053,
            ..ServicePort::default()
        };
        let model = Model {
            services: [(key.clone(), service.into())].into(),
            endpoints: [(key, endpoints.iter().map(endpoint).collect())].into(),
            ..Model::default()
        };
        let settings =
            Settings { node_port_ips: vec!["192.168.1.1".parse().unwrap()], ..Settings::default() };
        Expected::of(&model, &settings)
    }

    #[test]
    fn flows_past_their_endpoints_are_stale() {
        let one = expected(&["10.244.0.1:53"]);
        let none = expected(&[]);
        let flow = |to: &str, from: &str| Flow { to: at(to), from: at(from) };
        for (expected, to, from, stale) in [
            (&one, "10.96.0.10:53", "10.244.0.1:53", false),
            (&one, "10.96.0.10:53", "10.244.0.2:53", true),
            (&one, "10.96.0.10:53", "10.96.0.10:53", true),
            (&one, "192.168.1.1:30053", "10.244.0.2:53", true),
            (&one, "192.168.1.2:30053", "192.168.1.2:30053", false),
            (&one, "10.96.0.11:53", "10.244.0.9:53", false),
            (&none, "10.96.0.10:53", "10.244.0.1:53", true),
            (&none, "10.96.0.10:53", "10.96.0.10:53", false),
        ] {
            assert_eq!(expected.is_stale(&flow(to, from)), stale, "{to} {from}");
        }
    }
}
