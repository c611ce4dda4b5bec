//! `secrets`: what is given as `stringData` is stored as `data`, and what has no type is `Opaque`.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::{
    object::Object,
    registry::{
        Column, Resource, SelectableField, Strategy,
        kit::{Cell, Plain, STANDARD_VERBS, column},
    },
    status::Status,
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Type", "string"),
    column("Data", "integer"),
    column("Age", "date"),
];
const CELLS: &[Cell] = &[Cell::Name, Cell::Field("/type", ""), Cell::Count(&["/data"]), Cell::Age];

const PLAIN: Plain = Plain { status: false, generation: false, cells: CELLS };

struct Secrets;

impl Strategy for Secrets {
    fn default(&self, obj: &mut Object, _version: &str) -> Result<(), Status> {
        if let Some(Value::Object(texts)) = obj.remove("stringData") {
            let mut data = match obj.remove("data") {
                Some(Value::Object(data)) => data,
                _ => Map::new(),
            };
            for (key, text) in texts {
                data.insert(key, BASE64_STANDARD.encode(text.as_str().unwrap_or_default()).into());
            }
            obj.set("data", data);
        }
        if obj.get("type").and_then(Value::as_str).is_none_or(str::is_empty) {
            obj.set("type", "Opaque");
        }
        Ok(())
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        PLAIN.row(obj, now)
    }
}

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        group: "",
        versions: &["v1"],
        storage_version: "v1",
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        short_names: &[],
        categories: &[],
        namespaced: true,
        verbs: STANDARD_VERBS,
        subresources: &[],
        storage_prefix: "secrets",
        selectable: const { &[SelectableField::at("type", "/type")] },
        columns: COLUMNS,
        strategy: Arc::new(Secrets),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_become_data_and_win_over_it() {
        let mut secret = Object::from_value(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"},
            "data": {"a": "b2xk", "b": "a2VwdA=="}, "stringData": {"a": "new", "c": ""},
        }))
        .unwrap();
        Secrets.default(&mut secret, "v1").unwrap();
        assert_eq!(secret.get("data"), Some(&json!({"a": "bmV3", "b": "a2VwdA==", "c": ""})));
        assert_eq!((secret.get("stringData"), secret.get("type")), (None, Some(&json!("Opaque"))));
        let before = secret.clone();
        Secrets.default(&mut secret, "v1").unwrap();
        assert_eq!(secret, before);
    }
}
