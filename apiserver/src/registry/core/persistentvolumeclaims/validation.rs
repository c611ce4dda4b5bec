//! What is wrong with a claim and with changes of one.
//!
//! Contract: core/v1 `PersistentVolumeClaim`; growing and taking it back are KEP-1790, classes of attributes KEP-3751.

use serde_json::{Map, Value};

use crate::{
    field::{Error, ErrorList, Path},
    object::Object,
    registry::{
        kit::{
            at::At,
            claim::{self, Allowed},
            format, resources, semantic,
        },
        pod_spec::warnings_of_claim,
    },
};

const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const RESIZES: &[&str] = &[
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];

/// A new claim.
pub(super) fn check_new(claim: &Object, errors: &mut ErrorList) {
    claim::check(&At::spec(claim), Allowed::default(), errors);
}

/// A claim stays what it is; only a bound one may ask for more.
pub(super) fn check_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    let (spec, was) = (At::spec(new), At::spec(old));
    claim::check(&spec, Allowed::by(&was), errors);
    let upgraded = takes_class_of_annotation(new, old);
    if !upgraded {
        let (class, before) =
            (new.annotation(CLASS).unwrap_or_default(), old.annotation(CLASS).unwrap_or_default());
        if class != before {
            let path = Path::new("metadata").child("annotations").child(CLASS);
            errors.push(Error::invalid(&path, class, "field is immutable"));
        }
    }
    let (wanted, before) = comparable(new, old, upgraded);
    let differences = semantic::differences(&before, &wanted);
    if !differences.is_empty() {
        let detail = format!(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound \
             claims\n{}",
            differences.join("\n")
        );
        errors.push(Error::forbidden(spec.path(), detail));
    }
    check_size(&spec, &was, &At::status(old), errors);
    let mode = spec.get("volumeMode").named(Path::new("volumeMode"));
    mode.check_unchanged(&was.get("volumeMode"), errors);
    let class = spec.get("volumeAttributesClassName");
    let changed = class.value() != was.get("volumeAttributesClassName").value();
    if changed && At::status(old).has("currentVolumeAttributesClassName") {
        let what = if class.is_set() { "empty string" } else { "nil" };
        if class.is_empty() {
            let reason = "is forbidden when status.currentVolumeAttributesClassName is not nil";
            class.forbidden(errors, format!("update to {what} {reason}"));
        }
    }
}

/// A claim shrinks no further than what it has got.
fn check_size(spec: &At<'_>, was: &At<'_>, status: &At<'_>, errors: &mut ErrorList) {
    let amount = |at: &At<'_>| at.quantity().unwrap_or_default();
    let [new, old] = [spec, was].map(|spec| spec.get("resources").get("requests").get("storage"));
    let held = amount(&status.get("capacity").get("storage"));
    if amount(&new) < amount(&old) && amount(&new) <= held {
        new.forbidden(errors, "field can not be less than status.capacity");
    }
}

/// Whether the class that an annotation gave moves to the field made for it.
fn takes_class_of_annotation(new: &Object, old: &Object) -> bool {
    let field =
        |claim: &Object| claim.pointer("/spec/storageClassName").and_then(Value::as_str).map(str::to_owned);
    let Some(class) = old.annotation(CLASS) else { return false };
    field(old).is_none()
        && field(new).as_deref() == Some(class)
        && new.annotation(CLASS).is_none_or(|other| other == class)
}

/// Both specs, new and old, without the changes that are allowed.
fn comparable(new: &Object, old: &Object, upgraded: bool) -> (Value, Value) {
    let map = |claim: &Object| match claim.get("spec") {
        Some(Value::Object(spec)) => spec.clone(),
        _ => Map::new(),
    };
    let (mut spec, mut was) = (map(new), map(old));
    super::mirror_source(&mut was);
    let take = |to: &mut Map<String, Value>, from: &Map<String, Value>, field: &str| {
        match from.get(field) {
            Some(value) => to.insert(field.to_owned(), value.clone()),
            None => to.remove(field),
        };
    };
    if At::spec(old).text_of("volumeName").is_empty() {
        let named = spec.clone();
        take(&mut was, &named, "volumeName");
    }
    let (class, before) = (spec.get("storageClassName").cloned(), was.get("storageClassName").cloned());
    let class = class.as_ref().and_then(Value::as_str);
    if upgraded {
        spec.remove("storageClassName");
    } else if let Some(class) = class
        && before.is_none_or(|before| before.is_null())
        && old.annotation(CLASS).is_none_or(|annotation| annotation == class)
    {
        spec.remove("storageClassName");
    }
    if At::status(new).text_of("phase") == "Bound" {
        let size = old.pointer("/spec/resources/requests/storage").cloned().unwrap_or_else(|| "0".into());
        let requests = spec.get_mut("resources").and_then(|resources| resources.get_mut("requests"));
        if let Some(requests) = requests.and_then(Value::as_object_mut) {
            requests.insert("storage".to_owned(), size);
        }
        let same = was.clone();
        take(&mut spec, &same, "volumeAttributesClassName");
    }
    (Value::Object(spec), Value::Object(was))
}

/// What a claim has got.
pub(super) fn check_status(new: &Object, _old: &Object, errors: &mut ErrorList) {
    if At::spec(new).get("accessModes").is_empty() {
        errors.push(Error::required(&Path::new("Spec").child("accessModes"), ""));
    }
    let status = At::status(new);
    status.get("capacity").entries().for_each(|(_, amount)| resources::check_basic(&amount, errors));
    let states = status.get("allocatedResourceStatuses");
    for (name, state) in states.entries() {
        check_name(name, states.path(), errors);
        if !RESIZES.contains(&state.text()) {
            errors.push(Error::not_supported(states.path(), name, RESIZES));
        }
    }
    let allocated = status.get("allocatedResources");
    for (name, amount) in allocated.entries() {
        let mut wrong = ErrorList::new();
        check_name(name, allocated.path(), &mut wrong);
        if wrong.is_empty() {
            resources::check_basic(&amount, &mut wrong);
        }
        if wrong.is_empty() {
            resources::check_amount("storage", &amount, &mut wrong);
        }
        errors.extend(wrong);
    }
}

/// A resource of a claim: storage, or one of a driver.
fn check_name(name: &str, path: &Path, errors: &mut ErrorList) {
    let wrong = format::qualified_name(name);
    let own = !name.contains('/') || name.contains("kubernetes.io/");
    if wrong.is_empty() && own && name != "storage" {
        errors.push(Error::not_supported(path, name, &["storage"]));
    }
    wrong.into_iter().for_each(|detail| errors.push(Error::invalid(path, name, detail)));
}

/// What to warn of at a claim.
pub(super) fn warnings(claim: &Object) -> Vec<String> {
    let mut warnings = Vec::new();
    if claim.annotation(CLASS).is_some() {
        let message = "deprecated since v1.8; use \"storageClassName\" attribute instead";
        warnings.push(format!("metadata.annotations[{CLASS}]: {message}"));
    }
    warnings.extend(warnings_of_claim(&At::spec(claim)));
    warnings
}
