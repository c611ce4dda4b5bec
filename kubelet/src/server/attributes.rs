//! What a request to the kubelet asks for, in the terms of authorization: a verb on a subresource of this node. Pure.
//!
//! Contract: "Kubelet authentication/authorization" with fine-grained subresources (KEP-2862): any one of the listed
//! subresources is enough.

use http::Method;

/// The verb of a method.
#[must_use]
pub fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// Subresources of `nodes`, the most specific first.
#[must_use]
pub fn subresources(path: &str) -> Vec<&'static str> {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    match first {
        "stats" => vec!["stats"],
        "metrics" => vec!["metrics"],
        "logs" => vec!["log"],
        "checkpoint" => vec!["checkpoint"],
        "statusz" => vec!["statusz"],
        "pods" | "runningpods" => vec!["pods", "proxy"],
        "healthz" | "livez" | "readyz" => vec!["healthz", "proxy"],
        "configz" => vec!["configz", "proxy"],
        "flagz" => vec!["configz"],
        _ => vec!["proxy"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_map_to_subresources() {
        for (path, expected) in [
            ("/pods", vec!["pods", "proxy"]),
            ("/stats/summary", vec!["stats"]),
            ("/metrics/cadvisor", vec!["metrics"]),
            ("/containerLogs/a/b/c", vec!["proxy"]),
            ("/exec/a/b/c", vec!["proxy"]),
            ("/healthz", vec!["healthz", "proxy"]),
            ("/readyz/syncloop", vec!["healthz", "proxy"]),
            ("/version", vec!["proxy"]),
            ("/statusz", vec!["statusz"]),
            ("/flagz", vec!["configz"]),
            ("/configz", vec!["configz", "proxy"]),
            ("/debug/pprof/heap", vec!["proxy"]),
        ] {
            assert_eq!(subresources(path), expected, "{path}");
        }
        assert_eq!(verb(&Method::POST), "create");
    }
}
