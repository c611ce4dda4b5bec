//! /healthz, /livez, /readyz with their named checks, /version and /metrics.
//!
//! Contract: upstream's `server/healthz`: a failed check answers 500 and always lists all checks;
//! `?verbose` lists them on success, `?exclude=` skips one, `/<path>/<check>` runs one.

use std::sync::atomic::Ordering;

use http::Response;
use serde_json::json;

use crate::{
    request_path::info::RequestInfo,
    response::{self, Body},
    server::Server,
};

const CHECKS: [&str; 2] = ["ping", "etcd"];
const READY_CHECKS: [&str; 5] =
    ["ping", "etcd", "informer-sync", "poststarthook/start-apiserver", "shutdown"];

/// Answers a health, version or metrics path; `None` when the path is none of them.
pub async fn answer(server: &Server, info: &RequestInfo) -> Option<Response<Body>> {
    let path = info.path.trim_matches('/');
    let (head, check) = path.split_once('/').unwrap_or((path, ""));
    match head {
        "healthz" | "livez" => checked(server, info, head, &CHECKS, check).await,
        "readyz" => checked(server, info, head, &READY_CHECKS, check).await,
        "version" if check.is_empty() => Some(response::json(200, &version())),
        "metrics" if check.is_empty() => Some(metrics()),
        _ => None,
    }
}

fn version() -> serde_json::Value {
    json!({"major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "35", "gitVersion": "v1.36.0",
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc", "platform": "linux/amd64"})
}

fn metrics() -> Response<Body> {
    match component_base::metrics::encode() {
        Ok(out) => response::of(200, component_base::metrics::CONTENT_TYPE, response::full(out)),
        Err(error) => response::text(500, error.to_string()),
    }
}

async fn passes(server: &Server, check: &str) -> bool {
    match check {
        "etcd" => server.store.ping().await.is_ok(),
        "informer-sync" => server.store.is_ready(),
        "poststarthook/start-apiserver" => server.ready.load(Ordering::Acquire),
        "shutdown" => !server.drain.is_cancelled(),
        _ => true,
    }
}

async fn checked(
    server: &Server,
    info: &RequestInfo,
    head: &str,
    checks: &[&str],
    only: &str,
) -> Option<Response<Body>> {
    if !only.is_empty() && !checks.contains(&only) {
        return None;
    }
    let excluded = info.query.get("exclude");
    let (mut report, mut healthy) = (String::new(), true);
    for check in checks.iter().filter(|c| only.is_empty() || **c == only) {
        if *check == excluded {
            report.push_str(&format!("[+]{check} excluded: ok\n"));
        } else if passes(server, check).await {
            report.push_str(&format!("[+]{check} ok\n"));
        } else {
            healthy = false;
            report.push_str(&format!("[-]{check} failed: reason withheld\n"));
        }
    }
    Some(match (healthy, info.query.has("verbose")) {
        (true, false) => response::text(200, "ok"),
        (true, true) => response::text(200, format!("{report}{head} check passed\n")),
        (false, _) => response::text(500, format!("{report}{head} check failed\n")),
    })
}
