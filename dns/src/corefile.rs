//! The Corefile, in the directives clusters really use.
//!
//! Contract: CoreDNS' Corefile grammar (server blocks of zones and ports; directives with arguments and
//! an optional block). A directive that is not known is an error naming its line.

mod acl;
mod cache;
mod errors;
mod forward;
mod kubernetes;
mod rules;
mod words;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    acl::Acl,
    cache::Limits,
    chaos::Chaos,
    dns64::Dns64,
    failures::Consolidate,
    hosts::Hosts,
    rewrite,
    template::Template,
    view::{Condition, View},
    zone::Labels,
};

pub use self::{
    forward::{Check, Forward, Identity, Policy, Upstream},
    kubernetes::{Kubernetes, Reach},
};
pub use crate::querylog::Log;

/// Bytes of an answer over UDP (DNS flag day 2020).
const UDP_SIZE: u16 = 1232;
/// How deep imports may go: one that leads back to itself ends here.
const MAX_IMPORTS: usize = 10;

/// Why a Corefile is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {message}")]
pub struct CorefileError {
    /// The file, as it was imported.
    pub file: Arc<str>,
    /// 1-based.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

/// One server block.
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// Zones served; the root is empty labels.
    pub zones: Vec<Labels>,
    /// How it is asked.
    pub transport: Transport,
    /// Port.
    pub port: u16,
    /// `tls`: what is served with over TLS.
    pub tls: Option<Tls>,
    /// `bind` addresses; empty means all.
    pub bind: Vec<IpAddr>,
    /// `errors`: what of them is told once in a while only.
    pub errors: Option<Vec<Consolidate>>,
    /// `acl`, in order.
    pub acls: Vec<Acl>,
    /// `nsid`: what the server calls itself to those who ask.
    pub identifier: Option<Vec<u8>>,
    /// The directives that have a say in answers, in the order they are written.
    pub plugins: Vec<String>,
    /// `log`: as many as there are.
    pub logs: Vec<Log>,
    /// `health`: address of /health.
    pub health: Option<SocketAddr>,
    /// `health { lameduck }`: how long to go on answering after a signal.
    pub lameduck: Duration,
    /// `ready`: address of /ready.
    pub ready: Option<SocketAddr>,
    /// `prometheus`: address of /metrics.
    pub metrics: Option<SocketAddr>,
    /// `kubernetes`.
    pub kubernetes: Option<Kubernetes>,
    /// `hosts`.
    pub hosts: Option<HostsDirective>,
    /// `forward`, in order.
    pub forward: Vec<Forward>,
    /// `cache`.
    pub cache: Option<CacheDirective>,
    /// `loop`: refuse to forward to oneself.
    pub detect_loop: bool,
    /// `reload`.
    pub reload: bool,
    /// `loadbalance`: rotate addresses.
    pub rotate: bool,
    /// `limit_answers` of it: how many records are answered at the most.
    pub most_answers: Option<usize>,
    /// `rewrite`, in order.
    pub rewrites: Vec<rewrite::Rule>,
    /// `template`, in order.
    pub templates: Vec<Template>,
    /// `any`: answer questions for all types with a hint that there is no such answer.
    pub refuse_any: bool,
    /// `chaos`: what is told of the server in the class CH.
    pub chaos: Option<Chaos>,
    /// `minimal`: leave out what was not asked for.
    pub minimal: bool,
    /// `bufsize`: bytes of an answer over UDP at the most.
    pub buffer: u16,
    /// `autopath @kubernetes`: the search path of pods is walked here.
    pub autopath: bool,
    /// `local`: what is this host to everybody is answered here.
    pub local: bool,
    /// `dns64`: addresses of hosts that have only old ones.
    pub dns64: Option<Dns64>,
    /// `whoami`: clients are told who they are.
    pub whoami: bool,
    /// `view`: which queries the block is for.
    pub view: Option<View>,
}

impl Block {
    /// What it is called in metrics: how it is asked, and where if that is one place.
    pub fn label(&self) -> String {
        let host = match self.bind.as_slice() {
            [IpAddr::V4(v4)] => v4.to_string(),
            [IpAddr::V6(v6)] => format!("[{v6}]"),
            _ => String::new(),
        };
        format!("{}://{host}:{}", self.transport.scheme(), self.port)
    }
}

/// `hosts [FILE [ZONES…]] { … }`.
#[derive(Clone, Debug, Default)]
pub struct HostsDirective {
    /// File to read.
    pub file: PathBuf,
    /// Names below these are looked for.
    pub zones: Vec<Labels>,
    /// Lines given inline.
    pub inline: Hosts,
    /// TTL in seconds.
    pub ttl: u32,
    /// `reload`: whether a changed file is read again.
    pub reload: bool,
    /// `no_reverse`: addresses do not lead back to names.
    pub no_reverse: bool,
    /// `fallthrough`: zones in which a name not found goes on.
    pub fallthrough: Vec<Labels>,
    /// `fallthrough_unsupported`: questions for types that a hosts file cannot have go on as well.
    pub fallthrough_unsupported: bool,
}

/// `cache [TTL] [ZONES…] { … }`.
#[derive(Clone, Debug, Default)]
pub struct CacheDirective {
    /// Names below these are kept; empty is all.
    pub zones: Vec<Labels>,
    /// How much and for how long.
    pub limits: Limits,
    /// Names below these have no answers kept.
    pub no_success: Vec<Labels>,
    /// Names below these have no denials kept.
    pub no_denial: Vec<Labels>,
}

/// How a server block is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// Over UDP and TCP.
    #[default]
    Plain,
    /// Over TLS.
    Tls,
}

impl Transport {
    /// What stands before the zones of a block.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Plain => "dns",
            Self::Tls => "tls",
        }
    }

    /// The port of blocks that name none.
    pub fn port(self) -> u16 {
        match self {
            Self::Plain => 53,
            Self::Tls => 853,
        }
    }
}

/// `tls CERT KEY [CA] { … }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// What is served with.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Authorities of clients; those of the system when absent.
    pub authorities: Option<PathBuf>,
    /// `client_auth`.
    pub client_auth: ClientAuth,
}

/// What clients have to show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// Nothing.
    #[default]
    None,
    /// A certificate if they like, which nobody looks at.
    Request,
    /// A certificate if they like, of an authority that is known.
    VerifyIfGiven,
    /// A certificate of an authority that is known.
    RequireAndVerify,
}

/// A directive as written.
#[derive(Clone, Debug)]
struct Line {
    file: Arc<str>,
    number: usize,
    words: Vec<String>,
    block: Vec<Line>,
}

/// What a Corefile may refer to: variables of the environment, and files.
pub struct Sources<'a> {
    /// A variable's value.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// The files that a pattern names.
    pub files: &'a dyn Fn(&str) -> std::io::Result<Vec<File>>,
}

/// A file that is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// What it is called.
    pub name: Arc<str>,
    /// What it says.
    pub text: String,
}

/// Reads a Corefile that refers to nothing.
pub fn parse(text: &str) -> Result<Vec<Block>, CorefileError> {
    let none = |_: &str| Err(std::io::Error::from(std::io::ErrorKind::NotFound));
    parse_with(text, &Sources { variable: &|_| None, files: &none })
}

/// Reads a Corefile with what it imports.
pub fn parse_with(text: &str, sources: &Sources<'_>) -> Result<Vec<Block>, CorefileError> {
    let mut reader = Reader { sources, snippets: HashMap::new() };
    let file = File { name: "Corefile".into(), text: text.to_owned() };
    let lines = reader.read(&file, 0)?;
    let blocks = lines.iter().map(server_block).collect::<Result<Vec<_>, _>>()?;
    if blocks.is_empty() {
        return Err(CorefileError { file: file.name, line: 1, message: "no server block".into() });
    }
    Ok(blocks)
}

/// The files of this folder that a pattern with one `*` in its last part names, or the one file it is.
pub fn files_of(base: &Path, pattern: &str) -> std::io::Result<Vec<File>> {
    let path = base.join(pattern);
    let read = |path: &Path| {
        let text = std::fs::read_to_string(path)?;
        Ok(File { name: path.to_string_lossy().into(), text })
    };
    let Some((before, after)) = pattern.rsplit('/').next().and_then(|last| last.split_once('*')) else {
        return Ok(vec![read(&path)?]);
    };
    let folder = path.parent().unwrap_or(base);
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        // A pattern that fits nothing imports nothing.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .filter(|name| {
            name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after)
        })
        .collect();
    names.sort();
    names.into_iter().map(|name| read(&folder.join(name))).collect()
}

struct Reader<'a> {
    sources: &'a Sources<'a>,
    /// Blocks that are there to be imported, by name.
    snippets: HashMap<String, Vec<Line>>,
}

impl Reader<'_> {
    /// The server blocks of a file.
    fn read(&mut self, file: &File, depth: usize) -> Result<Vec<Line>, CorefileError> {
        let mut tokens = tokenize(&self.fill(&file.text)).into_iter().peekable();
        let mut out = Vec::new();
        while tokens.peek().is_some() {
            if tokens.peek().is_some_and(|(_, word)| word == "import") {
                let line = directive(&file.name, &mut tokens, false)?;
                for file in self.open(&line, depth)? {
                    out.extend(self.read(&file, depth + 1)?);
                }
                continue;
            }
            let mut line = directive(&file.name, &mut tokens, true)?;
            line.block = self.expand(line.block, depth)?;
            let snippet = line.name().strip_prefix('(').and_then(|name| name.strip_suffix(')'));
            match snippet.map(str::to_owned) {
                Some(name) => drop(self.snippets.insert(name, line.block)),
                None => out.push(line),
            }
        }
        Ok(out)
    }

    /// The directives of a block with what they import in place.
    fn expand(&mut self, lines: Vec<Line>, depth: usize) -> Result<Vec<Line>, CorefileError> {
        let mut out = Vec::new();
        for line in lines {
            if line.name() != "import" {
                out.push(line);
                continue;
            }
            let name: String = line.arg(0, "a snippet or a file")?;
            if let Some(snippet) = self.snippets.get(&name) {
                out.extend(snippet.iter().cloned());
                continue;
            }
            for file in self.open(&line, depth)? {
                let mut tokens = tokenize(&self.fill(&file.text)).into_iter().peekable();
                let mut inner = Vec::new();
                while tokens.peek().is_some() {
                    inner.push(directive(&file.name, &mut tokens, false)?);
                }
                out.extend(self.expand(inner, depth + 1)?);
            }
        }
        Ok(out)
    }

    fn open(&self, line: &Line, depth: usize) -> Result<Vec<File>, CorefileError> {
        let pattern: String = line.arg(0, "a snippet or a file")?;
        if depth >= MAX_IMPORTS {
            return line.error(format!("import {pattern}: imports lead too deep"));
        }
        (self.sources.files)(&pattern).or_else(|error| line.error(format!("import {pattern}: {error}")))
    }

    /// The text with `{$NAME}` and `{%NAME%}` replaced by variables; those that are not set are empty.
    fn fill(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for (open, close) in [("{$", "}"), ("{%", "%}")] {
            let mut from = 0;
            while let Some(at) = out[from..].find(open).map(|at| from + at) {
                let Some(end) = out[at..].find(close).map(|end| at + end) else { break };
                let value = (self.sources.variable)(&out[at + open.len()..end]).unwrap_or_default();
                out.replace_range(at..end + close.len(), &value);
                from = at + value.len();
            }
        }
        out
    }
}

/// Words with their line; braces are words of their own.
fn tokenize(text: &str) -> Vec<(usize, String)> {
    let mut out = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let mut word = String::new();
        let mut quoted = false;
        let mut flush = |word: &mut String| {
            if !word.is_empty() {
                out.push((at + 1, std::mem::take(word)));
            }
        };
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\\' if quoted && chars.peek() == Some(&'"') => word.extend(chars.next()),
                '"' => quoted = !quoted,
                '#' if !quoted && word.is_empty() => break,
                c if c.is_whitespace() && !quoted => flush(&mut word),
                c => word.push(c),
            }
        }
        flush(&mut word);
    }
    out
}

type Tokens = std::iter::Peekable<std::vec::IntoIter<(usize, String)>>;

/// One directive: words up to the end of the line, and a block if a brace follows.
/// The keys of a server block may span lines.
fn directive(file: &Arc<str>, tokens: &mut Tokens, server: bool) -> Result<Line, CorefileError> {
    let number = tokens.peek().map_or(0, |(n, _)| *n);
    let mut line = Line { file: file.clone(), number, words: Vec::new(), block: Vec::new() };
    while let Some((at, word)) = tokens.peek() {
        if word == "{" {
            tokens.next();
            loop {
                match tokens.peek() {
                    None => return line.error("block is not closed"),
                    Some((_, w)) if w == "}" => {
                        tokens.next();
                        return Ok(line);
                    }
                    Some(_) => line.block.push(directive(file, tokens, false)?),
                }
            }
        }
        if word == "}" {
            if server {
                let (file, message) = (file.clone(), "unexpected '}'".into());
                return Err(CorefileError { file, line: *at, message });
            }
            return Ok(line);
        }
        if !server && *at != number {
            return Ok(line);
        }
        line.words.push(word.clone());
        tokens.next();
    }
    Ok(line)
}

impl Line {
    fn error<T>(&self, message: impl Into<String>) -> Result<T, CorefileError> {
        Err(CorefileError { file: self.file.clone(), line: self.number, message: message.into() })
    }

    fn name(&self) -> &str {
        self.words.first().map(String::as_str).unwrap_or_default()
    }

    fn args(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }

    fn arg<T: std::str::FromStr>(&self, at: usize, what: &str) -> Result<T, CorefileError> {
        match self.args().get(at).and_then(|a| a.parse().ok()) {
            Some(value) => Ok(value),
            None => self.error(format!("{} needs {what}", self.name())),
        }
    }

    /// An address for an HTTP endpoint: `:8080`, `127.0.0.1:8080`, or the default.
    fn listen(&self, default: u16) -> Result<SocketAddr, CorefileError> {
        let Some(text) = self.args().first() else {
            return Ok(SocketAddr::from(([0, 0, 0, 0], default)));
        };
        let text = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.clone() };
        match text.parse() {
            Ok(address) => Ok(address),
            Err(_) => self.error(format!("{}: {text} is no address with a port", self.name())),
        }
    }

    fn duration(&self) -> Result<Duration, CorefileError> {
        self.duration_at(0)
    }

    fn duration_at(&self, at: usize) -> Result<Duration, CorefileError> {
        let text: String = self.arg(at, "a duration such as 5s")?;
        component_base::goduration::parse(&text).or_else(|_| self.error(format!("{text} is no duration")))
    }
}

/// The zones that words name; a network is the zones its addresses are asked for in.
fn zones(line: &Line, words: &[String]) -> Result<Vec<Labels>, CorefileError> {
    let mut out = Vec::new();
    for word in words {
        match Labels::of_zone(word) {
            Some(zones) => out.extend(zones),
            None => return line.error(format!("{word} is no zone")),
        }
    }
    Ok(out)
}

fn server_block(line: &Line) -> Result<Block, CorefileError> {
    let mut block = Block { buffer: UDP_SIZE, ..Block::default() };
    let mut port_given = None;
    for (at, key) in line.words.iter().enumerate() {
        let key = key.trim_end_matches(',');
        let (transport, rest) = match key.split_once("://") {
            None | Some(("dns", _)) => (Transport::Plain, key.trim_start_matches("dns://")),
            Some(("tls", rest)) => (Transport::Tls, rest),
            Some((scheme, _)) => return line.error(format!("{key}: {scheme} is not supported")),
        };
        if at > 0 && block.transport != transport {
            return line.error(format!("{key}: a server block is asked in one way"));
        }
        block.transport = transport;
        // The colons of a network are none before a port.
        let is_network = rest.parse::<ipnet::IpNet>().is_ok();
        let (zone, port) = match rest.rsplit_once(':').filter(|_| !is_network) {
            Some((zone, port)) => match port.parse() {
                Ok(port) => (zone, Some(port)),
                Err(_) => return line.error(format!("{key}: {port} is no port")),
            },
            None => (rest, None),
        };
        port_given = port.or(port_given);
        block.zones.extend(zones(line, &[zone.to_owned()])?);
    }
    block.port = port_given.unwrap_or(block.transport.port());
    if block.zones.is_empty() {
        return line.error("a server block needs a zone, for example '.'");
    }
    for (at, directive) in line.block.iter().enumerate() {
        words::check(directive, &line.block[..at])?;
        apply(&mut block, directive)?;
        if words::has_a_say(directive.name()) && !block.plugins.iter().any(|name| name == directive.name()) {
            block.plugins.push(directive.name().to_owned());
        }
    }
    if block.autopath && !block.kubernetes.as_ref().is_some_and(|k| k.verified) {
        return line.error("autopath needs kubernetes with pods verified");
    }
    match (block.transport, &block.tls) {
        (Transport::Tls, None) => line.error("a block asked over tls needs the directive tls"),
        (Transport::Plain, Some(_)) => line.error("tls is for blocks that are asked over it, as in tls://."),
        _ => Ok(block),
    }
}

fn apply(block: &mut Block, line: &Line) -> Result<(), CorefileError> {
    match line.name() {
        "errors" => block.errors = Some(errors::errors(line)?),
        "acl" => block.acls.push(acl::acl(line, &block.zones)?),
        "nsid" => block.identifier = Some(words::identifier(line)?),
        "log" => block.logs.push(rules::log(line)?),
        "loop" => block.detect_loop = true,
        "reload" => {
            block.reload = true;
            // The file is looked at more often than anybody asks for, and each server at its own time.
            for (at, least) in [(0, 2), (1, 1)].into_iter().take(line.args().len()) {
                let given = line.duration_at(at)?;
                if given < Duration::from_secs(least) && !(at == 1 && given.is_zero()) {
                    return line.error(format!("reload: {} is less than {least}s", line.args()[at]));
                }
            }
        }
        "loadbalance" => {
            block.rotate = match line.args().first().map(String::as_str) {
                None | Some("round_robin") => true,
                Some(other) => {
                    return line.error(format!("loadbalance: {other} is not supported, only round_robin"));
                }
            };
            for option in &line.block {
                if option.name() != "limit_answers" {
                    return option.error(format!("loadbalance: {} is not supported", option.name()));
                }
                let most = option.arg(0, "a number of records above zero").ok().filter(|most| *most > 0);
                let most =
                    most.map_or_else(|| option.error("limit_answers needs a number above zero"), Ok)?;
                block.most_answers = Some(most);
            }
        }
        "rewrite" => block.rewrites.push(rules::rewrite(line)?),
        "template" => block.templates.push(rules::template(line, &block.zones)?),
        "autopath" => match line.args() {
            [.., from] if from == "@kubernetes" => block.autopath = true,
            _ => return line.error("autopath needs @kubernetes"),
        },
        "any" => block.refuse_any = true,
        "local" => block.local = true,
        "whoami" => block.whoami = true,
        "dns64" => block.dns64 = Some(dns64(line)?),
        "view" => view(line, block.view.get_or_insert_default())?,
        "chaos" => block.chaos = Some(words::chaos(line)),
        "minimal" => block.minimal = true,
        // Queries end when nobody waits, and nothing here has data for others: these are always so.
        "cancel" | "metadata" | "debug" => {}
        "bufsize" => {
            block.buffer = if line.args().is_empty() { UDP_SIZE } else { line.arg(0, "a number of bytes")? };
            if !(512..=4096).contains(&block.buffer) {
                return line.error("bufsize must be within 512 and 4096");
            }
        }
        "health" => {
            block.health = Some(line.listen(8080)?);
            for option in &line.block {
                match option.name() {
                    "lameduck" => block.lameduck = option.duration()?,
                    other => return option.error(format!("health: unknown option {other}")),
                }
            }
        }
        "ready" => {
            block.ready = Some(line.listen(8181)?);
            for option in &line.block {
                // What was loaded once stays: ready is ready, however often that is asked.
                match (option.name(), option.args().first().map(String::as_str)) {
                    ("monitor", Some("until-ready" | "continuously")) => {}
                    ("monitor", _) => return option.error("monitor needs until-ready or continuously"),
                    (other, _) => return option.error(format!("ready: unknown option {other}")),
                }
            }
        }
        "prometheus" => {
            block.metrics = Some(if line.args().is_empty() {
                SocketAddr::from(([127, 0, 0, 1], 9153))
            } else {
                line.listen(9153)?
            })
        }
        "bind" => {
            for address in line.args() {
                match address.parse() {
                    Ok(ip) => block.bind.push(ip),
                    Err(_) => return line.error(format!("bind: {address} is no address")),
                }
            }
        }
        "kubernetes" => block.kubernetes = Some(kubernetes::kubernetes(line, &block.zones)?),
        "hosts" => block.hosts = Some(hosts(line, &block.zones)?),
        "forward" => block.forward.push(forward::forward(line)?),
        "tls" => block.tls = Some(tls(line)?),
        "cache" => block.cache = Some(cache::cache(line)?),
        other => return line.error(format!("unknown directive {other}")),
    }
    Ok(())
}

fn hosts(line: &Line, default: &[Labels]) -> Result<HostsDirective, CorefileError> {
    let (file, names) = match line.args() {
        [] => ("/etc/hosts".into(), &[][..]),
        [file, names @ ..] => (PathBuf::from(file), names),
    };
    let zones_of =
        |words: &[String]| Ok(if words.is_empty() { default.to_vec() } else { zones(line, words)? });
    let mut out =
        HostsDirective { file, zones: zones_of(names)?, ttl: 3600, reload: true, ..Default::default() };
    for option in &line.block {
        match option.name() {
            "ttl" => {
                out.ttl = option.arg(0, "seconds")?;
                if !(1..=65_535).contains(&out.ttl) {
                    return option.error("hosts: ttl must be within 1 and 65535");
                }
            }
            "fallthrough" if option.args().is_empty() => out.fallthrough = vec![Labels::parse(".")],
            "fallthrough" => out.fallthrough = zones(option, option.args())?,
            "fallthrough_unsupported" => out.fallthrough_unsupported = true,
            "reload" => out.reload = !option.duration()?.is_zero(),
            "no_reverse" => out.no_reverse = true,
            other => {
                if !out.inline.add_line(&option.words.join(" ")) {
                    return option.error(format!("hosts: {other} is neither an option nor an address"));
                }
            }
        }
    }
    Ok(out)
}

/// `dns64 [PREFIX] { prefix PREFIX, translate_all, allow_ipv4 }`.
fn dns64(line: &Line) -> Result<Dns64, CorefileError> {
    let mut out = Dns64::default();
    if let Some(prefix) = line.args().first() {
        out.set_prefix(prefix).or_else(|why| line.error(format!("dns64: {why}")))?;
    }
    for option in &line.block {
        match (option.name(), option.args()) {
            ("prefix", [prefix]) => {
                out.set_prefix(prefix).or_else(|why| option.error(format!("dns64: {why}")))?;
            }
            ("prefix", _) => return option.error("prefix needs a network"),
            ("translate_all", []) => out.all = true,
            ("allow_ipv4", []) => out.for_v4 = true,
            (other, _) => return option.error(format!("dns64: unknown option {other}")),
        }
    }
    Ok(out)
}

/// `view NAME { expr EXPRESSION }`; a block may have several, all of which count.
fn view(line: &Line, view: &mut View) -> Result<(), CorefileError> {
    let [name] = line.args() else { return line.error("view needs a name") };
    view.name.clone_from(name);
    for option in &line.block {
        if option.name() != "expr" {
            return option.error(format!("view: unknown option {}", option.name()));
        }
        let condition = Condition::parse(&option.args().join(" "));
        view.conditions.push(condition.or_else(|why| option.error(format!("expr: {why}")))?);
    }
    Ok(())
}

/// `tls CERT KEY [CA] { client_auth HOW }`.
fn tls(line: &Line) -> Result<Tls, CorefileError> {
    let [certificate, key, rest @ ..] = line.args() else {
        return line.error("tls needs a certificate and its key");
    };
    let (certificate, key) = (certificate.into(), key.into());
    let mut out = Tls { certificate, key, authorities: None, client_auth: ClientAuth::None };
    match rest {
        [] => {}
        [ca] => out.authorities = Some(ca.into()),
        _ => return line.error("tls takes a certificate, its key and an authority"),
    }
    for option in &line.block {
        let how = option.args().first().map(String::as_str);
        out.client_auth = match (option.name(), how) {
            ("client_auth", Some("nocert")) => ClientAuth::None,
            ("client_auth", Some("request")) => ClientAuth::Request,
            ("client_auth", Some("verify_if_given")) => ClientAuth::VerifyIfGiven,
            ("client_auth", Some("require_and_verify")) => ClientAuth::RequireAndVerify,
            ("client_auth", _) => {
                return option
                    .error("client_auth needs nocert, request, verify_if_given or require_and_verify");
            }
            (other, _) => return option.error(format!("tls: unknown option {other}")),
        };
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: &str = "
.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30
    loop
    reload
    loadbalance
}
corp.example:53 {
    forward . 10.0.0.53 10.0.0.54:5353 { # stub domain
        policy sequential
    }
}
";

    #[test]
    fn the_usual_corefile_reads_as_meant() {
        let blocks = parse(USUAL).unwrap();
        assert_eq!(blocks.len(), 2);
        let main = &blocks[0];
        let kubernetes = main.kubernetes.as_ref().unwrap();
        assert_eq!((kubernetes.zones.len(), kubernetes.ttl, kubernetes.pods), (3, 30, true));
        assert_eq!(kubernetes.fallthrough.len(), 2);
        assert_eq!(main.health, Some("0.0.0.0:8080".parse().unwrap()));
        assert_eq!(main.lameduck, Duration::from_secs(5));
        assert_eq!(main.metrics, Some("0.0.0.0:9153".parse().unwrap()));
        assert_eq!(main.forward[0].to, [Upstream::File("/etc/resolv.conf".into())]);
        assert_eq!(main.cache.as_ref().unwrap().limits.max_ttl, 30);
        assert!(main.detect_loop && main.rotate && main.errors.is_some() && main.zones[0].is_empty());
        let stub = &blocks[1];
        assert_eq!(stub.zones, [Labels::parse("corp.example")]);
        assert_eq!(stub.forward[0].to[1], Upstream::Server("10.0.0.54:5353".parse().unwrap()));
        assert_eq!(stub.forward[0].policy, Policy::Sequential);
    }

    #[test]
    fn blocks_are_asked_over_tls_where_they_say_so() {
        let text = "tls://. tls://corp.example {\n tls cert key ca {\n client_auth require_and_verify\n }\n}\n\
            tls://.:8853 {\n tls cert key\n}";
        let blocks = parse(text).unwrap();
        assert_eq!((blocks[0].transport, blocks[0].port, blocks[0].zones.len()), (Transport::Tls, 853, 2));
        let tls = blocks[0].tls.as_ref().unwrap();
        assert_eq!((&tls.certificate, &tls.authorities), (&"cert".into(), &Some("ca".into())));
        assert_eq!(tls.client_auth, ClientAuth::RequireAndVerify);
        assert_eq!((blocks[1].port, blocks[1].tls.as_ref().unwrap().client_auth), (8853, ClientAuth::None));
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let cases = [
            ("", "Corefile:1: no server block"),
            (".:53 {\n  errors\n", "Corefile:1: block is not closed"),
            (".:53 {\n  erorrs\n}", "Corefile:2: unknown directive erorrs"),
            (".:x {\n}", "Corefile:1: .:x: x is no port"),
            (
                ". {\n kubernetes {\n  pods maybe\n }\n}",
                "Corefile:3: pods needs disabled, insecure or verified",
            ),
            (
                ". {\n autopath @kubernetes\n kubernetes\n}",
                "Corefile:1: autopath needs kubernetes with pods verified",
            ),
            (". {\n autopath /etc/resolv.conf\n}", "Corefile:2: autopath needs @kubernetes"),
            (". {\n forward .\n}", "Corefile:2: forward needs a zone and at least one server"),
            (". {\n forward . nowhere\n}", "Corefile:2: forward: nowhere is no server"),
            (
                ". {\n errors {\n  consolidate 5m\n }\n}",
                "Corefile:3: consolidate needs a duration and a regular expression",
            ),
            (". {\n bufsize 9\n}", "Corefile:2: bufsize must be within 512 and 4096"),
            (
                ". {\n dns64 64:ff9b::/97\n}",
                "Corefile:2: dns64: 64:ff9b::/97 is not 32, 40, 48, 56, 64, 72, 80, 88 or 96 bits long",
            ),
            (
                ". {\n dns64 {\n  prefix 10.0.0.0/8\n }\n}",
                "Corefile:3: dns64: 10.0.0.0/8 is no prefix of IPv6",
            ),
            (". {\n dns64 {\n  upstream\n }\n}", "Corefile:3: dns64: unknown option upstream"),
            (". {\n view\n}", "Corefile:2: view needs a name"),
            (". {\n view a {\n  expr name()\n }\n}", "Corefile:3: expr: name() is no condition"),
            (". {\n reload soon\n}", "Corefile:2: soon is no duration"),
            (
                ". {\n ready {\n  monitor never\n }\n}",
                "Corefile:3: monitor needs until-ready or continuously",
            ),
            (". {\n log . {\n  class some\n }\n}", "Corefile:3: log: class some is not known"),
            (". {\n log . \"{who}\"\n}", "Corefile:2: log: {who} is not known here"),
            (
                ". {\n hosts {\n  bogus x\n }\n}",
                "Corefile:3: hosts: bogus is neither an option nor an address",
            ),
            ("}", "Corefile:1: unexpected '}'"),
            ("https://. {\n}", "Corefile:1: https://.: https is not supported"),
            ("tls://. a.example {\n}", "Corefile:1: a.example: a server block is asked in one way"),
            ("tls://. {\n}", "Corefile:1: a block asked over tls needs the directive tls"),
            (". {\n tls a b\n}", "Corefile:1: tls is for blocks that are asked over it, as in tls://."),
            ("tls://. {\n tls a\n}", "Corefile:2: tls needs a certificate and its key"),
            (
                "tls://. {\n tls a b {\n  client_auth maybe\n }\n}",
                "Corefile:3: client_auth needs nocert, request, verify_if_given or require_and_verify",
            ),
        ];
        for (text, want) in cases {
            assert_eq!(parse(text).unwrap_err().to_string(), want, "{text}");
        }
    }

    #[test]
    fn snippets_files_and_variables_are_filled_in() {
        let file = |name: &str, text: &str| File { name: name.into(), text: text.to_owned() };
        let variable = |name: &str| (name == "TTL").then(|| "77".to_owned());
        let files = |pattern: &str| match pattern {
            "extra/*.server" => Ok(vec![file(pattern, "corp {\n import common\n}")]),
            "deep" => Ok(vec![file(pattern, "import deep")]),
            "wrong" => Ok(vec![file("/etc/wrong", "errors\n oops")]),
            _ => Err(std::io::Error::from(std::io::ErrorKind::NotFound)),
        };
        let sources = Sources { variable: &variable, files: &files };
        let text = "(common) {\n cache {$TTL}\n errors\n}\n. {\n import common\n}\nimport extra/*.server\n";
        let blocks = parse_with(text, &sources).unwrap();
        assert_eq!(blocks.len(), 2);
        assert!(blocks.iter().all(|b| b.errors.is_some() && b.cache.as_ref().unwrap().limits.max_ttl == 77));
        let error = |text: &str| parse_with(text, &sources).unwrap_err().to_string();
        assert_eq!(error(". {\n import deep\n}"), "deep:1: import deep: imports lead too deep");
        assert_eq!(error(". {\n import wrong\n}"), "/etc/wrong:2: unknown directive oops");
        assert!(error(". {\n import none\n}").starts_with("Corefile:2: import none: "));
    }

    #[test]
    fn files_are_found_by_a_pattern() {
        let dir = std::env::temp_dir().join(format!("corefile-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        for name in ["b.server", "a.server", "c.other"] {
            std::fs::write(dir.join(name), name).unwrap();
        }
        let texts = |pattern: &str| -> Vec<String> {
            files_of(&dir, pattern).unwrap().into_iter().map(|file| file.text).collect()
        };
        assert_eq!(texts("*.server"), ["a.server", "b.server"]);
        assert_eq!(texts("c.other"), ["c.other"]);
        assert!(files_of(&dir, "none").is_err());
        assert_eq!(texts("none/*.server"), [""; 0]);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_cache_is_told_what_not_to_keep() {
        let text = ". {\n cache 30 {\n disable success cluster.local\n disable denial\n serve_stale 1h immediate\n servfail 10s\n keepttl\n prefetch 10 1m 20%\n }\n}";
        let cache = parse(text).unwrap().remove(0).cache.unwrap();
        assert_eq!(cache.no_success, [Labels::parse("cluster.local")]);
        assert_eq!(cache.no_denial, [Labels::parse(".")]);
        assert_eq!((cache.limits.stale, cache.limits.failure_ttl), (Duration::from_secs(3600), 10));
        assert!(cache.limits.keep_ttl && cache.limits.stale_at_once && cache.zones.is_empty());
        let prefetch = crate::cache::Prefetch { amount: 10, within: Duration::from_secs(60), percentage: 20 };
        assert_eq!(cache.limits.prefetch, Some(prefetch));
        for bad in ["prefetch", "prefetch x", "prefetch 1 soon", "prefetch 1 1m 99%", "serve_stale 1h later"]
        {
            assert!(parse(&format!(". {{\n cache {{\n {bad}\n }}\n}}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn inline_hosts_are_read() {
        let text = ". {\n hosts {\n  10.0.0.1 a.example\n  ttl 60\n  fallthrough\n }\n}\n\
            b.example {\n hosts /etc/hosts {\n  reload 0s\n  no_reverse\n }\n}";
        let blocks = parse(text).unwrap();
        let hosts = blocks[0].hosts.as_ref().unwrap();
        assert!(!hosts.fallthrough.is_empty() && hosts.ttl == 60 && hosts.reload && !hosts.no_reverse);
        let other = blocks[1].hosts.as_ref().unwrap();
        assert!(!other.reload && other.no_reverse && other.file.ends_with("hosts"));
        assert_eq!(
            (hosts.zones.clone(), other.zones.clone()),
            (blocks[0].zones.clone(), blocks[1].zones.clone())
        );
        assert!(hosts.inline.addresses(&Labels::parse("a.example")).is_some());
    }
}
