use bytes::Bytes;
use futures::StreamExt;
use http_body_util::StreamBody;
use hyper::body::Frame;

use super::*;
use crate::{
    engine::testing::TestServer,
    proxy::dial::{Outgoing, Target, empty},
};

#[test]
fn bearer_tokens_are_read_as_upstream_does() {
    for (header, token) in [
        (&b"Bearer abc"[..], Some("abc")),
        (b"bearer  abc", None),
        (b" BEARER abc def", Some("abc")),
        (b"Bearer ", None),
        (b"Basic abc", None),
        (b"abc", None),
        (b"Bearer \xff", Some("\u{fffd}")),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_bytes(header).unwrap());
        assert_eq!(bearer(&headers).as_deref(), token, "{header:?}");
    }
}

#[test]
fn clients_may_ask_for_less_time() {
    let of = |query: &str| {
        let info = RequestInfo::new(&http::Method::GET, MAPS, query);
        deadline(&info, Duration::from_secs(60)).map_err(|e| e.code)
    };
    for (query, want) in [
        ("", Ok(60)),
        ("timeout=5s", Ok(5)),
        ("timeout=0s", Ok(60)),
        ("timeout=10m", Ok(60)),
        ("timeout=5", Err(400)),
        ("timeout=soon", Err(400)),
    ] {
        assert_eq!(of(query), want.map(Duration::from_secs), "{query}");
    }
}

struct Client {
    server: TestServer,
    target: Target,
}

impl Client {
    /// Writes that may begin now.
    fn writes(&self) -> usize {
        match &self.server.server.in_flight {
            InFlight::Bounded { writes, .. } => writes.available_permits(),
            InFlight::Fair(_) => unreachable!("the filter is off"),
        }
    }

    async fn start(flags: &[&str]) -> Self {
        let server = TestServer::start_with(flags).await;
        let target = Target {
            host: server.address.ip().to_string(),
            port: server.address.port(),
            tls: Some(server.server.kubelets.stranger()),
            server_name: None,
            timeout: Duration::from_secs(5),
            route: crate::egress::Route::default(),
        };
        Self { server, target }
    }

    async fn ask(&self, request: http::request::Builder, body: Outgoing) -> (u16, String) {
        let request = request.header(header::HOST, self.target.authority()).body(body).unwrap();
        let answer = self.target.request(request, &self.server.server.tasks).await.unwrap();
        assert!(answer.response.headers().contains_key(AUDIT_ID));
        let code = answer.response.status().as_u16();
        let body = answer.response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(body.to_vec()).unwrap())
    }
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(flavor = "multi_thread")]
async fn requests_meet_their_limits() {
    let client = Client::start(&[
        "--request-timeout=3s",
        "--enable-priority-and-fairness=false",
        "--max-mutating-requests-inflight=1",
    ])
    .await;
    let (code, body) = client.ask(Request::get("/readyz?verbose&exclude=etcd&exclude=ping"), empty()).await;
    assert!(
        code == 200 && body.contains("[+]etcd excluded: ok") && body.contains("readyz check passed"),
        "{body}"
    );
    assert_eq!(client.ask(Request::get("/livez/etcd"), empty()).await, (200, "ok".to_owned()));
    assert_eq!(client.ask(Request::get("/livez/shutdown"), empty()).await.0, 404);

    let token = Request::get(MAPS).header(header::AUTHORIZATION, "Bearer nobodys");
    assert_eq!(client.ask(token, empty()).await.0, 401);
    assert_eq!(client.ask(Request::get(MAPS), empty()).await.0, 200);

    // Too much is refused, whether announced or only found out.
    let large = Request::post(MAPS).header(header::CONTENT_TYPE, "application/json");
    let announced = large.header(header::CONTENT_LENGTH, MAX_BODY + 1);
    assert_eq!(client.ask(announced, never()).await.0, 413);
    let whole = Bytes::from(vec![b' '; MAX_BODY + 1]);
    let chunks = futures::stream::iter([Ok(Frame::data(whole))]).chain(futures::stream::pending());
    let large = Request::post(MAPS).header(header::CONTENT_TYPE, "application/json");
    assert_eq!(client.ask(large, BodyExt::boxed_unsync(StreamBody::new(chunks))).await.0, 413);

    // A body that does not come holds its place until the timeout, and no other write is served meanwhile.
    let slow = client.ask(Request::post(MAPS), never());
    let other = async {
        while client.writes() > 0 {
            tokio::task::yield_now().await;
        }
        client.ask(Request::post(MAPS), empty()).await
    };
    let ((code, body), (refused, why)) = tokio::join!(slow, other);
    assert!(code == 504 && body.contains("request did not complete within the allotted timeout"), "{body}");
    assert!(refused == 429 && why.contains("Too many requests"), "{refused} {why}");
    assert_eq!(client.writes(), 1);
}

/// A body that never comes.
fn never() -> Outgoing {
    BodyExt::boxed_unsync(StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, hyper::Error>>()))
}
