//! `GET /containerLogs/{namespace}/{pod}/{container}` with core/v1 PodLogOptions as its query.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures::StreamExt;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Body, Query, ServeError, Server};
use crate::{
    pod,
    runtime::{
        cri,
        logs::{LogOptions, stream},
        observed::{ContainerPhase, ContainerRecord},
    },
};

/// Lines in flight between the file and a slow reader: about 64 x 16 KiB at most.
const IN_FLIGHT: usize = 64;

/// Serves a container's log.
pub(super) async fn serve(
    server: &Arc<Server>,
    namespace: &str,
    name: &str,
    container: &str,
    query: &Query,
) -> Result<Response<Body>, ServeError> {
    let options = options(query, Timestamp::now())?;
    let record = find(server, namespace, name, container, query.on("previous")).await?;
    let path = PathBuf::from(&record.log_path);
    if let Err(error) = tokio::fs::metadata(&path).await {
        return Err(ServeError::Internal(format!(
            "failed to try resolving symlinks in path {path:?}: {error}"
        )));
    }
    let (sender, receiver) = mpsc::channel::<Bytes>(IN_FLIGHT);
    let (runtime, id) = (server.shared.runtime.clone(), record.id);
    let drain = server.shared.tasks.drain();
    server.shared.tasks.spawn_contained("log-reader", async move {
        let alive = || async {
            let running = cri::ContainerState::ContainerRunning as i32;
            // A runtime that does not answer ends the stream; the client can ask again.
            runtime.container_status(&id).await.is_ok_and(|s| s.state == running)
        };
        tokio::select! {
            () = drain.cancelled() => {}
            result = stream(path.clone(), options, sender, alive) => {
                if let Err(error) = result {
                    tracing::warn!(path = %path.display(), %error, "cannot read the container's log");
                }
            }
        }
    });
    let frames = ReceiverStream::new(receiver).map(|bytes| Ok(Frame::data(bytes)));
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    Ok(response)
}

async fn find(
    server: &Server,
    namespace: &str,
    name: &str,
    container: &str,
    previous: bool,
) -> Result<ContainerRecord, ServeError> {
    let pod = server.pod(namespace, name, None)?;
    if pod::container_named(&pod, container).is_none() {
        let text = format!("container {container} not found in pod {name}");
        return Err(ServeError::NotFound(text));
    }
    let runtime = server.runtime_of(&pod).await?;
    let refused = |text: String| Err(ServeError::BadRequest(text));
    if previous {
        let last = runtime.latest(container);
        let found = match last {
            // The newest one has ended and waits to be started again: it is the previous one of the next.
            Some(last) if last.phase == ContainerPhase::Exited && runtime.previous(container).is_none() => {
                Some(last)
            }
            _ => runtime.previous(container),
        };
        return match found {
            Some(record) => Ok(record.clone()),
            None => refused(format!("previous terminated container {container:?} in pod {name:?} not found")),
        };
    }
    match runtime.latest(container) {
        Some(record) => Ok(record.clone()),
        None => {
            let status = pod.status.unwrap_or_default();
            let lists = [&status.init_container_statuses, &status.container_statuses];
            let waiting = lists.into_iter().flatten().flatten().find(|s| s.name == container);
            let reason = waiting
                .and_then(|s| s.state.as_ref()?.waiting.as_ref()?.reason.clone())
                .unwrap_or_else(|| "ContainerCreating".to_owned());
            refused(format!("container {container:?} in pod {name:?} is waiting to start: {reason}"))
        }
    }
}

/// The query as options.
fn options(query: &Query, now: Timestamp) -> Result<LogOptions, ServeError> {
    let bad = |name: &str| ServeError::BadRequest(format!("{{\"message\": \"invalid value for {name}\"}}"));
    let number = |name: &str| match query.get(name).filter(|v| !v.is_empty()) {
        None => Ok(None),
        Some(text) if text == "all" && name == "tail" => Ok(None),
        Some(text) => text.parse::<u64>().map(Some).map_err(|_| bad(name)),
    };
    let tail = match number("tailLines")? {
        Some(lines) => Some(lines),
        None => number("tail")?,
    };
    let since = match (number("sinceSeconds")?, query.get("sinceTime").filter(|v| !v.is_empty())) {
        (Some(seconds), _) => {
            let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
            now.checked_sub(SignedDuration::from_secs(seconds)).ok()
        }
        (None, Some(text)) => Some(text.parse().map_err(|_| bad("sinceTime"))?),
        (None, None) => None,
    };
    let stream = match query.get("stream") {
        Some("Stdout") => Some("stdout".to_owned()),
        Some("Stderr") => Some("stderr".to_owned()),
        _ => None,
    };
    Ok(LogOptions {
        follow: query.on("follow"),
        tail,
        since,
        timestamps: query.on("timestamps"),
        limit_bytes: number("limitBytes")?,
        stream,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_come_from_the_query() {
        let parse = |text: &str| options(&Query::parse(Some(text)), Timestamp::UNIX_EPOCH);
        let made =
            parse("tailLines=5&follow=true&timestamps=true&limitBytes=9&sinceSeconds=60&stream=Stderr")
                .unwrap();
        assert_eq!(
            (made.tail, made.follow, made.timestamps, made.limit_bytes),
            (Some(5), true, true, Some(9))
        );
        assert_eq!(made.since.unwrap().as_second(), -60);
        assert_eq!(made.stream.as_deref(), Some("stderr"));
        assert!(parse("tailLines=x").is_err());
        assert!(parse("sinceTime=yesterday").is_err());
    }
}
