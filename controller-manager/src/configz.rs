//! The configuration in effect, as `/configz` shows it: the flags, in upstream's structure.
//!
//! Contract: `KubeControllerManagerConfiguration` of kubecontrollermanager.config.k8s.io/v1alpha1. No file is read in this
//! form; every field is a flag's, or fixed.

use component_base::{
    flags::{FlagSet, Kind, Values},
    goduration,
};
use serde_json::{Map, Value, json};

/// What the page calls it.
pub const NAME: &str = "kubecontrollermanager.config.k8s.io";

/// Fields by their paths, with the flags they show.
const FIELDS: &[(&str, &str)] = &[
    ("Generic/Port", "secure-port"),
    ("Generic/Address", "bind-address"),
    ("Generic/MinResyncPeriod", "min-resync-period"),
    ("Generic/ClientConnection/kubeconfig", "kubeconfig"),
    ("Generic/ClientConnection/contentType", "kube-api-content-type"),
    ("Generic/ClientConnection/qps", "kube-api-qps"),
    ("Generic/ClientConnection/burst", "kube-api-burst"),
    ("Generic/ControllerStartInterval", "controller-start-interval"),
    ("Generic/LeaderElection/leaderElect", "leader-elect"),
    ("Generic/LeaderElection/leaseDuration", "leader-elect-lease-duration"),
    ("Generic/LeaderElection/renewDeadline", "leader-elect-renew-deadline"),
    ("Generic/LeaderElection/retryPeriod", "leader-elect-retry-period"),
    ("Generic/LeaderElection/resourceLock", "leader-elect-resource-lock"),
    ("Generic/LeaderElection/resourceName", "leader-elect-resource-name"),
    ("Generic/LeaderElection/resourceNamespace", "leader-elect-resource-namespace"),
    ("Generic/Controllers", "controllers"),
    ("Generic/Debugging/enableProfiling", "profiling"),
    ("Generic/Debugging/enableContentionProfiling", "contention-profiling"),
    ("Generic/LeaderMigrationEnabled", "enable-leader-migration"),
    ("KubeCloudShared/CloudProvider/Name", "cloud-provider"),
    ("KubeCloudShared/CloudProvider/CloudConfigFile", "cloud-config"),
    ("KubeCloudShared/ExternalCloudVolumePlugin", "external-cloud-volume-plugin"),
    ("KubeCloudShared/UseServiceAccountCredentials", "use-service-account-credentials"),
    ("KubeCloudShared/RouteReconciliationPeriod", "route-reconciliation-period"),
    ("KubeCloudShared/NodeMonitorPeriod", "node-monitor-period"),
    ("KubeCloudShared/ClusterName", "cluster-name"),
    ("KubeCloudShared/ClusterCIDR", "cluster-cidr"),
    ("KubeCloudShared/AllocateNodeCIDRs", "allocate-node-cidrs"),
    ("KubeCloudShared/CIDRAllocatorType", "cidr-allocator-type"),
    ("KubeCloudShared/ConfigureCloudRoutes", "configure-cloud-routes"),
    ("AttachDetachController/DisableAttachDetachReconcilerSync", "disable-attach-detach-reconcile-sync"),
    ("AttachDetachController/ReconcilerSyncLoopPeriod", "attach-detach-reconcile-sync-period"),
    ("AttachDetachController/disableForceDetachOnTimeout", "disable-force-detach-on-timeout"),
    ("CSRSigningController/ClusterSigningCertFile", "cluster-signing-cert-file"),
    ("CSRSigningController/ClusterSigningKeyFile", "cluster-signing-key-file"),
    (
        "CSRSigningController/KubeletServingSignerConfiguration/CertFile",
        "cluster-signing-kubelet-serving-cert-file",
    ),
    (
        "CSRSigningController/KubeletServingSignerConfiguration/KeyFile",
        "cluster-signing-kubelet-serving-key-file",
    ),
    (
        "CSRSigningController/KubeletClientSignerConfiguration/CertFile",
        "cluster-signing-kubelet-client-cert-file",
    ),
    (
        "CSRSigningController/KubeletClientSignerConfiguration/KeyFile",
        "cluster-signing-kubelet-client-key-file",
    ),
    (
        "CSRSigningController/KubeAPIServerClientSignerConfiguration/CertFile",
        "cluster-signing-kube-apiserver-client-cert-file",
    ),
    (
        "CSRSigningController/KubeAPIServerClientSignerConfiguration/KeyFile",
        "cluster-signing-kube-apiserver-client-key-file",
    ),
    (
        "CSRSigningController/LegacyUnknownSignerConfiguration/CertFile",
        "cluster-signing-legacy-unknown-cert-file",
    ),
    (
        "CSRSigningController/LegacyUnknownSignerConfiguration/KeyFile",
        "cluster-signing-legacy-unknown-key-file",
    ),
    ("CSRSigningController/ClusterSigningDuration", "cluster-signing-duration"),
    ("DaemonSetController/ConcurrentDaemonSetSyncs", "concurrent-daemonset-syncs"),
    ("DeploymentController/ConcurrentDeploymentSyncs", "concurrent-deployment-syncs"),
    ("StatefulSetController/ConcurrentStatefulSetSyncs", "concurrent-statefulset-syncs"),
    ("EndpointController/ConcurrentEndpointSyncs", "concurrent-endpoint-syncs"),
    ("EndpointController/EndpointUpdatesBatchPeriod", "endpoint-updates-batch-period"),
    ("EndpointSliceController/ConcurrentServiceEndpointSyncs", "concurrent-service-endpoint-syncs"),
    ("EndpointSliceController/MaxEndpointsPerSlice", "max-endpoints-per-slice"),
    ("EndpointSliceController/EndpointUpdatesBatchPeriod", "endpointslice-updates-batch-period"),
    (
        "EndpointSliceMirroringController/MirroringConcurrentServiceEndpointSyncs",
        "mirroring-concurrent-service-endpoint-syncs",
    ),
    ("EndpointSliceMirroringController/MirroringMaxEndpointsPerSubset", "mirroring-max-endpoints-per-subset"),
    (
        "EndpointSliceMirroringController/MirroringEndpointUpdatesBatchPeriod",
        "mirroring-endpointslice-updates-batch-period",
    ),
    ("EphemeralVolumeController/ConcurrentEphemeralVolumeSyncs", "concurrent-ephemeralvolume-syncs"),
    ("GarbageCollectorController/EnableGarbageCollector", "enable-garbage-collector"),
    ("GarbageCollectorController/ConcurrentGCSyncs", "concurrent-gc-syncs"),
    ("HPAController/ConcurrentHorizontalPodAutoscalerSyncs", "concurrent-horizontal-pod-autoscaler-syncs"),
    ("HPAController/HorizontalPodAutoscalerSyncPeriod", "horizontal-pod-autoscaler-sync-period"),
    (
        "HPAController/HorizontalPodAutoscalerDownscaleStabilizationWindow",
        "horizontal-pod-autoscaler-downscale-stabilization",
    ),
    ("HPAController/HorizontalPodAutoscalerTolerance", "horizontal-pod-autoscaler-tolerance"),
    (
        "HPAController/HorizontalPodAutoscalerCPUInitializationPeriod",
        "horizontal-pod-autoscaler-cpu-initialization-period",
    ),
    (
        "HPAController/HorizontalPodAutoscalerInitialReadinessDelay",
        "horizontal-pod-autoscaler-initial-readiness-delay",
    ),
    ("JobController/ConcurrentJobSyncs", "concurrent-job-syncs"),
    ("CronJobController/ConcurrentCronJobSyncs", "concurrent-cron-job-syncs"),
    ("LegacySATokenCleaner/CleanUpPeriod", "legacy-service-account-token-clean-up-period"),
    ("NamespaceController/NamespaceSyncPeriod", "namespace-sync-period"),
    ("NamespaceController/ConcurrentNamespaceSyncs", "concurrent-namespace-syncs"),
    ("NodeIPAMController/ServiceCIDR", "service-cluster-ip-range"),
    ("NodeIPAMController/NodeCIDRMaskSize", "node-cidr-mask-size"),
    ("NodeIPAMController/NodeCIDRMaskSizeIPv4", "node-cidr-mask-size-ipv4"),
    ("NodeIPAMController/NodeCIDRMaskSizeIPv6", "node-cidr-mask-size-ipv6"),
    ("NodeLifecycleController/NodeEvictionRate", "node-eviction-rate"),
    ("NodeLifecycleController/SecondaryNodeEvictionRate", "secondary-node-eviction-rate"),
    ("NodeLifecycleController/NodeStartupGracePeriod", "node-startup-grace-period"),
    ("NodeLifecycleController/NodeMonitorGracePeriod", "node-monitor-grace-period"),
    ("NodeLifecycleController/LargeClusterSizeThreshold", "large-cluster-size-threshold"),
    ("NodeLifecycleController/UnhealthyZoneThreshold", "unhealthy-zone-threshold"),
    ("PersistentVolumeBinderController/PVClaimBinderSyncPeriod", "pvclaimbinder-sync-period"),
    (
        "PersistentVolumeBinderController/VolumeConfiguration/EnableHostPathProvisioning",
        "enable-hostpath-provisioner",
    ),
    (
        "PersistentVolumeBinderController/VolumeConfiguration/EnableDynamicProvisioning",
        "enable-dynamic-provisioning",
    ),
    ("PersistentVolumeBinderController/VolumeConfiguration/FlexVolumePluginDir", "flex-volume-plugin-dir"),
    (
        "PersistentVolumeBinderController/VolumeConfiguration/PersistentVolumeRecyclerConfiguration/PodTemplateFilePathNFS",
        "pv-recycler-pod-template-filepath-nfs",
    ),
    (
        "PersistentVolumeBinderController/VolumeConfiguration/PersistentVolumeRecyclerConfiguration/MinimumTimeoutNFS",
        "pv-recycler-minimum-timeout-nfs",
    ),
    (
        "PersistentVolumeBinderController/VolumeConfiguration/PersistentVolumeRecyclerConfiguration/IncrementTimeoutNFS",
        "pv-recycler-increment-timeout-nfs",
    ),
    (
        "PersistentVolumeBinderController/VolumeConfiguration/PersistentVolumeRecyclerConfiguration/PodTemplateFilePathHostPath",
        "pv-recycler-pod-template-filepath-hostpath",
    ),
    (
        "PersistentVolumeBinderController/VolumeConfiguration/PersistentVolumeRecyclerConfiguration/MinimumTimeoutHostPath",
        "pv-recycler-minimum-timeout-hostpath",
    ),
    (
        "PersistentVolumeBinderController/VolumeConfiguration/PersistentVolumeRecyclerConfiguration/IncrementTimeoutHostPath",
        "pv-recycler-timeout-increment-hostpath",
    ),
    ("PodGCController/TerminatedPodGCThreshold", "terminated-pod-gc-threshold"),
    ("ReplicaSetController/ConcurrentRSSyncs", "concurrent-replicaset-syncs"),
    ("ReplicationController/ConcurrentRCSyncs", "concurrent-rc-syncs"),
    ("ResourceQuotaController/ResourceQuotaSyncPeriod", "resource-quota-sync-period"),
    ("ResourceQuotaController/ConcurrentResourceQuotaSyncs", "concurrent-resource-quota-syncs"),
    ("SAController/ServiceAccountKeyFile", "service-account-private-key-file"),
    ("SAController/ConcurrentSATokenSyncs", "concurrent-serviceaccount-token-syncs"),
    ("SAController/RootCAFile", "root-ca-file"),
    ("ServiceController/ConcurrentServiceSyncs", "concurrent-service-syncs"),
    ("TTLAfterFinishedController/ConcurrentTTLSyncs", "concurrent-ttl-after-finished-syncs"),
    (
        "ValidatingAdmissionPolicyStatusController/ConcurrentPolicySyncs",
        "concurrent-validating-admission-policy-status-syncs",
    ),
    ("DeviceTaintEvictionController/ConcurrentSyncs", "concurrent-device-taint-eviction-syncs"),
    ("ResourceClaimController/ConcurrentSyncs", "concurrent-resourceclaim-syncs"),
];

/// The whole configuration.
pub fn configuration(flags: &FlagSet, values: &Values) -> Value {
    let mut out = unset();
    for (path, flag) in FIELDS {
        let Some(kind) = flags.flags().iter().find(|known| known.name == *flag).map(|flag| flag.kind) else {
            continue;
        };
        put(&mut out, path, shown(values, flag, kind));
    }
    // Two ranges of services are two fields.
    let ranges = values.string("service-cluster-ip-range");
    let (first, second) = ranges.split_once(',').unwrap_or((ranges, ""));
    put(&mut out, "NodeIPAMController/ServiceCIDR", json!(first));
    put(&mut out, "NodeIPAMController/SecondaryServiceCIDR", json!(second));
    out
}

/// What no flag says.
fn unset() -> Value {
    let events = |group: &str| json!({"Group": group, "Resource": "events"});
    json!({
        "kind": "KubeControllerManagerConfiguration",
        "apiVersion": "kubecontrollermanager.config.k8s.io/v1alpha1",
        "Generic": {
            "ClientConnection": {"acceptContentTypes": ""},
            "LeaderMigration": {"leaderName": "", "resourceLock": "", "controllerLeaders": null},
        },
        "KubeCloudShared": {"AllowUntaggedCloud": false, "NodeSyncPeriod": "0s"},
        "DeprecatedController": {},
        "GarbageCollectorController": {"GCIgnoredResources": [events(""), events("events.k8s.io")]},
        "NodeLifecycleController": {"PodEvictionTimeout": "0s"},
    })
}

fn shown(values: &Values, flag: &str, kind: Kind) -> Value {
    match kind {
        Kind::Bool => json!(values.bool(flag)),
        Kind::Int => json!(values.int(flag)),
        Kind::Float => json!(values.float(flag)),
        Kind::Duration => json!(goduration::format(values.duration(flag))),
        Kind::Strings | Kind::StringArray => json!(values.list(flag)),
        Kind::Map | Kind::BoolMap => json!(values.map(flag)),
        Kind::String | Kind::Ip | Kind::Quantity => json!(values.string(flag)),
    }
}

/// Sets a field, making objects on the way.
fn put(at: &mut Value, path: &str, value: Value) {
    let mut at = at;
    for part in path.split('/') {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        at = &mut at[part];
    }
    *at = value;
}

#[cfg(test)]
mod tests {
    use component_base::{daemon::Daemon, flags::Parsed};

    use super::*;
    use crate::run::ControllerManager;

    fn of(given: &[&str]) -> Value {
        let flags = ControllerManager::flags();
        match flags.parse(given.iter().map(|flag| (*flag).to_owned())).unwrap() {
            Parsed::Run(values) => configuration(&flags, &values),
            Parsed::Print(text) => panic!("{text}"),
        }
    }

    #[test]
    fn every_flag_that_is_shown_is_there_and_every_field_once() {
        let flags = ControllerManager::flags();
        for (at, (path, flag)) in FIELDS.iter().enumerate() {
            assert!(flags.flags().iter().any(|known| known.name == *flag), "{flag}");
            assert!(!FIELDS[..at].iter().any(|(other, shown)| other == path || shown == flag), "{path}");
        }
    }

    #[test]
    fn flags_stand_in_upstreams_structure() {
        let config = of(&[
            "--service-cluster-ip-range=10.96.0.0/12,fd00::/112",
            "--concurrent-rc-syncs=7",
            "--controllers=*,-ttl",
            "--node-monitor-period=1m30s",
            "--leader-elect=false",
        ]);
        for (path, expected) in [
            ("/kind", json!("KubeControllerManagerConfiguration")),
            ("/Generic/Port", json!(10257)),
            ("/Generic/Controllers", json!(["*", "-ttl"])),
            ("/Generic/LeaderElection/leaderElect", json!(false)),
            ("/Generic/LeaderElection/leaseDuration", json!("15s")),
            ("/Generic/ClientConnection/acceptContentTypes", json!("")),
            ("/KubeCloudShared/NodeMonitorPeriod", json!("1m30s")),
            ("/NodeIPAMController/ServiceCIDR", json!("10.96.0.0/12")),
            ("/NodeIPAMController/SecondaryServiceCIDR", json!("fd00::/112")),
            ("/ReplicationController/ConcurrentRCSyncs", json!(7)),
            ("/HPAController/HorizontalPodAutoscalerTolerance", json!(0.1)),
            ("/GarbageCollectorController/EnableGarbageCollector", json!(true)),
            ("/GarbageCollectorController/GCIgnoredResources/1/Group", json!("events.k8s.io")),
            ("/AttachDetachController/disableForceDetachOnTimeout", json!(false)),
        ] {
            assert_eq!(config.pointer(path), Some(&expected), "{path}");
        }
    }
}
