//! Containers of a pod: those that run, those that prepare, and those that look on.
//!
//! Contract: core/v1 `Container`, `EphemeralContainer`; restart rules are KEP-5307, resize policies KEP-1287.

use std::collections::BTreeSet;

use super::{env, mounts, probes, security, validation::Whole};
use crate::{
    at::At,
    field::{Error, ErrorList},
    format,
    resources::{self, Rule},
};

/// Fields an ephemeral container has no use for, besides `resources`.
const NOT_EPHEMERAL: &[&str] = &[
    "ports",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

const RULES_NEED_POLICY: &str = "must specify restartPolicy when restart rules are used";

/// The containers of a pod, of all kinds.
pub(super) fn check(whole: &Whole<'_>, errors: &mut ErrorList) {
    let spec = &whole.spec;
    regular(&spec.get("containers"), whole, errors);
    init(&spec.get("initContainers"), whole, errors);
    ephemeral(&spec.get("ephemeralContainers"), whole, errors);
}

/// Containers of all kinds, in the order their errors are told.
pub fn all<'v>(spec: &At<'v>) -> impl Iterator<Item = At<'v>> {
    ["initContainers", "containers", "ephemeralContainers"].map(|list| spec.get(list)).into_iter().flat_map(
        |list| {
            let containers: Vec<At<'v>> = list.items().collect();
            containers
        },
    )
}

fn regular(containers: &At<'_>, whole: &Whole<'_>, errors: &mut ErrorList) {
    if !containers.check_required(errors) {
        return;
    }
    let mut names = BTreeSet::new();
    for container in containers.items() {
        common(&container, whole, errors);
        if !names.insert(container.text_of("name")) {
            errors.push(Error::duplicate(container.get("name").path(), container.text_of("name")));
        }
        probes::check(&container, whole.grace, whole.os, errors);
        restart(&container, errors);
    }
    host_ports(containers.items(), &mut BTreeSet::new(), errors);
}

fn init(containers: &At<'_>, whole: &Whole<'_>, errors: &mut ErrorList) {
    let mut names: BTreeSet<&str> =
        whole.spec.get("containers").items().map(|container| container.text_of("name")).collect();
    for (i, container) in containers.items().enumerate() {
        common(&container, whole, errors);
        if container.has("restartPolicy") {
            restart(&container, errors);
        } else if !container.get("restartPolicyRules").is_empty() {
            container.get("restartPolicy").required(errors, RULES_NEED_POLICY);
        }
        let name = container.text_of("name");
        if names.contains(name) {
            errors.push(Error::duplicate(container.get("name").path(), name));
        } else if !name.is_empty() {
            names.insert(name);
        }
        // They run one after the other, so only a container's own ports may collide.
        let first = At::new(container.value(), containers.path().index(0));
        host_ports(std::iter::once(first), &mut BTreeSet::new(), errors);
        let sidecar = container.text_of("restartPolicy") == "Always";
        if sidecar {
            probes::check(&container, whole.grace, whole.os, errors);
        } else {
            not_of_init(&container, errors);
            restarted_by_resize(&container, whole, containers.path().index(i), errors);
        }
    }
}

fn not_of_init(container: &At<'_>, errors: &mut ErrorList) {
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if container.has(field) {
            let detail = "may not be set for init containers without restartPolicy=Always";
            container.get(field).forbidden(errors, detail);
        }
    }
}

fn restarted_by_resize(
    container: &At<'_>,
    whole: &Whole<'_>,
    path: crate::field::Path,
    errors: &mut ErrorList,
) {
    if whole.allowed.restarting_init {
        return;
    }
    for policy in At::new(container.value(), path).get("resizePolicy").items() {
        let restart = policy.get("restartPolicy");
        if restart.text() == "RestartContainer" {
            let detail = "must not be set to 'RestartContainer' for non-sidecar initContainers";
            restart.invalid(errors, detail);
        }
    }
}

fn ephemeral(containers: &At<'_>, whole: &Whole<'_>, errors: &mut ErrorList) {
    let mut others = BTreeSet::new();
    for list in ["containers", "initContainers"] {
        others.extend(whole.spec.get(list).items().map(|container| container.text_of("name")));
    }
    let mut names = others.clone();
    for container in containers.items() {
        common(&container, whole, errors);
        image_of_pod(&container, errors);
        if !names.insert(container.text_of("name")) {
            errors.push(Error::duplicate(container.get("name").path(), container.text_of("name")));
        }
        let target = container.get("targetContainerName");
        if !target.is_empty() && !others.contains(target.text()) {
            target.not_found(errors);
        }
        let detail = "cannot be set for an Ephemeral Container";
        for field in NOT_EPHEMERAL.iter().map(|field| container.get(field)) {
            if field.is_set() && !(field.value().is_array() && field.is_empty()) {
                field.forbidden(errors, detail);
            }
        }
        if !container.get("resources").is_empty() {
            container.get("resources").forbidden(errors, detail);
        }
        for mount in container.get("volumeMounts").items() {
            for field in ["subPath", "subPathExpr"].map(|field| mount.get(field)) {
                if !field.is_empty() {
                    field.forbidden(errors, detail);
                }
            }
        }
    }
}

/// What is asked of every container.
fn common(container: &At<'_>, whole: &Whole<'_>, errors: &mut ErrorList) {
    container.get("name").check_required_format(errors, format::dns_label);
    container.get("image").check_required(errors);
    container.get("terminationMessagePolicy").check_among(errors, &["File", "FallbackToLogsOnError"]);
    ports(&container.get("ports"), errors);
    env::check(&container.get("env"), errors);
    env::check_from(&container.get("envFrom"), errors);
    mounts::check(container, whole, errors);
    container.get("imagePullPolicy").check_one_of(errors, &["Always", "IfNotPresent", "Never"]);
    let rule = Rule {
        names: resources::check_container_name,
        claims: &whole.claims,
        broken_pages: whole.allowed.broken_pages,
    };
    resources::check_requirements(&container.get("resources"), rule, errors);
    resize_policy(&container.get("resizePolicy"), whole.spec.text_of("restartPolicy"), errors);
    security::check_container(&container.get("securityContext"), whole.host_users, errors);
}

fn ports(ports: &At<'_>, errors: &mut ErrorList) {
    let mut names = BTreeSet::new();
    for port in ports.items() {
        let name = port.get("name");
        if !name.is_empty() {
            let wrong = format::port_name(name.text());
            if wrong.is_empty() && !names.insert(name.text()) {
                name.duplicate(errors);
            }
            wrong.into_iter().for_each(|detail| name.invalid(errors, detail));
        }
        let (inside, outside) = (port.get("containerPort"), port.get("hostPort"));
        if inside.int() == 0 {
            inside.required(errors, "");
        } else {
            inside.check_port(errors);
        }
        if outside.int() != 0 {
            outside.check_port(errors);
        }
        port.get("protocol").check_one_of(errors, &["SCTP", "TCP", "UDP"]);
    }
}

/// No two ports of these containers want the same one of the node.
fn host_ports<'v>(
    containers: impl Iterator<Item = At<'v>>,
    taken: &mut BTreeSet<String>,
    errors: &mut ErrorList,
) {
    for container in containers {
        for port in container.get("ports").items() {
            let outside = port.get("hostPort");
            if outside.int() == 0 {
                continue;
            }
            let key = format!("{}/{}/{}", port.text_of("protocol"), port.text_of("hostIP"), outside.int());
            if !taken.insert(key.clone()) {
                errors.push(Error::duplicate(outside.path(), key));
            }
        }
    }
}

/// When a container is restarted, and which exit codes decide otherwise.
fn restart(container: &At<'_>, errors: &mut ErrorList) {
    let (policy, rules) = (container.get("restartPolicy"), container.get("restartPolicyRules"));
    if policy.is_set() {
        policy.check_is_one_of(errors, &["Always", "Never", "OnFailure"]);
    } else if !rules.is_empty() {
        policy.required(errors, RULES_NEED_POLICY);
    } else {
        return;
    }
    rules.check_members(errors, 20);
    for rule in rules.items() {
        rule.get("action").check_is_one_of(errors, &["Restart", "RestartAllContainers"]);
        let codes = rule.get("exitCodes");
        if !codes.is_set() {
            codes.required(errors, "must be specified");
            continue;
        }
        codes.get("operator").check_is_one_of(errors, &["In", "NotIn"]);
        codes.get("values").check_members(errors, 255);
    }
}

fn resize_policy(policies: &At<'_>, pod_restarts: &str, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for policy in policies.items() {
        // What is wrong with a member is told of as the list's.
        let of_list = |field: &'static str| policy.get(field).named(policies.path().clone());
        let (resource, restart) = (of_list("resourceName"), of_list("restartPolicy"));
        if !seen.insert(resource.text()) {
            errors.push(Error::duplicate(policy.path(), resource.text()));
        }
        resource.check_one_of(errors, &["cpu", "memory"]);
        restart.check_one_of(errors, &["NotRequired", "RestartContainer"]);
        if pod_restarts == "Never" && restart.text() != "NotRequired" {
            let detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            restart.invalid_as(errors, restart.text(), detail);
        }
    }
}

/// What is asked of images of pods beyond those of templates.
pub(super) fn image_of_pod(container: &At<'_>, errors: &mut ErrorList) {
    let image = container.get("image");
    if image.text().trim() != image.text() {
        image.invalid(errors, "must not have leading or trailing whitespace");
    }
}
