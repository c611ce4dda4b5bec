//! `GET /logs/`: the files below the node's log folder, and where that is asked for, logs of services (`query`). Paths are
//! resolved beneath it by the kernel, so nothing leads out.

pub mod query;

use std::{
    fs::File,
    io::{self, Read as _, Seek as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures::stream;
use http::{Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use self::query::{Outcome, Wanted};
use super::{Body, Query, ServeError, answer};

/// Bytes read at a time.
const PIECE: usize = 64 << 10;

/// Where the logs are, and what may be asked for.
#[derive(Debug, Clone)]
pub struct NodeLogs {
    /// Their folder.
    pub root: PathBuf,
    /// Services may be named rather than files.
    pub queries: bool,
}

/// Serves what is asked for.
pub(super) async fn serve(logs: &NodeLogs, path: &str, query: &Query) -> Result<Response<Body>, ServeError> {
    let wanted = match logs.queries {
        true => Wanted::parse(query).map_err(ServeError::BadRequest)?,
        false => None,
    };
    let Some(wanted) = wanted else { return of_path(&logs.root, path) };
    if !path.is_empty() {
        let text = "path not allowed in query mode";
        return Ok(answer(StatusCode::NOT_ACCEPTABLE, "text/plain; charset=utf-8", text));
    }
    match query::serve(&logs.root, wanted).await {
        Outcome::Answer(answer) => Ok(answer),
        Outcome::File(file) => of_path(&logs.root, &file),
    }
}

/// Serves a file, or the list of a folder's entries.
fn of_path(root: &Path, path: &str) -> Result<Response<Body>, ServeError> {
    let not_found = || ServeError::NotFound("404 page not found".to_owned());
    let found = open(root, path).map_err(|_| not_found())?;
    let mut file = File::from(found);
    let meta = file.metadata().map_err(|e| ServeError::Internal(e.to_string()))?;
    if meta.is_dir() {
        return Ok(answer(
            StatusCode::OK,
            "text/html; charset=utf-8",
            listing(&root.join(path)).map_err(|_| not_found())?,
        ));
    }
    if !meta.is_file() {
        return Err(not_found());
    }
    file.rewind().map_err(|e| ServeError::Internal(e.to_string()))?;
    // What is appended while it is sent is not sent, so that the length holds.
    let pieces = stream::unfold((file, meta.len()), |(mut file, left)| async move {
        let size = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        if size == 0 {
            return None;
        }
        let mut piece = vec![0; size];
        let read = file.read(&mut piece);
        let (next, result) = match read {
            Ok(0) => return None,
            Ok(length) => {
                piece.truncate(length);
                (left - length as u64, Ok(Frame::data(Bytes::from(piece))))
            }
            Err(error) => (0, Err(error)),
        };
        Some((result, (file, next)))
    });
    let mut response = Response::new(StreamBody::new(pieces).boxed_unsync());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(header::CONTENT_LENGTH, meta.len().into());
    Ok(response)
}

fn open(root: &Path, path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let folder = rustix::fs::open(root, flags | OFlags::DIRECTORY, Mode::empty())?;
    let relative = if path.is_empty() { "." } else { path };
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(&folder, relative, flags, Mode::empty(), beneath)?)
}

fn listing(folder: &Path) -> io::Result<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)?
        .filter_map(Result::ok)
        .map(|entry| {
            let slash = if entry.file_type().is_ok_and(|t| t.is_dir()) { "/" } else { "" };
            format!("{}{slash}", entry.file_name().to_string_lossy())
        })
        .collect();
    names.sort();
    let escape = |name: &str| name.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&#34;");
    let lines: String = names.iter().map(|n| format!("<a href=\"{0}\">{0}</a>\n", escape(n))).collect();
    Ok(format!("<pre>\n{lines}</pre>\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(root: &Path, path: &str) -> Result<String, String> {
        let response = of_path(root, path).map_err(|e| e.to_string())?;
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    #[tokio::test]
    async fn files_and_folders_are_shown_and_nothing_outside() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("log");
        std::fs::create_dir_all(root.join("pods")).unwrap();
        std::fs::write(root.join("a<b.log"), "hello").unwrap();
        std::fs::write(dir.path().join("secret"), "no").unwrap();
        std::os::unix::fs::symlink("../secret", root.join("way-out")).unwrap();
        assert_eq!(read(&root, "a<b.log").await, Ok("hello".into()));
        let listed = read(&root, "").await.unwrap();
        assert!(listed.contains("<a href=\"a&lt;b.log\">") && listed.contains(">pods/</a>"), "{listed}");
        for path in ["way-out", "../secret", "none", "/etc/passwd"] {
            assert!(read(&root, path).await.is_err(), "{path}");
        }
    }
}
