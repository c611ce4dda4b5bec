//! Expansion, references and service variables.

use k8s_openapi::api::core::v1::{
    ConfigMapEnvSource, ConfigMapKeySelector, EnvFromSource, EnvVarSource, ObjectFieldSelector, ServicePort,
    ServiceSpec,
};
use proptest::prelude::*;

use super::*;
use crate::testing;

struct Fixed(ConfigMap);

impl Objects for Fixed {
    fn config_map(&self, name: &str) -> Option<&ConfigMap> {
        (name == "cm").then_some(&self.0)
    }
    fn secret(&self, _: &str) -> Option<&Secret> {
        None
    }
    fn file(&self, volume: &str, path: &str) -> Option<&str> {
        (volume == "v" && path == "env").then_some("A='1'\nB=''\nrubbish\n")
    }
}

fn objects() -> Fixed {
    Fixed(ConfigMap { data: Some(BTreeMap::from([("k".into(), "v".into())])), ..Default::default() })
}

fn var(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.into(), value: Some(value.into()), ..Default::default() }
}

fn run(env: Vec<EnvVar>, env_from: Vec<EnvFromSource>) -> Result<Vec<(String, String)>, EnvError> {
    let container = Container { env: Some(env), env_from: Some(env_from), ..testing::container("c") };
    let pod = testing::pod("a").build();
    let services = BTreeMap::from([("S".to_owned(), "svc".to_owned())]);
    environment(&pod, &container, &objects(), &services, &NodeFacts::default())
}

#[test]
fn expansion() {
    let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
    for (text, expected) in [
        ("$(A)", "1"),
        ("x$(A)y$(B)", "x1y$(B)"),
        ("$$(A)", "$(A)"),
        ("$", "$"),
        ("$(A", "$(A"),
        ("$A", "$A"),
        ("$$$(A)", "$1"),
    ] {
        assert_eq!(expand(text, &lookup), expected, "{text}");
    }
}

#[test]
fn variables_see_earlier_ones_and_services() {
    let got = run(vec![var("A", "1"), var("B", "$(A)-$(S)-$(LATER)"), var("LATER", "x")], vec![]).unwrap();
    assert!(got.contains(&("B".into(), "1-svc-$(LATER)".into())));
    assert!(got.contains(&("S".into(), "svc".into())));
}

#[test]
fn references_resolve_or_fail_with_upstreams_words() {
    let from = |name: &str, key: &str, optional| EnvVar {
        name: "A".into(),
        value_from: Some(EnvVarSource {
            config_map_key_ref: Some(ConfigMapKeySelector { name: name.into(), key: key.into(), optional }),
            ..Default::default()
        }),
        ..Default::default()
    };
    assert!(run(vec![from("cm", "k", None)], vec![]).unwrap().contains(&("A".into(), "v".into())));
    let error = run(vec![from("cm", "z", None)], vec![]).unwrap_err();
    assert_eq!(error.to_string(), "couldn't find key z in ConfigMap ns/cm");
    assert_eq!(
        run(vec![from("no", "k", None)], vec![]).unwrap_err().to_string(),
        "configmap \"no\" not found"
    );
    assert_eq!(run(vec![from("no", "k", Some(true))], vec![]).unwrap().len(), 1);
}

#[test]
fn env_from_takes_a_prefix() {
    let source = EnvFromSource {
        prefix: Some("P_".into()),
        config_map_ref: Some(ConfigMapEnvSource { name: "cm".into(), optional: None }),
        ..Default::default()
    };
    assert!(run(vec![], vec![source]).unwrap().contains(&("P_k".into(), "v".into())));
}

#[test]
fn fields_of_the_pod() {
    let mut pod = testing::pod("a").build();
    pod.metadata.labels = Some(BTreeMap::from([("x".into(), "1".into())]));
    let node = NodeFacts { name: "n".into(), ips: vec!["192.0.2.1".into()], ..Default::default() };
    for (path, expected) in [
        ("metadata.name", "a"),
        ("metadata.labels['x']", "1"),
        ("metadata.labels", "x=\"1\""),
        ("spec.nodeName", "n"),
        ("status.hostIP", "192.0.2.1"),
    ] {
        assert_eq!(field_value(&pod, path, &node).unwrap(), expected, "{path}");
    }
    assert!(field_value(&pod, "spec.nope", &node).is_err());
    let selector = ObjectFieldSelector { field_path: "metadata.uid".into(), ..Default::default() };
    assert_eq!(field_value(&pod, &selector.field_path, &node).unwrap(), "uid-a");
}

#[test]
fn services_become_variables() {
    let mut service = Service::default();
    service.metadata.name = Some("my-web".into());
    service.metadata.namespace = Some("ns".into());
    service.spec = Some(ServiceSpec {
        cluster_ip: Some("10.0.0.9".into()),
        ports: Some(vec![ServicePort { name: Some("http".into()), port: 80, ..Default::default() }]),
        ..Default::default()
    });
    let vars = service_variables([&service].into_iter(), "ns", true);
    assert_eq!(vars["MY_WEB_SERVICE_HOST"], "10.0.0.9");
    assert_eq!(vars["MY_WEB_SERVICE_PORT_HTTP"], "80");
    assert_eq!(vars["MY_WEB_PORT_80_TCP_ADDR"], "10.0.0.9");
    assert_eq!(vars["MY_WEB_PORT"], "tcp://10.0.0.9:80");
    assert!(service_variables([&service].into_iter(), "ns", false).is_empty());
}

proptest! {
    /// Text without a dollar sign is left alone, and expansion never fails.
    #[test]
    fn expansion_is_total(text in ".*") {
        let out = expand(&text, &|_| None);
        if !text.contains('$') {
            prop_assert_eq!(out, text);
        }
    }
}

#[test]
fn variables_come_from_files_of_volumes() {
    let of = |path: &str, key: &str, optional: bool| {
        let from = serde_json::json!({
            "fileKeyRef": {"volumeName": "v", "path": path, "key": key, "optional": optional},
        });
        let var: EnvVar =
            serde_json::from_value(serde_json::json!({"name": "X", "valueFrom": from})).unwrap();
        let pod = testing::pod("a").build();
        from_reference(&pod, &Container::default(), &var, &objects(), &NodeFacts::default())
    };
    assert_eq!(of("env", "A", false), Ok(Some("1".to_owned())));
    assert_eq!(of("env", "B", true), Ok(None));
    let missing = EnvError::NotInFile { key: "B".into(), path: "env".into() };
    assert_eq!(of("env", "B", false), Err(missing));
    assert_eq!(of("env", "C", true), Err(EnvError::File), "the file is wrong");
    assert_eq!(of("none", "A", true), Err(EnvError::File));
}
