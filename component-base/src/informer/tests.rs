//! The informer against a server that speaks the list and watch wire format over real HTTP.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use tokio::sync::mpsc;

use super::*;

type ServerBody = UnsyncBoxBody<Bytes, Infallible>;

/// One scripted answer: status, and the chunks of the body; the stream stays open if `hold`.
struct Answer {
    status: u16,
    chunks: Vec<String>,
    hold: bool,
}

fn answer(status: u16, chunks: &[&str], hold: bool) -> Answer {
    Answer { status, chunks: chunks.iter().map(|chunk| (*chunk).to_owned()).collect(), hold }
}

/// Serves the answers in order; sends the URIs it was asked.
async fn serve(tasks: &Tasks, answers: Vec<Answer>) -> (kube::Client, mpsc::UnboundedReceiver<String>) {
    crate::tls::install_provider();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, uris) = mpsc::unbounded_channel();
    let answers = Arc::new(Mutex::new(VecDeque::from(answers)));
    let group = tasks.clone();
    tasks.spawn("server", async move {
        let drain = group.drain();
        while let Some(Ok((stream, _))) = drain.run_until_cancelled(listener.accept()).await {
            let (answers, asked) = (answers.clone(), asked.clone());
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                asked.send(request.uri().path_and_query().unwrap().to_string()).unwrap();
                let answer = answers.lock().pop_front();
                async move { Ok::<_, Infallible>(respond(answer)) }
            });
            group.spawn_contained("connection", async move {
                let io = hyper_util::rt::TokioIo::new(stream);
                let _closed = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
            });
        }
    });
    let config = kube::Config::new(format!("http://{address}").parse().unwrap());
    let client = crate::client::from_config(config, &crate::client::ClientOptions::new("test")).unwrap();
    (client, uris)
}

fn respond(answer: Option<Answer>) -> Response<ServerBody> {
    let answer = answer.unwrap_or_else(|| self::answer(200, &[], true));
    let frames: Vec<_> = answer.chunks.into_iter().map(|chunk| Ok(Frame::data(Bytes::from(chunk)))).collect();
    let frames = futures::stream::iter(frames);
    let body = if answer.hold {
        StreamBody::new(futures::StreamExt::chain(frames, futures::stream::pending())).boxed_unsync()
    } else {
        StreamBody::new(frames).boxed_unsync()
    };
    Response::builder().status(answer.status).body(body).unwrap()
}

fn config_map(name: &str, version: u32) -> String {
    format!(
        r#"{{"metadata":{{"namespace":"ns","name":"{name}","resourceVersion":"{version}","managedFields":[{{}}]}}}}"#
    )
}

fn page(items: &[String], version: u32, next: &str) -> String {
    let items = items.join(",");
    format!(
        r#"{{"kind":"ConfigMapList","metadata":{{"resourceVersion":"{version}","continue":"{next}"}},"items":[{items}]}}"#
    )
}

fn watch_event(kind: &str, object: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

/// Runs an informer over the answers and returns the first `count` events as text, and the URIs asked.
async fn run(answers: Vec<Answer>, count: usize) -> (Vec<String>, Vec<String>, Informer<ConfigMap>) {
    run_with(answers, count, |informers| informers).await
}

async fn run_with(
    answers: Vec<Answer>,
    count: usize,
    choose: fn(Informers) -> Informers,
) -> (Vec<String>, Vec<String>, Informer<ConfigMap>) {
    let tasks = Tasks::new();
    let (client, mut uris) = serve(&tasks, answers).await;
    let informers = choose(Informers::new(client, &tasks));
    let informer =
        informers.get::<ConfigMap>(ListWatch { labels: Some("a=b".into()), ..ListWatch::default() });
    informer
        .add_index("first", |object| vec![object.metadata.name.clone().unwrap_or_default()[..1].to_owned()]);
    let (sender, mut events) = mpsc::unbounded_channel();
    informer.on_event(move |event| {
        let name = event.object().metadata.name.clone().unwrap_or_default();
        let version = version_of(&event.object().metadata);
        let text = match event {
            Event::Added { initial, .. } => format!("+{name}@{version} initial={initial}"),
            Event::Updated { old, .. } => format!("~{name}@{}->{version}", version_of(&old.metadata)),
            Event::Deleted { unknown_state, .. } => format!("-{name}@{version} unknown={unknown_state}"),
        };
        // The receiver is gone once the test has seen enough.
        let _enough = sender.send(text).is_err();
    });
    let synced = tokio::time::timeout(Duration::from_secs(20), informers.wait_synced()).await;
    synced.expect("the informer syncs");
    let mut seen = Vec::new();
    while seen.len() < count {
        let event = tokio::time::timeout(Duration::from_secs(20), events.recv()).await;
        seen.push(event.expect("an event in time").expect("an open channel"));
    }
    let mut asked = Vec::new();
    while let Ok(uri) = uris.try_recv() {
        asked.push(uri);
    }
    tasks.shutdown(Duration::from_secs(1)).await;
    (seen, asked, informer)
}

#[tokio::test]
async fn lists_pages_then_watches_across_chunk_borders() {
    let event = watch_event("ADDED", &config_map("c", 12));
    let (left, right) = event.split_at(20);
    let answers = vec![
        answer(200, &[&page(&[config_map("a", 1)], 10, "more")], false),
        answer(200, &[&page(&[config_map("b", 2), r#"{"metadata":{"name":7}}"#.into()], 10, "")], false),
        answer(
            200,
            &[
                left,
                right,
                &watch_event("MODIFIED", &config_map("a", 13)),
                &watch_event("ADDED", r#"{"metadata":{"name":"bad"},"data":3}"#),
                &watch_event("DELETED", &config_map("b", 14)),
                &watch_event("BOOKMARK", r#"{"metadata":{"resourceVersion":"20"}}"#),
                &watch_event("ADDED", &config_map("d", 21)),
            ],
            true,
        ),
    ];
    let (seen, asked, informer) = run(answers, 6).await;
    assert_eq!(
        seen,
        [
            "+a@1 initial=true",
            "+b@2 initial=true",
            "+c@12 initial=false",
            "~a@1->13",
            "-b@14 unknown=false",
            "+d@21 initial=false"
        ]
    );
    assert_eq!(asked[0], "/api/v1/configmaps?limit=500&labelSelector=a%3Db");
    assert_eq!(asked[1], "/api/v1/configmaps?limit=500&continue=more&labelSelector=a%3Db");
    assert!(asked[2].contains("watch=true") && asked[2].contains("resourceVersion=10"), "{}", asked[2]);
    let store = informer.store();
    assert_eq!(store.len(), 3);
    assert_eq!(store.in_namespace("ns").len(), 3);
    assert!(store.in_namespace("other").is_empty());
    assert_eq!(store.by_index("first", "c").len(), 1);
    assert!(store.by_index("first", "b").is_empty());
    assert!(store.get(&ObjectKey::new("ns", "a")).unwrap().metadata.managed_fields.is_none());
    assert!(informer.seen("21") && !informer.seen("22"));
    informer.wait_seen(&ObjectKey::new("ns", "a"), "13").await;
}

#[tokio::test]
async fn an_expired_watch_lists_again_and_tells_the_differences() {
    let gone = r#"{"kind":"Status","code":410,"reason":"Expired","message":"too old"}"#;
    let answers = vec![
        answer(200, &[&page(&[config_map("a", 1), config_map("b", 2), config_map("c", 3)], 10, "")], false),
        answer(200, &[&watch_event("ERROR", gone)], false),
        answer(200, &[&page(&[config_map("a", 1), config_map("c", 30), config_map("d", 31)], 40, "")], false),
    ];
    let (seen, _, informer) = run(answers, 6).await;
    assert_eq!(seen[3..], ["~c@3->30", "+d@31 initial=false", "-b@2 unknown=true"]);
    assert!(informer.seen("40"));
}

#[tokio::test]
async fn a_list_that_is_older_than_what_is_known_is_asked_for_again() {
    let gone = r#"{"kind":"Status","code":410,"reason":"Expired","message":"too old"}"#;
    let answers = vec![
        answer(200, &[&page(&[config_map("a", 9)], 10, "")], false),
        answer(200, &[&watch_event("ERROR", gone)], false),
        answer(200, &[&page(&[config_map("b", 3)], 5, "")], false),
        answer(200, &[&page(&[config_map("a", 12)], 12, "")], false),
    ];
    let (seen, _, informer) = run(answers, 2).await;
    assert_eq!(seen, ["+a@9 initial=true", "~a@9->12"]);
    assert_eq!(informer.store().len(), 1);
}

#[tokio::test]
async fn a_failing_server_is_retried_and_a_closed_watch_resumes_where_it_was() {
    let answers = vec![
        answer(500, &["{}"], false),
        answer(200, &[&page(&[], 5, "")], false),
        answer(200, &[&watch_event("ADDED", &config_map("a", 7))], false),
        answer(200, &[&watch_event("ADDED", &config_map("b", 8))], true),
    ];
    let (seen, asked, _) = run(answers, 2).await;
    assert_eq!(seen, ["+a@7 initial=false", "+b@8 initial=false"]);
    assert!(asked[2].contains("resourceVersion=5") && asked[3].contains("resourceVersion=7"));
}

#[tokio::test]
async fn the_same_selection_is_shared() {
    let tasks = Tasks::new();
    let (client, _uris) = serve(&tasks, Vec::new()).await;
    let informers = Informers::new(client, &tasks);
    let all = informers.get::<ConfigMap>(ListWatch::default());
    let again = informers.get::<ConfigMap>(ListWatch::default());
    let other =
        informers.get::<ConfigMap>(ListWatch { namespace: Some("ns".into()), ..ListWatch::default() });
    assert!(Arc::ptr_eq(&all.inner, &again.inner) && !Arc::ptr_eq(&all.inner, &other.inner));
    let resource =
        GroupVersionResource { group: "apps".into(), version: "v1".into(), resource: "deployments".into() };
    assert_eq!(
        informers.metadata(&resource, ListWatch::default()).inner.source.path,
        "/apis/apps/v1/deployments"
    );
}

#[tokio::test]
async fn a_streamed_list_ends_with_its_bookmark_and_goes_on_as_a_watch() {
    let end = r#"{"metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}"#;
    let answers = vec![answer(
        200,
        &[
            &watch_event("ADDED", &config_map("a", 1)),
            &watch_event("ADDED", &config_map("b", 2)),
            &watch_event("BOOKMARK", end),
            &watch_event("MODIFIED", &config_map("b", 12)),
        ],
        true,
    )];
    let (seen, asked, informer) = run_with(answers, 3, Informers::with_streaming_lists).await;
    assert_eq!(seen, ["+a@1 initial=true", "+b@2 initial=true", "~b@2->12"]);
    assert!(asked[0].contains("sendInitialEvents=true&resourceVersionMatch=NotOlderThan"), "{}", asked[0]);
    assert_eq!((asked.len(), informer.store().len()), (1, 2));
}

#[tokio::test]
async fn a_server_that_refuses_to_stream_is_paged() {
    let refusals = [
        (422, r#"{"kind":"Status","code":422,"message":"sendInitialEvents is forbidden"}"#),
        (500, r#"{"kind":"Status","code":500,"message":"the required storage feature is disabled"}"#),
    ];
    for (code, refusal) in refusals {
        let answers = vec![
            answer(code, &[refusal], false),
            answer(200, &[&page(&[config_map("a", 1)], 5, "")], false),
            answer(200, &[], true),
        ];
        let (seen, asked, _) = run_with(answers, 1, Informers::with_streaming_lists).await;
        assert_eq!(seen, ["+a@1 initial=true"], "{code}");
        assert!(asked[1].starts_with("/api/v1/configmaps?limit=500"), "{}", asked[1]);
    }
}

#[tokio::test]
async fn conditions_that_are_not_whole_hide_no_object() {
    let service = |name: &str, condition: &str| {
        format!(
            r#"{{"metadata":{{"namespace":"ns","name":"{name}","resourceVersion":"1"}},"status":{{"conditions":[{condition}]}}}}"#
        )
    };
    let items = [
        service("absent", r#"{"type":"T","status":"True"}"#),
        service(
            "null",
            r#"{"type":"T","status":"True","reason":"R","message":"M","lastTransitionTime":null}"#,
        ),
        service("wrong", r#"{"type":"T","status":"True","lastTransitionTime":7}"#),
    ];
    let tasks = Tasks::new();
    let (client, _uris) = serve(&tasks, vec![answer(200, &[&page(&items, 10, "")], false)]).await;
    let informers = Informers::new(client, &tasks);
    let informer = informers.get::<Service>(ListWatch::default());
    let synced = tokio::time::timeout(Duration::from_secs(20), informers.wait_synced()).await;
    synced.expect("the informer syncs");
    let reason = |name: &str| {
        let service = informer.store().get(&ObjectKey::new("ns", name))?;
        Some(service.status.as_ref()?.conditions.as_ref()?.first()?.reason.clone())
    };
    assert_eq!(["absent", "null", "wrong"].map(reason), [Some(String::new()), Some("R".into()), None]);
    tasks.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn what_is_stopped_asks_no_more_and_is_had_anew() {
    let tasks = Tasks::new();
    let first = page(&[config_map("a", 1)], 10, "");
    let answers = vec![answer(200, &[&first], false), answer(404, &[], false)];
    let (client, mut uris) = serve(&tasks, answers).await;
    let informers = Informers::new(client, &tasks);
    let within = |future| tokio::time::timeout(Duration::from_secs(20), future);
    let gone = informers.get::<ConfigMap>(ListWatch::default());
    within(informers.wait_synced()).await.expect("the informer syncs");
    // The list, and the watch that finds nothing there.
    for _ in 0..2 {
        uris.recv().await.unwrap();
    }
    informers.stop(&gone);
    assert!(gone.is_stopped());
    assert_eq!(gone.store().len(), 1, "its objects stay");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(uris.try_recv().is_err(), "it would have tried again by now");

    let anew = informers.get::<ConfigMap>(ListWatch::default());
    assert!(!anew.is_stopped() && !Arc::ptr_eq(&anew.inner, &gone.inner));
    informers.stop(&gone);
    assert!(Arc::ptr_eq(&informers.get::<ConfigMap>(ListWatch::default()).inner, &anew.inner));
    tasks.shutdown(Duration::from_secs(1)).await;
}
