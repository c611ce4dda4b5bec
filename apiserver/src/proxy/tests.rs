//! The ways elsewhere, with a hyper server standing in as the far end and a real API server in front of it.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::{Buf, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use super::{Connect, dial, dial::Target};
use crate::{engine::testing::TestServer, request_path::info::RequestInfo, response, response::Body};

/// A kubelet's answers.
async fn kubelet(request: Request<Incoming>, mut go_on: watch::Receiver<bool>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    match path.as_str() {
        "/containerLogs/default/p/c" if query.contains("previous=true") => {
            response::text(400, "previous terminated container \"c\" in pod \"p\" not found")
        }
        "/containerLogs/default/p/c" => {
            let rest = async move {
                go_on.wait_for(|go| *go).await.unwrap();
                Ok(Bytes::from(query))
            };
            let first = futures::future::ready(Ok(Bytes::from("first\n")));
            let chunks = futures::stream::iter([
                futures::future::Either::Left(first),
                futures::future::Either::Right(rest),
            ]);
            response::of(200, "text/plain", response::stream(chunks.buffered(1)))
        }
        "/exec/default/p/c" if query.contains("command=nope") => {
            response::text(404, "container not found (\"c\")")
        }
        "/exec/default/p/c" if query.contains("command=cat") => {
            upgraded(request, "v4.channel.k8s.io", spdy_cat)
        }
        "/exec/default/p/c" => upgraded(request, "v4.channel.k8s.io", shout),
        "/portForward/default/p" => upgraded(request, "portforward.k8s.io", shout),
        other => response::text(404, format!("404 page not found: {other}")),
    }
}

/// Agrees to SPDY and serves the connection by `then`.
fn upgraded<F>(
    mut request: Request<Incoming>,
    protocol: &'static str,
    then: impl FnOnce(TokioIo<Upgraded>) -> F + Send + 'static,
) -> Response<Body>
where
    F: Future<Output = ()> + Send + 'static,
{
    let offered: Vec<&HeaderValue> = request.headers().get_all("x-stream-protocol-version").iter().collect();
    if request.headers().get(header::UPGRADE).is_none_or(|v| v != "SPDY/3.1")
        || !offered.iter().any(|o| *o == protocol)
    {
        return response::text(400, format!("unable to upgrade: {offered:?}"));
    }
    assert!(!request.headers().contains_key(header::AUTHORIZATION));
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::task::spawn(async move { then(TokioIo::new(upgrade.await.unwrap())).await });
    let mut response = Response::new(response::full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    headers.insert("x-stream-protocol-version", HeaderValue::from_static(protocol));
    response
}

/// Reads to a blank line or the end and answers in capitals; at the end it says so.
async fn shout(mut io: TokioIo<Upgraded>) {
    let mut buffer = BytesMut::new();
    while io.read_buf(&mut buffer).await.unwrap() > 0 {
        let loud = buffer.split().to_ascii_uppercase();
        io.write_all(&loud).await.unwrap();
        io.flush().await.unwrap();
    }
    io.write_all(b" over").await.unwrap();
    io.shutdown().await.unwrap();
}

/// `cat` over SPDY: what comes on stdin goes to stdout, its end ends all with exit code 3.
async fn spdy_cat(mut io: TokioIo<Upgraded>) {
    let mut inflate = flate2::Decompress::new(true);
    let mut streams: Vec<(String, u32)> = Vec::new();
    loop {
        let mut head = [0; 8];
        io.read_exact(&mut head).await.unwrap();
        let mut body = vec![0; u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize];
        io.read_exact(&mut body).await.unwrap();
        if head[0] & 0x80 != 0 {
            let mut plain = Vec::with_capacity(1000);
            inflate.decompress_vec(&body[10..], &mut plain, flate2::FlushDecompress::Sync).unwrap();
            let value = plain[4 + 4 + "streamtype".len() + 4..].to_vec();
            streams.push((String::from_utf8(value).unwrap(), (&body[..4]).get_u32()));
            continue;
        }
        let id = |name: &str| streams.iter().find(|(n, _)| n == name).unwrap().1.to_be_bytes();
        let stream = (&head[..4]).get_u32().to_be_bytes();
        let frame = |id: [u8; 4], flags: u8, data: &[u8]| {
            [&id, &[flags, 0, 0, u8::try_from(data.len()).unwrap()][..], data].concat()
        };
        if stream == id("resize") {
            io.write_all(&frame(id("stdout"), 0, &[b"size ", &body[..]].concat())).await.unwrap();
        } else if head[4] & 1 == 0 {
            io.write_all(&frame(id("stdout"), 0, &body)).await.unwrap();
        } else {
            let failed = json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": [
                {"reason": "ExitCode", "message": "3"}]}});
            io.write_all(&frame(id("error"), 1, failed.to_string().as_bytes())).await.unwrap();
            io.write_all(&frame(id("stdout"), 1, b"")).await.unwrap();
            io.flush().await.unwrap();
            return;
        }
        io.flush().await.unwrap();
    }
}

async fn start_kubelet(go_on: watch::Receiver<bool>) -> SocketAddr {
    component_base::tls::install_provider();
    let pair =
        component_base::tls::self_signed(std::path::Path::new(""), "kubelet", &["n".to_owned()]).unwrap();
    let served = Arc::new(component_base::tls::ServingCertificate::new(pair));
    let config =
        component_base::tls::server_config(served, &component_base::tls::Protocol::default()).unwrap();
    let mut config = config;
    config.alpn_protocols.clear();
    let (acceptor, listener) =
        (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = listener.local_addr().unwrap();
    tokio::task::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, go_on) = (acceptor.clone(), go_on.clone());
            tokio::task::spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let service = service_fn(move |request| {
                    let go_on = go_on.clone();
                    async move { Ok::<_, Infallible>(kubelet(request, go_on).await) }
                });
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                // Clients leave when they have what they want.
                drop(served.with_upgrades().await);
            });
        }
    });
    address
}

/// A server with a node and a pod on it.
async fn cluster(go_on: watch::Receiver<bool>) -> (TestServer, Target) {
    let kubelet = start_kubelet(go_on).await;
    let server = TestServer::start().await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}});
    let (_, mut node) = server.post("/api/v1/nodes", node).await;
    node["status"] = json!({"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet.port()}}});
    assert_eq!(server.put("/api/v1/nodes/n/status", node).await.0, 200);
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    server.post("/api/v1/namespaces/default/serviceaccounts", account).await;
    for (name, containers, node) in [("p", &["c"][..], "n"), ("two", &["a", "b"], "n"), ("new", &["c"], "")] {
        let containers: Vec<Value> = containers.iter().map(|c| json!({"name": c, "image": "i"})).collect();
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"automountServiceAccountToken": false, "containers": containers}});
        if !node.is_empty() {
            pod["spec"]["nodeName"] = node.into();
        }
        let (code, made) = server.post("/api/v1/namespaces/default/pods", pod).await;
        assert_eq!(code, 201, "{made}");
    }
    let (_, mut pod) = server.get("/api/v1/namespaces/default/pods/p").await;
    pod["status"] = json!({"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]});
    assert_eq!(server.put("/api/v1/namespaces/default/pods/p/status", pod).await.0, 200);
    let front = Target {
        host: server.address.ip().to_string(),
        port: server.address.port(),
        tls: Some(server.server.kubelets.stranger()),
        server_name: None,
        timeout: std::time::Duration::from_secs(5),
        route: crate::egress::Route::default(),
    };
    (server, front)
}

const POD: &str = "/api/v1/namespaces/default/pods";

async fn ask(
    server: &TestServer,
    front: &Target,
    uri: &str,
    headers: &[(&'static str, &str)],
) -> dial::Answer {
    let mut request = Request::get(uri).header(header::HOST, front.authority());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.header("x-remote", "1").body(dial::empty()).unwrap();
    front.request(request, &server.server.tasks).await.unwrap()
}

async fn text(answer: dial::Answer) -> (u16, String) {
    let dial::Answer { response, guard: _guard } = answer;
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (code, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_streamed() {
    let (go, go_on) = watch::channel(false);
    let (server, front) = cluster(go_on).await;
    let answer = ask(&server, &front, &format!("{POD}/p/log?follow=true&tailLines=5"), &[]).await;
    assert_eq!(
        (answer.response.status().as_u16(), &answer.response.headers()["content-type"]),
        (200, &HeaderValue::from_static("text/plain"))
    );
    let dial::Answer { response, guard: _guard } = answer;
    let mut body = response.into_body();
    // The first line is there while the kubelet still has more to come.
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "first\n");
    go.send(true).unwrap();
    let rest = body.collect().await.unwrap().to_bytes();
    assert_eq!(rest, "follow=true&tailLines=5");

    for (uri, code, part) in [
        ("p/log?previous=true", 400, "previous terminated container"),
        ("p/log?container=x", 400, "container x is not valid for pod p"),
        ("two/log", 400, "a container name must be specified for pod two, choose one of: [a b]"),
        ("none/log", 404, "pods \\\"none\\\" not found"),
        ("new/log", 200, ""),
        ("two/log?container=a", 404, "the server could not find the requested resource"),
    ] {
        let (got, body) = text(ask(&server, &front, &format!("{POD}/{uri}"), &[]).await).await;
        assert!(got == code && body.contains(part), "{uri}: {got} {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_go_through_with_half_closes() {
    let (_go, go_on) = watch::channel(true);
    let (server, front) = cluster(go_on).await;
    let spdy = [
        ("connection", "Upgrade"),
        ("upgrade", "SPDY/3.1"),
        ("x-stream-protocol-version", "v4.channel.k8s.io"),
    ];
    let mut answer = ask(&server, &front, &format!("{POD}/p/exec?command=sh&stdin=true"), &spdy).await;
    assert_eq!(answer.response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(answer.response.headers()["x-stream-protocol-version"], "v4.channel.k8s.io");
    let mut io = TokioIo::new(hyper::upgrade::on(&mut answer.response).await.unwrap());
    io.write_all(b"abc").await.unwrap();
    let mut got = [0; 3];
    io.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"ABC");
    io.shutdown().await.unwrap();
    let mut rest = Vec::new();
    io.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b" over");

    let (code, body) = text(ask(&server, &front, &format!("{POD}/p/exec?command=nope"), &spdy).await).await;
    assert_eq!((code, body.as_str()), (404, "container not found (\"c\")"));
    for (uri, code, part) in [
        ("p/exec?command=sh", 400, "Upgrade request required"),
        ("new/exec?command=sh", 400, "pod new does not have a host assigned"),
        ("two/attach", 400, "choose one of: [a b]"),
    ] {
        let (got, body) = text(ask(&server, &front, &format!("{POD}/{uri}"), &[]).await).await;
        assert!(got == code && body.contains(part), "{uri}: {got} {body}");
    }
}

/// What follows an upgrade that the kubelet refuses is for this server, not for the kubelet (CVE-2018-1002105).
#[tokio::test(flavor = "multi_thread")]
async fn no_tunnel_is_left_of_a_refused_upgrade() {
    let (_go, go_on) = watch::channel(true);
    let (server, _front) = cluster(go_on).await;
    let connector = TlsConnector::from(server.server.kubelets.stranger());
    let stream = TcpStream::connect(server.address).await.unwrap();
    let mut io = connector.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await.unwrap();
    let upgrade =
        "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n";
    let asked = format!("GET {POD}/p/exec?command=nope HTTP/1.1\r\nHost: a\r\n{upgrade}");
    let after = "GET /containerLogs/default/p/c HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    io.write_all(asked.as_bytes()).await.unwrap();
    let mut said = BytesMut::new();
    while !said.windows(19).any(|part| part == b"container not found") {
        assert!(io.read_buf(&mut said).await.unwrap() > 0, "{said:?}");
    }
    io.write_all(after.as_bytes()).await.unwrap();
    // However the connection ends, the kubelet has said nothing more.
    while io.read_buf(&mut said).await.is_ok_and(|read| read > 0) {}
    let said = String::from_utf8_lossy(&said);
    assert!(!said.contains("first") && said.starts_with("HTTP/1.1 404"), "{said}");
}

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

async fn socket(
    server: &TestServer,
    front: &Target,
    uri: &str,
    protocol: &str,
) -> (WebSocketStream<TokioIo<Upgraded>>, dial::Answer) {
    let headers = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", KEY),
        ("sec-websocket-protocol", protocol),
    ];
    let mut answer = ask(server, front, uri, &headers).await;
    assert_eq!(answer.response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let chosen = protocol.split(", ").next().unwrap();
    assert_eq!(answer.response.headers()["sec-websocket-protocol"], chosen);
    let io = TokioIo::new(hyper::upgrade::on(&mut answer.response).await.unwrap());
    (WebSocketStream::from_raw_socket(io, Role::Client, None).await, answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_become_spdy_streams() {
    let (_go, go_on) = watch::channel(true);
    let (server, front) = cluster(go_on).await;
    let uri = format!("{POD}/p/exec?command=cat&stdin=true&stdout=true&tty=true");
    let (mut ws, _answer) = socket(&server, &front, &uri, "v5.channel.k8s.io").await;
    assert_eq!(ws.next().await.unwrap().unwrap(), Message::binary(vec![1]));
    ws.send(Message::binary(&b"\0hello"[..])).await.unwrap();
    assert_eq!(ws.next().await.unwrap().unwrap(), Message::binary(&b"\x01hello"[..]));
    ws.send(Message::binary(&b"\x04{}"[..])).await.unwrap();
    assert_eq!(ws.next().await.unwrap().unwrap(), Message::binary(&b"\x01size {}"[..]));
    ws.send(Message::binary(&b"\xff\x00"[..])).await.unwrap();
    let status = ws.next().await.unwrap().unwrap().into_data();
    assert_eq!(status[0], 3);
    let status: Value = serde_json::from_slice(&status[1..]).unwrap();
    assert_eq!(
        (&status["reason"], &status["details"]["causes"][0]["message"]),
        (&json!("NonZeroExitCode"), &json!("3"))
    );
    let Message::Close(Some(end)) = ws.next().await.unwrap().unwrap() else { panic!("an end with a code") };
    assert_eq!(u16::from(end.code), 1000);

    // What the kubelet refuses is told on the channel of errors.
    let uri = format!("{POD}/p/exec?command=nope&stdout=true");
    let (mut ws, _answer) = socket(&server, &front, &uri, "v5.channel.k8s.io").await;
    assert_eq!(ws.next().await.unwrap().unwrap(), Message::binary(vec![1]));
    let status = ws.next().await.unwrap().unwrap().into_data();
    let status: Value = serde_json::from_slice(&status[1..]).unwrap();
    let message = "Internal error occurred: unable to upgrade connection: container not found (\"c\")";
    assert_eq!((&status["message"], status["code"].as_u64()), (&json!(message), Some(500)));
}

#[tokio::test(flavor = "multi_thread")]
async fn spdy_is_tunnelled_through_websockets() {
    let (_go, go_on) = watch::channel(true);
    let (server, front) = cluster(go_on).await;
    let protocol = "SPDY/3.1+portforward.k8s.io";
    let (mut ws, _answer) = socket(&server, &front, &format!("{POD}/p/portforward"), protocol).await;
    ws.send(Message::binary(&b"abc"[..])).await.unwrap();
    assert_eq!(ws.next().await.unwrap().unwrap(), Message::binary(&b"ABC"[..]));
    ws.close(None).await.unwrap();
    while let Some(Ok(message)) = ws.next().await {
        assert!(message.is_close() || message.into_data() == " over");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_own_addresses_are_not_proxied_to() {
    let (_go, go_on) = watch::channel(true);
    let (server, front) = cluster(go_on).await;
    for (uri, code, part) in [
        ("/api/v1/nodes/n/proxy/metrics", 400, "address not allowed"),
        ("/api/v1/namespaces/default/pods/p:80/proxy/", 400, "address not allowed"),
        ("/api/v1/namespaces/default/pods/ftp:p:80/proxy/", 400, "invalid pod request \\\"ftp:p:80\\\""),
        ("/api/v1/namespaces/default/services/none/proxy/", 404, "\\\"none\\\" not found"),
        ("/api/v1/nodes/none/proxy/", 404, "nodes \\\"none\\\" not found"),
    ] {
        let (got, body) = text(ask(&server, &front, uri, &[]).await).await;
        assert!(got == code && body.contains(part), "{uri}: {got} {body}");
    }
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"selector": {"a": "b"}, "ports": [{"port": 80}]}});
    assert_eq!(server.post("/api/v1/namespaces/default/services", service).await.0, 201);
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "s"}},
        "ports": [{"name": "", "port": 80}], "endpoints": [{"addresses": ["10.1.2.3"]}]});
    assert_eq!(
        server.post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice).await.0,
        201
    );
    for (id, part) in [
        ("s", "no endpoints available for service \\\"s\\\""),
        ("s:81", "no service port 81 found for service \\\"s\\\""),
    ] {
        let uri = format!("/api/v1/namespaces/default/services/{id}/proxy/");
        let (code, body) = text(ask(&server, &front, &uri, &[]).await).await;
        assert!(code == 503 && body.contains(part), "{code} {body}");
    }
}

/// What a backend was asked, as text.
async fn backend(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("-").to_owned();
    let mut response = match head.uri.path() {
        "/page" => response::of(200, "text/html", response::full("<a href=\"/x\">")),
        "/moved" => response::of(302, "text/plain", response::full("")),
        _ => {
            let body = body.collect().await.unwrap().to_bytes();
            let seen = format!(
                "{} {} host={} uri={} for={} auth={} own={} body={}",
                head.method,
                head.uri,
                header("host"),
                header("x-forwarded-uri"),
                header("x-forwarded-for"),
                header("authorization"),
                header("x-own"),
                String::from_utf8_lossy(&body)
            );
            response::text(201, seen)
        }
    };
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/y"));
    if head.uri.path() != "/moved" {
        response.headers_mut().remove(header::LOCATION);
    }
    response.headers_mut().insert("keep-alive", HeaderValue::from_static("timeout=5"));
    Ok(response)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_made_again_at_the_backend() {
    let server = TestServer::start().await;
    let serve = |listener: TcpListener, connect: Option<(Arc<crate::server::Server>, Target)>| async move {
        loop {
            let (stream, peer) = listener.accept().await.unwrap();
            let connect = connect.clone();
            tokio::task::spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let connect = connect.clone();
                    async move {
                        let Some((server, target)) = connect else { return backend(request).await };
                        let uri = request.uri().clone();
                        let query = uri.query().unwrap_or_default();
                        let info = Arc::new(RequestInfo::new(request.method(), uri.path(), query));
                        let (path, query) =
                            (uri.path().to_owned(), uri.query().map_or(String::new(), |q| format!("?{q}")));
                        let (prefix, rest) = path.split_at("/api/v1/nodes/n/proxy".len());
                        let attributes = info.attributes(&Arc::new(crate::auth::User::apiserver()));
                        let connect = Connect { server, info, attributes, client: Some(peer.ip()), request };
                        let answer = connect.exchange(target, prefix, rest, &format!("{rest}{query}")).await;
                        Ok(answer.unwrap_or_else(|status| {
                            response::failure(&status, crate::negotiation::Media::JSON)
                        }))
                    }
                });
                drop(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await,
                );
            });
        }
    };
    let listeners =
        [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
    let target = |listener: &TcpListener| Target {
        host: "127.0.0.1".to_owned(),
        port: listener.local_addr().unwrap().port(),
        tls: None,
        server_name: None,
        timeout: std::time::Duration::from_secs(5),
        route: crate::egress::Route::default(),
    };
    let (behind, front) = (target(&listeners[0]), target(&listeners[1]));
    let [first, second] = listeners;
    let ends = [
        tokio::task::spawn(serve(first, None)),
        tokio::task::spawn(serve(second, Some((server.server.clone(), behind)))),
    ];

    let base = "/api/v1/nodes/n/proxy";
    let request = Request::put(format!("{base}/a%2Fb//c?x=1&y=%20"))
        .header(header::HOST, "api:6443")
        .header(header::AUTHORIZATION, "Bearer x")
        .header(header::CONNECTION, "X-Own")
        .header("x-own", "1")
        .body(http_body_util::Full::new(Bytes::from("hi")).map_err(|never| match never {}).boxed_unsync());
    let answer = front.request(request.unwrap(), &server.server.tasks).await.unwrap();
    assert!(!answer.response.headers().contains_key("keep-alive"));
    let (code, seen) = text(answer).await;
    let want = "PUT /a%2Fb//c?x=1&y=%20 host=api:6443 uri=/api/v1/nodes/n/proxy/a%2Fb//c for=127.0.0.1 auth=- own=- body=hi";
    assert_eq!((code, seen.as_str()), (201, want));

    let page = ask(&server, &front, &format!("{base}/page"), &[("accept", "text/html")]).await;
    assert_eq!(text(page).await, (200, "<a href=\"/api/v1/nodes/n/proxy/x\">".to_owned()));
    let moved = ask(&server, &front, &format!("{base}/moved"), &[]).await;
    assert_eq!(
        (moved.response.status().as_u16(), &moved.response.headers()["location"]),
        (302, &HeaderValue::from_static("/api/v1/nodes/n/proxy/y"))
    );
    ends[0].abort();
    drop(ends);
}
