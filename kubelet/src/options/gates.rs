//! Features of the kubelet that can be switched. Every other gate is as upstream has it by default, whatever is asked for.

use std::collections::BTreeMap;

/// A feature and how ripe it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gate {
    /// Upstream's name.
    name: &'static str,
    /// `AllAlpha` or `AllBeta`, which switch all features of a stage.
    all: &'static str,
    /// On unless anybody says otherwise.
    on: bool,
}

/// Options of the CPU manager's static policy that may still change.
pub const CPU_ALPHA_OPTIONS: Gate = Gate { name: "CPUManagerPolicyAlphaOptions", all: "AllAlpha", on: false };
/// Options of the CPU manager's static policy that are nearly settled.
pub const CPU_BETA_OPTIONS: Gate = Gate { name: "CPUManagerPolicyBetaOptions", all: "AllBeta", on: true };
/// Projected certificates of pods (KEP-4317).
pub const POD_CERTIFICATES: Gate = Gate { name: "PodCertificateRequest", all: "AllBeta", on: false };

impl Gate {
    /// Whether the feature is on; `given` is what flags and file say.
    #[must_use]
    pub fn is_on(self, given: &BTreeMap<String, bool>) -> bool {
        given.get(self.name).or_else(|| given.get(self.all)).copied().unwrap_or(self.on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_features_own_word_counts_before_its_stages() {
        let given = |list: &[(&str, bool)]| list.iter().map(|(n, on)| ((*n).to_owned(), *on)).collect();
        for (list, on) in [
            (&[][..], false),
            (&[("PodCertificateRequest", true)], true),
            (&[("AllBeta", true)], true),
            (&[("AllBeta", true), ("PodCertificateRequest", false)], false),
            (&[("AllAlpha", true)], false),
        ] {
            assert_eq!(POD_CERTIFICATES.is_on(&given(list)), on, "{list:?}");
        }
    }
}
