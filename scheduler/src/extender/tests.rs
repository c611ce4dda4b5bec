use std::{convert::Infallible, sync::Mutex};

use http::Response;
use http_body_util::BodyExt;
use kube::client::Body;

use super::*;
use crate::{model::PodInfo, testing};

/// An extender that gives the same answer to everything, and what it was asked: path and body.
struct Program {
    extenders: Extenders,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

fn program(settings: Value, code: u16, answer: Value) -> Program {
    let asked: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
    let seen = asked.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (seen, answer) = (seen.clone(), answer.clone());
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let body = serde_json::from_slice(&body).unwrap();
            seen.lock().unwrap().push((parts.uri.path().to_owned(), body));
            let mut response = Response::new(Body::from(answer.to_string().into_bytes()));
            *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
            Ok::<_, Infallible>(response)
        }
    });
    let mut all = json!({"urlPrefix": "http://x/s", "filterVerb": "filter", "prioritizeVerb": "prioritize",
        "preemptVerb": "preempt", "bindVerb": "bind", "weight": 2, "nodeCacheCapable": true});
    for (field, value) in settings.as_object().unwrap() {
        all[field] = value.clone();
    }
    let settings: ExtenderConfiguration = serde_json::from_value(all).unwrap();
    let timeout = settings.timeout().unwrap();
    let extender = Extender { settings, timeout, client: Client::new(service, "default") };
    Program { extenders: Extenders(Arc::new(vec![extender])), asked }
}

fn pod(resources: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"},
        "spec": {"containers": [{"name": "c", "resources": {"requests": resources}}]}}))
    .unwrap()
}

fn nodes(names: &[&str]) -> Vec<Arc<Node>> {
    let node = |name: &&str| serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    names.iter().map(node).map(Arc::new).collect()
}

#[tokio::test]
async fn a_filter_keeps_some_nodes_and_says_why_not_others() {
    // The keys' case does not matter.
    let answer = json!({"nodeNames": ["a"], "FailedNodes": {"b": "busy"},
        "failedAndUnresolvableNodes": {"c": "never"}, "error": ""});
    let program = program(json!({}), 200, answer);
    let left = program.extenders.filter(&pod(json!({})), &nodes(&["a", "b", "c"])).await.unwrap();
    assert_eq!(left.kept, ["a"]);
    assert_eq!(left.refused["b"], Verdict::unschedulable("busy"));
    assert_eq!(left.refused["c"], Verdict::unresolvable("never"));
    let asked = program.asked.lock().unwrap();
    assert_eq!(asked[0].0, "/filter");
    assert_eq!(asked[0].1["NodeNames"], json!(["a", "b", "c"]));
    assert_eq!((&asked[0].1["Pod"]["metadata"]["name"], &asked[0].1["Nodes"]), (&json!("p"), &Value::Null));
}

#[tokio::test]
async fn one_without_a_cache_is_sent_the_nodes() {
    let answer = json!({"Nodes": {"items": [{"metadata": {"name": "b"}}]}});
    let program = program(json!({"nodeCacheCapable": false}), 200, answer);
    let left = program.extenders.filter(&pod(json!({})), &nodes(&["a", "b"])).await.unwrap();
    assert_eq!(left.kept, ["b"]);
    assert_eq!(program.asked.lock().unwrap()[0].1["Nodes"]["items"][1]["metadata"]["name"], "b");
}

#[tokio::test]
async fn what_fails_counts_unless_it_may_be_ignored() {
    let cases = [
        (200, json!({"Error": "no idea"}), "no idea"),
        (200, json!({"NodeNames": ["z"]}), "not found in the input node list"),
        (200, json!([]), "the answer is no result"),
        (500, json!({"message": "x"}), "failed filter with extender at URL http://x/s"),
    ];
    for (code, answer, expected) in cases {
        let strict = program(json!({}), code, answer.clone());
        let error = strict.extenders.filter(&pod(json!({})), &nodes(&["a"])).await.unwrap_err();
        assert!(chain(&error).contains(expected), "{}", chain(&error));
        let ignored = program(json!({"ignorable": true}), code, answer);
        let left = ignored.extenders.filter(&pod(json!({})), &nodes(&["a"])).await.unwrap();
        assert_eq!(left.kept, ["a"]);
    }
}

#[tokio::test]
async fn pods_that_ask_for_nothing_it_manages_are_not_its_business() {
    let managed = json!({"managedResources": [{"name": "example.com/x"}]});
    let program = program(managed, 200, json!({"NodeNames": []}));
    let plain = pod(json!({"cpu": "1"}));
    assert!(!program.extenders.decide_on(&plain));
    assert_eq!(program.extenders.filter(&plain, &nodes(&["a"])).await.unwrap().kept, ["a"]);
    let asks = pod(json!({"example.com/x": "1"}));
    assert!(program.extenders.decide_on(&asks));
    assert!(program.extenders.filter(&asks, &nodes(&["a"])).await.unwrap().kept.is_empty());
}

#[tokio::test]
async fn scores_are_scaled_and_weighted_and_may_fail() {
    let answer = json!([{"Host": "a", "Score": 10}, {"host": "b", "score": 3}]);
    let scores =
        program(json!({}), 200, answer).extenders.prioritize(&pod(json!({})), &nodes(&["a", "b"])).await;
    assert_eq!((scores["a"], scores["b"]), (200, 60));
    let none = program(json!({}), 500, json!({})).extenders.prioritize(&pod(json!({})), &nodes(&["a"])).await;
    assert!(none.is_empty());
}

#[tokio::test]
async fn it_chooses_among_the_victims() {
    let victim = |name: &str| testing::pod(name).info();
    let candidate =
        |node: &str, victims: Vec<Arc<PodInfo>>| Candidate { node: node.into(), victims, violations: 1 };
    let all = || vec![candidate("a", vec![victim("x"), victim("y")]), candidate("b", vec![victim("z")])];
    let answer = json!({"NodeNameToMetaVictims": {"a": {"Pods": [{"UID": "uid-y"}], "NumPDBViolations": 0}}});
    let chooses = program(json!({}), 200, answer);
    let left = chooses.extenders.preempt(&pod(json!({})), all(), |_| None).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(
        (left[0].node.as_str(), left[0].victims[0].uid.as_str(), left[0].violations),
        ("a", "uid-y", 0)
    );
    assert_eq!(
        chooses.asked.lock().unwrap()[0].1["NodeNameToMetaVictims"]["b"],
        json!({"Pods": [{"UID": "uid-z"}], "NumPDBViolations": 1})
    );
    let invents = json!({"NodeNameToMetaVictims": {"a": {"Pods": [{"UID": "other"}]}}});
    let error = program(json!({}), 200, invents).extenders.preempt(&pod(json!({})), all(), |_| None).await;
    assert!(error.unwrap_err().to_string().contains("the pod is not found on that node"));
    let spares = json!({"NodeNameToMetaVictims": {"a": {"Pods": []}, "b": {"Pods": [{"UID": "uid-z"}]}}});
    let strict = program(json!({}), 200, spares.clone()).extenders;
    let error = strict.preempt(&pod(json!({})), all(), |_| None).await.unwrap_err();
    assert_eq!(error.to_string(), "expected at least one victim pod on node \"a\"");
    let lenient = program(json!({"ignorable": true}), 200, spares).extenders;
    let left = lenient.preempt(&pod(json!({})), all(), |_| None).await.unwrap();
    assert_eq!(left.iter().map(|c| c.node.as_str()).collect::<Vec<_>>(), ["b"]);
}

#[tokio::test]
async fn it_binds_unless_it_has_no_say() {
    let binder = program(json!({}), 200, json!({}));
    assert!(binder.extenders.bind(&pod(json!({})), "n").await.unwrap());
    let expected = json!({"PodName": "p", "PodNamespace": "d", "PodUID": "u", "Node": "n"});
    assert_eq!(binder.asked.lock().unwrap()[0], ("/bind".to_owned(), expected));
    let fails = program(json!({}), 200, json!({"Error": "taken"})).extenders;
    assert_eq!(fails.bind(&pod(json!({})), "n").await.unwrap_err().to_string(), "taken");
    assert!(
        !program(json!({"bindVerb": ""}), 200, json!({})).extenders.bind(&pod(json!({})), "n").await.unwrap()
    );
}
