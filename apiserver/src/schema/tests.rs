use std::fs;

use component_base::reference::reference;
use http::HeaderValue;
use serde_json::json;

use super::*;

fn sent(media: &'static str, body: &str) -> (Node<'static>, Vec<String>) {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    let sent = read(&headers, body.as_bytes(), true).unwrap();
    (sent.node.into_owned(), sent.duplicates)
}

fn typed(api_version: &str, kind: &str, body: &str) -> Result<Decoded, String> {
    let (node, _) = sent("application/json", body);
    decode(&node, type_of(api_version, kind).unwrap())
}

#[test]
fn unknown_and_duplicate_fields_are_told_in_the_order_of_the_text() {
    let body = r#"{"spec":{"unknownField":"foo","replicas":2,"replicas":3,"template":{"metadata":{"labels":{"a":"1","a":"2"}},
        "spec":{"containers":[{"name":"c"},{"name":"d","imagE":"x"}]}}},"metadata":{"unknownMeta":1},"Kind":"Deployment"}"#;
    let got = typed("apps/v1", "Deployment", body).unwrap();
    let want = [
        r#"unknown field "spec.unknownField""#,
        r#"duplicate field "spec.replicas""#,
        r#"duplicate field "spec.template.metadata.labels.a""#,
        r#"unknown field "spec.template.spec.containers[1].imagE""#,
        r#"unknown field "metadata.unknownMeta""#,
        r#"unknown field "Kind""#,
    ];
    assert_eq!(got.strict, want);
    assert_eq!(got.object["spec"]["replicas"], 3);
    assert_eq!(got.object["spec"]["template"]["metadata"]["labels"], json!({"a": "2"}));
    assert_eq!(got.object["spec"].get("unknownField"), None);
}

#[test]
fn wrong_types_are_told_in_the_words_of_go() {
    let cases = [
        (
            r#"{"spec":{"replicas":"a"}}"#,
            "string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            r#"{"spec":{"replicas":1.5}}"#,
            "number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (r#"{"spec":[]}"#, "array into Go struct field Deployment.spec of type v1.DeploymentSpec"),
        (
            r#"{"metadata":{"labels":{"a":1}}}"#,
            "number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            r#"{"spec":{"template":{"spec":{"containers":[{"image":true}]}}}}"#,
            "bool into Go struct field Container.spec.template.spec.containers.image of type string",
        ),
        (
            r#"{"spec":{"template":{"spec":{"containers":{}}}}}"#,
            "object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
        ),
        (r#"[]"#, "array into Go value of type v1.Deployment"),
    ];
    for (body, want) in cases {
        let error = typed("apps/v1", "Deployment", body).unwrap_err();
        assert_eq!(error, format!("json: cannot unmarshal {want}"), "{body}");
    }
    let quantity = r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"1 core"}}}]}}"#;
    assert!(
        typed("v1", "Pod", quantity).unwrap_err().starts_with("quantities must match the regular expression")
    );
    let time = r#"{"metadata":{"creationTimestamp":"yesterday"}}"#;
    assert!(typed("v1", "Pod", time).unwrap_err().starts_with("parsing time \"yesterday\""));
    assert_eq!(
        typed("v1", "Secret", r#"{"data":{"a":"?"}}"#).unwrap_err(),
        "illegal base64 data at input byte 0"
    );
}

#[test]
fn objects_take_the_shape_go_would_print() {
    let body = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","creationTimestamp":null,"labels":{}},
        "spec":{"containers":[{"name":"c","image":"","env":null,"resources":{"limits":{"cpu":0.5,"memory":"1024Mi"}},
            "ports":[{"containerPort":80,"hostPort":0}]}],"hostNetwork":false,"terminationGracePeriodSeconds":0}}"#;
    let got = typed("v1", "Pod", body).unwrap();
    let want = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "status": {},
        "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
            "ports": [{"containerPort": 80}]}], "terminationGracePeriodSeconds": 0}});
    assert_eq!(got, Decoded { object: want, strict: vec![] });
    let lease = r#"{"spec":{"renewTime":"2024-01-02T03:04:05+02:00"}}"#;
    let got = typed("coordination.k8s.io/v1", "Lease", lease).unwrap();
    assert_eq!(got.object["spec"]["renewTime"], "2024-01-02T01:04:05.000000Z");
}

#[test]
fn yaml_tells_duplicate_keys_by_line() {
    let text =
        "apiVersion: v1\nkind: ConfigMap\ndata:\n  a: \"1\"\n  b: x\n  a: \"2\"\nmetadata:\n  name: m\n";
    let (node, duplicates) = sent("application/yaml", text);
    assert_eq!(duplicates, ["yaml: unmarshal errors:\n  line 6: key \"a\" already set in map"]);
    let got = decode(&node, type_of("v1", "ConfigMap").unwrap()).unwrap();
    assert_eq!((&got.object["data"], got.strict.len()), (&json!({"a": "2", "b": "x"}), 0));
    let (node, duplicates) = sent("application/yaml", "a: 1\nb: [true, 1.5, null, \"1\", yes]\nc: {d: e}\n");
    assert_eq!(duplicates.len(), 0);
    assert_eq!(node.to_value(), json!({"a": 1, "b": [true, 1.5, null, "1", true], "c": {"d": "e"}}));
}

#[test]
fn every_filled_object_of_upstream_decodes_to_itself() {
    let Some(goldens) = reference("api-golden") else { return };
    for entry in fs::read_dir(goldens).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let want: Value = serde_json::from_str(&text).unwrap();
        let said = |name: &str| want[name].as_str().unwrap_or_default().to_owned();
        let Some(id) = type_of(&said("apiVersion"), &said("kind")) else { continue };
        let (node, _) = sent("application/json", &text);
        let got = decode(&node, id).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(got.strict, Vec::<String>::new(), "{}", path.display());
        assert_eq!(got.object, want, "{}", path.display());
    }
}

#[test]
fn directives_are_three() {
    assert_eq!(FieldValidation::parse("", "CreateOptions").unwrap(), FieldValidation::Warn);
    let status = FieldValidation::parse("Maybe", "CreateOptions").unwrap_err();
    let want = "CreateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"Maybe\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"";
    assert_eq!((status.code, status.message.as_str()), (422, want));
}

#[test]
fn yaml_may_be_json_with_tabs_and_trailing_commas() {
    let text = "{\n\t\t\"kind\": \"Pod\",\n\t\t\"spec\": {\n\t\t\t\"containers\": [{\n\t\t\t\t\"name\":  \"c\",\n\t\t\t\t\"image\": \"i\",\n\t\t\t}]\n\t\t}\n\t}";
    let (node, _) = sent("application/yaml", text);
    let want = json!({"kind": "Pod", "spec": {"containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(node.to_value(), want);
}
