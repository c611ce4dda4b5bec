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
    Gate::AllowUnsafeMalformedObjectDeletion,
    Gate::APIResponseCompression,
    Gate::APIServerIdentity,
    Gate::CBORServingAndStorage,
    Gate::ClusterTrustBundle,
    Gate::ClusterTrustBundleProjection,
    Gate::ContainerStopSignals,
    Gate::CoordinatedLeaderElection,
    Gate::CrossNamespaceVolumeDataSource,
    Gate::DRADeviceTaintRules,
    Gate::DRANodeAllocatableResources,
    Gate::DRAResourcePoolStatus,
    Gate::DRAWorkloadResourceClaims,
    Gate::GenericWorkload,
    Gate::HPAScaleToZero,
    Gate::ManifestBasedAdmissionControlConfig,
    Gate::MaxUnavailableStatefulSet,
    Gate::MutablePVNodeAffinity,
    Gate::PodCertificateRequest,
    Gate::ShardedListAndWatch,
    Gate::StorageVersionAPI,
    Gate::StorageVersionHash,
    Gate::StorageVersionMigrator,
    Gate::TopologyAwareWorkloadScheduling,
    Gate::UnknownVersionInteroperabilityProxy,
    Gate::WatchList,
    Gate::WorkloadAwarePreemption,
    Gate::WorkloadWithJob,
    // Inside.
    Gate::APIServingWithRoutine,
    Gate::ConcurrentWatchObjectDecode,
    Gate::DetectCacheInconsistency,
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
