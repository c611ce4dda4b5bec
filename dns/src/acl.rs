//! Who may ask for what (the `acl` directive).
//!
//! Contract: CoreDNS' `acl`; RFC 8914 for what is told of the reason. Of the rules of a directive the first that fits
//! decides; one that allows ends the looking, and what no rule fits is allowed.

use std::net::IpAddr;

use hickory_proto::rr::RecordType;
use ipnet::IpNet;

use crate::{metrics::Judged, zone::Labels};

/// One directive.
#[derive(Clone, Debug)]
pub struct Acl {
    /// It is about names below these.
    pub zones: Vec<Labels>,
    /// Its rules, in order.
    pub policies: Vec<Policy>,
}

/// A rule.
#[derive(Clone, Debug)]
pub struct Policy {
    /// What happens to queries it fits.
    pub action: Action,
    /// Types asked for; `None` is any.
    pub kinds: Option<Vec<RecordType>>,
    /// Where is asked from; `None` is anywhere.
    pub nets: Option<Vec<IpNet>>,
}

/// What happens to a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is answered.
    Allow,
    /// It is refused.
    Block,
    /// It is answered with nothing.
    Filter,
    /// It is not answered at all.
    Drop,
}

impl Policy {
    fn fits(&self, kind: RecordType, client: IpAddr) -> bool {
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&kind))
            && self.nets.as_ref().is_none_or(|nets| nets.iter().any(|net| net.contains(&client)))
    }
}

/// How a query ends by the rules, and by those of which zone; `None` goes on.
#[must_use]
pub fn judge<'a>(
    acls: &'a [Acl],
    name: &Labels,
    kind: RecordType,
    client: IpAddr,
) -> Option<(Judged, &'a Labels)> {
    for acl in acls {
        let zone = acl.zones.iter().filter(|zone| name.within(zone).is_some()).max_by_key(|zone| zone.len());
        let Some(zone) = zone else { continue };
        match acl.policies.iter().find(|policy| policy.fits(kind, client)).map(|policy| policy.action) {
            None => {}
            Some(Action::Allow) => return None,
            Some(Action::Block) => return Some((Judged::Blocked, zone)),
            Some(Action::Filter) => return Some((Judged::Filtered, zone)),
            Some(Action::Drop) => return Some((Judged::Dropped, zone)),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corefile;

    #[test]
    fn the_first_rule_that_fits_decides() {
        let text = "example {\n acl {\n allow net 192.168.1.0/24\n block type A net 192.168.0.0/16 fd00::1\n \
                    filter type TXT\n }\n acl a.example {\n drop\n }\n}";
        let acls = &corefile::parse(text).unwrap()[0].acls;
        for (name, kind, client, want) in [
            ("b.example", RecordType::A, "192.168.2.1", Some(Judged::Blocked)),
            ("b.example", RecordType::A, "fd00::1", Some(Judged::Blocked)),
            ("b.example", RecordType::A, "fd00::2", None),
            ("b.example", RecordType::AAAA, "192.168.2.1", None),
            ("b.example", RecordType::TXT, "10.0.0.1", Some(Judged::Filtered)),
            ("a.example", RecordType::AAAA, "192.168.2.1", Some(Judged::Dropped)),
            // What is allowed is not looked at by later directives.
            ("a.example", RecordType::A, "192.168.1.7", None),
            ("else", RecordType::A, "192.168.2.1", None),
        ] {
            let judged = judge(acls, &Labels::parse(name), kind, client.parse().unwrap());
            assert_eq!(judged.map(|(judged, _)| judged), want, "{name} {kind} {client}");
        }
    }
}
