//! `csidrivers` of storage.k8s.io.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value;

use crate::{
    field::{ErrorList, Path},
    object::Object,
    registry::{
        Column, Resource, StrategyContext,
        kit::{Cell, Plain, Rules, at::At, column, fill, semantic},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("AttachRequired", "boolean"),
    column("PodInfoOnMount", "boolean"),
    column("StorageCapacity", "boolean"),
    column("TokenRequests", "string"),
    column("RequiresRepublish", "boolean"),
    column("Modes", "string"),
    column("Age", "string"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Field("/spec/attachRequired", "true"),
    Cell::Field("/spec/podInfoOnMount", "false"),
    Cell::Field("/spec/storageCapacity", "false"),
    Cell::With(tokens),
    Cell::Field("/spec/requiresRepublish", "false"),
    Cell::With(modes),
    Cell::Age,
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        namespaced: false,
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            unconditional_update: false,
            change,
            validate,
            validate_change,
            warnings,
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
        returns_deleted: true,
        ..Resource::of("storage.k8s.io", "CSIDriver", "csidrivers", "csidriver")
    }
}

/// Volumes are attached, and of lasting claims.
fn default(obj: &mut Object) {
    let Some(spec) = fill::spec(obj) else { return };
    fill::missing(spec, "attachRequired", true);
    fill::missing(spec, "podInfoOnMount", false);
    fill::missing(spec, "storageCapacity", false);
    fill::absent(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if fill::none(spec, "volumeLifecycleModes") {
        spec.insert("volumeLifecycleModes".to_owned(), ["Persistent"].as_slice().into());
    }
    fill::missing(spec, "requiresRepublish", false);
    fill::missing(spec, "seLinuxMount", false);
}

/// Changes are counted from the first one on.
fn change(new: &mut Object, old: &Object, _ctx: &StrategyContext<'_>) {
    if !semantic::same(At::spec(old).value(), At::spec(new).value()) {
        new.metadata_mut().insert("generation".to_owned(), (old.generation() + 1).into());
    }
}

fn validate(driver: &Object, errors: &mut ErrorList) {
    const POLICIES: &[&str] = &["File", "None", "ReadWriteOnceWithFSType"];
    let spec = At::spec(driver);
    // One of them is told by another name than it has.
    spec.get("attachRequired").named(spec.path().child("attachedRequired")).check_there(errors);
    spec.get("podInfoOnMount").check_there(errors);
    spec.get("storageCapacity").check_there(errors);
    spec.get("fsGroupPolicy").check_option_of(errors, POLICIES);
    check_tokens(&spec.get("tokenRequests"), errors);
    let modes = spec.get("volumeLifecycleModes");
    for mode in modes.items().filter(|mode| !matches!(mode.text(), "Persistent" | "Ephemeral")) {
        mode.named(modes.path().clone()).not_among(errors, &["Persistent", "Ephemeral"]);
    }
    spec.get("seLinuxMount").check_there(errors);
    let period = spec.get("nodeAllocatableUpdatePeriodSeconds");
    if period.number().is_some_and(|period| period < 10) {
        period.invalid(errors, "must be greater than or equal to 10 seconds");
    }
    let secrets = spec.get("serviceAccountTokenInSecrets");
    if secrets.is_set() && spec.get("tokenRequests").is_empty() {
        secrets.invalid(errors, "serviceAccountTokenInSecrets is set but no tokenRequests are specified");
    }
}

/// Tokens are for one audience each and last ten minutes at least.
fn check_tokens(requests: &At<'_>, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for request in requests.items() {
        if !seen.insert(request.text_of("audience")) {
            request.get("audience").duplicate(errors);
            continue;
        }
        let seconds = request.get("expirationSeconds");
        match seconds.number() {
            Some(few) if few < 600 => {
                seconds.invalid(errors, "may not specify a duration less than 10 minutes")
            }
            Some(many) if many > 1 << 32 => {
                seconds.invalid(errors, "may not specify a duration larger than 2^32 seconds");
            }
            _ => {}
        }
    }
}

fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    let (spec, was) = (At::spec(new), At::spec(old));
    let path = Path::new("spec").child("attachedRequired");
    spec.get("attachRequired").named(path).check_unchanged(&was.get("attachRequired"), errors);
    spec.get("volumeLifecycleModes").check_unchanged(&was.get("volumeLifecycleModes"), errors);
}

/// Tokens stand in what drivers may log, where nothing else is said.
fn warnings(new: &Object, old: Option<&Object>) -> Vec<String> {
    let spec = At::spec(new);
    let tokens = spec.get("tokenRequests");
    let same =
        old.is_some_and(|old| semantic::same(At::spec(old).get("tokenRequests").value(), tokens.value()));
    if tokens.is_empty() || same || spec.has("serviceAccountTokenInSecrets") {
        return Vec::new();
    }
    vec![
        "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible \
         logging of tokens in volume attributes"
            .to_owned(),
    ]
}

/// Whom tokens are for.
fn tokens(driver: &Object) -> Value {
    let requests = At::spec(driver).get("tokenRequests");
    if !requests.is_set() {
        return "<unset>".into();
    }
    requests.items().map(|request| request.text_of("audience")).collect::<Vec<_>>().join(",").into()
}

fn modes(driver: &Object) -> Value {
    let modes = At::spec(driver).get("volumeLifecycleModes");
    match modes.items().map(|mode| mode.text()).collect::<Vec<_>>().join(",") {
        none if none.is_empty() => "<none>".into(),
        modes => modes.into(),
    }
}
