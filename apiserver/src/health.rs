//! /healthz, /livez, /readyz with their named checks, /version and /metrics.
//!
//! Contract: upstream's `server/healthz`: a failed check answers 500 and always lists all checks;
//! `?verbose` lists them on success, `?exclude=` skips one each time it is given, `/<path>/<check>` runs one.

use std::{
    borrow::Cow,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use component_base::metrics::slis;
use http::Response;

use crate::{
    request_path::info::RequestInfo,
    response::{self, Body},
    server::Server,
};

/// What the flags say of checks.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `--livez-grace-period`: how long start-up work that is not finished leaves the server alive.
    pub livez_grace: Duration,
    /// `--etcd-healthcheck-timeout`.
    pub etcd: Duration,
    /// `--etcd-readycheck-timeout`.
    pub etcd_ready: Duration,
    /// When the server began.
    pub begun: Instant,
}

/// A check and whether it counts for readiness alone.
#[derive(Clone)]
struct Check {
    name: Cow<'static, str>,
    readiness: bool,
    kind: Kind,
}

/// What a check looks at.
#[derive(Clone, Copy)]
enum Kind {
    /// The server answers, which it does.
    Alive,
    /// A read of an etcd cluster.
    Etcd(usize),
    /// A read of an etcd cluster, in the time readiness gives it.
    EtcdReady(usize),
    /// The caches are loaded.
    Synced,
    /// The plugins that encrypt what is stored.
    Plugins,
    /// The start-up work is done: all of it at once, which upstream has a name for each part of.
    Started,
    /// Nobody told the server to stop.
    NotStopping,
}

const fn check(name: &'static str, readiness: bool, kind: Kind) -> Check {
    Check { name: Cow::Borrowed(name), readiness, kind }
}

const CHECKS: &[Check] = &[
    check("ping", false, Kind::Alive),
    check("log", false, Kind::Alive),
    check("etcd", false, Kind::Etcd(0)),
    check("etcd-readiness", true, Kind::EtcdReady(0)),
    check("informer-sync", true, Kind::Synced),
    check("kms-providers", false, Kind::Plugins),
    check("poststarthook/start-apiserver-admission-initializer", false, Kind::Started),
    check("poststarthook/generic-apiserver-start-informers", false, Kind::Started),
    check("poststarthook/storage-readiness", false, Kind::Started),
    check("poststarthook/start-apiextensions-informers", false, Kind::Started),
    check("poststarthook/start-apiextensions-controllers", false, Kind::Started),
    check("poststarthook/crd-informer-synced", false, Kind::Started),
    check("poststarthook/start-cluster-authentication-info-controller", false, Kind::Started),
    check("poststarthook/start-system-namespaces-controller", false, Kind::Started),
    check("poststarthook/rbac/bootstrap-roles", false, Kind::Started),
    check("poststarthook/scheduling/bootstrap-system-priority-classes", false, Kind::Started),
    check("poststarthook/bootstrap-controller", false, Kind::Started),
    check("poststarthook/priority-and-fairness-config-producer", false, Kind::Started),
    check("poststarthook/priority-and-fairness-config-consumer", false, Kind::Started),
    check("poststarthook/priority-and-fairness-filter", false, Kind::Started),
    check("poststarthook/start-service-ip-repair-controllers", false, Kind::Started),
    check("poststarthook/start-kubernetes-service-cidr-controller", false, Kind::Started),
    check("poststarthook/start-kube-aggregator-informers", false, Kind::Started),
    check("poststarthook/kube-apiserver-autoregistration", false, Kind::Started),
    check("autoregister-completion", false, Kind::Started),
    check("poststarthook/apiservice-registration-controller", false, Kind::Started),
    check("poststarthook/apiservice-discovery-controller", false, Kind::Started),
    check("poststarthook/apiservice-openapi-controller", false, Kind::Started),
    check("poststarthook/apiservice-openapiv3-controller", false, Kind::Started),
    check("poststarthook/apiservice-status-local-available-controller", false, Kind::Started),
    check("poststarthook/apiservice-status-remote-available-controller", false, Kind::Started),
    check("shutdown", true, Kind::NotStopping),
];

/// All checks of a server with so many etcd clusters beside the first.
fn checks(overrides: usize) -> Vec<Check> {
    let of = |at: usize| {
        let (alive, ready) = (format!("etcd-override-{at}"), format!("etcd-override-readiness-{at}"));
        let (one, other) = (Kind::Etcd(at + 1), Kind::EtcdReady(at + 1));
        [
            Check { name: Cow::Owned(alive), readiness: false, kind: one },
            Check { name: Cow::Owned(ready), readiness: true, kind: other },
        ]
    };
    let mut all = CHECKS.to_vec();
    let after = all.iter().position(|check| matches!(check.kind, Kind::EtcdReady(_))).map_or(0, |at| at + 1);
    all.splice(after..after, (0..overrides).flat_map(of));
    all
}

/// How one check came out.
struct Outcome {
    name: Cow<'static, str>,
    /// Why it failed.
    failure: Option<String>,
}

/// Answers a health, version or metrics path; `None` when the path is none of them.
pub async fn answer(server: &Server, info: &RequestInfo) -> Option<Response<Body>> {
    let path = info.path.trim_matches('/');
    let (head, name) = path.split_once('/').unwrap_or((path, ""));
    match head {
        "healthz" | "livez" | "readyz" => {
            let served = |c: &&Check| !matches!(c.kind, Kind::Plugins) || server.plugins.is_some();
            let all = checks(server.store.overrides());
            let mut checks = all.iter().filter(|c| head == "readyz" || !c.readiness).filter(served);
            if name.is_empty() {
                return Some(overall(server, info, head, checks).await);
            }
            let one = checks.find(|c| c.name == name)?;
            Some(single(run(server, one, head).await))
        }
        "version" if name.is_empty() => {
            // Indented, as clients that print it as it is expect.
            let version = serde_json::to_vec_pretty(&component_base::version::info()).unwrap_or_default();
            Some(response::of(200, "application/json", response::full(version)))
        }
        "metrics" if name.is_empty() => Some(metrics(component_base::metrics::encode())),
        "metrics" if name == "slis" => Some(metrics(slis::encode())),
        _ => None,
    }
}

fn metrics(encoded: Result<Vec<u8>, prometheus::Error>) -> Response<Body> {
    match encoded {
        Ok(out) => response::of(200, component_base::metrics::CONTENT_TYPE, response::full(out)),
        Err(error) => response::text(500, error.to_string()),
    }
}

/// Runs a check for one of the endpoints.
async fn run(server: &Server, check: &Check, head: &str) -> Outcome {
    let failed = |holds: bool, why: &str| (!holds).then(|| why.to_owned());
    let failure = match check.kind {
        Kind::Alive => None,
        Kind::Etcd(cluster) => ping(server, cluster, server.health.etcd).await.err(),
        Kind::EtcdReady(cluster) => ping(server, cluster, server.health.etcd_ready).await.err(),
        Kind::Synced => failed(server.store.is_ready(), "the caches are not loaded yet"),
        Kind::Plugins => match &server.plugins {
            Some(plugins) => plugins.check().await.err(),
            None => None,
        },
        Kind::Started => {
            let is_given_time = head == "livez" && server.health.begun.elapsed() < server.health.livez_grace;
            failed(is_given_time || server.ready.load(Ordering::Acquire), "not finished")
        }
        Kind::NotStopping => failed(!server.stopping.is_cancelled(), "process is shutting down"),
    };
    Outcome { name: check.name.clone(), failure }
}

/// A read of etcd, in a time.
async fn ping(server: &Server, cluster: usize, timeout: Duration) -> Result<(), String> {
    match tokio::time::timeout(timeout, server.store.ping(cluster)).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err("etcd did not answer in time".to_owned()),
    }
}

async fn overall(
    server: &Server,
    info: &RequestInfo,
    head: &str,
    checks: impl Iterator<Item = &Check>,
) -> Response<Body> {
    let excluded = info.query.all("exclude");
    let (mut outcomes, mut skipped) = (Vec::new(), Vec::new());
    for check in checks {
        let skip = excluded.iter().any(|name| *name == check.name);
        skipped.push(skip);
        outcomes.push(if skip {
            Outcome { name: check.name.clone(), failure: None }
        } else {
            let outcome = run(server, check, head).await;
            slis::observe(&check.name, head, outcome.failure.is_none());
            outcome
        });
    }
    let (healthy, report) = report(head, &outcomes, &skipped, excluded);
    match (healthy, info.query.has("verbose")) {
        (true, false) => response::text(200, "ok"),
        (true, true) => response::text(200, report),
        (false, _) => {
            let failed = outcomes.iter().filter_map(|o| Some(format!("{}: {}", o.name, o.failure.as_ref()?)));
            tracing::info!(
                endpoint = head,
                failed = failed.collect::<Vec<_>>().join("; "),
                "health check failed"
            );
            response::text(500, report)
        }
    }
}

/// Whether all is well, and upstream's list of checks. Pure.
fn report(head: &str, outcomes: &[Outcome], skipped: &[bool], excluded: &[String]) -> (bool, String) {
    let mut text = String::new();
    for (Outcome { name, failure }, skip) in outcomes.iter().zip(skipped) {
        text.push_str(&match (skip, failure) {
            (true, _) => format!("[+]{name} excluded: ok\n"),
            (false, None) => format!("[+]{name} ok\n"),
            (false, Some(_)) => format!("[-]{name} failed: reason withheld\n"),
        });
    }
    let mut unknown: Vec<String> = excluded
        .iter()
        .filter(|name| !outcomes.iter().any(|o| o.name == name.as_str()))
        .map(|name| format!("{name:?}"))
        .collect();
    unknown.sort_unstable();
    unknown.dedup();
    if !unknown.is_empty() {
        let unknown = unknown.join(",");
        text.push_str(&format!("warn: some health checks cannot be excluded: no matches for {unknown}\n"));
    }
    let healthy = outcomes.iter().all(|o| o.failure.is_none());
    text.push_str(&format!("{head} check {}\n", if healthy { "passed" } else { "failed" }));
    (healthy, text)
}

fn single(outcome: Outcome) -> Response<Body> {
    match outcome.failure {
        None => response::text(200, "ok"),
        Some(why) => response::text(500, format!("internal server error: {why}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_upstreams() {
        let outcome = |name: &'static str, failure: Option<&str>| Outcome {
            name: Cow::Borrowed(name),
            failure: failure.map(str::to_owned),
        };
        let good = [outcome("ping", None), outcome("etcd", None)];
        let exclude = ["etcd".to_owned(), "x".to_owned(), "a".to_owned()];
        assert_eq!(
            report("livez", &good, &[false, false], &[]),
            (true, "[+]ping ok\n[+]etcd ok\nlivez check passed\n".into())
        );
        let text = "[+]ping ok\n[+]etcd excluded: ok\nwarn: some health checks cannot be excluded: no matches for \
                    \"a\",\"x\"\nlivez check passed\n";
        assert_eq!(report("livez", &good, &[false, true], &exclude), (true, text.into()));
        let bad = [outcome("ping", None), outcome("etcd", Some("gone"))];
        let text = "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n";
        assert_eq!(report("readyz", &bad, &[false, false], &[]), (false, text.into()));
    }
}
