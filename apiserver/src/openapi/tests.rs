//! The documents against upstream's, where those stand beside the tree, and against themselves.

use std::{collections::BTreeSet, fs, sync::Arc};

use component_base::{
    features::{Gate, Gates},
    reference::reference,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Dialect, GroupVersion, Part, document, index, prefers};
use crate::{
    apiextensions::Definition,
    object::Object,
    registry::{apiextensions::custom, catalog},
};

fn theirs() -> Option<Value> {
    let text = fs::read(reference("openapi-v2.json")?).unwrap();
    Some(serde_json::from_slice(&text).unwrap())
}

fn all(dialect: Dialect) -> Value {
    let catalog = catalog::builtin();
    document::build(&catalog, (dialect, Gates::default()), &Part::all(&catalog))
}

fn part(group: &'static str, version: &'static str) -> Part {
    Part::Resources(GroupVersion { group, version })
}

fn references<'v>(value: &'v Value, out: &mut BTreeSet<&'v str>) {
    match value {
        Value::Object(map) => {
            out.extend(map.get("$ref").and_then(Value::as_str));
            map.values().for_each(|v| references(v, out));
        }
        Value::Array(list) => list.iter().for_each(|v| references(v, out)),
        _ => {}
    }
}

#[test]
fn every_reference_points_to_a_schema() {
    let catalog = catalog::builtin();
    for part in Part::all(&catalog) {
        let doc = document::build(&catalog, (Dialect::V3, Gates::default()), std::slice::from_ref(&part));
        let mut refs = BTreeSet::new();
        references(&doc, &mut refs);
        assert!(!refs.is_empty() || part.path().contains("openid"), "{part:?}");
        for to in refs {
            let name = to.strip_prefix("#/components/schemas/").unwrap();
            assert!(doc["components"]["schemas"].get(name).is_some(), "{part:?}: {name}");
        }
    }
    let doc = all(Dialect::V2);
    let mut refs = BTreeSet::new();
    references(&doc, &mut refs);
    for to in refs {
        assert!(doc["definitions"].get(to.strip_prefix("#/definitions/").unwrap()).is_some(), "{to}");
    }
}

#[test]
fn cbor_is_described_where_it_is_spoken() {
    let gv = part("apps", "v1");
    for cbor in [false, true] {
        let doc = document::build(
            &catalog::builtin(),
            (Dialect::V3, Gates::default().with(Gate::CBORServingAndStorage, cbor)),
            std::slice::from_ref(&gv),
        );
        let one = &doc["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
        let has = |content: &Value, media: &str| content["content"].get(media).is_some();
        assert_eq!(has(&one["get"]["responses"]["200"], "application/cbor"), cbor);
        assert!(has(&one["put"]["requestBody"], "*/*"));
        assert_eq!(has(&one["patch"]["requestBody"], "application/apply-patch+cbor"), cbor);
        assert!(has(&one["patch"]["requestBody"], "application/apply-patch+yaml"));
    }
    let of = |cbor: bool| {
        let gates = Gates::default().with(Gate::CBORServingAndStorage, cbor);
        index((&catalog::builtin(), gates), &[])
    };
    let (on, off) = (of(true), of(false));
    assert_ne!(on["paths"]["apis/apps/v1"], off["paths"]["apis/apps/v1"], "what differs has another address");
}

#[test]
fn patches_take_field_validation() {
    let gv = part("apps", "v1");
    let doc = document::build(&catalog::builtin(), (Dialect::V3, Gates::default()), &[gv]);
    let patch = &doc["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
    let names: Vec<&str> =
        patch["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
    assert_eq!(
        doc["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"][0]["kind"],
        "Deployment"
    );
}

fn names(value: &Value) -> BTreeSet<&str> {
    value.as_object().into_iter().flatten().map(|(k, _)| k.as_str()).collect()
}

#[test]
fn definitions_are_those_of_upstream() {
    let Some(reference) = theirs() else { return };
    let doc = all(Dialect::V2);
    let (mut checked, mut wrong) = (0, Vec::new());
    for (name, schema) in doc["definitions"].as_object().unwrap() {
        let theirs = &reference["definitions"][name];
        assert!(theirs.is_object(), "{name} is no definition of upstream");
        assert_eq!(names(&schema["properties"]), names(&theirs["properties"]), "{name}");
        let set = |v: &Value| -> BTreeSet<String> {
            v.as_array().into_iter().flatten().map(ToString::to_string).collect()
        };
        assert_eq!(set(&schema["required"]), set(&theirs["required"]), "{name}");
        for extension in ["x-kubernetes-map-type", "type", "format"] {
            assert_eq!(schema[extension], theirs[extension], "{name} {extension}");
        }
        for (field, mine) in schema["properties"].as_object().into_iter().flatten() {
            for key in ["list-type", "list-map-keys", "patch-strategy", "patch-merge-key"] {
                let key = format!("x-kubernetes-{key}");
                if mine[&key] != theirs["properties"][field][&key] {
                    wrong.push(format!("{name}.{field} {key}"));
                }
            }
        }
        checked += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 500, "{checked} definitions");
}

#[test]
fn types_and_fields_say_what_they_are_for() {
    let doc = all(Dialect::V2);
    let (mut described, mut bare) = (0, Vec::new());
    for (name, schema) in doc["definitions"].as_object().unwrap() {
        for (field, property) in schema["properties"].as_object().into_iter().flatten() {
            if property["description"].is_string() {
                described += 1;
            } else {
                bare.push(format!("{name}.{field}"));
            }
        }
    }
    assert!(described > 2_500 && bare.len() * 10 < described, "{described}; without: {}", bare.join(" "));
    let containers = &doc["definitions"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert!(containers["description"].as_str().unwrap().contains("containers"));
}

#[test]
fn the_third_version_tells_defaults() {
    let gv = part("", "v1");
    let doc = document::build(&catalog::builtin(), (Dialect::V3, Gates::default()), &[gv]);
    let default = |of: &str, field: &str| {
        let schema = &doc["components"]["schemas"][format!("io.k8s.api.core.v1.{of}")];
        schema["properties"][field].get("default").map(ToString::to_string)
    };
    let cases = [
        ("ContainerPort", "protocol", Some("\"TCP\"")),
        ("Container", "name", Some("\"\"")),
        ("Container", "image", None),
        ("Container", "resources", Some("{}")),
        ("Container", "livenessProbe", None),
        ("ServicePort", "targetPort", Some("{}")),
        ("ContainerStatus", "restartCount", Some("0")),
        ("PodSpec", "containers", None),
    ];
    for (of, field, want) in cases {
        assert_eq!(default(of, field).as_deref(), want, "{of}.{field}");
    }
}

/// What an operation takes: place, name, type and whether it must be there, those of its path among them.
fn parameters(reference: &Value, item: &Value, operation: &Value) -> BTreeSet<String> {
    let lists = [&item["parameters"], &operation["parameters"]];
    let all = lists.into_iter().flat_map(|list| list.as_array().into_iter().flatten());
    let shared = |p: &'_ Value| p["$ref"].as_str().map(|to| reference.pointer(&to[1..]).unwrap().clone());
    all.map(|p| shared(p).unwrap_or_else(|| p.clone()))
        .map(|p| format!("{} {} {} {} {}", p["in"], p["name"], p["type"], p["required"], p["schema"]["$ref"]))
        .collect()
}

#[test]
fn operations_are_those_of_upstream() {
    let Some(reference) = theirs() else { return };
    let catalog = catalog::builtin();
    let gates = Gates::default().with(Gate::CBORServingAndStorage, true);
    let doc = document::build(&catalog, (Dialect::V2, gates), &Part::all(&catalog));
    let (mut checked, mut wrong) = (0, Vec::new());
    for (path, item) in doc["paths"].as_object().unwrap() {
        let theirs = &reference["paths"][path];
        let methods = |item: &Value| item.as_object().map(|i| i.keys().cloned().collect::<BTreeSet<_>>());
        if methods(item).map(|mut m| m.remove("parameters"))
            != methods(theirs).map(|mut m| m.remove("parameters"))
        {
            wrong.push(format!("{path}: {:?} is {:?}", methods(item), methods(theirs)));
        }
        for (method, operation) in item.as_object().unwrap().iter().filter(|(m, _)| *m != "parameters") {
            let of = &theirs[method];
            for key in [
                "operationId",
                "tags",
                "schemes",
                "consumes",
                "produces",
                "x-kubernetes-action",
                "x-kubernetes-group-version-kind",
            ] {
                if operation[key] != of[key] {
                    wrong.push(format!("{method} {path} {key}: {} is {}", operation[key], of[key]));
                }
            }
            let (mine, other) = (parameters(&doc, item, operation), parameters(&reference, theirs, of));
            if mine != other {
                let (more, less): (Vec<_>, Vec<_>) =
                    (mine.difference(&other).collect(), other.difference(&mine).collect());
                wrong.push(format!("{method} {path}: parameters {more:?} are not, {less:?} are missing"));
            }
            let answers = |o: &Value| -> BTreeSet<String> {
                o["responses"]
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(c, r)| format!("{c} {}", r["schema"]))
                    .collect()
            };
            if answers(operation) != answers(of) {
                wrong.push(format!("{method} {path}: {:?} is {:?}", answers(operation), answers(of)));
            }
            checked += 1;
        }
    }
    let served: BTreeSet<String> = Part::all(&catalog).iter().map(Part::path).collect();
    for (path, item) in reference["paths"].as_object().unwrap() {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let of = parts[..parts.len().min(if parts[0] == "api" { 2 } else { 3 })].join("/");
        if served.contains(&of) && doc["paths"].get(path).is_none() {
            wrong.push(format!("{path} is missing: {:?}", names(item)));
        }
    }
    assert!(wrong.is_empty(), "{} of {checked}\n{}", wrong.len(), wrong.join("\n"));
    assert!(checked > 900, "{checked} operations");
}

#[test]
fn the_index_leads_to_every_group_version() {
    let index = index((&catalog::builtin(), Gates::default()), &[]);
    let url = |path: &str| index["paths"][path]["serverRelativeURL"].as_str().unwrap().to_owned();
    assert!(url("api/v1").starts_with("/openapi/v3/api/v1?hash="));
    assert!(url("apis/apps/v1").starts_with("/openapi/v3/apis/apps/v1?hash="));
    let hashes: BTreeSet<String> = names(&index["paths"]).into_iter().map(url).collect();
    assert_eq!(hashes.len(), index["paths"].as_object().unwrap().len());
}

#[test]
fn the_first_servable_clause_decides_the_form() {
    let with = |accept: &'static str, dialect: Dialect| {
        let mut headers = http::HeaderMap::new();
        headers.insert(http::header::ACCEPT, http::HeaderValue::from_static(accept));
        prefers(&headers, &dialect.protobuf_asked())
    };
    let (json, protobuf) = (Some(false), Some(true));
    assert_eq!(prefers(&http::HeaderMap::new(), &Dialect::V2.protobuf_asked()), json);
    let cases = [
        ("application/json", json, json),
        ("*/*", json, json),
        (
            "application/com.github.proto-openapi.spec.v3@v1.0+protobuf, application/json;q=0.5",
            json,
            protobuf,
        ),
        ("application/com.github.proto-openapi.spec.v3.v1.0+protobuf", None, protobuf),
        ("application/com.github.proto-openapi.spec.v2@v1.0+protobuf", protobuf, None),
        (
            "application/json;q=0.1, application/com.github.proto-openapi.spec.v2@v1.0+protobuf;q=0.9",
            protobuf,
            json,
        ),
        ("application/json, application/com.github.proto-openapi.spec.v2@v1.0+protobuf", json, json),
        ("application/json;q=0", None, None),
        ("text/html", None, None),
    ];
    for (accept, two, three) in cases {
        assert_eq!(with(accept, Dialect::V2), two, "{accept}");
        assert_eq!(with(accept, Dialect::V3), three, "{accept}");
    }
}

fn with_widgets() -> catalog::Catalog {
    let definition = json!({"metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "listKind": "WidgetList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "selectableFields": [{"jsonPath": ".spec.size"}],
                "schema": {"openAPIV3Schema": {"type": "object", "description": "A widget.", "properties": {
                    "spec": {"type": "object", "description": "What it shall be.", "properties": {
                        "size": {"type": "string", "nullable": true}}}}}}}]},
        "status": {"acceptedNames": {"plural": "widgets", "kind": "Widget", "listKind": "WidgetList"}}});
    let definition = Definition::read(&Object::from_value(definition).unwrap());
    let resources = custom::resources(&Arc::new(definition), 0, None, &CancellationToken::new());
    catalog::builtin().with(resources.into_iter().map(Arc::new))
}

#[test]
fn custom_kinds_are_described_as_their_definitions_say() {
    let catalog = with_widgets();
    let gv = part("example.com", "v1");
    assert!(
        index((&catalog, Gates::default()), &[])["paths"]["apis/example.com/v1"]["serverRelativeURL"]
            .is_string()
    );
    let doc = document::build(&catalog, (Dialect::V3, Gates::default()), std::slice::from_ref(&gv));
    let mut refs = BTreeSet::new();
    references(&doc, &mut refs);
    for to in refs {
        let name = to.strip_prefix("#/components/schemas/").unwrap();
        assert!(doc["components"]["schemas"].get(name).is_some(), "{name}");
    }
    let widget = &doc["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(widget["description"], "A widget.");
    assert_eq!(
        widget["properties"]["spec"]["properties"]["size"],
        json!({"type": "string", "nullable": true})
    );
    assert!(
        widget["properties"]["apiVersion"]["description"].as_str().unwrap().starts_with("APIVersion defines")
    );
    assert_eq!(widget["x-kubernetes-selectable-fields"], json!([{"fieldPath": "spec.size"}]));
    assert_eq!(widget["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
    let list = &doc["components"]["schemas"]["com.example.v1.WidgetList"];
    assert_eq!(list["properties"]["items"]["items"]["$ref"], "#/components/schemas/com.example.v1.Widget");
    let patch = &doc["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}/status"]["patch"];
    let media: Vec<&String> = patch["requestBody"]["content"].as_object().unwrap().keys().collect();
    assert!(!media.iter().any(|m| m.contains("strategic")), "{media:?}");

    let doc = document::build(&catalog, (Dialect::V2, Gates::default()), &Part::all(&catalog));
    assert_eq!(
        doc["definitions"]["com.example.v1.Widget"]["properties"]["spec"]["properties"]["size"],
        json!({})
    );
}

#[test]
fn words_are_listed_unless_a_gate_says_otherwise() {
    let gv = part("", "v1");
    for listed in [true, false] {
        let gates = Gates::default().with(Gate::OpenAPIEnums, listed);
        let doc = document::build(&catalog::builtin(), (Dialect::V3, gates), std::slice::from_ref(&gv));
        let policy =
            doc.pointer("/components/schemas/io.k8s.api.core.v1.PodSpec/properties/restartPolicy").unwrap();
        assert_eq!(policy.get("enum").is_some(), listed, "{policy}");
        assert_eq!(doc.to_string().contains("\"enum\":"), listed);
    }
    let digest = |gates: Gates| super::digest((&catalog::builtin(), gates), std::slice::from_ref(&gv), &[]);
    assert_ne!(digest(Gates::default()), digest(Gates::default().with(Gate::OpenAPIEnums, false)));
}
