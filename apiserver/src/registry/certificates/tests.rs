//! Kinds of certificates.k8s.io through their strategies.

use base64::{Engine, prelude::BASE64_STANDARD};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, SanType};
use serde_json::{Value, json};

use crate::registry::testing::{Kind, changed};

const GROUP: &str = "certificates.k8s.io";

fn request() -> Value {
    let key = KeyPair::generate().unwrap();
    let pem = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    json!({"metadata": {"name": "r"}, "spec": {"request": BASE64_STANDARD.encode(pem), "signerName": "a.io/b",
        "usages": ["client auth"]}})
}

fn anchor(ca: bool) -> String {
    let mut params = CertificateParams::default();
    if ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

#[test]
fn requests_are_signed_and_say_what_for() {
    let kind = Kind::new(GROUP, "certificatesigningrequests");
    let good = request();
    assert_eq!(kind.errors(good.clone()), Vec::<String>::new());
    let cases = [
        ("/spec/usages", json!([]), "spec.usages: Required value"),
        (
            "/spec/usages",
            json!(["client auth", "client auth"]),
            "spec.usages[1]: Duplicate value: \"client auth\"",
        ),
        (
            "/spec/request",
            json!("eA=="),
            "spec.request: Invalid value: \"eA==\": PEM block type must be CERTIFICATE REQUEST",
        ),
        (
            "/spec/signerName",
            json!("kubernetes.io/legacy-unknown"),
            "spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via \
             this API version",
        ),
        (
            "/spec/expirationSeconds",
            json!(599),
            "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)",
        ),
    ];
    for (pointer, value, want) in cases {
        assert_eq!(kind.errors(changed(&good, &[(pointer, value)])), [want]);
    }
}

#[test]
fn decisions_are_made_once_and_do_not_contradict() {
    let kind = Kind::new(GROUP, "certificatesigningrequests");
    let old = kind.create(request()).0;
    let decided = |kinds: &[&str]| {
        let all: Vec<Value> = kinds.iter().map(|kind| json!({"type": kind, "status": "True"})).collect();
        changed(&old, &[("/status", json!({"conditions": all}))])
    };
    let (approved, errors) = kind.update(decided(&["Approved"]), old.clone(), "approval");
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(
        kind.update(decided(&["Approved", "Denied"]), old.clone(), "approval").1,
        [
            "status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive"
        ]
    );
    assert_eq!(
        kind.update(decided(&[]), approved.clone(), "approval").1,
        ["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""]
    );
    let issued = changed(&approved, &[("/status/certificate", json!(BASE64_STANDARD.encode(anchor(false))))]);
    let (issued, errors) = kind.update(issued, approved, "status");
    assert_eq!(errors, Vec::<String>::new());
    let again = changed(&issued, &[("/status/certificate", json!(BASE64_STANDARD.encode(anchor(false))))]);
    assert_eq!(
        kind.update(again, issued, "status").1,
        ["status.certificate: Forbidden: updates may not modify existing certificate content"]
    );
}

#[test]
fn bundles_are_called_after_their_signer_and_hold_authorities() {
    let kind = Kind::new(GROUP, "clustertrustbundles");
    let bundle = |name: &str, signer: &str, anchors: &str| {
        kind.errors(
            json!({"metadata": {"name": name}, "spec": {"signerName": signer, "trustBundle": anchors}}),
        )
    };
    let good = anchor(true);
    assert_eq!(bundle("a.io:b:c", "a.io/b", &good), Vec::<String>::new());
    assert_eq!(
        bundle("c", "a.io/b", &good),
        [
            "metadata.name: Invalid value: \"c\": ClusterTrustBundle for signerName a.io/b must be named with prefix \
          a.io:b:"
        ]
    );
    assert_eq!(
        bundle("c", "", &anchor(false)),
        ["spec.trustBundle: Invalid value: \"<value omitted>\": entry 0 does not have the CA bit set"]
    );
    assert_eq!(
        bundle("c", "", &format!("{good}{good}")),
        ["spec.trustBundle: Invalid value: \"<value omitted>\": duplicate trust anchor (indices [0 1])"]
    );
    assert_eq!(
        bundle("c", "", ""),
        ["spec.trustBundle: Invalid value: \"<value omitted>\": at least one trust anchor must be provided"]
    );
}

#[test]
fn requests_of_pods_name_who_asks_and_end_once() {
    let kind = Kind::new(GROUP, "podcertificaterequests");
    let key = KeyPair::generate().unwrap();
    let stub = CertificateParams::default().serialize_request(&key).unwrap();
    let good = json!({"metadata": {"name": "r", "namespace": "d"}, "spec": {"signerName": "a.io/b", "podName": "p",
        "podUID": "u", "serviceAccountName": "s", "serviceAccountUID": "v", "nodeName": "n", "nodeUID": "w",
        "maxExpirationSeconds": 86400, "stubPKCS10Request": BASE64_STANDARD.encode(stub.der())}});
    let (old, errors) = kind.create(good.clone());
    assert_eq!(errors, Vec::<String>::new());
    let cases = [
        ("/spec/podUID", json!(""), "spec.podUID: Invalid value: \"\": must not be empty"),
        (
            "/spec/maxExpirationSeconds",
            json!(60),
            "spec.maxExpirationSeconds: Invalid value: 60: must be in the range [3600, 7862400]",
        ),
        (
            "/spec/stubPKCS10Request",
            json!("eA=="),
            "spec.stubPKCS10Request: Invalid value: must be a valid PKCS#10 CSR",
        ),
    ];
    for (pointer, value, want) in cases {
        assert_eq!(kind.errors(changed(&good, &[(pointer, value)])), [want]);
    }
    let denied = json!([{"type": "Denied", "status": "True", "reason": "No", "message": "",
        "lastTransitionTime": "2020-01-01T00:00:00Z"}]);
    let (denied, errors) =
        kind.update(changed(&old, &[("/status", json!({"conditions": denied}))]), old, "status");
    assert_eq!(errors, Vec::<String>::new());
    let undone = changed(&denied, &[("/status", json!({}))]);
    assert_eq!(
        kind.update(undone, denied, "status").1,
        ["status: Invalid value: immutable after PodCertificateRequest is issued, denied, or failed"]
    );
}

/// A certificate of a key for these hours since the epoch, which is the time in tests.
fn leaf(key: &KeyPair, hours: (i64, i64), name: &str) -> String {
    let mut params = CertificateParams::default();
    params.not_before =
        rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(hours.0 as u64 * 3600);
    params.not_after =
        rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(hours.1 as u64 * 3600);
    params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
    params.self_signed(key).unwrap().pem()
}

#[test]
fn what_is_issued_to_a_pod_begins_now_and_is_for_names() {
    let kind = Kind::new(GROUP, "podcertificaterequests");
    let key = KeyPair::generate().unwrap();
    let stub = CertificateParams::default().serialize_request(&key).unwrap();
    let request = json!({"metadata": {"name": "r", "namespace": "d"}, "spec": {"signerName": "a.io/b", "podName": "p",
        "podUID": "u", "serviceAccountName": "s", "serviceAccountUID": "v", "nodeName": "n", "nodeUID": "w",
        "maxExpirationSeconds": 86400, "stubPKCS10Request": BASE64_STANDARD.encode(stub.der())}});
    let (old, errors) = kind.create(request);
    assert_eq!(errors, Vec::<String>::new());
    let issued = |hours: (i64, i64), name: &str| {
        let condition = json!({"type": "Issued", "status": "True", "reason": "Yes", "message": "",
            "lastTransitionTime": "1970-01-01T00:00:00Z"});
        let status = json!({"conditions": [condition], "certificateChain": leaf(&key, hours, name),
            "notBefore": format!("1970-01-01T{:02}:00:00Z", hours.0),
            "notAfter": format!("1970-01-01T{:02}:00:00Z", hours.1),
            "beginRefreshAt": format!("1970-01-01T{:02}:30:00Z", hours.0)});
        kind.update(changed(&old, &[("/status", status)]), old.clone(), "status").1
    };
    assert_eq!(issued((0, 12), "a.test"), Vec::<String>::new());
    assert_eq!(
        issued((1, 12), "a.test"),
        ["status.notBefore: Invalid value: \"1970-01-01T01:00:00Z\": must be set to within 5 minutes of \
             kube-apiserver's current time"]
    );
    for (name, why) in [
        ("a..test", "leaf certificate's DNSName should not contain '..'"),
        (".a.test", "leaf certificate's DNSName should not start or end with '.'"),
        ("a.test.", "leaf certificate's DNSName should not start or end with '.'"),
        ("", "leaf certificate should not contain empty DNSName"),
    ] {
        assert_eq!(
            issued((0, 12), name),
            [format!("status.certificateChain: Invalid value: {name:?}: {why}")]
        );
    }
}

#[test]
fn blocks_of_certificates_have_no_headers() {
    let headed = anchor(true).replacen("-----\n", "-----\nKey: value\n\n", 1);
    let bundle = json!({"metadata": {"name": "b"}, "spec": {"trustBundle": headed}});
    assert_eq!(
        Kind::new(GROUP, "clustertrustbundles").errors(bundle),
        ["spec.trustBundle: Invalid value: \"<value omitted>\": entry 0 has PEM block headers"]
    );
    let kind = Kind::new(GROUP, "certificatesigningrequests");
    let old = kind.create(request()).0;
    let signed = changed(&old, &[("/status", json!({"certificate": BASE64_STANDARD.encode(headed)}))]);
    assert_eq!(
        kind.update(signed, old, "status").1,
        ["status.certificate: Invalid value: \"<certificate data>\": no PEM block headers are permitted"]
    );
}
