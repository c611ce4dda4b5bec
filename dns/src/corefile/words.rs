//! What is the same of all directives: which may stand there once, how many words they take, whether they have a block.

use super::{CorefileError, Line};
use crate::chaos::Chaos;

/// How a directive is written.
struct Form {
    name: &'static str,
    /// Most words behind its name.
    words: usize,
    has_block: bool,
    /// It may stand in a server block more than once.
    repeats: bool,
    /// It has a say in answers, as `coredns_plugin_enabled` tells.
    has_a_say: bool,
}

const ANY: usize = usize::MAX;

const fn form(name: &'static str, words: usize, has_block: bool, repeats: bool, has_a_say: bool) -> Form {
    Form { name, words, has_block, repeats, has_a_say }
}

const FORMS: &[Form] = &[
    form("acl", ANY, true, true, true),
    form("any", 0, false, false, true),
    form("autopath", ANY, false, false, true),
    form("bind", ANY, false, true, false),
    form("bufsize", 1, false, false, true),
    form("cache", ANY, true, false, true),
    form("cancel", 1, false, false, true),
    form("chaos", ANY, false, false, true),
    form("debug", 0, false, false, false),
    form("dns64", 1, true, false, true),
    form("errors", 1, true, false, true),
    form("forward", ANY, true, true, true),
    form("health", 1, true, false, false),
    form("hosts", ANY, true, false, true),
    form("kubernetes", ANY, true, false, true),
    form("local", 0, false, false, true),
    form("log", ANY, true, true, true),
    form("loadbalance", 1, true, false, true),
    form("loop", 0, false, false, true),
    form("metadata", ANY, false, false, true),
    form("minimal", 0, false, false, true),
    form("nsid", ANY, false, false, true),
    form("prometheus", 1, false, false, true),
    form("ready", 1, true, false, false),
    form("reload", 2, false, false, false),
    form("rewrite", ANY, true, true, true),
    form("template", ANY, true, true, true),
    form("tls", 3, true, false, false),
    form("view", 1, true, true, true),
    form("whoami", 0, false, false, true),
];

/// Refuses what no directive of its name can be, `before` being those of the same server block that stand before it.
/// A name that is not known is the concern of others.
pub(super) fn check(line: &Line, before: &[Line]) -> Result<(), CorefileError> {
    let Some(form) = FORMS.iter().find(|form| form.name == line.name()) else { return Ok(()) };
    if !form.repeats && before.iter().any(|other| other.name() == form.name) {
        return line.error(format!("{} can only be used once per server block", form.name));
    }
    if let Some(word) = line.args().get(form.words) {
        return line.error(format!("{}: unexpected {word}", form.name));
    }
    match line.block.first() {
        Some(option) if !form.has_block => {
            option.error(format!("{}: {} is not supported", form.name, option.name()))
        }
        _ => Ok(()),
    }
}

/// Whether a directive has a say in answers.
pub(super) fn has_a_say(name: &str) -> bool {
    FORMS.iter().any(|form| form.name == name && form.has_a_say)
}

/// `nsid [DATA]`.
pub(super) fn identifier(line: &Line) -> Result<Vec<u8>, CorefileError> {
    if !line.args().is_empty() {
        return Ok(line.args().join(" ").into_bytes());
    }
    match nix::unistd::gethostname() {
        Ok(name) => Ok(name.into_encoded_bytes()),
        Err(error) => line.error(format!("nsid: the host has no name: {error}")),
    }
}

/// `chaos [VERSION] [AUTHORS…]`.
pub(super) fn chaos(line: &Line) -> Chaos {
    let mut words = line.args().iter().cloned();
    Chaos {
        version: words.next().unwrap_or_else(|| format!("kube-dns-{}", env!("CARGO_PKG_VERSION"))),
        authors: words.collect(),
        // A host without a name is still this one.
        host: nix::unistd::gethostname()
            .map_or_else(|_| "localhost".to_owned(), |name| name.to_string_lossy().into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    #[test]
    fn directives_take_what_they_take_and_stand_there_once() {
        for (text, want) in [
            ("cache\ncache", Some("cache can only be used once per server block")),
            ("loop twice", Some("loop: unexpected twice")),
            ("loadbalance {\n prefer 10.0.0.0/8\n}", Some("loadbalance: prefer is not supported")),
            ("loadbalance {\n limit_answers 0\n}", Some("limit_answers needs a number above zero")),
            ("loadbalance round_robin {\n limit_answers 5\n}", None),
            ("prometheus {\n runtime_metrics\n}", Some("prometheus: runtime_metrics is not supported")),
            ("whoami\nlocal\ndns64\nview a\nview b", None),
            ("geoip", Some("unknown directive geoip")),
            ("reload 1s", Some("reload: 1s is less than 2s")),
            ("reload 30s 0s\nlog\nlog", None),
            ("nsid Use The Force", None),
            ("nsid", None),
        ] {
            let made = parse(&format!(". {{\n{text}\n}}")).map_err(|error| error.message);
            assert_eq!(made.as_ref().err().map(String::as_str), want, "{text}");
        }
        let blocks = parse(". {\nnsid Use The Force\nlog\nlog\nready\n}").unwrap();
        assert_eq!(blocks[0].identifier.as_deref(), Some(&b"Use The Force"[..]));
        assert_eq!(blocks[0].plugins, ["nsid", "log"]);
        assert!(!parse(". {\nnsid\n}").unwrap()[0].identifier.as_ref().unwrap().is_empty());
    }
}
