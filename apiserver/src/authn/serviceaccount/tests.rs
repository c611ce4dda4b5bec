//! Issued tokens come back as their user; everything else is refused.

use jiff::SignedDuration;
use serde_json::json;

use super::*;
use crate::{
    authn::{Options, issue::Issuer, jwt::SigningKey},
    object::Object,
    objects::memory::Memory,
};

const URL: &str = "https://issuer.test";

struct Fixture {
    issuer: Issuer,
    tokens: ServiceAccountTokens,
    objects: Arc<Memory>,
    key: SigningKey,
    now: Timestamp,
}

fn fixture() -> Fixture {
    let meta = |name: &str| json!({"name": name, "namespace": "ns", "uid": format!("{name}-uid")});
    let objects = Memory::with(vec![
        (SERVICE_ACCOUNTS, json!({"metadata": meta("app")})),
        (PODS, json!({"metadata": meta("pod"), "spec": {"serviceAccountName": "app", "nodeName": "n1"}})),
        (PODS, json!({"metadata": meta("other"), "spec": {"serviceAccountName": "default"}})),
        (SECRETS, json!({"metadata": meta("secret")})),
        (NODES, json!({"metadata": {"name": "n1", "uid": "n1-uid"}})),
    ]);
    let pem = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
    let key = || SigningKey::from_pem(pem.as_bytes()).unwrap();
    let keys = vec![key().public().clone()];
    let options = Options {
        service_account_issuers: vec![URL.to_owned()],
        api_audiences: vec!["api".to_owned()],
        extend_token_expiration: true,
        ..Options::default()
    };
    let issuer = Issuer::new(key(), keys.clone(), URL.to_owned(), &options, objects.clone());
    let tokens =
        ServiceAccountTokens::new(vec![URL.to_owned()], vec!["api".to_owned()], keys, true, objects.clone());
    let now = "2026-06-01T00:00:00Z".parse().unwrap();
    Fixture { issuer, tokens, objects, key: key(), now }
}

impl Fixture {
    async fn issue(&self, spec: Value) -> Result<Object, Status> {
        let request = Object::from_value(json!({"spec": spec})).unwrap();
        self.issuer.request("ns", "app", request, self.now, &mut Vec::new()).await
    }

    async fn token(&self, spec: Value) -> String {
        let answer = self.issue(spec).await.unwrap();
        answer.pointer("/status/token").unwrap().as_str().unwrap().to_owned()
    }

    async fn check(&self, token: &str, after: i64) -> Result<Option<Verified>, String> {
        self.tokens.verify(token, &[], self.now + SignedDuration::from_secs(after)).await
    }

    async fn forget(&self, kind: Kind, namespace: &str, name: &str) {
        let object = self.objects.get(kind, namespace, name).await.unwrap().unwrap();
        self.objects.delete(kind, &object).await.unwrap();
    }
}

use crate::status::Status;

#[tokio::test]
async fn an_issued_token_is_its_service_account() {
    let f = fixture();
    let token = f.token(json!({})).await;
    let verified = f.check(&token, 0).await.unwrap().unwrap();
    assert_eq!(verified.user.name, "system:serviceaccount:ns:app");
    assert_eq!(verified.user.uid, "app-uid");
    assert_eq!(verified.user.groups, ["system:serviceaccounts", "system:serviceaccounts:ns"]);
    assert_eq!(verified.audiences, ["api"]);
    assert!(verified.user.extra["authentication.kubernetes.io/credential-id"][0].starts_with("JTI="));
    assert!(f.check(&token, 3600 + 59).await.is_ok(), "within leeway");
    assert_eq!(f.check(&token, 3600 + 61).await, Err("service account token has expired".to_owned()));
    assert!(f.check(&token, -61).await.is_err(), "not valid yet");
}

#[tokio::test]
async fn a_bound_token_dies_with_what_it_is_bound_to() {
    for (kind, namespace, name, reference) in [
        (PODS, "ns", "pod", json!({"apiVersion": "v1", "kind": "Pod", "name": "pod", "uid": "pod-uid"})),
        (SECRETS, "ns", "secret", json!({"apiVersion": "v1", "kind": "Secret", "name": "secret"})),
        (NODES, "", "n1", json!({"apiVersion": "v1", "kind": "Node", "name": "n1"})),
        (SERVICE_ACCOUNTS, "ns", "app", Value::Null),
    ] {
        let f = fixture();
        let token = f.token(json!({"boundObjectRef": reference})).await;
        let verified = f.check(&token, 0).await.unwrap().unwrap();
        if kind == PODS {
            let extra =
                |key: &str| verified.user.extra[&format!("authentication.kubernetes.io/{key}")][0].clone();
            assert_eq!([extra("pod-name"), extra("node-name"), extra("node-uid")], ["pod", "n1", "n1-uid"]);
        }
        f.forget(kind, namespace, name).await;
        assert!(f.check(&token, 0).await.is_err(), "{}", kind.resource);
    }
}

#[tokio::test]
async fn kubelet_tokens_are_extended_and_warn() {
    let f = fixture();
    let spec = json!({"expirationSeconds": 3607,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "pod"}});
    let text = f.token(spec).await;
    let claims = Token::parse(&text).unwrap().claims;
    let (iat, exp) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
    assert_eq!(exp - iat, 365 * 24 * 3600);
    assert_eq!(claims["kubernetes.io"]["warnafter"], iat + 3607);
}

#[tokio::test]
async fn other_audiences_are_good_only_for_those_who_ask() {
    let f = fixture();
    let token = f.token(json!({"audiences": ["vault"]})).await;
    assert!(f.check(&token, 0).await.is_err());
    let verified = f.tokens.verify(&token, &["vault".to_owned()], f.now).await.unwrap().unwrap();
    assert_eq!(verified.audiences, ["vault"]);
}

#[tokio::test]
async fn bad_requests_are_refused() {
    let f = fixture();
    let bound = |kind: &str, name: &str, uid: &str| json!({"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}});
    for (spec, code) in [
        (json!({"expirationSeconds": 599}), 422),
        (json!({"expirationSeconds": 1_i64 << 33}), 422),
        (bound("Pod", "other", ""), 400),
        (bound("Pod", "missing", ""), 404),
        (bound("Pod", "pod", "old-uid"), 409),
        (bound("ConfigMap", "x", ""), 400),
    ] {
        assert_eq!(f.issue(spec.clone()).await.unwrap_err().code, code, "{spec}");
    }
    let request = Object::from_value(json!({"metadata": {"name": "else"}})).unwrap();
    let refused = f.issuer.request("ns", "app", request, f.now, &mut Vec::new()).await;
    assert_eq!(refused.unwrap_err().code, 422);
    let missing = f.issuer.request("ns", "nobody", Object::new(), f.now, &mut Vec::new()).await;
    assert_eq!(missing.unwrap_err().code, 404);
}

#[tokio::test]
async fn claims_that_do_not_fit_are_refused() {
    let f = fixture();
    let at = f.now.as_second();
    let good = json!({"iss": URL, "sub": "system:serviceaccount:ns:app", "aud": ["api"], "exp": at + 60,
        "kubernetes.io": {"namespace": "ns", "serviceaccount": {"name": "app", "uid": "app-uid"}}});
    assert!(f.check(&f.key.sign(&good).unwrap(), 0).await.unwrap().is_some());
    let changed = |pointer: &str, value: Value| {
        let mut claims = good.clone();
        *claims.pointer_mut(pointer).unwrap() = value;
        f.key.sign(&claims).unwrap()
    };
    for token in [
        changed("/sub", json!("system:serviceaccount:ns:admin")),
        changed("/aud", json!("else")),
        changed("/exp", Value::Null),
        changed("/kubernetes.io/serviceaccount/uid", json!("old")),
        changed("/kubernetes.io", json!(7)),
    ] {
        assert!(f.check(&token, 0).await.is_err());
    }
    assert_eq!(f.check(&changed("/iss", json!("else")), 0).await, Ok(None), "another's token");
    assert_eq!(f.check("not-a-token", 0).await, Ok(None));
}
