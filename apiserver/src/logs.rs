//! `/logs`: files of the machine's logs, where `--enable-logs-handler` lets them be read.
//!
//! Contract: upstream's `routes.Logs` (deprecated) and the file server of Go's `net/http`. Links that lead out of the
//! directory are followed nowhere.

use std::{
    io::{self, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures::TryStreamExt as _;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use jiff::{Timestamp, fmt::rfc2822};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tokio::{
    fs,
    io::{AsyncReadExt, AsyncSeekExt},
};
use tokio_util::io::ReaderStream;

use crate::response::{self, Body};

/// Bytes of a file that say what it is.
const SNIFFED: usize = 512;
/// What a name is written with in a link as it is.
const PLAIN: &percent_encoding::AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The files.
#[derive(Debug)]
pub struct Logs {
    root: PathBuf,
}

/// A directory or file that may be shown.
struct Found {
    path: PathBuf,
    metadata: std::fs::Metadata,
}

impl Logs {
    /// Of `/var/log`.
    pub fn new() -> Self {
        Self { root: PathBuf::from("/var/log") }
    }

    /// The answer to a path below `/logs`; none for another one.
    pub async fn answer(&self, method: &Method, path: &str, headers: &HeaderMap) -> Option<Response<Body>> {
        let decoded = percent_decode_str(path).decode_utf8_lossy();
        let path = &*decoded;
        let name = path.strip_prefix("/logs").filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
        if method != Method::GET {
            return Some(response::text(405, "405: Method Not Allowed"));
        }
        if path.split('/').any(|part| part == "..") {
            return Some(response::text(400, "invalid URL path\n"));
        }
        if path.ends_with("/index.html") {
            return Some(moved("./"));
        }
        let answer = match self.find(name).await {
            Ok(Found { path: directory, metadata }) if metadata.is_dir() => {
                if path.ends_with('/') {
                    listing(&directory).await
                } else {
                    let base = path.rsplit('/').next().unwrap_or_default();
                    return Some(moved(&format!("{base}/")));
                }
            }
            // A file is no directory.
            Ok(_) if path.ends_with('/') => {
                let base = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
                return Some(moved(&format!("../{base}")));
            }
            Ok(found) => file(found, headers).await,
            Err(error) => Err(error),
        };
        Some(answer.unwrap_or_else(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename | io::ErrorKind::NotADirectory => {
                response::text(404, "404 page not found\n")
            }
            io::ErrorKind::PermissionDenied => response::text(403, "403 Forbidden\n"),
            _ => {
                tracing::warn!(%error, path, "a log cannot be read");
                response::text(500, "500 Internal Server Error\n")
            }
        }))
    }

    /// What has this name, if it is below the root and a file or directory.
    async fn find(&self, name: &str) -> io::Result<Found> {
        let root = fs::canonicalize(&self.root).await?;
        let path = fs::canonicalize(root.join(name.trim_matches('/'))).await?;
        let metadata = fs::metadata(&path).await?;
        if !path.starts_with(&root) || !(metadata.is_file() || metadata.is_dir()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Found { path, metadata })
    }
}

impl Default for Logs {
    fn default() -> Self {
        Self::new()
    }
}

fn moved(to: &str) -> Response<Body> {
    let mut answer = response::text(301, "");
    if let Ok(to) = HeaderValue::from_str(to) {
        answer.headers_mut().insert(header::LOCATION, to);
    }
    answer
}

/// The names in a directory, each a link.
async fn listing(directory: &Path) -> io::Result<Response<Body>> {
    let mut names = Vec::new();
    let mut entries = fs::read_dir(directory).await?;
    while let Some(entry) = entries.next_entry().await? {
        let is_directory = entry.file_type().await?.is_dir();
        let name = entry.file_name().to_string_lossy().into_owned();
        names.push(if is_directory { format!("{name}/") } else { name });
    }
    names.sort_unstable();
    let mut page =
        "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n".to_owned();
    for name in names {
        let (bare, slash) = match name.strip_suffix('/') {
            Some(bare) => (bare, "/"),
            None => (name.as_str(), ""),
        };
        let link = utf8_percent_encode(bare, PLAIN);
        page.push_str(&format!("<a href=\"{link}{slash}\">{}{slash}</a>\n", escaped(bare)));
    }
    page.push_str("</pre>\n");
    Ok(response::of(200, "text/html; charset=utf-8", response::full(page)))
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

/// A file or the part of it that is asked for, read while it is sent.
async fn file(found: Found, headers: &HeaderMap) -> io::Result<Response<Body>> {
    let changed = found.metadata.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
    if is_known(changed, headers) {
        let mut answer = Response::new(response::full(Bytes::new()));
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(answer);
    }
    let length = found.metadata.len();
    let mut file = fs::File::open(&found.path).await?;
    let mut start = Vec::with_capacity(SNIFFED);
    (&mut file).take(SNIFFED as u64).read_to_end(&mut start).await?;
    let asked = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let (code, part) = match asked.map(|asked| part_of(asked, length)) {
        None | Some(Part::All) => (200, 0..length),
        Some(Part::Of(part)) => (206, part),
        Some(Part::Nothing) => {
            let mut answer = response::text(416, "invalid range: failed to overlap\n");
            answer.headers_mut().insert(header::CONTENT_RANGE, text(&format!("bytes */{length}"))?);
            return Ok(answer);
        }
    };
    file.seek(SeekFrom::Start(part.start)).await?;
    // What is written to it meanwhile is not part of what was announced.
    let body = ReaderStream::new(file.take(part.end - part.start)).map_err(|error| {
        tracing::warn!(%error, "a log broke off");
        error
    });
    let mut answer = response::of(code, kind(&start), response::stream(body));
    let told = answer.headers_mut();
    told.insert(header::CONTENT_LENGTH, HeaderValue::from(part.end - part.start));
    told.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if code == 206 {
        let part = format!("bytes {}-{}/{length}", part.start, part.end - 1);
        told.insert(header::CONTENT_RANGE, text(&part)?);
    }
    let printed =
        changed.and_then(|at| rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&at).ok());
    if let Some(at) = printed {
        told.insert(header::LAST_MODIFIED, text(&at)?);
    }
    Ok(answer)
}

fn text(value: &str) -> io::Result<HeaderValue> {
    HeaderValue::from_str(value).map_err(io::Error::other)
}

/// Whether the client has it as it is.
fn is_known(changed: Option<Timestamp>, headers: &HeaderMap) -> bool {
    let said = headers.get(header::IF_MODIFIED_SINCE).and_then(|since| since.to_str().ok());
    let since = said.and_then(|since| rfc2822::DateTimeParser::new().parse_timestamp(since).ok());
    matches!((changed, since), (Some(changed), Some(since)) if changed.as_second() <= since.as_second())
}

/// What a range asks for.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// Everything: no range, or several, which one answer does not have here.
    All,
    Of(Range<u64>),
    Nothing,
}

fn part_of(asked: &str, length: u64) -> Part {
    let Some(range) = asked.strip_prefix("bytes=").filter(|range| !range.contains(',')) else {
        return Part::All;
    };
    let Some((from, to)) = range.trim().split_once('-') else { return Part::Nothing };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    match (from.trim(), to.trim()) {
        ("", last) => match number(last) {
            Some(last) if last > 0 && length > 0 => Part::Of(length.saturating_sub(last)..length),
            _ => Part::Nothing,
        },
        (from, to) => match (number(from), number(to)) {
            (Some(from), None) if to.is_empty() && from < length => Part::Of(from..length),
            (Some(from), Some(to)) if from <= to && from < length => {
                Part::Of(from..to.saturating_add(1).min(length))
            }
            _ => Part::Nothing,
        },
    }
}

/// What a file is by how it begins.
fn kind(start: &[u8]) -> &'static str {
    let is_binary = |byte: &u8| matches!(byte, 0..=8 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f);
    match start {
        [0x1f, 0x8b, 8, ..] => "application/x-gzip",
        text if !text.iter().any(is_binary) => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn ask(logs: &Logs, path: &str, sent: &[(header::HeaderName, &str)]) -> (u16, String, HeaderMap) {
        let headers = sent.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
        let answer = logs.answer(&Method::GET, path, &headers.collect()).await.unwrap();
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), String::from_utf8_lossy(&body).into_owned(), parts.headers)
    }

    #[tokio::test]
    async fn files_below_the_root_are_read_and_no_others() {
        let directory = tempfile::tempdir().unwrap();
        let (root, outside) = (directory.path().join("log"), directory.path().join("secret"));
        std::fs::create_dir_all(root.join("pods")).unwrap();
        std::fs::write(root.join("a <b>.log"), "0123456789").unwrap();
        std::fs::write(root.join("pods/x.log"), "x").unwrap();
        std::fs::write(&outside, "secret").unwrap();
        std::os::unix::fs::symlink(&outside, root.join("out")).unwrap();
        std::os::unix::fs::symlink(root.join("pods/x.log"), root.join("in")).unwrap();
        let logs = Logs { root };
        let (code, page, _) = ask(&logs, "/logs/", &[]).await;
        let links = [
            r#"<a href="a%20%3Cb%3E.log">a &lt;b&gt;.log</a>"#,
            r#"<a href="in">in</a>"#,
            r#"<a href="out">out</a>"#,
            r#"<a href="pods/">pods/</a>"#,
        ];
        assert_eq!(code, 200);
        assert!(page.contains(&links.join("\n")), "{page}");
        for (path, code, body) in [
            ("/logs/a%20%3Cb%3E.log", 200, "0123456789"),
            ("/logs/pods/x.log", 200, "x"),
            ("/logs/in", 200, "x"),
            ("/logs/out", 404, "404 page not found\n"),
            ("/logs/none", 404, "404 page not found\n"),
            ("/logs/pods/x.log/y", 404, "404 page not found\n"),
            ("/logs/../secret", 400, "invalid URL path\n"),
            ("/logs/%2e%2e/secret", 400, "invalid URL path\n"),
        ] {
            let (got, said, _) = ask(&logs, path, &[]).await;
            assert_eq!((got, said.as_str()), (code, body), "{path}");
        }
        for (path, to) in
            [("/logs", "logs/"), ("/logs/pods", "pods/"), ("/logs/in/", "../in"), ("/logs/index.html", "./")]
        {
            let (code, _, headers) = ask(&logs, path, &[]).await;
            assert_eq!((code, headers[header::LOCATION].to_str().unwrap()), (301, to), "{path}");
        }
        assert!(logs.answer(&Method::GET, "/logsx", &HeaderMap::new()).await.is_none());
        let posted = logs.answer(&Method::POST, "/logs/in", &HeaderMap::new()).await.unwrap();
        assert_eq!(posted.status(), 405);
        let path = "/logs/a%20%3Cb%3E.log";
        let (code, part, headers) = ask(&logs, path, &[(header::RANGE, "bytes=2-4")]).await;
        assert_eq!((code, part.as_str()), (206, "234"));
        assert_eq!(headers[header::CONTENT_RANGE], "bytes 2-4/10");
        let changed = headers[header::LAST_MODIFIED].to_str().unwrap().to_owned();
        assert_eq!(ask(&logs, path, &[(header::IF_MODIFIED_SINCE, &changed)]).await.0, 304);
        assert_eq!(ask(&logs, path, &[(header::RANGE, "bytes=10-")]).await.0, 416);
    }

    #[test]
    fn ranges() {
        for (asked, want) in [
            ("bytes=0-", Part::Of(0..10)),
            ("bytes=3-3", Part::Of(3..4)),
            ("bytes=8-100", Part::Of(8..10)),
            ("bytes=-4", Part::Of(6..10)),
            ("bytes=-40", Part::Of(0..10)),
            ("bytes=-0", Part::Nothing),
            ("bytes=5-4", Part::Nothing),
            ("bytes=x-", Part::Nothing),
            ("bytes=0-1,3-4", Part::All),
            ("lines=1-2", Part::All),
        ] {
            assert_eq!(part_of(asked, 10), want, "{asked}");
        }
        assert_eq!(part_of("bytes=0-", 0), Part::Nothing);
    }

    #[test]
    fn what_files_are() {
        assert_eq!(kind(b"\x1f\x8b\x08\x00"), "application/x-gzip");
        assert_eq!(kind(b"\x00\x01"), "application/octet-stream");
        assert_eq!(kind("müde\n".as_bytes()), "text/plain; charset=utf-8");
    }
}
