//! `statefulsets` of apps.

use std::sync::Arc;

use component_base::features::{Gate, Gates};
use serde_json::{Value, json};

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource,
        kit::{
            Cell, Plain, Rules,
            at::At,
            claim::{self, Allowed},
            column, fill, format, semantic, workload,
        },
    },
    validate,
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Ready", "string"),
    column("Age", "string"),
    column("Containers", "string").wide(),
    column("Images", "string").wide(),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Ratio("/status/readyReplicas", "/spec/replicas"),
    Cell::Age,
    Cell::Each("/spec/template/spec/containers", "name"),
    Cell::Each("/spec/template/spec/containers", "image"),
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["sts"],
        categories: &["all"],
        subresources: workload::SCALED,
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            create: |new, ctx| gated(new, None, ctx.gates),
            change: |new, old, ctx| gated(new, Some(old), ctx.gates),
            name: validate::dns_label,
            validate_new,
            validate_change,
            validate_status,
            warnings,
            ..Rules::new(Plain { status: true, generation: true, cells: CELLS })
        }),
        ..Resource::of("apps", "StatefulSet", "statefulsets", "statefulset")
    }
}

/// How many pods may be away at once is behind a feature gate: one unless it says more; with the gate off not kept, where
/// it is not there already.
fn gated(new: &mut Object, old: Option<&Object>, gates: Gates) {
    const FIELD: &str = "/spec/updateStrategy/rollingUpdate/maxUnavailable";
    let was = old.and_then(|old| old.pointer(FIELD)).is_some_and(|value| !value.is_null());
    let Some(strategy) =
        fill::child(new.as_map_mut(), "spec").and_then(|spec| fill::child(spec, "updateStrategy"))
    else {
        return;
    };
    let rolls = fill::string(strategy, "type") == "RollingUpdate";
    let Some(rolling) = fill::child(strategy, "rollingUpdate") else { return };
    if !gates.has(Gate::MaxUnavailableStatefulSet) && !was {
        rolling.remove("maxUnavailable");
    } else if gates.has(Gate::MaxUnavailableStatefulSet) && rolls {
        fill::missing(rolling, "maxUnavailable", 1);
    }
}

fn warnings(new: &Object, old: Option<&Object>) -> Vec<String> {
    let mut all = workload::warnings(new, old, false, &["spec", "template"]);
    if At::spec(new).get("revisionHistoryLimit").int() < 0 {
        all.push(
            "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended"
                .to_owned(),
        );
    }
    all
}

/// One replica after the other, claims that stay.
fn default(obj: &mut Object) {
    let Some(spec) = fill::spec(obj) else { return };
    fill::missing(spec, "podManagementPolicy", "OrderedReady");
    if let Some(strategy) = fill::made(spec, "updateStrategy") {
        if fill::string(strategy, "type").is_empty() {
            fill::missing(strategy, "type", "RollingUpdate");
            fill::made(strategy, "rollingUpdate");
        }
        if fill::string(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = fill::child(strategy, "rollingUpdate")
        {
            fill::missing(rolling, "partition", 0);
        }
    }
    if let Some(retention) = fill::made(spec, "persistentVolumeClaimRetentionPolicy") {
        fill::missing(retention, "whenDeleted", "Retain");
        fill::missing(retention, "whenScaled", "Retain");
    }
    fill::missing(spec, "replicas", 1);
    fill::missing(spec, "revisionHistoryLimit", 10);
    fill::template(spec, "template");
    for claim in fill::members(spec, "volumeClaimTemplates") {
        fill::missing(claim, "apiVersion", "v1");
        fill::missing(claim, "kind", "PersistentVolumeClaim");
        if let Some(spec) = fill::made(claim, "spec") {
            fill::missing(spec, "volumeMode", "Filesystem");
        }
        if let Some(status) = fill::made(claim, "status") {
            fill::missing(status, "phase", "Pending");
        }
    }
}

/// What may change in the spec.
const MUTABLE: [&str; 7] = [
    "replicas",
    "template",
    "updateStrategy",
    "minReadySeconds",
    "ordinals",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
];

/// How the template of a set is looked at.
#[derive(Clone, Copy)]
enum Template<'o> {
    /// As one that nothing was before.
    New,
    /// As one that takes the place of this set's.
    After(&'o Object),
    /// Not at all: the one before was no good one either.
    Kept,
}

/// A set, new or changed.
fn check(obj: &Object, template: Template<'_>, errors: &mut ErrorList) {
    let spec = At::spec(obj);
    let management = spec.get("podManagementPolicy");
    match management.text() {
        "" => management.required(errors, ""),
        "OrderedReady" | "Parallel" => {}
        _ => management.invalid(errors, "must be 'OrderedReady' or 'Parallel'"),
    }
    check_strategy(&spec.get("updateStrategy"), errors);
    let retention = spec.get("persistentVolumeClaimRetentionPolicy");
    for when in ["whenDeleted", "whenScaled"] {
        let policy = retention.get(when);
        if policy.is_set() && !["Retain", "Delete"].contains(&policy.text()) {
            policy.not_among(errors, &["Retain", "Delete"]);
        }
    }
    spec.check_counts(&["replicas", "minReadySeconds"], errors);
    spec.get("ordinals").get("start").check_non_negative(errors);
    workload::check_own_selector(&spec, "statefulset", "", errors);
    let was = match template {
        Template::New => None,
        Template::After(old) => Some(workload::template(old)),
        Template::Kept => return workload::check_lasting(&spec.get("template"), "StatefulSet", errors),
    };
    let own = own_volumes(&spec);
    workload::check_lasting_template(&own.at(&spec), was.as_ref(), "StatefulSet", errors);
}

/// A template with the volumes of the claims, and without the names its pods get.
struct Filled(Value);

impl Filled {
    fn at<'f>(&'f self, spec: &At<'_>) -> At<'f> {
        At::new(&self.0, spec.path().child("template"))
    }
}

fn own_volumes(spec: &At<'_>) -> Filled {
    let mut template = spec.get("template").value().clone();
    let claims: Vec<&str> =
        spec.get("volumeClaimTemplates").items().map(|c| c.get("metadata").get("name").text()).collect();
    if let Some(pod) = template.get_mut("spec").and_then(Value::as_object_mut) {
        pod.remove("subdomain");
        pod.remove("hostname");
        if !claims.is_empty() {
            let own = |v: &Value| !v.get("name").and_then(Value::as_str).is_some_and(|n| claims.contains(&n));
            let kept = pod.get("volumes").and_then(Value::as_array).into_iter().flatten().filter(|v| own(v));
            let made =
                claims.iter().map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
            let volumes: Vec<Value> = made.chain(kept.cloned()).collect();
            pod.insert("volumes".to_owned(), volumes.into());
        }
    }
    Filled(template)
}

fn check_strategy(strategy: &At<'_>, errors: &mut ErrorList) {
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").text() {
        "" => strategy.required(errors, ""),
        "OnDelete" if rolling.is_set() => {
            rolling.invalid(errors, "only allowed for updateStrategy 'RollingUpdate'");
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            rolling.get("partition").check_non_negative(errors);
            let unavailable = rolling.get("maxUnavailable");
            if unavailable.is_set() {
                unavailable.check_count_or_percent(errors);
                if unavailable.count_or_percent() == 0 {
                    unavailable.invalid(errors, "cannot be 0");
                }
                unavailable.check_at_most_whole(errors);
            }
        }
        _ => strategy.invalid(errors, "must be 'RollingUpdate' or 'OnDelete'"),
    }
}

fn validate_new(obj: &Object, errors: &mut ErrorList) {
    check(obj, Template::New, errors);
    for claim in At::spec(obj).get("volumeClaimTemplates").items() {
        claim::check(&claim.get("spec"), Allowed::default(), errors);
    }
    let service = At::spec(obj).get("serviceName");
    if !service.is_empty() {
        service.check_format(errors, format::dns_label);
    }
}

fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    let fixed = |obj: &Object| {
        let mut spec = obj.get("spec").and_then(Value::as_object).cloned().unwrap_or_default();
        MUTABLE.iter().for_each(|field| drop(spec.remove(*field)));
        Value::Object(spec)
    };
    let mut wrong = ErrorList::new();
    check(old, Template::After(old), &mut wrong);
    let template = if wrong.is_empty() { Template::After(old) } else { Template::Kept };
    check(new, template, errors);
    if !semantic::same(&fixed(old), &fixed(new)) {
        At::spec(new).forbidden(
            errors,
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
             'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
}

fn validate_status(new: &Object, old: &Object, errors: &mut ErrorList) {
    let status = At::status(new);
    let parts = ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
    status.check_counts(&["replicas"], errors);
    status.check_counts(&parts, errors);
    status.check_counts(&["observedGeneration", "collisionCount"], errors);
    status.check_at_most(&parts, "replicas", "cannot be greater than status.replicas", errors);
    status.check_at_most(
        &["availableReplicas"],
        "readyReplicas",
        "cannot be greater than status.readyReplicas",
        errors,
    );
    workload::check_grows(&status.get("collisionCount"), &At::status(old).get("collisionCount"), errors);
}
