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
    Gate::AllowUnsafeMalformedObjectDeletion,
    Gate::APIResponseCompression,
    Gate::APIServerIdentity,
    Gate::AuthorizePodWebsocketUpgradeCreatePermission,
    Gate::CBORServingAndStorage,
    Gate::ClusterTrustBundle,
    Gate::ClusterTrustBundleProjection,
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
    Gate::MutablePVNodeAffinity,
    Gate::MutatingAdmissionPolicy,
    Gate::NodeDeclaredFeatures,
    Gate::PodCertificateRequest,
    Gate::PodLevelResources,
    Gate::PodTopologyLabelsAdmission,
    Gate::ResourceHealthStatus,
    Gate::ResourceHealthStatusMessage,
    Gate::RestartAllContainersOnContainerExits,
    Gate::ServiceAccountNodeAudienceRestriction,
    Gate::ShardedListAndWatch,
    Gate::SizeBasedListCostEstimate,
    Gate::StorageVersionAPI,
    Gate::StorageVersionHash,
    Gate::StorageVersionMigrator,
    Gate::TopologyAwareWorkloadScheduling,
    Gate::UnauthenticatedHTTP2DOSMitigation,
    Gate::UnknownVersionInteroperabilityProxy,
    Gate::VolumeLimitScaling,
    Gate::WatchList,
    Gate::WorkloadAwarePreemption,
    Gate::WorkloadWithJob,
    // Inside.
    Gate::APIServingWithRoutine,
    Gate::ConcurrentWatchObjectDecode,
    Gate::ContextualLogging,
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
