//! Metrics of PodSecurity, by upstream's names and labels.

use std::sync::LazyLock;

use component_base::metrics::{self, Stability};
use prometheus::IntCounterVec;

use super::{Level, Policy, Version, settings::Mode};
use crate::{
    admission::{Operation, Request},
    objects::{NAMESPACES, PODS},
};

/// The minor release whose rules are the latest.
const CURRENT: u16 = 36;

static EVALUATIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let labels = &[
        "decision",
        "policy_level",
        "policy_version",
        "mode",
        "request_operation",
        "resource",
        "subresource",
        "ocp_namespace",
    ];
    let help = "Pods held against a policy, not counting those that are exempt.";
    metrics::counter_vec("pod_security_evaluations_total", help, Stability::Alpha, labels)
});
static EXEMPTIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let labels = &["request_operation", "resource", "subresource"];
    let help = "Requests that are exempt.";
    metrics::counter_vec("pod_security_exemptions_total", help, Stability::Alpha, labels)
});
static ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let labels = &["fatal", "request_operation", "resource", "subresource"];
    let help =
        "Requests that could not be held against what was asked for; the strictest rules may have counted.";
    metrics::counter_vec("pod_security_errors_total", help, Stability::Alpha, labels)
});

/// A pod or template was held against a policy.
pub(super) fn evaluated(request: &Request<'_>, mode: Mode, policy: Policy, allowed: bool) {
    let version = match policy.version {
        _ if policy.level == Level::Privileged => "latest".to_owned(),
        Version::Latest => "latest".to_owned(),
        Version::Minor(minor) if minor > CURRENT => "future".to_owned(),
        Version::Minor(minor) => format!("v1.{minor}"),
    };
    // Only names that every cluster has.
    let namespace = request.attributes.namespace.as_str();
    let known = namespace == "default" || namespace.starts_with("kube-");
    let [operation, resource, subresource] = of(request);
    let decision = if allowed { "allow" } else { "deny" };
    let namespace = if known { namespace } else { "" };
    let labels =
        [decision, policy.level.name(), &version, mode.word(), operation, resource, subresource, namespace];
    EVALUATIONS.with_label_values(&labels).inc();
}

/// A request is exempt.
pub(super) fn exempt(request: &Request<'_>) {
    EXEMPTIONS.with_label_values(&of(request)).inc();
}

/// A request could not be held against what was asked for, or, not `fatal`, was held against the strictest rules instead.
pub(super) fn failed(request: &Request<'_>, fatal: bool) {
    let [operation, resource, subresource] = of(request);
    let fatal = if fatal { "true" } else { "false" };
    ERRORS.with_label_values(&[fatal, operation, resource, subresource]).inc();
}

/// Operation, kind and subresource of a request.
fn of<'r>(request: &'r Request<'_>) -> [&'r str; 3] {
    let operation = if request.operation == Operation::Create { "create" } else { "update" };
    let resource = if request.is_any(PODS) {
        "pod"
    } else if request.is_any(NAMESPACES) {
        "namespace"
    } else {
        "controller"
    };
    [operation, resource, &request.attributes.subresource]
}
