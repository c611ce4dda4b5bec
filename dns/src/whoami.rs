//! Who asks, and how: for those who look where their questions come from. Pure.
//!
//! Contract: CoreDNS' plugin whoami: nothing is answered, the client's address and port are beside that.

use std::net::{IpAddr, SocketAddr};

use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{
        Name, RData, Record,
        rdata::{A, AAAA, SRV},
    },
};

use crate::cache::Reply;

/// What a client is told of itself.
pub fn answer(query: &Query, client: SocketAddr, protocol: &str) -> Reply {
    let address = match client.ip().to_canonical() {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    };
    let record = |owner: Name, data| {
        let mut record = Record::from_rdata(owner, 0, data);
        record.dns_class = query.query_class();
        record
    };
    let mut additionals = vec![record(query.name().clone(), address)];
    // Of a name that is as long as names may be there is none in front.
    if let Ok(owner) = query.name().prepend_label(format!("_{protocol}")) {
        additionals.push(record(owner, RData::SRV(SRV::new(0, 0, client.port(), Name::root()))));
    }
    Reply {
        code: ResponseCode::NoError,
        answers: vec![],
        authorities: vec![],
        additionals,
        authoritative: true,
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::RecordType;

    use super::*;

    #[test]
    fn clients_are_told_who_they_are() {
        let of = |name: &str, client: &str, protocol: &str| -> Vec<String> {
            let query = Query::query(Name::from_ascii(name).unwrap(), RecordType::MX);
            let reply = answer(&query, client.parse().unwrap(), protocol);
            assert!(reply.answers.is_empty() && reply.authoritative);
            reply.additionals.iter().map(|r| format!("{} {}", r.name, r.data)).collect()
        };
        let expected = ["example.org. 10.0.0.1", "_udp.example.org. 0 0 4000 ."];
        assert_eq!(of("example.org.", "10.0.0.1:4000", "udp"), expected);
        assert_eq!(of(".", "[fd00::1]:53", "tcp"), [". fd00::1", "_tcp. 0 0 53 ."]);
        assert_eq!(of("a.", "[::ffff:10.0.0.1]:53", "udp")[0], "a. 10.0.0.1");
        let long = format!("{0}.{0}.{0}.{1}.", "a".repeat(63), "a".repeat(61));
        assert_eq!(of(&long, "10.0.0.1:4000", "udp").len(), 1);
    }
}
