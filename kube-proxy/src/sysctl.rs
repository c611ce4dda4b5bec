//! Kernel settings of connection tracking.
//!
//! Contract: nf_conntrack-sysctl; upstream's `conntracker`: the limit is only raised, timeouts are set.

use std::{fs, io, path::Path, time::Duration};

use component_base::goduration;

use crate::{conntrack, options::KubeProxyConfiguration};

const ROOT: &str = "/proc/sys/net/netfilter";
const LIMIT: &str = "nf_conntrack_max";

/// A setting and its value.
type Setting = (&'static str, u64);

/// The settings a configuration asks for on a machine with so many cores. Pure.
pub fn wanted(config: &KubeProxyConfiguration, cores: usize) -> Vec<Setting> {
    let conntrack = &config.conntrack;
    let mut settings = Vec::new();
    let per_core = u64::from(conntrack.max_per_core.unwrap_or(0));
    if per_core > 0 {
        let max = per_core.saturating_mul(cores as u64).max(u64::from(conntrack.min.unwrap_or(0)));
        settings.push((LIMIT, max));
    }
    for (name, text) in [
        ("nf_conntrack_tcp_timeout_established", &conntrack.tcp_established_timeout),
        ("nf_conntrack_tcp_timeout_close_wait", &conntrack.tcp_close_wait_timeout),
        ("nf_conntrack_udp_timeout", &conntrack.udp_timeout),
        ("nf_conntrack_udp_timeout_stream", &conntrack.udp_stream_timeout),
    ] {
        let seconds = goduration::parse(text).unwrap_or(Duration::ZERO).as_secs();
        if seconds > 0 {
            settings.push((name, seconds));
        }
    }
    if conntrack.tcp_be_liberal {
        settings.push(("nf_conntrack_tcp_be_liberal", 1));
    }
    settings
}

/// Applies settings. The limit can only be raised from the machine's own network namespace, and
/// /proc/sys may be read-only in a container: both are logged, for services work without.
pub fn apply(settings: &[Setting]) {
    // The settings are there once connection tracking is.
    if !settings.is_empty()
        && !Path::new(ROOT).join(LIMIT).exists()
        && let Err(error) = conntrack::load()
    {
        tracing::warn!(%error, "the kernel does not load connection tracking");
    }
    for (name, value) in settings {
        if let Err(error) = set(&Path::new(ROOT).join(name), *value, *name == LIMIT) {
            tracing::warn!(%error, setting = name, value, "conntrack setting not applied");
        }
    }
}

fn set(path: &Path, value: u64, only_raise: bool) -> io::Result<()> {
    let current = fs::read_to_string(path)?.trim().parse::<u64>().ok();
    if current == Some(value) || (only_raise && current.is_some_and(|current| current >= value)) {
        return Ok(());
    }
    fs::write(path, value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_upstreams() {
        let mut config = KubeProxyConfiguration::default();
        let timeouts = [
            ("nf_conntrack_tcp_timeout_established", 86_400),
            ("nf_conntrack_tcp_timeout_close_wait", 3_600),
        ];
        let with = |max| [&[("nf_conntrack_max", max)][..], &timeouts].concat();
        assert_eq!(wanted(&config, 2), with(131_072));
        assert_eq!(wanted(&config, 8), with(262_144));
        config.conntrack.max_per_core = Some(0);
        config.conntrack.tcp_established_timeout = "0".into();
        config.conntrack.tcp_be_liberal = true;
        let want = vec![("nf_conntrack_tcp_timeout_close_wait", 3_600), ("nf_conntrack_tcp_be_liberal", 1)];
        assert_eq!(wanted(&config, 2), want);
    }
}
