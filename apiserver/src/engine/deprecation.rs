//! Versions of built-in kinds that are served but on their way out (Kubernetes deprecation policy).
//!
//! Who asks for one is warned, the audit event says so, and `apiserver_requested_deprecated_apis` remembers it.

use std::sync::LazyLock;

use component_base::metrics::{self, Stability};
use prometheus::IntGaugeVec;

use super::Call;
use crate::audit;

static REQUESTED: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Deprecated versions of resources that were asked for.";
    let labels = ["group", "version", "resource", "subresource", "removed_release"];
    metrics::gauge_vec("apiserver_requested_deprecated_apis", help, Stability::Stable, &labels)
});

/// One kind in one version; releases are the minor numbers of 1.x.
struct Deprecation {
    group: &'static str,
    version: &'static str,
    kinds: &'static [&'static str],
    since: u8,
    /// The first release without it.
    removed: Option<u8>,
    /// What takes its place, as in `discovery.k8s.io/v1 EndpointSlice`.
    replacement: Option<&'static str>,
}

const POLICIES: &[&str] = &["MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"];
const DEVICES: &[&str] = &["DeviceClass", "ResourceClaim", "ResourceClaimTemplate", "ResourceSlice"];

const fn gone(
    group: &'static str,
    version: &'static str,
    kinds: &'static [&'static str],
    since: u8,
    removed: u8,
) -> Deprecation {
    Deprecation { group, version, kinds, since, removed: Some(removed), replacement: None }
}

const ALL: &[Deprecation] = &[
    Deprecation { removed: None, ..gone("", "v1", &["ComponentStatus"], 19, 0) },
    Deprecation {
        removed: None,
        replacement: Some("discovery.k8s.io/v1 EndpointSlice"),
        ..gone("", "v1", &["Endpoints"], 33, 0)
    },
    gone("admissionregistration.k8s.io", "v1alpha1", POLICIES, 35, 38),
    gone("certificates.k8s.io", "v1alpha1", &["ClusterTrustBundle"], 34, 37),
    gone("coordination.k8s.io", "v1alpha2", &["LeaseCandidate"], 35, 38),
    gone("coordination.k8s.io", "v1beta1", &["LeaseCandidate"], 36, 39),
    gone("networking.k8s.io", "v1beta1", &["IPAddress", "ServiceCIDR"], 34, 37),
    gone("resource.k8s.io", "v1alpha3", &["DeviceTaintRule"], 36, 39),
    gone("resource.k8s.io", "v1beta1", DEVICES, 35, 38),
    gone("resource.k8s.io", "v1beta2", DEVICES, 36, 39),
    Deprecation {
        replacement: Some("storage.k8s.io/v1 VolumeAttributesClass"),
        ..gone("storage.k8s.io", "v1beta1", &["VolumeAttributesClass"], 34, 37)
    },
];

fn of(group: &str, version: &str, kind: &str) -> Option<&'static Deprecation> {
    // Kinds differ in most cases, and in their length, which costs nothing to compare.
    ALL.iter().find(|d| d.kinds.contains(&kind) && d.group == group && d.version == version)
}

// === impl Deprecation ===

impl Deprecation {
    fn warning(&self, api_version: &str, kind: &str) -> String {
        let mut text = format!("{api_version} {kind} is deprecated in v1.{}+", self.since);
        if let Some(removed) = self.removed {
            text += &format!(", unavailable in v1.{removed}+");
        }
        if let Some(replacement) = self.replacement {
            text += &format!("; use {replacement}");
        }
        text
    }
}

/// Tells everybody concerned when a call asks for what is deprecated.
pub(super) fn tell(call: &mut Call) {
    let (info, kind) = (&call.info, call.resource.kind);
    let Some(found) = of(&info.group, &info.version, kind) else { return };
    let removed = found.removed.map_or_else(String::new, |minor| format!("1.{minor}"));
    let labels: [&str; 5] = [&info.group, &info.version, &info.resource, &info.subresource, &removed];
    REQUESTED.with_label_values(&labels).set(1);
    audit::annotate("k8s.io/deprecated", "true");
    if !removed.is_empty() {
        audit::annotate("k8s.io/removed-release", removed);
    }
    let warning = found.warning(&info.api_version(), kind);
    call.warnings.push(warning);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_tells_since_when_until_when_and_what_instead() {
        let cases = [
            ("", "v1", "v1", "ComponentStatus", "v1 ComponentStatus is deprecated in v1.19+"),
            (
                "",
                "v1",
                "v1",
                "Endpoints",
                "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
            ),
            (
                "resource.k8s.io",
                "v1beta1",
                "resource.k8s.io/v1beta1",
                "DeviceClass",
                "resource.k8s.io/v1beta1 DeviceClass is deprecated in v1.35+, unavailable in v1.38+",
            ),
            (
                "storage.k8s.io",
                "v1beta1",
                "storage.k8s.io/v1beta1",
                "VolumeAttributesClass",
                "storage.k8s.io/v1beta1 VolumeAttributesClass is deprecated in v1.34+, unavailable in v1.37+; use \
                 storage.k8s.io/v1 VolumeAttributesClass",
            ),
        ];
        for (group, version, api_version, kind, want) in cases {
            assert_eq!(of(group, version, kind).unwrap().warning(api_version, kind), want);
        }
        assert!(of("", "v1", "Pod").is_none());
        assert!(of("resource.k8s.io", "v1", "DeviceClass").is_none());
    }
}
