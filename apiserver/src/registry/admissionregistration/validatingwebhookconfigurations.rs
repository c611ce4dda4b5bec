//! `validatingwebhookconfigurations` of admissionregistration.k8s.io.

use std::sync::Arc;

use crate::{
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, column},
    },
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("Webhooks", "integer"), column("Age", "string")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Count(&["/webhooks"]), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        categories: &["api-extensions"],
        namespaced: false,
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            unconditional_update: false,
            validate_gated: super::reserved,
            warnings: super::warnings,
            validate_new: super::validation::new_webhooks,
            validate_change: super::validation::changed_webhooks,
            ..Rules::new(Plain { status: false, generation: true, cells: CELLS })
        }),
        ..Resource::of(
            "admissionregistration.k8s.io",
            "ValidatingWebhookConfiguration",
            "validatingwebhookconfigurations",
            "validatingwebhookconfiguration",
        )
    }
}

/// What webhooks leave out.
fn default(obj: &mut Object) {
    super::defaults::webhooks(obj, false);
}
