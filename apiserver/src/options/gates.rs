//! `--feature-gates`: which gates this server can switch.
//!
//! Contract: gates that upstream's server reads at 1.36. A gate that is not in the list and that upstream's server does
//! read is refused by name when it is switched; those of other daemons may be given and change nothing here.

use component_base::{
    features::{self, Gate, Gates, Reader},
    flags::{Flag, Kind, Values},
};

use super::{OptionsError, invalid};

const FLAG: &str = "feature-gates";

/// Gates that change what this server does.
const SWITCHED: &[Gate] = &[
    Gate::AllAlpha,
    Gate::AllBeta,
    Gate::ClusterTrustBundle,
    Gate::ClusterTrustBundleProjection,
    Gate::ContainerStopSignals,
    Gate::DRADeviceTaintRules,
    Gate::DRANodeAllocatableResources,
    Gate::DRAResourcePoolStatus,
    Gate::DRAWorkloadResourceClaims,
    Gate::GenericWorkload,
    Gate::MaxUnavailableStatefulSet,
    Gate::PodCertificateRequest,
    Gate::StorageVersionMigrator,
    Gate::TopologyAwareWorkloadScheduling,
    Gate::WorkloadAwarePreemption,
    Gate::WorkloadWithJob,
];

/// Gates that change how upstream's server works inside and nothing that a client sees: there is nothing to switch.
const NOTHING_TO_SWITCH: &[Gate] = &[
    Gate::APIServingWithRoutine,
    Gate::ConcurrentWatchObjectDecode,
    Gate::DetectCacheInconsistency,
    Gate::ListFromCacheSnapshot,
    Gate::StorageNamespaceIndex,
    Gate::WatchCacheInitializationPostStartHook,
];

pub(super) fn flags() -> [Flag; 1] {
    [Flag::new(FLAG, Kind::Strings, "", features::help())]
}

/// The gates that are on.
///
/// # Errors
/// For gates there are none of, and for those that this server cannot switch.
pub(super) fn switched(values: &Values) -> Result<Gates, OptionsError> {
    let pairs = values.list(FLAG);
    let refused = |errors: features::GateErrors| invalid(FLAG, pairs.join(","), errors.to_string());
    let gates = Gates::parse(&pairs).map_err(refused)?;
    let all: Vec<Gate> = [SWITCHED, NOTHING_TO_SWITCH].concat();
    gates.check("kube-apiserver", Reader::Api, &all).map_err(refused)?;
    Ok(gates)
}
