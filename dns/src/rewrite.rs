//! Rules that change a query before it is answered, and the answer so that it fits what was asked (the `rewrite` directive).
//!
//! Contract: CoreDNS' `rewrite`. Names in answers go back to what was asked in every case but `regex`, where the rule has
//! to say how: a client takes no answer about another name (CoreDNS wants to be told so by `answer auto`).

use std::net::{IpAddr, SocketAddr};

use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{
            self,
            opt::{ClientSubnet, EdnsCode, EdnsOption, NSIDPayload},
        },
    },
};
use regex::Regex;

use crate::cache::Reply;

/// How a name is matched, and what becomes of it. Texts are lower-case, with the final dot where they are whole names.
#[derive(Clone, Debug)]
pub enum NameRule {
    /// This name.
    Exact(String, String),
    /// Names that begin so.
    Prefix(String, String),
    /// Names that end so.
    Suffix(String, String),
    /// Names with this in them.
    Substring(String, String),
    /// Names that match; `{1}` stands for the first group.
    Regex(Regex, String),
}

/// What a rule is about.
#[derive(Clone, Debug)]
pub enum What {
    /// The name; and for answers further names to put back, and whether values are put back too.
    Name(NameRule, Vec<Back>),
    /// The type.
    Type(RecordType, RecordType),
    /// The TTL of answers for these names: at least and at most.
    Ttl(NameRule, (u32, u32)),
    /// The response code for these names: from (none is any) and to.
    Code(NameRule, Option<ResponseCode>, ResponseCode),
    /// The class.
    Class(DNSClass, DNSClass),
    /// Where aliases in answers lead; what is there is asked for anew.
    Alias(NameRule),
    /// An option the query carries to other servers.
    Option(OptionRule),
}

/// A change of an EDNS option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionRule {
    /// Its code.
    pub code: u16,
    /// What happens to it.
    pub act: Act,
    /// What it holds then.
    pub content: Content,
    /// The answer has it as it was before.
    pub reverts: bool,
}

/// What happens to an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It is put in the place of one of its code, or added.
    Set,
    /// It is added if there is none of its code.
    Append,
    /// It is put in the place of one of its code.
    Replace,
    /// It is taken away.
    Unset,
}

/// What an option holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// The network of the client, by the length of its prefix for IPv4 and for IPv6.
    Subnet(u8, u8),
    /// Something about the query.
    Variable(Variable),
}

/// Something about a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable {
    /// The name that is asked for.
    Name,
    /// The type.
    Type,
    /// The client's address.
    ClientIp,
    /// The client's port.
    ClientPort,
    /// `udp` or `tcp`.
    Protocol,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// Where answers go.
    pub client: SocketAddr,
    /// `udp` or `tcp`.
    pub protocol: &'static str,
}

/// A change of names in answers.
#[derive(Clone, Debug)]
pub enum Back {
    /// Of owners of records.
    Owner(Regex, String),
    /// Of names that records hold.
    Value(Regex, String),
}

/// A rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What it does.
    pub what: What,
    /// Whether rules after it are looked at as well.
    pub goes_on: bool,
}

/// What has to be undone in the answer.
#[derive(Clone, Debug, Default)]
pub struct Undo {
    /// Names as they were asked for and as they were looked for.
    names: Vec<(Name, Name)>,
    back: Vec<Back>,
    ttl: Option<(u32, u32)>,
    code: Option<(Option<ResponseCode>, ResponseCode)>,
    /// Where aliases lead instead.
    pub aliases: Vec<NameRule>,
    /// Options that other servers are sent.
    pub sent: Vec<EdnsOption>,
    /// Options that the client is sent.
    pub told: Vec<EdnsOption>,
}

impl Variable {
    /// From its word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "qname" => Self::Name,
            "qtype" => Self::Type,
            "client_ip" => Self::ClientIp,
            "client_port" => Self::ClientPort,
            "protocol" => Self::Protocol,
            _ => return None,
        })
    }

    fn bytes(self, query: &Query, asker: Asker) -> Vec<u8> {
        match self {
            Self::Name => query.name().to_lowercase().to_ascii().into_bytes(),
            Self::Type => u16::from(query.query_type()).to_be_bytes().to_vec(),
            Self::ClientIp => match asker.client.ip() {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            },
            Self::ClientPort => asker.client.port().to_be_bytes().to_vec(),
            Self::Protocol => asker.protocol.as_bytes().to_vec(),
        }
    }
}

impl OptionRule {
    /// Changes options; whether the rule was for them.
    fn apply(&self, options: &mut Vec<EdnsOption>, query: &Query, asker: Asker) -> bool {
        let at = options.iter().position(|option| u16::from(EdnsCode::from(option)) == self.code);
        match (self.act, at) {
            (Act::Unset, _) => options.retain(|option| u16::from(EdnsCode::from(option)) != self.code),
            (Act::Set | Act::Replace, Some(at)) => options[at] = self.option(query, asker),
            (Act::Set | Act::Append, None) => options.push(self.option(query, asker)),
            (Act::Replace, None) | (Act::Append, Some(_)) => return false,
        }
        true
    }

    fn option(&self, query: &Query, asker: Asker) -> EdnsOption {
        let bytes = match &self.content {
            Content::Subnet(v4, v6) => {
                let address = asker.client.ip();
                let length = if address.is_ipv4() { *v4 } else { *v6 };
                // Bits behind the prefix are not told (RFC 7871, 11.1).
                let kept = ipnet::IpNet::new(address, length).map_or(address, |net| net.network());
                return EdnsOption::Subnet(ClientSubnet::new(kept, length, 0));
            }
            Content::Bytes(bytes) => bytes.clone(),
            Content::Variable(variable) => variable.bytes(query, asker),
        };
        let nsid = (self.code == u16::from(EdnsCode::NSID)).then(|| NSIDPayload::new(bytes.clone()).ok());
        nsid.flatten().map_or(EdnsOption::Unknown(self.code, bytes), EdnsOption::NSID)
    }
}

impl NameRule {
    /// The new name, if the rule is for this one.
    #[must_use]
    pub fn apply(&self, name: &str) -> Option<String> {
        match self {
            Self::Exact(from, to) => (name == from).then(|| to.clone()),
            Self::Prefix(from, to) => name.strip_prefix(from.as_str()).map(|rest| format!("{to}{rest}")),
            Self::Suffix(from, to) => name.strip_suffix(from.as_str()).map(|rest| format!("{rest}{to}")),
            Self::Substring(from, to) => name.contains(from.as_str()).then(|| name.replace(from, to)),
            Self::Regex(from, to) => fill(from, to, name),
        }
    }

    fn is_for(&self, name: &str) -> bool {
        self.apply(name).is_some()
    }
}

/// The replacement with its groups filled in, if the text matches.
fn fill(pattern: &Regex, to: &str, text: &str) -> Option<String> {
    let found = pattern.captures(text)?;
    let mut out = to.to_owned();
    for (i, group) in found.iter().enumerate() {
        out = out.replace(&format!("{{{i}}}"), group.map_or("", |g| g.as_str()));
    }
    Some(out)
}

fn text(name: &Name) -> String {
    name.to_lowercase().to_ascii()
}

/// The query as the rules want it, and what to undo. A rule that leads to no name is as if it were not there.
#[must_use]
pub fn apply(rules: &[Rule], query: &Query, asker: Asker) -> (Query, Undo) {
    let (mut query, mut undo) = (query.clone(), Undo::default());
    for rule in rules {
        let name = text(query.name());
        let did = match &rule.what {
            What::Name(names, back) => match names.apply(&name).and_then(|to| Name::from_ascii(to).ok()) {
                Some(mut to) => {
                    to.set_fqdn(true);
                    if !matches!(names, NameRule::Regex(..)) {
                        undo.names.push((query.name().clone(), to.clone()));
                    }
                    undo.back.extend(back.iter().cloned());
                    query.set_name(to);
                    true
                }
                None => false,
            },
            What::Type(from, to) if *from == query.query_type() => {
                query.set_query_type(*to);
                true
            }
            What::Type(..) => false,
            What::Class(from, to) if *from == query.query_class() => {
                query.set_query_class(*to);
                true
            }
            What::Class(..) => false,
            What::Alias(rule) => {
                undo.aliases.push(rule.clone());
                true
            }
            What::Option(rule) => {
                if !rule.reverts {
                    rule.apply(&mut undo.told, &query, asker);
                }
                rule.apply(&mut undo.sent, &query, asker)
            }
            What::Ttl(names, ttl) => {
                let fits = names.is_for(&name);
                undo.ttl = undo.ttl.or(fits.then_some(*ttl));
                fits
            }
            What::Code(names, from, to) => {
                let fits = names.is_for(&name);
                undo.code = undo.code.or(fits.then_some((*from, *to)));
                fits
            }
        };
        if did && !rule.goes_on {
            break;
        }
    }
    (query, undo)
}

impl Undo {
    /// Puts the answer back into the terms of what was asked.
    pub fn apply(&self, reply: &mut Reply) {
        if let Some((from, to)) = self.code
            && from.is_none_or(|from| from == reply.code)
        {
            reply.code = to;
        }
        let records = reply.answers.iter_mut().chain(&mut reply.authorities).chain(&mut reply.additionals);
        for record in records {
            if let Some((least, most)) = self.ttl {
                record.ttl = record.ttl.clamp(least, most);
            }
            let owner = self.owner(&record.name);
            if let Some(name) = owner {
                record.name = name;
            }
            self.value(record);
        }
    }

    fn owner(&self, name: &Name) -> Option<Name> {
        // What was done last is undone first.
        let put_back = self.names.iter().rev().fold(name.clone(), |name, (asked, looked)| {
            if name.to_lowercase() == looked.to_lowercase() { asked.clone() } else { name }
        });
        let text = text(&put_back);
        let filled = self.back.iter().find_map(|back| match back {
            Back::Owner(from, to) => fill(from, to, &text),
            Back::Value(..) => None,
        });
        let filled = filled.and_then(|to| Name::from_ascii(to).ok());
        filled.or_else(|| (put_back != *name).then_some(put_back))
    }

    fn value(&self, record: &mut Record) {
        let change = |name: &Name| {
            let text = text(name);
            let to = self.back.iter().find_map(|back| match back {
                Back::Value(from, to) => fill(from, to, &text),
                Back::Owner(..) => None,
            })?;
            Name::from_ascii(to).ok()
        };
        let changed = match &record.data {
            RData::CNAME(target) => change(&target.0).map(|n| RData::CNAME(rdata::CNAME(n))),
            RData::PTR(target) => change(&target.0).map(|n| RData::PTR(rdata::PTR(n))),
            RData::NS(target) => change(&target.0).map(|n| RData::NS(rdata::NS(n))),
            RData::SRV(srv) => change(&srv.target)
                .map(|n| RData::SRV(rdata::SRV::new(srv.priority, srv.weight, srv.port, n))),
            RData::MX(mx) => change(&mx.exchange).map(|n| RData::MX(rdata::MX::new(mx.preference, n))),
            RData::SOA(soa) => change(&soa.mname).map(|mname| {
                let mut soa = soa.clone();
                soa.mname = mname;
                RData::SOA(soa)
            }),
            RData::NAPTR(naptr) => change(&naptr.replacement).map(|replacement| {
                let mut naptr = naptr.clone();
                naptr.replacement = replacement;
                RData::NAPTR(naptr)
            }),
            _ => None,
        };
        if let Some(data) = changed {
            record.data = data;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    const ASKER: Asker = Asker {
        client: SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 2, 3)), 4711),
        protocol: "udp",
    };

    fn rule(what: What) -> Rule {
        Rule { what, goes_on: false }
    }

    fn ask(rules: &[Rule], text: &str) -> (String, Undo) {
        let (query, undo) = apply(rules, &Query::query(name(text), RecordType::A), ASKER);
        (query.name().to_ascii(), undo)
    }

    fn reply(owner: &str, data: RData) -> Reply {
        Reply {
            code: ResponseCode::NoError,
            answers: vec![Record::from_rdata(name(owner), 30, data)],
            authorities: vec![],
            additionals: vec![],
            authoritative: false,
        }
    }

    #[test]
    fn names_are_matched_in_every_way() {
        let of = |rule: NameRule, text: &str| rule.apply(text);
        let s = str::to_owned;
        assert_eq!(of(NameRule::Exact(s("a."), s("b.")), "a."), Some(s("b.")));
        assert_eq!(of(NameRule::Exact(s("a."), s("b.")), "x.a."), None);
        assert_eq!(of(NameRule::Prefix(s("dev-"), s("prod-")), "dev-x.y."), Some(s("prod-x.y.")));
        assert_eq!(of(NameRule::Suffix(s(".corp."), s(".svc.")), "x.corp."), Some(s("x.svc.")));
        assert_eq!(of(NameRule::Substring(s("one"), s("two")), "a.one.b."), Some(s("a.two.b.")));
        let regex = Regex::new("^(.*)\\.schmoogle\\.com\\.$").unwrap();
        assert_eq!(
            of(NameRule::Regex(regex, s("{1}.google.com.")), "a.schmoogle.com."),
            Some(s("a.google.com."))
        );
    }

    #[test]
    fn answers_carry_the_name_that_was_asked_for() {
        let rules = [rule(What::Name(NameRule::Suffix(".corp.".into(), ".svc.".into()), vec![]))];
        let (asked, undo) = ask(&rules, "Web.corp.");
        assert_eq!(asked, "web.svc.");
        let mut answer = reply("web.svc.", RData::A(rdata::A([10, 0, 0, 1].into())));
        undo.apply(&mut answer);
        assert_eq!(answer.answers[0].name.to_ascii(), "Web.corp.");
        let (asked, undo) = ask(&rules, "web.else.");
        assert_eq!(asked, "web.else.");
        let mut answer = reply("web.svc.", RData::A(rdata::A([10, 0, 0, 1].into())));
        undo.apply(&mut answer);
        assert_eq!(answer.answers[0].name.to_ascii(), "web.svc.");
    }

    #[test]
    fn owners_and_values_go_back_as_the_rule_says() {
        let regex = |text: &str| Regex::new(text).unwrap();
        let back = vec![
            Back::Owner(regex("^(.*)\\.svc\\.$"), "{1}.corp.".into()),
            Back::Value(regex("^(.*)\\.svc\\.$"), "{1}.corp.".into()),
        ];
        let rules = [rule(What::Name(NameRule::Regex(regex("^(.*)\\.corp\\.$"), "{1}.svc.".into()), back))];
        let (asked, undo) = ask(&rules, "web.corp.");
        assert_eq!(asked, "web.svc.");
        let mut answer = reply("web.svc.", RData::CNAME(rdata::CNAME(name("other.svc."))));
        undo.apply(&mut answer);
        assert_eq!(answer.answers[0].name.to_ascii(), "web.corp.");
        assert_eq!(answer.answers[0].data, RData::CNAME(rdata::CNAME(name("other.corp."))));
    }

    #[test]
    fn types_ttls_and_codes_are_changed_and_rules_end_where_they_say() {
        let all = || NameRule::Suffix("x.".into(), "x.".into());
        let rules = [
            Rule { what: What::Type(RecordType::A, RecordType::AAAA), goes_on: true },
            Rule { what: What::Ttl(all(), (60, 60)), goes_on: true },
            rule(What::Code(all(), Some(ResponseCode::NoError), ResponseCode::Refused)),
            rule(What::Name(NameRule::Exact("x.".into(), "never.".into()), vec![])),
        ];
        let (query, undo) = apply(&rules, &Query::query(name("x."), RecordType::A), ASKER);
        assert_eq!((query.query_type(), query.name().to_ascii().as_str()), (RecordType::AAAA, "x."));
        let mut answer = reply("x.", RData::A(rdata::A([10, 0, 0, 1].into())));
        undo.apply(&mut answer);
        assert_eq!((answer.code, answer.answers[0].ttl), (ResponseCode::Refused, 60));
    }

    #[test]
    fn options_are_set_appended_replaced_and_unset() {
        let act = |act, code, content, reverts| {
            let what = What::Option(OptionRule { code, act, content, reverts });
            Rule { what, goes_on: true }
        };
        let text = |text: &str| Content::Bytes(text.into());
        let told = |rules: &[Rule]| {
            let undo = apply(rules, &Query::query(name("A.x."), RecordType::TXT), ASKER).1;
            (undo.sent, undo.told)
        };
        let unknown = |code, bytes: &[u8]| EdnsOption::Unknown(code, bytes.to_vec());
        let (sent, said) = told(&[
            act(Act::Replace, 1, text("never"), false),
            act(Act::Set, 0xffee, text("abcd"), false),
            act(Act::Append, 0xffee, text("never"), false),
            act(Act::Replace, 0xffee, text("bcde"), true),
        ]);
        assert_eq!(sent, [unknown(0xffee, b"bcde")]);
        assert_eq!(said, [unknown(0xffee, b"abcd")], "as it was before what is reverted");
        assert_eq!(told(&[act(Act::Set, 9, text("a"), true), act(Act::Unset, 9, text(""), false)]).0, []);
        let all =
            [Variable::Name, Variable::Type, Variable::ClientIp, Variable::ClientPort, Variable::Protocol];
        let rules: Vec<Rule> = all
            .into_iter()
            .zip(65_001..)
            .map(|(variable, code)| act(Act::Set, code, Content::Variable(variable), true))
            .collect();
        let (sent, said) = told(&rules);
        let bytes: Vec<Vec<u8>> = sent.iter().map(|option| Vec::try_from(option).unwrap()).collect();
        assert_eq!(bytes, [&b"a.x."[..], &[0, 16], &[10, 1, 2, 3], &[0x12, 0x67], b"udp"]);
        assert!(said.is_empty());
        let subnet = told(&[act(Act::Set, 8, Content::Subnet(24, 56), false)]).0;
        assert_eq!(subnet, [EdnsOption::Subnet(ClientSubnet::new([10, 1, 2, 0].into(), 24, 0))]);
        let nsid = told(&[act(Act::Set, 3, text(""), false)]).0;
        assert_eq!(nsid, [EdnsOption::NSID(NSIDPayload::new(Vec::new()).unwrap())]);
    }
}
