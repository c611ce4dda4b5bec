//! What traces say of requests to the kubelet's API. Pure.
//!
//! Contract: names and attributes of the filter upstream has in front of its handlers (`otelrestful`), which begins a trace
//! of its own for each request: who asks is linked to, not followed.

use std::net::SocketAddr;

use component_base::traces;
use http::{Request, Version, header};
use proto::otlp::v1::KeyValue;

/// The name of the server.
const SERVICE: &str = "kubelet";

/// The name of a request's span, and what is said of it.
pub(super) fn describe<B>(request: &Request<B>, peer: SocketAddr) -> (String, Vec<KeyValue>) {
    let route = route(request.uri().path());
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let forwarded = header("x-forwarded-for").split(',').next().map(str::trim).unwrap_or_default();
    let address = peer.ip().to_string();
    let version = match request.version() {
        Version::HTTP_2 => "2.0",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    };
    let all = [
        ("server.address", SERVICE),
        ("http.request.method", request.method().as_str()),
        ("url.scheme", "https"),
        ("network.peer.address", &address),
        ("user_agent.original", header(header::USER_AGENT.as_str())),
        ("client.address", if forwarded.is_empty() { &address } else { forwarded }),
        ("url.path", request.uri().path()),
        ("network.protocol.version", version),
        ("http.route", &route),
    ];
    let mut attributes: Vec<KeyValue> = all
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| traces::text(key, value))
        .collect();
    attributes.push(traces::number("network.peer.port", peer.port().into()));
    (route, attributes)
}

/// What a path asks for, without the names in it.
fn route(path: &str) -> String {
    const POD: &str = "/{podNamespace}/{podID}";
    let mut parts = path.trim_matches('/').split('/');
    let first = parts.next().unwrap_or_default();
    let names = match (first, parts.count()) {
        ("exec" | "attach" | "run" | "containerLogs" | "checkpoint", 3) => format!("{POD}/{{containerName}}"),
        ("exec" | "attach" | "run", 4) => format!("{POD}/{{uid}}/{{containerName}}"),
        ("portForward", 2) => POD.to_owned(),
        ("portForward", 3) => format!("{POD}/{{uid}}"),
        ("logs", 1..) => "/{logpath:*}".to_owned(),
        ("debug", 1..) => "/{subpath:*}".to_owned(),
        ("pods" | "runningpods" | "logs", 0) => String::new(),
        // These have no names in them, and of what is not there nothing is to be kept.
        _ => return if super::known(path) == "other" { String::new() } else { path.to_owned() },
    };
    format!("/{first}{names}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_named_by_what_is_asked_for() {
        for (path, expected) in [
            ("/pods", "/pods"),
            ("/runningpods/", "/runningpods"),
            ("/exec/ns/p/c", "/exec/{podNamespace}/{podID}/{containerName}"),
            ("/exec/ns/p/u/c", "/exec/{podNamespace}/{podID}/{uid}/{containerName}"),
            ("/portForward/ns/p", "/portForward/{podNamespace}/{podID}"),
            ("/containerLogs/ns/p/c", "/containerLogs/{podNamespace}/{podID}/{containerName}"),
            ("/logs/pods/a", "/logs/{logpath:*}"),
            ("/metrics/cadvisor", "/metrics/cadvisor"),
            ("/some/thing", ""),
        ] {
            assert_eq!(route(path), expected, "{path}");
        }
    }

    #[test]
    fn requests_tell_who_asks_for_what() {
        let request = Request::get("https://node:10250/exec/ns/p/c?command=ls").header("user-agent", "me");
        let (name, said) = describe(&request.body(()).unwrap(), ([10, 0, 0, 1], 99).into());
        assert_eq!(name, "/exec/{podNamespace}/{podID}/{containerName}");
        for expected in [
            traces::text("server.address", "kubelet"),
            traces::text("url.path", "/exec/ns/p/c"),
            traces::text("client.address", "10.0.0.1"),
            traces::text("user_agent.original", "me"),
            traces::number("network.peer.port", 99),
        ] {
            assert!(said.contains(&expected), "{expected:?}: {said:?}");
        }
    }
}
