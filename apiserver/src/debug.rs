//! `/debug`: what can be asked of the process itself, over the API where `--profiling` lets it and on a socket of its
//! own (`--debug-socket-path`).
//!
//! Contract: upstream's `routes.Profiling` and `routes.DebugFlags`. Profiles of Go's runtime do not exist here; who asks
//! for one is told so with 501 instead of being given something else.

use std::{convert::Infallible, io, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use bytes::Bytes;
use component_base::{logging, task::Tasks};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixListener;

use crate::response::{self, Body};

/// Profiles that clients of Go's servers ask for.
const PROFILES: &[&str] =
    &["allocs", "block", "goroutine", "heap", "mutex", "profile", "symbol", "threadcreate", "trace"];
/// Bytes of a body: a number.
const MAX_BODY: usize = 64;

/// The answer to a path below `/debug`; none where nothing is there.
pub fn answer(method: &Method, path: &str, body: &[u8]) -> Option<Response<Body>> {
    match path.strip_prefix("/debug/")? {
        "pprof" | "pprof/" => Some(response::text(200, index())),
        "pprof/cmdline" => {
            let arguments: Vec<String> = std::env::args().collect();
            Some(response::text(200, arguments.join("\0")))
        }
        "flags/v" if method == Method::PUT => Some(verbosity(body)),
        "flags/v" => Some(response::text(405, "unrecognized http method\n")),
        path => {
            let profile = path.strip_prefix("pprof/")?;
            PROFILES.contains(&profile).then(|| {
                response::text(
                    501,
                    format!("there is no profile {profile:?}: this server has no Go runtime\n"),
                )
            })
        }
    }
}

fn index() -> String {
    format!(
        "/debug/pprof/\n\ncmdline\n\nnot kept by this server, which has no Go runtime: {}\n",
        PROFILES.join(" ")
    )
}

/// Sets the verbosity of the log.
fn verbosity(body: &[u8]) -> Response<Body> {
    let text = String::from_utf8_lossy(body);
    match text.trim().parse::<u8>() {
        Ok(level) => {
            logging::set_verbosity(level);
            response::text(200, format!("successfully set klog.logging.verbosity to {level}"))
        }
        Err(error) => response::text(400, format!("failed set klog.logging.verbosity {text}: {error}\n")),
    }
}

/// Serves it on a socket that only this user may open, until the server ends.
///
/// # Errors
/// When the socket cannot be made.
pub fn serve(path: &Path, tasks: &Tasks) -> io::Result<()> {
    // What an earlier process left there is nobody's any more.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let (group, drain) = (tasks.clone(), tasks.drain());
    tasks.spawn("debug socket", async move {
        while let Some(accepted) = drain.run_until_cancelled(listener.accept()).await {
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection to the debug socket failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let drain = drain.clone();
            group.spawn_contained("debug connection", async move {
                let mut http = hyper::server::conn::http1::Builder::new();
                http.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
                let serving = http.serve_connection(TokioIo::new(stream), service_fn(request));
                if let Some(Err(error)) = drain.run_until_cancelled(serving).await {
                    tracing::debug!(%error, "debug connection ended");
                }
            });
        }
    });
    Ok(())
}

async fn request(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => Bytes::new(),
    };
    let found = answer(&parts.method, parts.uri.path(), &body);
    Ok(found.unwrap_or_else(|| response::text(404, "404 page not found\n")))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn what_is_there_answers_and_what_is_not_says_so() {
        let get = |path: &str| answer(&Method::GET, path, b"").map(|answer| answer.status().as_u16());
        for (path, code) in [
            ("/debug/pprof", Some(200)),
            ("/debug/pprof/", Some(200)),
            ("/debug/pprof/cmdline", Some(200)),
            ("/debug/pprof/heap", Some(501)),
            ("/debug/pprof/nothing", None),
            ("/debug/flags/v", Some(405)),
            ("/debug", None),
            ("/metrics", None),
        ] {
            assert_eq!(get(path), code, "{path}");
        }
        let put = |body: &[u8]| answer(&Method::PUT, "/debug/flags/v", body).unwrap().status().as_u16();
        assert_eq!([put(b"x"), put(b"-1"), put(b"300")], [400; 3]);
    }

    #[tokio::test]
    async fn the_socket_is_this_users_and_replaces_an_older_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("debug.sock");
        std::fs::write(&path, "left over").unwrap();
        let tasks = Tasks::new();
        serve(&path, &tasks).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
        stream.write_all(b"GET /debug/pprof/heap HTTP/1.0\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.0 501"), "{text}");
        assert!(serve(&directory.path().join("missing/debug.sock"), &tasks).is_err());
        tasks.cancel();
    }
}
