//! What a KubeletConfiguration may say. Pure.
//!
//! Contract: upstream's `pkg/kubelet/apis/config/validation`, with what its kubelet refuses when it starts; messages are
//! upstream's. What depends on the machine is checked when the kubelet is built.

use std::{collections::BTreeMap, path::Path, time::Duration};

use component_base::{
    features::{Gate, Gates},
    selector::{Operator, Requirement},
    traces::TracingConfiguration,
};
use k8s_openapi::api::core::v1::Taint;

use super::file::KubeletConfiguration;
use crate::{cgroup::Driver, pod::resources, userns, worker::backoff};

/// What may be enforced with nothing else.
const NONE: &str = "none";
/// What may be kept from pods.
const RESERVABLE: [&str; 4] = ["cpu", "memory", "ephemeral-storage", "pid"];

/// Everything that is wrong.
#[must_use]
pub fn check(file: &KubeletConfiguration, gates: Gates) -> Vec<String> {
    let mut wrong = Vec::new();
    numbers(file, &mut wrong);
    images(file, &mut wrong);
    cgroups(file, gates, &mut wrong);
    pods(file, gates, &mut wrong);
    enforcement(file, &mut wrong);
    shutdown(file, gates, &mut wrong);
    logs(file, gates, &mut wrong);
    others(file, &mut wrong);
    wrong
}

/// Numbers within their ranges.
fn numbers(file: &KubeletConfiguration, wrong: &mut Vec<String>) {
    if file.node_lease_duration_seconds <= 0 {
        wrong.push("nodeLeaseDurationSeconds must be greater than 0".to_owned());
    }
    for (value, name) in [
        (i64::from(file.event_burst), "eventBurst (--event-burst)"),
        (i64::from(file.event_record_qps), "eventRecordQPS (--event-qps)"),
        (i64::from(file.kube_api_burst), "kubeAPIBurst (--kube-api-burst)"),
        (i64::from(file.kube_api_qps), "kubeAPIQPS (--kube-api-qps)"),
        (file.max_open_files, "maxOpenFiles (--max-open-files)"),
        (i64::from(file.max_pods), "maxPods (--max-pods)"),
        (i64::from(file.pods_per_core), "podsPerCore (--pods-per-core)"),
        (i64::from(file.registry_burst), "registryBurst (--registry-burst)"),
        (i64::from(file.registry_pull_qps), "registryPullQPS (--registry-qps)"),
    ] {
        if value < 0 {
            wrong.push(format!("{name} {value} must not be a negative number"));
        }
    }
    for (value, name, most) in [
        (
            i32::from(file.image_gc_high_threshold_percent),
            "imageGCHighThresholdPercent (--image-gc-high-threshold)",
            100,
        ),
        (
            i32::from(file.image_gc_low_threshold_percent),
            "imageGCLowThresholdPercent (--image-gc-low-threshold)",
            100,
        ),
        (file.iptables_drop_bit, "iptablesDropBit (--iptables-drop-bit)", 31),
        (file.iptables_masquerade_bit, "iptablesMasqueradeBit (--iptables-masquerade-bit)", 31),
    ] {
        if !(0..=most).contains(&value) {
            wrong.push(format!("{name} {value} must be between 0 and {most}, inclusive"));
        }
    }
    if file.node_status_max_images < -1 {
        let value = file.node_status_max_images;
        wrong.push(format!("nodeStatusMaxImages (--node-status-max-images) {value} must be -1 or greater"));
    }
    if !(-1000..=1000).contains(&file.oom_score_adj) {
        let value = file.oom_score_adj;
        wrong
            .push(format!("oomScoreAdj (--oom-score-adj) {value} must be between -1000 and 1000, inclusive"));
    }
}

/// Images: when they go, how many are pulled at a time.
fn images(file: &KubeletConfiguration, wrong: &mut Vec<String>) {
    let (low, high) = (file.image_gc_low_threshold_percent, file.image_gc_high_threshold_percent);
    if low >= high {
        wrong.push(format!(
            "imageGCLowThresholdPercent (--image-gc-low-threshold) {low} must be less than imageGCHighThresholdPercent \
             (--image-gc-high-threshold) {high}"
        ));
    }
    let (least, most) = (file.image_minimum_gc_age.0, file.image_maximum_gc_age.0);
    if !most.is_zero() && most <= least {
        let [least, most] = [least, most].map(component_base::goduration::format);
        wrong.push(format!("imageMaximumGCAge {most} must be greater than imageMinimumGCAge {least}"));
    }
    if let Some(most) = file.max_parallel_image_pulls {
        if most < 1 {
            wrong.push(format!("maxParallelImagePulls {most} must be a positive number"));
        }
        if most > 1 && file.serialize_image_pulls == Some(true) {
            wrong.push(
                "maxParallelImagePulls cannot be larger than 1 unless SerializeImagePulls (--serialize-image-pulls) \
                 is set to false"
                    .to_owned(),
            );
        }
    }
}

/// cgroups, and what pods get of the machine by them.
fn cgroups(file: &KubeletConfiguration, gates: Gates, wrong: &mut Vec<String>) {
    if Driver::named(&file.cgroup_driver).is_none() {
        wrong.push("cgroupDriver (--cgroup-driver) must be one of: \"cgroupfs\", or \"systemd\"".to_owned());
    }
    if !file.system_cgroups.is_empty() {
        if file.cgroup_root.is_empty() {
            wrong.push(
                "systemCgroups (--system-cgroups) was specified and cgroupRoot (--cgroup-root) was not specified"
                    .to_owned(),
            );
        }
        if file.system_cgroups == "/" {
            wrong.push("system container cannot be root (\"/\")".to_owned());
        }
    }
    if file.server_tls_bootstrap && !gates.has(Gate::RotateKubeletServerCertificate) {
        wrong.push("serverTLSBootstrap true requires feature gate RotateKubeletServerCertificate".to_owned());
    }
    let period = file.cpu_cfs_quota_period.0;
    let text = component_base::goduration::format(period);
    let custom = gates.has(Gate::CustomCPUCFSQuotaPeriod);
    if !custom && period != Duration::from_millis(100) {
        wrong.push(format!(
            "cpuCFSQuotaPeriod (--cpu-cfs-quota-period) {text} requires feature gate CustomCPUCFSQuotaPeriod"
        ));
    }
    if custom && !(Duration::from_millis(1)..=Duration::from_secs(1)).contains(&period) {
        wrong.push(format!(
            "cpuCFSQuotaPeriod (--cpu-cfs-quota-period) {text} must be between 1ms and 1sec, inclusive"
        ));
    }
    if let Err(text) = qos_reserved(&file.qos_reserved) {
        wrong.push(format!("--qos-reserved value failed to parse: {text}"));
    }
    let factor = file.memory_throttling_factor;
    if !(factor > 0.0 && factor <= 1.0) {
        wrong.push(format!(
            "memoryThrottlingFactor {factor} must be greater than 0 and less than or equal to 1.0"
        ));
    }
    match file.memory_reservation_policy.as_str() {
        "None" => {}
        policy @ "TieredReservation" => {
            if !gates.has(Gate::MemoryQoS) {
                wrong.push(format!(
                    "memoryReservationPolicy {policy:?} requires MemoryQoS feature gate to be enabled"
                ));
            }
        }
        other => wrong.push(format!(
            "option {other:?} specified for memoryReservationPolicy. Valid options are \"None\" or \"TieredReservation\""
        )),
    }
    if let Some(ids) = file.user_namespaces.as_ref().and_then(|users| users.ids_per_pod) {
        let unit = i64::from(userns::LENGTH);
        if ids < unit {
            wrong.push(format!("userNamespaces.idsPerPod must not be less than {unit}"));
        }
        if ids % unit != 0 {
            wrong.push(format!("userNamespaces.idsPerPod must be a multiple of {unit}"));
        }
        if ids > i64::from(u32::MAX) {
            wrong.push(format!("userNamespaces.idsPerPod must not be more than {}", u32::MAX));
        }
    }
}

/// What pods and their node are given.
fn pods(file: &KubeletConfiguration, gates: Gates, wrong: &mut Vec<String>) {
    if file.run_once {
        wrong.push(
            "runOnce (--runOnce) true, Runonce mode has been deprecated and should not be set".to_owned(),
        );
    }
    for taint in &file.register_with_taints {
        if !is_taint(taint) {
            let value = taint.value.as_deref().unwrap_or_default();
            wrong.push(format!("invalid taint: {}={value}:{}", taint.key, taint.effect));
        }
        if taint.time_added.is_some() {
            wrong.push("taint.TimeAdded is not nil".to_owned());
        }
    }
    for (list, flag) in
        [(&file.system_reserved, "--system-reserved"), (&file.kube_reserved, "--kube-reserved")]
    {
        for (name, text) in list {
            let why = match resources::milli(text) {
                _ if !RESERVABLE.contains(&name.as_str()) => format!("cannot reserve {name:?} resource"),
                None => format!("failed to parse quantity {text:?} for {name:?} resource"),
                Some(amount) if amount < 0 => {
                    format!("resource quantity for {name:?} cannot be negative: {text}")
                }
                Some(_) => continue,
            };
            wrong.push(format!("{flag} value failed to parse: {why}"));
        }
    }
    let longest = file.crash_loop_back_off.longest();
    let may_say = gates.has(Gate::KubeletCrashLoopBackOffMax);
    if !may_say && file.crash_loop_back_off.max_container_restart_period.is_some_and(|d| d.0 != backoff::MAX)
    {
        wrong.push(
            "FeatureGate KubeletCrashLoopBackOffMax not enabled, CrashLoopBackOff.MaxContainerRestartPeriod must not be set"
                .to_owned(),
        );
    }
    if may_say && !(Duration::from_secs(1)..=backoff::MAX).contains(&longest) {
        let seconds = longest.as_secs_f64();
        wrong.push(format!(
            "CrashLoopBackOff.MaxContainerRestartPeriod (got: {seconds} seconds) must be set between 1s and 300s"
        ));
    }
    let strategy = &file.config_map_and_secret_change_detection_strategy;
    if !["Get", "Cache", "Watch"].contains(&strategy.as_str()) {
        wrong.push(format!("unknown configmap and secret manager mode: {strategy:?}"));
    }
    if !["none", "hairpin-veth", "promiscuous-bridge"].contains(&file.hairpin_mode.as_str()) {
        wrong.push(format!(
            "option {:?} specified for hairpinMode (--hairpin-mode). Valid options are \"none\", \"hairpin-veth\" or \
             \"promiscuous-bridge\"",
            file.hairpin_mode
        ));
    }
}

fn is_taint(taint: &Taint) -> bool {
    let value = taint.value.clone().unwrap_or_default();
    let effects = ["", "NoSchedule", "PreferNoSchedule", "NoExecute"];
    // A selector for the taint as a label is right when key and value are.
    Requirement::new(&taint.key, Operator::In, vec![value]).is_ok()
        && effects.contains(&taint.effect.as_str())
}

/// What of the memory of higher classes is kept from lower ones, in percent.
///
/// # Errors
/// For what is no percentage, and for all resources but memory.
pub fn qos_reserved(said: &BTreeMap<String, String>) -> Result<Option<i64>, String> {
    let mut memory = None;
    for (name, text) in said {
        if name != resources::MEMORY {
            return Err(format!("cannot reserve {name:?} resource"));
        }
        let percent = text.strip_suffix('%').and_then(|number| number.parse().ok());
        let percent = percent.filter(|percent| (0..=100).contains(percent));
        memory = Some(
            percent.ok_or_else(|| format!("failed to parse percentage {text:?} for {name:?} resource"))?,
        );
    }
    Ok(memory)
}

/// What is held to what is kept for it, and in which cgroup.
fn enforcement(file: &KubeletConfiguration, wrong: &mut Vec<String>) {
    let all = &file.enforce_node_allocatable;
    let has = |name: &str| all.iter().any(|one| one == name);
    for (whole, part) in
        [("system-reserved", "system-reserved-compressible"), ("kube-reserved", "kube-reserved-compressible")]
    {
        if has(whole) && has(part) {
            wrong.push(format!(
                "both {whole:?} and {part:?} cannot be specified together in enforceNodeAllocatable \
                 (--enforce-node-allocatable)"
            ));
        }
    }
    for (i, one) in all.iter().enumerate() {
        if all[..i].contains(one) {
            wrong.push(format!(
                "duplicated enforcements {one:?} in enforceNodeAllocatable (--enforce-node-allocatable)"
            ));
            continue;
        }
        let needs = match one.as_str() {
            "pods" => None,
            "system-reserved" | "system-reserved-compressible" => Some((
                &file.system_reserved_cgroup,
                "systemReservedCgroup (--system-reserved-cgroup)",
                "system-reserved",
            )),
            "kube-reserved" | "kube-reserved-compressible" => Some((
                &file.kube_reserved_cgroup,
                "kubeReservedCgroup (--kube-reserved-cgroup)",
                "kube-reserved",
            )),
            NONE => {
                if all.len() > 1 {
                    wrong.push(format!(
                        "enforceNodeAllocatable (--enforce-node-allocatable) may not contain additional enforcements \
                         when {NONE:?} is specified"
                    ));
                }
                continue;
            }
            other => {
                wrong.push(format!(
                    "option {other:?} specified for enforceNodeAllocatable (--enforce-node-allocatable). Valid options \
                     are \"pods\", \"system-reserved\", \"system-reserved-compressible\", \"kube-reserved\", \
                     \"kube-reserved-compressible\" or \"none\""
                ));
                continue;
            }
        };
        if let Some((_, field, key)) = needs.filter(|(cgroup, ..)| cgroup.is_empty()) {
            wrong.push(format!(
                "{field} must be specified when {key:?} or \"{key}-compressible\" included in enforceNodeAllocatable \
                 (--enforce-node-allocatable)"
            ));
        }
        if !file.cgroups_per_qos {
            wrong.push(format!(
                "cgroupsPerQOS (--cgroups-per-qos) must be set to true when {one:?} contained in enforceNodeAllocatable \
                 (--enforce-node-allocatable)"
            ));
        }
    }
    let named = !file.system_reserved_cgroup.is_empty() || !file.kube_reserved_cgroup.is_empty();
    if !file.reserved_system_cpus.is_empty() && named {
        wrong.push(
            "can't use reservedSystemCPUs (--reserved-cpus) with systemReservedCgroup (--system-reserved-cgroup) or \
             kubeReservedCgroup (--kube-reserved-cgroup)"
                .to_owned(),
        );
    }
}

/// How much time pods get when the machine goes down.
fn shutdown(file: &KubeletConfiguration, gates: Gates, wrong: &mut Vec<String>) {
    let (all, critical) = (file.shutdown_grace_period.0, file.shutdown_grace_period_critical_pods.0);
    let format = component_base::goduration::format;
    let (graceful, by_priority) =
        (gates.has(Gate::GracefulNodeShutdown), gates.has(Gate::GracefulNodeShutdownBasedOnPodPriority));
    if !graceful && all.max(critical) > Duration::ZERO {
        wrong.push(
            "specifying shutdownGracePeriod or shutdownGracePeriodCriticalPods requires feature gate GracefulNodeShutdown"
                .to_owned(),
        );
    }
    if !by_priority && !file.shutdown_grace_period_by_pod_priority.is_empty() {
        wrong.push(
            "Specifying shutdownGracePeriodByPodPriority requires feature gate GracefulNodeShutdownBasedOnPodPriority"
                .to_owned(),
        );
    }
    if critical > all {
        let [critical, all] = [critical, all].map(format);
        wrong
            .push(format!("shutdownGracePeriodCriticalPods {critical} must be <= shutdownGracePeriod {all}"));
    }
    for (time, name) in [(all, "shutdownGracePeriod"), (critical, "shutdownGracePeriodCriticalPods")] {
        if !time.is_zero() && time < Duration::from_secs(1) {
            wrong.push(format!("{name} {} must be either zero or otherwise >= 1 sec", format(time)));
        }
    }
    if !file.shutdown_grace_period_by_pod_priority.is_empty() && all.max(critical) > Duration::ZERO {
        wrong.push(
            "Cannot specify both shutdownGracePeriodByPodPriority and shutdownGracePeriod at the same time"
                .to_owned(),
        );
    }
}

/// Logs of containers and of the kubelet itself.
fn logs(file: &KubeletConfiguration, gates: Gates, wrong: &mut Vec<String>) {
    let mut must = |is: bool, text: String| {
        if !is {
            wrong.push(text);
        }
    };
    must(
        file.container_log_max_workers >= 1,
        "containerLogMaxWorkers must be greater than or equal to 1".to_owned(),
    );
    must(
        file.container_log_monitor_interval.0 >= Duration::from_secs(3),
        "containerLogMonitorInterval must be a positive time duration greater than or equal to 3s".to_owned(),
    );
    must(file.container_log_max_files > 1, "containerLogMaxFiles must be greater than 1".to_owned());
    must(
        resources::whole(&file.container_log_max_size).is_some_and(|size| size > 0),
        format!("failed to parse containerLogMaxSize {:?}", file.container_log_max_size),
    );
    let folder = file.pod_logs_dir.as_path();
    must(folder.is_absolute(), format!("pod logs path {folder:?} must be absolute path"));
    must(is_clean(folder), format!("pod logs path {folder:?} must be normalized"));
    must(
        folder.as_os_str().is_ascii(),
        format!("pod logs path {folder:?} mut contains ASCII characters only"),
    );
    let format = &file.logging.format;
    must(
        ["text", "json"].contains(&format.as_str()),
        format!("logging.format: {format:?}: Unsupported log format"),
    );
    must(
        file.logging.flush_period().is_some(),
        format!(
            "logging.flushFrequency: Invalid value: {}: Must be greater than zero",
            file.logging.flush_frequency
        ),
    );
    must(
        format != "json" || gates.has(Gate::LoggingBetaOptions),
        "logging.format: Forbidden: Log format json is disabled, see LoggingBetaOptions feature".to_owned(),
    );
    for format in ["text", "json"] {
        for (option, is_asked) in [
            ("splitStream", file.logging.splits(format)),
            ("infoBufferSize", file.logging.buffer(format) != Some(0)),
        ] {
            must(
                !is_asked || gates.has(Gate::LoggingAlphaOptions),
                format!(
                    "logging.options.{format}.{option}: Forbidden: Feature LoggingAlphaOptions is disabled"
                ),
            );
        }
        must(
            file.logging.buffer(format).is_some(),
            format!("logging.options.{format}.infoBufferSize: must be a quantity that is not negative"),
        );
    }
    let version = &file.show_hidden_metrics_for_version;
    must(
        matches!(version.as_str(), "" | "1.35"),
        "--show-hidden-metrics-for-version must be omitted or have the value '1.35'. Only the previous minor version is \
         allowed"
            .to_owned(),
    );
    must(
        !file.enable_system_log_query || file.enable_system_log_handler,
        "enableSystemLogHandler is required for enableSystemLogQuery".to_owned(),
    );
}

/// The path is written in the shortest way.
fn is_clean(path: &Path) -> bool {
    let text = path.to_string_lossy();
    let parts = || text.trim_start_matches('/').split('/');
    text == "/" || parts().all(|part| !part.is_empty() && part != "." && part != "..")
}

/// What this kubelet has one way only, and how it is reached.
fn others(file: &KubeletConfiguration, wrong: &mut Vec<String>) {
    let endpoint = &file.container_runtime_endpoint;
    if !endpoint.starts_with("unix://") && !endpoint.starts_with('/') {
        wrong.push("the containerRuntimeEndpoint was not specified or is not a unix socket".to_owned());
    }
    if let Some(Err(why)) = file.tracing.as_ref().map(TracingConfiguration::check) {
        wrong.push(format!("tracing.{why}"));
    }
    if !file.static_pod_url.is_empty() {
        let scheme = file.static_pod_url.split("://").next().unwrap_or_default();
        if !["http", "https"].contains(&scheme) || file.static_pod_url.parse::<http::Uri>().is_err() {
            wrong.push(format!("staticPodURL (--manifest-url) {:?} is no URL", file.static_pod_url));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{file, gates::SWITCHES};

    fn said(lines: &str) -> Vec<String> {
        let head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
        let file =
            file::decode(&format!("{head}{lines}\n")).unwrap_or_else(|error| panic!("{lines}: {error}"));
        let gates = SWITCHES.of(&file.feature_gates).unwrap();
        check(&file, gates)
    }

    #[test]
    fn what_is_fine_is_taken() {
        for lines in [
            "",
            "cpuCFSQuotaPeriod: 10ms",
            "featureGates: {QOSReserved: true}\nqosReserved: {memory: 50%}",
            "enforceNodeAllocatable: [none]\ncgroupsPerQOS: false",
            "enforceNodeAllocatable: [pods, system-reserved, kube-reserved-compressible]\nsystemReservedCgroup: /s\n\
             kubeReservedCgroup: /k",
            "userNamespaces: {idsPerPod: 131072}",
            "maxParallelImagePulls: 5",
            "registerWithTaints: [{key: example.com/a, value: b, effect: NoExecute}]",
            "memoryReservationPolicy: TieredReservation\nfeatureGates: {MemoryQoS: true}",
            "systemCgroups: /system\ncgroupRoot: /",
            "staticPodURL: 'http://127.0.0.1:8000/pods'",
            "systemReserved: {cpu: 100m, memory: 1Gi, pid: '100', ephemeral-storage: 1Gi}",
            "podLogsDir: /a/b.c",
        ] {
            assert_eq!(said(lines), Vec::<String>::new(), "{lines}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_in_upstreams_words() {
        for (lines, part) in [
            ("nodeLeaseDurationSeconds: -1", "nodeLeaseDurationSeconds must be greater than 0"),
            ("systemCgroups: /s", "cgroupRoot (--cgroup-root) was not specified"),
            ("systemCgroups: /\ncgroupRoot: /", "system container cannot be root"),
            ("eventBurst: -1", "eventBurst (--event-burst) -1 must not be a negative number"),
            ("cpuCFSQuotaPeriod: 2s", "2s must be between 1ms and 1sec, inclusive"),
            (
                "cpuCFSQuotaPeriod: 10ms\nfeatureGates: {CustomCPUCFSQuotaPeriod: false}",
                "10ms requires feature gate CustomCPUCFSQuotaPeriod",
            ),
            ("imageGCHighThresholdPercent: 101", "101 must be between 0 and 100, inclusive"),
            ("imageGCHighThresholdPercent: 10\nimageGCLowThresholdPercent: 10", "must be less than"),
            ("imageMaximumGCAge: 1m", "imageMaximumGCAge 1m0s must be greater than imageMinimumGCAge 2m0s"),
            ("iptablesDropBit: 32", "32 must be between 0 and 31, inclusive"),
            ("nodeStatusMaxImages: -2", "-2 must be -1 or greater"),
            ("oomScoreAdj: 1001", "1001 must be between -1000 and 1000, inclusive"),
            ("maxParallelImagePulls: 0", "maxParallelImagePulls 0 must be a positive number"),
            ("maxParallelImagePulls: 2\nserializeImagePulls: true", "cannot be larger than 1 unless"),
            ("runOnce: true", "Runonce mode has been deprecated"),
            ("registerWithTaints: [{key: a, effect: Sometimes}]", "invalid taint: a=:Sometimes"),
            ("registerWithTaints: [{key: '-', effect: NoExecute}]", "invalid taint"),
            ("crashLoopBackOff: {maxContainerRestartPeriod: 10m}", "(got: 600 seconds) must be set between"),
            ("enforceNodeAllocatable: [pods, pods]", "duplicated enforcements \"pods\""),
            ("enforceNodeAllocatable: [none, pods]", "may not contain additional enforcements"),
            ("enforceNodeAllocatable: [all]", "option \"all\" specified for enforceNodeAllocatable"),
            (
                "enforceNodeAllocatable: [kube-reserved]",
                "kubeReservedCgroup (--kube-reserved-cgroup) must be",
            ),
            ("cgroupsPerQOS: false", "must be set to true when \"pods\" contained"),
            (
                "enforceNodeAllocatable: [system-reserved, system-reserved-compressible]\nsystemReservedCgroup: /s",
                "both \"system-reserved\" and \"system-reserved-compressible\"",
            ),
            ("hairpinMode: often", "option \"often\" specified for hairpinMode"),
            ("reservedSystemCPUs: '0'\nkubeReservedCgroup: /k", "can't use reservedSystemCPUs"),
            ("showHiddenMetricsForVersion: '1.34'", "must be omitted or have the value '1.35'"),
            ("memoryThrottlingFactor: 0", "must be greater than 0 and less than or equal to 1.0"),
            ("memoryReservationPolicy: TieredReservation", "requires MemoryQoS feature gate to be enabled"),
            ("memoryReservationPolicy: Some", "option \"Some\" specified for memoryReservationPolicy"),
            (
                "enableSystemLogQuery: true\nenableSystemLogHandler: false",
                "enableSystemLogHandler is required",
            ),
            ("containerLogMaxWorkers: 0", "containerLogMaxWorkers must be greater than or equal to 1"),
            ("containerLogMonitorInterval: 2s", "greater than or equal to 3s"),
            ("containerLogMaxFiles: 1", "containerLogMaxFiles must be greater than 1"),
            ("containerLogMaxSize: big", "failed to parse containerLogMaxSize"),
            ("podLogsDir: logs", "must be absolute path"),
            ("podLogsDir: /a/../b", "must be normalized"),
            ("podLogsDir: /ä", "ASCII characters only"),
            ("userNamespaces: {idsPerPod: 1}", "must not be less than 65536"),
            ("userNamespaces: {idsPerPod: 65537}", "must be a multiple of 65536"),
            ("userNamespaces: {idsPerPod: 4294967296}", "must not be more than 4294967295"),
            ("qosReserved: {memory: '50'}", "failed to parse percentage \"50\""),
            ("qosReserved: {cpu: 50%}", "cannot reserve \"cpu\" resource"),
            ("kubeReserved: {example.com/a: '1'}", "--kube-reserved value failed to parse: cannot reserve"),
            ("systemReserved: {memory: lots}", "failed to parse quantity \"lots\""),
            ("configMapAndSecretChangeDetectionStrategy: Guess", "unknown configmap and secret manager mode"),
            ("tracing: {endpoint: a}", "tracing.endpoint: Invalid value: \"a\""),
            ("tracing: {samplingRatePerMillion: -1}", "tracing.samplingRatePerMillion: Invalid value: -1"),
            ("staticPodURL: ftp://a", "staticPodURL (--manifest-url)"),
            ("cgroupDriver: fs", "cgroupDriver (--cgroup-driver) must be one of"),
            ("shutdownGracePeriodCriticalPods: 10s", "must be <= shutdownGracePeriod 0s"),
            ("logging: {format: xml}", "Unsupported log format"),
            ("logging: {options: {text: {splitStream: true}}}", "LoggingAlphaOptions is disabled"),
            ("logging: {options: {json: {infoBufferSize: 1Mi}}}", "LoggingAlphaOptions is disabled"),
            ("logging: {options: {json: {infoBufferSize: much}}}", "infoBufferSize: must be a quantity"),
            ("logging: {flushFrequency: -1}", "logging.flushFrequency: Invalid value: -1"),
            ("logging: {format: json}\nfeatureGates: {LoggingBetaOptions: false}", "see LoggingBetaOptions"),
        ] {
            let told = said(lines);
            assert!(told.iter().any(|text| text.contains(part)), "{lines}: {told:?}");
        }
    }
}
