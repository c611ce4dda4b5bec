//! Calls of a webhook that runs in this process.

use std::sync::atomic::Ordering;

use serde_json::json;

use super::{testing::Hook, *};
use crate::{
    egress::Egress,
    objects::{SERVICES, memory::Memory},
    response,
};

const PATIENCE: Duration = Duration::from_secs(10);

fn by_url(hook: &Hook, path: &str) -> ClientConfig {
    let config = json!({"url": format!("https://localhost:{}{path}", hook.port), "caBundle": hook.ca});
    ClientConfig::of(&config).unwrap()
}

#[tokio::test]
async fn a_webhook_is_asked_over_one_connection() {
    let hook =
        Hook::start(|(path, body)| response::json(200, &json!({"kind": "Echo", "path": path, "body": body})))
            .await;
    let clients = Clients::new(Memory::with(vec![]), false, "test", Egress::default());
    for _ in 0..3 {
        let answer = clients.post(&by_url(&hook, "/a"), &json!({"x": 1}), PATIENCE).await.unwrap();
        assert_eq!(answer, json!({"kind": "Echo", "path": "/a?timeout=10s", "body": {"x": 1}}));
    }
    assert_eq!(hook.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_service_is_found_and_its_name_is_in_the_certificate() {
    let hook = Hook::start(|(path, _)| response::json(200, &json!({"kind": "Echo", "path": path}))).await;
    let service = json!({"metadata": {"namespace": "default", "name": "hook"},
        "spec": {"clusterIP": "127.0.0.1", "ports": [{"port": hook.port}]}});
    let clients = Clients::new(Memory::with(vec![(SERVICES, service)]), false, "test", Egress::default());
    let config = |name: &str, ca: &str| {
        let service = json!({"namespace": "default", "name": name, "port": hook.port, "path": "/p"});
        ClientConfig::of(&json!({"service": service, "caBundle": ca})).unwrap()
    };
    let answer = clients.post(&config("hook", &hook.ca), &json!({}), PATIENCE).await.unwrap();
    assert_eq!(answer["path"], "/p?timeout=10s");
    let missing = clients.post(&config("none", &hook.ca), &json!({}), PATIENCE).await.unwrap_err();
    let url = format!("https://none.default.svc:{}/p?timeout=10s", hook.port);
    assert_eq!(missing.to_string(), format!("Post {url:?}: service \"none\" not found"));
    let stranger = Hook::start(|_| response::json(200, &json!({}))).await;
    let error = clients.post(&config("hook", &stranger.ca), &json!({}), PATIENCE).await.unwrap_err();
    assert!(error.to_string().contains("tls: failed to verify certificate"), "{error}");
}

#[tokio::test]
async fn bad_answers_are_told_and_redirects_not_followed() {
    let hook = Hook::start(|(path, _)| match path.split('?').next().unwrap_or_default() {
        "/gone" => response::json(404, &json!({})),
        "/status" => {
            response::json(403, &json!({"kind": "Status", "status": "Failure", "message": "not you"}))
        }
        "/moved" => {
            let mut answer = response::json(307, &json!({}));
            answer.headers_mut().insert(header::LOCATION, "/ok".parse().unwrap());
            answer
        }
        "/text" => response::of(200, "text/plain", response::full("hello")),
        "/kindless" => response::json(200, &json!({})),
        _ => response::json(200, &json!({"kind": "Ok"})),
    })
    .await;
    let clients = Clients::new(Memory::with(vec![]), false, "test", Egress::default());
    for (path, code, words) in [
        ("/gone", 404, "the server could not find the requested resource"),
        ("/status", 403, "not you"),
        ("/moved", 307, "status code 307"),
        ("/text", 503, "couldn't get version/kind; json parse error"),
        ("/kindless", 503, "Object 'Kind' is missing in '{}'"),
    ] {
        let error = clients.post(&by_url(&hook, path), &json!({}), PATIENCE).await.unwrap_err();
        assert_eq!(error.code, code, "{path}: {error}");
        assert!(error.to_string().contains(words), "{path}: {error}");
    }
    let nobody = ClientConfig::of(&json!({"url": "https://127.0.0.1:1/", "caBundle": hook.ca})).unwrap();
    let error = clients.post(&nobody, &json!({}), PATIENCE).await.unwrap_err();
    assert!(error.to_string().contains("dial tcp 127.0.0.1:1: connect: connection refused"), "{error}");
}

#[tokio::test]
async fn a_silent_webhook_takes_its_time_only() {
    let hook = Hook::start(|_| response::json(200, &json!({}))).await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", silent.local_addr().unwrap());
    let clients = Clients::new(Memory::with(vec![]), false, "test", Egress::default());
    let config = ClientConfig::of(&json!({"url": url, "caBundle": hook.ca})).unwrap();
    let error = clients.post(&config, &json!({}), Duration::from_millis(20)).await.unwrap_err();
    assert_eq!(error.to_string(), format!("Post \"{url}?timeout=1s\": context deadline exceeded"));
}

#[test]
fn client_configs_are_read() {
    assert_eq!(ClientConfig::of(&json!({})), None);
    let service =
        ClientConfig::of(&json!({"service": {"namespace": "n", "name": "s", "path": "p"}})).unwrap();
    assert_eq!(service.url(), "https://s.n.svc:443/p");
}

#[test]
fn every_host_is_shown_the_user_that_is_named_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kubeconfig");
    let user = |name: &str, fields: Value| json!({"name": name, "user": fields});
    let token = |name: &str, token: &str| user(name, json!({"token": token}));
    let write = |users: &[Value], context: &str| {
        let contexts = json!([{"name": "c", "context": {"user": context}}]);
        let config = json!({"users": users, "contexts": contexts, "current-context": "c"});
        std::fs::write(&path, config.to_string()).unwrap();
    };
    write(
        &[
            token("a.n.svc:8443", "exact"),
            token("*.n.svc:8443", "domain"),
            token("a.n.svc", "default port"),
            token("*.svc", "wide"),
            user("*", json!({"username": "u", "password": "p", "as": "i", "as-groups": ["g"]})),
        ],
        "",
    );
    let credentials = Credentials::load(&path).unwrap();
    let shown = |host: &str, port: u16| {
        let (headers, identity) = credentials.of(host, port).unwrap();
        assert!(identity.is_none());
        let headers =
            headers.fixed.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
        headers.collect::<Vec<_>>()
    };
    for (host, port, token) in [
        ("a.n.svc", 8443, "exact"),
        ("b.n.svc", 8443, "domain"),
        ("a.n.svc", 443, "default port"),
        ("b.m.svc", 443, "wide"),
    ] {
        assert_eq!(shown(host, port), [format!("authorization: Bearer {token}")], "{host}:{port}");
    }
    let all = ["authorization: Basic dTpw", "impersonate-user: i", "impersonate-group: g"];
    assert_eq!(shown("b.m.svc", 8443), all);
    write(&[token("current", "mine")], "current");
    let credentials = Credentials::load(&path).unwrap();
    assert_eq!(credentials.of("anywhere", 443).unwrap().0.fixed.len(), 1);
    write(&[user("x", json!({"exec": {"command": "c"}}))], "");
    assert!(Credentials::load(&path).is_err());
}
