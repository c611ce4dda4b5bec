//! Tables of objects: columns from the descriptor, cells from the strategy.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    field::{Error, Path},
    object::Object,
    registry::Resource,
    status::Status,
};

/// `meta.k8s.io/v1 Table`; `include` is the `includeObject` parameter, Metadata unless given.
pub(crate) fn of(resource: &Resource, objects: &[Object], include: &str, metadata: Value) -> Value {
    let now = Timestamp::now();
    let rows: Vec<Value> = objects.iter().map(|object| row(resource, object, include, now)).collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": columns(resource), "rows": rows})
}

/// The table of one object, which has that object's version.
pub(crate) fn of_one(resource: &Resource, object: Object, include: &str) -> Value {
    let metadata = json!({"resourceVersion": object.resource_version()});
    of(resource, &[object], include, metadata)
}

/// Whether this is something a row can show of its object.
///
/// # Errors
/// 400 where it is not.
pub(crate) fn check(include: &str) -> Result<(), Status> {
    if matches!(include, "" | "None" | "Metadata" | "Object") {
        return Ok(());
    }
    let why = "must be 'Metadata', 'Object', 'None', or empty";
    let error = Error::invalid(&Path::new("includeObject"), include, why);
    Err(Status::bad_request(format!("Unable to convert to Table as requested: {error}")))
}

fn row(resource: &Resource, object: &Object, include: &str, now: Timestamp) -> Value {
    let shown = match include {
        "None" => Value::Null,
        "Object" => object.to_value(),
        _ => super::partial(object),
    };
    let mut row = json!({"cells": resource.strategy.row(object, now), "object": shown});
    if let Some((reason, message)) = resource.strategy.completed(object) {
        row["conditions"] =
            json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]);
    }
    row
}

fn columns(resource: &Resource) -> Value {
    if let Some(custom) = resource.strategy.custom() {
        return custom.columns();
    }
    if resource.columns.is_empty() {
        return json!([
            {"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0},
            {"name": "Age", "type": "date", "format": "", "description": "", "priority": 0},
        ]);
    }
    let one = |c: &crate::registry::Column| json!({"name": c.name, "type": c.kind, "format": c.format, "description": "", "priority": c.priority});
    resource.columns.iter().map(one).collect()
}
