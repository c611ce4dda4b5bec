//! A pod's host name and its `/etc/hosts`. Pure.

use component_base::features::{Gate, Gates};
use k8s_openapi::api::core::v1::Pod;

use crate::pod;

/// Longest name that the kernel keeps of a machine.
const MAX_KERNEL: usize = 64;
/// Longest name of a pod's host.
const MAX_HOST: usize = 63;

/// The kernel does not take the pod's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too long ({max} is the max, {length} \
     characters requested)",
    name = .0, max = MAX_KERNEL, length = .0.len()
)]
pub struct TooLong(String);

/// What names of pods are made by.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    domain: &'a str,
    /// `hostnameOverride` is heeded.
    overrides: bool,
}

impl<'a> Names<'a> {
    /// In a cluster of this domain, with these gates.
    #[must_use]
    pub fn new(domain: &'a str, gates: Gates) -> Self {
        Self { domain, overrides: gates.has(Gate::HostnameOverride) }
    }
}

/// The pod's short host name and its domain (empty without a subdomain).
#[must_use]
pub fn hostname(pod: &Pod, names: Names<'_>) -> (String, String) {
    let (spec, cluster_domain) = (pod::spec(pod), names.domain);
    if let Some(name) = spec.hostname_override.as_deref().filter(|n| !n.is_empty() && names.overrides) {
        return (cut(name), String::new());
    }
    let short = cut(spec.hostname.as_deref().filter(|h| !h.is_empty()).unwrap_or(pod::name(pod)));
    let domain = match spec.subdomain.as_deref().filter(|s| !s.is_empty()) {
        Some(subdomain) => format!("{subdomain}.{}.svc.{cluster_domain}", pod::namespace(pod)),
        None => String::new(),
    };
    (short, domain)
}

/// A name as far as a host may have it.
fn cut(name: &str) -> String {
    if name.len() <= MAX_HOST {
        return name.to_owned();
    }
    let mut short: String = name.chars().take(MAX_HOST).collect();
    short.truncate(short.trim_end_matches(['-', '.']).len());
    short
}

/// What `uname -n` gives in the pod: the full name when the pod asks for it.
///
/// # Errors
/// When the full name is longer than the kernel takes it. In the host's network the kernel has a name already.
pub fn node_name(pod: &Pod, names: Names<'_>) -> Result<String, TooLong> {
    let (short, domain) = hostname(pod, names);
    if pod::spec(pod).set_hostname_as_fqdn != Some(true) || domain.is_empty() {
        return Ok(short);
    }
    let full = format!("{short}.{domain}");
    if full.len() > MAX_KERNEL && !pod::host_network(pod) { Err(TooLong(full)) } else { Ok(full) }
}

/// The content of `/etc/hosts` for a pod with its own network; with the host's network `host_file` is its base.
#[must_use]
pub fn file(pod: &Pod, ips: &[String], names: Names<'_>, host_file: Option<&str>) -> String {
    let mut text = String::from("# Kubernetes-managed hosts file");
    if let Some(host) = host_file {
        text.push_str(" (host network).\n");
        text.push_str(host);
        if !host.ends_with('\n') {
            text.push('\n');
        }
    } else {
        text.push_str(".\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        text.push_str("fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n");
        let (short, domain) = hostname(pod, names);
        for ip in ips {
            if domain.is_empty() {
                text.push_str(&format!("{ip}\t{short}\n"));
            } else {
                text.push_str(&format!("{ip}\t{short}.{domain}\t{short}\n"));
            }
        }
    }
    let aliases = pod::spec(pod).host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
            text.push_str(&format!("{}\t{names}\n", alias.ip));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn subdomain_makes_a_full_name() {
        let pod = testing::pod("a").with(|p| p.spec.as_mut().unwrap().subdomain = Some("db".into())).build();
        let names = Names::new("cluster.local", Gates::default());
        let text = file(&pod, &["10.0.0.1".into()], names, None);
        assert!(text.contains("10.0.0.1\ta.db.ns.svc.cluster.local\ta\n"), "{text}");
        assert_eq!(node_name(&pod, names).as_deref(), Ok("a"));
    }

    #[test]
    fn full_names_are_as_long_as_the_kernel_takes_them() {
        let names = Names::new("cluster.local", Gates::default());
        let of = |length: usize, host_network: bool| {
            let pod = testing::pod(&"a".repeat(length)).with(|pod| {
                let spec = pod.spec.as_mut().unwrap();
                spec.subdomain = Some("d".into());
                spec.set_hostname_as_fqdn = Some(true);
                spec.host_network = Some(host_network);
            });
            node_name(&pod.build(), names).map(|name| name.len()).map_err(|error| error.to_string())
        };
        let rest = ".d.ns.svc.cluster.local".len();
        assert_eq!(of(64 - rest, false), Ok(64));
        let error = of(65 - rest, false).unwrap_err();
        assert!(
            error.starts_with("failed to construct FQDN from pod hostname and cluster domain, FQDN a"),
            "{error}"
        );
        assert!(error.ends_with(".local is too long (64 is the max, 65 characters requested)"), "{error}");
        assert_eq!(of(65 - rest, true), Ok(65));
    }

    #[test]
    fn long_names_are_cut_at_63() {
        let pod = testing::pod(&format!("{}-b", "a".repeat(62))).build();
        assert_eq!(hostname(&pod, Names::new("", Gates::default())).0, "a".repeat(62));
    }

    #[test]
    fn a_name_of_ones_own_needs_its_gate() {
        let pod = testing::pod("a")
            .with(|p| p.spec.as_mut().unwrap().hostname_override = Some("b.c".into()))
            .build();
        let name = |gates| node_name(&pod, Names::new("cluster.local", gates)).unwrap();
        assert_eq!(name(Gates::default()), "b.c");
        assert_eq!(name(Gates::default().with(Gate::HostnameOverride, false)), "a");
    }
}
