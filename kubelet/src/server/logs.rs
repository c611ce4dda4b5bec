//! `GET /containerLogs/{namespace}/{pod}/{container}` with core/v1 PodLogOptions as its query.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use component_base::features::Gate;
use futures::StreamExt;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ContainerState;
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
    let streams = server.shared.gates.has(Gate::PodLogsQuerySplitStreams);
    let options = options(query, streams, Timestamp::now())?;
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
        let text = format!("container {container:?} not found in pod {name:?}");
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
            let known = lists.into_iter().flatten().flatten().find(|s| s.name == container);
            let why = missing(known.and_then(|status| status.state.as_ref()));
            refused(format!("container {container:?} in pod {name:?} is {why}"))
        }
    }
}

/// Why a container has no log that the runtime knows of, by its status.
fn missing(state: Option<&ContainerState>) -> String {
    if state.is_some_and(|state| state.terminated.is_some()) {
        return "terminated".to_owned();
    }
    let waiting =
        state.and_then(|state| state.waiting.as_ref()).and_then(|waiting| waiting.reason.as_deref());
    let why = match waiting {
        None => "ContainerCreating",
        Some("ErrImagePull") => "image can't be pulled",
        Some("ImagePullBackOff") => "trying and failing to pull image",
        Some(reason) => reason,
    };
    format!("waiting to start: {why}")
}

/// The query as options. One stream alone is had only where that is switched on.
fn options(query: &Query, streams: bool, now: Timestamp) -> Result<LogOptions, ServeError> {
    let undecoded = || ServeError::BadRequest(r#"{"message": "Unable to decode query."}"#.to_owned());
    let number = |name: &str| match query.get(name) {
        None | Some("") => Ok(None),
        Some(text) => text.parse::<i64>().map(Some).map_err(|_| undecoded()),
    };
    // The older name; all lines is what is given without it.
    let tail = match query.get("tail") {
        Some("all") => None,
        Some(text) if !text.is_empty() => Some(text.parse::<i64>().map_err(|_| undecoded())?),
        _ => number("tailLines")?,
    };
    let (limit, seconds) = (number("limitBytes")?, number("sinceSeconds")?);
    let time = match query.get("sinceTime") {
        None | Some("") => None,
        Some(text) => Some(text.parse::<Timestamp>().map_err(|_| undecoded())?),
    };
    let stream = match query.get("stream") {
        None | Some("All") => None,
        Some(name) => Some(name),
    };
    let wrong = tail.is_some_and(|lines| lines < 0)
        || limit.is_some_and(|bytes| bytes < 1)
        || seconds.is_some_and(|seconds| seconds < 1)
        || (seconds.is_some() && time.is_some())
        || stream.is_some_and(|name| !matches!(name, "Stdout" | "Stderr") || tail.is_some());
    if wrong {
        return Err(ServeError::Unprocessable(r#"{"message": "Invalid request."}"#));
    }
    if let Some(name) = stream.filter(|_| !streams) {
        return Err(ServeError::BadRequest(format!(
            "unable to return the given log stream: {name:?}. Please enable PodLogsQuerySplitStreams feature gate in kubelet"
        )));
    }
    let ago = |seconds| now.checked_sub(SignedDuration::from_secs(seconds)).ok();
    let amount = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
    Ok(LogOptions {
        follow: query.on("follow"),
        tail: amount(tail),
        since: seconds.map_or(time, ago),
        timestamps: query.on("timestamps"),
        limit_bytes: amount(limit),
        stream: stream.map(str::to_lowercase),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_there_is_no_log_is_told_by_the_status() {
        for (state, text) in [
            (None, "waiting to start: ContainerCreating"),
            (Some(r#"{"waiting": {"reason": "PodInitializing"}}"#), "waiting to start: PodInitializing"),
            (Some(r#"{"waiting": {"reason": "ErrImagePull"}}"#), "waiting to start: image can't be pulled"),
            (
                Some(r#"{"waiting": {"reason": "ImagePullBackOff"}}"#),
                "waiting to start: trying and failing to pull image",
            ),
            (Some(r#"{"terminated": {"exitCode": 1}}"#), "terminated"),
        ] {
            let state: Option<ContainerState> = state.map(|text| serde_json::from_str(text).unwrap());
            assert_eq!(missing(state.as_ref()), text);
        }
    }

    fn parse(text: &str, streams: bool) -> Result<LogOptions, ServeError> {
        options(&Query::parse(Some(text)), streams, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn options_come_from_the_query() {
        let made =
            parse("tailLines=5&follow=true&timestamps=true&limitBytes=9&sinceSeconds=60", false).unwrap();
        assert_eq!(
            (made.tail, made.follow, made.timestamps, made.limit_bytes),
            (Some(5), true, true, Some(9))
        );
        assert_eq!(made.since.unwrap().as_second(), -60);
        assert_eq!(parse("tail=all&tailLines=3", false).unwrap().tail, None);
        assert_eq!(parse("tail=7", false).unwrap().tail, Some(7));
        for bad in ["tailLines=x", "sinceTime=yesterday", "limitBytes=1k", "tail=few"] {
            assert_eq!(parse(bad, true).unwrap_err().code(), StatusCode::BAD_REQUEST, "{bad}");
        }
        for bad in [
            "tailLines=-1",
            "limitBytes=0",
            "sinceSeconds=0",
            "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
            "stream=Both",
            "stream=Stdout&tailLines=1",
        ] {
            assert_eq!(parse(bad, true).unwrap_err().code(), StatusCode::UNPROCESSABLE_ENTITY, "{bad}");
        }
    }

    #[test]
    fn a_stream_alone_needs_its_gate() {
        assert_eq!(parse("stream=Stderr", true).unwrap().stream.as_deref(), Some("stderr"));
        assert_eq!(parse("stream=All", false).unwrap().stream, None);
        let refused = parse("stream=Stderr", false).unwrap_err();
        assert_eq!(refused.code(), StatusCode::BAD_REQUEST);
        assert!(refused.to_string().contains("Please enable PodLogsQuerySplitStreams"));
    }
}
