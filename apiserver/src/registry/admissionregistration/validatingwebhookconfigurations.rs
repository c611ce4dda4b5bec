//! `validatingwebhookconfigurations` of admissionregistration.k8s.io.

use crate::registry::Resource;

/// The resource.
pub(super) fn resource() -> Resource {
    super::webhooks(
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        "validatingwebhookconfiguration",
        |configuration| super::defaults::webhooks(configuration, false),
    )
}
