//! Traces of requests, as a collector is told of them.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::{
    ControlPlane,
    collector::{Collector, said},
    control_plane::Options,
    egress::Proxy,
    kms::Plugin,
    pki::Authority,
    receiver::{Call, Receiver, Reply},
    runner::Test,
};

use crate::config_maps;

pub(crate) const TESTS: &[Test<()>] = &[
    ("a request that is followed is told of with its parts", followed),
    ("proxies and keys on the way are told of", on_the_way),
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
    let asked_of_etcd = named("etcdserverpb.KV/Txn")?;
    ensure!(asked_of_etcd.parent_span_id == named("Create etcd3")?.span_id, "{asked_of_etcd:?}");
    for (key, value) in [("rpc.system", "grpc"), ("rpc.service", "etcdserverpb.KV"), ("rpc.method", "Txn")] {
        ensure!(said(asked_of_etcd, key) == value, "{asked_of_etcd:?}");
    }
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

fn on_the_way(_: &(), _: &str) -> Result<()> {
    let (dir, collector) = (tempfile::tempdir()?, Collector::start()?);
    let at = |file: &str| dir.path().join(file);
    let _plugin = Plugin::start(&at("kms"), "key-1")?;
    let kms = json!({"kms": {"apiVersion": "v2", "name": "cloud", "endpoint": format!("unix://{}", at("kms").display())}});
    let encryption = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"], "providers": [kms, {"identity": {}}]}]});
    let proxy = Proxy::socket(&at("cluster"))?;
    let egress = json!({"apiVersion": "apiserver.k8s.io/v1beta1", "kind": "EgressSelectorConfiguration",
        "egressSelections": [{"name": "cluster", "connection": {"proxyProtocol": "HTTPConnect",
            "transport": {"uds": {"udsName": at("cluster")}}}}]});
    let mut flags = vec![configured(&dir, &collector.address.to_string(), 0)?];
    for (flag, config) in
        [("encryption-provider-config", encryption), ("egress-selector-config-file", egress)]
    {
        fs::write(at(flag), config.to_string())?;
        flags.push(format!("--{flag}={}", at(flag).display()));
    }
    let plane = ControlPlane::start(Options { flags, ..Options::default() })?;
    let admin = plane.admin()?;
    let receiver = Receiver::start(&Authority::new("kubelet")?, |_| Reply::Json(json!({"of": "a kubelet"})))?;
    proxy.lead("192.0.2.7:10250", receiver.url("").trim_start_matches("https://"));
    let status = json!({"addresses": [{"type": "InternalIP", "address": "192.0.2.7"}]});
    admin.post("/api/v1/nodes", &json!({"metadata": {"name": "n"}, "status": status}))?.ok()?;
    let asked = admin.with_header("traceparent", &format!("00-{TRACE}-b7ad6b7169203331-01"))?;
    asked.post("/api/v1/namespaces/default/secrets", &json!({"metadata": {"name": "s"}}))?.ok()?;
    asked.get("/api/v1/nodes/n/proxy/configz")?.ok()?;
    let (sealed, through) =
        ("TransformToStorage with envelopeTransformer", "Proxy via http_connect protocol over uds");
    let spans = plane.eventually("the collector is told", 30, || {
        let spans = collector.spans();
        let has = |name: &str| spans.iter().any(|span| span.name == name);
        Ok((has(sealed) && has(through)).then_some(spans))
    })?;
    for (name, key, value) in
        [(sealed, "transformer.provider.name", "cloud"), (through, "address", "192.0.2.7:10250")]
    {
        let span = spans.iter().find(|span| span.name == name).context("no such span")?;
        ensure!(said(span, key) == value && hex(&span.trace_id) == TRACE, "{span:?}");
    }
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
