//! `certificatesigningrequests` of certificates.k8s.io.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::csr_rules;
use crate::{
    object::Object,
    objects::rfc3339,
    registry::{
        Column, Resource, SelectableField, StrategyContext, Subresource,
        kit::{Cell, Plain, Rules, column, items, keep, path_segment},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Age", "string"),
    column("SignerName", "string"),
    column("Requestor", "string"),
    column("RequestedDuration", "string"),
    column("Condition", "string"),
];
const PLAIN: Plain = Plain { status: true, generation: false, cells: &[Cell::Name, Cell::Age] };
const STRATEGY: Rules = Rules {
    // Requests are called whatever their makers like.
    name: path_segment,
    create,
    change,
    validate_new: csr_rules::check_new,
    validate_change: |new, old, errors| csr_rules::check_change(new, old, "", errors),
    validate_views: &[("approval", |new, old, errors| csr_rules::check_change(new, old, "approval", errors))],
    validate_status: |new, old, errors| csr_rules::check_change(new, old, "status", errors),
    row: Some(row),
    ..Rules::new(PLAIN)
};

/// Who asks is noted by the server and never changes.
fn create(obj: &mut Object, ctx: &StrategyContext<'_>) {
    let mut spec = obj.remove("spec").filter(Value::is_object).unwrap_or_else(|| json!({}));
    spec["username"] = json!(ctx.user.name);
    for (field, value) in
        [("uid", json!(ctx.user.uid)), ("groups", json!(ctx.user.groups)), ("extra", json!(ctx.user.extra))]
    {
        match value {
            // What is empty is left out.
            Value::String(ref text) if text.is_empty() => drop(spec.as_object_mut().map(|s| s.remove(field))),
            Value::Object(ref map) if map.is_empty() => drop(spec.as_object_mut().map(|s| s.remove(field))),
            value => spec[field] = value,
        }
    }
    obj.set("spec", spec);
}

/// Only `approval` approves, only `status` signs.
fn change(new: &mut Object, old: &Object, ctx: &StrategyContext<'_>) {
    let given = new.pointer("/status/conditions").cloned();
    let is_decision = |c: &Value| matches!(c["type"].as_str(), Some("Approved" | "Denied"));
    match ctx.subresource {
        "" => keep(new, old, &["spec", "status"]),
        "approval" => {
            keep(new, old, &["spec", "status"]);
            let status = new.as_map_mut().entry("status").or_insert_with(|| json!({}));
            status["conditions"] = timed(items(given.as_ref()).cloned().collect(), old, ctx.now);
        }
        _ => {
            keep(new, old, &["spec"]);
            let decided = items(old.pointer("/status/conditions")).filter(|c| is_decision(c));
            let rest = items(given.as_ref()).filter(|c| !is_decision(c));
            let conditions: Vec<Value> = decided.chain(rest).cloned().collect();
            if let Some(status) = new.as_map_mut().get_mut("status").filter(|s| s.is_object()) {
                status["conditions"] = timed(conditions, old, ctx.now);
            }
        }
    }
}

fn row(obj: &Object, now: Timestamp) -> Vec<Value> {
    let text = |pointer: &str| obj.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let asked = obj.pointer("/spec/expirationSeconds").and_then(Value::as_u64);
    let asked = asked.map_or_else(
        || "<none>".to_owned(),
        |s| crate::table::human_duration(i64::try_from(s).unwrap_or(i64::MAX)),
    );
    let mut row = PLAIN.row(obj, now);
    row.extend([text("/spec/signerName"), text("/spec/username"), asked, condition(obj)].map(Value::from));
    row
}

/// Conditions with the times that are missing: of the last change of each type's status, and of the update.
fn timed(mut conditions: Vec<Value>, old: &Object, now: Timestamp) -> Value {
    for condition in conditions.iter_mut().filter(|c| c.is_object()) {
        let before = items(old.pointer("/status/conditions")).find(|c| c["type"] == condition["type"]);
        let since =
            before.filter(|c| c["status"] == condition["status"]).map(|c| c["lastTransitionTime"].clone());
        if condition["lastTransitionTime"].is_null() {
            condition["lastTransitionTime"] =
                since.filter(Value::is_string).unwrap_or_else(|| json!(rfc3339(now)));
        }
        if condition["lastUpdateTime"].is_null() {
            condition["lastUpdateTime"] = json!(rfc3339(now));
        }
    }
    Value::Array(conditions)
}

/// `Pending`, `Approved,Issued`, `Denied` …
fn condition(obj: &Object) -> String {
    let has = |kind: &str| items(obj.pointer("/status/conditions")).any(|c| c["type"] == kind);
    let decision = [("Denied", has("Denied")), ("Approved", has("Approved"))];
    let mut out = decision.iter().find(|(_, is)| *is).map_or("Pending", |(name, _)| name).to_owned();
    if has("Failed") {
        out.push_str(",Failed");
    }
    if obj.pointer("/status/certificate").and_then(Value::as_str).is_some_and(|c| !c.is_empty()) {
        out.push_str(",Issued");
    }
    out
}

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["csr"],
        namespaced: false,
        subresources: &[Subresource::View("approval"), Subresource::Status],
        selectable: const { &[SelectableField::at("spec.signerName", "/spec/signerName")] },
        columns: COLUMNS,
        strategy: Arc::new(STRATEGY),
        ..Resource::of(
            "certificates.k8s.io",
            "CertificateSigningRequest",
            "certificatesigningrequests",
            "certificatesigningrequest",
        )
    }
}

#[cfg(test)]
mod tests {
    use component_base::features::Gates;

    use super::*;
    use crate::{auth::User, registry::Strategy};

    fn object(status: Value) -> Object {
        Object::from_value(json!({
            "metadata": {"name": "r"}, "spec": {"username": "forged", "uid": "x", "signerName": "s"}, "status": status,
        }))
        .unwrap()
    }

    fn context<'a>(user: &'a User, subresource: &'a str) -> StrategyContext<'a> {
        StrategyContext {
            now: Timestamp::UNIX_EPOCH,
            version: "v1",
            subresource,
            user,
            gates: Gates::default(),
        }
    }

    #[test]
    fn the_requester_is_who_asks() {
        let user = User { name: "jane".into(), groups: vec!["devs".into()], ..User::default() };
        let mut request = object(json!({"certificate": "eA=="}));
        STRATEGY.prepare_create(&mut request, &context(&user, "")).unwrap();
        assert_eq!(
            request.get("spec"),
            Some(&json!({"username": "jane", "groups": ["devs"], "signerName": "s"}))
        );
        assert_eq!(request.get("status"), None);
    }

    #[test]
    fn approval_and_status_touch_only_what_is_theirs() {
        let user = User::default();
        let approved = json!([{"type": "Approved", "status": "True"}]);
        let mut request = object(json!({"conditions": approved, "certificate": "forged"}));
        STRATEGY.prepare_update(&mut request, &object(json!({})), &context(&user, "approval"));
        assert_eq!(condition(&request), "Approved");
        assert_eq!(
            request.pointer("/status/conditions/0/lastUpdateTime"),
            Some(&json!("1970-01-01T00:00:00Z"))
        );
        let mut signed =
            object(json!({"certificate": "eA==", "conditions": [{"type": "Denied", "status": "True"}]}));
        STRATEGY.prepare_update(&mut signed, &request, &context(&user, "status"));
        assert_eq!(condition(&signed), "Approved,Issued");
        let mut edited = object(json!({}));
        STRATEGY.prepare_update(&mut edited, &signed, &context(&user, ""));
        assert_eq!(condition(&edited), "Approved,Issued");
    }
}
