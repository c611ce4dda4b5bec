//! Custom resources on a real etcd, through the engine.

use http::Method;
use serde_json::{Value, json};

use crate::engine::testing::TestServer;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

fn definition() -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"]},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
                    "statusReplicasPath": ".status.replicas"}},
                "additionalPrinterColumns": [{"name": "Size", "type": "string", "jsonPath": ".spec.size"},
                    {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"}],
                "selectableFields": [{"jsonPath": ".spec.size"}],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "properties": {
                        "size": {"type": "string", "default": "small"},
                        "replicas": {"type": "integer"}}},
                    "status": {"type": "object", "properties": {"replicas": {"type": "integer"}}}}}}}]}})
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

async fn ask(server: &TestServer, method: Method, uri: &str, body: Option<&Value>) -> (u16, Value) {
    server.ask(method, uri, "application/json", body.cloned()).await
}

async fn establish(server: &TestServer, definition: &Value) {
    let (code, answer) = ask(server, Method::POST, DEFINITIONS, Some(definition)).await;
    assert_eq!(code, 201, "{answer}");
    let uri = format!("{DEFINITIONS}/{}", definition["metadata"]["name"].as_str().unwrap());
    until(server, &uri, |d| condition(d, "Established") == "True").await;
}

fn condition<'v>(definition: &'v Value, kind: &str) -> &'v str {
    let all = definition["status"]["conditions"].as_array().into_iter().flatten();
    all.filter(|c| c["type"] == kind).find_map(|c| c["status"].as_str()).unwrap_or_default()
}

async fn until(server: &TestServer, uri: &str, is: impl Fn(&Value) -> bool) -> Value {
    loop {
        let (_, value) = ask(server, Method::GET, uri, None).await;
        if is(&value) {
            return value;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_served_from_definition_to_cleanup() {
    let server = TestServer::start().await;
    establish(&server, &definition()).await;

    let sent = widget("a", json!({"replicas": 2, "unknown": 1}));
    let (code, made) = ask(&server, Method::POST, WIDGETS, Some(&sent)).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"], json!({"replicas": 2, "size": "small"}));
    assert_eq!(made["metadata"]["generation"], 1);

    let (code, refused) =
        ask(&server, Method::POST, &format!("{WIDGETS}?fieldValidation=Strict"), Some(&sent)).await;
    assert_eq!(code, 400);
    assert!(refused["message"].as_str().unwrap().contains("unknown field \"spec.unknown\""), "{refused}");

    let (code, listed) = ask(&server, Method::GET, WIDGETS, None).await;
    assert_eq!((code, &listed["kind"]), (200, &json!("WidgetList")));
    assert_eq!(listed["items"][0], made);

    let (_, chosen) =
        ask(&server, Method::GET, &format!("{WIDGETS}?fieldSelector=spec.size=large"), None).await;
    assert_eq!(chosen["items"], json!([]));

    let mut changed = made.clone();
    changed["spec"]["size"] = json!("large");
    changed["status"] = json!({"replicas": 5});
    let (code, updated) = ask(&server, Method::PUT, &format!("{WIDGETS}/a"), Some(&changed)).await;
    assert_eq!(code, 200, "{updated}");
    assert_eq!((&updated["metadata"]["generation"], updated.get("status")), (&json!(2), None));

    changed["metadata"] = updated["metadata"].clone();
    let (code, updated) = ask(&server, Method::PUT, &format!("{WIDGETS}/a/status"), Some(&changed)).await;
    assert_eq!(code, 200, "{updated}");
    assert_eq!((&updated["metadata"]["generation"], &updated["status"]["replicas"]), (&json!(2), &json!(5)));

    let (code, scale) = ask(&server, Method::GET, &format!("{WIDGETS}/a/scale"), None).await;
    assert_eq!((code, &scale["spec"]["replicas"], &scale["status"]["replicas"]), (200, &json!(2), &json!(5)));

    let (code, _) = ask(&server, Method::DELETE, &format!("{DEFINITIONS}/widgets.example.com"), None).await;
    assert_eq!(code, 200);
    until(&server, WIDGETS, |answer| answer["code"] == 404).await;
    let (code, _) = ask(&server, Method::GET, &format!("{DEFINITIONS}/widgets.example.com"), None).await;
    assert_eq!(code, 404);

    // The same name again starts without what was there before.
    establish(&server, &definition()).await;
    let (_, listed) = ask(&server, Method::GET, WIDGETS, None).await;
    assert_eq!(listed["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_stored_before_have_todays_defaults_and_the_requested_version() {
    let server = TestServer::start().await;
    let mut first = definition();
    first["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["size"] =
        json!({"type": "string"});
    establish(&server, &first).await;
    let (code, made) = ask(&server, Method::POST, WIDGETS, Some(&widget("a", json!({"replicas": 1})))).await;
    assert_eq!((code, made["spec"].get("size")), (201, None));

    let uri = format!("{DEFINITIONS}/widgets.example.com");
    let (_, current) = ask(&server, Method::GET, &uri, None).await;
    let mut next = current.clone();
    next["spec"] = definition()["spec"].clone();
    let mut v2 = next["spec"]["versions"][0].clone();
    next["spec"]["versions"][0]["storage"] = json!(false);
    v2["name"] = json!("v2");
    next["spec"]["versions"].as_array_mut().unwrap().push(v2);
    let (code, stored) = ask(&server, Method::PUT, &uri, Some(&next)).await;
    assert_eq!((code, &stored["status"]["storedVersions"]), (200, &json!(["v1", "v2"])), "{stored}");

    let in_v2 = "/apis/example.com/v2/namespaces/default/widgets";
    let listed = until(&server, in_v2, |answer| answer["kind"] == "WidgetList").await;
    assert_eq!(listed["items"][0]["apiVersion"], "example.com/v2");
    assert_eq!(listed["items"][0]["spec"], json!({"replicas": 1, "size": "small"}));
    let (code, _) = ask(&server, Method::POST, WIDGETS, Some(&widget("b", json!({})))).await;
    assert_eq!(code, 201);
    for (uri, version) in [(WIDGETS, "example.com/v1"), (in_v2, "example.com/v2")] {
        let (_, listed) = ask(&server, Method::GET, uri, None).await;
        let versions: Vec<&Value> =
            listed["items"].as_array().unwrap().iter().map(|o| &o["apiVersion"]).collect();
        assert_eq!(versions, [version, version]);
    }
}

/// Moves `host` and `port` between one field and two, as versions of the same object would.
fn convert(object: &Value, version: &Value) -> Value {
    let mut out = object.clone();
    out["apiVersion"] = version.clone();
    match object.get("hostPort").and_then(Value::as_str).and_then(|both| both.split_once(':')) {
        Some((host, port)) => {
            (out["host"], out["port"]) = (json!(host), json!(port));
            out.as_object_mut().unwrap().remove("hostPort");
        }
        None => {
            let text = |name: &str| object[name].as_str().unwrap_or_default();
            out["hostPort"] = json!(format!("{}:{}", text("host"), text("port")));
            out.as_object_mut().unwrap().retain(|name, _| name != "host" && name != "port");
        }
    }
    out
}

/// Objects enter and leave what a watch selects by fields of another version than the stored one.
async fn watch_by_converted_fields(server: &TestServer, in_v2: &str) {
    let (_, listed) = ask(server, Method::GET, in_v2, None).await;
    let since = listed["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    for (name, host) in [("a", "x"), ("b", "h"), ("b", "h"), ("b", "x")] {
        let (_, mut object) = ask(server, Method::GET, &format!("{in_v2}/{name}"), None).await;
        object["host"] = json!(host);
        object["metadata"]["labels"] = json!({"n": object["metadata"]["resourceVersion"]});
        let (code, told) = ask(server, Method::PUT, &format!("{in_v2}/{name}"), Some(&object)).await;
        assert_eq!(code, 200, "{told}");
    }
    let uri = format!("{in_v2}?watch=true&timeoutSeconds=1&fieldSelector=host%3Dh&resourceVersion={since}");
    let response = server.send(Method::GET, &uri, &[], bytes::Bytes::new()).await;
    let bytes = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    let events = serde_json::Deserializer::from_slice(&bytes).into_iter::<Value>();
    let seen: Vec<(String, String)> = events
        .map(|event| {
            let event = event.unwrap();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
        })
        .collect();
    let want = [("DELETED", "a"), ("ADDED", "b"), ("MODIFIED", "b"), ("DELETED", "b")];
    let want = want.map(|(kind, name)| (kind.to_owned(), name.to_owned()));
    assert_eq!(seen, want);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_converts_what_is_read_and_written() {
    let hook = crate::webhook::testing::Hook::start(|(_, review)| {
        let request = &review["request"];
        let objects = request["objects"].as_array().unwrap().iter();
        let converted: Vec<Value> = objects.map(|o| convert(o, &request["desiredAPIVersion"])).collect();
        let result = if converted.iter().any(|o| o["metadata"]["name"] == "bad") {
            json!({"status": "Failed", "message": "bad is bad"})
        } else {
            json!({"status": "Success"})
        };
        let answer = json!({"kind": "ConversionReview", "apiVersion": review["apiVersion"], "response": {
            "uid": request["uid"], "result": result, "convertedObjects": converted}});
        crate::response::json(200, &answer)
    })
    .await;
    let server = TestServer::start().await;
    let text = json!({"type": "string"});
    let version = |name: &str, storage: bool, fields: Value| {
        let names = fields.as_object().unwrap().keys();
        let selectable: Vec<Value> = names.map(|name| json!({"jsonPath": format!(".{name}")})).collect();
        json!({"name": name, "served": true, "storage": storage, "selectableFields": selectable,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": fields}}})
    };
    let mut definition = definition();
    definition["spec"]["versions"] = json!([
        version("v1", true, json!({"hostPort": text})),
        version("v2", false, json!({"host": text, "port": text})),
    ]);
    definition["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {
        "conversionReviewVersions": ["v9", "v1"],
        "clientConfig": {"url": format!("https://localhost:{}/convert", hook.port), "caBundle": hook.ca}}});
    establish(&server, &definition).await;
    let in_v2 = "/apis/example.com/v2/namespaces/default/widgets";
    let sent = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"}, "hostPort": "h:1"});
    let (code, made) = ask(&server, Method::POST, WIDGETS, Some(&sent)).await;
    assert_eq!(code, 201, "{made}");
    let (_, read) = ask(&server, Method::GET, &format!("{in_v2}/a"), None).await;
    assert_eq!((&read["host"], &read["port"]), (&json!("h"), &json!("1")), "{read}");
    assert_eq!(read["metadata"]["uid"], made["metadata"]["uid"]);

    let sent = json!({"apiVersion": "example.com/v2", "kind": "Widget", "metadata": {"name": "b"}, "host": "i", "port": "2"});
    let (code, made) = ask(&server, Method::POST, in_v2, Some(&sent)).await;
    assert_eq!((code, &made["host"]), (201, &json!("i")), "{made}");
    for (uri, field) in [(WIDGETS, "hostPort"), (in_v2, "host")] {
        let (_, listed) = ask(&server, Method::GET, uri, None).await;
        assert!(listed["items"].as_array().unwrap().iter().all(|o| o[field].is_string()), "{listed}");
    }

    for (uri, selector, want) in [
        (in_v2, "host%3Dh", json!(["a"])),
        (in_v2, "host%3Di,port!%3D2", json!([])),
        (WIDGETS, "hostPort%3Di:2", json!(["b"])),
    ] {
        let (_, listed) = ask(&server, Method::GET, &format!("{uri}?fieldSelector={selector}"), None).await;
        let names: Value =
            listed["items"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].clone()).collect();
        assert_eq!(names, want, "{selector}");
    }
    watch_by_converted_fields(&server, in_v2).await;

    let sent = json!({"apiVersion": "example.com/v2", "kind": "Widget", "metadata": {"name": "bad"}});
    let (code, refused) = ask(&server, Method::POST, in_v2, Some(&sent)).await;
    assert_eq!(code, 500);
    let why = "conversion webhook for example.com/v2, Kind=Widget failed: bad is bad";
    assert_eq!(refused["message"], why);
}

#[tokio::test(flavor = "multi_thread")]
async fn applies_own_members_of_lists_as_the_schema_says() {
    let server = TestServer::start().await;
    let mut definition = definition();
    let port = json!({"type": "object", "required": ["name"],
        "properties": {"name": {"type": "string"}, "number": {"type": "integer"}}});
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["ports"] = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": port});
    establish(&server, &definition).await;
    let apply = async |manager: &str, spec: Value| {
        let uri = format!("{WIDGETS}/a?fieldManager={manager}");
        server.ask(Method::PATCH, &uri, "application/apply-patch+yaml", Some(widget("a", spec))).await
    };
    let (code, made) = apply("one", json!({"ports": [{"name": "x", "number": 1}]})).await;
    assert_eq!(code, 201, "{made}");
    let (code, both) = apply("two", json!({"ports": [{"name": "y", "number": 2}]})).await;
    assert_eq!(code, 200, "{both}");
    assert_eq!(both["spec"]["ports"], json!([{"name": "x", "number": 1}, {"name": "y", "number": 2}]));
    let owned = &both["metadata"]["managedFields"][1]["fieldsV1"]["f:spec"]["f:ports"];
    assert_eq!(owned, &json!({"k:{\"name\":\"y\"}": {".": {}, "f:name": {}, "f:number": {}}}));
    let (code, refused) = apply("two", json!({"ports": [{"name": "x", "number": 3}]})).await;
    assert_eq!(code, 409, "{refused}");
    let (code, refused) = apply("two", json!({"other": 1})).await;
    assert_eq!(code, 500);
    assert!(
        refused["message"].as_str().unwrap().contains(".spec.other: field not declared in schema"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_hold_for_what_is_written() {
    let server = TestServer::start().await;
    let mut definition = definition();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] =
        json!([{"rule": "self.replicas <= 5", "message": "too many"}, {"rule": "self.size == oldSelf.size"}]);
    let mut broken = definition.clone();
    broken["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] =
        json!([{"rule": "self.none > 1"}]);
    let (code, refused) = ask(&server, Method::POST, DEFINITIONS, Some(&broken)).await;
    assert_eq!(code, 422);
    assert!(refused["message"].as_str().unwrap().contains("undefined field 'none'"), "{refused}");
    establish(&server, &definition).await;
    let (code, refused) =
        ask(&server, Method::POST, WIDGETS, Some(&widget("a", json!({"replicas": 6})))).await;
    assert_eq!(code, 422);
    assert!(refused["message"].as_str().unwrap().contains("spec: Invalid value: too many"), "{refused}");
    let (code, made) = ask(&server, Method::POST, WIDGETS, Some(&widget("a", json!({"replicas": 2})))).await;
    assert_eq!(code, 201, "{made}");
    let mut changed = made;
    changed["spec"]["size"] = json!("large");
    let (code, refused) = ask(&server, Method::PUT, &format!("{WIDGETS}/a"), Some(&changed)).await;
    assert_eq!(code, 422, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_objects_are_patched_listed_and_deleted_like_others() {
    let server = TestServer::start().await;
    establish(&server, &definition()).await;
    for (name, size) in [("a", "large"), ("b", "small"), ("c", "large")] {
        let (code, made) = server.post(WIDGETS, widget(name, json!({"size": size, "replicas": 1}))).await;
        assert_eq!(code, 201, "{made}");
    }
    let at = format!("{WIDGETS}/a");
    let merge = json!({"spec": {"replicas": 2}});
    let (code, patched) = server.patch(&at, "application/merge-patch+json", merge).await;
    assert_eq!((code, &patched["spec"]), (200, &json!({"size": "large", "replicas": 2})));
    let operations = json!([{"op": "replace", "path": "/spec/replicas", "value": 3}]);
    let (code, patched) = server.patch(&at, "application/json-patch+json", operations).await;
    assert_eq!((code, &patched["spec"]["replicas"]), (200, &json!(3)));
    let (code, _) = server.patch(&at, "application/strategic-merge-patch+json", json!({})).await;
    assert_eq!(code, 415);
    let wrong = json!({"spec": {"replicas": "three"}});
    let (code, refused) = server.patch(&at, "application/merge-patch+json", wrong).await;
    assert_eq!(code, 422);
    let why =
        r#"spec.replicas: Invalid value: "string": spec.replicas in body must be of type integer: "string""#;
    assert!(refused["message"].as_str().unwrap().contains(why), "{refused}");

    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let headers = [(http::header::ACCEPT, table)];
    let response = server.send(Method::GET, WIDGETS, &headers, bytes::Bytes::new()).await;
    let bytes = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    let table: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(table["columnDefinitions"][2]["name"], "Replicas");
    assert_eq!(table["rows"][0]["cells"], json!(["a", "large", 3]));

    let (code, _) =
        ask(&server, Method::DELETE, &format!("{WIDGETS}?fieldSelector=spec.size%3Dlarge"), None).await;
    assert_eq!(code, 200);
    let (_, left) = server.get(WIDGETS).await;
    let names: Vec<&Value> =
        left["items"].as_array().unwrap().iter().map(|o| &o["metadata"]["name"]).collect();
    assert_eq!(names, ["b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_when_another_schema_is_served() {
    let server = TestServer::start().await;
    establish(&server, &definition()).await;
    let (code, _) = ask(&server, Method::POST, WIDGETS, Some(&widget("a", json!({"replicas": 1})))).await;
    assert_eq!(code, 201);
    let uri = format!("{WIDGETS}?watch=true&timeoutSeconds=600");
    let mut watched = server.send(Method::GET, &uri, &[], bytes::Bytes::new()).await.into_body();
    let bytes = http_body_util::BodyExt::frame(&mut watched).await.unwrap().unwrap().into_data().unwrap();
    let first: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!((&first["type"], &first["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("a")));

    let of_definition = format!("{DEFINITIONS}/widgets.example.com");
    let change = async |change: Value| {
        let patch = server.ask(Method::PATCH, &of_definition, "application/merge-patch+json", Some(change));
        let (code, told) = patch.await;
        assert_eq!(code, 200, "{told}");
    };
    // What is said about a definition is none of the watchers' business, what it says is.
    change(json!({"metadata": {"labels": {"a": "b"}}})).await;
    let mut next = definition();
    next["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["color"] =
        json!({"type": "string", "default": "red"});
    change(json!({"spec": next["spec"]})).await;
    let rest = http_body_util::BodyExt::collect(watched).await.unwrap().to_bytes();
    assert!(rest.is_empty(), "{rest:?}");

    // Who watches again is told by the new schema.
    let uri = format!("{WIDGETS}?watch=true&timeoutSeconds=1");
    let watched = server.send(Method::GET, &uri, &[], bytes::Bytes::new()).await;
    let bytes = http_body_util::BodyExt::collect(watched.into_body()).await.unwrap().to_bytes();
    let again: Value = serde_json::Deserializer::from_slice(&bytes).into_iter().next().unwrap().unwrap();
    assert_eq!(again["object"]["spec"]["color"], "red");
}
