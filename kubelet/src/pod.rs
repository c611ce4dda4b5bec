//! What the kubelet asks of a pod: its containers in one shape, restart rules, QoS class, names and deadlines.
//!
//! Everything here is a pure reading of the API object (core/v1 Pod); nothing looks at the runtime.

pub mod qos;
pub mod resources;

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};
use kube::api::{DeleteParams, Preconditions};

/// Where a container stands in its pod: which list it comes from and its index there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Runs before the regular ones; a restartable one is a sidecar.
    Init(usize),
    /// A regular container.
    Regular(usize),
    /// Added to a running pod for debugging; never restarted.
    Ephemeral(usize),
}

/// The annotation that says where a pod came from: `api` or `file`.
pub const SOURCE_ANNOTATION: &str = "kubernetes.io/config.source";
/// The annotation carrying a static pod's hash; it stands for the uid of a static pod.
pub const HASH_ANNOTATION: &str = "kubernetes.io/config.hash";
/// Marks the API server's reflection of a static pod.
pub const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

static EMPTY_SPEC: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);

/// The pod's spec; an absent one reads as empty.
#[must_use]
pub fn spec(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().unwrap_or(&EMPTY_SPEC)
}

/// The pod's uid as the kubelet uses it on disk, in cgroups and in labels.
#[must_use]
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// The pod's namespace, `default` where a manifest left it out.
#[must_use]
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// The pod's name.
#[must_use]
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// `name_namespace(uid)`, the way upstream names a pod in messages.
#[must_use]
pub fn display(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// How the pod, and no other of its name, is taken out of the API at once.
#[must_use]
pub fn at_once(pod: &Pod) -> DeleteParams {
    let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
    DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(preconditions),
        ..DeleteParams::default()
    }
}

/// An annotation's value.
#[must_use]
pub fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// A pod read from a manifest on this node rather than from the API server.
#[must_use]
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, SOURCE_ANNOTATION).is_some_and(|source| source != "api")
}

/// The API server's reflection of a static pod.
#[must_use]
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, MIRROR_ANNOTATION).is_some()
}

/// The init containers.
#[must_use]
pub fn init_containers(pod: &Pod) -> &[Container] {
    spec(pod).init_containers.as_deref().unwrap_or_default()
}

/// The regular containers.
#[must_use]
pub fn containers(pod: &Pod) -> &[Container] {
    &spec(pod).containers
}

/// The ephemeral containers.
#[must_use]
pub fn ephemeral_containers(pod: &Pod) -> &[EphemeralContainer] {
    spec(pod).ephemeral_containers.as_deref().unwrap_or_default()
}

/// An init container that keeps running beside the regular ones (KEP-753).
#[must_use]
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// An ephemeral container in the shape of a regular one, without what it may not have.
#[must_use]
pub fn ephemeral_as_container(from: &EphemeralContainer) -> Container {
    Container {
        args: from.args.clone(),
        command: from.command.clone(),
        env: from.env.clone(),
        env_from: from.env_from.clone(),
        image: from.image.clone(),
        image_pull_policy: from.image_pull_policy.clone(),
        name: from.name.clone(),
        security_context: from.security_context.clone(),
        stdin: from.stdin,
        stdin_once: from.stdin_once,
        termination_message_path: from.termination_message_path.clone(),
        termination_message_policy: from.termination_message_policy.clone(),
        tty: from.tty,
        volume_mounts: from.volume_mounts.clone(),
        working_dir: from.working_dir.clone(),
        ..Container::default()
    }
}

/// Every container of the pod with its role: init, then regular, then ephemeral.
#[must_use]
pub fn all_containers(pod: &Pod) -> Vec<(Role, Container)> {
    let init = init_containers(pod).iter().enumerate().map(|(i, c)| (Role::Init(i), c.clone()));
    let regular = containers(pod).iter().enumerate().map(|(i, c)| (Role::Regular(i), c.clone()));
    let ephemeral = ephemeral_containers(pod)
        .iter()
        .enumerate()
        .map(|(i, c)| (Role::Ephemeral(i), ephemeral_as_container(c)));
    init.chain(regular).chain(ephemeral).collect()
}

/// The container with this role.
#[must_use]
pub fn container(pod: &Pod, role: Role) -> Option<Container> {
    match role {
        Role::Init(i) => init_containers(pod).get(i).cloned(),
        Role::Regular(i) => containers(pod).get(i).cloned(),
        Role::Ephemeral(i) => ephemeral_containers(pod).get(i).map(ephemeral_as_container),
    }
}

/// The container of this name, whichever list it is in.
#[must_use]
pub fn container_named(pod: &Pod, name: &str) -> Option<(Role, Container)> {
    all_containers(pod).into_iter().find(|(_, c)| c.name == name)
}

/// The pod's restart policy, `Always` when unset.
#[must_use]
pub fn restart_policy(pod: &Pod) -> &str {
    spec(pod).restart_policy.as_deref().unwrap_or("Always")
}

/// Whether a container that ended with `exit_code` is to be started again: the container's own rules first, then
/// its own policy, then the pod's (KEP-5307).
#[must_use]
pub fn restarts_after(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    if matches!(rule(container, exit_code), Some("Restart" | RESTART_ALL)) {
        return true;
    }
    match container.restart_policy.as_deref().unwrap_or(restart_policy(pod)) {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// The action of a rule by which all containers of the pod start anew.
const RESTART_ALL: &str = "RestartAllContainers";

/// What the first of the container's rules says that is about this exit code.
fn rule(container: &Container, exit_code: i32) -> Option<&str> {
    let mut rules = container.restart_policy_rules.iter().flatten();
    let found = rules.find(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.as_ref().is_some_and(|values| values.contains(&exit_code));
            if codes.operator == "NotIn" { !listed } else { listed }
        })
    });
    found.map(|rule| rule.action.as_str())
}

/// Whether all containers of the pod start anew because this one ended with `exit_code`.
#[must_use]
pub fn restarts_all_after(container: &Container, exit_code: i32) -> bool {
    rule(container, exit_code) == Some(RESTART_ALL)
}

/// Whether all containers of the pod may come to start anew.
#[must_use]
pub fn may_restart_all(pod: &Pod) -> bool {
    let rules = init_containers(pod).iter().chain(containers(pod));
    rules.flat_map(|c| c.restart_policy_rules.iter().flatten()).any(|rule| rule.action == RESTART_ALL)
}

/// Whether a running container that has to be killed is started again (rules on exit codes do not apply to it).
#[must_use]
pub fn restarts_after_kill(pod: &Pod, container: &Container) -> bool {
    container.restart_policy.as_deref().unwrap_or(restart_policy(pod)) != "Never"
}

/// The pod's addresses as they are told: one of the node's first family, then one of the other.
#[must_use]
pub fn preferred_ips(all: &[String], node: &[String]) -> Vec<String> {
    let parse = |text: &String| text.parse::<IpAddr>().ok();
    let first_is_v4 = node.first().and_then(parse).is_none_or(|ip| ip.is_ipv4());
    let one = |v4: bool| all.iter().filter_map(parse).find(|ip| ip.is_ipv4() == v4);
    [one(first_is_v4), one(!first_is_v4)].into_iter().flatten().map(|ip| ip.to_string()).collect()
}

/// Whether what a container asks for of an extended resource comes out of a claim the scheduler made (KEP-5004).
#[must_use]
pub fn is_claimed(pod: &Pod, container: &str, resource: &str) -> bool {
    let status = pod.status.as_ref().and_then(|s| s.extended_resource_claim_status.as_ref());
    let mut mappings = status.into_iter().flat_map(|s| &s.request_mappings);
    mappings.any(|m| m.container_name == container && m.resource_name == resource)
}

/// Seconds a pod is given to end: what its deletion asked for, else its spec's, else 30.
#[must_use]
pub fn grace_seconds(pod: &Pod) -> i64 {
    pod.metadata
        .deletion_grace_period_seconds
        .or(spec(pod).termination_grace_period_seconds)
        .unwrap_or(30)
        .max(0)
}

/// Phase `Succeeded` or `Failed`.
#[must_use]
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// The pod shares the node's network.
#[must_use]
pub fn host_network(pod: &Pod) -> bool {
    spec(pod).host_network == Some(true)
}

/// The container's image pull policy with the API's default applied (`Always` for `:latest` or no tag).
#[must_use]
pub fn image_pull_policy(container: &Container) -> &str {
    if let Some(policy) = container.image_pull_policy.as_deref() {
        return policy;
    }
    let image = container.image.as_deref().unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or_default();
    if image.contains('@') {
        return "IfNotPresent";
    }
    match last.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

#[cfg(test)]
mod tests;
