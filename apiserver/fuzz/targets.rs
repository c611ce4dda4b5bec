//! What takes bytes from outside, each as a function that comes to an end and does not panic, whatever the bytes.
//!
//! The suite runs each over its corpus and mutations of it (`src/hostile.rs`); `cargo fuzz run <name>` goes on from there.

use std::hint::black_box;

use apiserver::{
    admission,
    apiextensions::{
        defaulting, definition::Definition, pruning, rules::Rules, schema::Schema, structural, value,
    },
    apply::{self, FieldSet, Form, Scope, Writer},
    auth::User,
    authn::{self, jwt::Token},
    authz,
    customresources::conversion,
    engine,
    field::Path,
    negotiation::{Media, Offer},
    object::Object,
    openapi::Described,
    patch::{JsonPatch, strategic},
    proxy,
    registry::{Resource, StrategyContext, catalog, stored_forms::StoredForms},
    request_path::info::RequestInfo,
    schema,
    storage::{ContinueToken, ResourceId, Transformer},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use component_base::{
    features::Gates,
    selector::{FieldSelector, LabelSelector},
};
use http::{HeaderMap, HeaderValue, Method, header};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, Header};
use serde_json::{Value, json};

/// Name and function of a target.
pub(super) type Target = (&'static str, fn(&[u8]));

/// All of them; each has a folder of its name below `corpus`.
pub(super) const TARGETS: &[Target] = &[
    ("json_body", json_body),
    ("yaml_body", yaml_body),
    ("protobuf_body", protobuf_body),
    ("cbor_body", cbor_body),
    ("json_patch", json_patch),
    ("strategic_patch", strategic_patch),
    ("managed_fields", managed_fields),
    ("selectors", selectors),
    ("request_line", request_line),
    ("accept", accept),
    ("definition", definition),
    ("token", token),
    ("key_set", key_set),
    ("apply_patch", apply_patch),
    ("custom_object", custom_object),
    ("expression", expression),
    ("kind", kind),
    ("stored_value", stored_value),
    ("webhook_answer", webhook_answer),
    ("merge_patch", merge_patch),
    ("query", query),
    ("spdy_frames", spdy_frames),
    ("continue_token", continue_token),
    ("remote_description", remote_description),
];

fn body(content_type: &'static str, bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    let Ok(sent) = schema::read(&headers, bytes, true) else { return };
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

/// The same in CBOR; what is read means the same when it is written again.
pub(super) fn cbor_body(bytes: &[u8]) {
    body(proto::cbor::CONTENT_TYPE, bytes);
    if let Ok(node) = proto::cbor::decode(bytes) {
        for order in [proto::cbor::Order::Sorted, proto::cbor::Order::Turned(bytes.len() as u64)] {
            let again = proto::cbor::encode(&node, order);
            let read = proto::cbor::decode(&again).map(|node| node.to_value().to_string());
            assert!(read.is_ok(), "what was written is not read: {read:?}");
        }
    }
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

/// A merge patch, applied to a pod that is decoded again.
pub(super) fn merge_patch(bytes: &[u8]) {
    if let Ok(patch) = serde_json::from_slice::<Value>(bytes) {
        let mut value = pod();
        json_patch::merge(&mut value, &patch);
        if let Some(id) = schema::type_of("v1", "Pod") {
            drop(black_box(schema::decode(&proto::node::Node::from(&value), id)));
        }
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

/// What a query asks of lists and watches, and which part of a list.
pub(super) fn query(bytes: &[u8]) {
    black_box(engine::understands(&String::from_utf8_lossy(bytes)));
}

/// What a kubelet says on a stream into a container.
pub(super) fn spdy_frames(bytes: &[u8]) {
    black_box(proxy::spdy_events(bytes));
}

/// An Accept header.
pub(super) fn accept(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, value);
    for (protobuf, watch) in [(true, false), (false, true)] {
        let offer = Offer { protobuf, cbor: watch, table: true, watch, pretty: false };
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

/// What an issuer of tokens publishes: where its keys are, or the keys. A token of one of them stays one however they are
/// written.
pub(super) fn key_set(bytes: &[u8]) {
    const TOKEN: &str =
        "eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ.eyJpc3MiOiJodHRwczovL2kuZXhhbXBsZSJ9.c2lnbmF0dXJl";
    drop(black_box(authn::oidc::keys_of(bytes, "https://i.example")));
    let Ok(keys) = authn::oidc::key_set(bytes) else { return };
    for algorithm in
        [Algorithm::RS256, Algorithm::PS512, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA]
    {
        for kid in [None, Some("a".to_owned())] {
            let header = Header { kid, ..Header::new(algorithm) };
            let claims = authn::oidc::verify(TOKEN, &header, &keys);
            assert!(!matches!(claims, Some(Ok(_))), "nobody has signed this");
        }
    }
}

/// A configuration that is applied to an object others have written: both members of one text.
pub(super) fn apply_patch(bytes: &[u8]) {
    let Ok(both) = serde_json::from_slice::<Value>(bytes) else { return };
    let (live, patch) = (&both["live"], &both["patch"]);
    if !live.is_object() || !patch.is_object() {
        return;
    }
    let scope = Scope {
        form: Form::of_object(schema::type_of("apps/v1", "Deployment")),
        ignored: &|field| field == "status",
    };
    let writer = Writer { manager: "m", api_version: "apps/v1", subresource: "", now: Timestamp::UNIX_EPOCH };
    for force in [false, true] {
        drop(black_box(apply::apply(Some(live), &json!({}), patch, force, writer, scope)));
    }
    drop(black_box(apply::overlay(live, patch, scope.form)));
    let mut new = patch.clone();
    apply::update(Some(live), &json!({}), &mut new, writer, scope);
    black_box(new);
}

/// A custom object, by a schema that comes with it: filled in, pruned, looked at by its rules.
pub(super) fn custom_object(bytes: &[u8]) {
    let Ok(both) = serde_json::from_slice::<Value>(bytes) else { return };
    let (document, object) = (&both["schema"], &both["object"]);
    // What is not structural is never stored as a definition.
    if !structural::validate(document, "schema").is_empty() {
        return;
    }
    let (schema, Some(mut object)) = (Schema::read(document), object.as_object().cloned()) else { return };
    black_box(pruning::prune(&mut object, &schema));
    defaulting::fill(&mut object, &schema);
    let (object, old) = (Value::Object(object), both.get("old"));
    black_box(value::validate(&object, old, &schema, ""));
    if let Some(rules) = Rules::compile(document) {
        black_box(rules.validate(&object, old, &Path::root(), true));
    }
}

/// An expression of a policy or a schema.
pub(super) fn expression(bytes: &[u8]) {
    let env = cel_engine::Env::new()
        .variable("self", cel_engine::Type::Dyn)
        .variable("oldSelf", cel_engine::Type::Dyn);
    let Ok(program) = env.compile(&String::from_utf8_lossy(bytes)) else { return };
    let object = json!({"a": 1, "list": [3, "b", null, {"c": []}], "map": {"k": "v"}, "text": "aé"});
    let variables =
        [("self", cel_engine::Value::json(&object)), ("oldSelf", cel_engine::Value::json(&object["map"]))];
    drop(black_box(program.eval_within(&variables, 20_000)));
}

/// An object of any built-in kind, through all that is done to it in writing and showing it.
pub(super) fn kind(bytes: &[u8]) {
    static CATALOG: std::sync::LazyLock<catalog::Catalog> = std::sync::LazyLock::new(catalog::builtin);
    let Ok(Ok(object)) = serde_json::from_slice::<Value>(bytes).map(Object::from_value) else { return };
    let (group, version) = object.api_version().split_once('/').unwrap_or(("", object.api_version()));
    let is_it = |r: &&std::sync::Arc<Resource>| {
        r.group == group && r.kind == object.kind() && r.versions.contains(&version)
    };
    let Some(resource) = CATALOG.iter().find(is_it) else { return };
    let (user, strategy) = (User::default(), &resource.strategy);
    let mut new = object.clone();
    if resource.convert(&mut new, object.api_version(), &resource.stored_api_version()).is_err() {
        return;
    }
    let stored = new.clone();
    strategy.default(&mut new, resource.storage_version);
    for subresource in ["", "status"] {
        let context = StrategyContext {
            now: Timestamp::UNIX_EPOCH,
            version: resource.storage_version,
            subresource,
            user: &user,
            gates: Gates::default(),
        };
        let (mut made, mut changed) = (new.clone(), new.clone());
        if strategy.prepare_create(&mut made, &context).is_ok() {
            black_box(strategy.validate_create(&made, &context));
        }
        strategy.prepare_update(&mut changed, &stored, &context);
        black_box(strategy.validate_update(&changed, &stored, &context));
        black_box((strategy.warnings(&changed, Some(&stored)), strategy.row(&made, Timestamp::UNIX_EPOCH)));
    }
}

/// A value in etcd, as any server may have written it.
pub(super) fn stored_value(bytes: &[u8]) {
    static FORMS: std::sync::LazyLock<StoredForms> =
        std::sync::LazyLock::new(|| StoredForms::new(catalog::builtin(), false));
    for (group, plural) in [("apps", "deployments"), ("example.com", "things")] {
        let id = ResourceId::new(group, plural);
        drop(black_box(FORMS.decode(&id, "/registry/a/b/c", Bytes::copy_from_slice(bytes))));
    }
}

/// What webhooks of all kinds answer.
pub(super) fn webhook_answer(bytes: &[u8]) {
    let Ok(answer) = serde_json::from_slice::<Value>(bytes) else { return };
    let original = json!({"apiVersion": "a.b/v1", "kind": "Thing", "metadata": {"name": "n", "uid": "u"}});
    let Ok(original) = Object::from_value(original) else { return };
    for form in ["v1", "v1beta1"] {
        for mutating in [false, true] {
            if let Ok(Some(patch)) = admission::webhook::outcome(&answer, "u", form, mutating) {
                json_patch(&patch);
            }
        }
        drop(black_box(conversion::read(&original, answer.clone(), form, "u", "a.b/v2")));
    }
    drop(black_box(authn::webhook::read(&answer, &["api".to_owned()])));
    black_box(authz::webhook::read(&answer));
}

/// Where a list goes on, as it is sent and as it is inside; what is read means the same when it is written again.
pub(super) fn continue_token(bytes: &[u8]) {
    let sent = [String::from_utf8_lossy(bytes).into_owned(), URL_SAFE_NO_PAD.encode(bytes)];
    for (text, scope) in sent.iter().flat_map(|text| [(text, ""), (text, "ns/")]) {
        if let Ok(token) = ContinueToken::decode(text, scope) {
            let again = ContinueToken::decode(&token.encode(scope), scope);
            assert_eq!(again.ok(), Some(token));
        }
    }
}

/// What another server describes of itself, added to a document.
pub(super) fn remote_description(bytes: &[u8]) {
    let Ok(other) = serde_json::from_slice::<Value>(bytes) else { return };
    let Some(described) = Described::of(&other, "b.example", "v1") else { return };
    let mut document = json!({"definitions": {"example.b.v1.Thing": {"type": "object"}}, "paths": {}});
    described.add_to(&mut document);
    black_box(document);
}
