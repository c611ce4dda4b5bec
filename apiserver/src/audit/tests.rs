use jiff::Timestamp;
use serde_json::json;

use super::*;

fn policy(rules: Value) -> policy::Policy {
    serde_json::from_value(json!({"omitStages": ["ResponseStarted"], "rules": rules})).unwrap()
}

fn request(user: &str, verb: &str, resource: &str, namespace: &str) -> Attributes {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    Attributes {
        user: Arc::new(User { name: user.to_owned(), groups: vec!["g".to_owned()], ..User::default() }),
        verb: verb.into(),
        resource: resource.into(),
        subresource: subresource.into(),
        namespace: namespace.into(),
        is_resource: true,
        ..Attributes::default()
    }
}

#[test]
fn the_first_rule_that_matches_counts() {
    let policy = policy(json!([
        {"level": "None", "users": ["probe"]},
        {"level": "Request", "resources": [{"group": "", "resources": ["pods"]}], "namespaces": ["a"]},
        {"level": "RequestResponse", "resources": [{"group": "", "resources": ["pods/*", "*/scale"]}]},
        {"level": "Metadata", "resources": [{"group": "", "resources": ["secrets"], "resourceNames": ["s"]}]},
        {"level": "Metadata", "userGroups": ["other"]},
        {"level": "Metadata", "nonResourceURLs": ["/api*", "/version"]},
    ]));
    assert!(policy.validate().is_empty());
    for (request, level) in [
        (request("probe", "get", "pods", "a"), Level::None),
        (request("jane", "get", "pods", "a"), Level::Request),
        (request("jane", "get", "pods", "b"), Level::RequestResponse),
        (request("jane", "get", "pods/log", "a"), Level::RequestResponse),
        (request("jane", "get", "deployments/scale", "b"), Level::RequestResponse),
        (Attributes { name: "s".into(), ..request("jane", "get", "secrets", "a") }, Level::Metadata),
        (request("jane", "list", "secrets", "a"), Level::None),
        (Attributes { path: "/apis/apps".to_owned(), ..Attributes::default() }, Level::Metadata),
        (Attributes { path: "/version".to_owned(), ..Attributes::default() }, Level::Metadata),
        (Attributes { path: "/healthz".to_owned(), ..Attributes::default() }, Level::None),
    ] {
        let verdict = policy.evaluate(&request);
        assert_eq!(verdict.level, level, "{request:?}");
        assert!(verdict.omits(Stage::ResponseStarted) && !verdict.omits(Stage::ResponseComplete));
    }
}

#[test]
fn rules_without_sense_are_told() {
    let policy = policy(json!([
        {"level": "Some"},
        {},
        {"level": "None", "nonResourceURLs": ["logs", "/a*b"]},
        {"level": "None", "resources": [{"group": "", "resourceNames": ["a"]}], "omitStages": ["Late"]},
        {"level": "None", "namespaces": ["a"], "nonResourceURLs": ["/a"]},
    ]));
    let fields: Vec<String> = policy.validate().iter().map(|error| error.field.to_string()).collect();
    assert_eq!(
        fields,
        [
            "rules[0].level",
            "rules[1].level",
            "rules[2].nonResourceURLs[0]",
            "rules[2].nonResourceURLs[1]",
            "rules[3].resources.resourceNames",
            "rules[3].omitStages[0]",
            "rules[4].nonResourceURLs"
        ]
    );
}

/// Keeps what it is given.
#[derive(Default)]
struct Kept(Mutex<Vec<Value>>);

#[async_trait::async_trait]
impl Backend for Kept {
    async fn process(&self, events: Vec<Arc<Event>>) -> bool {
        self.0.lock().extend(events.iter().map(|event| serde_json::to_value(event).unwrap()));
        true
    }
}

async fn recorded(level: &str, omits: bool) -> Vec<Value> {
    let kept = Arc::new(Kept::default());
    let rules = json!([{"level": level, "omitManagedFields": omits}]);
    let auditor = Arc::new(Auditor::new(policy(rules), vec![kept.clone()]));
    let context = Arc::new(Context::new(true));
    let mut headers = http::HeaderMap::new();
    headers.insert("user-agent", "tests".parse().unwrap());
    headers.insert("x-forwarded-for", "192.0.2.1, nonsense, 192.0.2.2".parse().unwrap());
    let described = Described::new(
        "id".to_owned(),
        Timestamp::UNIX_EPOCH,
        &"/api/v1/namespaces/a/pods?x=y".parse().unwrap(),
        &headers,
        Some([192, 0, 2, 2].into()),
    );
    context.begin(&auditor, &request("jane", "create", "pods", "a"), described);
    context.stage(Stage::RequestReceived).await;
    scope(context.clone(), async { annotate("k", "v") }).await;
    let object = json!({"metadata": {"name": "p", "uid": "u", "managedFields": [{}]}});
    context.request_object(object.clone());
    context.stage(Stage::ResponseStarted).await;
    context.response(201, None, Some(json!({"items": [object]})));
    context.stage(Stage::ResponseComplete).await;
    let kept = kept.0.lock();
    kept.clone()
}

#[tokio::test]
async fn events_say_as_much_as_their_level() {
    let events = recorded("Metadata", false).await;
    assert_eq!(events.len(), 2);
    let (first, last) = (&events[0], &events[1]);
    assert_eq!(
        (&first["kind"], &first["apiVersion"], &first["auditID"], &first["level"], &first["stage"]),
        (
            &json!("Event"),
            &json!("audit.k8s.io/v1"),
            &json!("id"),
            &json!("Metadata"),
            &json!("RequestReceived")
        )
    );
    assert_eq!(first["sourceIPs"], json!(["192.0.2.1", "192.0.2.2"]));
    assert_eq!(first["requestReceivedTimestamp"], "1970-01-01T00:00:00.000000Z");
    assert_eq!(first["user"], json!({"username": "jane", "groups": ["g"]}));
    assert_eq!(last["objectRef"], json!({"resource": "pods", "namespace": "a", "name": "p", "uid": "u"}));
    assert_eq!(last["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!(last["annotations"], json!({"k": "v"}));
    assert!(last.get("requestObject").is_none() && last.get("responseObject").is_none());
    let last = recorded("Request", false).await.pop().unwrap();
    assert!(last["requestObject"]["metadata"].get("managedFields").is_some());
    assert!(last.get("responseObject").is_none());
    let last = recorded("RequestResponse", true).await.pop().unwrap();
    assert!(last["requestObject"]["metadata"].get("managedFields").is_none());
    assert_eq!(last["responseObject"]["items"][0]["metadata"], json!({"name": "p", "uid": "u"}));
}

#[tokio::test]
async fn large_events_lose_their_objects_and_then_themselves() {
    let kept = Arc::new(Kept::default());
    let truncate = truncate::Truncate { max_batch: 2000, max_event: 1000, next: kept.clone() };
    let large = |annotation: usize| {
        let mut event = Event::default();
        event.request_object = Some(json!("x".repeat(900)));
        event.annotations.insert("a".to_owned(), "y".repeat(annotation));
        Arc::new(event)
    };
    truncate.process(vec![large(1), large(2000)]).await;
    let kept = kept.0.lock();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0]["annotations"]["audit.k8s.io/truncated"], "true");
    assert!(kept[0].get("requestObject").is_none());
}

#[tokio::test]
async fn notes_belong_to_the_request_and_stay() {
    let context = Arc::new(Context::new(true));
    let work = async {
        annotate("a", "1");
        annotate("a", "2");
    };
    scope(context.clone(), work).await;
    let unheard = Arc::new(Context::new(false));
    scope(unheard.clone(), async { annotate("a", "1") }).await;
    assert_eq!(unheard.annotations(), BTreeMap::new());
    annotate("b", "1");
    assert_eq!(context.annotations(), BTreeMap::from([("a".to_owned(), "1".to_owned())]));
}

#[test]
fn slow_requests_say_where_the_time_went() {
    let spent = |total: u64| {
        let context = Context::new(true);
        for (part, millis) in [
            (Part::Authentication, 5),
            (Part::Etcd, 20),
            (Part::Etcd, 40),
            (Part::MutatingWebhooks, 200),
            (Part::MutatingWebhooks, 100),
            (Part::ValidatingWebhooks, 150),
            (Part::ValidatingWebhooks, 250),
            (Part::ValidatingWebhooks, 50),
        ] {
            context.spend(part, Duration::from_millis(millis));
        }
        context.tell_latency(Duration::from_millis(total));
        context.annotations()
    };
    assert!(spent(500).is_empty());
    let told = [
        ("authentication", "5ms"),
        ("etcd", "60ms"),
        ("mutating-webhook", "300ms"),
        ("total", "1.5s"),
        ("validating-webhook", "250ms"),
    ];
    let told = told.map(|(part, time)| (format!("apiserver.latency.k8s.io/{part}"), time.to_owned()));
    assert_eq!(spent(1500), BTreeMap::from(told));
    let silent = Context::new(false);
    silent.spend(Part::Queue, Duration::from_secs(1));
    silent.tell_latency(Duration::from_secs(2));
    assert!(silent.annotations().is_empty());
}
