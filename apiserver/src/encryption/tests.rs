use std::error::Error;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::*;
use crate::registry::{catalog, stored_forms::StoredForms};

fn keys(names: &[&str], length: usize) -> Value {
    let one = |name: &&str| {
        let fill = name.as_bytes().last().copied().unwrap_or_default();
        json!({"name": name, "secret": BASE64_STANDARD.encode(vec![fill; length])})
    };
    json!({"keys": names.iter().map(one).collect::<Vec<_>>()})
}

fn text(resources: &Value) -> String {
    json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration", "resources": resources})
        .to_string()
}

fn encryption(providers: &Value) -> Encryption {
    let catalog = catalog::builtin();
    let inner = Arc::new(StoredForms::new(catalog.clone(), false));
    let rules = json!([{"resources": ["secrets", "*.apps"], "providers": providers}]);
    Encryption::new(&text(&rules), "/registry", &catalog, inner, ("server", &Tasks::new())).unwrap()
}

const JSON: &[u8] = b"{\"kind\":\"Secret\"}";

fn secrets() -> ResourceId {
    ResourceId::new("", "secrets")
}

#[test]
fn every_provider_reads_what_it_wrote() {
    for (word, length) in [
        ("aescbc", 32),
        ("aescbc", 24),
        ("aescbc", 16),
        ("aesgcm", 32),
        ("aesgcm", 24),
        ("aesgcm", 16),
        ("secretbox", 32),
    ] {
        let encryption = encryption(&json!([{word: keys(&["k1"], length)}, {"identity": {}}]));
        let sealed = encryption.encode(&secrets(), "a/s", JSON.to_vec()).unwrap();
        assert!(sealed.starts_with(format!("k8s:enc:{word}:v1:k1:").as_bytes()), "{word}");
        assert!(!sealed.windows(6).any(|part| part == b"Secret"), "{word}");
        assert!(!encryption.is_stale(&secrets(), &sealed), "{word}");
        let opened = encryption.decode(&secrets(), "a/s", sealed.clone().into()).unwrap();
        assert_eq!(&*opened, JSON, "{word}");
        let cut = sealed[..sealed.len() - 1].to_vec();
        assert!(encryption.decode(&secrets(), "a/s", cut.into()).is_err(), "{word}");
        let mut changed = sealed.clone();
        if let Some(last) = changed.last_mut() {
            *last ^= 1;
        }
        // Nothing authenticates AES-CBC: its last block, garbled, ends like padding once in 256 times.
        let decoded = encryption.decode(&secrets(), "a/s", changed.into());
        assert!(decoded.is_err() || word == "aescbc" && *decoded.unwrap_or_default() != *JSON, "{word}");
        // AES-GCM binds a value to its place.
        let elsewhere = encryption.decode(&secrets(), "a/t", sealed.into());
        assert_eq!(elsewhere.is_err(), word == "aesgcm", "{word}");
    }
}

#[test]
fn rules_are_for_their_resources() {
    let encryption = encryption(&json!([{"aescbc": keys(&["k"], 32)}]));
    for (group, plural, encrypts) in
        [("", "secrets", true), ("apps", "deployments", true), ("", "configmaps", false)]
    {
        let id = ResourceId::new(group, plural);
        assert_eq!(encryption.looks_at(&id), encrypts);
        let stored = encryption.encode(&id, "a/s", JSON.to_vec()).unwrap();
        assert_eq!(stored.starts_with(MARK), encrypts, "{plural}");
        // Without identity nothing plain is read.
        assert_eq!(encryption.decode(&id, "a/s", JSON.into()).is_err(), encrypts, "{plural}");
    }
}

#[test]
fn keys_are_changed_one_after_the_other() {
    let providers = |names: &[&str]| json!([{"aescbc": keys(names, 32)}, {"identity": {}}]);
    let rules = |names: &[&str]| text(&json!([{"resources": ["secrets"], "providers": providers(names)}]));
    let encryption = encryption(&providers(&["k1"]));
    assert!(encryption.is_stale(&secrets(), JSON));
    let old = encryption.encode(&secrets(), "a/s", JSON.to_vec()).unwrap();
    encryption.reload(&rules(&["k2", "k1"])).unwrap();
    assert!(encryption.is_stale(&secrets(), &old));
    assert_eq!(&*encryption.decode(&secrets(), "a/s", old.clone().into()).unwrap(), JSON);
    let new = encryption.encode(&secrets(), "a/s", JSON.to_vec()).unwrap();
    encryption.reload(&rules(&["k2"])).unwrap();
    assert_eq!(&*encryption.decode(&secrets(), "a/s", new.into()).unwrap(), JSON);
    assert!(encryption.decode(&secrets(), "a/s", old.into()).is_err());
    assert!(encryption.reload("{}").is_err());
}

#[test]
fn configurations_without_sense_are_refused() {
    let of = |resources: Value| {
        let read = config::read(&text(&resources), &Plugins::new("server", &Tasks::new()));
        let error = read.err().map(|error| {
            let cause = error.source().map(ToString::to_string).unwrap_or_default();
            format!("{error} {cause}")
        });
        error.unwrap_or_default()
    };
    let secrets = |providers: Value| json!([{"resources": ["secrets"], "providers": providers}]);
    let kms = |settings: Value| secrets(json!([{"kms": settings}]));
    let rule = |resources: &[&str]| json!({"resources": resources, "providers": [{"identity": {}}]});
    let of_resources = |resources: &[&str]| json!([rule(resources)]);
    let two = |first: &[&str], second: &[&str]| json!([rule(first), rule(second)]);
    for (resources, why) in [
        (json!([]), "resources: Required"),
        (json!([{"resources": [], "providers": [{"identity": {}}]}]), "resources[0].resources: Required"),
        (secrets(json!([])), "resources[0].providers: Required"),
        (secrets(json!([{}])), "exactly one"),
        (secrets(json!([{"identity": {}, "aescbc": keys(&["k"], 32)}])), "exactly one"),
        (secrets(json!([{"aescbc": keys(&["k"], 31)}])), "expected length"),
        (secrets(json!([{"secretbox": keys(&["k"], 16)}])), "32 bytes"),
        (secrets(json!([{"aescbc": {"keys": [{"name": "k", "secret": "?"}]}}])), "base64"),
        (secrets(json!([{"aescbc": keys(&["a:b"], 32)}])), "must not contain"),
        (of_resources(&["secrets", "secrets"]), "resources[0].resources: Invalid value: the same resource"),
        (of_resources(&["secrets", "*."]), "overlapping"),
        (of_resources(&["*.*", "pods"]), "overlapping"),
        (
            of_resources(&["Secrets"]),
            "resources[0].resources[0]: Invalid value: \"Secrets\": resource name should",
        ),
        (of_resources(&["*"]), "use '*.' to encrypt"),
        (of_resources(&["pods", "serviceipallocations"]), "resources[0].resources[1]: Invalid value"),
        (of_resources(&["events.events.k8s.io"]), "use 'events'"),
        (of_resources(&["ingresses.extensions"]), "'extensions' group"),
        (of_resources(&["pods.*"]), "across groups"),
        (
            two(&["*.apps"], &["deployments.apps"]),
            "\"deployments.apps\" is masked by earlier rule \"*.apps\"",
        ),
        (two(&["*.*"], &["*."]), "\"*.\" is masked by earlier rule \"*.*\""),
        (two(&["*."], &["*."]), "is masked"),
        (kms(json!({"apiVersion": "v1", "name": "k"})), "KMS v1 is deprecated"),
        (kms(json!({"apiVersion": "v3", "name": "k"})), "unsupported apiVersion v3"),
        (kms(json!({"apiVersion": "v2"})), "providers[0].kms.name: Required"),
        (kms(json!({"apiVersion": "v2", "name": "a:b"})), "must not contain ':'"),
        (
            kms(json!({"apiVersion": "v2", "name": "k"})),
            "kms.endpoint: Invalid value: endpoint is a mandatory",
        ),
        (kms(json!({"apiVersion": "v2", "name": "k", "endpoint": "tcp://a"})), "unsupported scheme \"tcp\""),
        (kms(json!({"apiVersion": "v2", "name": "k", "endpoint": "unix://a"})), "should be unix:///path"),
        (
            kms(json!({"apiVersion": "v2", "name": "k", "endpoint": "unix:///a", "cachesize": 1})),
            "cachesize is not",
        ),
        (
            kms(json!({"apiVersion": "v2", "name": "k", "endpoint": "unix:///a", "timeout": "0s"})),
            "positive value",
        ),
        (kms(json!({"apiVersion": "v2", "name": "k", "endpoint": "unix:///a", "timeout": "-1s"})), "timeout"),
    ] {
        let error = of(resources.clone());
        assert!(error.contains(why), "{resources}: {error}");
    }
}

#[test]
fn a_resource_named_twice_has_the_providers_of_both() {
    let rule = |resources: &[&str], name: &str| json!({"resources": resources, "providers": [{"aesgcm": keys(&[name], 32)}]});
    let catalog = catalog::builtin();
    let with = |rules: Value| {
        let inner = Arc::new(StoredForms::new(catalog.clone(), false));
        Encryption::new(&text(&rules), "/registry", &catalog, inner, ("server", &Tasks::new())).unwrap()
    };
    let before = with(json!([rule(&["secrets"], "old")]));
    let after =
        with(json!([rule(&["secrets"], "new"), rule(&["pods", "secrets"], "old"), rule(&["*.*"], "all")]));
    let old = before.encode(&secrets(), "a/s", JSON.to_vec()).unwrap();
    assert_eq!(&*after.decode(&secrets(), "a/s", old.into()).unwrap(), JSON);
    let new = after.encode(&secrets(), "a/s", JSON.to_vec()).unwrap();
    assert!(new.starts_with(b"k8s:enc:aesgcm:v1:new:"));
    let other = after.encode(&ResourceId::new("", "configmaps"), "a/c", JSON.to_vec()).unwrap();
    assert!(other.starts_with(b"k8s:enc:aesgcm:v1:all:"));
}
