//! The resolver configuration of a pod by its DNS policy. Pure.
//!
//! Contract: "DNS for Services and Pods"; limits as upstream: 3 servers, 32 search domains, 2048 characters.

use k8s_openapi::api::core::v1::Pod;

use crate::{pod, runtime::cri};

const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

/// The node's and cluster's settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsSettings {
    /// Addresses of the cluster's DNS.
    pub cluster_dns: Vec<String>,
    /// The cluster's domain, e.g. `cluster.local`.
    pub cluster_domain: String,
    /// The node's own resolver configuration.
    pub host: ResolvConf,
}

/// What a resolv.conf says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The last `search` line.
    pub searches: Vec<String>,
    /// The last `options` line.
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
                conf.searches =
                    words.map(|w| if w == "." { w } else { w.trim_end_matches('.') }.to_owned()).collect();
            }
            Some("options") => conf.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    conf
}

/// The pod's configuration, and what to warn about.
#[must_use]
pub fn config(pod: &Pod, settings: &DnsSettings) -> (cri::DnsConfig, Vec<String>) {
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
        _ if cluster && !settings.cluster_dns.is_empty() => cluster_conf(pod, settings),
        _ => {
            if cluster {
                warnings.push(format!(
                    "kubelet does not have ClusterDNS IP configured and cannot create Pod using \"{policy}\" policy. \
                     Falling back to \"Default\" policy."
                ));
            }
            settings.host.clone()
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

fn cluster_conf(pod: &Pod, settings: &DnsSettings) -> ResolvConf {
    let mut searches = Vec::new();
    let domain = &settings.cluster_domain;
    if !domain.is_empty() {
        searches =
            vec![format!("{}.svc.{domain}", pod::namespace(pod)), format!("svc.{domain}"), domain.clone()];
    }
    append(&mut searches, settings.host.searches.iter().cloned());
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

fn fit(conf: &mut ResolvConf, warnings: &mut Vec<String>) {
    if conf.servers.len() > MAX_SERVERS {
        conf.servers.truncate(MAX_SERVERS);
        let applied = conf.servers.join(" ");
        warnings.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {applied}"
        ));
    }
    let before = conf.searches.len();
    conf.searches.truncate(MAX_SEARCHES);
    while conf.searches.join(" ").len() > MAX_SEARCH_CHARS {
        conf.searches.pop();
    }
    if conf.searches.len() < before {
        let applied = conf.searches.join(" ");
        warnings.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {applied}"
        ));
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
            host: parse("nameserver 192.0.2.53\nsearch example.com\noptions timeout:2\n"),
        }
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
            assert_eq!(config(&pod, &settings()).0.servers, [server], "{policy:?} {host}");
        }
    }

    #[test]
    fn cluster_first_searches_the_namespace_first() {
        let (made, warnings) = config(&testing::pod("a").build(), &settings());
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
        let (made, warnings) = config(&pod, &settings());
        assert_eq!(made.servers, ["10.96.0.10", "1.1.1.1", "1.1.1.2"]);
        assert_eq!(made.options, ["ndots:2", "edns0"]);
        assert_eq!(warnings.len(), 1);
    }
}
