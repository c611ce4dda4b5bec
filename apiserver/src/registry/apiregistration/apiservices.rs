//! `apiservices` of apiregistration.k8s.io.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    object::Object,
    registry::{
        Column, Resource, Strategy, StrategyContext, Subresource,
        kit::{Plain, column},
    },
    status::Status,
    table,
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Service", "string"),
    column("Available", "string"),
    column("Age", "string"),
];
const PLAIN: Plain = Plain { status: true, generation: false, cells: &[] };

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        categories: &["api-extensions"],
        namespaced: false,
        subresources: &[Subresource::Status],
        storage_prefix: "apiregistration.k8s.io/apiservices",
        columns: COLUMNS,
        strategy: Arc::new(ApiServices),
        ..Resource::of("apiregistration.k8s.io", "APIService", "apiservices", "apiservice")
    }
}

/// A group version and who serves it.
struct ApiServices;

impl Strategy for ApiServices {
    fn default(&self, obj: &mut Object, _version: &str) -> Result<(), Status> {
        let spec = obj.as_map_mut().get_mut("spec").and_then(Value::as_object_mut);
        if let Some(service) = spec.and_then(|spec| spec.get_mut("service")).and_then(Value::as_object_mut) {
            service.entry("port").or_insert_with(|| 443.into());
        }
        Ok(())
    }

    fn prepare_create(&self, obj: &mut Object, ctx: &StrategyContext<'_>) -> Result<(), Status> {
        PLAIN.prepare_create(obj, ctx)
    }

    fn prepare_update(
        &self,
        new: &mut Object,
        old: &Object,
        ctx: &StrategyContext<'_>,
    ) -> Result<(), Status> {
        PLAIN.prepare_update(new, old, ctx)
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
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
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_tell_who_serves_and_whether_that_works() {
        let of = |value: Value| {
            ApiServices.row(&Object::from_value(value).unwrap(), Timestamp::UNIX_EPOCH)[1..3].to_vec()
        };
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
