//! Claims on storage: what a claim asks for, whether it stands alone, in a pod or in a set.
//!
//! Contract: core/v1 `PersistentVolumeClaimSpec`; sources of data are KEP-1495 and KEP-3294.

use serde_json::Value;

use super::{at::At, format, resources};
use crate::{
    field::{Error, ErrorList},
    metadata,
};

/// Ways to mount a volume.
pub const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
/// Files or a bare device.
pub const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];

/// What an old claim breaks, which then stays allowed.
#[derive(Clone, Copy, Default)]
pub struct Allowed {
    /// Groups of data sources that are no domains.
    pub source_groups: bool,
    /// Selectors with values that are no labels.
    pub selector: bool,
}

impl Allowed {
    /// What the spec of an old claim breaks.
    pub fn by(spec: &At<'_>) -> Self {
        Self {
            source_groups: ["dataSource", "dataSourceRef"].iter().any(|s| spec.get(s).has("apiGroup")),
            selector: !spec.get("selector").selects(),
        }
    }
}

/// A template of claims.
pub fn check_template(template: &At<'_>, errors: &mut ErrorList) {
    metadata::check_of_template(&template.get("metadata"), errors);
    check(&template.get("spec"), Allowed::default(), errors);
}

/// The access modes of a claim or a volume; `owner` is told when there are none.
pub fn check_access_modes(modes: &At<'_>, errors: &mut ErrorList) {
    if modes.is_empty() {
        modes.required(errors, "at least 1 access mode is required");
    }
    let (mut pod, mut other) = (false, false);
    for mode in modes.items() {
        if !ACCESS_MODES.contains(&mode.text()) {
            errors.push(Error::not_supported(modes.path(), mode.text(), ACCESS_MODES));
        } else if mode.text() == "ReadWriteOncePod" {
            pod = true;
        } else {
            other = true;
        }
    }
    if pod && other {
        modes.forbidden(errors, "may not use ReadWriteOncePod with other access modes");
    }
}

/// The spec of a claim.
pub fn check(spec: &At<'_>, allowed: Allowed, errors: &mut ErrorList) {
    let modes = spec.get("accessModes");
    if modes.is_empty() {
        modes.required(errors, "at least 1 access mode is required");
    }
    if !allowed.selector {
        spec.get("selector").check_selector(errors);
    }
    if !modes.is_empty() {
        check_access_modes(&modes, errors);
    }
    let resources = spec.get("resources");
    let size = resources.get("requests").get("storage").named(resources.path().key("storage"));
    if !size.is_set() {
        size.required(errors, "");
    } else if size.quantity().is_some_and(|size| size.sign() <= 0) {
        resources::check_above_zero(&size, errors);
    }
    spec.get("storageClassName").check_option_format(errors, format::dns_subdomain);
    spec.get("volumeMode").check_option_of(errors, VOLUME_MODES);
    check_sources(spec, allowed, errors);
    spec.get("volumeAttributesClassName").check_option_format(errors, format::dns_subdomain);
}

fn check_sources(spec: &At<'_>, allowed: Allowed, errors: &mut ErrorList) {
    let (source, reference) = (spec.get("dataSource"), spec.get("dataSourceRef"));
    for source in [&source, &reference].into_iter().filter(|source| source.is_set()) {
        check_source(source, allowed, errors);
    }
    reference.get("namespace").check_option_format(errors, format::dns_label);
    if !source.is_set() || !reference.is_set() {
        return;
    }
    let same = |field: &str| source.get(field).value() == reference.get(field).value();
    // Told as clients know it: without the value.
    let at = || Value::Object(serde_json::Map::new());
    if !reference.text_of("namespace").is_empty() {
        spec.invalid_as(errors, at(), "may not be specified when dataSourceRef.namespace is specified");
    } else if !["apiGroup", "kind", "name"].iter().all(|field| same(field)) {
        spec.invalid_as(errors, at(), "must match dataSourceRef");
    }
}

fn check_source(source: &At<'_>, allowed: Allowed, errors: &mut ErrorList) {
    source.get("name").check_required(errors);
    source.get("kind").check_required(errors);
    let (kind, group) = (source.text_of("kind"), source.get("apiGroup"));
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        source.invalid_as(errors, kind, detail);
    }
    if !allowed.source_groups {
        group.check_option_format(errors, format::dns_subdomain);
    }
}
