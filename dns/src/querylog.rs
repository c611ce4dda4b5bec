//! Lines about queries (the `log` directive).
//!
//! Contract: CoreDNS' `log`: its classes of answers, its two named formats and the words in them.

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use hickory_proto::op::ResponseCode;

use crate::zone::Labels;

/// What `{common}` stands for.
const COMMON: &str = "{remote}:{port} - {>id} \"{type} {class} {name} {proto} {size} {>do} {>bufsize}\" {rcode} \
    {>rflags} {rsize} {duration}";

/// One directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Queries for names below these are written; empty is all.
    pub names: Vec<Labels>,
    /// How.
    pub format: Format,
    /// Those with such answers are; empty is all.
    pub classes: Vec<Class>,
}

/// A kind of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// There is something.
    Success,
    /// There is nothing, or no such name.
    Denial,
    /// Everything else.
    Error,
    /// Each.
    All,
}

/// Text between and words to be filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Word(Word),
}

/// What can be said of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Remote,
    Port,
    Id,
    Type,
    Class,
    Name,
    Protocol,
    Size,
    Do,
    BufferSize,
    Opcode,
    Code,
    Flags,
    AnswerSize,
    Duration,
    /// What other directives tell, of which none does.
    Metadata,
}

/// A query and its answer.
#[derive(Clone, Debug)]
pub struct Spoken<'a> {
    /// Who asked.
    pub client: SocketAddr,
    /// `udp` or `tcp`.
    pub protocol: &'a str,
    /// Message id.
    pub id: u16,
    /// Number of the operation.
    pub opcode: u8,
    /// What is asked for.
    pub name: &'a Labels,
    /// Its type and class in letters.
    pub kind: &'a str,
    /// The class of the question.
    pub class: &'a str,
    /// Bytes of the query.
    pub size: usize,
    /// DNSSEC records are wanted.
    pub dnssec: bool,
    /// Bytes of an answer the client takes.
    pub buffer: u16,
    /// The answer's code, and how it is written.
    pub code: ResponseCode,
    /// The code in letters.
    pub code_name: &'a str,
    /// Whether the answer has records.
    pub has_answers: bool,
    /// Flags of the answer: `qr,aa,rd`.
    pub flags: &'a str,
    /// Bytes of the answer.
    pub answer_size: usize,
    /// How long it took.
    pub took: Duration,
}

// === impl Log ===

impl Log {
    /// The line about a query, if it is one to write about.
    #[must_use]
    pub fn line(&self, said: &Spoken<'_>) -> Option<String> {
        let named = self.names.is_empty() || self.names.iter().any(|zone| said.name.within(zone).is_some());
        let class = Class::of(said.code, said.has_answers);
        let asked_for = |one: &Class| matches!(one, Class::All) || *one == class;
        let meant = self.classes.is_empty() || self.classes.iter().any(asked_for);
        (named && meant).then(|| self.format.fill(said))
    }
}

// === impl Class ===

impl Class {
    /// From its word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "success" => Self::Success,
            "denial" => Self::Denial,
            "error" => Self::Error,
            "all" => Self::All,
            _ => return None,
        })
    }

    fn of(code: ResponseCode, has_answers: bool) -> Self {
        match code {
            ResponseCode::NoError if has_answers => Self::Success,
            ResponseCode::NoError | ResponseCode::NXDomain => Self::Denial,
            _ => Self::Error,
        }
    }
}

// === impl Format ===

impl Format {
    /// Reads a format.
    ///
    /// # Errors
    /// The word that is not known.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.replace("{combined}", "{common} \"{>opcode}\"").replace("{common}", COMMON);
        let (mut parts, mut rest) = (Vec::new(), text.as_str());
        while let Some((before, word, behind)) =
            rest.split_once('{').and_then(|(before, from)| from.split_once('}').map(|(w, b)| (before, w, b)))
        {
            parts.push(Part::Text(before.to_owned()));
            parts.push(Part::Word(Word::parse(word).ok_or_else(|| format!("{{{word}}}"))?));
            rest = behind;
        }
        parts.push(Part::Text(rest.to_owned()));
        Ok(Self(parts))
    }

    fn fill(&self, said: &Spoken<'_>) -> String {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Word(word) => word.say(said, &mut out),
            }
        }
        out
    }
}

impl Word {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "remote" => Self::Remote,
            "port" => Self::Port,
            ">id" => Self::Id,
            "type" => Self::Type,
            "class" => Self::Class,
            "name" => Self::Name,
            "proto" => Self::Protocol,
            "size" => Self::Size,
            ">do" => Self::Do,
            ">bufsize" => Self::BufferSize,
            ">opcode" => Self::Opcode,
            "rcode" => Self::Code,
            ">rflags" => Self::Flags,
            "rsize" => Self::AnswerSize,
            "duration" => Self::Duration,
            label if label.len() > 1 && label.starts_with('/') => Self::Metadata,
            _ => return None,
        })
    }

    fn say(self, said: &Spoken<'_>, out: &mut String) {
        let written = match self {
            Self::Remote if said.client.is_ipv6() => write!(out, "[{}]", said.client.ip()),
            Self::Remote => write!(out, "{}", said.client.ip()),
            Self::Port => write!(out, "{}", said.client.port()),
            Self::Id => write!(out, "{}", said.id),
            Self::Type => out.write_str(said.kind),
            Self::Class => out.write_str(said.class),
            Self::Name => write!(out, "{}", said.name),
            Self::Protocol => out.write_str(said.protocol),
            Self::Size => write!(out, "{}", said.size),
            Self::Do => write!(out, "{}", said.dnssec),
            Self::BufferSize => write!(out, "{}", said.buffer),
            Self::Opcode => write!(out, "{}", said.opcode),
            Self::Code => out.write_str(said.code_name),
            Self::Flags => out.write_str(said.flags),
            Self::AnswerSize => write!(out, "{}", said.answer_size),
            Self::Duration => write!(out, "{:.9}s", said.took.as_secs_f64()),
            Self::Metadata => out.write_str("-"),
        };
        debug_assert!(written.is_ok(), "text grows");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(name: &Labels, code: ResponseCode, has_answers: bool) -> Spoken<'_> {
        Spoken {
            client: "10.0.0.7:4000".parse().unwrap(),
            protocol: "udp",
            id: 9,
            opcode: 0,
            name,
            kind: "A",
            class: "IN",
            size: 40,
            dnssec: false,
            buffer: 512,
            code,
            code_name: "NOERROR",
            has_answers,
            flags: "qr,aa,rd",
            answer_size: 80,
            took: Duration::from_micros(1500),
        }
    }

    #[test]
    fn lines_are_as_coredns_writes_them() {
        let name = Labels::parse("a.example");
        let line =
            |format: &str| Format::parse(format).unwrap().fill(&said(&name, ResponseCode::NoError, true));
        let common =
            "10.0.0.7:4000 - 9 \"A IN a.example. udp 40 false 512\" NOERROR qr,aa,rd 80 0.001500000s";
        assert_eq!(line("{common}"), common);
        assert_eq!(line("{combined}"), format!("{common} \"0\""));
        assert_eq!(line("x {name} y"), "x a.example. y");
        assert_eq!(Format::parse("{nobody}"), Err("{nobody}".to_owned()));
    }

    #[test]
    fn only_what_is_asked_for_is_written() {
        let (name, other) = (Labels::parse("a.example"), Labels::parse("a.test"));
        let log = |classes: &[Class]| Log {
            names: vec![Labels::parse("example")],
            format: Format::parse("{name}").unwrap(),
            classes: classes.to_vec(),
        };
        for (classes, name, code, has_answers, want) in [
            (&[][..], &name, ResponseCode::NoError, true, true),
            (&[], &other, ResponseCode::NoError, true, false),
            (&[Class::Denial], &name, ResponseCode::NoError, true, false),
            (&[Class::Denial], &name, ResponseCode::NoError, false, true),
            (&[Class::Denial, Class::Error], &name, ResponseCode::ServFail, false, true),
            (&[Class::Success], &name, ResponseCode::NXDomain, false, false),
            (&[Class::All], &name, ResponseCode::NXDomain, false, true),
        ] {
            let line = log(classes).line(&said(name, code, has_answers));
            assert_eq!(line.is_some(), want, "{classes:?} {name} {code}");
        }
    }
}
