use std::collections::BTreeSet;

use bytes::Buf;
use http::Method;
use http_body_util::BodyExt;
use serde_json::json;

use super::*;
use crate::engine::testing::TestServer;

const JSON: Encoding = Encoding::Json { pretty: false };
const TABLES: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
const METADATA: &str = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

fn choose(accept: &str, protobuf: bool, watch: bool) -> Option<(Encoding, Form)> {
    let mut headers = HeaderMap::new();
    if !accept.is_empty() {
        headers.insert(header::ACCEPT, accept.parse().unwrap());
    }
    let offer = Offer { protobuf, cbor: false, table: true, watch, pretty: false };
    Media::choose(&headers, offer).ok().map(|m| (m.encoding, m.form))
}

#[test]
fn the_first_servable_clause_wins() {
    let proto = Encoding::Protobuf;
    let cases = [
        ("", Some((JSON, Form::Object))),
        ("*/*", Some((JSON, Form::Object))),
        ("application/*", Some((JSON, Form::Object))),
        (TABLES, Some((JSON, Form::Table))),
        ("application/json;as=Table;v=v1beta1;g=meta.k8s.io", Some((JSON, Form::Table))),
        ("application/json;as=Table;v=v2;g=meta.k8s.io, application/json", Some((JSON, Form::Object))),
        ("application/vnd.kubernetes.protobuf, application/json", Some((proto, Form::Object))),
        ("application/vnd.kubernetes.protobuf,*/*", Some((proto, Form::Object))),
        ("application/json;q=0.5,application/vnd.kubernetes.protobuf", Some((proto, Form::Object))),
        ("*/*,application/yaml", Some((Encoding::Yaml, Form::Object))),
        ("application/yaml", Some((Encoding::Yaml, Form::Object))),
        ("application/json;pretty=1", Some((Encoding::Json { pretty: true }, Form::Object))),
        ("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io", None),
        ("application/vnd.kubernetes.protobuf;as=Table;v=v1beta1;g=meta.k8s.io", None),
        (METADATA, Some((proto, Form::Metadata))),
        (
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;v=v1beta1;g=meta.k8s.io",
            Some((proto, Form::Metadata)),
        ),
        ("text/html", None),
        ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Some((JSON, Form::Metadata))),
    ];
    for (accept, want) in cases {
        assert_eq!(choose(accept, true, false), want, "{accept}");
    }
}

#[test]
fn custom_resources_have_protobuf_for_their_metadata_only() {
    assert_eq!(choose("application/vnd.kubernetes.protobuf", false, false), None);
    let both = choose("application/vnd.kubernetes.protobuf,application/json", false, false);
    assert_eq!(both, Some((JSON, Form::Object)));
    assert_eq!(choose(METADATA, false, false), Some((Encoding::Protobuf, Form::Metadata)));
}

#[test]
fn what_has_no_table_is_shown_as_it_is_or_not_at_all() {
    let mut headers = HeaderMap::new();
    let offer = Offer { protobuf: true, cbor: false, table: false, watch: false, pretty: false };
    headers.insert(header::ACCEPT, "application/json;as=Table;v=v1;g=meta.k8s.io".parse().unwrap());
    assert_eq!(Media::choose(&headers, offer).map_err(|status| status.code), Err(406));
    headers.insert(header::ACCEPT, TABLES.parse().unwrap());
    assert_eq!(Media::choose(&headers, offer).map(|media| media.form), Ok(Form::Object));
}

#[test]
fn older_clients_get_the_names_they_know() {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, "application/json;as=Table;v=v1beta1;g=meta.k8s.io".parse().unwrap());
    let offer = Offer { protobuf: true, cbor: false, table: true, watch: false, pretty: false };
    let media = Media::choose(&headers, offer).unwrap();
    let object = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata"});
    let table =
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "Table", "rows": [{"cells": [], "object": object}]});
    let written: Value = serde_json::from_slice(&media.encode(&table).unwrap()).unwrap();
    assert_eq!(written["apiVersion"], "meta.k8s.io/v1beta1");
    assert_eq!(written["rows"][0]["object"]["apiVersion"], "meta.k8s.io/v1beta1");
    headers.insert(header::ACCEPT, TABLES.parse().unwrap());
    let media = Media::choose(&headers, offer).unwrap();
    assert_eq!(*media.versioned(&table), table);
}

#[test]
fn watches_are_framed() {
    let proto = "application/vnd.kubernetes.protobuf;stream=watch,application/json;stream=watch";
    assert_eq!(choose(proto, true, true), Some((Encoding::Protobuf, Form::Object)));
    assert_eq!(choose("application/json;stream=watch", true, true), Some((JSON, Form::Object)));
    assert_eq!(choose("application/json;stream=other", true, true), None);
    assert_eq!(choose("application/yaml", true, true), None);
}

#[test]
fn bodies_are_read_by_their_type() {
    let decode = |media: &str, body: &[u8]| {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, media.parse().unwrap());
        decode(&headers, body, false).map_err(|s| s.code)
    };
    let json = br#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"},"spec":{},"status":{}}"#;
    let want: Value = serde_json::from_slice(json).unwrap();
    assert_eq!(decode("application/json; charset=utf-8", json), Ok(want.clone()));
    assert_eq!(decode(codec::CONTENT_TYPE, &codec::from_json(json).unwrap()), Ok(want));
    assert_eq!(decode(codec::CONTENT_TYPE, json), Err(400));
    assert_eq!(decode("application/xml", json), Err(415));
}

const PROTOBUF: (http::HeaderName, &str) = (header::ACCEPT, "application/vnd.kubernetes.protobuf");
const SENT: (http::HeaderName, &str) = (header::CONTENT_TYPE, "application/vnd.kubernetes.protobuf");

fn message(object: &Value) -> Bytes {
    codec::from_json(object.to_string().as_bytes()).unwrap()
}

fn object(message: &[u8]) -> Value {
    serde_json::from_slice(&codec::to_json(message).unwrap()).unwrap()
}

/// One request in protobuf: the code and the decoded body.
async fn ask(server: &TestServer, method: Method, uri: &str, body: Bytes) -> (u16, Value) {
    let response = server.send(method, uri, &[PROTOBUF, SENT], body).await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], codec::CONTENT_TYPE, "{uri}");
    let code = response.status().as_u16();
    (code, object(&response.into_body().collect().await.unwrap().to_bytes()))
}

/// The next event of a watch in protobuf: its type and object.
async fn event(body: &mut crate::response::Body) -> (String, Value) {
    let mut frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(frame.get_u32() as usize, frame.len());
    let (api_version, kind) = ("v1".into(), "WatchEvent".into());
    let event = codec::Envelope { api_version, kind, message: &frame }.to_json().unwrap();
    let event: Value = serde_json::from_slice(&event).unwrap();
    (event["type"].as_str().unwrap().to_owned(), event["object"].clone())
}

#[tokio::test]
async fn a_client_may_speak_protobuf_alone() {
    let server = TestServer::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": {"a": "b"}});
    let (code, made) = ask(&server, Method::POST, maps, message(&map)).await;
    assert_eq!((code, &made["data"]), (201, &json!({"a": "b"})));
    let version = made["metadata"]["resourceVersion"].as_str().unwrap().to_owned();

    let (_, found) = ask(&server, Method::GET, &format!("{maps}/one"), Bytes::new()).await;
    assert_eq!(found, made);
    let (_, list) = ask(&server, Method::GET, maps, Bytes::new()).await;
    assert_eq!((&list["kind"], &list["items"][0]["data"]), (&json!("ConfigMapList"), &json!({"a": "b"})));

    let watch = format!("{maps}?watch=true&resourceVersion={version}&timeoutSeconds=30");
    let response = server.send(Method::GET, &watch, &[PROTOBUF], Bytes::new()).await;
    let framed = "application/vnd.kubernetes.protobuf;stream=watch";
    assert_eq!(response.headers()[header::CONTENT_TYPE], framed);
    let mut events = response.into_body();
    let mut changed = made.clone();
    changed["data"] = json!({"a": "c"});
    let (code, stored) = ask(&server, Method::PUT, &format!("{maps}/one"), message(&changed)).await;
    assert_eq!(code, 200);
    assert_eq!(event(&mut events).await, ("MODIFIED".to_owned(), stored));
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
    let (code, _) = ask(&server, Method::DELETE, &format!("{maps}/one"), message(&options)).await;
    assert_eq!(code, 200);
    assert_eq!(event(&mut events).await.0, "DELETED");

    let (code, status) = ask(&server, Method::GET, &format!("{maps}/one"), Bytes::new()).await;
    assert_eq!((code, &status["kind"], &status["reason"]), (404, &json!("Status"), &json!("NotFound")));
}

#[tokio::test]
async fn metadata_and_questions_go_in_protobuf() {
    let server = TestServer::start().await;
    let accept = (header::ACCEPT, METADATA);
    let response = server.send(Method::GET, "/api/v1/namespaces", &[accept], Bytes::new()).await;
    let list = object(&response.into_body().collect().await.unwrap().to_bytes());
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    let names: Vec<_> = list["items"].as_array().unwrap().iter().map(|i| &i["metadata"]["name"]).collect();
    assert!(names.contains(&&json!("default")), "{names:?}");
    assert_eq!(list["items"][0].as_object().unwrap().len(), 1);

    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "metadata": {},
        "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}, "status": {"allowed": false}});
    let uri = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let (code, answer) = ask(&server, Method::POST, uri, message(&review)).await;
    assert_eq!((code, &answer["status"]["allowed"]), (201, &json!(true)));
    // A body that does not say its kind is what the path takes.
    let plain = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let (code, answer) = server.post(uri, plain).await;
    assert_eq!((code, &answer["status"]["allowed"]), (201, &json!(true)));
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    let (code, answer) = server.post("/api/v1/namespaces/default/pods/p/binding", binding).await;
    assert_eq!((code, &answer["reason"]), (404, &json!("NotFound")), "{answer}");
    let own = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {}});
    let uri = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let (code, answer) = ask(&server, Method::POST, uri, message(&own)).await;
    assert_eq!((code, answer.pointer("/status/userInfo/username").is_some()), (201, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_resource_has_the_same_list_in_protobuf() {
    let catalog = crate::registry::catalog::builtin();
    let gates: BTreeSet<String> =
        catalog.iter().filter_map(|r| r.gate).map(|gate| format!("{gate}=true")).collect();
    let gates = gates.into_iter().collect::<Vec<_>>().join(",");
    let server = TestServer::start_with(&[&format!("--feature-gates={gates}")]).await;
    let (mut lists, mut items) = (0, 0);
    for resource in catalog.iter().filter(|r| r.verbs.contains(&"list")) {
        for version in resource.versions {
            let group = match resource.group {
                "" => format!("api/{version}"),
                group => format!("apis/{group}/{version}"),
            };
            let uri = format!("/{group}/{}", resource.plural);
            let (code, plain) = server.get(&uri).await;
            assert_eq!(code, 200, "{uri}: {plain}");
            // The server still makes its first objects: both lists are of one revision. What is found out has none.
            let revision = plain["metadata"]["resourceVersion"].as_str();
            assert!(revision.is_some() || resource.plural == "componentstatuses", "{uri}: {plain}");
            let same = revision.map_or_else(
                || uri.clone(),
                |revision| format!("{uri}?resourceVersion={revision}&resourceVersionMatch=Exact"),
            );
            let (code, list) = ask(&server, Method::GET, &same, Bytes::new()).await;
            assert_eq!(code, 200, "{uri}: {list}");
            let (api_version, kind) = (list["apiVersion"].as_str().unwrap(), resource.kind);
            let shape = |item: &Value| {
                let id = schema::type_of(api_version, kind).unwrap();
                let mut object = schema::decode(&(item.into()), id).unwrap().object;
                let object = object.as_object_mut().unwrap();
                object.remove("apiVersion");
                object.remove("kind");
                object.clone()
            };
            let of = |list: &Value| -> Vec<_> {
                list["items"].as_array().into_iter().flatten().map(shape).collect()
            };
            assert_eq!(of(&list), of(&plain), "{uri}");
            lists += 1;
            items += of(&list).len();
        }
    }
    assert!(lists > 60 && items > 20, "{items} items in {lists} lists");
}
