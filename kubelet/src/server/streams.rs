//! exec, attach and port-forward: the runtime is asked for a stream's address, the client's upgrade request is made there
//! as it came, and then bytes go both ways. What runs inside (SPDY or WebSocket) is between client and runtime.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;

use super::{Body, Query, ServeError, Server, answer};
use crate::{
    metrics, pod,
    runtime::{
        cri,
        observed::{ContainerPhase, PodRuntime},
    },
};

/// Headers that go through an upgrade.
const FORWARDED: [&str; 10] = [
    "connection",
    "upgrade",
    "x-stream-protocol-version",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-protocol",
    "sec-websocket-extensions",
    "sec-websocket-accept",
    "origin",
    "user-agent",
];

/// What a path names: namespace, pod, uid if given, and the rest.
struct Named<'a> {
    namespace: &'a str,
    pod: &'a str,
    uid: Option<&'a str>,
    container: &'a str,
}

fn container_path<'a>(parts: &[&'a str]) -> Result<Named<'a>, ServeError> {
    match *parts {
        [namespace, pod, container] => Ok(Named { namespace, pod, uid: None, container }),
        [namespace, pod, uid, container] => Ok(Named { namespace, pod, uid: Some(uid), container }),
        _ => Err(ServeError::NotFound("404 page not found".to_owned())),
    }
}

async fn running_container(server: &Server, named: &Named<'_>) -> Result<(Pod, String), ServeError> {
    let pod = server.pod(named.namespace, named.pod, named.uid)?;
    let runtime = server.runtime_of(&pod).await?;
    let record = runtime.latest(named.container).filter(|r| r.phase == ContainerPhase::Running);
    let id = record
        .map(|r| r.id.to_string())
        .ok_or_else(|| ServeError::Internal(format!("container not found ({:?})", named.container)))?;
    Ok((pod, id))
}

/// Which of the container's streams are wanted.
struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

fn streams(query: &Query) -> Result<Streams, ServeError> {
    let on = |short: &str, long: &str| query.on(short) || query.on(long);
    let tty = query.on("tty");
    let made = Streams {
        stdin: on("input", "stdin"),
        stdout: on("output", "stdout"),
        // A terminal has one output.
        stderr: on("error", "stderr") && !tty,
        tty,
    };
    if !made.stdin && !made.stdout && !made.stderr {
        return Err(ServeError::BadRequest(
            "you must specify at least 1 of stdin, stdout, stderr".to_owned(),
        ));
    }
    Ok(made)
}

/// `/exec/{namespace}/{pod}[/{uid}]/{container}`.
pub(super) async fn exec(
    server: &Arc<Server>,
    parts: &[&str],
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, ServeError> {
    count_websocket(&request, "exec");
    let Streams { stdin, stdout, stderr, tty } = streams(query)?;
    let (_, container_id) = running_container(server, &container_path(parts)?).await?;
    let cmd = query.all("command");
    let url = server
        .shared
        .runtime
        .exec(cri::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr })
        .await?;
    splice(server, &url, request).await
}

/// `/attach/{namespace}/{pod}[/{uid}]/{container}`.
pub(super) async fn attach(
    server: &Arc<Server>,
    parts: &[&str],
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, ServeError> {
    count_websocket(&request, "attach");
    let named = container_path(parts)?;
    let Streams { stdin, stdout, stderr, .. } = streams(query)?;
    let (pod, container_id) = running_container(server, &named).await?;
    // The terminal is the container's, whatever the request says.
    let tty = pod::container_named(&pod, named.container).is_some_and(|(_, c)| c.tty == Some(true));
    // A terminal has no stream of errors; one that is asked for is left out. With input from elsewhere than a terminal
    // the runtime has to refuse that itself, as it does upstream: it would drop the output where the input ends.
    let stderr = stderr && (stdin || !tty);
    let attach = cri::AttachRequest { container_id, stdin, tty, stdout, stderr };
    let url = server.shared.runtime.attach(attach).await?;
    splice(server, &url, request).await
}

/// `/portForward/{namespace}/{pod}[/{uid}]`.
pub(super) async fn port_forward(
    server: &Arc<Server>,
    parts: &[&str],
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, ServeError> {
    count_websocket(&request, "portforward");
    let (namespace, name, uid) = match *parts {
        [namespace, name] => (namespace, name, None),
        [namespace, name, uid] => (namespace, name, Some(uid)),
        _ => return Err(ServeError::NotFound("404 page not found".to_owned())),
    };
    let pod = server.pod(namespace, name, uid)?;
    let runtime = server.runtime_of(&pod).await?;
    let ports: Result<Vec<i32>, _> =
        query.all("port").iter().flat_map(|p| p.split(',')).map(str::parse::<i32>).collect();
    let ports = ports.map_err(|_| ServeError::BadRequest("unable to parse port".to_owned()))?;
    let url = server.shared.runtime.port_forward(&ready_sandbox(&runtime, &pod)?, ports).await?;
    splice(server, &url, request).await
}

fn ready_sandbox(runtime: &PodRuntime, pod: &Pod) -> Result<String, ServeError> {
    let sandbox = runtime.sandboxes.iter().find(|s| s.ready);
    let missing = || ServeError::Internal(format!("failed to find sandbox for pod {:?}", pod::display(pod)));
    sandbox.map(|s| s.id.to_string()).ok_or_else(missing)
}

/// Counts a stream that is asked for over WebSocket.
fn count_websocket(request: &Request<Incoming>, subresource: &str) {
    let upgrade = request.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok());
    if upgrade.is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket")) {
        metrics::get().websockets.with_label_values(&[subresource]).inc();
    }
}

/// `POST /run/{namespace}/{pod}[/{uid}]/{container}?cmd=`: runs a command and answers with what it wrote.
pub(super) async fn run(
    server: &Arc<Server>,
    parts: &[&str],
    query: &Query,
) -> Result<Response<Body>, ServeError> {
    let (_, id) = running_container(server, &container_path(parts)?).await?;
    let command: Vec<String> = query
        .get("cmd")
        .unwrap_or_default()
        .split(' ')
        .filter(|w| !w.is_empty())
        .map(str::to_owned)
        .collect();
    let done = server.shared.runtime.exec_sync(&id, &command, Duration::ZERO).await?;
    let mut output = done.stdout.to_vec();
    output.extend_from_slice(&done.stderr);
    if done.exit_code != 0 {
        let text = String::from_utf8_lossy(&output);
        return Err(ServeError::Internal(format!(
            "command '{}' exited with {}: {text}",
            command.join(" "),
            done.exit_code
        )));
    }
    Ok(answer(StatusCode::OK, "text/plain", output))
}

/// Makes the upgrade at `url` and joins the two connections.
async fn splice(
    server: &Arc<Server>,
    url: &str,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, ServeError> {
    let internal =
        |error: &dyn std::fmt::Display| ServeError::Internal(format!("cannot reach the stream: {error}"));
    let target: Uri = url.parse().map_err(|e: http::uri::InvalidUri| internal(&e))?;
    let authority = target.authority().ok_or_else(|| internal(&"its address has no host"))?;
    let path = target.path_and_query().map_or("/", |p| p.as_str());
    if !request.headers().contains_key(header::UPGRADE) {
        return Err(ServeError::BadRequest(
            "you must use an upgrade (SPDY/3.1 or WebSocket) for streams".to_owned(),
        ));
    }
    let mut onward = Request::builder().method(request.method().clone()).uri(path);
    if let Some(headers) = onward.headers_mut() {
        copy_headers(request.headers(), headers);
    }
    let onward = onward
        .header(header::HOST, authority.as_str())
        .body(Empty::<Bytes>::new())
        .map_err(|e| internal(&e))?;
    let stream = tokio::net::TcpStream::connect(authority.as_str()).await.map_err(|e| internal(&e))?;
    // Keystrokes are small and must not wait for each other.
    stream.set_nodelay(true).map_err(|e| internal(&e))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| internal(&e))?;
    let drain = server.shared.tasks.drain();
    server.shared.tasks.spawn_contained("stream-connection", async move {
        tokio::select! {
            () = drain.cancelled() => {}
            result = connection.with_upgrades() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "stream to the runtime ended");
                }
            }
        }
    });
    let mut upstream = sender.send_request(onward).await.map_err(|e| internal(&e))?;
    let status = upstream.status();
    let mut response = Response::new(Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    if status != StatusCode::SWITCHING_PROTOCOLS {
        let text = upstream.into_body().collect().await.map_err(|e| internal(&e))?.to_bytes();
        return Ok(answer(status, "text/plain", text));
    }
    copy_headers(upstream.headers(), response.headers_mut());
    let client = hyper::upgrade::on(&mut request);
    let runtime = hyper::upgrade::on(&mut upstream);
    let drain = server.shared.tasks.drain();
    server.shared.tasks.spawn_contained("stream", async move {
        tokio::select! {
            () = drain.cancelled() => {}
            () = join(client, runtime) => {}
        }
    });
    Ok(response)
}

async fn join(client: hyper::upgrade::OnUpgrade, runtime: hyper::upgrade::OnUpgrade) {
    let (client, runtime) = match tokio::try_join!(client, runtime) {
        Ok(both) => both,
        Err(error) => {
            tracing::warn!(%error, "a stream could not be upgraded");
            return;
        }
    };
    let (mut client, mut runtime) = (TokioIo::new(client), TokioIo::new(runtime));
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut runtime).await {
        tracing::debug!(%error, "stream ended");
    }
}

fn copy_headers(from: &HeaderMap, to: &mut HeaderMap) {
    for name in FORWARDED {
        for value in from.get_all(name) {
            to.append(http::HeaderName::from_static(name), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_take_an_optional_uid() {
        assert_eq!(container_path(&["ns", "p", "c"]).unwrap().uid, None);
        assert_eq!(container_path(&["ns", "p", "u", "c"]).unwrap().uid, Some("u"));
        assert!(container_path(&["ns"]).is_err());
    }

    #[test]
    fn a_terminal_has_one_output() {
        let of = |text: &str| streams(&Query::parse(Some(text)));
        let made = of("input=1&output=1&error=1&tty=1").unwrap();
        assert!(made.stdin && made.stdout && !made.stderr);
        assert!(of("").is_err());
    }
}
