//! Bad input gets a clear Status and leaves nothing behind.

use anyhow::{Result, ensure};
use http::Method;
use serde_json::{Value, json};
use tests::{
    Client, ControlPlane,
    client::{APPLY_PATCH, JSON, JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH},
    runner::Test,
};

use crate::config_maps;

pub(crate) const TESTS: &[Test<ControlPlane>] = &[
    ("bodies that are no JSON or YAML are refused", malformed_bodies),
    ("YAML is taken where JSON is", yaml),
    ("fields of a wrong type are refused with their name", wrong_types),
    ("unknown and duplicate fields are refused, warned about or ignored as asked", unknown_fields),
    ("a body of another kind or place is refused", wrong_places),
    ("bodies over 3 MiB are refused", oversized),
    ("content types nobody reads are refused", content_types),
    ("answers in a form nobody writes are refused", accept),
    ("patches that are none are refused and change nothing", malformed_patches),
    ("names and values out of bounds are refused with their field", invalid_fields),
    ("query parameters that cannot be are refused", parameters),
    ("what is not there is not found", not_found),
    ("verbs a resource does not have are refused", methods),
    ("what grows while it is read, or is deep or long beyond reason, is refused", bombs),
    ("names that lead elsewhere lead nowhere", tricks),
    ("a flood of nonsense leaves the server up", nonsense),
];

fn count(client: &Client, ns: &str) -> Result<usize> {
    let list = client.get(&config_maps(ns, ""))?.ok()?;
    Ok(list["items"].as_array().map_or(0, Vec::len))
}

fn malformed_bodies(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    for body in [
        "",
        "{",
        "[]",
        "42",
        "\"text\"",
        "{\"metadata\": {\"name\": \"a\"}",
        "{\"metadata\":{\"name\":\"a\"}}}",
        "\u{0}\u{1}",
    ] {
        let answer = admin.send(Method::POST, &config_maps(ns, ""), JSON, body)?;
        answer.refused(400, "BadRequest").map_err(|e| e.context(format!("body {body:?}")))?;
    }
    for body in ["a: b: c", "a:\n\tb: c", "- 1", "metadata: {name: [}", "a: &a [*a, *a", "%"] {
        let answer = admin.send(Method::POST, &config_maps(ns, ""), "application/yaml", body)?;
        answer.refused(400, "BadRequest").map_err(|e| e.context(format!("body {body:?}")))?;
    }
    let deep = format!("{{\"data\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    admin.send(Method::POST, &config_maps(ns, ""), JSON, deep)?.refused(400, "BadRequest")?;
    ensure!(count(&admin, ns)? == 0, "something was stored");
    Ok(())
}

fn yaml(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let text = "metadata:\n  name: text\n  labels: {on: \"yes\"}\ndata:\n  lines: |\n    one\n    two\n";
    let made = admin.send(Method::POST, &config_maps(ns, ""), "application/yaml", text)?.ok()?;
    ensure!(made["data"]["lines"] == "one\ntwo\n", "{made}");
    let back = admin.with_header("accept", "application/yaml")?.get(&config_maps(ns, "text"))?;
    ensure!(back.header("content-type") == "application/yaml", "{:?}", back.headers);
    ensure!(back.text().contains("name: text"), "{}", back.text());
    let changed = back.text().replace("one", "three");
    let put = admin.send(Method::PUT, &config_maps(ns, "text"), "application/yaml", changed)?.ok()?;
    ensure!(put["data"]["lines"] == "three\ntwo\n", "{put}");
    Ok(())
}

fn wrong_types(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let deployments = format!("/apis/apps/v1/namespaces/{ns}/deployments");
    let cases = [
        (config_maps(ns, ""), json!({"metadata": {"name": 1}}), "name"),
        (config_maps(ns, ""), json!({"metadata": {"name": "a", "labels": {"a": true}}}), "labels"),
        (config_maps(ns, ""), json!({"metadata": {"name": "a"}, "data": {"a": 1}}), "data"),
        (config_maps(ns, ""), json!({"metadata": {"name": "a"}, "data": ["a"]}), "data"),
        (config_maps(ns, ""), json!({"metadata": []}), "metadata"),
        (config_maps(ns, ""), json!({"metadata": {"name": "a"}, "immutable": "yes"}), "immutable"),
        (deployments.clone(), json!({"metadata": {"name": "a"}, "spec": {"replicas": "three"}}), "replicas"),
        (deployments.clone(), json!({"metadata": {"name": "a"}, "spec": {"replicas": 1.5}}), "replicas"),
        (
            deployments.clone(),
            json!({"metadata": {"name": "a"}, "spec": {"replicas": 4_294_967_296_u64}}),
            "replicas",
        ),
        (
            deployments,
            json!({"metadata": {"name": "a"}, "spec": {"template": {"spec": {"containers": {}}}}}),
            "containers",
        ),
    ];
    for (path, body, field) in cases {
        let answer = admin.post(&path, &body)?;
        answer.refused_with(400, "BadRequest", field).map_err(|e| e.context(format!("body {body}")))?;
    }
    ensure!(count(&admin, ns)? == 0, "something was stored");
    Ok(())
}

fn unknown_fields(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let body =
        |name: &str| json!({"metadata": {"name": name, "colour": "red"}, "date": {"a": "b"}}).to_string();
    let path = |mode: &str| format!("{}?fieldValidation={mode}", config_maps(ns, ""));
    let strict = admin.send(Method::POST, &path("Strict"), JSON, body("strict"))?;
    strict.refused_with(
        400,
        "BadRequest",
        "strict decoding error: unknown field \"date\", unknown field \"metadata.colour\"",
    )?;
    let warned = admin.send(Method::POST, &path("Warn"), JSON, body("warn"))?;
    let made = warned.ok()?;
    ensure!(made.get("date").is_none() && made["metadata"].get("colour").is_none(), "kept: {made}");
    let warnings = warned.warnings();
    ensure!(
        warnings == [r#"299 - "unknown field \"date\"""#, r#"299 - "unknown field \"metadata.colour\"""#],
        "{warnings:?}"
    );
    let ignored = admin.send(Method::POST, &path("Ignore"), JSON, body("ignore"))?;
    ignored.ok()?;
    ensure!(!ignored.headers.contains_key("warning"), "{:?}", ignored.headers);
    // Warn is what one gets without asking.
    let unasked = admin.send(Method::POST, &config_maps(ns, ""), JSON, body("unasked"))?;
    ensure!(unasked.headers.contains_key("warning"), "no warning");
    let twice = r#"{"metadata": {"name": "twice"}, "data": {"a": "1"}, "data": {"a": "2"}}"#;
    admin.send(Method::POST, &path("Strict"), JSON, twice)?.refused_with(
        400,
        "BadRequest",
        "duplicate field \"data\"",
    )?;
    admin.send(Method::POST, &path("Sometimes"), JSON, body("a"))?.refused(422, "Invalid")?;
    // Patches are held to the same.
    let one = format!("{}?fieldValidation=Strict", config_maps(ns, "warn"));
    for kind in [MERGE_PATCH, STRATEGIC_PATCH] {
        admin.patch(&one, kind, &json!({"date": {"a": "b"}}))?.refused_with(
            422,
            "Invalid",
            "unknown field \"date\"",
        )?;
    }
    Ok(())
}

fn wrong_places(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let post = |body: Value| admin.post(&config_maps(ns, ""), &body);
    post(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}))?
        .refused(400, "BadRequest")?;
    post(json!({"apiVersion": "apps/v1", "kind": "ConfigMap", "metadata": {"name": "a"}}))?
        .refused(400, "BadRequest")?;
    post(
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "elsewhere"}}),
    )?
    .refused_with(400, "BadRequest", "does not match the namespace")?;
    post(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}))?.ok()?;
    let mut other = admin.get(&config_maps(ns, "a"))?.ok()?;
    other["metadata"]["name"] = json!("b");
    admin.put(&config_maps(ns, "a"), &other)?.refused_with(400, "BadRequest", "does not match the name")?;
    admin
        .post("/api/v1/namespaces/no-such-namespace/configmaps", &json!({"metadata": {"name": "a"}}))?
        .refused_with(404, "NotFound", "namespaces \"no-such-namespace\" not found")?;
    post(json!({"metadata": {"name": "a"}}))?.refused_with(
        409,
        "AlreadyExists",
        "configmaps \"a\" already exists",
    )?;
    post(json!({"metadata": {"name": "c", "resourceVersion": "5"}}))?.refused_with(
        500,
        "",
        "resourceVersion should not be set on objects to be created",
    )?;
    post(json!({"metadata": {"name": "c", "resourceVersion": "0"}}))?.ok()?;
    let put = |version: &str, value: &str| {
        let object = json!({"metadata": {"name": "c", "resourceVersion": version}, "data": {"k": value}});
        admin.put(&config_maps(ns, "c"), &object)
    };
    put("x", "1")?.refused_with(500, "", "strconv.ParseUint: parsing \"x\": invalid syntax")?;
    put("1", "1")?.refused_with(409, "Conflict", "the object has been modified")?;
    put("0", "1")?.ok()?;
    Ok(())
}

fn oversized(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let body = |bytes: usize| json!({"metadata": {"name": "big"}, "data": {"a": "x".repeat(bytes)}});
    admin.post(&config_maps(ns, ""), &body(3 << 20))?.refused_with(
        413,
        "RequestEntityTooLarge",
        "limit is 3145728",
    )?;
    admin.post(&config_maps(ns, ""), &body(900 << 10))?.ok()?;
    let patch = json!({"metadata": {"annotations": {"a": "x".repeat(3 << 20)}}});
    for kind in [MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH] {
        let path = format!("{}?fieldManager=test", config_maps(ns, "big"));
        admin.patch(&path, kind, &patch)?.refused(413, "RequestEntityTooLarge")?;
    }
    let long = "x".repeat(300 << 10);
    let annotated = json!({"metadata": {"annotations": {"a": long}}});
    let told = admin.patch(&config_maps(ns, "big"), MERGE_PATCH, &annotated)?;
    told.refused_with(422, "Invalid", "metadata.annotations: Too long")?;
    ensure!(
        admin.get(&config_maps(ns, "big"))?.ok()?["metadata"].get("annotations").is_none(),
        "it was patched"
    );
    Ok(())
}

fn content_types(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let body = json!({"metadata": {"name": "a"}}).to_string();
    // CBOR is one of them without its gate.
    for kind in
        ["text/plain", "application/xml", "application/cbor", "application/json-patch+json", "nonsense"]
    {
        let answer = admin.send(Method::POST, &config_maps(ns, ""), kind, body.clone())?;
        answer.refused(415, "UnsupportedMediaType").map_err(|e| e.context(kind))?;
    }
    admin.send(Method::POST, &config_maps(ns, ""), "", body.clone())?.ok()?;
    for kind in [JSON, "application/yaml", "application/apply-patch+cbor", "text/plain", ""] {
        let answer = admin.send(Method::PATCH, &config_maps(ns, "a"), kind, "{}")?;
        answer.refused(415, "UnsupportedMediaType").map_err(|e| e.context(format!("patch as {kind:?}")))?;
    }
    let protobuf = "application/vnd.kubernetes.protobuf";
    for junk in [&b"k8s\0"[..], b"k8s\0\xff\xff\xff\xff\xff\xff", b"\0\0\0\0", b"{}"] {
        admin
            .send(Method::POST, &config_maps(ns, ""), protobuf, junk.to_vec())?
            .refused(400, "BadRequest")?;
    }
    Ok(())
}

fn accept(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    for kind in ["image/png", "application/cbor", "application/json;as=Chair;v=v1;g=meta.k8s.io"] {
        let answer = admin.with_header("accept", kind)?.get(&config_maps(ns, ""))?;
        ensure!(answer.code == 406, "{kind}: {}: {}", answer.code, answer.text());
    }
    for kind in ["*/*", "application/*", "image/png, application/json;q=0.5", "application/json"] {
        let answer = admin.with_header("accept", kind)?.get(&config_maps(ns, ""))?;
        ensure!(answer.ok()?["kind"] == "ConfigMapList", "{kind}: {}", answer.text());
    }
    Ok(())
}

fn malformed_patches(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let path = config_maps(ns, "a");
    let before =
        admin.post(&config_maps(ns, ""), &json!({"metadata": {"name": "a"}, "data": {"k": "v"}}))?.ok()?;
    let cases = [
        (JSON_PATCH, "{}", 400, "BadRequest"),
        (JSON_PATCH, "[", 400, "BadRequest"),
        (JSON_PATCH, r#"[{"op":"dance","path":"/data/k"}]"#, 422, "Invalid"),
        (JSON_PATCH, r#"[{"op":"remove","path":"/data/missing"}]"#, 422, "Invalid"),
        (JSON_PATCH, r#"[{"op":"test","path":"/data/k","value":"other"}]"#, 422, "Invalid"),
        (JSON_PATCH, r#"[{"op":"replace","path":"/data","value":"text"}]"#, 422, "Invalid"),
        (JSON_PATCH, r#"[{"op":"replace","path":"/metadata/name","value":"b"}]"#, 400, "BadRequest"),
        (MERGE_PATCH, "{", 400, "BadRequest"),
        (MERGE_PATCH, "[]", 400, "BadRequest"),
        (STRATEGIC_PATCH, "{", 400, "BadRequest"),
        (STRATEGIC_PATCH, r#"{"metadata":{"name":"b"}}"#, 400, "BadRequest"),
        (APPLY_PATCH, "a: b: c", 400, "BadRequest"),
    ];
    for (kind, body, code, reason) in cases {
        let query = if kind == APPLY_PATCH { "?fieldManager=test" } else { "" };
        let answer = admin.send(Method::PATCH, &format!("{path}{query}"), kind, body)?;
        answer.refused(code, reason).map_err(|e| e.context(format!("{kind} {body}")))?;
    }
    ensure!(admin.get(&path)?.ok()? == before, "it was changed");
    Ok(())
}

fn bombs(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let (maps, path) = (config_maps(ns, ""), config_maps(ns, "a"));
    admin.post(&maps, &json!({"metadata": {"name": "a"}, "data": {"k": "v".repeat(1 << 10)}}))?.ok()?;
    // Nine times ten of what was before: a billion.
    let mut laughs = String::from("a0: &a0 ha\n");
    for level in 1..10 {
        let all = vec![format!("*a{}", level - 1); 10].join(", ");
        laughs.push_str(&format!("a{level}: &a{level} [{all}]\n"));
    }
    let yaml = format!("metadata: {{name: b}}\n{laughs}");
    admin.send(Method::POST, &maps, "application/yaml", yaml.clone())?.refused(400, "BadRequest")?;
    let applied = format!("apiVersion: v1\nkind: ConfigMap\n{yaml}");
    admin
        .send(Method::PATCH, &format!("{path}?fieldManager=m"), APPLY_PATCH, applied)?
        .refused(400, "BadRequest")?;
    // Steps of a patch, and steps that make much of little.
    let steps = format!("[{}]", vec![r#"{"op":"remove","path":"/a"}"#; 100_000].join(","));
    let told = admin.send(Method::PATCH, &path, JSON_PATCH, steps)?;
    told.refused_with(
        413,
        "RequestEntityTooLarge",
        "The allowed maximum operations in a JSON patch is 10000",
    )?;
    let copies: Vec<String> =
        (0..9_000).map(|n| format!(r#"{{"op":"copy","from":"/data/k","path":"/data/k{n}"}}"#)).collect();
    let told = admin.send(Method::PATCH, &path, JSON_PATCH, format!("[{}]", copies.join(",")))?;
    ensure!((400..500).contains(&told.code), "{}: {}", told.code, told.text());
    let doubles: Vec<String> =
        (0..40).map(|n| format!(r#"{{"op":"copy","from":"/data","path":"/data/x{n}"}}"#)).collect();
    let told = admin.send(Method::PATCH, &path, JSON_PATCH, format!("[{}]", doubles.join(",")))?;
    ensure!((400..500).contains(&told.code), "{}: {}", told.code, told.text());
    // Depth.
    let deep = |open: &str, shut: &str| format!("{}{}", open.repeat(100_000), shut.repeat(100_000));
    for (kind, body) in [
        (MERGE_PATCH, format!("{{\"data\":{}}}", deep("[", "]"))),
        (STRATEGIC_PATCH, format!("{{\"data\":{}}}", deep("[", "]"))),
        (JSON_PATCH, format!(r#"[{{"op":"add","path":"/data/k","value":{}}}]"#, deep("[", "]"))),
    ] {
        admin.send(Method::PATCH, &path, kind, body)?.refused(400, "BadRequest")?;
    }
    let flow = format!("metadata: {{name: b}}\ndata: {}\n", deep("[", "]"));
    admin.send(Method::POST, &maps, "application/yaml", flow)?.refused(400, "BadRequest")?;
    // Selectors and expressions of any length.
    let terms: Vec<String> = (0..3_000).map(|n| format!("k{n}!=v")).collect();
    let told = admin.get(&format!("{maps}?labelSelector={}", terms.join(",")))?;
    ensure!(told.code == 200 || (400..500).contains(&told.code), "{}", told.code);
    let policy = |expression: String| {
        json!({"metadata": {"name": format!("{ns}-bomb")}, "spec": {"validations": [{"expression": expression}],
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                "resources": ["nothing"]}]}}})
    };
    let policies = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
    for expression in
        [deep("(", ")"), format!("true{}", " || true".repeat(200_000)), deep("[", "]"), "!".repeat(100_000)]
    {
        admin.post(policies, &policy(expression))?.refused(422, "Invalid")?;
    }
    let now = admin.get(&path)?.ok()?;
    ensure!(now["data"].as_object().map(serde_json::Map::len) == Some(1), "it was changed");
    ensure!(plane.is_running()? && !plane.api_log()?.contains("panicked"), "{}", plane.logs());
    Ok(())
}

fn tricks(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"k": "hidden"}});
    admin.post(&format!("/api/v1/namespaces/{ns}/secrets"), &secret)?.ok()?;
    let reader = plane.user(&format!("{ns}-reader"), "")?;
    for path in [
        format!("/api/v1/namespaces/{ns}/configmaps/../secrets/s"),
        format!("/api/v1/namespaces/{ns}/configmaps/..%2fsecrets%2fs"),
        format!("/api/v1/namespaces/{ns}/configmaps/%2e%2e/secrets/s"),
        format!("/api/v1/namespaces/{ns}/configmaps/%2e%2e%2fsecrets%2fs"),
        format!("//api/v1/namespaces/{ns}/secrets/s"),
        format!("/%2Fapi/v1/namespaces/{ns}/secrets/s"),
        format!("/api//v1/namespaces/{ns}/secrets/s"),
        format!("/api/v1//namespaces/{ns}/secrets/s"),
        format!("/api/v1/namespaces/{ns}//secrets/s"),
        format!("/api/v1/namespaces/{ns}/secrets//s"),
        format!("/api/v1/namespaces/..%2f..%2fapi%2fv1%2fnamespaces%2f{ns}/secrets/s"),
        format!("/openapi/../api/v1/namespaces/{ns}/secrets/s"),
        format!("/healthz/../api/v1/namespaces/{ns}/secrets/s"),
        format!("/apis/../api/v1/namespaces/{ns}/secrets/s"),
        "/api/v1/namespaces/%00/configmaps".to_owned(),
        "/api/v1/namespaces/%ff/configmaps".to_owned(),
    ] {
        // Whoever may do everything finds nothing there, and nobody else gets any further.
        for client in [&admin, &reader] {
            let answer = client.get(&path)?;
            ensure!(!answer.text().contains("aGlkZGVu") && answer.code < 500, "{path}: {}", answer.text());
        }
        ensure!(reader.get(&path)?.code != 200, "{path} is open");
    }
    // An escaped slash is a slash, to who authorizes as to who serves.
    let escaped = format!("/api/v1/namespaces/{ns}%2fsecrets%2fs");
    admin.get(&escaped)?.ok()?;
    let why = format!("cannot get resource \"secrets\" in API group \"\" in the namespace \"{ns}\"");
    reader.get(&escaped)?.refused_with(403, "Forbidden", &why)?;
    admin.get(&format!("/api/v1/namespaces/{ns}/pods//log"))?.refused_with(
        400,
        "BadRequest",
        "name must be provided",
    )?;
    for name in ["..", ".", "a/b", "a%2fb", "../x", "a\u{0}", ""] {
        let made = admin.post(&config_maps(ns, ""), &json!({"metadata": {"name": name}}))?;
        made.refused(422, "Invalid").map_err(|e| e.context(format!("{name:?}")))?;
    }
    ensure!(count(&admin, ns)? == 0, "something was stored");
    Ok(())
}

fn invalid_fields(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let deployments = format!("/apis/apps/v1/namespaces/{ns}/deployments");
    let deployment = |replicas: i64, label: &str| {
        json!({"metadata": {"name": "a"}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "a"}},
            "template": {"metadata": {"labels": {"app": label}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    };
    let cases = [
        (config_maps(ns, ""), json!({"metadata": {}}), "metadata.name"),
        (config_maps(ns, ""), json!({"metadata": {"name": "Upper"}}), "metadata.name"),
        (config_maps(ns, ""), json!({"metadata": {"name": "a/b"}}), "metadata.name"),
        (config_maps(ns, ""), json!({"metadata": {"name": "a".repeat(254)}}), "metadata.name"),
        (config_maps(ns, ""), json!({"metadata": {"name": "a", "labels": {"a b": "c"}}}), "metadata.labels"),
        (config_maps(ns, ""), json!({"metadata": {"name": "a", "labels": {"a": "b c"}}}), "metadata.labels"),
        (deployments.clone(), deployment(-1, "a"), "spec.replicas"),
        (deployments.clone(), deployment(1, "b"), "spec.template.metadata.labels"),
        (deployments, json!({"metadata": {"name": "a"}, "spec": {"template": {}}}), "spec.selector"),
    ];
    for (path, body, field) in cases {
        let status = admin
            .post(&path, &body)?
            .refused(422, "Invalid")
            .map_err(|e| e.context(format!("body {body}")))?;
        let causes = status["details"]["causes"].as_array().cloned().unwrap_or_default();
        ensure!(causes.iter().any(|c| c["field"] == field), "no cause names {field}: {status}");
        ensure!(causes.iter().all(|c| c["reason"].is_string() && c["message"].is_string()), "{status}");
    }
    ensure!(count(&admin, ns)? == 0, "something was stored");
    Ok(())
}

fn parameters(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    for query in [
        "limit=many",
        "labelSelector=a%20in",
        "labelSelector=%3D%3D",
        "fieldSelector=spec.colour%3Dred",
        "fieldSelector=metadata.name",
        "timeoutSeconds=soon",
        "continue=nonsense",
        "resourceVersion=latest",
    ] {
        let answer = admin.get(&format!("{}?{query}", config_maps(ns, "")))?;
        ensure!(matches!(answer.code, 400 | 422), "{query}: {}: {}", answer.code, answer.text());
        ensure!(answer.json()?["kind"] == "Status", "{query}: {}", answer.text());
    }
    for query in [
        "resourceVersionMatch=Exact",
        "resourceVersionMatch=Sometimes&resourceVersion=1",
        "sendInitialEvents=true",
    ] {
        let answer = admin.get(&format!("{}?{query}", config_maps(ns, "")))?;
        answer.refused(422, "Invalid").map_err(|e| e.context(query))?;
    }
    let made =
        admin.post(&format!("{}?dryRun=Some", config_maps(ns, "")), &json!({"metadata": {"name": "a"}}))?;
    made.refused(422, "Invalid")?;
    ensure!(count(&admin, ns)? == 0, "something was stored");
    Ok(())
}

fn not_found(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let status = admin.get(&config_maps(ns, "missing"))?.refused_with(
        404,
        "NotFound",
        "configmaps \"missing\" not found",
    )?;
    ensure!(status["details"] == json!({"name": "missing", "kind": "configmaps"}), "{status}");
    admin.delete(&config_maps(ns, "missing"))?.refused(404, "NotFound")?;
    admin.patch(&config_maps(ns, "missing"), MERGE_PATCH, &json!({}))?.refused(404, "NotFound")?;
    admin
        .put(&config_maps(ns, "missing"), &json!({"metadata": {"name": "missing", "resourceVersion": "7"}}))?
        .refused(404, "NotFound")?;
    for path in ["/api/v1/chairs", "/apis/chairs.example/v1/chairs", "/api/v2", "/nonsense"] {
        ensure!(admin.get(path)?.code == 404, "{path} is something");
    }
    ensure!(
        admin.get(&format!("{}/status", config_maps(ns, "missing")))?.code == 404,
        "config maps have no status"
    );
    Ok(())
}

fn methods(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let body = json!({"metadata": {"name": "a"}});
    for (sent, why) in [
        (
            "xx",
            "couldn't get version/kind; json parse error: invalid character 'x' looking for beginning of value (7878)",
        ),
        ("{\"a\" 1}", "json parse error: invalid character '1' after object key ({\"a\" 1})"),
        ("", "json parse error: unexpected end of JSON input (<empty>)"),
        ("{\"kind\": \"Secret\"}", "converting (v1.Secret) to (core.ConfigMap): unknown conversion"),
        ("{\"apiVersion\": \"v9\"}", "no kind \"ConfigMap\" is registered for version \"v9\" in scheme"),
    ] {
        let answer = admin.send(Method::POST, &config_maps(ns, ""), JSON, sent)?;
        answer.refused_with(400, "BadRequest", why).map_err(|e| e.context(sent))?;
    }
    let method = "the server does not allow this method on the requested resource";
    admin.put(&config_maps(ns, ""), &body)?.refused_with(405, "MethodNotAllowed", method)?;
    let merge = "application/merge-patch+json";
    admin.send(Method::PATCH, &config_maps(ns, ""), merge, "{}")?.refused_with(
        405,
        "MethodNotAllowed",
        method,
    )?;
    admin.post(&config_maps(ns, "a"), &body)?.refused(405, "MethodNotAllowed")?;
    admin.get("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")?.refused(405, "MethodNotAllowed")?;
    admin.delete("/api/v1/namespaces")?.refused(405, "MethodNotAllowed")?;
    let strange = admin.send(Method::from_bytes(b"BREW")?, &config_maps(ns, ""), "", "")?;
    ensure!(matches!(strange.code, 400 | 405), "{}: {}", strange.code, strange.text());
    Ok(())
}

/// Mutations of a good body: the server may take or refuse each, but answers all of them.
fn nonsense(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let good = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"a": "b"}, "ownerReferences": []},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "1"}}}], "volumes": []},
    })
    .to_string()
    .into_bytes();
    let before = plane.api_pid();
    let path = format!("/api/v1/namespaces/{ns}/pods?dryRun=All");
    // A linear congruential generator: the same nonsense each time.
    let mut state = 7_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap_or_default() % below
    };
    for _ in 0..400 {
        let mut body = good.clone();
        for _ in 0..=random(3) {
            let at = random(body.len());
            match random(4) {
                0 => body[at] = u8::try_from(random(256))?,
                1 => drop(body.remove(at)),
                2 => body.truncate(at.max(1)),
                _ => body.insert(at, b"{}[]\",:0-\\"[random(10)]),
            }
        }
        let answer = admin.send(Method::POST, &path, JSON, body.clone())?;
        ensure!(
            matches!(answer.code, 201 | 400 | 403 | 422),
            "{}: {} for {}",
            answer.code,
            answer.text(),
            String::from_utf8_lossy(&body)
        );
    }
    ensure!(plane.api_pid() == before && admin.get("/readyz")?.code == 200, "the server is not what it was");
    ensure!(!plane.api_log()?.contains("panicked"), "it panicked: {}", plane.logs());
    Ok(())
}
