//! The directives with rules of their own: `rewrite` and `template`.

use hickory_proto::{op::ResponseCode, rr::RecordType};
use regex::Regex;

use super::{CorefileError, Line, zones};
use crate::{
    querylog::{Class, Format, Log},
    rewrite::{Back, NameRule, Rule, What},
    template::{self, Template},
};

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
        // A rule may leave the field out: it is the name then.
        (_, [_, ..]) if !matches!(field, "class" | "edns0" | "cname") => {
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

fn regex(line: &Line, text: &str) -> Result<Regex, CorefileError> {
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

fn backs(line: &Line, mut words: &[String]) -> Result<Vec<Back>, CorefileError> {
    let mut all = Vec::new();
    loop {
        words = match words {
            [] => return Ok(all),
            // Names that were rewritten go back in any case.
            [answer, auto, rest @ ..] if answer == "answer" && auto == "auto" => rest,
            [answer, what, from, to, rest @ ..]
                if answer == "answer" && (what == "name" || what == "value") =>
            {
                let (from, to) = (regex(line, from)?, whole(to));
                all.push(if what == "name" { Back::Owner(from, to) } else { Back::Value(from, to) });
                rest
            }
            [word, ..] => return line.error(format!("rewrite name: unknown option {word}")),
        };
    }
}

fn kind(line: &Line, text: &str) -> Result<RecordType, CorefileError> {
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
    Ok(match text.to_ascii_uppercase().as_str() {
        "NOERROR" => ResponseCode::NoError,
        "FORMERR" => ResponseCode::FormErr,
        "SERVFAIL" => ResponseCode::ServFail,
        "NXDOMAIN" => ResponseCode::NXDomain,
        "NOTIMP" => ResponseCode::NotImp,
        "REFUSED" => ResponseCode::Refused,
        other => match other.parse::<u16>() {
            Ok(number) if number < 4096 => ResponseCode::from((number >> 4) as u8, (number & 15) as u8),
            _ => return line.error(format!("{text} is no response code")),
        },
    })
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
    Ok(Log { names: zones(names), format, classes })
}

/// `template CLASS TYPE [ZONE…] { … }`.
pub(super) fn template(line: &Line) -> Result<Template, CorefileError> {
    let [class, kinds, names @ ..] = line.args() else {
        return line.error("template needs a class and a type");
    };
    if !matches!(class.to_ascii_uppercase().as_str(), "IN" | "ANY") {
        return line.error(format!("template: class {class} is not supported"));
    }
    let mut out = Template {
        kind: if kinds.eq_ignore_ascii_case("ANY") { None } else { Some(kind(line, kinds)?) },
        zones: zones(names),
        matches: Vec::new(),
        answers: Vec::new(),
        additionals: Vec::new(),
        authorities: Vec::new(),
        code: ResponseCode::NoError,
        fallthrough: None,
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
            "fallthrough" => out.fallthrough = Some(zones(option.args())),
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
        assert_eq!((block.rewrites.len(), block.templates.len()), (7, 2));
        let goes_on: Vec<bool> = block.rewrites.iter().map(|r| r.goes_on).collect();
        assert_eq!(goes_on, [false, true, false, false, false, false, false]);
    }

    #[test]
    fn mistakes_in_rules_are_named() {
        for (line, want) in [
            ("rewrite", "rewrite needs a rule"),
            ("rewrite name a", "rewrite name needs a name and what becomes of it"),
            ("rewrite name a b oops", "rewrite name: unknown option oops"),
            ("rewrite edns0 local set 0xffee 0x61", "rewrite edns0 is not supported"),
            ("rewrite ttl a 9-3", "9-3 is no TTL"),
            ("rewrite type A X9", "X9 is no type of records"),
            ("template IN", "template needs a class and a type"),
            ("template IN A {\n answer \"{{ .Remote }}\"\n}", "template: {{ .Remote }} is not known here"),
        ] {
            let error = parse(&format!(". {{\n{line}\n}}")).unwrap_err();
            assert_eq!(error.message, want, "{line}");
        }
    }
}
