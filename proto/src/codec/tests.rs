use std::{env, fs, path::PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// One of upstream's filled objects: its name, as protobuf and as JSON.
type Golden = (String, Vec<u8>, Vec<u8>);

/// One for each kind and version; none without the reference data, which `KEELSON_REFERENCE` names or which stands
/// beside the source tree.
fn goldens() -> Option<Vec<Golden>> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference");
    let folder = env::var_os("KEELSON_REFERENCE").map_or_else(beside, PathBuf::from).join("api-golden");
    if !folder.exists() {
        eprintln!("skipped: no reference data at {}", folder.display());
        return None;
    }
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "pb") {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            out.push((name, fs::read(&path).unwrap(), fs::read(path.with_extension("json")).unwrap()));
        }
    }
    out.sort();
    Some(out)
}

#[test]
fn upstreams_objects_are_the_same_bytes_both_ways() {
    let mut served = 0;
    let Some(goldens) = goldens() else { return };
    for (name, protobuf, json) in goldens {
        let envelope = Envelope::open(&protobuf).unwrap();
        if envelope.type_id().is_err() {
            continue;
        }
        served += 1;
        let want: Value = serde_json::from_slice(&json).unwrap();
        let got: Value = serde_json::from_slice(&to_json(&protobuf).unwrap()).unwrap();
        assert_eq!(got, want, "{name}: to JSON");
        let back = from_json(&json).unwrap();
        assert_eq!(to_json(&back).unwrap(), to_json(&protobuf).unwrap(), "{name}: there and back");
        assert!(back == protobuf, "{name}: bytes differ");
    }
    assert!(served > 90, "only {served} kinds");
}

fn round(object: Value) -> Value {
    let bytes = from_json(object.to_string().as_bytes()).unwrap();
    serde_json::from_slice(&to_json(&bytes).unwrap()).unwrap()
}

#[test]
fn values_that_go_does_not_point_to_are_always_there() {
    let got = round(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"},
        "spec": {"ports": [{"port": 80}, {"port": 81, "targetPort": "web"}]}}));
    let want = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"},
        "spec": {"ports": [{"port": 80, "targetPort": 0}, {"port": 81, "targetPort": "web"}]},
        "status": {"loadBalancer": {}}});
    assert_eq!(got, want);
    // An explicit zero behind a pointer stays.
    let got = round(
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 0, "paused": false}}),
    );
    assert_eq!((got.pointer("/spec/replicas"), got.pointer("/spec/paused")), (Some(&json!(0)), None));
}

#[test]
fn special_values_keep_their_forms() {
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {}, "data": {"b": "AAEC", "a": ""}});
    assert_eq!(round(secret.clone()), secret);
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {},
        "spec": {"user": "u", "extra": {"k": ["a", "b"], "empty": []}}, "status": {"allowed": false}});
    assert_eq!(round(review.clone()), review);
    let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "JSONSchema"});
    assert!(matches!(from_json(crd.to_string().as_bytes()), Err(EncodeError::UnknownKind { .. })));
    let schema = json!({"type": "object", "default": {"a": [1, null]}, "maximum": 1.5, "items": {"type": "string"},
        "additionalProperties": true, "x-kubernetes-preserve-unknown-fields": true,
        "properties": {"s": {"additionalProperties": {"type": "integer"}, "enum": [1, "a"]},
            "t": {"additionalProperties": false, "items": [{"type": "string"}, {"type": "integer"}]}}});
    let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]}});
    assert_eq!(round(crd).pointer("/spec/versions/0/schema/openAPIV3Schema"), Some(&schema));
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {},
        "spec": {"renewTime": "2024-01-02T03:04:05.000006Z", "acquireTime": "1969-12-31T23:59:59.500000Z"}});
    assert_eq!(round(lease.clone()), lease);
}

#[test]
fn embedded_objects_may_be_encoded_themselves() {
    let config = from_json(br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"}}"#).unwrap();
    let frame = watch_frame("ADDED", &config);
    assert_eq!(u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize, frame.len() - 4);
    let event = Envelope { api_version: "v1".into(), kind: "WatchEvent".into(), message: &frame[4..] };
    let got: Value = serde_json::from_slice(&event.to_json().unwrap()).unwrap();
    assert_eq!((&got["type"], &got["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("c")));
}

#[test]
fn lists_are_their_items() {
    let items = [
        br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}"#,
        br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b"}}"#,
    ];
    let list = list("v1", "ConfigMapList", br#"{"resourceVersion":"7"}"#, items.iter()).unwrap();
    let got: Value = serde_json::from_slice(&to_json(&list).unwrap()).unwrap();
    let want = json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "7"},
        "items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}]});
    assert_eq!(got, want);
    // The older list of metadata has its fields the other way round.
    for version in ["meta.k8s.io/v1", "meta.k8s.io/v1beta1"] {
        let kind = "PartialObjectMetadataList";
        let list = super::list(version, kind, br#"{"resourceVersion":"7"}"#, items.iter()).unwrap();
        let got: Value = serde_json::from_slice(&to_json(&list).unwrap()).unwrap();
        assert_eq!((&got["metadata"]["resourceVersion"], &got["apiVersion"]), (&json!("7"), &json!(version)));
        assert_eq!(got["items"][1]["metadata"]["name"], "b");
        let whole = from_json(&serde_json::to_vec(&got).unwrap()).unwrap();
        assert_eq!(whole, list, "as the object as a whole is encoded");
    }
    let partial = from_json_as(items[0], "meta.k8s.io/v1", "PartialObjectMetadata").unwrap();
    let got: Value = serde_json::from_slice(&to_json(&partial).unwrap()).unwrap();
    assert_eq!(got["metadata"], json!({"name": "a"}));
}

#[test]
fn what_cannot_be_is_refused() {
    let bad = |json: &str| from_json(json.as_bytes()).unwrap_err().to_string();
    assert_eq!(
        bad(r#"{"apiVersion":"apps/v1","kind":"Deployment","spec":{"replicas":"a"}}"#),
        "spec.replicas: not a 64-bit integer"
    );
    assert_eq!(to_json(b"{}"), Err(DecodeError::NoMagic));
    assert_eq!(to_json(b"k8s\0\x0a\x7f"), Err(DecodeError::Truncated));
    assert!(matches!(to_json(b"k8s\0\x12\x00"), Err(DecodeError::UnknownKind { .. })));
}

fn field(back: &[u8], tag: u16) -> Vec<u8> {
    let mut out = Back::with_capacity(back.len() + 8);
    out.bytes(tag, back);
    out.finish().to_vec()
}

#[test]
fn nesting_is_bounded() {
    let mut groups = vec![0x0b; 10_000];
    groups.extend(vec![0x0c; 10_000]);
    let envelope = Envelope { api_version: "v1".into(), kind: "Pod".into(), message: &groups };
    assert_eq!(envelope.to_json(), Err(DecodeError::TooDeep));

    // A schema that is not a schema that is not a schema ...
    let crd = |depth: usize| {
        let not = table::builtin().get(encode::schema_id()).field("not").unwrap().tag;
        let schema = (0..depth).fold(Vec::new(), |inner, _| field(&inner, not));
        let (schema_tag, versions, spec) = (4, 7, 2);
        field(&field(&field(&field(&schema, 1), schema_tag), versions), spec)
    };
    let decode = |message: &[u8]| {
        let (api_version, kind) = ("apiextensions.k8s.io/v1".into(), "CustomResourceDefinition".into());
        Envelope { api_version, kind, message }.to_json()
    };
    let shallow: Value = serde_json::from_slice(&decode(&crd(2)).unwrap()).unwrap();
    let inner = shallow.pointer("/spec/versions/0/schema/openAPIV3Schema/not/not");
    assert_eq!(inner, Some(&json!({})));
    assert_eq!(decode(&crd(2_000)), Err(DecodeError::TooDeep));
}

proptest! {
    /// Any bytes give JSON or an error.
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), at in 0usize..2000) {
        let kinds: Vec<_> = table::builtin().kinds().collect();
        let ((group, version, kind), _) = kinds[at % kinds.len()];
        let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        let envelope = Envelope { api_version: api_version.into(), kind: kind.into(), message: &bytes };
        if let Ok(json) = envelope.to_json() {
            prop_assert!(serde_json::from_slice::<Value>(&json).is_ok());
        }
        let mut whole = MAGIC.to_vec();
        whole.extend_from_slice(&bytes);
        drop(to_json(&whole));
        drop(from_json(&bytes));
    }

    /// Upstream's bytes with some of them changed give JSON or an error.
    #[test]
    fn broken_objects_never_panic(which in any::<prop::sample::Index>(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let pod = from_json(br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"a":"b"}},
            "spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":"1"}},"ports":[{"containerPort":1}]}],
            "volumes":[{"name":"v","emptyDir":{}}]}}"#).unwrap();
        let hpa = from_json(br#"{"apiVersion":"autoscaling/v2","kind":"HorizontalPodAutoscaler","spec":{"maxReplicas":3,
            "metrics":[{"type":"Pods","pods":{"metric":{"name":"m"},"target":{"averageValue":"1"}}}]}}"#).unwrap();
        let mut bytes = if which.index(2) == 0 { pod.to_vec() } else { hpa.to_vec() };
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(json) = to_json(&bytes) {
            prop_assert!(serde_json::from_slice::<Value>(&json).is_ok());
        }
    }
}
