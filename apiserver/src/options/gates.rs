//! `--feature-gates`: which gates this server can switch.
//!
//! Contract: gates that upstream's server reads at 1.36. A gate that is not in the list and that upstream's server does
//! read is refused by name when it is switched; those of other daemons may be given and change nothing here.

use component_base::{
    features::{Gate, Gates, Reader, Switches},
    flags::Values,
};

use super::{OptionsError, invalid};

/// Gates that change what this server does, and those that change how upstream's works inside and nothing that a client
/// sees: there is nothing to switch.
const SWITCHED: &[Gate] = &[
    Gate::AllowInsecureKubeletCertificateSigningRequests,
    Gate::AllowParsingUserUIDFromCertAuth,
    Gate::AllowUnsafeMalformedObjectDeletion,
    Gate::APIResponseCompression,
    Gate::APIServerIdentity,
    Gate::AuthorizePodWebsocketUpgradeCreatePermission,
    Gate::CBORServingAndStorage,
    Gate::ClearingNominatedNodeNameAfterBinding,
    Gate::ClusterTrustBundle,
    Gate::ClusterTrustBundleProjection,
    Gate::ComponentFlagz,
    Gate::ComponentStatusz,
    Gate::ConstrainedImpersonation,
    Gate::ContainerRestartRules,
    Gate::ContainerStopSignals,
    Gate::CoordinatedLeaderElection,
    Gate::CRDObservedGenerationTracking,
    Gate::CrossNamespaceVolumeDataSource,
    Gate::DeploymentReplicaSetTerminatingReplicas,
    Gate::DRAConsumableCapacity,
    Gate::DRADeviceBindingConditions,
    Gate::DRADeviceTaintRules,
    Gate::DRADeviceTaints,
    Gate::DRAExtendedResource,
    Gate::DRAListTypeAttributes,
    Gate::DRANodeAllocatableResources,
    Gate::DRAPartitionableDevices,
    Gate::DRAPrioritizedList,
    Gate::DRAResourceClaimDeviceStatus,
    Gate::DRAResourceClaimGranularStatusAuthorization,
    Gate::DRAResourcePoolStatus,
    Gate::DRAWorkloadResourceClaims,
    Gate::EnvFiles,
    Gate::GenericWorkload,
    Gate::HostnameOverride,
    Gate::HPAConfigurableTolerance,
    Gate::HPAScaleToZero,
    Gate::ImageVolumeWithDigest,
    Gate::InPlacePodLevelResourcesVerticalScaling,
    Gate::InPlacePodVerticalScalingInitContainers,
    Gate::KubeletServiceAccountTokenForCredentialProviders,
    Gate::ManifestBasedAdmissionControlConfig,
    Gate::MatchLabelKeysInPodTopologySpread,
    Gate::MatchLabelKeysInPodTopologySpreadSelectorMerge,
    Gate::MaxUnavailableStatefulSet,
    Gate::MutablePodResourcesForSuspendedJobs,
    Gate::MutablePVNodeAffinity,
    Gate::MutableSchedulingDirectivesForSuspendedJobs,
    Gate::MutatingAdmissionPolicy,
    Gate::NodeDeclaredFeatures,
    Gate::OpenAPIEnums,
    Gate::PodCertificateRequest,
    Gate::PodDeletionCost,
    Gate::PodLevelResources,
    Gate::PodLogsQuerySplitStreams,
    Gate::PodTopologyLabelsAdmission,
    Gate::PortForwardWebsockets,
    Gate::RelaxedServiceNameValidation,
    Gate::RemoteRequestHeaderUID,
    Gate::ResourceHealthStatus,
    Gate::ResourceHealthStatusMessage,
    Gate::RestartAllContainersOnContainerExits,
    Gate::SELinuxMount,
    Gate::ServiceAccountNodeAudienceRestriction,
    Gate::ServiceCIDRStatusFieldWiping,
    Gate::ShardedListAndWatch,
    Gate::SizeBasedListCostEstimate,
    Gate::StorageVersionAPI,
    Gate::StorageVersionHash,
    Gate::StorageVersionMigrator,
    Gate::StrictIPCIDRValidation,
    Gate::StructuredAuthenticationConfigurationEgressSelector,
    Gate::StructuredAuthenticationConfigurationJWKSMetrics,
    Gate::TaintTolerationComparisonOperators,
    Gate::TokenRequestServiceAccountUIDValidation,
    Gate::TopologyAwareWorkloadScheduling,
    Gate::TranslateStreamCloseWebsocketRequests,
    Gate::UnauthenticatedHTTP2DOSMitigation,
    Gate::UnknownVersionInteroperabilityProxy,
    Gate::UserNamespacesHostNetworkSupport,
    Gate::VolumeLimitScaling,
    Gate::WatchList,
    Gate::WorkloadAwarePreemption,
    Gate::WorkloadWithJob,
    // Inside.
    Gate::APIServingWithRoutine,
    Gate::ConcurrentWatchObjectDecode,
    Gate::ContextualLogging,
    Gate::DeclarativeValidationBeta,
    Gate::DetectCacheInconsistency,
    Gate::ExtendWebSocketsToKubelet,
    Gate::ListFromCacheSnapshot,
    Gate::StorageNamespaceIndex,
    Gate::WatchCacheInitializationPostStartHook,
];
const SWITCHES: Switches = Switches { program: "kube-apiserver", reader: Reader::Api, gates: SWITCHED };

/// The gates that are on.
///
/// # Errors
/// For gates there are none of, and for those that this server cannot switch.
pub(super) fn switched(values: &Values) -> Result<Gates, OptionsError> {
    let said = || values.list(Switches::FLAG).join(",");
    SWITCHES.read(values).map_err(|errors| invalid(Switches::FLAG, said(), errors.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gates of upstream's server that this daemon alone has one way only: as they are by default.
    const ONE_WAY: &[(Gate, &str)] =
        &[(Gate::KMSv1, "plugins of the first version, deprecated since 1.28, are not spoken to")];

    #[test]
    fn every_gate_of_the_server_can_be_switched_or_it_is_said_what_holds() {
        assert_eq!(SWITCHES.not_switched(), ONE_WAY.iter().map(|(gate, _)| *gate).collect::<Vec<_>>());
        assert!(ONE_WAY.iter().all(|(_, why)| !why.is_empty()));
        let names: Vec<String> = SWITCHED.iter().map(ToString::to_string).collect();
        assert!(names.iter().enumerate().all(|(i, name)| !names[..i].contains(name)), "one is there twice");
    }
}
