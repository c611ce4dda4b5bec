//! What is this host to everybody: `localhost`, and the zones of addresses that lead nowhere else. Questions for them are
//! answered here, so that they bother no other server. Pure.
//!
//! Contract: CoreDNS' plugin local.

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, NS, PTR, SOA},
    },
};

use crate::{cache::Reply, zone::Labels};

/// A week.
const TTL: u32 = 604_800;
/// The zones, each with what is at its top.
const ZONES: [&str; 4] = ["localhost", "0.in-addr.arpa", "127.in-addr.arpa", "255.in-addr.arpa"];

/// A reply, and whether it is to a name below or in front of others that only looks like this host's.
#[derive(Debug)]
pub struct Local {
    /// What is answered.
    pub reply: Reply,
    /// It counts as a question that a search path led to.
    pub counted: bool,
}

/// What is answered to a question; `None` for names that are others'.
pub fn answer(query: &Query, labels: &Labels) -> Option<Local> {
    let name = labels.to_string();
    let name = name.trim_end_matches('.');
    if name.starts_with("localhost.") || name.ends_with(".localhost") {
        return Some(Local { reply: host(query), counted: true });
    }
    let zone = ZONES.iter().map(|zone| Labels::parse(zone)).find(|zone| labels.within(zone).is_some())?;
    let kind = query.query_type();
    let top = labels.len() == zone.len();
    let reply = match name {
        "localhost" if matches!(kind, RecordType::A | RecordType::AAAA) => host(query),
        "1.0.0.127.in-addr.arpa" if kind == RecordType::PTR => found(query, RData::PTR(PTR(localhost()))),
        "1.0.0.127.in-addr.arpa" => nothing(ResponseCode::NoError, &zone),
        _ if !top => nothing(ResponseCode::NXDomain, &zone),
        _ if kind == RecordType::SOA => found(query, soa()),
        _ if kind == RecordType::NS => found(query, RData::NS(NS(localhost()))),
        _ => nothing(ResponseCode::NoError, &zone),
    };
    Some(Local { reply, counted: false })
}

fn localhost() -> Name {
    Labels::parse("localhost").prefixed([]).unwrap_or_else(|_| Name::root())
}

fn soa() -> RData {
    let root = Labels::parse("root.localhost").prefixed([]).unwrap_or_else(|_| Name::root());
    RData::SOA(SOA::new(localhost(), root, 1, 0, 0, 0, TTL))
}

/// The addresses of this host, under whatever name.
fn host(query: &Query) -> Reply {
    match query.query_type() {
        RecordType::A => found(query, RData::A(A(Ipv4Addr::LOCALHOST))),
        RecordType::AAAA => found(query, RData::AAAA(AAAA(Ipv6Addr::LOCALHOST))),
        _ => denial(ResponseCode::NoError, query.name().clone()),
    }
}

fn found(query: &Query, data: RData) -> Reply {
    let answers = vec![Record::from_rdata(query.name().clone(), TTL, data)];
    Reply { answers, authorities: vec![], ..empty(ResponseCode::NoError) }
}

fn nothing(code: ResponseCode, zone: &Labels) -> Reply {
    denial(code, zone.prefixed([]).unwrap_or_else(|_| Name::root()))
}

fn denial(code: ResponseCode, owner: Name) -> Reply {
    Reply { authorities: vec![Record::from_rdata(owner, TTL, soa())], ..empty(code) }
}

fn empty(code: ResponseCode) -> Reply {
    Reply { code, answers: vec![], authorities: vec![], additionals: vec![], authoritative: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_and_its_zones_are_answered_for() {
        use RecordType::{A, AAAA, MX, NS, PTR, SOA};
        for (name, kind, expected) in [
            ("localhost.", A, Some("127.0.0.1 NoError false")),
            ("LocalHost.", AAAA, Some("::1 NoError false")),
            ("localhost.", MX, Some("- NoError false")),
            ("localhost.", NS, Some("localhost. NoError false")),
            ("127.in-addr.arpa.", A, Some("- NoError false")),
            ("255.in-addr.arpa.", SOA, Some("localhost. root.localhost. 1 0 0 0 604800 NoError false")),
            ("1.0.0.127.in-addr.arpa.", PTR, Some("localhost. NoError false")),
            ("1.0.0.127.in-addr.arpa.", A, Some("- NoError false")),
            ("2.0.0.127.in-addr.arpa.", PTR, Some("- NXDomain false")),
            ("localhost.cluster.local.", A, Some("127.0.0.1 NoError true")),
            ("a.localhost.", AAAA, Some("::1 NoError true")),
            ("a.localhost.", MX, Some("- NoError true")),
            ("localhosts.example.", A, None),
            ("10.in-addr.arpa.", PTR, None),
        ] {
            let query = Query::query(Name::from_ascii(name).unwrap(), kind);
            let made = answer(&query, &Labels::of(query.name())).map(|local| {
                let Local { reply, counted } = local;
                let data = reply.answers.first().map_or("-".to_owned(), |r| r.data.to_string());
                assert!(reply.answers.is_empty() != reply.authorities.is_empty(), "{name}");
                format!("{data} {:?} {counted}", reply.code)
            });
            assert_eq!(made.as_deref(), expected, "{name} {kind}");
        }
    }
}
