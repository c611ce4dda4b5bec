use serde_json::{Value, json};

use crate::registry::testing::{Kind, changed};

fn kind() -> Kind {
    Kind::new("apiextensions.k8s.io", "customresourcedefinitions")
}

fn version(name: &str, storage: bool, schema: Value) -> Value {
    json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": schema}})
}

fn good() -> Value {
    json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [version("v1", true, json!({"type": "object", "properties": {"spec": {"type": "object",
            "properties": {"size": {"type": "string"}, "count": {"type": "integer"}}}}}))]}})
}

/// Errors of the good definition with other values at JSON pointers.
fn told(changes: &[(&str, Value)]) -> Vec<String> {
    kind().errors(changed(&good(), changes))
}

/// Errors of a schema, without the place where schemas stand.
fn of_schema(schema: Value) -> Vec<String> {
    let all = told(&[("/spec/versions/0/schema/openAPIV3Schema", schema)]);
    all.into_iter().map(|e| e.replace("spec.validation.openAPIV3Schema", "$")).collect()
}

fn of_field(field: Value) -> Vec<String> {
    let all = of_schema(json!({"type": "object", "properties": {"x": field}}));
    all.into_iter().map(|e| e.replace("$.properties[x]", "x")).collect()
}

#[test]
fn definitions_have_names_versions_and_schemas() {
    let (created, errors) = kind().create(good());
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(created["spec"]["conversion"]["strategy"], "None");
    let cases = [
        (
            "/metadata/name",
            json!("x"),
            r#"metadata.name: Invalid value: "x": must be spec.names.plural+"."+spec.group"#,
        ),
        (
            "/spec/scope",
            json!("Global"),
            r#"spec.scope: Unsupported value: "Global": supported values: "Cluster", "Namespaced""#,
        ),
        ("/spec/versions/0/schema", json!(null), "spec.versions[0].schema.openAPIV3Schema: Required value"),
        (
            "/spec/names/listKind",
            json!("Widget"),
            r#"spec.names.listKind: Invalid value: "Widget": kind and listKind may not be the same"#,
        ),
        (
            "/spec/preserveUnknownFields",
            json!(true),
            "spec.preserveUnknownFields: Invalid value: true: cannot set to true, set \
             x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        ),
        (
            "/spec/versions/0/deprecationWarning",
            json!("old"),
            r#"spec.versions[0].deprecationWarning: Invalid value: "old": can only be set for deprecated versions"#,
        ),
        (
            "/spec/versions/0/additionalPrinterColumns",
            json!([{"name": "a", "type": "text", "jsonPath": ".spec"}]),
            r#"spec.additionalPrinterColumns[0].type: Invalid value: "text": must be one of boolean,date,integer,number,string"#,
        ),
        (
            "/spec/versions/0/additionalPrinterColumns",
            json!([{"name": "a", "type": "string", "jsonPath": "spec"}]),
            r#"spec.additionalPrinterColumns[0].JSONPath: Invalid value: "spec": must be a simple json path starting with ."#,
        ),
        (
            "/spec/versions/0/subresources",
            json!({"scale": {"specReplicasPath": ".status.x", "statusReplicasPath": ".status.x"}}),
            r#"spec.subresources.scale.specReplicasPath: Invalid value: ".status.x": should be a json path under .spec"#,
        ),
    ];
    for (pointer, value, want) in cases {
        assert_eq!(told(&[(pointer, value)]), [want]);
    }
    let none = told(&[("/spec/versions/0/storage", json!(false))]);
    assert!(
        none.iter().any(|e| e.ends_with("must have exactly one version marked as storage version")),
        "{none:?}"
    );
}

#[test]
fn schemas_say_what_schemas_of_definitions_may() {
    let cases = [
        (json!({"type": "string", "nullable": true}), vec![]),
        (
            json!({"type": "text"}),
            vec![
                r#"x.type: Unsupported value: "text": supported values: "array", "boolean", "integer", "number", "object", "string""#,
            ],
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "uniqueItems": true}),
            vec![
                "x.uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            ],
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}}),
            vec![
                "x.additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
            ],
        ),
        (json!({"$ref": "#/a"}), vec!["x.$ref: Forbidden: $ref is not supported"]),
        (
            json!({"type": "string", "x-kubernetes-list-type": "set"}),
            vec![r#"x.type: Invalid value: "string": must be array if x-kubernetes-list-type is specified"#],
        ),
        (
            json!({"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "set"}),
            vec![
                "x.items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with x-kubernetes-list-type=set",
            ],
        ),
        (
            json!({"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string"}}},
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k", "l"]}),
            vec![
                r#"x.x-kubernetes-list-map-keys: Invalid value: ["k","l"]: entries must all be names of item properties"#,
                "x.items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            ],
        ),
        (
            json!({"type": "string", "x-kubernetes-validations": [{"rule": " "}, {"rule": "true", "reason": "No"}]}),
            vec![
                "x.x-kubernetes-validations[0].rule: Required value: rule is not specified",
                r#"x.x-kubernetes-validations[1].reason: Unsupported value: "No": supported values: "FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired""#,
            ],
        ),
    ];
    for (field, want) in cases {
        assert_eq!(of_field(field.clone()), want, "{field}");
    }
    assert_eq!(
        of_schema(json!({"type": "object", "nullable": true})),
        ["$.nullable: Forbidden: nullable cannot be true at the root"]
    );
    assert_eq!(
        of_schema(json!({"properties": {}})),
        ["$.type: Required value: must not be empty at the root"]
    );
}

#[test]
fn defaults_are_values_of_their_schema() {
    assert!(of_field(json!({"type": "string", "default": "a"})).is_empty());
    assert_eq!(
        of_field(json!({"type": "object", "default": {"a": 1}, "properties": {"b": {"type": "string"}}})),
        [r#"x.default: Invalid value: {"a":1}: must not have unknown fields"#]
    );
    let wrong = of_field(json!({"type": "string", "default": 1}));
    assert!(wrong[0].starts_with("x.default: Invalid value:") && wrong.len() == 1, "{wrong:?}");
    let meta =
        of_schema(json!({"type": "object", "properties": {"metadata": {"type": "object", "default": {}}}}));
    assert_eq!(meta, ["$.properties[metadata].default: Forbidden: must not be set in top-level metadata"]);
}

#[test]
fn selectable_fields_are_scalars_of_the_schema() {
    let fields = |paths: &[&str]| {
        let fields: Vec<Value> = paths.iter().map(|path| json!({"jsonPath": path})).collect();
        told(&[("/spec/versions/0/selectableFields", json!(fields))])
    };
    assert!(fields(&[".spec.size", ".spec.count"]).is_empty());
    let at = "spec.selectableFields[0].jsonPath: ";
    assert_eq!(
        fields(&[".spec.none"]),
        [format!(r#"{at}Invalid value: ".spec.none": is an invalid path: does not refer to a valid field"#)]
    );
    assert!(fields(&[".spec"])[0].contains("must point to a field of type string, boolean or integer"));
    assert_eq!(
        fields(&[".spec.size", ".spec.size"]),
        [r#"spec.selectableFields[1].jsonPath: Duplicate value: ".spec.size""#]
    );
}

#[test]
fn webhooks_that_convert_are_reachable_and_understood() {
    let with =
        |webhook: Value| told(&[("/spec/conversion", json!({"strategy": "Webhook", "webhook": webhook}))]);
    assert!(
        with(json!({"clientConfig": {"url": "https://a/b"}, "conversionReviewVersions": ["v1"]})).is_empty()
    );
    assert_eq!(
        with(json!({"clientConfig": {"url": "http://"}, "conversionReviewVersions": ["v2", "v2"]})),
        [
            r#"spec.conversion.webhookClientConfig.url: Invalid value: "http": 'https' is the only allowed URL scheme; desired format: https://host[/path]"#,
            r#"spec.conversion.webhookClientConfig.url: Invalid value: "": host must be specified; desired format: https://host[/path]"#,
            r#"spec.conversion.conversionReviewVersions[1]: Invalid value: "v2": duplicate version"#,
            r#"spec.conversion.conversionReviewVersions: Invalid value: ["v2","v2"]: must include at least one of v1, v1beta1"#,
        ]
    );
    let none = told(&[(
        "/spec/conversion",
        json!({"strategy": "None", "webhook": {"conversionReviewVersions": ["v1"]}}),
    )]);
    assert_eq!(
        none,
        [
            "spec.conversion.conversionReviewVersions: Forbidden: should not be set when strategy is not set to Webhook"
        ]
    );
}

#[test]
fn updates_keep_what_storage_is_made_of() {
    let change = |changes: &[(&str, Value)]| kind().change(&good(), changes);
    let group = change(&[("/spec/group", json!("example.org"))]);
    assert!(
        group.contains(&r#"spec.group: Invalid value: "example.org": field is immutable"#.to_owned()),
        "{group:?}"
    );
    let gone = change(&[("/spec/versions/0/name", json!("v2"))]);
    assert!(
        gone.iter()
            .any(|e| e
                .starts_with(r#"status.storedVersions[0]: Invalid value: "v1": missing from spec.versions"#)),
        "{gone:?}"
    );

    // What was stored breaking a rule may go on breaking it.
    let mut old = kind().create(good()).0;
    old["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["size"] =
        json!({"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "set"});
    let mut new = old.clone();
    new["spec"]["names"]["shortNames"] = json!(["w"]);
    let (_, errors) = kind().update(new, old, "");
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn unknown_formats_are_warned_of() {
    let pointer = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/size/format";
    let with = |format: &str| kind().warnings(changed(&good(), &[(pointer, json!(format))]));
    assert!(with("date-time").is_empty());
    assert_eq!(with("dns"), [r#"unrecognized format "dns""#]);
}

#[test]
fn rules_are_compiled_where_their_schema_is_good() {
    let rule = json!([{"rule": "self.nothing == 1"}]);
    let object = |more: Value| {
        let mut schema = json!({"type": "object", "properties": {"a": {"type": "integer"}},
            "x-kubernetes-validations": rule});
        schema.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        schema
    };
    let wrong = json!({"type": "array", "uniqueItems": true, "items": {"type": "string"}});
    let errors =
        of_schema(json!({"type": "object", "properties": {"good": object(json!({})), "bad": wrong}}));
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].starts_with("$.properties[bad].uniqueItems: Forbidden"), "{errors:?}");
    assert!(
        errors[1].starts_with("$.properties[good].x-kubernetes-validations[0].rule: Invalid"),
        "{errors:?}"
    );
    let inside = object(
        json!({"properties": {"a": {"type": "array", "uniqueItems": true, "items": {"type": "string"}}}}),
    );
    let errors = of_schema(json!({"type": "object", "properties": {"x": inside}}));
    assert_eq!(errors.len(), 1, "what is below is not well described: {errors:?}");
}

#[test]
fn the_first_version_is_the_definitions_own_and_texts_are_printable() {
    let errors = told(&[("/spec/versions/0/name", json!("V1"))]);
    let places: Vec<&str> = errors.iter().filter_map(|error| error.split(": ").next()).collect();
    assert_eq!(places[..2], ["spec.versions[0].name", "spec.version"], "{errors:?}");
    for (warning, at) in [("a\u{a0}b", 1), ("é\u{200b}", 2), ("a\nb", 1), ("plain text: ä ✓", 99)] {
        let deprecated = [
            ("/spec/versions/0/deprecated", json!(true)),
            ("/spec/versions/0/deprecationWarning", json!(warning)),
        ];
        let errors = told(&deprecated);
        assert_eq!(
            errors.first().is_some_and(|error| error.ends_with(&format!("at index {at}"))),
            at < 99,
            "{errors:?}"
        );
    }
}

#[test]
fn consent_that_was_missing_may_not_become_wrong() {
    let group = |annotation: Option<&str>| {
        let mut definition = changed(
            &good(),
            &[("/spec/group", json!("x.k8s.io")), ("/metadata/name", json!("widgets.x.k8s.io"))],
        );
        if let Some(said) = annotation {
            definition["metadata"]["annotations"] = json!({"api-approved.kubernetes.io": said});
        }
        kind().create(definition).0
    };
    let update = |new: Option<&str>, old: Option<&str>| {
        kind()
            .update(group(new), group(old), "")
            .1
            .iter()
            .any(|error| error.starts_with("metadata.annotations"))
    };
    assert!(!update(None, None) && !update(Some("nonsense"), Some("nonsense")));
    assert!(update(Some("nonsense"), None) && update(None, Some("nonsense")));
}

#[test]
fn columns_have_formats_of_values_and_names_are_told_at_once() {
    let column = |format: &str| {
        told(&[(
            "/spec/versions/0/additionalPrinterColumns",
            json!([{"name": "n", "type": "string", "format": format, "jsonPath": ".x"}]),
        )])
    };
    assert_eq!(column("date-time"), Vec::<String>::new());
    assert_eq!(
        column("name"),
        [
            r#"spec.additionalPrinterColumns[0].format: Invalid value: "name": must be one of byte,date,date-time,double,float,int32,int64,password"#
        ]
    );
    for names in ["shortNames", "categories"] {
        let long = format!("-{}", "x".repeat(63));
        let errors = told(&[(&format!("/spec/names/{names}"), json!([long]))]);
        let start = format!("spec.names.{names}[0]: Invalid value: {long:?}: must be no more than 63 ");
        assert!(errors.len() == 1 && errors[0].starts_with(&start), "{errors:?}");
        assert!(errors[0].contains(",a DNS-1035 label must consist"), "{errors:?}");
    }
}

#[test]
fn metadata_of_the_root_may_be_explained_by_examples() {
    let with = |meta: Value| of_schema(json!({"type": "object", "properties": {"metadata": meta}}));
    assert_eq!(
        with(json!({"type": "object", "example": {"name": "x"}, "externalDocs": {"url": "u"}})).len(),
        0
    );
    assert_eq!(with(json!({"type": "object", "maxProperties": 1})).len(), 1);
}
