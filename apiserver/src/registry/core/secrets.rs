//! `secrets`: what is given as `stringData` is stored as `data`, and what has no type is `Opaque`.

mod key_pair;

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value};

use crate::{
    field::{Error, ErrorList, Path},
    object::Object,
    registry::{
        Column, Resource, SelectableField,
        kit::{Cell, Plain, Rules, at::At, column, contents},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Type", "string"),
    column("Data", "string"),
    column("Age", "string"),
];
const CELLS: &[Cell] = &[Cell::Name, Cell::Field("/type", ""), Cell::Count(&["/data"]), Cell::Age];

/// Texts become data; what has no type is opaque.
fn default(obj: &mut Object) {
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
}

/// Keys are good ones, and the type's own are there.
fn validate(secret: &Object, errors: &mut ErrorList) {
    let data = At::field(secret, "data");
    data.entries().for_each(|(key, value)| contents::check_key(key, &value, errors));
    if contents::size(&data) > contents::MAX {
        errors.push(Error::too_long(data.path(), contents::MAX));
    }
    let required = |key: &str, errors: &mut ErrorList| {
        if !data.has(key) {
            errors.push(Error::required(&data.path().key(key), ""));
        }
    };
    match At::field(secret, "type").text() {
        "kubernetes.io/service-account-token" => {
            const NAME: &str = "kubernetes.io/service-account.name";
            if secret.annotation(NAME).is_none_or(str::is_empty) {
                let path = Path::new("metadata").child("annotations").key(NAME);
                errors.push(Error::required(&path, ""));
            }
        }
        "kubernetes.io/dockercfg" => check_json(&data, ".dockercfg", errors),
        "kubernetes.io/dockerconfigjson" => check_json(&data, ".dockerconfigjson", errors),
        "kubernetes.io/basic-auth" if !data.has("username") && !data.has("password") => {
            required("username", errors);
            required("password", errors);
        }
        "kubernetes.io/ssh-auth" if data.text_of("ssh-privatekey").is_empty() => {
            errors.push(Error::required(&data.path().key("ssh-privatekey"), ""));
        }
        "kubernetes.io/tls" => {
            required("tls.crt", errors);
            required("tls.key", errors);
        }
        _ => {}
    }
}

/// The value under a key is a JSON object. What is wrong with it is told without showing it.
fn check_json(data: &At<'_>, key: &str, errors: &mut ErrorList) {
    let path = data.path().key(key);
    if !data.has(key) {
        return errors.push(Error::required(&path, ""));
    }
    let bytes = BASE64_STANDARD.decode(data.text_of(key)).unwrap_or_default();
    let why = if bytes.is_empty() {
        "unexpected end of JSON input".to_owned()
    } else {
        match serde_json::from_slice::<Map<String, Value>>(&bytes) {
            Ok(_) => return,
            Err(error) => error.to_string(),
        }
    };
    errors.push(Error::invalid(&path, "<secret contents redacted>", why));
}

fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    At::field(new, "type").check_unchanged(&At::field(old, "type"), errors);
    contents::check_immutable(new, old, &["data"], errors);
}

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        selectable: const { &[SelectableField::at("type", "/type")] },
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            default,
            validate,
            validate_change,
            warnings: |new, _| key_pair::warnings(new),
            ..Rules::new(Plain { status: false, generation: false, cells: CELLS })
        }),
        ..Resource::of("", "Secret", "secrets", "secret")
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
        default(&mut secret);
        assert_eq!(secret.get("data"), Some(&json!({"a": "bmV3", "b": "a2VwdA==", "c": ""})));
        assert_eq!((secret.get("stringData"), secret.get("type")), (None, Some(&json!("Opaque"))));
        let before = secret.clone();
        default(&mut secret);
        assert_eq!(secret, before);
    }
}
