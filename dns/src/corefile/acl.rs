//! The `acl` directive.
//!
//! Contract: CoreDNS' `acl`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{CorefileError, Line, rules, zones};
use crate::{
    acl::{Acl, Action, Policy},
    zone::Labels,
};

/// `acl [ZONES…] { ACTION [type QTYPE…] [net SOURCE…] }`.
pub(super) fn acl(line: &Line, default: &[Labels]) -> Result<Acl, CorefileError> {
    let given = zones(line, line.args())?;
    let zones = if given.is_empty() { default.to_vec() } else { given };
    let policies = line.block.iter().map(policy).collect::<Result<_, _>>()?;
    Ok(Acl { zones, policies })
}

fn policy(option: &Line) -> Result<Policy, CorefileError> {
    let action = match option.name().to_ascii_lowercase().as_str() {
        "allow" => Action::Allow,
        "block" => Action::Block,
        "filter" => Action::Filter,
        "drop" => Action::Drop,
        other => {
            return option.error(format!("acl: unexpected {other}, want allow, block, filter or drop"));
        }
    };
    let mut out = Policy { action, kinds: None, nets: None };
    let mut words = option.args();
    while let [section, rest @ ..] = words {
        let end = rest.iter().position(|word| is_section(word)).unwrap_or(rest.len());
        let (values, after) = rest.split_at(end);
        if values.is_empty() && is_section(section) {
            return option.error(format!("acl: nothing is said in section {section}"));
        }
        let all = values.iter().any(|value| value == "*");
        match section.to_ascii_lowercase().as_str() {
            "type" if all => out.kinds = None,
            "type" => {
                out.kinds = Some(values.iter().map(|v| rules::kind(option, v)).collect::<Result<_, _>>()?);
            }
            "net" if all => out.nets = None,
            "net" => out.nets = Some(values.iter().map(|v| net(option, v)).collect::<Result<_, _>>()?),
            other => return option.error(format!("acl: unexpected {other}, want type or net")),
        }
        words = after;
    }
    Ok(out)
}

fn is_section(word: &str) -> bool {
    ["type", "net"].iter().any(|section| word.eq_ignore_ascii_case(section))
}

/// A network, or an address alone.
fn net(option: &Line, text: &str) -> Result<IpNet, CorefileError> {
    let alone = || text.parse::<IpAddr>().ok().map(IpNet::from);
    match text.parse().ok().or_else(alone) {
        Some(net) => Ok(net),
        None => option.error(format!("acl: {text} is no network")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    #[test]
    fn mistakes_are_named() {
        for (text, want) in [
            ("deny", Some("acl: unexpected deny, want allow, block, filter or drop")),
            ("block type", Some("acl: nothing is said in section type")),
            ("block type A net", Some("acl: nothing is said in section net")),
            ("block from 10.0.0.1", Some("acl: unexpected from, want type or net")),
            ("block net 10.0.0", Some("acl: 10.0.0 is no network")),
            ("block type X9", Some("X9 is no type of records")),
            ("block type A AAAA net 10.0.0.0/8 fd00::1 *", None),
            ("BLOCK", None),
        ] {
            let made = parse(&format!(". {{\nacl {{\n{text}\n}}\n}}")).map_err(|error| error.message);
            assert_eq!(made.as_ref().err().map(String::as_str), want, "{text}");
        }
    }
}
