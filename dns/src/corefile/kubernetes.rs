//! The `kubernetes` directive.
//!
//! Contract: CoreDNS' `kubernetes`. What it has for several clusters (`multicluster`) and for names of one topology zone
//! (`zonal`) is refused.

use std::path::PathBuf;

use component_base::selector::LabelSelector;

use super::{CorefileError, Line, zones};
use crate::zone::Labels;

/// `kubernetes ZONES { … }`.
#[derive(Clone, Debug)]
pub struct Kubernetes {
    /// Zones, reverse ones included.
    pub zones: Vec<Labels>,
    /// `pods disabled|insecure|verified`: whether names of pods' addresses are answered.
    pub pods: bool,
    /// `pods verified`: only for addresses that pods have.
    pub verified: bool,
    /// `ttl`, in seconds.
    pub ttl: u32,
    /// `fallthrough`: zones in which a name not found goes on to the next directive.
    pub fallthrough: Vec<Labels>,
    /// `namespaces`: only these are answered for; empty is all.
    pub namespaces: Vec<String>,
    /// `ignore empty_service`: services without endpoints do not exist.
    pub ignore_empty: bool,
    /// `endpoint_pod_names`: endpoints without a hostname are named after their pods.
    pub pod_names: bool,
    /// What is read of the cluster, and how it is reached.
    pub reach: Reach,
}

/// What is read of a cluster, and how it is reached. Server blocks share one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reach {
    /// `kubeconfig FILE [CONTEXT]`.
    pub kubeconfig: Option<(PathBuf, Option<String>)>,
    /// `endpoint`: the API server's URL.
    pub endpoint: Option<String>,
    /// `tls CERT KEY CA`, for `endpoint`.
    pub tls: Option<[PathBuf; 3]>,
    /// `apiserver_qps`: requests per second.
    pub qps: f32,
    /// `apiserver_burst`: requests at once.
    pub burst: u32,
    /// `labels`: only such services, slices and pods.
    pub labels: Option<String>,
    /// `namespace_labels`: only such namespaces, and what is in them.
    pub namespace_labels: Option<String>,
    /// `noendpoints`: endpoints are not read, and nothing that needs them exists.
    pub no_endpoints: bool,
}

pub(super) fn kubernetes(line: &Line, default: &[Labels]) -> Result<Kubernetes, CorefileError> {
    let zones_given = zones(line, line.args())?;
    let zones_served = if zones_given.is_empty() { default.to_vec() } else { zones_given };
    let mut out = Kubernetes {
        zones: zones_served,
        pods: false,
        verified: false,
        ttl: 5,
        fallthrough: Vec::new(),
        namespaces: Vec::new(),
        ignore_empty: false,
        pod_names: false,
        reach: Reach::default(),
    };
    for option in &line.block {
        apply(&mut out, option)?;
    }
    if !out.namespaces.is_empty() && out.reach.namespace_labels.is_some() {
        return line.error("kubernetes: namespaces and namespace_labels cannot both be set");
    }
    Ok(out)
}

fn apply(out: &mut Kubernetes, option: &Line) -> Result<(), CorefileError> {
    match option.name() {
        "pods" => {
            (out.pods, out.verified) = match option.args() {
                [mode] if mode == "disabled" => (false, false),
                [mode] if mode == "insecure" => (true, false),
                [mode] if mode == "verified" => (true, true),
                _ => return option.error("pods needs disabled, insecure or verified"),
            }
        }
        "ttl" => {
            out.ttl = option.arg(0, "seconds")?;
            if out.ttl > 3600 {
                return option.error("ttl must be in range [0, 3600]");
            }
        }
        "namespaces" if option.args().is_empty() => return option.error("namespaces needs names"),
        "namespaces" => out.namespaces.extend(option.args().iter().map(|n| n.to_ascii_lowercase())),
        "ignore" => match option.args() {
            [what] if what == "empty_service" => out.ignore_empty = true,
            _ => return option.error("ignore needs empty_service"),
        },
        "endpoint_pod_names" => out.pod_names = true,
        "fallthrough" => {
            let given = zones(option, option.args())?;
            out.fallthrough = if given.is_empty() { out.zones.clone() } else { given };
        }
        // Nobody waits: until the names are loaded they fail, as they do there when the time is over.
        "startup_timeout" => drop(option.duration()?),
        _ => reach(&mut out.reach, option)?,
    }
    Ok(())
}

fn reach(out: &mut Reach, option: &Line) -> Result<(), CorefileError> {
    match option.name() {
        "kubeconfig" => {
            out.kubeconfig = match option.args() {
                [file] => Some((file.into(), None)),
                [file, context] => Some((file.into(), Some(context.clone()))),
                _ => return option.error("kubeconfig needs a file and at most a context"),
            }
        }
        "endpoint" => match option.args() {
            [url] => out.endpoint = Some(url.clone()),
            _ => return option.error("endpoint needs one URL"),
        },
        "tls" => match option.args() {
            [certificate, key, authority] => {
                out.tls = Some([certificate.into(), key.into(), authority.into()]);
            }
            _ => return option.error("tls needs a certificate, its key and an authority"),
        },
        "apiserver_qps" => {
            out.qps = option.arg(0, "requests per second")?;
            if !out.qps.is_finite() || out.qps <= 0.0 {
                return option.error("apiserver_qps must be positive");
            }
        }
        "apiserver_burst" => {
            out.burst = option.arg(0, "a number of requests")?;
            if out.burst == 0 {
                return option.error("apiserver_burst must be positive");
            }
        }
        "labels" => out.labels = Some(selector(option)?),
        "namespace_labels" => out.namespace_labels = Some(selector(option)?),
        "noendpoints" if option.args().is_empty() => out.no_endpoints = true,
        name @ ("multicluster" | "zonal" | "apiserver_max_inflight") => {
            return option.error(format!("kubernetes: {name} is not supported"));
        }
        other => return option.error(format!("kubernetes: unknown option {other}")),
    }
    Ok(())
}

/// A label selector, whose words may stand apart.
fn selector(option: &Line) -> Result<String, CorefileError> {
    let text = option.args().join(" ");
    if text.is_empty() {
        return option.error(format!("{} needs a selector", option.name()));
    }
    match text.parse::<LabelSelector>() {
        Ok(_) => Ok(text),
        Err(error) => option.error(format!("{}: {error}", option.name())),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::parse, *};

    fn read(options: &str) -> Result<Kubernetes, String> {
        let text = format!(". {{\nkubernetes cluster.local {{\n{options}\n}}\n}}");
        parse(&text).map(|mut blocks| blocks.remove(0).kubernetes.unwrap()).map_err(|error| error.message)
    }

    #[test]
    fn options_are_read_as_coredns_has_them() {
        let read_all = read(
            "kubeconfig /etc/k other\nendpoint https://10.0.0.1:6443\ntls a b c\napiserver_qps 20\n\
             apiserver_burst 40\nlabels environment in (staging, qa),application=nginx\n\
             namespace_labels istio-injection=enabled\nnoendpoints\nstartup_timeout 7s\nfallthrough",
        )
        .unwrap();
        let want = Reach {
            kubeconfig: Some(("/etc/k".into(), Some("other".into()))),
            endpoint: Some("https://10.0.0.1:6443".into()),
            tls: Some(["a".into(), "b".into(), "c".into()]),
            qps: 20.0,
            burst: 40,
            labels: Some("environment in (staging, qa),application=nginx".into()),
            namespace_labels: Some("istio-injection=enabled".into()),
            no_endpoints: true,
        };
        assert_eq!(read_all.reach, want);
        assert_eq!(read_all.fallthrough, read_all.zones);
    }

    #[test]
    fn mistakes_and_what_is_not_served_are_named() {
        for (option, want) in [
            ("multicluster clusterset.local", "kubernetes: multicluster is not supported"),
            ("zonal", "kubernetes: zonal is not supported"),
            ("apiserver_max_inflight 4", "kubernetes: apiserver_max_inflight is not supported"),
            ("resyncperiod 5m", "kubernetes: unknown option resyncperiod"),
            (
                "namespaces a\nnamespace_labels b",
                "kubernetes: namespaces and namespace_labels cannot both be set",
            ),
            ("apiserver_qps 0", "apiserver_qps must be positive"),
            ("labels", "labels needs a selector"),
            ("tls a b", "tls needs a certificate, its key and an authority"),
            ("pods maybe", "pods needs disabled, insecure or verified"),
        ] {
            assert_eq!(read(option).unwrap_err(), want, "{option}");
        }
        assert!(read("labels a in b").unwrap_err().starts_with("labels: "));
    }
}
