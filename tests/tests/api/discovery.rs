//! What the server says about itself, and objects in other forms than their own.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{ControlPlane, runner::Test};

use crate::config_maps;

pub(crate) const TESTS: &[Test<ControlPlane>] = &[
    ("groups, versions and resources are discovered one by one", plain),
    ("one request discovers everything", aggregated),
    ("OpenAPI v2 describes every kind and is cached by its tag", openapi_v2),
    ("OpenAPI v3 describes each group by its hash", openapi_v3),
    ("tables have columns and rows", tables),
    ("metadata alone is less", metadata_only),
    ("health, version and metrics are told", health),
    ("pretty and compressed answers", encodings),
    ("component statuses are asked for when somebody wants to know", component_statuses),
    ("who asks for a version on its way out is warned", deprecated),
];

fn plain(plane: &ControlPlane, _: &str) -> Result<()> {
    let admin = plane.admin()?;
    let core = admin.get("/api")?.ok()?;
    ensure!(core["kind"] == "APIVersions" && core["versions"] == json!(["v1"]), "{core}");
    let groups = admin.get("/apis")?.ok()?;
    let names: Vec<_> =
        groups["groups"].as_array().into_iter().flatten().filter_map(|g| g["name"].as_str()).collect();
    for want in [
        "apps",
        "batch",
        "autoscaling",
        "networking.k8s.io",
        "rbac.authorization.k8s.io",
        "coordination.k8s.io",
        "discovery.k8s.io",
        "policy",
        "scheduling.k8s.io",
        "storage.k8s.io",
        "certificates.k8s.io",
        "events.k8s.io",
        "authentication.k8s.io",
        "authorization.k8s.io",
    ] {
        ensure!(names.contains(&want), "no {want} in {names:?}");
    }
    let apps = admin.get("/apis/apps")?.ok()?;
    ensure!(apps["kind"] == "APIGroup" && apps["preferredVersion"]["groupVersion"] == "apps/v1", "{apps}");
    let list = admin.get("/apis/apps/v1")?.ok()?;
    ensure!(list["kind"] == "APIResourceList" && list["groupVersion"] == "apps/v1", "{list}");
    let find = |list: &Value, name: &str| -> Result<Value> {
        let all = list["resources"].as_array().into_iter().flatten();
        all.clone().find(|r| r["name"] == name).cloned().with_context(|| format!("no {name}"))
    };
    let deployments = find(&list, "deployments")?;
    ensure!(deployments["kind"] == "Deployment" && deployments["namespaced"] == true, "{deployments}");
    ensure!(
        deployments["shortNames"] == json!(["deploy"]) && deployments["categories"] == json!(["all"]),
        "{deployments}"
    );
    ensure!(
        deployments["verbs"]
            == json!(["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]),
        "{deployments}"
    );
    let scale = find(&list, "deployments/scale")?;
    ensure!(
        scale["kind"] == "Scale" && scale["group"] == "autoscaling" && scale["version"] == "v1",
        "{scale}"
    );
    let core = admin.get("/api/v1")?.ok()?;
    ensure!(find(&core, "pods/exec")?["kind"] == "PodExecOptions", "exec takes its options");
    ensure!(find(&core, "nodes")?["namespaced"] == false, "nodes have no namespace");
    Ok(())
}

fn aggregated(plane: &ControlPlane, _: &str) -> Result<()> {
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let admin = plane.admin()?.with_header("accept", accept)?;
    for (path, group, resource) in [("/api", "", "pods"), ("/apis", "apps", "deployments")] {
        let answer = admin.get(path)?;
        let all = answer.ok()?;
        ensure!(
            all["kind"] == "APIGroupDiscoveryList" && all["apiVersion"] == "apidiscovery.k8s.io/v2",
            "{path}"
        );
        let items = all["items"].as_array().context("it has items")?;
        let group = items
            .iter()
            .find(|g| g["metadata"].get("name").and_then(Value::as_str).unwrap_or_default() == group);
        let version = &group.context("the group is there")?["versions"][0];
        let found = version["resources"].as_array().into_iter().flatten().find(|r| r["resource"] == resource);
        let found = found.with_context(|| format!("no {resource}"))?;
        ensure!(found["scope"] == "Namespaced" && found["responseKind"]["kind"].is_string(), "{found}");
        ensure!(
            found["subresources"].as_array().is_some_and(|s| s.iter().any(|s| s["subresource"] == "status")),
            "{found}"
        );
        let tag = answer.header("etag");
        ensure!(!tag.is_empty(), "{:?}", answer.headers);
        ensure!(admin.with_header("if-none-match", tag)?.get(path)?.code == 304, "{path} is told again");
    }
    Ok(())
}

fn openapi_v2(plane: &ControlPlane, _: &str) -> Result<()> {
    let admin = plane.admin()?;
    let answer = admin.get("/openapi/v2")?;
    let spec = answer.ok()?;
    ensure!(spec["swagger"] == "2.0", "{}", spec["swagger"]);
    let pod = &spec["definitions"]["io.k8s.api.core.v1.Pod"];
    ensure!(pod["x-kubernetes-group-version-kind"][0]["kind"] == "Pod", "{pod}");
    ensure!(pod["properties"]["spec"]["description"].is_string(), "{pod}");
    let ports = &spec["definitions"]["io.k8s.api.core.v1.Container"]["properties"]["ports"];
    ensure!(ports["x-kubernetes-patch-merge-key"] == "containerPort", "{ports}");
    ensure!(
        spec["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["get"].is_object(),
        "no path of a pod"
    );
    let tag = answer.header("etag").to_owned();
    ensure!(admin.with_header("if-none-match", &tag)?.get("/openapi/v2")?.code == 304, "it is told again");
    let protobuf = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let message = admin.with_header("accept", protobuf)?.get("/openapi/v2")?;
    ensure!(
        message.code == 200 && message.body.len() > 100_000,
        "{}: {} bytes",
        message.code,
        message.body.len()
    );
    for part in ["readCoreV1NamespacedPod", "watchAppsV1NamespacedDeploymentList", "getAppsAPIGroup"] {
        ensure!(holds(&message.body, part), "{part} is not told in protobuf");
    }
    Ok(())
}

fn holds(body: &[u8], text: &str) -> bool {
    body.windows(text.len()).any(|window| window == text.as_bytes())
}

fn openapi_v3(plane: &ControlPlane, _: &str) -> Result<()> {
    let admin = plane.admin()?;
    let index = admin.get("/openapi/v3")?.ok()?;
    for group in ["api/v1", "apis/apps/v1", "apis/batch/v1"] {
        let url =
            index["paths"][group]["serverRelativeURL"].as_str().with_context(|| format!("no {group}"))?;
        ensure!(url.starts_with(&format!("/openapi/v3/{group}?hash=")), "{url}");
        let answer = admin.get(url)?;
        ensure!(answer.ok()?["openapi"] == "3.0.0", "{group}");
        ensure!(answer.header("cache-control").contains("immutable"), "{:?}", answer.headers);
        ensure!(answer.header("expires").ends_with(" UTC"), "{:?}", answer.headers);
    }
    let apps = admin.get("/openapi/v3/apis/apps/v1")?.ok()?;
    let schema = &apps["components"]["schemas"]["io.k8s.api.apps.v1.DeploymentSpec"];
    ensure!(schema["required"] == json!(["selector", "template"]), "{schema}");
    for (root, operation) in
        [("api", "getCoreAPIVersions"), ("apis/apps", "getAppsAPIGroup"), ("version", "getCodeVersion")]
    {
        let url = index["paths"][root]["serverRelativeURL"].as_str().with_context(|| format!("no {root}"))?;
        let document = admin.get(url)?.ok()?;
        ensure!(document["paths"][format!("/{root}/")]["get"]["operationId"] == operation, "{document}");
    }
    let protobuf = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf";
    let message = admin.with_header("accept", protobuf)?.get("/openapi/v3/apis/apps/v1")?;
    ensure!(
        message.code == 200 && holds(&message.body, "readAppsV1NamespacedDeployment"),
        "{}",
        message.code
    );
    ensure!(message.header("content-type").contains("spec.v3.v1.0+protobuf"), "{:?}", message.headers);
    ensure!(
        admin.with_header("accept", "text/html")?.get("/openapi/v3/apis/apps/v1")?.code == 406,
        "as a page"
    );
    let old = admin.get("/openapi/v3/apis/apps/v1?hash=OLD")?;
    let now = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap_or_default();
    ensure!((old.code, old.header("location")) == (301, now), "{} {:?}", old.code, old.headers);
    ensure!(admin.get("/openapi/v3/apis/chairs/v1")?.code == 404, "chairs are something");
    Ok(())
}

fn tables(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let pods = format!("/api/v1/namespaces/{ns}/pods");
    for name in ["a", "b"] {
        let spec = json!({"containers": [{"name": "c", "image": "i"}]});
        admin.post(&pods, &json!({"metadata": {"name": name}, "spec": spec}))?.ok()?;
    }
    let table =
        admin.with_header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")?;
    let all = table.get(&pods)?.ok()?;
    ensure!(all["kind"] == "Table" && all["apiVersion"] == "meta.k8s.io/v1", "{all}");
    let columns: Vec<_> = all["columnDefinitions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|c| c["name"].as_str())
        .collect();
    let want =
        ["Name", "Ready", "Status", "Restarts", "Age", "IP", "Node", "Nominated Node", "Readiness Gates"];
    ensure!(columns == want, "{columns:?}");
    ensure!(all["columnDefinitions"][5]["priority"] == 1, "IP is for wide tables");
    let row = &all["rows"][0];
    ensure!(row["cells"][0] == "a" && row["cells"][1] == "0/1" && row["cells"][2] == "Pending", "{row}");
    ensure!(
        row["object"]["kind"] == "PartialObjectMetadata" && row["object"]["metadata"]["name"] == "a",
        "{row}"
    );
    ensure!(all["metadata"]["resourceVersion"].is_string(), "{}", all["metadata"]);
    let none = table.get(&format!("{pods}?includeObject=None"))?.ok()?;
    ensure!(none["rows"][0]["object"].is_null(), "{none}");
    let whole = table.get(&format!("{pods}?includeObject=Object"))?.ok()?;
    ensure!(whole["rows"][0]["object"]["kind"] == "Pod", "{whole}");
    ensure!(
        table.get(&format!("{pods}/b"))?.ok()?["rows"].as_array().map(Vec::len) == Some(1),
        "one row of one"
    );
    let paged = table.get(&format!("{pods}?limit=1"))?.ok()?;
    ensure!(paged["metadata"]["continue"].is_string(), "{}", paged["metadata"]);
    let mut watch = table.watch(&format!("{pods}?watch=true"))?;
    for _ in 0..2 {
        let row = watch.expect("ADDED")?;
        ensure!(row["kind"] == "Table" && row["rows"].as_array().map(Vec::len) == Some(1), "{row}");
    }
    // Refusals are a Status in any form.
    table.get(&format!("{pods}/missing"))?.refused(404, "NotFound")?;
    Ok(())
}

fn metadata_only(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let body = json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "data": {"big": "x".repeat(1000)}});
    admin.post(&config_maps(ns, ""), &body)?.ok()?;
    let with =
        |kind: &str| admin.with_header("accept", &format!("application/json;as={kind};v=v1;g=meta.k8s.io"));
    let list = with("PartialObjectMetadataList")?.get(&config_maps(ns, ""))?.ok()?;
    ensure!(list["kind"] == "PartialObjectMetadataList" && list["apiVersion"] == "meta.k8s.io/v1", "{list}");
    ensure!(
        list["items"][0]["metadata"]["labels"]["x"] == "y" && list["items"][0].get("data").is_none(),
        "{list}"
    );
    let one = with("PartialObjectMetadata")?.get(&config_maps(ns, "a"))?.ok()?;
    ensure!(one["kind"] == "PartialObjectMetadata" && one.get("data").is_none(), "{one}");
    let mut watch = with("PartialObjectMetadata")?.watch(&format!("{}?watch=true", config_maps(ns, "")))?;
    let object = watch.expect("ADDED")?;
    ensure!(object["kind"] == "PartialObjectMetadata" && object.get("data").is_none(), "{object}");
    Ok(())
}

fn health(plane: &ControlPlane, _: &str) -> Result<()> {
    let admin = plane.admin()?;
    for path in ["/healthz", "/livez", "/readyz", "/livez/ping", "/readyz/etcd"] {
        let answer = admin.get(path)?;
        ensure!(answer.code == 200 && answer.text() == "ok", "{path}: {}: {}", answer.code, answer.text());
    }
    for part in [
        "log",
        "poststarthook/crd-informer-synced",
        "poststarthook/storage-readiness",
        "autoregister-completion",
    ] {
        for path in ["healthz", "livez", "readyz"] {
            ensure!(admin.get(&format!("/{path}/{part}"))?.code == 200, "{path} knows no {part}");
        }
    }
    ensure!(
        admin.get("/livez/informer-sync")?.code == 404,
        "what only readiness asks about keeps the server alive"
    );
    let verbose = admin.get("/readyz?verbose")?.text();
    ensure!(verbose.contains("[+]ping ok") && verbose.contains("[+]etcd ok"), "{verbose}");
    ensure!(verbose.trim_end().ends_with("readyz check passed"), "{verbose}");
    let without = admin.get("/readyz?verbose&exclude=etcd")?.text();
    ensure!(without.contains("[+]etcd excluded: ok"), "{without}");
    ensure!(admin.get("/readyz/no-such-check")?.code == 404, "a check that is none");
    let version = admin.get("/version")?.ok()?;
    ensure!(version["major"] == "1" && version["minor"] == "36", "{version}");
    ensure!(version["gitVersion"].as_str().is_some_and(|v| v.starts_with("v1.36.")), "{version}");
    let metrics = admin.get("/metrics")?.text();
    for name in ["apiserver_storage_objects{", "process_resident_memory_bytes"] {
        ensure!(metrics.contains(name), "no {name}");
    }
    Ok(())
}

fn component_statuses(plane: &ControlPlane, _: &str) -> Result<()> {
    let admin = plane.admin()?;
    let all = "/api/v1/componentstatuses";
    let list = admin.get(all)?.ok()?;
    ensure!(list["kind"] == "ComponentStatusList", "{list}");
    let items = list["items"].as_array().context("items")?;
    let names: Vec<_> = items.iter().map(|item| &item["metadata"]["name"]).collect();
    ensure!(names == ["controller-manager", "etcd-0", "scheduler"], "{names:?}");
    ensure!(
        items[1]["conditions"] == json!([{"type": "Healthy", "status": "True", "message": "ok"}]),
        "{list}"
    );
    let one = admin.get(&format!("{all}/scheduler"))?.ok()?;
    ensure!(one["kind"] == "ComponentStatus" && one["conditions"][0]["type"] == "Healthy", "{one}");
    admin.get(&format!("{all}/other"))?.refused_with(404, "NotFound", "\"other\" not found")?;
    let chosen = admin.get(&format!("{all}?fieldSelector=metadata.name%3Detcd-0"))?.ok()?;
    ensure!(chosen["items"].as_array().is_some_and(|items| items.len() == 1), "{chosen}");
    let table =
        admin.with_header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")?.get(all)?.ok()?;
    ensure!(table["rows"][1]["cells"] == json!(["etcd-0", "Healthy", "ok", ""]), "{table}");
    Ok(())
}

fn deprecated(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let endpoints = admin.get(&format!("/api/v1/namespaces/{ns}/endpoints"))?;
    endpoints.ok()?;
    let told = "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\"";
    ensure!(endpoints.warnings() == [told], "{:?}", endpoints.warnings());
    let statuses = admin.get("/api/v1/componentstatuses/etcd-0")?;
    let told = "299 - \"v1 ComponentStatus is deprecated in v1.19+\"";
    ensure!(statuses.warnings() == [told], "{:?}", statuses.warnings());
    ensure!(admin.get(&config_maps(ns, ""))?.warnings().is_empty(), "a good version warns");
    let metrics = admin.get("/metrics")?.text();
    let told = "apiserver_requested_deprecated_apis{group=\"\",removed_release=\"\",resource=\"endpoints\",\
                subresource=\"\",version=\"v1\"} 1";
    ensure!(metrics.contains(told), "no {told}");
    Ok(())
}

fn encodings(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    for at in 0..20 {
        let body = json!({"metadata": {"name": format!("m{at}")}, "data": {"big": "x".repeat(10_000)}});
        admin.post(&config_maps(ns, ""), &body)?.ok()?;
    }
    let pretty = admin.get(&format!("{}?pretty=true", config_maps(ns, "m0")))?;
    ensure!(
        pretty.text().contains("\n  \"kind\"") || pretty.text().contains("\n  \"apiVersion\""),
        "{}",
        pretty.text()
    );
    let packed = admin.with_header("accept-encoding", "gzip")?.get(&config_maps(ns, ""))?;
    ensure!(packed.header("content-encoding") == "gzip", "{:?}", packed.headers);
    ensure!(
        packed.body.starts_with(&[0x1f, 0x8b]) && packed.body.len() < 50_000,
        "{} bytes",
        packed.body.len()
    );
    let small = admin.with_header("accept-encoding", "gzip")?.get(&config_maps(ns, "m0"))?;
    ensure!(small.header("content-encoding").is_empty(), "{:?}", small.headers);
    let protobuf =
        admin.with_header("accept", "application/vnd.kubernetes.protobuf")?.get(&config_maps(ns, ""))?;
    ensure!(protobuf.body.starts_with(b"k8s\0"), "{:?}", protobuf.headers);
    Ok(())
}
