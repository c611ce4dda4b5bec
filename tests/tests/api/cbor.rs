//! CBOR (KEP-4222): what is taken, served and stored under its gate; each test has a control plane of its own.

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use http::Method;
use proto::{
    cbor::{self, Order},
    node::Node,
};
use serde_json::{Value, json};
use tests::{Client, ControlPlane, client::Answer, control_plane::Options, runner::Test};

use crate::config_maps;

pub(crate) const TESTS: &[Test<()>] = &[
    ("objects are taken and served as CBOR", objects),
    ("what is no object is refused, and so is what a kind has not", refusals),
    ("watches are sequences of CBOR", watches),
    ("configurations are applied in CBOR", applies),
    ("custom objects are stored as CBOR, and read in both forms whatever the gate says", stored),
];

const ON: &str = "--feature-gates=CBORServingAndStorage=true";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const THINGS: &str = "/apis/cbor.example.com/v1/things";

fn start() -> Result<(ControlPlane, Client)> {
    let plane = ControlPlane::start(Options { flags: vec![ON.to_owned()], ..Options::default() })?;
    let client = plane.admin()?.with_header("accept", "application/cbor")?;
    Ok((plane, client))
}

fn encoded(value: &Value) -> Vec<u8> {
    cbor::encode(&Node::from(value), Order::Sorted)
}

fn post(client: &Client, path: &str, value: &Value) -> Result<Answer> {
    client.send(Method::POST, path, "application/cbor", encoded(value))
}

/// An answer's object, which must have come as CBOR.
fn served(answer: &Answer) -> Result<Value> {
    ensure!(answer.header("content-type") == "application/cbor", "{:?}: {}", answer.headers, answer.text());
    ensure!(answer.body.starts_with(&cbor::MAGIC), "it does not say what it is");
    answer.ok()
}

fn objects(_: &(), _: &str) -> Result<()> {
    let (plane, client) = start()?;
    let admin = plane.admin()?;
    let password = BASE64_STANDARD.encode([0, 255, 7]);
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "labels": {"a": "b"}},
        "data": {"password": password}});
    // Bytes go as they are, there and back.
    let raw = [0x43, 0, 255, 7];
    let sent = encoded(&secret);
    ensure!(sent.windows(4).any(|part| part == raw), "the request has no raw bytes");
    let made = client.send(Method::POST, SECRETS, "application/cbor", sent)?;
    ensure!(
        made.code == 201 && made.body.windows(4).any(|part| part == raw),
        "{}: {}",
        made.code,
        made.text()
    );
    ensure!(served(&made)?["data"]["password"] == password, "{}", made.text());
    let path = format!("{SECRETS}/s");
    let in_json = admin.get(&path)?.ok()?;
    ensure!(in_json["data"]["password"] == password, "{in_json}");
    ensure!(served(&client.get(&path)?)? == in_json, "both forms say the same");
    let mut changed = in_json;
    changed["metadata"]["labels"]["a"] = json!("c");
    let put = client.send(Method::PUT, &path, "application/cbor", encoded(&changed))?;
    ensure!(served(&put)?["metadata"]["labels"]["a"] == "c", "{}", put.text());
    let list = served(&client.get(SECRETS)?)?;
    ensure!(list["kind"] == "SecretList" && list["items"][0]["data"]["password"] == password, "{list}");
    ensure!(list["metadata"]["resourceVersion"].is_string(), "{list}");
    for (form, kind) in [("Table", "Table"), ("PartialObjectMetadataList", "PartialObjectMetadataList")] {
        let accept = format!("application/cbor;as={form};g=meta.k8s.io;v=v1");
        let shown = served(&admin.with_header("accept", &accept)?.get(SECRETS)?)?;
        ensure!(shown["kind"] == kind, "{shown}");
    }
    // Subresources and reviews too.
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let review = served(&post(&client, "/apis/authentication.k8s.io/v1/selfsubjectreviews", &review)?)?;
    ensure!(review["status"]["userInfo"]["username"].is_string(), "{review}");
    let flags =
        admin.with_header("accept", "application/cbor;g=config.k8s.io;v=v1beta1;as=Flagz")?.get("/flagz")?;
    ensure!(flags.header("content-type") == "application/cbor", "{:?}", flags.headers);
    ensure!(cbor::decode(&flags.body)?.to_value()["kind"] == "Flagz", "{}", flags.text());
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "other"}});
    let delete = |options| client.send(Method::DELETE, &path, "application/cbor", encoded(options));
    delete(&options)?.refused_with(409, "Conflict", "the UID in the precondition (other)")?;
    let gone = served(&delete(&json!({"gracePeriodSeconds": 0}))?)?;
    ensure!(gone["status"] == "Success", "{gone}");
    // The order of members means nothing, so that nobody can count on one.
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"},
        "data": {"a": "1", "b": "2", "c": "3", "d": "4", "e": "5", "f": "6", "g": "7", "h": "8"}});
    served(&post(&client, &config_maps("default", ""), &map)?)?;
    let read = || client.get(&config_maps("default", "m"));
    let first = read()?.body;
    for _ in 0..100 {
        if read()?.body != first {
            return Ok(());
        }
    }
    anyhow::bail!("a hundred answers are the same bytes")
}

fn refusals(_: &(), _: &str) -> Result<()> {
    let (plane, client) = start()?;
    let admin = plane.admin()?;
    // Failures come as CBOR from where objects are, as JSON from before.
    let missing = client.get(&format!("{SECRETS}/none"))?;
    ensure!(missing.header("content-type") == "application/cbor", "{:?}", missing.headers);
    missing.refused(404, "NotFound")?;
    let stranger = plane.user("stranger", "strangers")?.with_header("accept", "application/cbor")?;
    let forbidden = stranger.get(SECRETS)?;
    ensure!(forbidden.header("content-type") == "application/json", "{:?}", forbidden.headers);
    forbidden.refused(403, "Forbidden")?;
    let sequence = admin.with_header("accept", "application/cbor-seq")?;
    sequence.get(SECRETS)?.refused_with(406, "NotAcceptable", "application/cbor")?;
    let path = config_maps("default", "");
    admin.send(Method::POST, &path, "application/cbor-seq", "")?.refused_with(
        415,
        "UnsupportedMediaType",
        "application/vnd.kubernetes.protobuf, application/cbor",
    )?;
    let send = |path: &str, body: &[u8]| admin.send(Method::POST, path, "application/cbor", body.to_vec());
    for (body, why) in [
        (&b"\xa2\x61a\x01\x41a\x02"[..], "duplicate map key \"a\""),
        (b"\xa1\x61a\xf9\x7e\x00", "NaN"),
        (b"\xa1\x61a\xf7", "simple value 23 is not recognized"),
        (b"\xa1\x61a", "unexpected EOF"),
        (b"\xa0\xa0", "extraneous data"),
        (b"", "EOF"),
        (&[0x81; 4000], "exceeded max nested level"),
    ] {
        send(&path, body)?.refused_with(400, "BadRequest", why)?;
    }
    // Items of indefinite length are taken.
    let open = b"\xbf\x68metadata\xbf\x64name\x7f\x61o\x63pen\xff\xff\x64data\xbf\x61k\x5f\x41v\xff\xff\xff";
    let made = send(&path, open)?.ok()?;
    ensure!(made["metadata"]["name"] == "open" && made["data"]["k"] == "v", "{made}");
    // What the kind does not have.
    let odd = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "odd"}, "dates": {}});
    post(&admin, &format!("{path}?fieldValidation=Strict"), &odd)?.refused_with(
        400,
        "BadRequest",
        "strict decoding error",
    )?;
    let warned = post(&admin, &path, &odd)?;
    ensure!(
        warned.code == 201 && warned.warnings().iter().any(|w| w.contains("unknown field")),
        "{:?}",
        warned.headers
    );
    let wrong = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": 7}});
    post(&admin, &path, &wrong)?.refused_with(400, "BadRequest", "cannot be handled as a ConfigMap").map(drop)
}

/// The events of a watch that has come to its end.
fn events(answer: &Answer) -> Result<Vec<Value>> {
    ensure!(answer.header("content-type") == "application/cbor-seq", "{:?}", answer.headers);
    let (mut all, mut rest) = (Vec::new(), &answer.body[..]);
    while !rest.is_empty() {
        ensure!(rest.starts_with(&cbor::MAGIC), "an event does not say what it is");
        let (event, more) = cbor::decode_first(rest)?;
        all.push(event.to_value());
        rest = more;
    }
    Ok(all)
}

fn watches(_: &(), _: &str) -> Result<()> {
    let (plane, client) = start()?;
    let admin = plane.admin()?;
    let path = config_maps("default", "");
    let made = admin.post(&path, &json!({"metadata": {"name": "a"}, "binaryData": {"k": "AP8="}}))?.ok()?;
    let begin = made["metadata"]["resourceVersion"].as_str().context("no version")?.to_owned();
    admin.post(&path, &json!({"metadata": {"name": "b"}}))?.ok()?;
    admin.delete(&config_maps("default", "b"))?.ok()?;
    let watch = format!("{path}?watch=true&timeoutSeconds=1&resourceVersion={begin}");
    let got = events(&client.get(&watch)?)?;
    let told: Vec<String> =
        got.iter().map(|e| format!("{} {}", e["type"], e["object"]["metadata"]["name"])).collect();
    ensure!(told == ["\"ADDED\" \"b\"", "\"DELETED\" \"b\""], "{told:?}");
    // From the beginning, with the end of what there was marked.
    let all = format!(
        "{path}?watch=true&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let got = events(&client.get(&all)?)?;
    let a = got.iter().find(|e| e["object"]["metadata"]["name"] == "a").context("no event of a")?;
    ensure!(a["type"] == "ADDED" && a["object"]["binaryData"]["k"] == "AP8=", "{a}");
    let end = got.iter().find(|e| e["type"] == "BOOKMARK").context("no bookmark")?;
    ensure!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true", "{end}");
    let metadata =
        admin.with_header("accept", "application/cbor;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")?;
    let got = events(&metadata.get(&watch)?)?;
    ensure!(got.iter().all(|e| e["object"]["kind"] == "PartialObjectMetadata") && got.len() == 2, "{got:?}");
    Ok(())
}

fn applies(_: &(), _: &str) -> Result<()> {
    let (_plane, client) = start()?;
    let path = format!("{}?fieldManager=me", config_maps("default", "applied"));
    let apply = |path: &str, value: &Value| {
        client.send(Method::PATCH, path, "application/apply-patch+cbor", encoded(value))
    };
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "1", "b": "2"}});
    let made = apply(&path, &map)?;
    ensure!(made.code == 201, "{}: {}", made.code, made.text());
    let manager = &served(&made)?["metadata"]["managedFields"][0];
    ensure!(manager["manager"] == "me" && manager["operation"] == "Apply", "{manager}");
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "1"}});
    let less = served(&apply(&path, &map)?)?;
    ensure!(less["data"] == json!({"a": "1"}), "what is no longer applied goes: {less}");
    let other = format!("{}?fieldManager=you", config_maps("default", "applied"));
    let theirs = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "2"}});
    apply(&other, &theirs)?.refused_with(409, "Conflict", "conflict with \"me\"")?;
    ensure!(served(&apply(&format!("{other}&force=true"), &theirs)?)?["data"]["a"] == "2", "not taken over");
    let broken =
        client.send(Method::PATCH, &path, "application/apply-patch+cbor", &b"\xa2\x61a\x01\x61a\x02"[..])?;
    broken.refused_with(400, "BadRequest", "error decoding YAML: cbor: found duplicate map key")?;
    let unknown = client.send(Method::PATCH, &path, "application/cbor", encoded(&map))?;
    unknown.refused_with(415, "UnsupportedMediaType", "application/apply-patch+cbor").map(drop)
}

fn definition() -> Value {
    json!({"metadata": {"name": "things.cbor.example.com"}, "spec": {"group": "cbor.example.com", "scope": "Cluster",
        "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
        "versions": [{"name": "v1", "served": true, "storage": true,
            "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
                "spec": {"type": "object", "properties": {"replicas": {"type": "integer"}, "share": {"type": "number"}}}}}}}]}})
}

/// Whether etcd has an object as CBOR.
fn is_cbor(plane: &ControlPlane, name: &str) -> Result<bool> {
    let value = crate::encryption::stored(plane, &format!("/registry/cbor.example.com/things/{name}"))?;
    ensure!(
        value.starts_with(&cbor::MAGIC) || value.starts_with(b"{"),
        "{:?}",
        String::from_utf8_lossy(&value)
    );
    Ok(value.starts_with(&cbor::MAGIC))
}

fn restart(plane: &ControlPlane, flags: &[&str]) -> Result<()> {
    plane.kill_api()?;
    plane.set_flags(flags);
    plane.start_api()
}

/// A thing as it is read, as soon as things are served.
fn thing(plane: &ControlPlane, admin: &Client, name: &str) -> Result<Value> {
    plane.eventually("things are served", 30, || {
        let answer = admin.get(&format!("{THINGS}/{name}"))?;
        (answer.code == 200).then(|| answer.ok()).transpose()
    })
}

fn stored(_: &(), _: &str) -> Result<()> {
    let plane = ControlPlane::start(Options::default())?;
    let admin = plane.admin()?;
    admin.post(DEFINITIONS, &definition())?.ok()?;
    let make = |name: &str| {
        let spec = json!({"replicas": 1, "share": 0.5});
        json!({"apiVersion": "cbor.example.com/v1", "kind": "Thing", "metadata": {"name": name}, "spec": spec})
    };
    plane.eventually("things are served", 30, || {
        Ok((admin.post(THINGS, &make("first"))?.code == 201).then_some(()))
    })?;
    ensure!(!is_cbor(&plane, "first")?, "CBOR without the gate");
    let cbor_client = admin.with_header("accept", "application/cbor")?;
    cbor_client.get(&format!("{THINGS}/first"))?.refused(406, "NotAcceptable")?;
    post(&admin, THINGS, &make("none"))?.refused(415, "UnsupportedMediaType")?;

    restart(&plane, &[ON])?;
    let first = thing(&plane, &admin, "first")?;
    served(&post(&cbor_client, THINGS, &make("second"))?)?;
    ensure!(is_cbor(&plane, "second")? && !is_cbor(&plane, "first")?, "what is written is CBOR");
    for path in ["/second", "/second/status", "/second/scale", ""] {
        served(&cbor_client.get(&format!("{THINGS}{path}"))?).with_context(|| path.to_owned())?;
    }
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "second"}, "spec": {"replicas": 3}});
    let scaled =
        admin.send(Method::PUT, &format!("{THINGS}/second/scale"), "application/cbor", encoded(&scale))?;
    ensure!(scaled.ok()?["spec"]["replicas"] == 3, "{}", scaled.text());
    // The same object again brings it to the form of today.
    admin.put(&format!("{THINGS}/first"), &first)?.ok()?;
    ensure!(is_cbor(&plane, "first")?, "the first is still JSON");
    let events = events(&cbor_client.get(&format!("{THINGS}?watch=true&timeoutSeconds=1"))?)?;
    ensure!(events.len() == 2 && events.iter().all(|e| e["object"]["spec"]["share"] == 0.5), "{events:?}");
    // Others are stored as ever.
    admin.post(&config_maps("default", ""), &json!({"metadata": {"name": "c"}}))?.ok()?;
    let map = crate::encryption::stored(&plane, "/registry/configmaps/default/c")?;
    ensure!(map.starts_with(b"{"), "config maps are CBOR");

    restart(&plane, &[])?;
    let second = thing(&plane, &admin, "second")?;
    ensure!(second["spec"] == json!({"replicas": 3, "share": 0.5}), "{second}");
    admin.put(&format!("{THINGS}/second"), &second)?.ok()?;
    ensure!(!is_cbor(&plane, "second")? && is_cbor(&plane, "first")?, "what is written is JSON again");
    Ok(())
}
