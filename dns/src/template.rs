//! Answers made from the question (the `template` directive).
//!
//! Contract: CoreDNS' `template`, with the variables `.Name`, `.Class`, `.Type`, `.Zone`, `.Remote`, `.Match`,
//! `index .Match N`, `.Group.NAME`, and `parseInt` of one. Anything else in double braces is refused when the Corefile is
//! read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata},
};
use regex::{Captures, Regex};

use crate::{
    cache::Reply,
    metrics::{Metrics, Place},
    zone::Labels,
};

/// One `template` directive.
#[derive(Clone, Debug)]
pub struct Template {
    /// The type it answers; none is any.
    pub kind: Option<RecordType>,
    /// Names below these; empty is any.
    pub zones: Vec<Labels>,
    /// What the name has to look like, one of these; empty is anything.
    pub matches: Vec<Regex>,
    /// Records of the answer.
    pub answers: Vec<Line>,
    /// Records beside it.
    pub additionals: Vec<Line>,
    /// Records of the authority section.
    pub authorities: Vec<Line>,
    /// The code of the response.
    pub code: ResponseCode,
    /// Zones in which a name that does not match goes on to the next directive; `None` is nowhere.
    pub fallthrough: Option<Vec<Labels>>,
    /// An extended error (RFC 8914) and its reason.
    pub extended: Option<(u16, String)>,
    /// The class it is for as it is written, for counters.
    pub class: String,
}

/// A line with places to fill in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Name,
    Class,
    Type,
    Zone,
    Remote,
    Match(usize),
    Group(String),
    /// A number in some base and of so many bits at the most, in decimal.
    Number(Box<Piece>, u32, u32),
}

/// The question as templates see it.
struct Asked<'q> {
    name: &'q str,
    kind: RecordType,
    zone: &'q str,
    client: IpAddr,
    found: Option<Captures<'q>>,
}

/// Why a line makes no record.
#[derive(Debug)]
enum Failure {
    /// It cannot be filled in.
    Template(String),
    /// What it was filled in to is none.
    Record(String),
}

impl Line {
    /// Reads a line.
    ///
    /// # Errors
    /// What stands in braces and is not known.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once("{{") {
            let Some((inside, after)) = after.split_once("}}") else {
                return Err("{{ without }}".to_owned());
            };
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(piece(inside)?);
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Self(pieces))
    }

    fn fill(&self, asked: &Asked<'_>) -> Result<String, String> {
        self.0.iter().map(|piece| piece.fill(asked)).collect()
    }

    /// As it is written, for counters.
    fn text(&self) -> String {
        self.0.iter().map(Piece::text).collect()
    }
}

impl Piece {
    fn fill(&self, asked: &Asked<'_>) -> Result<String, String> {
        let group = |text: Option<regex::Match<'_>>| text.map_or("", |m| m.as_str()).to_owned();
        let found = asked.found.as_ref();
        Ok(match self {
            Self::Text(text) => text.clone(),
            Self::Name => asked.name.to_owned(),
            Self::Class => "IN".to_owned(),
            Self::Type => asked.kind.to_string(),
            Self::Zone => asked.zone.to_owned(),
            Self::Remote => asked.client.to_string(),
            Self::Match(i) => group(found.and_then(|f| f.get(*i))),
            Self::Group(name) => group(found.and_then(|f| f.name(name))),
            Self::Number(piece, base, bits) => {
                let text = piece.fill(asked)?;
                let number =
                    u64::from_str_radix(&text, *base).map_err(|e| format!("parsing {text:?}: {e}"))?;
                if bits < &64 && number >> bits != 0 {
                    return Err(format!("parsing {text:?}: value out of range"));
                }
                number.to_string()
            }
        })
    }

    fn text(&self) -> String {
        let inside = match self {
            Self::Text(text) => return text.clone(),
            Self::Name => ".Name".to_owned(),
            Self::Class => ".Class".to_owned(),
            Self::Type => ".Type".to_owned(),
            Self::Zone => ".Zone".to_owned(),
            Self::Remote => ".Remote".to_owned(),
            Self::Match(i) => format!("index .Match {i}"),
            Self::Group(name) => format!(".Group.{name}"),
            Self::Number(piece, base, bits) => {
                format!("parseInt {} {base} {bits}", piece.text().trim_matches(['{', '}', ' ']))
            }
        };
        format!("{{{{ {inside} }}}}")
    }
}

fn piece(inside: &str) -> Result<Piece, String> {
    let words: Vec<&str> = inside.split_whitespace().collect();
    Ok(match words.as_slice() {
        [".Name"] => Piece::Name,
        [".Class"] => Piece::Class,
        [".Type"] => Piece::Type,
        [".Zone"] => Piece::Zone,
        [".Remote"] => Piece::Remote,
        ["parseInt", what, base, bits] => {
            let number = |text: &str, most: u32| {
                text.parse().ok().filter(|n| *n <= most).ok_or_else(|| format!("{text} is no base or size"))
            };
            let (base, bits): (u32, u32) = (number(base, 36)?, number(bits, 64)?);
            if base < 2 {
                return Err(format!("{base} is no base or size"));
            }
            // Of no size is of the largest one.
            Piece::Number(Box::new(piece(what)?), base, if bits == 0 { 64 } else { bits })
        }
        ["index", ".Match", number] => {
            Piece::Match(number.parse().map_err(|_| format!("{number} is no index"))?)
        }
        [word] if word.starts_with(".Group.") => Piece::Group(word.trim_start_matches(".Group.").to_owned()),
        _ => return Err(format!("{{{{{inside}}}}} is not known here")),
    })
}

/// A record in the form of a zone file: owner, TTL and class (both optional), type and data.
///
/// # Errors
/// What is wrong with it.
pub fn record(text: &str) -> Result<Record, String> {
    let mut words = text.split_whitespace().peekable();
    let owner = name(words.next().ok_or("a record needs a name")?)?;
    let ttl = match words.peek().and_then(|w| w.parse::<u32>().ok()) {
        Some(ttl) => {
            words.next();
            ttl
        }
        None => 3600,
    };
    if words.peek().is_some_and(|w| w.eq_ignore_ascii_case("IN")) {
        words.next();
    }
    let kind = words.next().ok_or("a record needs a type")?.to_ascii_uppercase();
    let rest: Vec<&str> = words.collect();
    Ok(Record::from_rdata(owner, ttl, data(&kind, &rest, text)?))
}

fn data(kind: &str, rest: &[&str], text: &str) -> Result<RData, String> {
    let bad = || format!("{} is no data of {kind}", rest.join(" "));
    let number = |word: &str| word.parse::<u16>().map_err(|_| bad());
    Ok(match (kind, rest) {
        ("A", [ip]) => RData::A(rdata::A(ip.parse::<Ipv4Addr>().map_err(|_| bad())?)),
        ("AAAA", [ip]) => RData::AAAA(rdata::AAAA(ip.parse::<Ipv6Addr>().map_err(|_| bad())?)),
        ("CNAME", [target]) => RData::CNAME(rdata::CNAME(name(target)?)),
        ("PTR", [target]) => RData::PTR(rdata::PTR(name(target)?)),
        ("NS", [target]) => RData::NS(rdata::NS(name(target)?)),
        ("MX", [preference, target]) => RData::MX(rdata::MX::new(number(preference)?, name(target)?)),
        ("SRV", [priority, weight, port, target]) => {
            RData::SRV(rdata::SRV::new(number(priority)?, number(weight)?, number(port)?, name(target)?))
        }
        ("SOA", [mname, rname, numbers @ ..]) => {
            let numbers: Vec<i64> =
                numbers.iter().filter(|n| **n != "(" && **n != ")").filter_map(|n| n.parse().ok()).collect();
            let [serial, refresh, retry, expire, minimum] = numbers.as_slice() else { return Err(bad()) };
            let whole = |n: i64| u32::try_from(n).map_err(|_| bad());
            let signed = |n: i64| i32::try_from(n).map_err(|_| bad());
            let (refresh, retry, expire) = (signed(*refresh)?, signed(*retry)?, signed(*expire)?);
            RData::SOA(rdata::SOA::new(
                name(mname)?,
                name(rname)?,
                whole(*serial)?,
                refresh,
                retry,
                expire,
                whole(*minimum)?,
            ))
        }
        ("TXT", [_, ..]) => RData::TXT(rdata::TXT::new(texts(text))),
        _ => return Err(format!("records of type {kind} cannot be made here")),
    })
}

/// The strings of a TXT record: in quotes, or the rest as it stands.
fn texts(text: &str) -> Vec<String> {
    let quoted: Vec<String> = text.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    if quoted.is_empty() {
        text.split_whitespace().last().map(str::to_owned).into_iter().collect()
    } else {
        quoted
    }
}

fn name(text: &str) -> Result<Name, String> {
    let mut name = Name::from_ascii(text).map_err(|_| format!("{text} is no name"))?;
    name.set_fqdn(true);
    Ok(name)
}

/// What a template says to a query.
#[derive(Debug)]
pub enum Said {
    /// It is not for this query, or lets it pass.
    Pass,
    /// This.
    Reply(Reply),
}

/// Where what templates do is counted.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// The counters.
    pub metrics: &'a Metrics,
    /// Server and view; the zone is the template's.
    pub place: Place<'a>,
}

impl Template {
    /// Answers a query. A record that cannot be made from it makes the answer a failure.
    #[must_use]
    pub fn answer(&self, query: &Query, client: IpAddr, told: Told<'_>) -> Said {
        let labels = Labels::of(query.name());
        if self.kind.is_some_and(|kind| kind != query.query_type()) {
            return Said::Pass;
        }
        let zone = self.zones.iter().filter(|z| labels.within(z).is_some()).max_by_key(|z| z.len());
        if zone.is_none() && !self.zones.is_empty() {
            return Said::Pass;
        }
        let text = query.name().to_lowercase().to_ascii();
        let found = self.matches.iter().find_map(|regex| regex.captures(&text));
        if found.is_none() && !self.matches.is_empty() {
            let passes = self
                .fallthrough
                .as_ref()
                .is_some_and(|zones| zones.is_empty() || zones.iter().any(|z| labels.within(z).is_some()));
            return if passes { Said::Pass } else { Said::Reply(plain(ResponseCode::ServFail)) };
        }
        let zone = zone.map(ToString::to_string).unwrap_or_else(|| ".".to_owned());
        let place = Place { zone: &zone, ..told.place };
        let kind = self.kind.map_or_else(|| "ANY".to_owned(), |kind| kind.to_string());
        told.metrics.template_matched(place, &self.class, &kind);
        let asked = Asked { name: &text, kind: query.query_type(), zone: &zone, client, found };
        let made = |section: &str, lines: &[Line]| -> Option<Vec<Record>> {
            let one = |line: &Line| {
                let made = line.fill(&asked).map_err(Failure::Template);
                let error = match made.and_then(|text| record(&text).map_err(Failure::Record)) {
                    Ok(record) => return Some(record),
                    Err(error) => error,
                };
                let (is_record, error) = match error {
                    Failure::Template(error) => (false, error),
                    Failure::Record(error) => (true, error),
                };
                tracing::error!(name = text, error, "the template makes no record of this");
                let line = line.text();
                told.metrics.template_failed(place, (&self.class, &kind), (section, &line), is_record);
                None
            };
            lines.iter().map(one).collect()
        };
        let reply = || {
            Some(Reply {
                answers: made("answer", &self.answers)?,
                additionals: made("additional", &self.additionals)?,
                authorities: made("authority", &self.authorities)?,
                ..plain(self.code)
            })
        };
        Said::Reply(reply().unwrap_or_else(|| plain(ResponseCode::ServFail)))
    }
}

fn plain(code: ResponseCode) -> Reply {
    Reply { code, answers: vec![], authorities: vec![], additionals: vec![], authoritative: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(kind: RecordType, matches: &str, answer: &str) -> Template {
        Template {
            kind: Some(kind),
            zones: vec![Labels::parse("example")],
            matches: vec![Regex::new(matches).unwrap()],
            answers: vec![Line::parse(answer).unwrap()],
            additionals: vec![],
            authorities: vec![],
            code: ResponseCode::NoError,
            fallthrough: None,
            extended: None,
            class: "IN".to_owned(),
        }
    }

    fn ask(template: &Template, name: &str, kind: RecordType) -> Option<Reply> {
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let told = Told { metrics: &metrics, place: Place { server: "", zone: "", view: "" } };
        let client = [10, 9, 8, 7].into();
        match template.answer(&Query::query(Name::from_ascii(name).unwrap(), kind), client, told) {
            Said::Pass => None,
            Said::Reply(reply) => Some(reply),
        }
    }

    #[test]
    fn the_question_fills_the_answer() {
        let made = template(
            RecordType::A,
            r"^ip-(?P<a>\d+)-(?P<b>\d+)-(\d+)-(\d+)[.]example[.]$",
            "{{ .Name }} 60 IN A {{ .Group.a }}.{{ .Group.b }}.{{ index .Match 3 }}.{{ index .Match 4 }}",
        );
        let reply = ask(&made, "ip-10-0-0-7.Example.", RecordType::A).unwrap();
        assert_eq!(reply.answers[0].data, RData::A(rdata::A([10, 0, 0, 7].into())));
        assert_eq!((reply.answers[0].ttl, reply.code), (60, ResponseCode::NoError));
        assert!(ask(&made, "ip-10-0-0-7.example.", RecordType::AAAA).is_none());
        assert!(ask(&made, "ip-10-0-0-7.else.", RecordType::A).is_none());
        assert_eq!(ask(&made, "ip-999-0-0-7.example.", RecordType::A).unwrap().code, ResponseCode::ServFail);
    }

    #[test]
    fn numbers_and_the_client_fill_the_answer() {
        let made = template(
            RecordType::A,
            "^ip0a(?P<b>[a-z0-9]+)[.]example[.]$",
            "{{ .Name }} 60 IN A 10.0.0.{{ parseInt .Group.b 16 8 }}",
        );
        let reply = ask(&made, "ip0a7b.example.", RecordType::A).unwrap();
        assert_eq!(reply.answers[0].data, RData::A(rdata::A([10, 0, 0, 123].into())));
        for bad in ["ip0a17b.example.", "ip0azz.example."] {
            assert_eq!(ask(&made, bad, RecordType::A).unwrap().code, ResponseCode::ServFail, "{bad}");
        }
        let made = template(RecordType::A, ".", "{{ .Name }} 60 IN A {{ .Remote }}");
        let reply = ask(&made, "me.example.", RecordType::A).unwrap();
        assert_eq!(reply.answers[0].data, RData::A(rdata::A([10, 9, 8, 7].into())));
        let text = "{{ .Name }} A {{ parseInt .Group.b 16 8 }}";
        assert_eq!(Line::parse(text).unwrap().text(), text);
    }

    #[test]
    fn what_does_not_match_fails_or_goes_on() {
        let mut made = template(RecordType::A, "^a[.]", "{{ .Name }} A 10.0.0.1");
        assert_eq!(ask(&made, "b.example.", RecordType::A).unwrap().code, ResponseCode::ServFail);
        made.fallthrough = Some(vec![]);
        assert!(ask(&made, "b.example.", RecordType::A).is_none());
    }

    #[test]
    fn records_are_read_as_in_a_zone_file() {
        let of = |text: &str| record(text).map(|r| r.data);
        assert!(matches!(of("a. IN MX 10 mail.example."), Ok(RData::MX(_))));
        assert!(matches!(of("a. SRV 0 5 80 x.example."), Ok(RData::SRV(_))));
        assert!(of("a. 60 IN SOA ns. root. (1 2 3 4 5)").is_err());
        assert!(matches!(of("a. 60 IN SOA ns. root. ( 1 2 3 4 5 )"), Ok(RData::SOA(_))));
        assert_eq!(
            of("a. TXT \"one two\" \"three\""),
            Ok(RData::TXT(rdata::TXT::new(vec!["one two".into(), "three".into()])))
        );
        for bad in ["", "a.", "a. A", "a. A x", "a. LOC 1", "a. MX x y."] {
            assert!(of(bad).is_err(), "{bad}");
        }
        assert!(Line::parse("{{ .Meta }}").is_err() && Line::parse("{{ .Name").is_err());
        assert!(Line::parse("{{ parseInt .Name 1 8 }}").is_err());
    }
}
