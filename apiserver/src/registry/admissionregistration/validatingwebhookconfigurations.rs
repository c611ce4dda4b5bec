//! `validatingwebhookconfigurations` of admissionregistration.k8s.io.

use std::sync::Arc;

use crate::{
    object::Object,
    registry::{
        Column, Resource,
        kit::{Cell, Plain, Rules, STANDARD_VERBS, column},
    },
};

const COLUMNS: &[Column] =
    &[column("Name", "string").name(), column("Webhooks", "integer"), column("Age", "date")];
const CELLS: &[Cell] = &[Cell::Name, Cell::Count(&["/webhooks"]), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "admissionregistration.k8s.io",
        versions: &["v1"],
        storage_version: "v1",
        kind: "ValidatingWebhookConfiguration",
        plural: "validatingwebhookconfigurations",
        singular: "validatingwebhookconfiguration",
        short_names: &[],
        categories: &["api-extensions"],
        namespaced: false,
        verbs: STANDARD_VERBS,
        subresources: &[],
        storage_prefix: "validatingwebhookconfigurations",
        selectable: &[],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            unconditional_update: false,
            validate: super::validation::webhooks,
            ..Rules::new(Plain { status: false, generation: true, cells: CELLS })
        }),
    }
}

/// What webhooks leave out.
fn default(obj: &mut Object) {
    super::defaults::webhooks(obj, false);
}
