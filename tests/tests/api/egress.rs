//! Networks that are reached by proxies, and what happens when a proxy refuses.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::json;
use tests::{
    ControlPlane,
    control_plane::Options,
    egress::Proxy,
    pki::{Authority, NOW},
    receiver::{Call, Receiver, Reply},
    runner::Test,
};

use crate::config_maps;

pub(crate) const TESTS: &[Test<()>] = &[("each network is reached by its proxy", networks)];

fn answer(call: &Call) -> Reply {
    match call.path.as_str() {
        "/review" => Reply::Json(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "response": {"uid": call.body["request"]["uid"], "allowed": true}})),
        "/configz" => Reply::Json(json!({"of": "a kubelet"})),
        _ => Reply::Json(json!({"of": "a pod"})),
    }
}

fn networks(_: &(), _: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let at = |file: &str| dir.path().join(file);
    let authority = Authority::new("egress")?;
    let identity = authority.client("kube-apiserver", "", NOW)?;
    for (file, text) in [("ca.crt", &authority.cert), ("cert", &identity.cert), ("key", &identity.key)] {
        fs::write(at(file), text)?;
    }
    let (etcd, control) = (Proxy::socket(&at("etcd"))?, Proxy::konnectivity(&at("control"))?);
    let cluster = Proxy::https(&authority)?;
    let config = json!({"apiVersion": "apiserver.k8s.io/v1beta1", "kind": "EgressSelectorConfiguration",
        "egressSelections": [
            {"name": "etcd", "connection": {"proxyProtocol": "HTTPConnect",
                "transport": {"uds": {"udsName": at("etcd")}}}},
            {"name": "controlplane", "connection": {"proxyProtocol": "GRPC",
                "transport": {"uds": {"udsName": at("control")}}}},
            {"name": "cluster", "connection": {"proxyProtocol": "HTTPConnect", "transport": {"tcp": {
                "url": format!("https://{}", cluster.address), "tlsConfig": {"caBundle": at("ca.crt"),
                    "clientCert": at("cert"), "clientKey": at("key")}}}}}]});
    fs::write(at("config"), config.to_string())?;
    let flags = vec![format!("--egress-selector-config-file={}", at("config").display())];
    let plane = ControlPlane::start(Options { flags, ..Options::default() })?;
    let beside = plane.etcd_url();
    let beside = beside.trim_start_matches("http://");
    ensure!(etcd.asked().iter().any(|address| address == beside), "etcd was reached past its proxy");
    let receiver = Receiver::start(&authority, answer)?;
    webhooks(&plane, &control, &receiver)?;
    nodes_and_pods(&plane, &cluster, &receiver)?;
    let metrics = plane.admin()?.get("/metrics")?.text();
    let series = |name: &str, labels: &str| {
        metrics.lines().any(|line| line.starts_with(&format!("{name}{{{labels}}} ")))
    };
    for (name, labels) in [
        ("apiserver_egress_dialer_dial_start_total", r#"protocol="http_connect",transport="uds""#),
        ("apiserver_egress_dialer_dial_duration_seconds_count", r#"protocol="http_connect",transport="tcp""#),
        ("apiserver_egress_dialer_dial_duration_seconds_count", r#"protocol="grpc",transport="uds""#),
        (
            "apiserver_egress_dialer_dial_failure_count",
            r#"protocol="http_connect",stage="proxy",transport="tcp""#,
        ),
        ("apiserver_egress_dialer_dial_failure_count", r#"protocol="grpc",stage="proxy",transport="uds""#),
        ("konnectivity_network_proxy_client_dial_failure_total", r#"reason="endpoint""#),
        (
            "konnectivity_network_proxy_client_stream_packets_total",
            r#"packet_type="DIAL_REQ",segment="from_client""#,
        ),
        (
            "konnectivity_network_proxy_client_stream_packets_total",
            r#"packet_type="DATA",segment="to_client""#,
        ),
    ] {
        ensure!(series(name, labels), "{name}{{{labels}}} is missing");
    }
    Ok(())
}

/// A webhook by URL is the control plane's; nothing is at the URL but what the proxy leads to.
fn webhooks(plane: &ControlPlane, proxy: &Proxy, receiver: &Receiver) -> Result<()> {
    let admin = plane.admin()?;
    let here = receiver.url("");
    proxy.lead("localhost:1", here.trim_start_matches("https://"));
    for (name, port) in [("leads", 1), ("leads-nowhere", 2)] {
        let mut client = receiver.client_config("/review");
        client["url"] = format!("https://localhost:{port}/review").into();
        let webhook = json!({"name": "hook.egress.test", "clientConfig": client, "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "objectSelector": {"matchLabels": {"asks": name}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]});
        let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
        admin.post(path, &json!({"metadata": {"name": name}, "webhooks": [webhook]}))?.ok()?;
    }
    let make = |asks: &str, name: &str| {
        let map = json!({"metadata": {"name": name, "labels": {"asks": asks}}});
        admin.post(&config_maps("default", ""), &map)
    };
    plane.eventually("the webhook is asked", 20, || {
        let name = format!("asked-{}", receiver.calls("/review").len());
        make("leads", &name)?.ok()?;
        Ok((!receiver.calls("/review").is_empty()).then_some(()))
    })?;
    ensure!(proxy.asked().contains(&"localhost:1".to_owned()), "{:?}", proxy.asked());
    plane.eventually("a webhook nothing leads to fails", 20, || {
        let name = format!("refused-{}", proxy.asked().len());
        let answer = make("leads-nowhere", &name)?;
        Ok((answer.code == 500 && answer.text().contains("no way there")).then_some(()))
    })
}

/// Kubelets and pods are the cluster's; their addresses (RFC 5737) lead nowhere but through the proxy.
fn nodes_and_pods(plane: &ControlPlane, proxy: &Proxy, receiver: &Receiver) -> Result<()> {
    let admin = plane.admin()?;
    let here = receiver.url("");
    for address in ["192.0.2.7:10250", "192.0.2.8:8443"] {
        proxy.lead(address, here.trim_start_matches("https://"));
    }
    for (name, address) in [("near", "192.0.2.7"), ("far", "192.0.2.9")] {
        let status = json!({"addresses": [{"type": "InternalIP", "address": address}]});
        admin.post("/api/v1/nodes", &json!({"metadata": {"name": name}, "status": status}))?.ok()?;
    }
    let told = admin.get("/api/v1/nodes/near/proxy/configz")?.ok()?;
    ensure!(told["of"] == "a kubelet", "{told}");
    let why =
        format!("proxy error from {} while dialing 192.0.2.9:10250, code 403: 403 Forbidden", proxy.address);
    admin.get("/api/v1/nodes/far/proxy/configz")?.refused_with(503, "ServiceUnavailable", &why)?;
    let pods = "/api/v1/namespaces/default/pods";
    let account = json!({"metadata": {"name": "default"}});
    admin.post("/api/v1/namespaces/default/serviceaccounts", &account)?.ok()?;
    let spec = json!({"containers": [{"name": "c", "image": "i"}], "nodeName": "near"});
    let mut pod = admin.post(pods, &json!({"metadata": {"name": "p"}, "spec": spec}))?.ok()?;
    pod["status"] = json!({"phase": "Running", "podIP": "192.0.2.8", "podIPs": [{"ip": "192.0.2.8"}]});
    admin.put(&format!("{pods}/p/status"), &pod)?.ok()?;
    let told = admin.get(&format!("{pods}/https:p:8443/proxy/x"))?.ok()?;
    ensure!(told["of"] == "a pod", "{told}");
    ensure!(proxy.asked().len() == 3, "{:?}", proxy.asked());
    Ok(())
}
