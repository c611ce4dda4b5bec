//! `GET /logs/`: the files below the node's log folder, and where that is asked for, logs of services (`query`).

pub mod query;

use component_base::files::Files;
use http::{HeaderMap, Response, StatusCode};

use self::query::{Outcome, Wanted};
use super::{Body, Query, ServeError, answer};

/// Where the logs are, and what may be asked for.
#[derive(Debug, Clone)]
pub struct NodeLogs {
    /// Their folder.
    pub files: Files,
    /// Services may be named rather than files.
    pub queries: bool,
}

/// Serves what is asked for: a path as it was sent.
pub(super) async fn serve(
    logs: &NodeLogs,
    path: &str,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Response<Body>, ServeError> {
    let wanted = match logs.queries {
        true => Wanted::parse(query).map_err(ServeError::BadRequest)?,
        false => None,
    };
    let Some(wanted) = wanted else {
        let answer = logs.files.answer("/logs", path, headers).await;
        return answer.ok_or_else(|| ServeError::NotFound("404 page not found".to_owned()));
    };
    if path.trim_end_matches('/') != "/logs" {
        let text = "path not allowed in query mode";
        return Ok(answer(StatusCode::NOT_ACCEPTABLE, "text/plain; charset=utf-8", text));
    }
    Ok(match query::serve(&logs.files, wanted).await {
        Outcome::Answer(answer) => answer,
        Outcome::File(file) => logs.files.named(&file, headers).await,
    })
}
