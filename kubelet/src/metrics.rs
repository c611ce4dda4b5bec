//! The kubelet's own metrics, with upstream's names and labels. One list: a metric is a field here and a line in [`Metrics::new`].

use std::sync::OnceLock;

use component_base::metrics::{
    Stability::{Alpha, Beta},
    counter, counter_vec, exponential_buckets, gauge, gauge_vec, histogram, histogram_vec,
};
use prometheus::{
    DEFAULT_BUCKETS, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
};

/// All of them.
#[derive(Debug)]
#[allow(missing_docs, reason = "the help texts say what each counts")]
pub struct Metrics {
    pub evictions: IntCounterVec,
    pub node_name: IntGaugeVec,
    pub cgroup_version: IntGauge,
    pub running_pods: IntGauge,
    pub running_containers: IntGaugeVec,
    pub desired_pods: IntGaugeVec,
    pub active_pods: IntGaugeVec,
    pub mirror_pods: IntGauge,
    pub orphaned_runtime_pods: IntCounter,
    pub started_pods: IntCounter,
    pub started_pods_errors: IntCounter,
    pub started_containers: IntCounterVec,
    pub started_containers_errors: IntCounterVec,
    pub run_sandbox: HistogramVec,
    pub run_sandbox_errors: IntCounterVec,
    pub pod_start: Histogram,
    pub pod_worker: HistogramVec,
    pub pleg_relist: Histogram,
    pub pleg_interval: Histogram,
    pub pleg_last_seen: IntGauge,
    pub runtime_operations: IntCounterVec,
    pub runtime_operations_errors: IntCounterVec,
    pub runtime_operations_duration: HistogramVec,
    pub http_requests: IntCounterVec,
    pub http_inflight: IntGaugeVec,
    pub http_duration: HistogramVec,
    pub preemptions: IntCounterVec,
    pub shutdown_start: IntGauge,
    pub shutdown_end: IntGauge,
    pub must_pull: IntCounterVec,
    pub cri_losing_support: IntGaugeVec,
    pub cpu_requests: IntCounter,
    pub cpu_errors: IntCounter,
    pub memory_requests: IntCounter,
    pub memory_errors: IntCounter,
    pub topology_requests: IntCounter,
    pub topology_errors: IntCounter,
    pub topology_duration: Histogram,
    pub aligned: IntCounterVec,
    pub aligned_failures: IntCounterVec,
    pub pod_certificates: IntGaugeVec,
}

/// The metrics, registered when they are first asked for.
pub fn get() -> &'static Metrics {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    METRICS.get_or_init(Metrics::new)
}

impl Metrics {
    fn new() -> Self {
        let default = || DEFAULT_BUCKETS.to_vec();
        let http = ["long_running", "method", "path", "server_type"];
        let start = vec![
            0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0,
            360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
        ];
        Self {
            evictions: counter_vec(
                "kubelet_evictions",
                "Pods evicted, by the signal that called for it.",
                Beta,
                &["eviction_signal"],
            ),
            node_name: gauge_vec(
                "kubelet_node_name",
                "The node's name; the count is always 1.",
                Alpha,
                &["node"],
            ),
            cgroup_version: gauge(
                "kubelet_cgroup_version",
                "Version of cgroups on this node: 1 or 2.",
                Alpha,
            ),
            running_pods: gauge("kubelet_running_pods", "Pods that have a running sandbox.", Beta),
            running_containers: gauge_vec(
                "kubelet_running_containers",
                "Containers, by state.",
                Beta,
                &["container_state"],
            ),
            desired_pods: gauge_vec(
                "kubelet_desired_pods",
                "Pods this kubelet is told to run; static is true for those from manifests.",
                Alpha,
                &["static"],
            ),
            active_pods: gauge_vec(
                "kubelet_active_pods",
                "Pods that run and count when new ones are admitted.",
                Alpha,
                &["static"],
            ),
            shutdown_start: gauge(
                "kubelet_graceful_shutdown_start_time_seconds",
                "When the last graceful shutdown of the node began, in seconds since the epoch.",
                Alpha,
            ),
            shutdown_end: gauge(
                "kubelet_graceful_shutdown_end_time_seconds",
                "When the last graceful shutdown of the node ended, in seconds since the epoch.",
                Alpha,
            ),
            mirror_pods: gauge("kubelet_mirror_pods", "Mirror pods that the kubelet tries to keep.", Alpha),
            orphaned_runtime_pods: counter(
                "kubelet_orphaned_runtime_pods_total",
                "Pods found in the runtime that nobody asked for.",
                Alpha,
            ),
            started_pods: counter("kubelet_started_pods_total", "Pods started.", Alpha),
            started_pods_errors: counter(
                "kubelet_started_pods_errors_total",
                "Failed starts of pods.",
                Alpha,
            ),
            started_containers: counter_vec(
                "kubelet_started_containers_total",
                "Containers started.",
                Alpha,
                &["container_type"],
            ),
            started_containers_errors: counter_vec(
                "kubelet_started_containers_errors_total",
                "Failed starts of containers.",
                Alpha,
                &["code", "container_type"],
            ),
            run_sandbox: histogram_vec(
                "kubelet_run_podsandbox_duration_seconds",
                "How long it took to make a sandbox.",
                Alpha,
                &["runtime_handler"],
                default(),
            ),
            run_sandbox_errors: counter_vec(
                "kubelet_run_podsandbox_errors_total",
                "Sandboxes that could not be made.",
                Alpha,
                &["runtime_handler"],
            ),
            pod_start: histogram(
                "kubelet_pod_start_duration_seconds",
                "From the first sight of a pod to its being seen running.",
                Alpha,
                start,
            ),
            pod_worker: histogram_vec(
                "kubelet_pod_worker_duration_seconds",
                "How long one round of a pod took.",
                Alpha,
                &["operation_type"],
                default(),
            ),
            pleg_relist: histogram(
                "kubelet_pleg_relist_duration_seconds",
                "How long listing what runs took.",
                Alpha,
                default(),
            ),
            pleg_interval: histogram(
                "kubelet_pleg_relist_interval_seconds",
                "From one listing of what runs to the next.",
                Alpha,
                default(),
            ),
            pleg_last_seen: gauge(
                "kubelet_pleg_last_seen_seconds",
                "When what runs was last listed, in seconds since 1970.",
                Alpha,
            ),
            runtime_operations: counter_vec(
                "kubelet_runtime_operations_total",
                "Calls to the runtime.",
                Alpha,
                &["operation_type"],
            ),
            runtime_operations_errors: counter_vec(
                "kubelet_runtime_operations_errors_total",
                "Calls to the runtime that failed.",
                Alpha,
                &["operation_type"],
            ),
            runtime_operations_duration: histogram_vec(
                "kubelet_runtime_operations_duration_seconds",
                "How long calls to the runtime took.",
                Alpha,
                &["operation_type"],
                exponential_buckets(0.005, 2.5, 14),
            ),
            http_requests: counter_vec(
                "kubelet_http_requests_total",
                "Requests to the kubelet's API.",
                Alpha,
                &http,
            ),
            http_inflight: gauge_vec(
                "kubelet_http_inflight_requests",
                "Requests to the kubelet's API that are being served.",
                Alpha,
                &http,
            ),
            http_duration: histogram_vec(
                "kubelet_http_requests_duration_seconds",
                "How long requests to the kubelet's API took.",
                Alpha,
                &http,
                default(),
            ),
            preemptions: counter_vec(
                "kubelet_preemptions",
                "Pods ended so that a critical one fits, by the resource that was short.",
                Alpha,
                &["preemption_signal"],
            ),
            must_pull: counter_vec(
                "kubelet_imagemanager_image_mustpull_checks_total",
                "Times that it was judged whether a pod may use an image that is there.",
                Alpha,
                &["result"],
            ),
            cri_losing_support: gauge_vec(
                "kubelet_cri_losing_support",
                "The version of Kubernetes that no longer works with the present runtime.",
                Alpha,
                &["version"],
            ),
            cpu_requests: counter(
                "kubelet_cpu_manager_pinning_requests_total",
                "Containers that asked for processors of their own.",
                Alpha,
            ),
            cpu_errors: counter(
                "kubelet_cpu_manager_pinning_errors_total",
                "Containers that asked for processors of their own and could not have them.",
                Alpha,
            ),
            memory_requests: counter(
                "kubelet_memory_manager_pinning_requests_total",
                "Containers whose memory was to be given from certain nodes.",
                Alpha,
            ),
            memory_errors: counter(
                "kubelet_memory_manager_pinning_errors_total",
                "Containers whose memory could not be given from certain nodes.",
                Alpha,
            ),
            topology_requests: counter(
                "kubelet_topology_manager_admission_requests_total",
                "Pods whose resources were to be aligned.",
                Alpha,
            ),
            topology_errors: counter(
                "kubelet_topology_manager_admission_errors_total",
                "Pods that were refused because their resources could not be aligned.",
                Alpha,
            ),
            topology_duration: histogram(
                "kubelet_topology_manager_admission_duration_ms",
                "How long aligning a pod's resources took, in milliseconds.",
                Alpha,
                exponential_buckets(0.05, 2.0, 15),
            ),
            aligned: counter_vec(
                "kubelet_container_aligned_compute_resources_count",
                "Times that resources were given aligned, by what they are aligned to.",
                Alpha,
                &["boundary", "scope"],
            ),
            aligned_failures: counter_vec(
                "kubelet_container_aligned_compute_resources_failure_count",
                "Times that resources could not be given aligned.",
                Alpha,
                &["boundary", "scope"],
            ),
            pod_certificates: gauge_vec(
                "kubelet_podcertificate_states",
                "Projected certificates of pods, by signer and how they are.",
                Alpha,
                &["signer_name", "state"],
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_registers_and_shows() {
        get().evictions.with_label_values(&["memory.available"]).inc();
        get().running_pods.set(2);
        let text = String::from_utf8(component_base::metrics::encode().unwrap()).unwrap();
        assert!(text.contains("kubelet_evictions{eviction_signal=\"memory.available\"} 1"), "{text}");
        assert!(text.contains("kubelet_running_pods 2"), "{text}");
    }
}
