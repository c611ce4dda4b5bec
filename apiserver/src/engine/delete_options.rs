//! What DeleteOptions may say.
//!
//! Contract: upstream `apimachinery/pkg/apis/meta/v1/validation`. Pure: from what was sent to the errors in it.

use serde_json::Value;

use super::unreadable;
use crate::{
    field::{Error, ErrorList, Path},
    object::Object,
    registry::Resource,
    status::{GroupName, Status},
};

const POLICIES: [&str; 4] = ["Foreground", "Background", "Orphan", "nil"];

/// Checks DeleteOptions.
///
/// # Errors
/// 422 that names every option at fault.
pub(super) fn check(options: &Object) -> Result<(), Status> {
    let mut errors = ErrorList::new();
    let path = Path::new("propagationPolicy");
    if let Some(policy) = options.get("propagationPolicy").and_then(Value::as_str) {
        if options.get("orphanDependents").is_some_and(|orphan| !orphan.is_null()) {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(Error::invalid(&path, policy, why));
        }
        if !POLICIES[..3].contains(&policy) {
            errors.push(Error::not_supported(&path, policy, &POLICIES));
        }
    }
    let dry_run = dry_run_of(options);
    if dry_run.iter().any(|value| *value != "All") {
        errors.push(Error::not_supported(&Path::new("dryRun"), dry_run, &["All"]));
    }
    unreadable::check(options, &mut errors);
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&GroupName::new("meta.k8s.io", "DeleteOptions"), "", &errors))
}

/// Whether these DeleteOptions ask for a dry run.
pub(super) fn is_dry_run(options: &Object) -> bool {
    dry_run_of(options).contains(&"All")
}

fn dry_run_of(options: &Object) -> Vec<&str> {
    let said = options.get("dryRun").and_then(Value::as_array);
    said.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The object is the one that is meant, as it is meant: by its uid and its version.
///
/// # Errors
/// 409.
pub(super) fn check_preconditions(
    options: &Object,
    object: &Object,
    resource: &Resource,
) -> Result<(), Status> {
    for (field, label, have, what) in [
        ("uid", "UID", object.uid(), "deleted and then recreated"),
        ("resourceVersion", "ResourceVersion", object.resource_version(), "modified"),
    ] {
        let want = options.get("preconditions").and_then(|p| p.get(field)).and_then(Value::as_str);
        let Some(want) = want.filter(|want| *want != have) else { continue };
        // Namespaces have words of their own.
        if resource.is_namespaces() {
            let why = format!(
                "Precondition failed: {label} in precondition: {want}, {label} in object meta: {have}"
            );
            return Err(Status::conflict(&resource.group_resource(), object.name(), &why));
        }
        let why = format!(
            "the {label} in the precondition ({want}) does not match the {label} in record ({have}). The object might \
             have been {what}"
        );
        return Err(Status::conflict(&resource.group_kind(), object.name(), &why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn options_of_deletes() {
        for (options, dry_run, good) in [
            (json!({}), false, true),
            (json!({"dryRun": ["All"], "propagationPolicy": "Orphan"}), true, true),
            (json!({"dryRun": ["Most"]}), false, false),
            (json!({"propagationPolicy": "Sideways"}), false, false),
            (json!({"propagationPolicy": "Orphan", "orphanDependents": true}), false, false),
            (json!({"orphanDependents": true}), false, true),
        ] {
            let options = Object::from_value(options).unwrap();
            assert_eq!((is_dry_run(&options), check(&options).is_ok()), (dry_run, good), "{options:?}");
        }
    }
}
