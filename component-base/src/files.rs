//! Files of a directory over HTTP: what `/logs` of two daemons shows.
//!
//! Contract: the file server of Go's `net/http` (listings, redirects, ranges, `If-Modified-Since`). Unlike there, links
//! that lead out of the directory are followed nowhere: the kernel resolves names beneath it.

use std::{
    fs::File,
    io::{self, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures::TryStreamExt as _;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use jiff::{Timestamp, fmt::rfc2822};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

/// Bytes of a file that say what it is.
const SNIFFED: usize = 512;
/// What a name is written with in a link as it is.
const PLAIN: &percent_encoding::AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What is sent.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The files of a directory.
#[derive(Debug, Clone)]
pub struct Files {
    root: PathBuf,
}

/// What a name stands for.
enum Found {
    /// The names in a directory, those of directories with a slash.
    Directory(Vec<String>),
    /// A file and what is known of it.
    File(File, std::fs::Metadata),
}

impl Files {
    /// Those below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Opens what has this name below the root, for reading; waits for the disk.
    ///
    /// # Errors
    /// It is not there, may not be read or lies elsewhere.
    pub fn open(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let directory = rustix::fs::open(&self.root, flags | OFlags::DIRECTORY, Mode::empty())?;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let open = |path: &Path| {
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            rustix::fs::openat2(&directory, path, flags, Mode::empty(), beneath)
        };
        let found = match open(Path::new(name)) {
            // A link that says where it leads from the top on may lead back below the root.
            Err(Errno::XDEV) => {
                let target = std::fs::canonicalize(self.root.join(name))?;
                let root = std::fs::canonicalize(&self.root)?;
                open(target.strip_prefix(&root).map_err(|_| io::ErrorKind::NotFound)?)
            }
            found => found,
        };
        Ok(File::from(found?))
    }

    /// The answer to a GET of a path, percent-encoded as it was sent; none if it is not below `prefix`.
    pub async fn answer(&self, prefix: &str, path: &str, headers: &HeaderMap) -> Option<Response<Body>> {
        let decoded = percent_decode_str(path).decode_utf8_lossy();
        let name = decoded.strip_prefix(prefix)?;
        if !name.is_empty() && !name.starts_with('/') {
            return None;
        }
        if name.split('/').any(|part| part == "..") {
            return Some(text(400, "invalid URL path\n"));
        }
        if name.ends_with("/index.html") {
            return Some(moved("./"));
        }
        let base = decoded.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let answer = match self.find(name).await {
            Ok(Found::Directory(names)) if name.ends_with('/') => Ok(listing(names)),
            Ok(Found::Directory(_)) => return Some(moved(&format!("{base}/"))),
            Ok(Found::File(..)) if name.ends_with('/') => return Some(moved(&format!("../{base}"))),
            Ok(Found::File(open, metadata)) => file(open, &metadata, headers).await,
            Err(error) => Err(error),
        };
        Some(answer.unwrap_or_else(|error| refusal(&error, &decoded)))
    }

    /// The answer to a GET of a file or directory below the root, by its name as it is.
    pub async fn named(&self, name: &str, headers: &HeaderMap) -> Response<Body> {
        let answer = match self.find(name).await {
            Ok(Found::Directory(names)) => Ok(listing(names)),
            Ok(Found::File(open, metadata)) => file(open, &metadata, headers).await,
            Err(error) => Err(error),
        };
        answer.unwrap_or_else(|error| refusal(&error, name))
    }

    async fn find(&self, name: &str) -> io::Result<Found> {
        let (files, name) = (self.clone(), name.trim_matches('/').to_owned());
        tokio::task::spawn_blocking(move || look(files.open(&name)?)).await.map_err(io::Error::other)?
    }
}

/// What an open file is.
fn look(found: File) -> io::Result<Found> {
    let metadata = found.metadata()?;
    if metadata.is_file() {
        return Ok(Found::File(found, metadata));
    }
    if !metadata.is_dir() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(found)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy();
        match name.as_ref() {
            "." | ".." => {}
            name if entry.file_type().is_dir() => names.push(format!("{name}/")),
            name => names.push(name.to_owned()),
        }
    }
    names.sort_unstable();
    Ok(Found::Directory(names))
}

fn refusal(error: &io::Error, path: &str) -> Response<Body> {
    match error.kind() {
        io::ErrorKind::NotFound
        | io::ErrorKind::InvalidFilename
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::CrossesDevices
        | io::ErrorKind::InvalidInput => text(404, "404 page not found\n"),
        io::ErrorKind::PermissionDenied => text(403, "403 Forbidden\n"),
        _ => {
            tracing::warn!(%error, path, "a file cannot be read");
            text(500, "500 Internal Server Error\n")
        }
    }
}

fn of(code: u16, kind: &'static str, body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    *answer.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

fn full(content: impl Into<Bytes>) -> Body {
    Full::new(content.into()).map_err(|never| match never {}).boxed_unsync()
}

fn text(code: u16, content: &'static str) -> Response<Body> {
    let mut answer = of(code, "text/plain; charset=utf-8", full(content));
    answer.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

fn moved(to: &str) -> Response<Body> {
    let mut answer = Response::new(full(Bytes::new()));
    *answer.status_mut() = StatusCode::MOVED_PERMANENTLY;
    // A name that starts as a scheme does is a name all the same.
    let encoded: String =
        to.split('/').map(|part| utf8_percent_encode(part, PLAIN).to_string()).collect::<Vec<_>>().join("/");
    if let Ok(to) = HeaderValue::from_str(&encoded) {
        answer.headers_mut().insert(header::LOCATION, to);
    }
    answer
}

/// The names in a directory, each a link.
fn listing(names: Vec<String>) -> Response<Body> {
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
    of(200, "text/html; charset=utf-8", full(page))
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
async fn file(open: File, metadata: &std::fs::Metadata, headers: &HeaderMap) -> io::Result<Response<Body>> {
    let changed = metadata.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
    let printer = rfc2822::DateTimePrinter::new();
    let printed = changed.and_then(|at| printer.timestamp_to_rfc9110_string(&at).ok());
    let printed = printed.and_then(|at| HeaderValue::from_str(&at).ok());
    let stamp = |mut answer: Response<Body>| {
        if let Some(at) = &printed {
            answer.headers_mut().insert(header::LAST_MODIFIED, at.clone());
        }
        answer
    };
    if is_known(changed, headers) {
        let mut answer = Response::new(full(Bytes::new()));
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(stamp(answer));
    }
    let length = metadata.len();
    let mut file = tokio::fs::File::from_std(open);
    let mut start = Vec::with_capacity(SNIFFED);
    (&mut file).take(SNIFFED as u64).read_to_end(&mut start).await?;
    let asked = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let (code, part) = match asked.map(|asked| part_of(asked, length)) {
        None | Some(Part::All) => (200, 0..length),
        Some(Part::Of(part)) => (206, part),
        Some(Part::Nothing) => {
            let mut answer = text(416, "invalid range: failed to overlap\n");
            answer.headers_mut().insert(header::CONTENT_RANGE, value(&format!("bytes */{length}"))?);
            return Ok(answer);
        }
    };
    file.seek(SeekFrom::Start(part.start)).await?;
    // What is written to it meanwhile is not part of what was announced.
    let pieces =
        ReaderStream::new(file.take(part.end - part.start)).map_ok(Frame::data).inspect_err(|error| {
            tracing::warn!(%error, "a file broke off");
        });
    let mut answer = stamp(of(code, kind(&start), StreamBody::new(pieces).boxed_unsync()));
    let told = answer.headers_mut();
    told.insert(header::CONTENT_LENGTH, HeaderValue::from(part.end - part.start));
    told.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if code == 206 {
        let part = format!("bytes {}-{}/{length}", part.start, part.end - 1);
        told.insert(header::CONTENT_RANGE, value(&part)?);
    }
    Ok(answer)
}

fn value(text: &str) -> io::Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(io::Error::other)
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
    use super::*;

    async fn read(answer: Response<Body>) -> (u16, String, HeaderMap) {
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), String::from_utf8_lossy(&body).into_owned(), parts.headers)
    }

    async fn ask(files: &Files, path: &str, sent: &[(header::HeaderName, &str)]) -> (u16, String, HeaderMap) {
        let headers = sent.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
        read(files.answer("/logs", path, &headers.collect()).await.unwrap()).await
    }

    #[tokio::test]
    async fn files_below_the_root_are_read_and_no_others() {
        let directory = tempfile::tempdir().unwrap();
        let (root, outside) = (directory.path().join("log"), directory.path().join("secret"));
        std::fs::create_dir_all(root.join("pods")).unwrap();
        std::fs::write(root.join("a <b>.log"), "0123456789").unwrap();
        std::fs::write(root.join("pods/x.log"), "x").unwrap();
        std::fs::write(&outside, "secret").unwrap();
        let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, root.join(name)).unwrap();
        link(&outside, "out");
        link(Path::new("../secret"), "up");
        link(&root.join("pods/x.log"), "in");
        link(Path::new("pods/x.log"), "near");
        let files = Files::new(&root);
        let (code, page, _) = ask(&files, "/logs/", &[]).await;
        let links = [
            r#"<a href="a%20%3Cb%3E.log">a &lt;b&gt;.log</a>"#,
            r#"<a href="in">in</a>"#,
            r#"<a href="near">near</a>"#,
            r#"<a href="out">out</a>"#,
            r#"<a href="pods/">pods/</a>"#,
            r#"<a href="up">up</a>"#,
        ];
        assert_eq!(code, 200);
        assert!(page.contains(&links.join("\n")), "{page}");
        for (path, code, body) in [
            ("/logs/a%20%3Cb%3E.log", 200, "0123456789"),
            ("/logs/pods/x.log", 200, "x"),
            ("/logs/in", 200, "x"),
            ("/logs/near", 200, "x"),
            ("/logs/out", 404, "404 page not found\n"),
            ("/logs/up", 404, "404 page not found\n"),
            ("/logs/none", 404, "404 page not found\n"),
            ("/logs/pods/x.log/y", 404, "404 page not found\n"),
            ("/logs//etc/passwd", 404, "404 page not found\n"),
            ("/logs/%00", 404, "404 page not found\n"),
            ("/logs/../secret", 400, "invalid URL path\n"),
            ("/logs/%2e%2e/secret", 400, "invalid URL path\n"),
        ] {
            let (got, said, _) = ask(&files, path, &[]).await;
            assert_eq!((got, said.as_str()), (code, body), "{path}");
        }
        for (path, to) in
            [("/logs", "logs/"), ("/logs/pods", "pods/"), ("/logs/in/", "../in"), ("/logs/index.html", "./")]
        {
            let (code, _, headers) = ask(&files, path, &[]).await;
            assert_eq!((code, headers[header::LOCATION].to_str().unwrap()), (301, to), "{path}");
        }
        assert!(files.answer("/logs", "/logsx", &HeaderMap::new()).await.is_none());
        for (name, code, body) in
            [("a <b>.log", 200, "0123456789"), ("../secret", 404, "404 page not found\n")]
        {
            let (got, said, _) = read(files.named(name, &HeaderMap::new()).await).await;
            assert_eq!((got, said.as_str()), (code, body), "{name}");
        }
        let path = "/logs/a%20%3Cb%3E.log";
        let (code, part, headers) = ask(&files, path, &[(header::RANGE, "bytes=2-4")]).await;
        assert_eq!((code, part.as_str()), (206, "234"));
        assert_eq!(headers[header::CONTENT_RANGE], "bytes 2-4/10");
        let changed = headers[header::LAST_MODIFIED].to_str().unwrap().to_owned();
        assert_eq!(ask(&files, path, &[(header::IF_MODIFIED_SINCE, &changed)]).await.0, 304);
        assert_eq!(ask(&files, path, &[(header::RANGE, "bytes=10-")]).await.0, 416);
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
