//! What takes bytes from outside, each as a function that comes to an end and does not panic, whatever the bytes.
//!
//! The suite runs each over its corpus and mutations of it (`src/hostile.rs`); `cargo fuzz run <name>` goes on from there.

use std::hint::black_box;

use apiserver::{
    apiextensions::{definition::Definition, structural},
    apply::FieldSet,
    authn::jwt::Token,
    negotiation::{Media, Offer},
    object::Object,
    patch::{JsonPatch, strategic},
    request_path::info::RequestInfo,
    schema,
};
use component_base::selector::{FieldSelector, LabelSelector};
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Value, json};

/// Name and function of a target.
pub(super) type Target = (&'static str, fn(&[u8]));

/// All of them; each has a folder of its name below `corpus`.
pub(super) const TARGETS: &[Target] = &[
    ("json_body", json_body),
    ("yaml_body", yaml_body),
    ("protobuf_body", protobuf_body),
    ("json_patch", json_patch),
    ("strategic_patch", strategic_patch),
    ("managed_fields", managed_fields),
    ("selectors", selectors),
    ("request_line", request_line),
    ("accept", accept),
    ("definition", definition),
    ("token", token),
];

fn body(content_type: &'static str, bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    let Ok(sent) = schema::read(&headers, bytes) else { return };
    let text = |name| sent.node.get(name).and_then(proto::node::Node::as_str).unwrap_or_default();
    match schema::type_of(text("apiVersion"), text("kind")) {
        Some(id) => drop(black_box(schema::decode(&sent.node, id))),
        None => drop(black_box(schema::decode_untyped(&sent.node))),
    }
}

/// A JSON object as clients send it, decoded by its kind.
pub(super) fn json_body(bytes: &[u8]) {
    body("application/json", bytes);
}

/// The same in YAML.
pub(super) fn yaml_body(bytes: &[u8]) {
    body("application/yaml", bytes);
}

/// The same in protobuf.
pub(super) fn protobuf_body(bytes: &[u8]) {
    body(proto::codec::CONTENT_TYPE, bytes);
}

fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i", "env": [{"name": "e", "value": "v"}]}],
            "tolerations": [{"key": "k"}]}})
}

/// A JSON patch, applied to a pod.
pub(super) fn json_patch(bytes: &[u8]) {
    if let Ok((patch, _)) = JsonPatch::parse(bytes) {
        let mut value = pod();
        drop(black_box(patch.apply(&mut value)));
    }
}

/// A strategic merge patch, applied to a pod.
pub(super) fn strategic_patch(bytes: &[u8]) {
    if let Ok(patch) = serde_json::from_slice::<Value>(bytes) {
        drop(black_box(strategic(&pod(), &patch, schema::type_of("v1", "Pod"))));
    }
}

/// `fieldsV1` of a manager, there and back.
pub(super) fn managed_fields(bytes: &[u8]) {
    if let Ok(fields) = serde_json::from_slice::<Value>(bytes) {
        let set = FieldSet::from_fields_v1(&fields);
        let again = FieldSet::from_fields_v1(&set.clone().into_fields_v1());
        assert_eq!(set.difference(&again).paths(), Vec::<String>::new(), "fields were lost");
        black_box(set.union(again).paths());
    }
}

/// A label selector and a field selector.
pub(super) fn selectors(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(selector) = text.parse::<LabelSelector>() {
        black_box(selector.matches(&std::collections::BTreeMap::from([("a".to_owned(), "b".to_owned())])));
    }
    drop(black_box(text.parse::<FieldSelector>()));
}

/// The path and query of a request.
pub(super) fn request_line(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (path, query) = text.split_once('?').unwrap_or((&text, ""));
    for method in [Method::GET, Method::POST, Method::DELETE] {
        let info = RequestInfo::new(&method, path, query);
        black_box((info.api_version(), info.is_long_running()));
    }
}

/// An Accept header.
pub(super) fn accept(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, value);
    for (protobuf, watch) in [(true, false), (false, true)] {
        let offer = Offer { protobuf, table: true, watch, pretty: false };
        drop(black_box(Media::choose(&headers, offer)));
    }
}

/// The schema of a custom resource: looked at as a new one, and read as a stored one.
pub(super) fn definition(bytes: &[u8]) {
    let Ok(schema) = serde_json::from_slice::<Value>(bytes) else { return };
    black_box((structural::validate(&schema, "schema"), structural::unreadable(&schema)));
    let version =
        json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}});
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.a.b"},
        "spec": {"group": "a.b", "names": {"plural": "things", "kind": "Thing"}, "versions": [version]}});
    if let Ok(object) = Object::from_value(definition) {
        black_box(Definition::read(&object));
    }
}

/// A bearer token.
pub(super) fn token(bytes: &[u8]) {
    drop(black_box(Token::parse(&String::from_utf8_lossy(bytes))));
}
