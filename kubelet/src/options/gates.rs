//! Features of the kubelet that can be switched.

use component_base::features::{Gate, Reader, Switches};

/// The gates it does something else by, those of Windows, and those whose options are all there to stay.
pub const SWITCHES: Switches = Switches {
    program: "kubelet",
    reader: Reader::Kubelet,
    gates: &[
        Gate::AllowDNSOnlyNodeCSR,
        Gate::CPUManagerPolicyAlphaOptions,
        Gate::CPUManagerPolicyBetaOptions,
        Gate::CRIListStreaming,
        Gate::CSIVolumeHealth,
        Gate::ChangeContainerStatusOnKubeletRestart,
        Gate::ClusterTrustBundleProjection,
        Gate::ComponentFlagz,
        Gate::ComponentStatusz,
        Gate::ContainerCheckpoint,
        Gate::ContainerRestartRules,
        Gate::ContainerStopSignals,
        Gate::CustomCPUCFSQuotaPeriod,
        Gate::DRAExtendedResource,
        Gate::DRAWorkloadResourceClaims,
        Gate::DisableCPUQuotaWithExclusiveCPUs,
        Gate::EnvFiles,
        Gate::EventedPLEG,
        Gate::GracefulNodeShutdown,
        Gate::GracefulNodeShutdownBasedOnPodPriority,
        Gate::HostnameOverride,
        Gate::ImageVolumeWithDigest,
        Gate::InPlacePodLevelResourcesVerticalScaling,
        Gate::InPlacePodVerticalScalingExclusiveCPUs,
        Gate::InPlacePodVerticalScalingExclusiveMemory,
        Gate::InPlacePodVerticalScalingInitContainers,
        Gate::KubeletCrashLoopBackOffMax,
        Gate::KubeletEnsureSecretPulledImages,
        Gate::KubeletInUserNamespace,
        Gate::KubeletPodResourcesListUseActivePods,
        Gate::KubeletRegistrationGetOnExistsOnly,
        Gate::KubeletServiceAccountTokenForCredentialProviders,
        Gate::MemoryQoS,
        Gate::NodeDeclaredFeatures,
        Gate::PodCertificateRequest,
        Gate::PodLevelResources,
        Gate::PodLogsQuerySplitStreams,
        Gate::PodReadyToStartContainersCondition,
        Gate::PodsAPI,
        Gate::PreventStaticPodAPIReferences,
        Gate::QOSReserved,
        Gate::ReduceDefaultCrashLoopBackOffDecay,
        Gate::ReloadKubeletClientCAFile,
        Gate::ReloadKubeletServerCertificateFile,
        Gate::ResourceHealthStatus,
        Gate::ResourceHealthStatusMessage,
        Gate::RestartAllContainersOnContainerExits,
        Gate::RotateKubeletServerCertificate,
        Gate::TaintTolerationComparisonOperators,
        Gate::TopologyManagerPolicyAlphaOptions,
        Gate::TopologyManagerPolicyBetaOptions,
        Gate::WindowsCPUAndMemoryAffinity,
        Gate::WindowsGracefulNodeShutdown,
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Gates that are as they are by default in the kubelet alone, and why.
    const LEFT: &[(Gate, &str)] = &[
        (Gate::ExtendWebSocketsToKubelet, "WebSockets go on to the runtime as they come"),
        (Gate::KubeletSeparateDiskGC, "the disk of writable layers is taken to be that of images"),
        (Gate::LocalStorageCapacityIsolationFSQuotaMonitoring, "folders are walked: no quotas of projects"),
        (Gate::PLEGOnDemandRelist, "workers look at their own pod themselves, at once"),
        (Gate::PodAndContainerStatsFromCRI, "what the runtime tells is shown, the rest comes from cgroups"),
        (Gate::PodLevelResourceManagers, "processors and memory are given to containers only"),
        (Gate::RuntimeClassInImageCriApi, "images are pulled for all handlers alike"),
        (Gate::SELinuxMount, "there is no SELinux here"),
    ];

    #[test]
    fn what_cannot_be_switched_has_its_reason() {
        let listed: Vec<Gate> = LEFT.iter().map(|(gate, _)| *gate).collect();
        assert_eq!(SWITCHES.not_switched(), listed);
        assert!(LEFT.iter().all(|(_, why)| !why.is_empty()));
    }
}
