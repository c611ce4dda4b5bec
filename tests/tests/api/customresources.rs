//! Custom resources over the wire: definitions are checked, announced and described, their objects kept as the schema
//! says, in every version.

use anyhow::{Context, Result, ensure};
use http::Method;
use serde_json::{Value, json};
use tests::{
    Client, ControlPlane,
    client::{APPLY_PATCH, JSON, JSON_PATCH, MERGE_PATCH},
    receiver::{Call, Receiver, Reply},
    runner::Test,
};

pub(crate) const TESTS: &[Test<ControlPlane>] = &[
    ("definitions that make no sense are refused", bad_definitions),
    ("a definition announces and describes its kind, and takes all of it away again", announced),
    ("custom objects have what their schema has", pruned),
    ("values are held against their schema", values),
    ("rules hold, and compare with what was", rules),
    ("applies merge lists by the keys of the schema", applied),
    ("tables have the columns of the definition", columns),
    ("a webhook converts what versions have differently", converted),
];

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A definition of widgets in a group of this test's own.
struct Widgets {
    admin: Client,
    group: String,
    ns: String,
}

impl Widgets {
    fn new(plane: &ControlPlane, ns: &str) -> Result<Self> {
        Ok(Self { admin: plane.admin()?, group: format!("{ns}.example.com"), ns: ns.to_owned() })
    }

    fn definition(&self, versions: Value) -> Value {
        json!({"metadata": {"name": format!("widgets.{}", self.group)}, "spec": {
            "group": self.group, "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["wd"]},
            "versions": versions}})
    }

    /// One version whose spec has these fields.
    fn version(&self, spec: Value) -> Value {
        json!({"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "description": "A widget.", "properties": {
                "spec": spec, "status": {"type": "object", "properties": {"ready": {"type": "boolean"}}}}}}})
    }

    /// Creates a definition and waits until its objects are served.
    fn establish(&self, plane: &ControlPlane, definition: &Value) -> Result<()> {
        self.admin.post(DEFINITIONS, definition)?.ok()?;
        let path = format!("{DEFINITIONS}/widgets.{}", self.group);
        plane.eventually("the definition is established", 20, || {
            let now = self.admin.get(&path)?.ok()?;
            let conditions = now["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let is = conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True");
            Ok(is.then_some(()))
        })
    }

    fn path(&self, version: &str, name: &str) -> String {
        let slash = if name.is_empty() { "" } else { "/" };
        format!("/apis/{}/{version}/namespaces/{}/widgets{slash}{name}", self.group, self.ns)
    }

    fn widget(&self, name: &str, spec: Value) -> Value {
        json!({"apiVersion": format!("{}/v1", self.group), "kind": "Widget", "metadata": {"name": name}, "spec": spec})
    }
}

fn object(properties: Value) -> Value {
    json!({"type": "object", "properties": properties})
}

fn bad_definitions(plane: &ControlPlane, ns: &str) -> Result<()> {
    let widgets = Widgets::new(plane, ns)?;
    let good = widgets.definition(json!([widgets.version(object(json!({"size": {"type": "string"}})))]));
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    let cases = [
        ("/metadata/name", json!("other.example.com"), "must be spec.names.plural+\".\"+spec.group"),
        ("/spec/versions/0/storage", json!(false), "must have exactly one version marked as storage version"),
        (
            spec,
            json!({}),
            "properties[spec].type: Required value: must not be empty for specified object fields",
        ),
        (spec, json!({"type": "array"}), "properties[spec].items: Required value: must be specified"),
        (spec, json!({"type": "string", "default": 1}), "properties[spec].default: Invalid value"),
        (spec, json!({"type": "object", "$ref": "#/x"}), "$ref is not supported"),
        (
            spec,
            json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.none == 1"}]}),
            "undefined field 'none'",
        ),
        (spec, json!({"type": "object", "x-kubernetes-validations": [{"rule": "self ="}]}), "Syntax error"),
    ];
    for (pointer, value, why) in cases {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).context("the place is there")? = value;
        widgets.admin.post(DEFINITIONS, &bad)?.refused_with(422, "Invalid", why)?;
    }
    Ok(())
}

fn announced(plane: &ControlPlane, ns: &str) -> Result<()> {
    let widgets = Widgets::new(plane, ns)?;
    let version = widgets.version(object(json!({"size": {"type": "string", "description": "How large."}})));
    widgets.establish(plane, &widgets.definition(json!([version])))?;
    let admin = &widgets.admin;
    let list = admin.get(&format!("/apis/{}/v1", widgets.group))?.ok()?;
    ensure!(list["resources"][0]["shortNames"] == json!(["wd"]), "{list}");
    ensure!(list["resources"][1]["name"] == "widgets/status", "{list}");
    let index = admin.get("/openapi/v3")?.ok()?;
    let at = format!("apis/{}/v1", widgets.group);
    let url =
        index["paths"][&at]["serverRelativeURL"].as_str().context("the version is in the index")?.to_owned();
    let document = admin.get(&url)?.ok()?;
    let labels: Vec<&str> = widgets.group.rsplit('.').collect();
    let name = format!("{}.v1.Widget", labels.join("."));
    let schema = &document["components"]["schemas"][&name];
    ensure!(schema["description"] == "A widget.", "{schema}");
    ensure!(schema["properties"]["spec"]["properties"]["size"]["description"] == "How large.", "{schema}");
    let service = format!("/apis/apiregistration.k8s.io/v1/apiservices/v1.{}", widgets.group);
    plane
        .eventually("the group is registered", 20, || Ok((admin.get(&service)?.code == 200).then_some(())))?;

    admin.post(&widgets.path("v1", ""), &widgets.widget("a", json!({})))?.ok()?;
    admin.delete(&format!("{DEFINITIONS}/widgets.{}", widgets.group))?.ok()?;
    plane.eventually("nothing is left", 20, || {
        let list = admin.get(&format!("/apis/{}/v1", widgets.group))?;
        let index = admin.get("/openapi/v3")?.ok()?;
        let service = admin.get(&service)?;
        Ok((list.code == 404 && index["paths"].get(&at).is_none() && service.code == 404).then_some(()))
    })
}

fn pruned(plane: &ControlPlane, ns: &str) -> Result<()> {
    let widgets = Widgets::new(plane, ns)?;
    let spec = object(json!({"size": {"type": "string", "default": "small"},
        "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}));
    widgets.establish(plane, &widgets.definition(json!([widgets.version(spec)])))?;
    let path = widgets.path("v1", "");
    let sent = widgets.widget("a", json!({"color": "red", "any": {"color": "red"}}));
    let answer = widgets.admin.post(&path, &sent)?;
    ensure!(answer.header("warning").contains(r#"unknown field \"spec.color\""#), "{:?}", answer.headers);
    let made = answer.ok()?;
    ensure!(made["spec"] == json!({"size": "small", "any": {"color": "red"}}), "{made}");
    let strict = format!("{path}?fieldValidation=Strict");
    let why = "unknown field \"spec.color\"";
    widgets.admin.post(&strict, &widgets.widget("b", sent["spec"].clone()))?.refused_with(
        400,
        "BadRequest",
        why,
    )?;
    let body = serde_json::to_vec(&widgets.widget("b", json!({})))?;
    let text = String::from_utf8(body)?.replace("\"spec\":{}", r#""spec":{"size":"a","size":"b"}"#);
    let twice = widgets.admin.send(Method::POST, &strict, JSON, text)?;
    twice.refused_with(400, "BadRequest", "duplicate field \"spec.size\"")?;
    Ok(())
}

fn values(plane: &ControlPlane, ns: &str) -> Result<()> {
    let widgets = Widgets::new(plane, ns)?;
    let spec = object(
        json!({"count": {"type": "integer", "maximum": 5}, "name": {"type": "string", "pattern": "^a"},
        "color": {"type": "string", "enum": ["red", "blue"]}, "at": {"type": "string", "format": "date-time"},
        "either": {"x-kubernetes-int-or-string": true},
        "names": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}}),
    );
    widgets.establish(plane, &widgets.definition(json!([widgets.version(spec)])))?;
    let path = widgets.path("v1", "");
    let cases = [
        (
            json!({"count": "1"}),
            r#"spec.count: Invalid value: "string": spec.count in body must be of type integer"#,
        ),
        (
            json!({"count": 6}),
            "spec.count: Invalid value: 6: spec.count in body should be less than or equal to 5",
        ),
        (json!({"name": "b"}), r#"spec.name: Invalid value: "b": spec.name in body should match '^a'"#),
        (
            json!({"color": "green"}),
            r#"spec.color: Unsupported value: "green": supported values: "red", "blue""#,
        ),
        (json!({"at": "noon"}), r#"spec.at in body must be of type date-time: "noon""#),
        (json!({"either": true}), "spec.either in body must be of type integer,string"),
        (json!({"names": ["a", "b", "a"]}), r#"spec.names[2]: Duplicate value: "a""#),
    ];
    for (spec, why) in cases {
        widgets.admin.post(&path, &widgets.widget("x", spec))?.refused_with(422, "Invalid", why)?;
    }
    let good = json!({"count": 5, "name": "a", "color": "red", "either": "1", "names": ["a", "b"]});
    widgets.admin.post(&path, &widgets.widget("x", good))?.ok()?;
    let change = json!([{"op": "replace", "path": "/spec/count", "value": 9}]);
    let why = "spec.count: Invalid value: 9";
    let item = widgets.path("v1", "x");
    widgets.admin.patch(&item, JSON_PATCH, &change)?.refused_with(422, "Invalid", why)?;
    Ok(())
}

fn rules(plane: &ControlPlane, ns: &str) -> Result<()> {
    let widgets = Widgets::new(plane, ns)?;
    let mut spec = object(json!({"min": {"type": "integer"}, "max": {"type": "integer"}}));
    spec["x-kubernetes-validations"] = json!([
        {"rule": "self.min <= self.max", "messageExpression": "self.min > 100 ? 'min far above max' : 'min above max'"},
        {"rule": "self.max >= oldSelf.max", "message": "max may only grow"}]);
    widgets.establish(plane, &widgets.definition(json!([widgets.version(spec)])))?;
    let path = widgets.path("v1", "");
    let with = |min: i64, max: i64| widgets.widget("x", json!({"min": min, "max": max}));
    widgets.admin.post(&path, &with(3, 2))?.refused_with(
        422,
        "Invalid",
        "spec: Invalid value: min above max",
    )?;
    widgets.admin.post(&path, &with(1, 2))?.ok()?;
    let item = widgets.path("v1", "x");
    let shrink = widgets.admin.patch(&item, MERGE_PATCH, &json!({"spec": {"max": 1}}))?;
    shrink.refused_with(422, "Invalid", "max may only grow")?;
    widgets.admin.patch(&item, MERGE_PATCH, &json!({"spec": {"max": 4}}))?.ok()?;
    Ok(())
}

fn applied(plane: &ControlPlane, ns: &str) -> Result<()> {
    let widgets = Widgets::new(plane, ns)?;
    let port = json!({"type": "object", "required": ["name"],
        "properties": {"name": {"type": "string"}, "number": {"type": "integer"}}});
    let spec = object(json!({"ports": {"type": "array", "items": port,
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}}));
    widgets.establish(plane, &widgets.definition(json!([widgets.version(spec)])))?;
    let apply = |manager: &str, spec: Value| {
        let path = format!("{}?fieldManager={manager}", widgets.path("v1", "x"));
        widgets.admin.patch(&path, APPLY_PATCH, &widgets.widget("x", spec))
    };
    apply("one", json!({"ports": [{"name": "a", "number": 1}]}))?.ok()?;
    let both = apply("two", json!({"ports": [{"name": "b", "number": 2}]}))?.ok()?;
    ensure!(
        both["spec"]["ports"] == json!([{"name": "a", "number": 1}, {"name": "b", "number": 2}]),
        "{both}"
    );
    apply("two", json!({"ports": [{"name": "a", "number": 3}]}))?.refused(409, "Conflict")?;
    let left = apply("one", json!({}))?.ok()?;
    ensure!(left["spec"]["ports"] == json!([{"name": "b", "number": 2}]), "{left}");
    let unknown = apply("one", json!({"color": "red"}))?;
    ensure!(unknown.text().contains(".spec.color: field not declared in schema"), "{}", unknown.text());
    Ok(())
}

fn columns(plane: &ControlPlane, ns: &str) -> Result<()> {
    let widgets = Widgets::new(plane, ns)?;
    let mut version =
        widgets.version(object(json!({"size": {"type": "string"}, "count": {"type": "integer"}})));
    version["additionalPrinterColumns"] = json!([
        {"name": "Size", "type": "string", "jsonPath": ".spec.size"},
        {"name": "Count", "type": "integer", "jsonPath": ".spec.count", "priority": 1}]);
    version["selectableFields"] = json!([{"jsonPath": ".spec.size"}]);
    widgets.establish(plane, &widgets.definition(json!([version])))?;
    for (name, size) in [("a", "large"), ("b", "small")] {
        let spec = json!({"size": size, "count": 2});
        widgets.admin.post(&widgets.path("v1", ""), &widgets.widget(name, spec))?.ok()?;
    }
    let tables = widgets.admin.with_header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")?;
    let table = tables.get(&format!("{}?fieldSelector=spec.size%3Dlarge", widgets.path("v1", "")))?.ok()?;
    let names: Vec<&Value> =
        table["columnDefinitions"].as_array().into_iter().flatten().map(|c| &c["name"]).collect();
    ensure!(names == ["Name", "Size", "Count"], "{table}");
    ensure!(table["rows"].as_array().map(Vec::len) == Some(1), "{table}");
    ensure!(table["rows"][0]["cells"] == json!(["a", "large", 2]), "{table}");
    Ok(())
}

fn converted(plane: &ControlPlane, ns: &str) -> Result<()> {
    let widgets = Widgets::new(plane, ns)?;
    let receiver = Receiver::start(&plane.ca, convert)?;
    let text = json!({"type": "string"});
    let version = |name: &str, storage: bool, fields: &[&str]| {
        let properties: Value = fields.iter().map(|f| ((*f).to_owned(), text.clone())).collect();
        let selectable: Vec<Value> = fields.iter().map(|f| json!({"jsonPath": format!(".{f}")})).collect();
        json!({"name": name, "served": true, "storage": storage, "selectableFields": selectable,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}}})
    };
    let versions = json!([version("v1", true, &["hostPort"]), version("v2", false, &["host", "port"])]);
    let mut definition = widgets.definition(versions);
    definition["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {
        "clientConfig": receiver.client_config("/convert"), "conversionReviewVersions": ["v1"]}});
    widgets.establish(plane, &definition)?;
    let (in_v1, in_v2) = (widgets.path("v1", ""), widgets.path("v2", ""));
    let group = &widgets.group;
    let sent = json!({"apiVersion": format!("{group}/v1"), "kind": "Widget", "metadata": {"name": "a"}, "hostPort": "h:1"});
    widgets.admin.post(&in_v1, &sent)?.ok()?;
    let sent = json!({"apiVersion": format!("{group}/v2"), "kind": "Widget", "metadata": {"name": "b"}, "host": "i", "port": "2"});
    widgets.admin.post(&in_v2, &sent)?.ok()?;
    let read = widgets.admin.get(&widgets.path("v2", "a"))?.ok()?;
    ensure!(read["host"] == "h" && read["port"] == "1", "{read}");
    let listed = widgets.admin.get(&in_v1)?.ok()?;
    ensure!(listed["items"][1]["hostPort"] == "i:2", "{listed}");
    let chosen = widgets.admin.get(&format!("{in_v2}?fieldSelector=host%3Di"))?.ok()?;
    ensure!(
        chosen["items"].as_array().map(Vec::len) == Some(1) && chosen["items"][0]["host"] == "i",
        "{chosen}"
    );
    ensure!(!receiver.calls("/convert").is_empty(), "nothing was asked");
    Ok(())
}

/// Splits `hostPort` of v1 into the two fields of v2, and back.
fn convert(call: &Call) -> Reply {
    let request = &call.body["request"];
    let one = |object: &Value| {
        let mut out = object.clone();
        let text = |name: &str| object[name].as_str().unwrap_or_default();
        if let Some((host, port)) = text("hostPort").split_once(':') {
            (out["host"], out["port"]) = (host.into(), port.into());
        } else {
            out["hostPort"] = format!("{}:{}", text("host"), text("port")).into();
        }
        out["apiVersion"] = request["desiredAPIVersion"].clone();
        out
    };
    let objects: Vec<Value> = request["objects"].as_array().into_iter().flatten().map(one).collect();
    Reply::Json(json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": {
        "uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": objects}}))
}
