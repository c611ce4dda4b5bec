use std::sync::Arc;

use async_trait::async_trait;
use cel_engine::{Type, Value};
use serde_json::json;

use super::{Compiler, Condition, Evaluator, Names, OutOfBudget, Questions, Subject, Verdict, judge};
use crate::{
    auth::{Attributes, Authorizer, Decision, User},
    object::Object,
};

const ALL: Names = Names { params: true, authorizer: true, patches: true };

fn objects() -> [Object; 3] {
    [
        json!({"kind": "Thing", "spec": {"replicas": 3}}),
        json!({"kind": "Namespace", "metadata": {"name": "ns", "labels": {"a": "b"}}}),
        json!({"kind": "ConfigMap", "data": {"max": "5"}}),
    ]
    .map(|value| Object::from_value(value).unwrap())
}

struct OnlyGet;

#[async_trait]
impl Authorizer for OnlyGet {
    async fn authorize(&self, asked: &Attributes) -> Decision {
        let says = format!("{} {}/{}", asked.user.name, asked.resource, asked.path);
        if asked.verb == "get" { Decision::Allow(says) } else { Decision::NoOpinion(says) }
    }
}

fn questions() -> Arc<Questions> {
    let user = Arc::new(User { name: "ann".to_owned(), ..User::default() });
    let resource = "things".into();
    Arc::new(Questions::new(Arc::new(OnlyGet), Attributes { user, resource, ..Attributes::default() }))
}

async fn value(source: &str, variables: &[(&str, &str)]) -> Result<bool, String> {
    let mut compiler = Compiler::new();
    for (name, expression) in variables {
        compiler.add(name, expression, ALL)?;
    }
    let expression = compiler.compile(source, ALL, &[Type::Bool]);
    let variables = compiler.into_variables();
    let [object, namespace, params] = objects();
    let request = json!({"operation": "CREATE", "name": "x", "userInfo": {"username": "ann", "groups": ["g"]},
        "kind": {"group": "", "version": "v1", "kind": "Thing"}, "dryRun": false, "options": {"kind": "CreateOptions"}});
    let subject = Subject {
        object: Some(&object),
        old: None,
        request: &request,
        namespace: Some(&namespace),
        params: Some(&params),
    };
    let evaluator = Evaluator::new(subject, &variables, Some(questions()));
    let mut budget = 10_000_000;
    match evaluator.evaluate(&expression, &mut budget).await.map_err(|e| e.to_string())? {
        Ok(Value::Bool(b)) => Ok(b),
        Ok(other) => Err(format!("{other:?}")),
        Err(why) => Err(why),
    }
}

#[tokio::test]
async fn expressions_see_the_request() {
    for source in [
        "object.spec.replicas > 1",
        "oldObject == null",
        "request.operation == 'CREATE' && request.userInfo.username == 'ann' && 'g' in request.userInfo.groups",
        "request.kind.kind == 'Thing' && !request.dryRun && request.options.kind == 'CreateOptions'",
        "!has(request.namespace)",
        "namespaceObject.metadata.labels['a'] == 'b'",
        "object.spec.replicas < int(params.data.max)",
        "authorizer.group('apps').resource('things').check('get').allowed()",
        "authorizer.group('').resource('things').check('list').allowed() == false",
        "authorizer.requestResource.check('get').reason() == 'ann things/'",
        "authorizer.path('/healthz').check('get').reason() == 'ann //healthz'",
        "authorizer.serviceAccount('ns', 'sa').requestResource == null || true",
    ] {
        if source.contains("serviceAccount") {
            // There is no such member; it must not compile.
            assert!(value(source, &[]).await.is_err());
            continue;
        }
        assert_eq!(value(source, &[]).await, Ok(true), "{source}");
    }
}

#[tokio::test]
async fn variables_build_on_each_other() {
    let variables = [("replicas", "object.spec.replicas"), ("odd", "variables.replicas % 2 == 1")];
    assert_eq!(value("variables.odd && variables.replicas == 3", &variables).await, Ok(true));
    let asks = [("may", "authorizer.requestResource.check('get').allowed()")];
    assert_eq!(value("variables.may && variables.may", &asks).await, Ok(true));
    let broken = [("b", "object.spec.missing")];
    let told = value("variables.b == 1", &broken).await.expect_err("the field is missing");
    assert_eq!(
        told,
        "expression 'variables.b == 1' resulted in error: composited variable \"b\" fails to evaluate: no such key: missing"
    );
    let later = value("variables.z == 1", &[]).await.expect_err("there is no such variable");
    assert!(later.contains("undefined field 'z'"), "{later}");
    let deep: Vec<(String, String)> = (0..400)
        .map(|i| (format!("v{i}"), if i == 0 { "1".to_owned() } else { format!("variables.v{} + 1", i - 1) }))
        .collect();
    let deep: Vec<(&str, &str)> = deep.iter().map(|(n, e)| (n.as_str(), e.as_str())).collect();
    assert!(value("variables.v399 > 1", &deep).await.is_err_and(|e| e.contains("nest deeper than 500")));
}

#[tokio::test]
async fn values_must_be_of_their_type() {
    let compiler = Compiler::new();
    let told = |source: &str, types: &[Type]| {
        compiler.compile(source, ALL, types).program.map(drop).expect_err(source)
    };
    assert_eq!(told("1", &[Type::Bool]), "must evaluate to bool but got int");
    assert_eq!(told("object.x", &[Type::Bool]), "must evaluate to bool but got dyn");
    assert_eq!(
        told("1", &[Type::String, Type::Null]),
        "must evaluate to one of [string null_type] but got int"
    );
    assert_eq!(
        told("objects == 1", &[Type::Bool]),
        "compilation failed: ERROR: <input>:1:1: undeclared reference to 'objects' (in container '')\n | objects == 1\n | ^"
    );
    let fewer = compiler.compile("params == null", Names::default(), &[Type::Bool]).program;
    assert!(fewer.is_err_and(|e| e.contains("undeclared reference to 'params'")));
}

#[tokio::test]
async fn conditions_are_judged_as_one() {
    let cases: [(&[&str], Verdict); 5] = [
        (&[], Verdict::Met),
        (&["true", "object.spec.replicas == 3"], Verdict::Met),
        (&["true", "false"], Verdict::Unmet("c1".to_owned())),
        (&["object.nothing == 1", "false"], Verdict::Unmet("c1".to_owned())),
        (
            &["object.nothing == 1", "true"],
            Verdict::Failed(
                "expression 'object.nothing == 1' resulted in error: no such key: nothing".to_owned(),
            ),
        ),
    ];
    let [object, ..] = objects();
    let request = json!({});
    for (sources, verdict) in cases {
        let list: Vec<_> = sources
            .iter()
            .enumerate()
            .map(|(i, source)| json!({"name": format!("c{i}"), "expression": source}))
            .collect();
        let conditions = Condition::all_of(Some(&json!(list)), false);
        let subject =
            Subject { object: Some(&object), old: None, request: &request, namespace: None, params: None };
        assert_eq!(judge(&conditions, &Evaluator::new(subject, &[], None)).await, verdict, "{sources:?}");
    }
}

#[tokio::test]
async fn budgets_end() {
    let dear = "lists.range(10000).all(a, lists.range(10).all(b, a >= 0 || b >= 0))";
    let mut compiler = Compiler::new();
    compiler.add("v", dear, ALL).unwrap();
    let expression = compiler.compile("variables.v", ALL, &[Type::Bool]);
    let variables = compiler.into_variables();
    let request = json!({});
    let subject = Subject { object: None, old: None, request: &request, namespace: None, params: None };
    let evaluator = Evaluator::new(subject, &variables, None);
    let mut budget = 10_000;
    assert_eq!(evaluator.evaluate(&expression, &mut budget).await.map(drop), Err(OutOfBudget));
}
