//! The kubelet's own metrics, with upstream's names and labels. One list: a metric is a field here and a line in [`Metrics::new`].

use std::sync::{Arc, OnceLock};

use component_base::metrics::{
    Stability::{Alpha, Beta},
    counter, counter_vec, exponential_buckets, float_gauge, gauge, gauge_vec, histogram, histogram_vec,
};
use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus::{
    DEFAULT_BUCKETS, Gauge, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    core::{Collector, Desc},
    proto::MetricFamily,
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
    pub restarted_pods: IntCounterVec,
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
    pub pod_start_sli: Histogram,
    pub pod_start_total: Histogram,
    pub first_network_pod: Gauge,
    pub terminated_containers: IntCounterVec,
    pub containers_per_pod: Histogram,
    pub pod_worker_start: Histogram,
    pub working_pods: IntGaugeVec,
    pub ephemeral_containers: IntGauge,
    pub provider: IntGaugeVec,
    pub cgroup_operations: HistogramVec,
    pub startup: [Gauge; 5],
    pub cleaned_volumes: IntGauge,
    pub cleaned_volumes_errors: IntGauge,
    pub user_namespaced: IntCounter,
    pub user_namespaced_errors: IntCounter,
    pub pod_watch_dropped: IntCounter,
    pub hook_fallbacks: IntCounter,
    pub sleep_cut_short: IntCounter,
    pub volume_collection: HistogramVec,
    pub websockets: IntCounterVec,
    pub ensure_image: IntCounterVec,
    pub image_volumes: [IntCounter; 3],
    pub pulled_records: IntGauge,
    pub pull_intents: IntGauge,
    pub shared_pool: IntGauge,
    pub exclusive_cpus: IntGauge,
    pub claim_operations: HistogramVec,
    pub claims_in_use: IntGaugeVec,
    pub storage_operations: HistogramVec,
    pub volume_waits: HistogramVec,
    pub volumes: IntGaugeVec,
    pub requested_resizes: IntCounterVec,
    pub resize_duration: HistogramVec,
    pub resizes_in_progress: IntGauge,
    pub status_sync: Histogram,
    pub credential_providers: IntGaugeVec,
    pub credential_errors: IntCounterVec,
    pub credential_duration: HistogramVec,
    pub admission_rejections: IntCounterVec,
    pub cpus_per_node: IntGaugeVec,
    pub plugin_registrations: IntCounterVec,
    pub plugin_allocations: HistogramVec,
    pub eviction_age: HistogramVec,
    pub images_collected: IntCounterVec,
    pub image_pulls: HistogramVec,
    pub pending_resizes: IntGaugeVec,
    pub infeasible_resizes: IntCounterVec,
    pub accepted_resizes: IntCounterVec,
    pub pod_resources: IntCounterVec,
    pub pod_resources_calls: [IntCounterVec; 3],
    pub pod_resources_errors: [IntCounterVec; 3],
    pub claim_calls: HistogramVec,
    pub csi_calls: HistogramVec,
    pub client_certificate_errors: IntCounter,
    pub serving_certificate_errors: IntCounter,
    pub serving_certificate_age: Histogram,
    pub events_connections: IntCounter,
    pub events_errors: IntCounter,
    pub events_latency: Histogram,
}

/// How long volumes take, in seconds.
const STORAGE: [f64; 13] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 25.0, 50.0, 120.0, 300.0, 600.0];

/// How long pulls of images take, in seconds.
const PULLS: [f64; 18] = [
    1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0,
    2700.0, 3600.0,
];

/// How old certificates get, in seconds: from a minute to four years.
const LIVES: [f64; 10] = [
    60.0,
    3600.0,
    14_400.0,
    86_400.0,
    604_800.0,
    2_592_000.0,
    7_776_000.0,
    15_552_000.0,
    31_104_000.0,
    124_416_000.0,
];

/// How long resizes take, in milliseconds.
const RESIZES: [f64; 14] = [
    10.0, 50.0, 100.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0, 20_000.0, 30_000.0, 60_000.0, 120_000.0,
    300_000.0, 600_000.0,
];

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
            restarted_pods: counter_vec(
                "kubelet_restarted_pods_total",
                "Pods that came back under their uid before they had ended, by whether they are static.",
                Alpha,
                &["static"],
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
                start.clone(),
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
            pod_start_sli: histogram(
                "kubelet_pod_start_sli_duration_seconds",
                "From a pod's creation to the sight of all its containers running, without pulls and init containers.",
                Alpha,
                start.clone(),
            ),
            pod_start_total: histogram(
                "kubelet_pod_start_total_duration_seconds",
                "From a pod's creation to the sight of all its containers running, pulls and init containers included.",
                Alpha,
                start.clone(),
            ),
            first_network_pod: float_gauge(
                "kubelet_first_network_pod_start_sli_duration_seconds",
                "How long the first pod with a network of its own took to start, without pulls and init containers.",
                Alpha,
            ),
            terminated_containers: counter_vec(
                "kubelet_terminated_containers_total",
                "Containers that have ended.",
                Alpha,
                &["container_type", "exit_code", "reason"],
            ),
            containers_per_pod: histogram(
                "kubelet_containers_per_pod_count",
                "Containers of pods.",
                Alpha,
                exponential_buckets(1.0, 2.0, 5),
            ),
            pod_worker_start: histogram(
                "kubelet_pod_worker_start_duration_seconds",
                "From the sight of a pod to the start of its worker.",
                Alpha,
                default(),
            ),
            working_pods: gauge_vec(
                "kubelet_working_pods",
                "Pods that are worked on, by how far they are and whether anybody still wants them.",
                Alpha,
                &["config", "lifecycle", "static"],
            ),
            ephemeral_containers: gauge(
                "kubelet_managed_ephemeral_containers",
                "Ephemeral containers of the pods of this node.",
                Alpha,
            ),
            provider: gauge_vec(
                "kubelet_metrics_provider",
                "Where figures of containers come from.",
                Alpha,
                &["provider"],
            ),
            cgroup_operations: histogram_vec(
                "kubelet_cgroup_manager_duration_seconds",
                "How long making, setting and removing cgroups took.",
                Alpha,
                &["operation_type"],
                default(),
            ),
            startup: [
                (
                    "kubelet_node_startup_pre_kubelet_duration_seconds",
                    "From the machine's start to the kubelet's, in seconds.",
                ),
                (
                    "kubelet_node_startup_pre_registration_duration_seconds",
                    "From the kubelet's start to its first try to register the node, in seconds.",
                ),
                (
                    "kubelet_node_startup_registration_duration_seconds",
                    "From the first try to register the node to its success, in seconds.",
                ),
                (
                    "kubelet_node_startup_post_registration_duration_seconds",
                    "From the node's registration to its being ready, in seconds.",
                ),
                (
                    "kubelet_node_startup_duration_seconds",
                    "From the machine's start to the node's being ready, in seconds.",
                ),
            ]
            .map(|(name, help)| float_gauge(name, help, Alpha)),
            cleaned_volumes: gauge(
                "kubelet_orphan_pod_cleaned_volumes",
                "Orphaned pods whose volumes were looked at in the last round.",
                Alpha,
            ),
            cleaned_volumes_errors: gauge(
                "kubelet_orphan_pod_cleaned_volumes_errors",
                "Orphaned pods whose volumes could not be cleaned up in the last round.",
                Alpha,
            ),
            user_namespaced: counter(
                "kubelet_started_user_namespaced_pods_total",
                "Pods started in a user namespace.",
                Alpha,
            ),
            pod_watch_dropped: counter(
                "kubelet_pod_watch_events_dropped_total",
                "Changes of pods that those who watch were too slow for.",
                Alpha,
            ),
            user_namespaced_errors: counter(
                "kubelet_started_user_namespaced_pods_errors_total",
                "Failed starts of pods in a user namespace.",
                Alpha,
            ),
            hook_fallbacks: counter(
                "kubelet_lifecycle_handler_http_fallbacks_total",
                "Lifecycle hooks over HTTPS that were answered over HTTP and made so again.",
                Alpha,
            ),
            sleep_cut_short: counter(
                "kubelet_sleep_action_terminated_early_total",
                "Lifecycle hooks that slept and were ended before their time.",
                Alpha,
            ),
            volume_collection: histogram_vec(
                "kubelet_volume_metric_collection_duration_seconds",
                "How long measuring volumes took.",
                Alpha,
                &["metric_source"],
                default(),
            ),
            websockets: counter_vec(
                "kubelet_websocket_streaming_requests_total",
                "Streams that were asked for over WebSocket.",
                Alpha,
                &["subresource"],
            ),
            ensure_image: counter_vec(
                "kubelet_image_manager_ensure_image_requests_total",
                "Times that an image was to be there.",
                Alpha,
                &["present_locally", "pull_policy", "pull_required"],
            ),
            image_volumes: [
                ("kubelet_image_volume_requested_total", "Image volumes that were asked for."),
                (
                    "kubelet_image_volume_mounted_succeed_total",
                    "Image volumes that containers were made with.",
                ),
                (
                    "kubelet_image_volume_mounted_errors_total",
                    "Image volumes of containers that could not be made.",
                ),
            ]
            .map(|(name, help)| counter(name, help, Beta)),
            pulled_records: gauge(
                "kubelet_imagemanager_ondisk_pulledrecords",
                "Records of images that were pulled.",
                Alpha,
            ),
            pull_intents: gauge(
                "kubelet_imagemanager_ondisk_pullintents",
                "Records of pulls that go on.",
                Alpha,
            ),
            shared_pool: gauge(
                "kubelet_cpu_manager_shared_pool_size_millicores",
                "Thousandths of processors that no container has for itself.",
                Alpha,
            ),
            exclusive_cpus: gauge(
                "kubelet_cpu_manager_exclusive_cpu_allocation_count",
                "Processors that containers have for themselves.",
                Alpha,
            ),
            claim_operations: histogram_vec(
                "dra_operations_duration_seconds",
                "How long making all claims of a pod ready took, or taking them back.",
                Alpha,
                &["is_error", "operation_name"],
                // From 0.1 to 40 in 15 steps.
                exponential_buckets(0.1, 400_f64.powf(1.0 / 14.0), 15),
            ),
            claims_in_use: gauge_vec(
                "dra_resource_claims_in_use",
                "Claims in use on the node, by driver and all together.",
                Alpha,
                &["driver_name"],
            ),
            storage_operations: histogram_vec(
                "storage_operation_duration_seconds",
                "How long setting up volumes took.",
                Alpha,
                &["migrated", "operation_name", "status", "volume_plugin"],
                STORAGE.to_vec(),
            ),
            volume_waits: histogram_vec(
                "volume_operation_total_seconds",
                "How long pods waited for their volumes.",
                Alpha,
                &["operation_name", "plugin_name"],
                STORAGE.to_vec(),
            ),
            volumes: gauge_vec(
                "volume_manager_total_volumes",
                "Volumes of the pods of this node.",
                Alpha,
                &["plugin_name", "state"],
            ),
            requested_resizes: counter_vec(
                "kubelet_container_requested_resizes_total",
                "Resources of containers that were asked to change.",
                Alpha,
                &["operation", "requirement", "resource"],
            ),
            resize_duration: histogram_vec(
                "kubelet_pod_resize_duration_milliseconds",
                "How long resizing a pod's containers where they run took, in milliseconds.",
                Alpha,
                &["success"],
                RESIZES.to_vec(),
            ),
            resizes_in_progress: gauge(
                "kubelet_pod_in_progress_resizes",
                "Pods whose containers do not have yet what the pod was given.",
                Alpha,
            ),
            status_sync: histogram(
                "kubelet_pod_status_sync_duration_seconds",
                "From a change of a pod's status until the API server has it, however many changes there were.",
                Alpha,
                vec![0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0],
            ),
            credential_providers: gauge_vec(
                "kubelet_credential_provider_config_info",
                "The configuration of credential providers, by its sum.",
                Alpha,
                &["hash"],
            ),
            credential_errors: counter_vec(
                "kubelet_credential_provider_plugin_errors_total",
                "Times that a credential provider failed.",
                Alpha,
                &["plugin_name"],
            ),
            credential_duration: histogram_vec(
                "kubelet_credential_provider_plugin_duration",
                "How long credential providers took, in seconds.",
                Alpha,
                &["plugin_name"],
                default(),
            ),
            admission_rejections: counter_vec(
                "kubelet_admission_rejections_total",
                "Pods that the node did not take, by the reason.",
                Alpha,
                &["reason"],
            ),
            cpus_per_node: gauge_vec(
                "kubelet_cpu_manager_allocation_per_numa",
                "Processors that containers have for themselves, by the memory node they are near.",
                Alpha,
                &["numa_node"],
            ),
            plugin_registrations: counter_vec(
                "kubelet_device_plugin_registration_total",
                "Times that a device plugin registered for a resource.",
                Alpha,
                &["resource_name"],
            ),
            plugin_allocations: histogram_vec(
                "kubelet_device_plugin_alloc_duration_seconds",
                "How long device plugins took to prepare devices.",
                Alpha,
                &["resource_name"],
                default(),
            ),
            eviction_age: histogram_vec(
                "kubelet_eviction_stats_age_seconds",
                "How old the figures were by which a pod was evicted.",
                Alpha,
                &["eviction_signal"],
                default(),
            ),
            images_collected: counter_vec(
                "kubelet_image_garbage_collected_total",
                "Images that were removed because nobody used them, for want of space or for their age.",
                Alpha,
                &["reason"],
            ),
            image_pulls: histogram_vec(
                "kubelet_image_pull_duration_seconds",
                "How long pulling an image took, by its size.",
                Alpha,
                &["image_size_in_bytes"],
                PULLS.to_vec(),
            ),
            pending_resizes: gauge_vec(
                "kubelet_pod_pending_resizes",
                "Pods that do not get the resources they now want.",
                Alpha,
                &["reason"],
            ),
            infeasible_resizes: counter_vec(
                "kubelet_pod_infeasible_resizes_total",
                "Resizes that this node can never give.",
                Alpha,
                &["reason_detail"],
            ),
            accepted_resizes: counter_vec(
                "kubelet_pod_deferred_accepted_resizes_total",
                "Resizes that were given after they had been put off.",
                Alpha,
                &["retry_trigger"],
            ),
            pod_resources: counter_vec(
                "kubelet_pod_resources_endpoint_requests_total",
                "Calls of the API of pod resources.",
                Alpha,
                &["server_api_version"],
            ),
            pod_resources_calls: [
                ("kubelet_pod_resources_endpoint_requests_list", "Calls that list pod resources."),
                (
                    "kubelet_pod_resources_endpoint_requests_get_allocatable",
                    "Calls that ask what there is for pods.",
                ),
                ("kubelet_pod_resources_endpoint_requests_get", "Calls that ask for one pod's resources."),
            ]
            .map(|(name, help)| counter_vec(name, help, Alpha, &["server_api_version"])),
            pod_resources_errors: [
                ("kubelet_pod_resources_endpoint_errors_list", "Failed calls that list pod resources."),
                (
                    "kubelet_pod_resources_endpoint_errors_get_allocatable",
                    "Failed calls that ask what there is for pods.",
                ),
                (
                    "kubelet_pod_resources_endpoint_errors_get",
                    "Failed calls that ask for one pod's resources.",
                ),
            ]
            .map(|(name, help)| counter_vec(name, help, Alpha, &["server_api_version"])),
            claim_calls: histogram_vec(
                "dra_grpc_operations_duration_seconds",
                "How long drivers of dynamic resources took to answer.",
                Alpha,
                &["driver_name", "grpc_status_code", "method_name"],
                // From 0.1 to 40 in 15 steps.
                exponential_buckets(0.1, 400_f64.powf(1.0 / 14.0), 15),
            ),
            csi_calls: histogram_vec(
                "csi_operations_seconds",
                "How long drivers of volumes took to answer.",
                Alpha,
                &["driver_name", "grpc_status_code", "method_name", "migrated"],
                STORAGE.to_vec(),
            ),
            client_certificate_errors: counter(
                "certificate_manager_client_expiration_renew_errors",
                "Times that no new client certificate could be had.",
                Alpha,
            ),
            serving_certificate_errors: counter(
                "kubelet_server_expiration_renew_errors",
                "Times that no new serving certificate could be had.",
                Alpha,
            ),
            serving_certificate_age: histogram(
                "kubelet_certificate_manager_server_rotation_seconds",
                "How old serving certificates were when they were replaced, in seconds.",
                Alpha,
                LIVES.to_vec(),
            ),
            events_connections: counter(
                "kubelet_evented_pleg_connection_success_count",
                "Times that the runtime began to tell its events.",
                Alpha,
            ),
            events_errors: counter(
                "kubelet_evented_pleg_connection_error_count",
                "Times that the runtime did not tell its events, or no longer.",
                Alpha,
            ),
            events_latency: histogram(
                "kubelet_evented_pleg_connection_latency_seconds",
                "How old the runtime's events were when they came.",
                Alpha,
                default(),
            ),
        }
    }
}

/// When a certificate ends, as it is when somebody looks: so many seconds from then.
#[derive(Debug, Clone)]
pub struct Ttl {
    until: Arc<Mutex<Option<Timestamp>>>,
    gauge: Gauge,
}

impl Ttl {
    /// Shows it under this name.
    #[must_use]
    pub fn shown(name: &'static str, help: &'static str) -> Self {
        let make = || {
            let gauge = Gauge::new(name, format!("[ALPHA] {help}"))?;
            Ok(Self { until: Arc::default(), gauge })
        };
        component_base::metrics::collector(make)
    }

    /// It ends then; `None` is an end nobody knows.
    pub fn set(&self, until: Option<Timestamp>) {
        *self.until.lock() = until;
    }

    fn left(&self, now: Timestamp) -> f64 {
        let left = self.until.lock().map(|until| until.duration_since(now));
        left.map_or(f64::INFINITY, |left| left.as_secs_f64().trunc())
    }
}

impl Collector for Ttl {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauge.set(self.left(Timestamp::now()));
        self.gauge.collect()
    }
}

/// The name of an image's size.
#[must_use]
pub fn image_size(bytes: u64) -> &'static str {
    const MB: u64 = 1 << 20;
    const GB: u64 = 1 << 30;
    const SIZES: [(u64, &str); 12] = [
        (100 * GB, "GT100GB"),
        (60 * GB, "60GB-100GB"),
        (40 * GB, "40GB-60GB"),
        (30 * GB, "30GB-40GB"),
        (20 * GB, "20GB-30GB"),
        (10 * GB, "10GB-20GB"),
        (5 * GB, "5GB-10GB"),
        (GB, "1GB-5GB"),
        (500 * MB, "500MB-1GB"),
        (100 * MB, "100MB-500MB"),
        (10 * MB, "10MB-100MB"),
        (0, "0-10MB"),
    ];
    SIZES.into_iter().find(|(more_than, _)| bytes > *more_than).map_or("N/A", |(_, name)| name)
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

    #[test]
    fn sizes_of_images_have_upstreams_names() {
        for (bytes, name) in [
            (0, "N/A"),
            (1, "0-10MB"),
            (10 << 20, "0-10MB"),
            ((10 << 20) + 1, "10MB-100MB"),
            (3 << 30, "1GB-5GB"),
            (u64::MAX, "GT100GB"),
        ] {
            assert_eq!(image_size(bytes), name, "{bytes}");
        }
    }

    #[test]
    fn a_certificates_end_comes_nearer() {
        let ttl = Ttl::shown("kubelet_test_ttl_seconds", "When it ends.");
        let now = crate::testing::at(1000);
        assert!(ttl.left(now).is_infinite());
        ttl.set(Some(crate::testing::at(1060)));
        assert_eq!(ttl.left(now), 60.0);
        assert_eq!(ttl.left(crate::testing::at(1070)), -10.0);
        let text = String::from_utf8(component_base::metrics::encode().unwrap()).unwrap();
        assert!(text.contains("kubelet_test_ttl_seconds -"), "{text}");
    }

    /// Names of upstream's that are not here, each by how it begins, and why.
    const ABSENT: &[(&str, &str)] = &[
        ("aggregator_discovery_", "of an API server's libraries, always zero in a kubelet"),
        ("apiserver_audit_", "of an API server's libraries, always zero in a kubelet"),
        ("apiserver_envelope_", "of an API server's libraries, always zero in a kubelet"),
        ("apiserver_storage_", "of an API server's libraries, always zero in a kubelet"),
        ("apiserver_validation_", "of an API server's libraries, always zero in a kubelet"),
        ("apiserver_webhooks_", "of an API server's libraries, always zero in a kubelet"),
        ("cardinality_enforcement_unexpected_categorizations_total", "labels are not bounded by lists here"),
        (
            "force_cleaned_failed_volume_operation",
            "volumes are not reconstructed: what is set up is written down",
        ),
        ("reconstruct_volume_operations_", "volumes are not reconstructed: what is set up is written down"),
        ("kubelet_pleg_discard_events", "there is no queue of events that could be full"),
        ("kubelet_pleg_pod_relist_duration_seconds", "pods are listed all at once"),
        ("kubelet_imagemanager_inmemory_", "records of pulls are read from the disk, not kept in memory"),
        ("rest_client_exec_plugin_", "programs for credentials are not run by the client"),
        ("rest_client_transport_", "connections are not pooled by their configuration"),
    ];

    /// All that is written in the sources of a crate beside this one, except what stands here.
    fn sources(of: &str) -> String {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(of);
        let (mut folders, mut all) = (vec![root], String::new());
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = std::fs::read_to_string(path).unwrap();
                    all.push_str(text.split("const ABSENT").next().unwrap());
                }
            }
        }
        all
    }

    #[test]
    fn upstreams_names_are_here_or_known_to_be_missing() {
        let Some(folder) = component_base::reference::reference("metrics") else { return };
        let list = std::fs::read_to_string(folder.join("kubelet.tsv")).unwrap();
        let names: Vec<&str> = list.lines().skip(1).filter_map(|line| line.split('\t').next()).collect();
        assert!(names.len() > 100, "{}", names.len());
        let written = sources("src") + &sources("../component-base/src");
        let is_served = |name: &str| written.contains(&format!("\"{name}\""));
        let is_absent = |name: &str| ABSENT.iter().any(|(begins, _)| name.starts_with(begins));
        for name in &names {
            assert!(is_served(name) != is_absent(name), "{name} is served and said to be absent, or neither");
        }
        for (begins, why) in ABSENT {
            assert!(names.iter().any(|name| name.starts_with(begins)), "{begins} is none of upstream's");
            assert!(!why.is_empty());
        }
    }
}
