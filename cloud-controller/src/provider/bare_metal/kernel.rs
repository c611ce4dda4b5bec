//! Addresses and routes of this machine over rtnetlink (rtnetlink(7)).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
};

use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage, AddressScope},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::plan::{Change, State};
use crate::provider::{ProviderError, Route};

/// The mark on our routes, so that those of others are never touched (rtnetlink `rtm_protocol`; 76 is free).
const PROTOCOL: RouteProtocol = RouteProtocol::Other(76);
/// The loopback interface has index 1 in every network namespace.
const LOOPBACK: u32 = 1;
/// Large enough for any message of a dump (the kernel uses at most 32 KiB).
const BUFFER: usize = 64 * 1024;

/// A netlink conversation.
#[derive(Debug)]
pub(super) struct Kernel {
    socket: Socket,
    sequence: u32,
}

impl Kernel {
    pub(super) fn open() -> Result<Self, ProviderError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket =
            open().map_err(|source| ProviderError::Kernel { operation: "open rtnetlink".into(), source })?;
        Ok(Self { socket, sequence: 0 })
    }

    /// What is there now.
    pub(super) fn state(&mut self) -> Result<State, ProviderError> {
        let mut state = State::default();
        let addresses = self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()));
        for message in addresses.map_err(|source| failed("list addresses", source))? {
            if let RouteNetlinkMessage::NewAddress(m) = message {
                record_address(&mut state.own, &mut state.loopback, &m);
            }
        }
        let routes = self.dump(RouteNetlinkMessage::GetRoute(RouteMessage::default()));
        for message in routes.map_err(|source| failed("list routes", source))? {
            if let RouteNetlinkMessage::NewRoute(m) = message {
                record_route(&mut state.routes, &m);
            }
        }
        Ok(state)
    }

    /// Makes the changes in order; stops at the first that fails.
    pub(super) fn carry_out(&mut self, changes: &[Change]) -> Result<(), ProviderError> {
        for change in changes {
            let (message, flags) = match change {
                Change::AddAddress(ip) => {
                    (RouteNetlinkMessage::NewAddress(address(*ip)), NLM_F_CREATE | NLM_F_REPLACE)
                }
                Change::RemoveAddress(ip) => (RouteNetlinkMessage::DelAddress(address(*ip)), 0),
                Change::SetRoute(r) => {
                    (RouteNetlinkMessage::NewRoute(route(r)), NLM_F_CREATE | NLM_F_REPLACE)
                }
                Change::RemoveRoute(r) => (RouteNetlinkMessage::DelRoute(route(r)), 0),
            };
            self.request(message, flags | NLM_F_ACK)
                .map_err(|source| failed(&format!("{change:?}"), source))?;
        }
        Ok(())
    }

    fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.request(message, NLM_F_DUMP)
    }

    /// Sends one request and reads answers until it is done or acknowledged.
    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut out = vec![0; packet.buffer_len()];
        packet.serialize(&mut out);
        self.socket.send(&out, 0)?;
        let mut answers = Vec::new();
        let mut buffer = vec![0; BUFFER];
        loop {
            let size = self.socket.recv(&mut &mut buffer[..], 0)?;
            if self.read(&buffer[..size], &mut answers)? {
                return Ok(answers);
            }
        }
    }

    /// Reads the messages of one datagram; true when the conversation is over.
    fn read(&self, mut bytes: &[u8], answers: &mut Vec<RouteNetlinkMessage>) -> io::Result<bool> {
        while !bytes.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            let length = (message.header.length as usize).next_multiple_of(4);
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::Error(e) if e.code.is_none() => return Ok(true),
                NetlinkPayload::Error(e) => return Err(e.to_io()),
                NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                _ => {}
            }
            bytes = bytes.get(length.max(1)..).unwrap_or_default();
        }
        Ok(false)
    }
}

fn failed(operation: &str, source: io::Error) -> ProviderError {
    ProviderError::Kernel { operation: operation.to_owned(), source }
}

fn record_address(own: &mut BTreeSet<IpAddr>, loopback: &mut BTreeSet<IpAddr>, m: &AddressMessage) {
    let local = m.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(ip) | AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    let Some(ip) = local else { return };
    if m.header.index != LOOPBACK {
        own.insert(ip);
    } else if m.header.prefix_len == max_prefix(ip) {
        loopback.insert(ip);
    }
}

fn record_route(routes: &mut BTreeMap<IpNet, IpAddr>, m: &RouteMessage) {
    if m.header.protocol != PROTOCOL {
        return;
    }
    let find = |wanted: fn(&RouteAttribute) -> Option<&RouteAddress>| {
        m.attributes.iter().find_map(wanted).and_then(to_ip)
    };
    let destination = find(|a| if let RouteAttribute::Destination(d) = a { Some(d) } else { None });
    let gateway = find(|a| if let RouteAttribute::Gateway(g) = a { Some(g) } else { None });
    if let (Some(destination), Some(gateway)) = (destination, gateway)
        && let Ok(net) = IpNet::new(destination, m.header.destination_prefix_length)
    {
        routes.insert(net, gateway);
    }
}

fn to_ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn max_prefix(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn address(ip: IpAddr) -> AddressMessage {
    let mut m = AddressMessage::default();
    m.header.family = family(ip);
    m.header.prefix_len = max_prefix(ip);
    m.header.index = LOOPBACK;
    m.header.scope = AddressScope::Universe;
    m.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    m
}

fn route(route: &Route) -> RouteMessage {
    let mut m = RouteMessage::default();
    m.header = RouteHeader {
        address_family: family(route.gateway),
        destination_prefix_length: route.destination.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: PROTOCOL,
        scope: RouteScope::Universe,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    m.attributes = vec![
        RouteAttribute::Destination(route.destination.network().into()),
        RouteAttribute::Gateway(route.gateway.into()),
    ];
    m
}
