//! Another API server behind this one: what it serves is proxied, discovered and described as if it were the cluster's.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{
    ControlPlane,
    pki::Authority,
    receiver::{Call, Receiver, Reply},
    runner::Test,
};

pub(crate) const TESTS: &[Test<ControlPlane>] =
    &[("another server's resources are discovered, described and reached", another_server)];

const GROUP: &str = "sample.example.com";
const VERSION: &str = "/apis/sample.example.com/v1";
const DOCUMENT: &str = "/openapi/v3/apis/sample.example.com/v1";

/// A type of the other server.
fn thing() -> Value {
    json!({"type": "object", "description": "A thing of another server.",
        "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}},
        "x-kubernetes-group-version-kind": [{"group": GROUP, "kind": "Thing", "version": "v1"}]})
}

/// The other server.
fn answer(call: &Call) -> Reply {
    let things = format!("{VERSION}/things");
    let operation = |schema: Value| json!({"get": {"operationId": "listThings", "responses": schema}});
    match call.path.as_str() {
        VERSION => Reply::Json(json!({"kind": "APIResourceList", "apiVersion": "v1",
            "groupVersion": format!("{GROUP}/v1"), "resources": [{"name": "things", "singularName": "thing",
                "namespaced": false, "kind": "Thing", "verbs": ["get", "list"]}]})),
        path if path == things => {
            Reply::Json(json!({"kind": "ThingList", "apiVersion": format!("{GROUP}/v1"),
            "metadata": {}, "items": []}))
        }
        "/openapi/v2" => Reply::Json(json!({"swagger": "2.0", "info": {"title": "other", "version": "v1"},
            "paths": {things: operation(json!({"200": {"description": "OK",
                "schema": {"$ref": "#/definitions/com.example.sample.v1.Thing"}}}))},
            "definitions": {"com.example.sample.v1.Thing": thing()}})),
        "/openapi/v3" => Reply::Json(json!({"paths": {"apis/sample.example.com/v1": {
            "serverRelativeURL": format!("{DOCUMENT}?hash=ABC")}}})),
        DOCUMENT => Reply::Json(json!({"openapi": "3.0.0", "info": {"title": "other", "version": "v1"},
            "paths": {things: operation(json!({"200": {"description": "OK"}}))},
            "components": {"schemas": {"com.example.sample.v1.Thing": thing()}}})),
        _ => {
            Reply::Code(404, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}))
        }
    }
}

fn another_server(plane: &ControlPlane, ns: &str) -> Result<()> {
    let authority = Authority::new("another")?;
    let receiver = Receiver::start(&authority, answer)?;
    let url = receiver.url("");
    let port: u16 = url.rsplit(':').next().unwrap_or_default().parse()?;
    let admin = plane.admin()?;
    // Outside of the cluster a server is reached by the name that its service stands for.
    let service =
        json!({"metadata": {"name": "other"}, "spec": {"type": "ExternalName", "externalName": "localhost"}});
    admin.post(&format!("/api/v1/namespaces/{ns}/services"), &service)?.ok()?;
    let registrations = "/apis/apiregistration.k8s.io/v1/apiservices";
    let registration = json!({"metadata": {"name": format!("v1.{GROUP}")}, "spec": {"group": GROUP, "version": "v1",
        "groupPriorityMinimum": 100, "versionPriority": 10, "insecureSkipTLSVerify": true,
        "service": {"namespace": ns, "name": "other", "port": port}}});
    admin.post(registrations, &registration)?.ok()?;
    let path = format!("{registrations}/v1.{GROUP}");
    let found = plane.eventually("the other server is available", 60, || {
        let seen = admin.get(&path)?.ok()?;
        Ok(seen["status"]["conditions"].to_string().contains("\"status\":\"True\"").then_some(()))
    });
    found?;
    let list = admin.get(&format!("{VERSION}/things"))?.ok()?;
    ensure!(list["kind"] == "ThingList", "{list}");
    plane.eventually("its group is discovered", 60, || {
        let groups = admin.get("/apis")?.ok()?;
        let all = groups["groups"].as_array().cloned().unwrap_or_default();
        Ok(all.iter().any(|group| group["name"] == GROUP).then_some(()))
    })?;
    let whole = plane.eventually("the second version of the documents has its types", 60, || {
        let document = admin.get("/openapi/v2")?.ok()?;
        Ok(document["definitions"].get("com.example.sample.v1.Thing").is_some().then_some(document))
    })?;
    let operations = &whole["paths"][format!("{VERSION}/things")];
    ensure!(operations["get"]["operationId"] == "listThings", "{operations}");
    ensure!(
        whole["definitions"].get("io.k8s.api.core.v1.Pod").is_some(),
        "its types stand beside the cluster's"
    );
    let index = plane.eventually("the third version lists its document", 60, || {
        let index = admin.get("/openapi/v3")?.ok()?;
        let entry = index["paths"].get("apis/sample.example.com/v1").cloned();
        Ok(entry)
    })?;
    let relative = index["serverRelativeURL"].as_str().unwrap_or_default();
    ensure!(relative.starts_with(DOCUMENT), "{index}");
    let document = admin.get(relative)?.ok()?;
    ensure!(document["components"]["schemas"]["com.example.sample.v1.Thing"] == thing(), "{document}");
    // What is no longer registered is gone from all of it.
    admin.delete(&path)?.ok()?;
    plane.eventually("nothing is left of it", 60, || {
        let (list, document) = (admin.get(&format!("{VERSION}/things"))?, admin.get("/openapi/v2")?.ok()?);
        let described = document["definitions"].get("com.example.sample.v1.Thing").is_some();
        Ok((list.code == 404 && !described).then_some(()))
    })
}
