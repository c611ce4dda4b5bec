//! `apiservices` of apiregistration.k8s.io.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    field::{Error, ErrorList, Path},
    object::Object,
    objects::rfc3339,
    registry::{
        Column, Resource, StrategyContext, Subresource,
        kit::{Rules, at::At, column, format},
    },
    table,
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Service", "string"),
    column("Available", "string"),
    column("Age", "string"),
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        categories: &["api-extensions"],
        namespaced: false,
        subresources: &[Subresource::Status],
        storage_prefix: "apiregistration.k8s.io/apiservices",
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            name: |name, _| format::path_segment(name),
            default,
            create,
            validate: |service, errors| errors.extend(validate(service)),
            validate_status,
            row: Some(row),
            unconditional_update: false,
            ..Rules::apart(&[])
        }),
        ..Resource::of("apiregistration.k8s.io", "APIService", "apiservices", "apiservice")
    }
}

fn default(service: &mut Object) {
    let spec = service.as_map_mut().get_mut("spec").and_then(Value::as_object_mut);
    if let Some(service) = spec.and_then(|spec| spec.get_mut("service")).and_then(Value::as_object_mut) {
        service.entry("port").or_insert_with(|| 443.into());
    }
}

/// What this server serves itself is there.
fn create(service: &mut Object, ctx: &StrategyContext<'_>) {
    if !At::spec(service).get("service").is_set() {
        let condition = json!({"type": "Available", "status": "True", "reason": "Local",
            "message": "Local APIServices are always available", "lastTransitionTime": rfc3339(ctx.now)});
        service.set("status", json!({"conditions": [condition]}));
    }
}

fn validate_status(new: &Object, _old: &Object, errors: &mut ErrorList) {
    for condition in At::status(new).get("conditions").items() {
        condition.get("status").check_is_one_of(errors, &["True", "False", "Unknown"]);
    }
}

fn row(obj: &Object, now: Timestamp) -> Vec<Value> {
    let at = |pointer: &str| obj.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let service = match obj.pointer("/spec/service").filter(|s| s.is_object()) {
        Some(_) => format!("{}/{}", at("/spec/service/namespace"), at("/spec/service/name")),
        None => "Local".to_owned(),
    };
    let conditions = obj.pointer("/status/conditions").and_then(Value::as_array);
    let of = |condition: &Value, field: &str| {
        condition.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let available = conditions.into_iter().flatten().find(|c| of(c, "type") == "Available");
    let available = match available {
        None => "Unknown".to_owned(),
        Some(condition) if of(condition, "status") == "True" => "True".to_owned(),
        Some(condition) => format!("{} ({})", of(condition, "status"), of(condition, "reason")),
    };
    vec![obj.name().into(), service.into(), available.into(), table::age(obj, now).into()]
}

/// What is wrong with the registration of a group version.
fn validate(obj: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = At::spec(obj);
    let (group, version) = (spec.get("group"), spec.get("version"));
    let name = format!("{}.{}", version.text(), group.text());
    if obj.name() != name {
        let why = format!("must be `spec.version+\".\"+spec.group`: {name:?}");
        errors.push(Error::invalid(&Path::new("metadata").child("name"), obj.name(), why));
    }
    if group.is_empty() && version.text() != "v1" {
        group.required(&mut errors, "only v1 may have an empty group and it better be legacy kube");
    }
    for why in format::dns_subdomain(group.text()).into_iter().filter(|_| !group.is_empty()) {
        group.invalid(&mut errors, why);
    }
    for why in format::dns_1035_label(version.text()) {
        version.invalid_as(&mut errors, version.text(), why);
    }
    for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let priority = spec.get(field);
        if !(1..=most).contains(&priority.int()) {
            let why = format!("must be positive and less than {most}");
            priority.invalid_as(&mut errors, priority.int(), why);
        }
    }
    who_serves(&spec, &mut errors);
    errors
}

fn who_serves(spec: &At<'_>, errors: &mut ErrorList) {
    let (service, bundle) = (spec.get("service"), spec.get("caBundle"));
    let insecure = spec.get("insecureSkipTLSVerify");
    if !service.is_set() {
        if !bundle.is_empty() {
            let bytes = BASE64_STANDARD.decode(bundle.text()).map_or(0, |bytes| bytes.len());
            bundle.invalid_as(errors, format!("{bytes} bytes"), "local APIServices may not have a caBundle");
        }
        if insecure.is_true() {
            insecure.invalid(errors, "local APIServices may not have insecureSkipTLSVerify");
        }
        return;
    }
    service.get("namespace").check_required(errors);
    service.get("name").check_required(errors);
    let port = service.get("port");
    if !(1..=65535).contains(&port.int()) {
        port.invalid(errors, "port is not valid: must be between 1 and 65535, inclusive");
    }
    if insecure.is_true() && !bundle.is_empty() {
        insecure.invalid(errors, "may not be true if caBundle is present");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registrations_are_named_ranked_and_reachable() {
        let kind = crate::registry::testing::Kind::new("apiregistration.k8s.io", "apiservices");
        let good = json!({"metadata": {"name": "v1.a.b"}, "spec": {"group": "a.b", "version": "v1",
            "groupPriorityMinimum": 100, "versionPriority": 10, "service": {"namespace": "n", "name": "s"}}});
        assert!(kind.errors(good.clone()).is_empty());
        let told = |pointer: &str, value: Value| {
            kind.errors(crate::registry::testing::changed(&good, &[(pointer, value)]))
        };
        let cases = [
            (
                "/metadata/name",
                json!("x"),
                r#"metadata.name: Invalid value: "x": must be `spec.version+"."+spec.group`: "v1.a.b""#,
            ),
            (
                "/spec/versionPriority",
                json!(0),
                "spec.versionPriority: Invalid value: 0: must be positive and less than 1000",
            ),
            ("/spec/service/name", json!(""), "spec.service.name: Required value"),
            (
                "/spec/service/port",
                json!(0),
                "spec.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive",
            ),
        ];
        for (pointer, value, want) in cases {
            assert_eq!(told(pointer, value), [want]);
        }
        let local =
            kind.create(crate::registry::testing::changed(&good, &[("/spec/service", Value::Null)])).0;
        assert_eq!(local["status"]["conditions"][0]["reason"], "Local");
    }

    #[test]
    fn rows_tell_who_serves_and_whether_that_works() {
        let of =
            |value: Value| row(&Object::from_value(value).unwrap(), Timestamp::UNIX_EPOCH)[1..3].to_vec();
        let local = of(
            json!({"status": {"conditions": [{"type": "Available", "status": "True", "reason": "Local"}]}}),
        );
        assert_eq!(local, [json!("Local"), json!("True")]);
        let broken =
            of(json!({"spec": {"service": {"namespace": "a", "name": "b"}}, "status": {"conditions": [
            {"type": "Available", "status": "False", "reason": "ServiceNotFound"}]}}));
        assert_eq!(broken, [json!("a/b"), json!("False (ServiceNotFound)")]);
        assert_eq!(of(json!({})), [json!("Local"), json!("Unknown")]);
    }
}
