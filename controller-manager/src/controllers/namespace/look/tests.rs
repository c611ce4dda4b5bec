//! What is found, with how many lists.

use http::{Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

/// A server with objects, given as resource and namespace, that counts its lists.
struct Server {
    objects: Vec<(&'static str, String)>,
    lists: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn looks(objects: Vec<(&'static str, String)>) -> (Arc<Looks>, Arc<Mutex<Vec<String>>>) {
        let lists: Arc<Mutex<Vec<String>>> = Arc::default();
        let server = Arc::new(Server { objects, lists: lists.clone() });
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, std::convert::Infallible>(server.answer(&request)) }
        });
        (Arc::new(Looks::new(kube::Client::new(service, "default"), Vec::new)), lists)
    }

    fn answer(&self, request: &Request<Body>) -> Response<Body> {
        let path = request.uri().path();
        if path == "/api" || path == "/apis" {
            return respond(StatusCode::OK, &discovery(path == "/api"));
        }
        let parts: Vec<&str> = path.split('/').collect();
        let (namespace, resource) = match parts[..] {
            [.., "namespaces", namespace, resource] => (Some(namespace), resource),
            [.., resource] => (None, resource),
            [] => (None, ""),
        };
        self.lists.lock().push(format!("{resource} {}", namespace.unwrap_or("*")));
        if resource == "refused" {
            let status =
                json!({"kind": "Status", "status": "Failure", "code": 500, "message": "no", "reason": "x"});
            return respond(StatusCode::INTERNAL_SERVER_ERROR, &status);
        }
        let limit = request.uri().query().and_then(|q| q.strip_prefix("limit=")?.parse().ok()).unwrap_or(0);
        let is = |(kind, place): &&(&str, String)| {
            *kind == resource && namespace.is_none_or(|namespace| namespace == place)
        };
        let all: Vec<Value> = self
            .objects
            .iter()
            .filter(is)
            .map(|(_, place)| json!({"metadata": {"name": "n", "namespace": place, "labels": 7}}))
            .collect();
        let rest = if all.len() > limit { "more" } else { "" };
        let items: Vec<&Value> = all.iter().take(limit).collect();
        respond(StatusCode::OK, &json!({"metadata": {"continue": rest}, "items": items}))
    }
}

fn respond(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string().into_bytes()));
    *response.status_mut() = status;
    response
}

fn discovery(core: bool) -> Value {
    let resource = |name: &str, scope: &str, verbs: &[&str]| json!({"resource": name, "scope": scope, "verbs": verbs, "responseKind": {"kind": "K"}});
    let all = ["delete", "list"];
    let resources = match core {
        true => vec![
            resource("configmaps", "Namespaced", &all),
            resource("pods", "Namespaced", &all),
            resource("nodes", "Cluster", &all),
        ],
        false => vec![resource("metrics", "Namespaced", &["list"]), resource("refused", "Namespaced", &all)],
    };
    let group = if core { "" } else { "g" };
    json!({"items": [{"metadata": {"name": group}, "versions": [{"version": "v1", "resources": resources}]}]})
}

/// Asks while another round is on its way.
async fn together(looks: &Looks, names: &[&str]) -> Vec<Arc<Round>> {
    let turn = looks.turn.lock().await;
    let mut asked =
        Box::pin(futures::future::join_all(names.iter().map(|name| looks.look(name, Instant::now()))));
    assert!(futures::poll!(asked.as_mut()).is_pending());
    drop(turn);
    asked.await
}

fn names(found: &Found) -> Vec<&str> {
    found.resources.iter().map(|resource| resource.resource.as_str()).collect()
}

#[tokio::test]
async fn one_namespace_is_looked_at_by_itself() {
    let (looks, lists) =
        Server::looks(vec![("configmaps", "a".into()), ("pods", "a".into()), ("pods", "b".into())]);
    let round = looks.look("a", Instant::now()).await;
    let found = round.of("a");
    assert_eq!(names(&found), ["pods", "configmaps"]);
    assert_eq!(found.failures.len(), 1);
    assert!(found.failures[0].starts_with("refused: "));
    assert!(names(&round.of("b")).is_empty());
    assert_eq!(*lists.lock(), ["pods a", "configmaps a", "refused a"]);
}

#[tokio::test]
async fn those_that_ask_together_are_answered_together() {
    let (looks, lists) = Server::looks(vec![("configmaps", "a".into()), ("pods", "c".into())]);
    let rounds = together(&looks, &["a", "b", "c"]).await;
    let found: Vec<Vec<&str>> =
        rounds[0].found.get("a").into_iter().chain(rounds[2].found.get("c")).map(names).collect();
    assert_eq!(found, [["configmaps"], ["pods"]]);
    assert!(rounds[1].of("b").resources.is_empty());
    // What cannot be listed across namespaces is tried in each.
    assert_eq!(*lists.lock(), ["pods *", "configmaps *", "refused *", "refused a", "refused b", "refused c"]);
    assert!(Arc::ptr_eq(&rounds[0], &rounds[2]));
}

#[tokio::test]
async fn long_lists_are_not_read_to_their_end() {
    let mut objects: Vec<_> = (0..SHORT).map(|_| ("pods", "other".to_owned())).collect();
    objects.push(("pods", "b".to_owned()));
    let (looks, lists) = Server::looks(objects);
    let rounds = together(&looks, &["a", "b"]).await;
    assert!(rounds[0].of("a").resources.is_empty());
    assert_eq!(names(&rounds[1].of("b")), ["pods"]);
    let pods: Vec<String> = lists.lock().iter().filter(|list| list.starts_with("pods")).cloned().collect();
    assert_eq!(pods, ["pods *", "pods a", "pods b"]);
}

#[tokio::test]
async fn an_answer_is_never_older_than_its_question() {
    let (looks, _) = Server::looks(Vec::new());
    let first = looks.look("a", Instant::now()).await;
    let second = looks.look("a", Instant::now()).await;
    assert!(!Arc::ptr_eq(&first, &second));
    // Who is given up while it waits takes nobody along.
    let turn = looks.turn.lock().await;
    let mut lost = Box::pin(looks.look("a", Instant::now()));
    assert!(futures::poll!(lost.as_mut()).is_pending());
    let mut kept = Box::pin(looks.look("b", Instant::now()));
    assert!(futures::poll!(kept.as_mut()).is_pending());
    drop((lost, turn));
    assert!(kept.await.found.contains_key("b"));
}

#[tokio::test(start_paused = true)]
async fn those_that_go_are_answered_for_before_they_ask() {
    let (_, lists) = Server::looks(Vec::new());
    let server = Server { objects: vec![("pods", "b".into())], lists: lists.clone() };
    let server = Arc::new(server);
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = server.clone();
        async move { Ok::<_, std::convert::Infallible>(server.answer(&request)) }
    });
    let going = || vec!["a".to_owned(), "b".to_owned()];
    let looks = Looks::new(kube::Client::new(service, "default"), going);
    let before = Instant::now();
    let first = looks.look("a", before).await;
    assert_eq!(names(&first.of("b")), ["pods"]);
    let asked = lists.lock().len();
    assert!(Arc::ptr_eq(&first, &looks.look("b", before).await));
    assert_eq!(lists.lock().len(), asked, "no list for the one that came later");
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    assert!(!Arc::ptr_eq(&first, &looks.look("b", Instant::now()).await), "that would be too old");
    assert!(!Arc::ptr_eq(&first, &looks.look("c", before).await), "it said nothing of this one");
}
