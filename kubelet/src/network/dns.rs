//! The resolver configuration of a pod by its DNS policy. Pure.
//!
//! Contract: "DNS for Services and Pods"; limits as upstream: 3 servers, 32 search domains, 2048 characters.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::Pod;

use crate::{pod, runtime::cri};

const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;
/// Longest name of a domain.
const MAX_DOMAIN: usize = 253;
/// What the cluster adds to a pod's search line.
const CLUSTER_SEARCHES: usize = 3;

/// The reason of events on a configuration that had to be cut.
pub const CUT: &str = "DNSConfigForming";
/// The reason of events on pods that are to use the cluster's DNS, which the node does not know.
pub const MISSING: &str = "MissingClusterDNS";

/// The node's and cluster's settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsSettings {
    /// Addresses of the cluster's DNS.
    pub cluster_dns: Vec<String>,
    /// The cluster's domain, e.g. `cluster.local`.
    pub cluster_domain: String,
    /// The file with the node's own resolver configuration; empty for none.
    pub resolver: PathBuf,
    /// The node's addresses.
    pub ips: Vec<String>,
}

impl DnsSettings {
    /// The node's own resolver configuration as it is now. A node without the file resolves nothing of its own.
    #[must_use]
    pub fn host(&self) -> ResolvConf {
        parse(&std::fs::read_to_string(&self.resolver).unwrap_or_default())
    }
}

/// What a resolv.conf says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The last `search` line.
    pub searches: Vec<String>,
    /// The `options` of all lines, the last ones of each name.
    pub options: Vec<String>,
}

/// Reads a resolv.conf; lines it does not know are skipped.
#[must_use]
pub fn parse(text: &str) -> ResolvConf {
    let mut conf = ResolvConf::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => conf.servers.extend(words.next().map(str::to_owned)),
            Some("search") => {
                let names = words.filter(|word| *word != ".");
                conf.searches = names.map(|name| name.strip_suffix('.').unwrap_or(name).to_owned()).collect();
            }
            Some("options") => {
                for option in words {
                    let name = |option: &str| option.split(':').next().map(str::to_owned);
                    conf.options.retain(|other| name(other) != name(option));
                    conf.options.push(option.to_owned());
                }
            }
            _ => {}
        }
    }
    conf
}

/// The pod's configuration, and what to warn about: reasons and texts of events. `host` is the node's own.
#[must_use]
pub fn config(
    pod: &Pod,
    settings: &DnsSettings,
    host: &ResolvConf,
) -> (cri::DnsConfig, Vec<(&'static str, String)>) {
    let spec = pod::spec(pod);
    let mut warnings = Vec::new();
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !pod::host_network(pod),
        _ => false,
    };
    let mut conf = match policy {
        "None" => ResolvConf::default(),
        _ if cluster && !settings.cluster_dns.is_empty() => cluster_conf(pod, settings, host),
        _ => {
            if cluster {
                let text = "kubelet does not have ClusterDNS IP configured and cannot create Pod using \
                            \"ClusterFirst\" policy. Falling back to \"Default\" policy.";
                warnings.push((MISSING, text.to_owned()));
            }
            if settings.resolver.as_os_str().is_empty() { own_conf(&settings.ips) } else { host.clone() }
        }
    };
    if let Some(own) = &spec.dns_config {
        append(&mut conf.servers, own.nameservers.iter().flatten().cloned());
        append(&mut conf.searches, own.searches.iter().flatten().cloned());
        merge_options(&mut conf.options, own);
    }
    fit(&mut conf, &mut warnings);
    let made = cri::DnsConfig { servers: conf.servers, searches: conf.searches, options: conf.options };
    (made, warnings)
}

/// A resolver on the node itself is asked, where the node has no configuration.
fn own_conf(ips: &[String]) -> ResolvConf {
    let mut servers: Vec<String> =
        ips.iter().map(|ip| if ip.contains(':') { "::1" } else { "127.0.0.1" }.to_owned()).collect();
    if servers.is_empty() {
        servers.push("127.0.0.1".to_owned());
    }
    ResolvConf { servers, searches: vec![".".to_owned()], options: vec![] }
}

fn cluster_conf(pod: &Pod, settings: &DnsSettings, host: &ResolvConf) -> ResolvConf {
    let mut searches = Vec::new();
    let domain = &settings.cluster_domain;
    if !domain.is_empty() {
        searches =
            vec![format!("{}.svc.{domain}", pod::namespace(pod)), format!("svc.{domain}"), domain.clone()];
    }
    append(&mut searches, host.searches.iter().cloned());
    ResolvConf { servers: settings.cluster_dns.clone(), searches, options: vec!["ndots:5".to_owned()] }
}

fn append(list: &mut Vec<String>, more: impl Iterator<Item = String>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

fn merge_options(options: &mut Vec<String>, own: &k8s_openapi::api::core::v1::PodDNSConfig) {
    for option in own.options.iter().flatten() {
        let Some(name) = &option.name else { continue };
        options.retain(|o| o.split(':').next() != Some(name));
        options.push(match option.value.as_deref() {
            Some(value) if !value.is_empty() => format!("{name}:{value}"),
            _ => name.clone(),
        });
    }
}

fn fit(conf: &mut ResolvConf, warnings: &mut Vec<(&'static str, String)>) {
    if conf.servers.len() > MAX_SERVERS {
        conf.servers.truncate(MAX_SERVERS);
        let applied = conf.servers.join(" ");
        let text = format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {applied}"
        );
        warnings.push((CUT, text));
    }
    let before = conf.searches.len();
    conf.searches.truncate(MAX_SEARCHES);
    conf.searches.retain(|name| name.len() <= MAX_DOMAIN);
    while conf.searches.join(" ").len() > MAX_SEARCH_CHARS {
        conf.searches.pop();
    }
    if conf.searches.len() < before {
        let applied = conf.searches.join(" ");
        let text = format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {applied}"
        );
        warnings.push((CUT, text));
    }
}

/// What is too much in the node's own configuration, so that pods will not get all of it.
#[must_use]
pub fn excess(settings: &DnsSettings, host: &ResolvConf) -> Option<String> {
    let (file, searches) = (settings.resolver.display().to_string(), &host.searches);
    let taken = if settings.cluster_domain.is_empty() { 0 } else { CLUSTER_SEARCHES };
    let most = MAX_SEARCHES - taken;
    if searches.len() > most {
        Some(format!(
            "Resolv.conf file '{file}' contains search line consisting of more than {most} domains!"
        ))
    } else if searches.iter().any(|name| name.len() > MAX_DOMAIN) {
        Some(format!(
            "Resolv.conf file {file:?} contains a search path which length is more than allowed {MAX_DOMAIN} chars!"
        ))
    } else if searches.join(" ").len() > MAX_SEARCH_CHARS {
        Some(format!(
            "Resolv.conf file '{file}' contains search line which length is more than allowed {MAX_SEARCH_CHARS} chars!"
        ))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn settings() -> DnsSettings {
        DnsSettings {
            cluster_dns: vec!["10.96.0.10".into()],
            cluster_domain: "cluster.local".into(),
            resolver: "/node/resolv.conf".into(),
            ips: vec!["192.0.2.1".into(), "2001:db8::1".into()],
        }
    }

    fn node() -> ResolvConf {
        parse("nameserver 192.0.2.53\nsearch example.com\noptions timeout:2\n")
    }

    #[test]
    fn lines_of_a_resolvers_file() {
        let text = " nameserver\t192.0.2.1 #one\n# nameserver 192.0.2.9\nnameserver 192.0.2.2\nsearch gone\n\
                    search a. . b\noptions ndots:1 edns0\noptions ndots:5 timeout:2\nother x\n";
        let conf = parse(text);
        assert_eq!(conf.servers, ["192.0.2.1", "192.0.2.2"]);
        assert_eq!(conf.searches, ["a", "b"]);
        assert_eq!(conf.options, ["edns0", "ndots:5", "timeout:2"]);
    }

    #[test]
    fn what_cannot_be_had_is_told() {
        let long = |parts: usize| vec!["x".repeat(60); parts].join(".");
        let with = |searches: Vec<String>| ResolvConf { searches, ..node() };
        let many = |count: usize| (0..count).map(|i| format!("d{i}")).collect::<Vec<_>>();
        let lines = |count: usize| (0..count).map(|i| format!("{i}{}", long(4))).collect::<Vec<_>>();
        let applied = |conf: ResolvConf| {
            let (made, warnings) = config(&testing::pod("a").build(), &settings(), &conf);
            (made.searches.len(), warnings.into_iter().map(|(reason, _)| reason).collect::<Vec<_>>())
        };
        for (searches, text, count) in [
            (many(29), None, 32),
            (many(30), Some("consisting of more than 29 domains!"), 32),
            (
                vec![long(5), "a".into()],
                Some("a search path which length is more than allowed 253 chars!"),
                4,
            ),
            (lines(9), Some("search line which length is more than allowed 2048 chars!"), 11),
        ] {
            let conf = with(searches);
            let told = excess(&settings(), &conf);
            assert_eq!(told.is_some(), text.is_some());
            assert!(told.unwrap_or_default().contains(text.unwrap_or_default()), "{text:?}");
            let cut = if text.is_some() { vec![CUT] } else { vec![] };
            assert_eq!(applied(conf), (count, cut), "{text:?}");
        }
    }

    #[test]
    fn a_node_without_a_file_asks_itself() {
        let none = DnsSettings { cluster_dns: vec![], resolver: PathBuf::new(), ..settings() };
        let (made, warnings) = config(&testing::pod("a").build(), &none, &ResolvConf::default());
        assert_eq!(
            (made.servers, made.searches),
            (vec!["127.0.0.1".into(), "::1".into()], vec![".".to_owned()])
        );
        assert_eq!(warnings.iter().map(|(reason, _)| *reason).collect::<Vec<_>>(), [MISSING]);
        assert_eq!(own_conf(&[]).servers, ["127.0.0.1"]);
    }

    #[test]
    fn policies() {
        let cases = [
            (None, false, "10.96.0.10"),
            (Some("ClusterFirst"), true, "192.0.2.53"),
            (Some("ClusterFirstWithHostNet"), true, "10.96.0.10"),
            (Some("Default"), false, "192.0.2.53"),
        ];
        for (policy, host, server) in cases {
            let pod = testing::pod("a")
                .with(|p| {
                    let spec = p.spec.as_mut().unwrap();
                    spec.dns_policy = policy.map(str::to_owned);
                    spec.host_network = Some(host);
                })
                .build();
            assert_eq!(config(&pod, &settings(), &node()).0.servers, [server], "{policy:?} {host}");
        }
    }

    #[test]
    fn cluster_first_searches_the_namespace_first() {
        let (made, warnings) = config(&testing::pod("a").build(), &settings(), &node());
        assert_eq!(
            made.searches,
            ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.com"]
        );
        assert_eq!(made.options, ["ndots:5"]);
        assert!(warnings.is_empty());
    }

    #[test]
    fn own_config_is_added_and_limits_hold() {
        let pod = testing::pod("a")
            .with(|p| {
                let spec = p.spec.as_mut().unwrap();
                spec.dns_config = serde_json::from_value(serde_json::json!({
                    "nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3"],
                    "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]
                }))
                .unwrap();
            })
            .build();
        let (made, warnings) = config(&pod, &settings(), &node());
        assert_eq!(made.servers, ["10.96.0.10", "1.1.1.1", "1.1.1.2"]);
        assert_eq!(made.options, ["ndots:2", "edns0"]);
        assert_eq!(warnings.len(), 1);
    }
}
