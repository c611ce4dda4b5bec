//! IP addresses and networks: `ip("10.0.0.1").family()`, `cidr("10.0.0.0/8").containsIP("10.1.2.3")`.
//!
//! Addresses with a zone and IPv4-mapped IPv6 addresses are refused, as upstream does.

use std::{
    any::Any,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use super::{Call, Line};
use crate::value::{EvalError, Opaque, Value};

pub(super) const FUNCTIONS: &[Line] = &[
    ("string_to_ip", "ip(string) -> ip", |c| parse_ip(c.str(0)?).map(|a| Value::opaque(Address(a)))),
    ("ip_family", "ip :: family() -> int", |c| {
        Ok(Value::Int(if c.opaque::<Address>(0)?.0.is_ipv4() { 4 } else { 6 }))
    }),
    ("ip_is_canonical", "ip.isCanonical(string) -> bool", |c| {
        let text = c.str(0)?;
        Ok(Value::Bool(parse_ip(text)?.to_string() == text))
    }),
    ("ip_is_unspecified", "ip :: isUnspecified() -> bool", |c| is(c, |a| a.is_unspecified())),
    ("ip_is_loopback", "ip :: isLoopback() -> bool", |c| is(c, |a| a.is_loopback())),
    ("ip_is_link_local_multicast", "ip :: isLinkLocalMulticast() -> bool", |c| {
        is(c, is_link_local_multicast)
    }),
    ("ip_is_link_local_unicast", "ip :: isLinkLocalUnicast() -> bool", |c| is(c, is_link_local_unicast)),
    ("ip_is_global_unicast", "ip :: isGlobalUnicast() -> bool", |c| {
        is(c, |a| {
            let broadcast = *a == IpAddr::V4(Ipv4Addr::BROADCAST);
            !(a.is_unspecified()
                || a.is_loopback()
                || a.is_multicast()
                || broadcast
                || is_link_local_unicast(a))
        })
    }),
    ("is_ip", "isIP(string) -> bool", |c| Ok(Value::Bool(parse_ip(c.str(0)?).is_ok()))),
    ("ip_to_string", "string(ip) -> string", |c| Ok(Value::text(c.opaque::<Address>(0)?.0.to_string()))),
    ("string_to_cidr", "cidr(string) -> cidr", |c| parse_cidr(c.str(0)?).map(|n| Value::opaque(Network(n)))),
    ("cidr_contains_ip_string", "cidr :: containsIP(string) -> bool", |c| {
        Ok(Value::Bool(c.opaque::<Network>(0)?.0.contains(&parse_ip(c.str(1)?)?)))
    }),
    ("cidr_contains_ip_ip", "cidr :: containsIP(ip) -> bool", |c| {
        Ok(Value::Bool(c.opaque::<Network>(0)?.0.contains(&c.opaque::<Address>(1)?.0)))
    }),
    ("cidr_contains_cidr_string", "cidr :: containsCIDR(string) -> bool", |c| {
        Ok(Value::Bool(c.opaque::<Network>(0)?.0.contains(&parse_cidr(c.str(1)?)?)))
    }),
    ("cidr_contains_cidr", "cidr :: containsCIDR(cidr) -> bool", |c| {
        Ok(Value::Bool(c.opaque::<Network>(0)?.0.contains(&c.opaque::<Network>(1)?.0)))
    }),
    ("cidr_ip", "cidr :: ip() -> ip", |c| Ok(Value::opaque(Address(c.opaque::<Network>(0)?.0.addr())))),
    ("cidr_prefix_length", "cidr :: prefixLength() -> int", |c| {
        Ok(Value::Int(c.opaque::<Network>(0)?.0.prefix_len().into()))
    }),
    ("cidr_masked", "cidr :: masked() -> cidr", |c| {
        Ok(Value::opaque(Network(c.opaque::<Network>(0)?.0.trunc())))
    }),
    ("is_cidr", "isCIDR(string) -> bool", |c| Ok(Value::Bool(parse_cidr(c.str(0)?).is_ok()))),
    ("cidr_to_string", "string(cidr) -> string", |c| Ok(Value::text(c.opaque::<Network>(0)?.0.to_string()))),
];

fn is<'a>(call: &Call<'_, 'a>, holds: fn(&IpAddr) -> bool) -> Result<Value<'a>, EvalError> {
    Ok(Value::Bool(holds(&call.opaque::<Address>(0)?.0)))
}

fn is_link_local_multicast(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.octets()[..3] == [224, 0, 0],
        IpAddr::V6(a) => a.segments()[0] & 0xff0f == 0xff02,
    }
}

fn is_link_local_unicast(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn mapped(address: &Ipv6Addr) -> bool {
    address.to_ipv4_mapped().is_some()
}

fn parse_ip(text: &str) -> Result<IpAddr, EvalError> {
    if let Some((address, zone)) = text.split_once('%')
        && !zone.is_empty()
        && address.parse::<Ipv6Addr>().is_ok()
    {
        return Err(EvalError::failed(format!("IP address {text:?} with zone value is not allowed")));
    }
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) if mapped(&address) => {
            Err(EvalError::failed(format!("IPv4-mapped IPv6 address {text:?} is not allowed")))
        }
        Ok(address) => Ok(address),
        Err(_) => Err(EvalError::failed(format!(
            "IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): unable to parse IP"
        ))),
    }
}

fn parse_cidr(text: &str) -> Result<IpNet, EvalError> {
    let context = "network address parse error during conversion from string";
    let wrong = || {
        EvalError::failed(format!(
            "{context}: {context}: netip.ParsePrefix({text:?}): unable to parse prefix"
        ))
    };
    // A length with a leading zero is no length to Go.
    let bits = text.split_once('/').map(|(_, bits)| bits).ok_or_else(wrong)?;
    if bits.len() > 1 && !bits.starts_with(|c: char| ('1'..='9').contains(&c)) {
        return Err(wrong());
    }
    match text.parse::<IpNet>() {
        Ok(IpNet::V6(network)) if mapped(&network.addr()) => {
            Err(EvalError::failed(format!("{context}: IPv4-mapped IPv6 address {text:?} is not allowed")))
        }
        Ok(network) => Ok(network),
        Err(_) => Err(wrong()),
    }
}

/// An address as a value.
#[derive(Debug)]
struct Address(IpAddr);

impl Opaque for Address {
    fn type_name(&self) -> &str {
        "net.IP"
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref::<Address>().is_some_and(|other| self.0 == other.0)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn size(&self) -> u64 {
        if self.0.is_ipv4() { 4 } else { 16 }
    }
}

/// A network as a value.
#[derive(Debug)]
struct Network(IpNet);

impl Opaque for Network {
    fn type_name(&self) -> &str {
        "net.CIDR"
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref::<Network>().is_some_and(|other| self.0 == other.0)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn size(&self) -> u64 {
        u64::from(self.0.prefix_len()).div_ceil(8)
    }
}
