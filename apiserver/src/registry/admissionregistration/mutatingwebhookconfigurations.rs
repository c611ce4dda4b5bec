//! `mutatingwebhookconfigurations` of admissionregistration.k8s.io.

use crate::registry::Resource;

/// The resource.
pub(super) fn resource() -> Resource {
    super::webhooks(
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
        "mutatingwebhookconfiguration",
        |configuration| super::defaults::webhooks(configuration, true),
    )
}
