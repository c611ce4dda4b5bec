//! The `forward` directive.
//!
//! Contract: CoreDNS' `forward`. What it has for protocols other than DNS over UDP, TCP and TLS is refused.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use rustls_pki_types::ServerName;

use super::{CorefileError, Line, rules, zones};
use crate::zone::Labels;

/// Most servers a directive may name, as CoreDNS has it.
const MAX_SERVERS: usize = 15;
/// Ports of servers that are named without one.
const PORT: u16 = 53;
const TLS_PORT: u16 = 853;

/// In which order upstreams are asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Any.
    #[default]
    Random,
    /// One after the other.
    RoundRobin,
    /// Always the first that works.
    Sequential,
}

/// `forward FROM TO… { … }`.
#[derive(Clone, Debug)]
pub struct Forward {
    /// Names below this are forwarded.
    pub from: Labels,
    /// Upstream servers, files of resolv.conf form resolved when the server starts.
    pub to: Vec<Upstream>,
    /// Order.
    pub policy: Policy,
    /// Most queries under way at once; 0 for the default.
    pub max_concurrent: usize,
    /// Use TCP although the client did not.
    pub force_tcp: bool,
    /// Use UDP although the client did not.
    pub prefer_udp: bool,
    /// Names below these are not forwarded.
    pub except: Vec<Labels>,
    /// Failed checks after which a server counts as down; 0 is never.
    pub max_fails: u32,
    /// How a server that failed is looked after.
    pub check: Check,
    /// How long a connection is kept for the next query.
    pub expire: Duration,
    /// Connections kept per server.
    pub max_idle: usize,
    /// `tls`: our certificate and whom to believe, for servers asked over TLS.
    pub tls: Identity,
    /// `tls_servername`: the name that certificates of servers must bear; their addresses when absent.
    pub server_name: Option<ServerName<'static>>,
    /// `failover`: with these answers the next server is asked.
    pub failover: Vec<ResponseCode>,
    /// `next`: with these answers the next `forward` is followed, if there is one.
    pub next: Vec<ResponseCode>,
    /// `next_on_nodata`: with answers without records as well.
    pub next_on_nodata: bool,
    /// `read_timeout`: how long one server may take.
    pub read_timeout: Duration,
    /// `max_connect_attempts`: most servers asked for one query; `None` is any number.
    pub max_attempts: Option<usize>,
    /// `source_address`: where is asked from.
    pub source: Option<IpAddr>,
    /// Nobody is asked when all servers are down; one of them is otherwise.
    pub fail_fast: bool,
}

/// Files of one side of a TLS connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Certificate and key.
    pub pair: Option<(PathBuf, PathBuf)>,
    /// Authorities of the other side; those of the system when absent.
    pub authorities: Option<PathBuf>,
}

/// How a server that failed is asked whether it is back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// How often.
    pub every: Duration,
    /// Whether recursion is asked for.
    pub recursion: bool,
    /// For which name.
    pub name: Name,
}

/// Where to forward to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// A server.
    Server(SocketAddr),
    /// A server asked over TLS, and the name its certificate must bear if it was given one of its own.
    Tls(SocketAddr, Option<ServerName<'static>>),
    /// A file of resolv.conf form.
    File(PathBuf),
}

impl Default for Check {
    fn default() -> Self {
        Self { every: Duration::from_millis(500), recursion: true, name: Name::root() }
    }
}

impl Forward {
    /// With CoreDNS' defaults.
    pub fn new(from: Labels, to: Vec<Upstream>) -> Self {
        Self {
            from,
            to,
            policy: Policy::default(),
            max_concurrent: 0,
            force_tcp: false,
            prefer_udp: false,
            except: Vec::new(),
            max_fails: 2,
            check: Check::default(),
            expire: Duration::from_secs(10),
            max_idle: 64,
            tls: Identity::default(),
            server_name: None,
            failover: Vec::new(),
            next: Vec::new(),
            next_on_nodata: false,
            read_timeout: Duration::from_secs(2),
            max_attempts: None,
            source: None,
            fail_fast: false,
        }
    }
}

pub(super) fn forward(line: &Line) -> Result<Forward, CorefileError> {
    let from: String = line.arg(0, "a zone and at least one server")?;
    let mut to = Vec::new();
    for word in &line.args()[1..] {
        to.push(upstream(word).map_or_else(|| line.error(format!("forward: {word} is no server")), Ok)?);
    }
    if to.is_empty() {
        return line.error("forward needs a zone and at least one server");
    }
    if to.len() > MAX_SERVERS {
        return line.error(format!("forward: {} servers are more than {MAX_SERVERS}", to.len()));
    }
    // As in CoreDNS, of several zones of a network the first counts.
    let from = zones(line, &[from])?.into_iter().next().unwrap_or_else(|| Labels::parse("."));
    let mut out = Forward::new(from, to);
    for option in &line.block {
        apply(&mut out, option)?;
    }
    Ok(out)
}

fn apply(out: &mut Forward, option: &Line) -> Result<(), CorefileError> {
    match option.name() {
        "policy" => {
            out.policy = match option.args().first().map(String::as_str) {
                Some("random") => Policy::Random,
                Some("round_robin") => Policy::RoundRobin,
                Some("sequential") => Policy::Sequential,
                _ => return option.error("policy needs random, round_robin or sequential"),
            }
        }
        "max_concurrent" => out.max_concurrent = option.arg(0, "a number")?,
        "max_fails" => out.max_fails = option.arg(0, "a number")?,
        "max_idle_conns" => {
            // None is as many as may be under way, of which there is a bound.
            let most: usize = option.arg(0, "a number")?;
            out.max_idle = if most == 0 { usize::MAX } else { most };
        }
        "expire" => out.expire = option.duration()?,
        "health_check" => out.check = check(option)?,
        "force_tcp" => out.force_tcp = true,
        "prefer_udp" => out.prefer_udp = true,
        "failfast_all_unhealthy_upstreams" => out.fail_fast = true,
        "next" => out.next.extend(codes(option)?),
        "failover" => {
            let codes = codes(option)?;
            if codes.contains(&ResponseCode::NoError) {
                return option.error("failover cannot be with NOERROR");
            }
            out.failover.extend(codes);
        }
        "next_on_nodata" => out.next_on_nodata = true,
        "read_timeout" => {
            out.read_timeout = option.duration()?;
            if out.read_timeout.is_zero() {
                return option.error("read_timeout needs a time that passes");
            }
        }
        "max_connect_attempts" => {
            let most: usize = option.arg(0, "a number")?;
            out.max_attempts = (most != 0).then_some(most);
        }
        "source_address" => out.source = Some(option.arg(0, "an address")?),
        name @ ("doh_method" | "resolver") => {
            return option.error(format!("forward: {name} is not supported"));
        }
        "tls" => out.tls = identity(option)?,
        "tls_servername" => {
            let name: String = option.arg(0, "a name")?;
            out.server_name = match ServerName::try_from(name) {
                Ok(name) => Some(name),
                Err(_) => return option.error("tls_servername needs a name"),
            };
        }
        "except" if option.args().is_empty() => return option.error("except needs names"),
        "except" => out.except.extend(zones(option, option.args())?),
        other => return option.error(format!("forward: unknown option {other}")),
    }
    Ok(())
}

fn codes(option: &Line) -> Result<Vec<ResponseCode>, CorefileError> {
    if option.args().is_empty() {
        return option.error(format!("{} needs response codes", option.name()));
    }
    option.args().iter().map(|word| rules::code(option, word)).collect()
}

/// `health_check DURATION [no_rec] [domain NAME]`.
fn check(option: &Line) -> Result<Check, CorefileError> {
    let mut out = Check { every: option.duration()?, ..Check::default() };
    if out.every.is_zero() {
        return option.error("health_check needs a time that passes");
    }
    let mut words = option.args()[1..].iter();
    while let Some(word) = words.next() {
        match (word.as_str(), words.as_slice().first()) {
            ("no_rec", _) => out.recursion = false,
            ("domain", Some(name)) => {
                out.name = match Name::from_ascii(format!("{}.", name.trim_end_matches('.'))) {
                    Ok(name) => name,
                    Err(_) => return option.error(format!("health_check: {name} is no name")),
                };
                words.next();
            }
            _ => return option.error(format!("health_check: unknown option {word}")),
        }
    }
    Ok(out)
}

/// `tls [[CERT KEY] CA]` of `forward`.
fn identity(option: &Line) -> Result<Identity, CorefileError> {
    Ok(match option.args() {
        [] => Identity::default(),
        [ca] => Identity { pair: None, authorities: Some(ca.into()) },
        [certificate, key] => Identity { pair: Some((certificate.into(), key.into())), authorities: None },
        [certificate, key, ca] => {
            Identity { pair: Some((certificate.into(), key.into())), authorities: Some(ca.into()) }
        }
        _ => return option.error("tls takes at most a certificate, its key and an authority"),
    })
}

fn upstream(word: &str) -> Option<Upstream> {
    if let Some(secure) = word.strip_prefix("tls://") {
        // The name stands behind the address: 9.9.9.9%dns.quad9.net, and then the port.
        let Some((address, rest)) = secure.split_once('%') else {
            return Some(Upstream::Tls(address(secure, TLS_PORT)?, None));
        };
        let (name, port) = rest.split_once(':').map_or((rest, None), |(name, port)| (name, Some(port)));
        let port = port.map_or(Some(TLS_PORT), |port| port.parse().ok())?;
        let ip = address.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
        let name = ServerName::try_from(name.to_owned()).ok()?;
        return Some(Upstream::Tls(SocketAddr::new(ip, port), Some(name)));
    }
    let plain = word.strip_prefix("dns://").unwrap_or(word);
    if plain.starts_with('/') {
        return Some(Upstream::File(plain.into()));
    }
    address(plain, PORT).map(Upstream::Server)
}

fn address(text: &str, port: u16) -> Option<SocketAddr> {
    let alone = || text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
    text.parse().ok().or_else(|| Some(SocketAddr::new(alone()?, port)))
}

#[cfg(test)]
mod tests {
    use super::{super::parse, *};

    fn read(options: &str) -> Result<Forward, String> {
        let text = format!(". {{\n forward . 10.0.0.1 {{\n{options}\n }}\n}}");
        parse(&text).map(|mut blocks| blocks.remove(0).forward.remove(0)).map_err(|error| error.to_string())
    }

    #[test]
    fn options_are_read_as_coredns_has_them() {
        let usual = read("").unwrap();
        assert_eq!((usual.max_fails, usual.expire), (2, Duration::from_secs(10)));
        assert_eq!(usual.check, Check::default());
        let all = read(
            "max_fails 0\n expire 20s\n max_idle_conns 7\n prefer_udp\n next NXDOMAIN REFUSED\n \
             failfast_all_unhealthy_upstreams\n health_check 5s no_rec domain probe.example\n \
             tls cert key ca\n tls_servername dns.example\n failover SERVFAIL 5\n next_on_nodata\n \
             read_timeout 4s\n max_connect_attempts 3\n source_address 10.0.0.9",
        )
        .unwrap();
        assert_eq!((all.max_fails, all.expire, all.max_idle), (0, Duration::from_secs(20), 7));
        assert!(all.prefer_udp && all.fail_fast && !all.check.recursion);
        assert_eq!(all.check.name.to_ascii(), "probe.example.");
        assert_eq!(all.next, [ResponseCode::NXDomain, ResponseCode::Refused]);
        assert_eq!(all.failover, [ResponseCode::ServFail, ResponseCode::Refused]);
        assert!(all.next_on_nodata && all.read_timeout == Duration::from_secs(4));
        assert_eq!((all.max_attempts, all.source), (Some(3), Some("10.0.0.9".parse().unwrap())));
        let pair = Some(("cert".into(), "key".into()));
        assert_eq!(all.tls, Identity { pair, authorities: Some("ca".into()) });
        assert_eq!(all.server_name, Some(ServerName::try_from("dns.example").unwrap()));
    }

    #[test]
    fn servers_may_be_named_in_several_ways() {
        let name = |text: &str| Some(ServerName::try_from(text.to_owned()).unwrap());
        for (word, want) in [
            ("10.0.0.1", Upstream::Server("10.0.0.1:53".parse().unwrap())),
            ("dns://10.0.0.1:54", Upstream::Server("10.0.0.1:54".parse().unwrap())),
            ("fd00::1", Upstream::Server("[fd00::1]:53".parse().unwrap())),
            ("[fd00::1]:54", Upstream::Server("[fd00::1]:54".parse().unwrap())),
            ("/etc/resolv.conf", Upstream::File("/etc/resolv.conf".into())),
            ("tls://10.0.0.1", Upstream::Tls("10.0.0.1:853".parse().unwrap(), None)),
            ("tls://[fd00::1]:5353", Upstream::Tls("[fd00::1]:5353".parse().unwrap(), None)),
            ("tls://9.9.9.9%dns.example", Upstream::Tls("9.9.9.9:853".parse().unwrap(), name("dns.example"))),
            ("tls://9.9.9.9%dns.example:1", Upstream::Tls("9.9.9.9:1".parse().unwrap(), name("dns.example"))),
        ] {
            assert_eq!(upstream(word), Some(want), "{word}");
        }
        for bad in ["nowhere", "tls://nowhere", "https://10.0.0.1", "10.0.0.1:x", "tls://9.9.9.9%a:x"] {
            assert_eq!(upstream(bad), None, "{bad}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (option, want) in [
            ("expire soon", "Corefile:3: soon is no duration"),
            ("health_check 0s", "Corefile:3: health_check needs a time that passes"),
            ("health_check 1s often", "Corefile:3: health_check: unknown option often"),
            ("tls a b c d", "Corefile:3: tls takes at most a certificate, its key and an authority"),
            ("tls_servername -", "Corefile:3: tls_servername needs a name"),
            ("next", "Corefile:3: next needs response codes"),
            ("failover NOERROR", "Corefile:3: failover cannot be with NOERROR"),
            ("doh_method GET", "Corefile:3: forward: doh_method is not supported"),
            ("resolver 10.0.0.1", "Corefile:3: forward: resolver is not supported"),
            ("often", "Corefile:3: forward: unknown option often"),
        ] {
            assert_eq!(read(option).unwrap_err(), want, "{option}");
        }
    }
}
