use k8s_openapi::ByteString;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use serde_json::{Value, json};

use super::*;

fn request(
    cn: &str,
    org: &str,
    sans: Vec<SanType>,
    signer: &str,
    usages: &[&str],
    status: Value,
) -> CertificateSigningRequest {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, org);
    params.distinguished_name.push(DnType::CommonName, cn);
    params.subject_alt_names = sans;
    let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    serde_json::from_value(json!({
        "metadata": {"name": "r", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"request": ByteString(pem.into_bytes()), "signerName": signer, "usages": usages, "username": "system:node:a"},
        "status": status,
    }))
    .unwrap()
}

const CLIENT: &[&str] = &["digital signature", "client auth"];
const SERVING: &[&str] = &["digital signature", "key encipherment", "server auth"];

fn approved() -> Value {
    json!({"conditions": [{"type": "Approved", "status": "True", "lastUpdateTime": "2026-01-01T00:00:00Z"}]})
}

fn dns(name: &str) -> Vec<SanType> {
    vec![SanType::DnsName(name.try_into().unwrap())]
}

#[test]
fn signers_check_what_is_asked_for() {
    let serving = "kubernetes.io/kubelet-serving";
    let api = "kubernetes.io/kube-apiserver-client";
    let node = "system:node:a";
    let cases = [
        (request(node, "system:nodes", vec![], KUBELET_CLIENT, CLIENT, approved()), Ok(())),
        (
            request("a", "system:nodes", vec![], KUBELET_CLIENT, CLIENT, approved()),
            Err("subject common name does not begin with system:node:"),
        ),
        (
            request(node, "others", vec![], KUBELET_CLIENT, CLIENT, approved()),
            Err("subject organization is not system:nodes"),
        ),
        (
            request(node, "system:nodes", dns("a"), KUBELET_CLIENT, CLIENT, approved()),
            Err("DNS subjectAltNames are not allowed"),
        ),
        (
            request(node, "system:nodes", vec![], KUBELET_CLIENT, SERVING, approved()),
            Err("usages did not match [client auth digital signature key encipherment]"),
        ),
        (request(node, "system:nodes", dns("a"), serving, SERVING, approved()), Ok(())),
        (
            request(node, "system:nodes", vec![], serving, SERVING, approved()),
            Err("DNS or IP subjectAltName is required"),
        ),
        (request("anyone", "any", dns("a"), api, CLIENT, approved()), Ok(())),
        (
            request("anyone", "any", vec![], api, &["client auth", "server auth"], approved()),
            Err("invalid usage for client certificate: server auth"),
        ),
        (
            request("anyone", "any", vec![], api, &["digital signature"], approved()),
            Err("missing required usage for client certificate: client auth"),
        ),
        (request("anyone", "any", vec![], "kubernetes.io/legacy-unknown", SERVING, approved()), Ok(())),
    ];
    for (request, expected) in cases {
        assert_eq!(
            check(&request).unwrap(),
            expected.map_err(str::to_owned),
            "{:?}",
            request.spec.signer_name
        );
    }
}

#[test]
fn only_approved_requests_of_our_signers_are_signed() {
    let of = |signer: &str, status: Value| super::signer(&request("a", "b", vec![], signer, CLIENT, status));
    assert_eq!(of(KUBELET_CLIENT, approved()), Some("kubelet-client"));
    assert_eq!(of(KUBELET_CLIENT, json!({})), None);
    assert_eq!(of("example.com/own", approved()), None);
    let both =
        json!({"conditions": [{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "True"}]});
    assert_eq!(of(KUBELET_CLIENT, both), None);
    let mut signed = approved();
    signed["certificate"] = json!(ByteString(b"x".to_vec()));
    assert_eq!(of(KUBELET_CLIENT, signed), None);
}

#[test]
fn kubelets_may_be_approved_for_themselves() {
    let names =
        |r: &CertificateSigningRequest| self_service(r).unwrap().iter().map(|(n, _)| *n).collect::<Vec<_>>();
    let own = request("system:node:a", "system:nodes", vec![], KUBELET_CLIENT, CLIENT, json!({}));
    assert_eq!(names(&own), ["selfnodeclient", "nodeclient"]);
    let other = request("system:node:b", "system:nodes", vec![], KUBELET_CLIENT, CLIENT, json!({}));
    assert_eq!(names(&other), ["nodeclient"]);
    let user = request("me", "us", vec![], "kubernetes.io/kube-apiserver-client", CLIENT, json!({}));
    assert!(names(&user).is_empty());
    let done = request("system:node:a", "system:nodes", vec![], KUBELET_CLIENT, CLIENT, approved());
    assert!(names(&done).is_empty());
    let mut broken = own;
    broken.spec.request = ByteString(b"nothing".to_vec());
    assert!(self_service(&broken).is_err());
}

#[test]
fn old_requests_go() {
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let of = |status: Value| request("a", "b", vec![], KUBELET_CLIENT, CLIENT, status);
    let decided = |kind: &str| json!({"conditions": [{"type": kind, "status": "True", "lastUpdateTime": "2026-01-01T00:00:00Z"}]});
    let (hour, day) = ("2026-01-01T01:00:01Z", "2026-01-02T00:00:01Z");
    assert!(!is_old(&of(json!({})), at(hour)) && is_old(&of(json!({})), at(day)));
    assert!(!is_old(&of(approved()), at(hour)) && is_old(&of(approved()), at(day)));
    for kind in ["Denied", "Failed"] {
        assert!(
            !is_old(&of(decided(kind)), at("2026-01-01T00:59:59Z")) && is_old(&of(decided(kind)), at(hour))
        );
    }
    let mut issued = approved();
    issued["certificate"] = json!(ByteString(b"x".to_vec()));
    assert!(!is_old(&of(issued.clone()), at("2026-01-01T00:59:59Z")) && is_old(&of(issued), at(hour)));
}
