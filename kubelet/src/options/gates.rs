//! Features of the kubelet that can be switched.

use component_base::features::{Gate, Reader, Switches};

/// The gates it does something else by.
pub const SWITCHES: Switches = Switches {
    program: "kubelet",
    reader: Reader::Kubelet,
    gates: &[
        Gate::CPUManagerPolicyAlphaOptions,
        Gate::CPUManagerPolicyBetaOptions,
        Gate::ComponentFlagz,
        Gate::ComponentStatusz,
        Gate::CustomCPUCFSQuotaPeriod,
        Gate::EventedPLEG,
        Gate::KubeletServiceAccountTokenForCredentialProviders,
        Gate::MemoryQoS,
        Gate::PodCertificateRequest,
        Gate::PreventStaticPodAPIReferences,
        Gate::QOSReserved,
        Gate::ResourceHealthStatus,
        Gate::ResourceHealthStatusMessage,
        Gate::TaintTolerationComparisonOperators,
    ],
};
