//! The directives with rules of their own: `rewrite`, `log` and `template`.

use hickory_proto::{
    op::ResponseCode,
    rr::{DNSClass, RecordType, rdata::opt::EdnsCode},
};
use regex::Regex;

use super::{CorefileError, Line, zones};
use crate::{
    metrics::RCODES,
    querylog::{Class, Format, Log},
    rewrite::{Act, Back, Content, NameRule, OptionRule, Rule, Variable, What},
    template::{self, Template},
    zone::Labels,
};

/// Longest regular expression, as CoreDNS has it.
const MAX_REGEX: usize = 10_000;

/// `rewrite [continue|stop] FIELD …`, or with the parts in a block.
pub(super) fn rewrite(line: &Line) -> Result<Rule, CorefileError> {
    let mut words: Vec<String> = line.args().to_vec();
    for part in &line.block {
        words.extend(part.words.iter().cloned());
    }
    let mut words = words.as_slice();
    let mut goes_on = false;
    if let [first, rest @ ..] = words
        && matches!(first.as_str(), "continue" | "stop")
    {
        goes_on = first == "continue";
        words = rest;
    }
    let what = match words {
        [field, rest @ ..] => what(line, field, rest)?,
        [] => return line.error("rewrite needs a rule"),
    };
    Ok(Rule { what, goes_on })
}

fn what(line: &Line, field: &str, rest: &[String]) -> Result<What, CorefileError> {
    match (field, rest) {
        ("name", rest) => {
            let (names, more) = name_rule(line, rest)?;
            Ok(What::Name(names, backs(line, more)?))
        }
        ("type", [from, to]) => Ok(What::Type(kind(line, from)?, kind(line, to)?)),
        ("ttl", rest) => match rest {
            [name, bounds] => Ok(What::Ttl(for_names(line, "exact", name)?, ttl(line, bounds)?)),
            [how, name, bounds] => Ok(What::Ttl(for_names(line, how, name)?, ttl(line, bounds)?)),
            _ => line.error("rewrite ttl needs a name and seconds"),
        },
        ("rcode", rest) => match rest {
            [name, from, to] => {
                Ok(What::Code(for_names(line, "exact", name)?, any_code(line, from)?, code(line, to)?))
            }
            [how, name, from, to] => {
                Ok(What::Code(for_names(line, how, name)?, any_code(line, from)?, code(line, to)?))
            }
            _ => line.error("rewrite rcode needs a name and two codes"),
        },
        ("class", [from, to]) => Ok(What::Class(class(line, from)?, class(line, to)?)),
        ("cname", rest) => match rest {
            [from, to] => Ok(What::Alias(alias(line, "exact", from, to)?)),
            [how, from, to] => Ok(What::Alias(alias(line, how, from, to)?)),
            _ => line.error("rewrite cname needs a name and what becomes of it"),
        },
        ("edns0", rest) => Ok(What::Option(option_rule(line, rest)?)),
        // A rule may leave the field out: it is the name then.
        (_, [_, ..]) if !matches!(field, "type" | "class") => {
            let words: Vec<String> = std::iter::once(field.to_owned()).chain(rest.iter().cloned()).collect();
            let (names, more) = name_rule(line, &words)?;
            Ok(What::Name(names, backs(line, more)?))
        }
        _ => line.error(format!("rewrite {field} is not supported")),
    }
}

/// A whole name, lower-case and with the final dot.
fn whole(text: &str) -> String {
    format!("{}.", text.trim_end_matches('.').to_ascii_lowercase())
}

pub(super) fn regex(line: &Line, text: &str) -> Result<Regex, CorefileError> {
    if text.len() > MAX_REGEX {
        return line.error(format!("a regular expression has at most {MAX_REGEX} characters"));
    }
    Regex::new(text).or_else(|error| line.error(format!("{text:?} is no regular expression: {error}")))
}

fn name_rule<'w>(line: &Line, words: &'w [String]) -> Result<(NameRule, &'w [String]), CorefileError> {
    let how = ["exact", "prefix", "suffix", "substring", "regex"]
        .into_iter()
        .find(|how| words.len() >= 3 && words[0] == *how);
    let rest = if how.is_some() { &words[1..] } else { words };
    let [from, to, more @ ..] = rest else {
        return line.error("rewrite name needs a name and what becomes of it");
    };
    let lower = |text: &str| text.to_ascii_lowercase();
    let rule = match how.unwrap_or("exact") {
        "prefix" => NameRule::Prefix(lower(from), lower(to)),
        "suffix" => NameRule::Suffix(whole(from), whole(to)),
        "substring" => NameRule::Substring(lower(from), lower(to)),
        "regex" => NameRule::Regex(regex(line, from)?, whole(to)),
        _ => NameRule::Exact(whole(from), whole(to)),
    };
    Ok((rule, more))
}

/// A rule that only says for which names it is.
fn for_names(line: &Line, how: &str, name: &str) -> Result<NameRule, CorefileError> {
    let words = [how.to_owned(), name.to_owned(), name.to_owned()];
    if !matches!(how, "exact" | "prefix" | "suffix" | "substring" | "regex") {
        return line.error(format!("rewrite: {how} is no way to match names"));
    }
    Ok(name_rule(line, &words)?.0)
}

/// A rule for where aliases lead.
fn alias(line: &Line, how: &str, from: &str, to: &str) -> Result<NameRule, CorefileError> {
    if !matches!(how, "exact" | "prefix" | "suffix" | "substring" | "regex") {
        return line.error(format!("rewrite: {how} is no way to match names"));
    }
    Ok(name_rule(line, &[how.to_owned(), from.to_owned(), to.to_owned()])?.0)
}

fn class(line: &Line, text: &str) -> Result<DNSClass, CorefileError> {
    match text.to_ascii_uppercase().as_str() {
        "IN" => Ok(DNSClass::IN),
        "CH" => Ok(DNSClass::CH),
        "HS" => Ok(DNSClass::HS),
        _ => line.error(format!("{text} is no class")),
    }
}

/// `edns0 local|nsid|subnet set|append|replace|unset … [revert]`, the action and the words behind it in either order for
/// what is taken away.
fn option_rule(line: &Line, words: &[String]) -> Result<OptionRule, CorefileError> {
    let [what, action, rest @ ..] = words else {
        return line.error("rewrite edns0 needs an option and what becomes of it");
    };
    let act = match action.to_ascii_lowercase().as_str() {
        "set" => Act::Set,
        "append" => Act::Append,
        "replace" => Act::Replace,
        "unset" => Act::Unset,
        _ => return line.error(format!("rewrite edns0: {action} is no action")),
    };
    let (rest, reverts) = match rest {
        [rest @ .., last] if last == "revert" && act != Act::Unset => (rest, true),
        _ => (rest, false),
    };
    let (code, content) = match (what.to_ascii_lowercase().as_str(), rest, act) {
        ("local", [code], Act::Unset) => (option_code(line, code)?, Content::Bytes(Vec::new())),
        ("local", [code, data], act) if act != Act::Unset => (option_code(line, code)?, content(line, data)?),
        ("nsid", [], _) => (EdnsCode::NSID.into(), Content::Bytes(Vec::new())),
        ("subnet", [], Act::Unset) => (EdnsCode::Subnet.into(), Content::Subnet(0, 0)),
        ("subnet", [v4, v6], act) if act != Act::Unset => {
            let bits = |text: &String, most: u8| match text.parse::<u8>() {
                Ok(bits) if bits <= most => Ok(bits),
                _ => line.error(format!("rewrite edns0 subnet: {text} is no length of a network")),
            };
            (EdnsCode::Subnet.into(), Content::Subnet(bits(v4, 32)?, bits(v6, 128)?))
        }
        ("local" | "nsid" | "subnet", ..) => {
            return line.error(format!("rewrite edns0 {what} {action}: wrong number of words"));
        }
        (other, ..) => return line.error(format!("rewrite edns0: {other} is not known")),
    };
    Ok(OptionRule { code, act, content, reverts })
}

fn option_code(line: &Line, text: &str) -> Result<u16, CorefileError> {
    let number = match text.strip_prefix("0x") {
        Some(hex) => u16::from_str_radix(hex, 16),
        None => text.parse(),
    };
    number.or_else(|_| line.error(format!("rewrite edns0: {text} is no code of an option")))
}

fn content(line: &Line, text: &str) -> Result<Content, CorefileError> {
    if let Some(name) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
        return match Variable::parse(name) {
            Some(variable) => Ok(Content::Variable(variable)),
            None => line.error(format!("rewrite edns0: {text} is not known here")),
        };
    }
    let Some(digits) = text.strip_prefix("0x") else { return Ok(Content::Bytes(text.as_bytes().to_vec())) };
    let pair = |at: usize| digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    match (0..digits.len()).step_by(2).map(pair).collect::<Option<Vec<u8>>>() {
        Some(bytes) => Ok(Content::Bytes(bytes)),
        None => line.error(format!("rewrite edns0: {text} is no hexadecimal number of whole bytes")),
    }
}

fn backs(line: &Line, mut words: &[String]) -> Result<Vec<Back>, CorefileError> {
    let mut all = Vec::new();
    if words.first().is_some_and(|word| word != "answer") {
        return line.error(format!("rewrite name: unknown option {}", words[0]));
    }
    while let [first, rest @ ..] = words {
        words = match (first.as_str(), rest) {
            // Only the first one has to be preceded by it.
            ("answer", [_, ..]) => rest,
            // Names that were rewritten go back in any case.
            ("auto", rest) => rest,
            ("name", [auto, rest @ ..]) if auto == "auto" => rest,
            (what @ ("name" | "value"), [from, to, rest @ ..]) => {
                let (from, to) = (regex(line, from)?, whole(to));
                all.push(if what == "name" { Back::Owner(from, to) } else { Back::Value(from, to) });
                rest
            }
            (word, _) => return line.error(format!("rewrite name: unknown option {word}")),
        };
    }
    Ok(all)
}

pub(super) fn kind(line: &Line, text: &str) -> Result<RecordType, CorefileError> {
    match text.to_ascii_uppercase().parse() {
        Ok(kind) => Ok(kind),
        Err(_) => line.error(format!("{text} is no type of records")),
    }
}

fn ttl(line: &Line, text: &str) -> Result<(u32, u32), CorefileError> {
    let bad = || line.error(format!("{text} is no TTL"));
    let (least, most) = match text.split_once('-') {
        None => (text, text),
        Some((least, most)) => {
            (if least.is_empty() { "0" } else { least }, if most.is_empty() { "2147483647" } else { most })
        }
    };
    match (least.parse(), most.parse()) {
        (Ok(least), Ok(most)) if least <= most => Ok((least, most)),
        _ => bad(),
    }
}

fn any_code(line: &Line, text: &str) -> Result<Option<ResponseCode>, CorefileError> {
    if text == "ANY" { Ok(None) } else { code(line, text).map(Some) }
}

pub(super) fn code(line: &Line, text: &str) -> Result<ResponseCode, CorefileError> {
    let named = RCODES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, number)| *number);
    match named.or_else(|| text.parse().ok().filter(|number| *number < 4096)) {
        Some(number) => Ok(ResponseCode::from((number >> 4) as u8, (number & 15) as u8)),
        None => line.error(format!("{text} is no response code")),
    }
}

/// `log [NAMES…] [FORMAT] { class CLASSES… }`.
pub(super) fn log(line: &Line) -> Result<Log, CorefileError> {
    let (format, names) = match line.args().split_last() {
        Some((last, names)) if last.contains('{') => (last.as_str(), names),
        _ => ("{common}", line.args()),
    };
    let format =
        Format::parse(format).or_else(|what| line.error(format!("log: {what} is not known here")))?;
    let mut classes = Vec::new();
    for option in &line.block {
        if option.name() != "class" || option.args().is_empty() {
            return option.error(format!("log: unknown option {}", option.words.join(" ")));
        }
        for word in option.args() {
            match Class::parse(word) {
                Some(class) => classes.push(class),
                None => return option.error(format!("log: class {word} is not known")),
            }
        }
    }
    Ok(Log { names: zones(line, names)?, format, classes })
}

/// `template CLASS TYPE [ZONE…] { … }`.
pub(super) fn template(line: &Line, default: &[Labels]) -> Result<Template, CorefileError> {
    let [class, kinds, names @ ..] = line.args() else {
        return line.error("template needs a class and a type");
    };
    if !matches!(class.to_ascii_uppercase().as_str(), "IN" | "ANY") {
        return line.error(format!("template: class {class} is not supported"));
    }
    let mut out = Template {
        kind: if kinds.eq_ignore_ascii_case("ANY") { None } else { Some(kind(line, kinds)?) },
        zones: if names.is_empty() { default.to_vec() } else { zones(line, names)? },
        matches: Vec::new(),
        answers: Vec::new(),
        additionals: Vec::new(),
        authorities: Vec::new(),
        code: ResponseCode::NoError,
        fallthrough: None,
        extended: None,
        class: class.to_ascii_uppercase(),
    };
    for option in &line.block {
        let text = option.args().join(" ");
        let filled =
            || template::Line::parse(&text).or_else(|error| option.error(format!("template: {error}")));
        match option.name() {
            "match" => {
                for pattern in option.args() {
                    out.matches.push(regex(option, pattern)?);
                }
            }
            "answer" => out.answers.push(filled()?),
            "additional" => out.additionals.push(filled()?),
            "authority" => out.authorities.push(filled()?),
            "rcode" => out.code = code(option, &text)?,
            "fallthrough" => out.fallthrough = Some(zones(option, option.args())?),
            "ederror" => {
                let number: u16 = option.arg(0, "a number of an extended error")?;
                if number > 24 {
                    return option.error("template: ederror is from 0 to 24");
                }
                out.extended = Some((number, option.args()[1..].join(" ")));
            }
            name @ ("var" | "expr") => return option.error(format!("template: {name} is not supported")),
            other => return option.error(format!("template: unknown option {other}")),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    #[test]
    fn rules_are_read_in_all_their_forms() {
        let text = r#". {
            rewrite name a.corp b.svc
            rewrite continue name suffix .corp .svc answer auto
            rewrite stop {
                name regex (.*)\.corp {1}.svc
                answer name (.*)\.svc {1}.corp
            }
            rewrite type AAAA A
            rewrite ttl suffix .svc 30-60
            rewrite rcode exact a.corp NXDOMAIN NOERROR
            rewrite old.corp new.corp
            rewrite name suffix .arpa .arpa answer name auto value (.*)\.svc\. {1}.corp.
            rewrite class CH IN
            rewrite cname regex (.*).cdn.example.net. {1}.other.example.
            rewrite edns0 local set 0xffee {client_ip} revert
            rewrite edns0 nsid unset
            rewrite edns0 subnet append 24 56
            template IN A corp {
                match "^ip-(\d+)\.corp\.$"
                answer "{{ .Name }} 60 IN A 10.0.0.{{ index .Match 1 }}"
                fallthrough
            }
            template ANY ANY {
                rcode NXDOMAIN
                authority "corp. 60 IN TXT \"no\""
            }
        }"#;
        let block = &parse(text).unwrap()[0];
        assert_eq!((block.rewrites.len(), block.templates.len()), (13, 2));
        let goes_on: Vec<bool> = block.rewrites.iter().map(|r| r.goes_on).collect();
        assert_eq!(goes_on.iter().filter(|goes_on| **goes_on).count(), 1);
        assert!(goes_on[1]);
    }

    #[test]
    fn mistakes_in_rules_are_named() {
        for (line, want) in [
            ("rewrite", "rewrite needs a rule"),
            ("rewrite name a", "rewrite name needs a name and what becomes of it"),
            ("rewrite name a b oops", "rewrite name: unknown option oops"),
            ("rewrite edns0 local set 0xffee", "rewrite edns0 local set: wrong number of words"),
            ("rewrite edns0 local set 0xfffff a", "rewrite edns0: 0xfffff is no code of an option"),
            (
                "rewrite edns0 local set 1 0x616",
                "rewrite edns0: 0x616 is no hexadecimal number of whole bytes",
            ),
            ("rewrite edns0 local set 1 {qnam}", "rewrite edns0: {qnam} is not known here"),
            ("rewrite edns0 subnet set 33 56", "rewrite edns0 subnet: 33 is no length of a network"),
            ("rewrite edns0 cookie set", "rewrite edns0: cookie is not known"),
            ("rewrite edns0 nsid drop", "rewrite edns0: drop is no action"),
            ("rewrite class CH XX", "XX is no class"),
            ("rewrite type A", "rewrite type is not supported"),
            ("rewrite cname a", "rewrite cname needs a name and what becomes of it"),
            ("rewrite name exact a b answer auto maybe", "rewrite name: unknown option maybe"),
            ("rewrite rcode a ANY BADNESS", "BADNESS is no response code"),
            ("template IN A {\n expr true\n}", "template: expr is not supported"),
            ("template IN A {\n ederror 25\n}", "template: ederror is from 0 to 24"),
            ("rewrite ttl a 9-3", "9-3 is no TTL"),
            ("rewrite type A X9", "X9 is no type of records"),
            ("template IN", "template needs a class and a type"),
            ("template IN A {\n answer \"{{ .Meta }}\"\n}", "template: {{ .Meta }} is not known here"),
        ] {
            let error = parse(&format!(". {{\n{line}\n}}")).unwrap_err();
            assert_eq!(error.message, want, "{line}");
        }
    }
}
