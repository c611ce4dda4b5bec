//! Addresses of hosts that have only old ones, for clients that have only new ones: behind a prefix that leads to a translator.
//! Pure.
//!
//! Contract: RFC 6147, RFC 6052 (section 2.2) for how addresses are embedded, CoreDNS' plugin dns64.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{DNSClass, RData, Record, RecordType, rdata::AAAA},
};
use ipnet::Ipv6Net;

use crate::cache::Reply;

/// The TTL of what is made where nothing says how long there will be no other (RFC 6147, 5.1.7).
const DEFAULT_TTL: u32 = 600;
/// The byte that is always zero.
const RESERVED: usize = 8;

/// `dns64 [PREFIX] { … }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns64 {
    prefix: Ipv6Net,
    /// `translate_all`: also where there are addresses of the new kind.
    pub all: bool,
    /// `allow_ipv4`: also for those who ask over the old protocol.
    pub for_v4: bool,
}

impl Default for Dns64 {
    fn default() -> Self {
        let well_known = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);
        Self { prefix: Ipv6Net::new_assert(well_known, 96), all: false, for_v4: false }
    }
}

impl Dns64 {
    /// Takes a prefix. Says what is wrong with one that cannot hold addresses.
    ///
    /// # Errors
    /// When it is no network, one of the old protocol, or too long or short.
    pub fn set_prefix(&mut self, text: &str) -> Result<(), String> {
        let network: ipnet::IpNet = text.parse().map_err(|_| format!("{text} is no network"))?;
        let ipnet::IpNet::V6(prefix) = network else {
            return Err(format!("{text} is no prefix of IPv6"));
        };
        let length = prefix.prefix_len();
        if length % 8 != 0 || !(32..=96).contains(&length) {
            return Err(format!("{text} is not 32, 40, 48, 56, 64, 72, 80, 88 or 96 bits long"));
        }
        self.prefix = prefix.trunc();
        Ok(())
    }

    /// Whether a question may come to be answered with addresses that are made.
    #[must_use]
    pub fn concerns(&self, query: &Query, client: IpAddr) -> bool {
        let asks = query.query_type() == RecordType::AAAA && query.query_class() == DNSClass::IN;
        asks && (self.for_v4 || client.to_canonical().is_ipv6())
    }

    /// Whether addresses are to be made in place of a reply: not for names that do not exist, nor where there are any.
    #[must_use]
    pub fn replaces(&self, reply: &Reply) -> bool {
        reply.code != ResponseCode::NXDomain
            && (self.all || !reply.answers.iter().any(|r| r.record_type() == RecordType::AAAA))
    }

    /// The reply made of the one to a question for old addresses; `original` is the one that it replaces.
    #[must_use]
    pub fn reply(&self, original: &Reply, found: Reply) -> Reply {
        let lasts = original.authorities.iter().rfind(|r| r.record_type() == RecordType::SOA);
        let lasts = lasts.map_or(DEFAULT_TTL, |soa| soa.ttl);
        let make = |record: Record| match &record.data {
            RData::A(address) => {
                let data = RData::AAAA(AAAA(self.embed(address.0)));
                Record::from_rdata(record.name.clone(), record.ttl.min(lasts), data)
            }
            _ => record,
        };
        let answers = found.answers.into_iter().map(make).collect();
        Reply { answers, code: ResponseCode::NoError, authoritative: false, ..found }
    }

    /// The address behind the prefix.
    fn embed(&self, address: Ipv4Addr) -> Ipv6Addr {
        let mut bytes = self.prefix.network().octets();
        let begin = usize::from(self.prefix.prefix_len() / 8);
        let free = (begin..bytes.len()).filter(|at| *at != RESERVED);
        for (at, byte) in free.zip(address.octets()) {
            bytes[at] = byte;
        }
        Ipv6Addr::from(bytes)
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{
        Name,
        rdata::{A, CNAME},
    };

    use super::*;

    #[test]
    fn addresses_are_embedded_as_the_standard_shows() {
        // RFC 6052, 2.4.
        for (prefix, expected) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
            ("64:ff9b::/96", "64:ff9b::192.0.2.33"),
        ] {
            let mut made = Dns64::default();
            made.set_prefix(prefix).unwrap();
            let expected: Ipv6Addr = expected.parse().unwrap();
            assert_eq!(made.embed(Ipv4Addr::new(192, 0, 2, 33)), expected, "{prefix}");
        }
        for wrong in ["10.0.0.0/8", "64:ff9b::/97", "64:ff9b::/24", "64:ff9b::/33", "x"] {
            assert!(Dns64::default().set_prefix(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_made_lasts_no_longer_than_what_there_is_not() {
        let name = |text: &str| Name::from_ascii(text).unwrap();
        let record = |owner: &str, ttl, data| Record::from_rdata(name(owner), ttl, data);
        let reply = |answers, authorities| Reply {
            code: ResponseCode::NoError,
            answers,
            authorities,
            additionals: vec![],
            authoritative: true,
        };
        let alias = record("a.", 5, RData::CNAME(CNAME(name("b."))));
        let soa = hickory_proto::rr::rdata::SOA::new(name("n."), name("m."), 1, 1, 1, 1, 1);
        let soa = record("zone.", 60, RData::SOA(soa));
        let old = |ttl| record("b.", ttl, RData::A(A(Ipv4Addr::new(192, 0, 2, 1))));
        let made = Dns64::default();
        let of = |original: &Reply, ttl| -> Vec<(String, u32)> {
            let made = made.reply(original, reply(vec![alias.clone(), old(ttl)], vec![]));
            made.answers.iter().map(|r| (r.data.to_string(), r.ttl)).collect()
        };
        let both = |ttl| vec![("b.".to_owned(), 5), ("64:ff9b::c000:201".to_owned(), ttl)];
        assert_eq!(of(&reply(vec![], vec![soa.clone()]), 300), both(60));
        assert_eq!(of(&reply(vec![], vec![]), 1000), both(600));
        assert_eq!(of(&reply(vec![], vec![]), 30), both(30));
    }

    #[test]
    fn only_what_has_no_new_address_is_replaced() {
        let query = |kind| Query::query(Name::from_ascii("a.").unwrap(), kind);
        let (old, new): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap());
        let some = Dns64::default();
        assert!(some.concerns(&query(RecordType::AAAA), new));
        assert!(!some.concerns(&query(RecordType::A), new) && !some.concerns(&query(RecordType::AAAA), old));
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        assert!(!some.concerns(&query(RecordType::AAAA), mapped));
        assert!(Dns64 { for_v4: true, ..some.clone() }.concerns(&query(RecordType::AAAA), old));
        let reply = |code, answers| Reply {
            code,
            answers,
            authorities: vec![],
            additionals: vec![],
            authoritative: false,
        };
        let there =
            Record::from_rdata(Name::from_ascii("a.").unwrap(), 5, RData::AAAA(AAAA(Ipv6Addr::LOCALHOST)));
        let (ok, gone) = (ResponseCode::NoError, ResponseCode::NXDomain);
        assert!(some.replaces(&reply(ok, vec![])) && some.replaces(&reply(ResponseCode::ServFail, vec![])));
        assert!(!some.replaces(&reply(gone, vec![])) && !some.replaces(&reply(ok, vec![there.clone()])));
        let all = Dns64 { all: true, ..some };
        assert!(all.replaces(&reply(ok, vec![there])) && !all.replaces(&reply(gone, vec![])));
    }
}
