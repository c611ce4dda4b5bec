//! Traces of requests, as a collector is told of them.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::{
    ControlPlane,
    collector::{Collector, said},
    control_plane::Options,
    pki::Authority,
    receiver::{Call, Receiver, Reply},
    runner::Test,
};

use crate::config_maps;

pub(crate) const TESTS: &[Test<()>] = &[
    ("a request that is followed is told of with its parts", followed),
    ("requests are followed by lot, and a configuration that makes no sense is refused", by_lot),
];

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn configured(dir: &tempfile::TempDir, endpoint: &str, rate: i64) -> Result<String> {
    let path = dir.path().join("tracing.yaml");
    let config = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "TracingConfiguration",
        "endpoint": endpoint, "samplingRatePerMillion": rate});
    fs::write(&path, config.to_string())?;
    Ok(format!("--tracing-config-file={}", path.display()))
}

fn answer(call: &Call) -> Reply {
    Reply::Json(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "response": {"uid": call.body["request"]["uid"], "allowed": true}}))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn followed(_: &(), _: &str) -> Result<()> {
    let (dir, collector) = (tempfile::tempdir()?, Collector::start()?);
    let flags = vec![configured(&dir, &collector.address.to_string(), 0)?];
    let plane = ControlPlane::start(Options { flags, ..Options::default() })?;
    let admin = plane.admin()?;
    let authority = Authority::new("hooks")?;
    let receiver = Receiver::start(&authority, answer)?;
    let rules = json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]);
    let hook = json!({"metadata": {"name": "h"}, "webhooks": [{"name": "h.example.com", "rules": rules, "sideEffects": "None",
        "clientConfig": receiver.client_config("/hook"), "admissionReviewVersions": ["v1"]}]});
    admin.post("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", &hook)?.ok()?;
    let maps = config_maps("default", "");
    plane.eventually("the webhook is called", 20, || {
        admin.post(&format!("{maps}?dryRun=All"), &json!({"metadata": {"name": "probe"}}))?;
        Ok((!receiver.calls("/hook").is_empty()).then_some(()))
    })?;
    let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
    let asked = admin.with_header("traceparent", &parent)?;
    asked.post(&format!("{maps}?fieldManager=me"), &json!({"metadata": {"name": "m"}}))?.ok()?;
    let spans = plane.eventually("the collector is told", 30, || {
        let spans = collector.spans();
        Ok(spans.iter().any(|span| span.name.starts_with("POST ")).then_some(spans))
    })?;
    let named = |name: &str| {
        spans.iter().find(|span| span.name == name).with_context(|| format!("{name}: {spans:?}"))
    };
    let whole = named("POST /api/v1/namespaces/{:namespace}/configmaps")?;
    ensure!(hex(&whole.trace_id) == TRACE && hex(&whole.parent_span_id) == "b7ad6b7169203331", "{whole:?}");
    ensure!(said(whole, "http.target") == format!("{maps}?fieldManager=me"), "{whole:?}");
    ensure!(!said(whole, "audit-id").is_empty(), "{whole:?}");
    let create = named("Create")?;
    ensure!(create.parent_span_id == whole.span_id, "{create:?}");
    for part in ["Call validating webhook", "Create etcd3"] {
        let part = named(part)?;
        ensure!(part.parent_span_id == create.span_id && hex(&part.trace_id) == TRACE, "{part:?}");
        ensure!(part.start_time_unix_nano >= whole.start_time_unix_nano, "{part:?}");
        ensure!(part.end_time_unix_nano <= whole.end_time_unix_nano, "{part:?}");
    }
    ensure!(said(named("Call validating webhook")?, "webhook") == "h.example.com", "{spans:?}");
    // Who is asked on the way is told.
    let calls = receiver.calls("/hook");
    let told =
        calls.last().and_then(|call| call.headers.get("traceparent")?.to_str().ok()).unwrap_or_default();
    ensure!(told.starts_with(&format!("00-{TRACE}-")) && told.ends_with("-01"), "{told}");
    // Only those who watch over the cluster may have themselves followed.
    let count = spans.len();
    let jane = plane.user("jane", "")?.with_header("traceparent", &parent)?;
    jane.get(&maps)?.refused(403, "Forbidden")?;
    asked.get(&maps)?.ok()?;
    let spans = plane.eventually("the collector is told of the next", 30, || {
        let spans = collector.spans();
        Ok(spans.iter().any(|span| span.name == "List").then_some(spans))
    })?;
    ensure!(
        spans.len() > count && spans.iter().filter(|span| span.name.starts_with("GET ")).count() == 1,
        "{spans:?}"
    );
    Ok(())
}

fn by_lot(_: &(), _: &str) -> Result<()> {
    let (dir, collector) = (tempfile::tempdir()?, Collector::start()?);
    let flag = configured(&dir, &format!("dns:///{}", collector.address), 1_000_000)?;
    let plane = ControlPlane::start(Options { flags: vec![flag], ..Options::default() })?;
    let jane = plane.user("jane", "")?;
    jane.get("/api/v1/nodes")?.refused(403, "Forbidden")?;
    plane.eventually("the collector is told", 30, || {
        let spans = collector.spans();
        Ok(spans
            .iter()
            .any(|span| span.name == "GET /api/v1/nodes" && span.parent_span_id.is_empty())
            .then_some(()))
    })?;
    plane.terminate_api()?;
    let wrong = configured(&dir, "http://localhost:4317", 0)?;
    plane.set_flags(&[wrong.as_str()]);
    plane.launch_api()?;
    plane.eventually("the server ends", 20, || Ok((!plane.is_running()?).then_some(())))?;
    let log = plane.api_log()?;
    ensure!(log.contains("unsupported scheme: http"), "{log}");
    Ok(())
}
