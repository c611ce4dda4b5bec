//! Identities and permissions that others know: webhooks of tokens and of authorization, OpenID providers, files that say who
//! may be anonymous.

use std::{fs, path::Path};

use anyhow::{Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tests::{
    ControlPlane,
    control_plane::Options,
    pki::{Authority, TokenKey, seconds_from_now},
    receiver::{Call, Receiver, Reply},
    runner::Test,
};

use crate::config_maps;

pub(crate) const TESTS: &[Test<()>] = &[
    ("webhooks know tokens and permissions", webhooks),
    ("tokens of an OpenID provider are users", provider),
    ("a file says which paths are for everybody", anonymous),
    ("a file has a policy in each line", policies),
];

fn answer(call: &Call) -> Reply {
    let spec = &call.body["spec"];
    let reply = |status: Value| {
        Reply::Json(
            json!({"apiVersion": call.body["apiVersion"], "kind": call.body["kind"], "status": status}),
        )
    };
    match call.path.as_str() {
        "/tokens" if spec["token"] == "known" => {
            reply(json!({"authenticated": true, "user": {"username": "jane", "groups": ["dev"]}}))
        }
        "/tokens" => reply(json!({"authenticated": false})),
        "/access" => {
            let wanted = &spec["resourceAttributes"];
            if wanted["resource"] == "pods" {
                return Reply::Code(403, json!({}));
            }
            let allowed =
                spec["user"] == "jane" && wanted["resource"] == "configmaps" && wanted["verb"] == "list";
            reply(json!({"allowed": allowed, "reason": "asked outside"}))
        }
        _ => Reply::Code(404, json!({})),
    }
}

fn kubeconfig(path: &Path, receiver: &Receiver, authority: &Authority, at: &str) -> Result<()> {
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": receiver.url(at),
            "certificate-authority-data": BASE64_STANDARD.encode(&authority.cert)}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]});
    Ok(fs::write(path, config.to_string())?)
}

fn start(flags: Vec<String>) -> Result<ControlPlane> {
    ControlPlane::start(Options { flags, ..Options::default() })
}

fn webhooks(_: &(), _: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (tokens, access) = (dir.path().join("tokens"), dir.path().join("access"));
    let authority = Authority::new("outside")?;
    let receiver = Receiver::start(&authority, answer)?;
    kubeconfig(&tokens, &receiver, &authority, "/tokens")?;
    kubeconfig(&access, &receiver, &authority, "/access")?;
    let plane = start(vec![
        format!("--authentication-token-webhook-config-file={}", tokens.display()),
        "--authentication-token-webhook-version=v1".to_owned(),
        format!("--authorization-webhook-config-file={}", access.display()),
        "--authorization-webhook-version=v1".to_owned(),
        "--authorization-mode=Webhook".to_owned(),
    ])?;
    let nobody = plane.client(None)?;
    let jane = nobody.with_token("known")?;
    nobody.with_token("unknown")?.get(&config_maps("default", ""))?.refused(401, "Unauthorized")?;
    for _ in 0..3 {
        jane.get(&config_maps("default", ""))?.ok()?;
    }
    let asked = receiver.calls("/tokens").iter().filter(|call| call.body["spec"]["token"] == "known").count();
    ensure!(asked == 1, "a token was asked for {asked} times");
    let asked = receiver.calls("/access").iter().filter(|call| call.body["spec"]["user"] == "jane").count();
    ensure!(asked == 1, "a permission was asked for {asked} times");
    jane.get("/api/v1/namespaces/default/secrets")?.refused_with(403, "Forbidden", "asked outside")?;
    // What cannot be found out is neither allowed nor forbidden; as the request has not come to objects, no Status says so.
    let answer = jane.get("/api/v1/namespaces/default/pods?limit=1")?;
    let (code, text, kind) = (answer.code, answer.text(), answer.header("content-type"));
    let begins = "Internal Server Error: \"/api/v1/namespaces/default/pods?limit=1\": ";
    ensure!(code == 500 && text.starts_with(begins), "{code} {text}");
    ensure!(kind == "text/plain; charset=utf-8", "{kind}");
    let review = json!({"spec": {"user": "joe", "resourceAttributes": {"verb": "list", "resource": "pods"}}});
    let told = plane.admin()?.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review)?.ok()?;
    let told = &told["status"];
    ensure!(told["allowed"] == false && told["evaluationError"].is_string(), "{told}");
    // What masters may is not asked for.
    plane.admin()?.get("/api/v1/namespaces/default/secrets")?.ok()?;
    ensure!(
        !receiver.calls("/access").iter().any(|call| call.body["spec"]["user"] == "admin"),
        "masters were asked for"
    );
    Ok(())
}

/// The provider's key; what it serves has no other way to know it.
static KEY: std::sync::OnceLock<TokenKey> = std::sync::OnceLock::new();

fn openid(call: &Call) -> Reply {
    let host = call.headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
    match (call.path.as_str(), KEY.get()) {
        ("/.well-known/openid-configuration", _) => Reply::Json(
            json!({"issuer": format!("https://{host}"), "jwks_uri": format!("https://{host}/keys")}),
        ),
        ("/keys", Some(key)) => Reply::Json(json!({"keys": [key.jwk("k")]})),
        _ => Reply::Code(404, json!({})),
    }
}

fn provider(_: &(), _: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("provider")?;
    let receiver = Receiver::start(&authority, openid)?;
    let fresh = TokenKey::new()?;
    let key = KEY.get_or_init(|| fresh);
    let ca = dir.path().join("ca.crt");
    fs::write(&ca, &authority.cert)?;
    let issuer = receiver.url("");
    let plane = start(vec![
        format!("--oidc-issuer-url={issuer}"),
        "--oidc-client-id=cluster".to_owned(),
        format!("--oidc-ca-file={}", ca.display()),
        "--oidc-username-prefix=oidc:".to_owned(),
        "--oidc-groups-claim=groups".to_owned(),
        "--oidc-groups-prefix=oidc:".to_owned(),
        "--oidc-signing-algs=ES256".to_owned(),
    ])?;
    let nobody = plane.client(None)?;
    let claims = |audience: &str, expires: i64| {
        json!({"iss": issuer, "aud": audience, "sub": "joe", "groups": ["dev"], "exp": seconds_from_now(expires),
            "iat": seconds_from_now(-10)})
    };
    let review = |token: &str| {
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        nobody.with_token(token)?.post(path, &json!({}))
    };
    let good = review(&key.sign(Some("k".to_owned()), &claims("cluster", 600))?)?.ok()?;
    let user = &good["status"]["userInfo"];
    ensure!(
        user["username"] == "oidc:joe" && user["groups"] == json!(["oidc:dev", "system:authenticated"]),
        "{user}"
    );
    let stranger = TokenKey::new()?;
    for (which, token) in [
        ("for others", key.sign(Some("k".to_owned()), &claims("other", 600))?),
        ("expired", key.sign(Some("k".to_owned()), &claims("cluster", -60))?),
        ("forged", stranger.sign(Some("k".to_owned()), &claims("cluster", 600))?),
    ] {
        review(&token)?.refused(401, "Unauthorized").map_err(|error| error.context(which))?;
    }
    let metrics = plane.admin()?.get("/metrics")?.text();
    let shown = |name: &str, label: &str| {
        let name = format!("apiserver_authentication_jwt_authenticator_{name}{{");
        metrics.lines().any(|line| line.starts_with(&name) && line.contains(label) && !line.ends_with(" 0"))
    };
    for (name, label) in [
        ("latency_seconds_count", "result=\"success\""),
        ("latency_seconds_count", "result=\"failure\""),
        ("jwks_fetch_last_timestamp_seconds", "result=\"success\""),
        ("jwks_fetch_last_key_set_info", "hash=\"sha256:"),
    ] {
        ensure!(shown(name, label), "{name} with {label} is not shown");
    }
    Ok(())
}

fn anonymous(_: &(), _: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("authentication.yaml");
    let config = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
        "anonymous": {"enabled": true, "conditions": [{"path": "/livez"}]}});
    fs::write(&path, config.to_string())?;
    let plane = start(vec![format!("--authentication-config={}", path.display())])?;
    let nobody = plane.client(None)?;
    ensure!(nobody.get("/livez")?.code == 200, "/livez is closed");
    nobody.get("/healthz")?.refused(401, "Unauthorized")?;
    nobody.get("/api/v1/nodes")?.refused(401, "Unauthorized")?;
    Ok(())
}

fn policies(_: &(), _: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("policies.jsonl");
    let policy = |spec: Value| {
        json!({"apiVersion": "abac.authorization.kubernetes.io/v1beta1", "kind": "Policy", "spec": spec})
            .to_string()
    };
    let lines = [
        "# who may do what".to_owned(),
        policy(json!({"user": "reader", "namespace": "default", "resource": "configmaps", "readonly": true})),
        policy(json!({"group": "writers", "namespace": "*", "resource": "*", "apiGroup": "*"})),
        policy(json!({"user": "*", "readonly": true, "nonResourcePath": "/healthz*"})),
        json!({"user": "old", "namespace": "default"}).to_string(),
    ];
    fs::write(&file, lines.join("\n"))?;
    let given = format!("--authorization-policy-file={}", file.display());
    let plane = start(vec!["--authorization-mode=ABAC,RBAC".to_owned(), given.clone()])?;
    let (maps, map) = (config_maps("default", ""), json!({"metadata": {"name": "m"}}));
    let reader = plane.user("reader", "")?;
    reader.get(&maps)?.ok()?;
    reader.post(&maps, &map)?.refused_with(403, "Forbidden", "No policy matched.")?;
    reader.get(&config_maps("kube-system", ""))?.refused(403, "Forbidden")?;
    reader.get("/healthz/ping")?;
    ensure!(reader.get("/metrics")?.code == 403, "a path that no policy names");
    plane.user("w", "writers")?.post(&maps, &map)?.ok()?;
    let old = plane.user("old", "")?;
    old.delete(&config_maps("default", "m"))?.ok()?;
    old.get(&config_maps("kube-system", ""))?.refused(403, "Forbidden")?;
    // Policies are told of, too.
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": "default"}});
    let told = plane
        .user("old", "writers")?
        .post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &review)?
        .ok()?;
    let rules = told["status"]["resourceRules"].as_array().map_or(&[][..], Vec::as_slice);
    let of_old = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
    ensure!(rules.contains(&of_old), "{told}");
    let metrics = plane.admin()?.get("/metrics")?.text();
    let counted = "apiserver_authorization_decisions_total{decision=\"allowed\",name=\"abac\",type=\"ABAC\"}";
    ensure!(metrics.contains(counted), "decisions of policies are not counted");
    // Nothing starts with a line that is none.
    plane.terminate_api()?;
    fs::write(&file, "{}\n{\"user\": 7}\n")?;
    plane.launch_api()?;
    plane.eventually("the server ends", 20, || Ok((!plane.is_running()?).then_some(())))?;
    let log = plane.api_log()?;
    ensure!(log.contains("policies.jsonl, line 2: ") && log.contains("invalid type: integer `7`"), "{log}");
    Ok(())
}
