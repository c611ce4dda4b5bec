//! The API's defaults for pods that never pass the API server: those read from manifests.
//!
//! Only what the kubelet itself reads is filled in (core/v1 defaulting of Pod).

use k8s_openapi::api::core::v1::{Container, Pod, Probe};

/// Fills what the API server would have filled.
pub fn apply(pod: &mut Pod) {
    pod.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    let Some(spec) = pod.spec.as_mut() else { return };
    spec.restart_policy.get_or_insert_with(|| "Always".to_owned());
    spec.dns_policy.get_or_insert_with(|| "ClusterFirst".to_owned());
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.enable_service_links.get_or_insert(true);
    spec.security_context.get_or_insert_default();
    for container in spec.init_containers.iter_mut().flatten().chain(spec.containers.iter_mut()) {
        apply_container(container);
    }
}

fn apply_container(container: &mut Container) {
    let policy = super::image_pull_policy(container).to_owned();
    container.image_pull_policy = Some(policy);
    container.termination_message_path.get_or_insert_with(|| "/dev/termination-log".to_owned());
    container.termination_message_policy.get_or_insert_with(|| "File".to_owned());
    for port in container.ports.iter_mut().flatten() {
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
    }
    if let Some(resources) = container.resources.as_mut()
        && let Some(limits) = &resources.limits
    {
        let requests = resources.requests.get_or_insert_default();
        for (name, quantity) in limits {
            requests.entry(name.clone()).or_insert_with(|| quantity.clone());
        }
    }
    let probes =
        [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe];
    for probe in probes.into_iter().flatten() {
        apply_probe(probe);
    }
}

fn apply_probe(probe: &mut Probe) {
    probe.timeout_seconds.get_or_insert(1);
    probe.period_seconds.get_or_insert(10);
    probe.success_threshold.get_or_insert(1);
    probe.failure_threshold.get_or_insert(3);
}
