//! The front, as requests of all kinds come to it and the server ends.

use super::*;

fn request(method: Method, path: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

fn front(options: Options) -> Front {
    Front::new(options)
}

#[test]
fn browsers_of_allowed_origins_are_told_what_they_may() {
    let front = front(Options {
        origins: vec![Regex::new("//a\\.test$").unwrap(), Regex::new("^https://b\\.test(:|$)").unwrap()],
        ..Options::default()
    });
    for (origin, allowed) in [
        ("https://a.test", true),
        ("http://a.test", true),
        ("https://a.test.evil", false),
        ("https://b.test:8443", true),
        ("http://b.test", false),
        ("", false),
    ] {
        let sent = request(Method::OPTIONS, "/api", &[("origin", origin)]);
        let found = front.allowed_origin(sent.headers());
        assert_eq!(found.is_some(), allowed, "{origin}");
        let answer = front.at_the_door(&sent, found.is_some());
        assert_eq!(answer.map(|answer| answer.status().as_u16()), allowed.then_some(204), "{origin}");
        let mut headers = HeaderMap::new();
        front.mark(&mut headers, found);
        assert_eq!(headers.get("access-control-allow-origin").map(|o| o == origin), allowed.then_some(true));
        assert_eq!(headers.len(), if allowed { 5 } else { 0 });
    }
    // A request that is none of these questions is served.
    let get = request(Method::GET, "/api", &[("origin", "https://a.test")]);
    assert!(front.at_the_door(&get, true).is_none());
    assert!(front.allowed_origin(&HeaderMap::new()).is_none());
}

#[test]
fn transport_security_is_said_once() {
    let front = front(Options {
        transport_security: Some(HeaderValue::from_static("max-age=1; preload")),
        ..Options::default()
    });
    let mut headers = HeaderMap::new();
    front.mark(&mut headers, None);
    assert_eq!(headers["strict-transport-security"], "max-age=1; preload");
    headers.insert("strict-transport-security", HeaderValue::from_static("of the backend"));
    front.mark(&mut headers, None);
    assert_eq!(headers["strict-transport-security"], "of the backend");
}

#[tokio::test]
async fn a_closed_front_turns_all_but_probes_away_and_waits_for_what_is_served() {
    let closing = front(Options { turn_away: true, ..Options::default() });
    let info = |path: &str, query: &str| RequestInfo::new(&Method::GET, path, query);
    let held = closing.hold(&info("/api/v1/pods", "")).unwrap();
    assert!(closing.hold(&info("/api/v1/pods", "watch=1")).is_none());
    let pods = request(Method::GET, "/api/v1/pods", &[]);
    assert!(closing.at_the_door(&pods, false).is_none());
    let mut end = std::pin::pin!(closing.close(Duration::from_secs(600)));
    assert!(futures::poll!(end.as_mut()).is_pending());
    let refused = closing.at_the_door(&pods, false).unwrap();
    assert_eq!(refused.status(), 429);
    assert_eq!(
        (&refused.headers()["retry-after"], &refused.headers()["connection"]),
        (&"5".parse().unwrap(), &"close".parse().unwrap())
    );
    let probe = request(Method::GET, "/readyz/etcd", &[]);
    let peer = request(Method::GET, "/api", &[("user-agent", "kube-apiserver/v1.36.0")]);
    assert!(closing.at_the_door(&probe, false).is_none() && closing.at_the_door(&peer, false).is_none());
    assert!(futures::poll!(end.as_mut()).is_pending());
    drop(held);
    end.await;
    // Without the flag nobody is turned away.
    let open = front(Options::default());
    open.close(Duration::from_secs(600)).await;
    assert!(open.at_the_door(&pods, false).is_none() && open.is_plain());
}

#[tokio::test]
async fn watches_end_one_group_after_the_other() {
    let grace = Duration::from_secs(100);
    assert_eq!((pause(grace) * 16, pause(Duration::ZERO)), (Duration::from_secs(80), Duration::ZERO));
    let server = CancellationToken::new();
    let ending = front(Options { watch_grace: Duration::from_secs(600), ..Options::default() });
    let ends: Vec<CancellationToken> = (0..400).map(|_| ending.end_of_watch(&server)).collect();
    // Ends of the first group come at once; those of the others wait for theirs.
    let mut end = std::pin::pin!(ending.close(Duration::from_secs(60)));
    assert!(futures::poll!(end.as_mut()).is_pending());
    let ended = ends.iter().filter(|end| end.is_cancelled()).count();
    assert!(ended > 0 && ended < 200, "{ended} of 400");
    let quick = front(Options { watch_grace: Duration::from_millis(1), ..Options::default() });
    let last = quick.end_of_watch(&server);
    quick.close(Duration::from_secs(60)).await;
    assert!(last.is_cancelled() && !server.is_cancelled());
    let at_once = front(Options::default()).end_of_watch(&server);
    server.cancel();
    assert!(at_once.is_cancelled());
}

#[test]
fn nobody_is_served_before_the_server_is_ready_where_that_is_wanted() {
    let waiting = front(Options { wait_until_ready: true, ..Options::default() });
    let info = |path: &str| RequestInfo::new(&Method::GET, path, "");
    let user = User { name: "ann".to_owned(), ..User::default() };
    let refused = waiting.wait_until_ready(&info("/api"), &user, false).unwrap_err();
    assert_eq!((refused.code, refused.details.unwrap().retry_after_seconds), (503, 5));
    for (path, user, ready) in
        [("/api", &user, true), ("/readyz", &user, false), ("/api", &User::apiserver(), false)]
    {
        assert!(waiting.wait_until_ready(&info(path), user, ready).is_ok(), "{path}");
    }
    assert!(front(Options::default()).wait_until_ready(&info("/api"), &user, false).is_ok());
}

#[test]
fn chance_sends_away_connections_of_http2_only() {
    let always = front(Options { goaway: 1.0, ..Options::default() });
    let never = front(Options { goaway: 0.0, ..Options::default() });
    let mut asked = request(Method::GET, "/api", &[]);
    assert!(!always.sends_away(&asked));
    *asked.version_mut() = Version::HTTP_2;
    assert!(always.sends_away(&asked) && !never.sends_away(&asked));
}
