//! Container logs: the CRI line format, which lines a reader wants, and following a file that is rotated.
//!
//! Contract: CRI logging (`<RFC 3339 nano> <stdout|stderr> <P|F> <text>`) and core/v1 PodLogOptions.

use std::{
    io::SeekFrom,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::{
    fs::File,
    io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, BufReader},
    sync::mpsc,
};

/// Longest line that is kept in memory: the runtime cuts at 16 KiB, so this leaves room for any runtime.
const MAX_LINE: u64 = 1 << 20;

/// One line of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// The time as written.
    pub time: &'a str,
    /// `stdout` or `stderr`.
    pub stream: &'a str,
    /// The line ends here; a partial one goes on in the next.
    pub full: bool,
    /// The text without its newline.
    pub content: &'a [u8],
}

impl Line<'_> {
    /// The text as the container wrote it: with its newline when the line is full.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::from_utf8_lossy(self.content).into_owned();
        if self.full {
            text.push('\n');
        }
        text
    }
}

/// Reads one line of the format; `None` when it is something else.
#[must_use]
pub fn parse(raw: &[u8]) -> Option<Line<'_>> {
    let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
    let mut parts = raw.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok().filter(|s| matches!(*s, "stdout" | "stderr"))?;
    let tags = std::str::from_utf8(parts.next()?).ok()?;
    let full = tags.split(':').next() == Some("F");
    Some(Line { time, stream, full, content: parts.next().unwrap_or_default() })
}

/// What a reader of a log wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on as the container writes.
    pub follow: bool,
    /// Only the last lines.
    pub tail: Option<u64>,
    /// Only lines from then on.
    pub since: Option<Timestamp>,
    /// Put each line's time before it.
    pub timestamps: bool,
    /// Stop after so many bytes.
    pub limit_bytes: Option<u64>,
    /// Only this stream.
    pub stream: Option<String>,
}

/// What a line becomes for the reader, if anything.
#[must_use]
pub fn render(line: &Line<'_>, options: &LogOptions) -> Option<Vec<u8>> {
    if options.stream.as_deref().is_some_and(|s| s != line.stream) {
        return None;
    }
    if let Some(since) = options.since
        && line.time.parse::<Timestamp>().is_ok_and(|t| t < since)
    {
        return None;
    }
    let mut out = Vec::with_capacity(line.content.len() + 40);
    if options.timestamps {
        out.extend_from_slice(line.time.as_bytes());
        out.push(b' ');
    }
    out.extend_from_slice(line.content);
    if line.full {
        out.push(b'\n');
    }
    Some(out)
}

/// Where the last `lines` lines of a file begin.
async fn tail_offset(file: &mut File, lines: u64) -> std::io::Result<u64> {
    let end = file.seek(SeekFrom::End(0)).await?;
    if lines == 0 {
        return Ok(end);
    }
    let mut left = lines;
    let mut position = end;
    let mut block = vec![0u8; 8192];
    while position > 0 {
        let size = position.min(block.len() as u64);
        position -= size;
        file.seek(SeekFrom::Start(position)).await?;
        let slice = &mut block[..usize::try_from(size).unwrap_or(0)];
        file.read_exact(slice).await?;
        for (i, byte) in slice.iter().enumerate().rev() {
            let at = position + i as u64;
            // The newline that ends the file ends the last line; it does not begin another.
            if *byte == b'\n' && at + 1 != end {
                left -= 1;
                if left == 0 {
                    return Ok(at + 1);
                }
            }
        }
    }
    Ok(0)
}

/// Sends what the reader wants into `out` until the end, the limit, or the reader's leaving. `alive` says whether the
/// container may still write.
///
/// # Errors
/// When the file cannot be read.
pub async fn stream<F, Fut>(
    path: PathBuf,
    options: LogOptions,
    out: mpsc::Sender<Bytes>,
    alive: F,
) -> std::io::Result<()>
where
    F: Fn() -> Fut,
    Fut: Future<Output = bool>,
{
    let mut file = File::open(&path).await?;
    let start = match options.tail {
        Some(lines) => tail_offset(&mut file, lines).await?,
        None => 0,
    };
    file.seek(SeekFrom::Start(start)).await?;
    let mut reader = BufReader::new(file);
    let mut left = options.limit_bytes.unwrap_or(u64::MAX);
    let mut line = Vec::new();
    loop {
        let read = (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line).await?;
        if read > 0 && line.last() == Some(&b'\n') {
            if let Some(mut bytes) = parse(&line).and_then(|l| render(&l, &options)) {
                bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                left -= bytes.len() as u64;
                if out.send(Bytes::from(bytes)).await.is_err() {
                    return Ok(());
                }
            }
            line.clear();
            if left == 0 {
                return Ok(());
            }
            continue;
        }
        if line.len() as u64 >= MAX_LINE {
            line.clear();
            continue;
        }
        if !options.follow {
            return Ok(());
        }
        if !wait_for_more(&mut reader, &path, &out, &alive).await? {
            return Ok(());
        }
    }
}

/// At the end of the file: waits for more, goes over to a rotated file's successor, or says that the end is reached.
async fn wait_for_more<F, Fut>(
    reader: &mut BufReader<File>,
    path: &Path,
    out: &mpsc::Sender<Bytes>,
    alive: &F,
) -> std::io::Result<bool>
where
    F: Fn() -> Fut,
    Fut: Future<Output = bool>,
{
    use std::os::unix::fs::MetadataExt;
    let was_alive = alive().await;
    let open = reader.get_ref().metadata().await?;
    let position = reader.stream_position().await?;
    if open.len() > position {
        return Ok(true);
    }
    let now = tokio::fs::metadata(path).await;
    if let Ok(now) = now
        && now.ino() != open.ino()
    {
        *reader = BufReader::new(File::open(path).await?);
        return Ok(true);
    }
    if !was_alive {
        return Ok(false);
    }
    tokio::select! {
        () = out.closed() => Ok(false),
        () = tokio::time::sleep(Duration::from_millis(250)) => Ok(true),
    }
}

/// How logs are rotated.
#[derive(Debug, Clone, Copy)]
pub struct Rotation {
    /// How often logs are looked at.
    pub period: Duration,
    /// Bytes at which a log is set aside.
    pub max_size: u64,
    /// Files kept per container, the current one included.
    pub max_files: usize,
}

/// Sets the log aside when it has grown too large, and drops the oldest; true when the runtime must reopen it.
///
/// # Errors
/// When a file cannot be renamed or removed.
pub fn rotate(path: &Path, rotation: Rotation, now: Timestamp) -> std::io::Result<bool> {
    if std::fs::metadata(path)?.len() < rotation.max_size {
        return Ok(false);
    }
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Ok(false) };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut old: Vec<PathBuf> = std::fs::read_dir(dir)?
        .filter_map(Result::ok)
        .filter(|e| e.file_name().to_string_lossy().starts_with(&prefix))
        .map(|e| e.path())
        .collect();
    old.sort();
    let keep = rotation.max_files.saturating_sub(2);
    let excess = old.len().saturating_sub(keep);
    for path in &old[..excess] {
        std::fs::remove_file(path)?;
    }
    let stamp = now.strftime("%Y%m%d-%H%M%S");
    std::fs::rename(path, dir.join(format!("{prefix}{stamp}")))?;
    Ok(true)
}

/// How often a container was started before that the runtime knows nothing of, by the logs it has left: each instance has
/// one by its number. A machine that was started anew may have a runtime that knows nothing.
#[must_use]
pub fn restarts(folder: &Path) -> u32 {
    // Without a folder there was no instance.
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let files = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_dir()));
    let number = |entry: std::fs::DirEntry| {
        let name = entry.file_name();
        let (number, rest) = name.to_str()?.split_once(".log")?;
        let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        (is_number && (rest.is_empty() || rest.starts_with('.'))).then(|| number.parse::<u32>().ok())?
    };
    files.filter_map(number).max().map_or(0, |last| last.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_parse_or_are_refused() {
        let line = parse(b"2026-01-01T00:00:00.1Z stdout F hello world\n").unwrap();
        assert_eq!((line.stream, line.full, line.content), ("stdout", true, &b"hello world"[..]));
        assert!(!parse(b"2026-01-01T00:00:00.1Z stderr P x\n").unwrap().full);
        assert!(parse(b"garbage\n").is_none());
        assert_eq!(parse(b"t stdout F \n").unwrap().content, b"");
    }

    async fn read(content: &str, options: LogOptions) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, content).unwrap();
        let (tx, mut rx) = mpsc::channel(100);
        stream(path, options, tx, || async { false }).await.unwrap();
        let mut out = Vec::new();
        while let Some(bytes) = rx.recv().await {
            out.extend_from_slice(&bytes);
        }
        String::from_utf8(out).unwrap()
    }

    const LOG: &str = "2026-01-01T00:00:01Z stdout F one\n2026-01-01T00:00:02Z stderr F two\n\
                       2026-01-01T00:00:03Z stdout P th\n2026-01-01T00:00:03Z stdout F ree\n";

    #[tokio::test]
    async fn options_select_lines() {
        let of = |change: fn(&mut LogOptions)| {
            let mut options = LogOptions::default();
            change(&mut options);
            options
        };
        for (options, expected) in [
            (of(|_| {}), "one\ntwo\nthree\n"),
            (of(|o| o.tail = Some(2)), "three\n"),
            (of(|o| o.tail = Some(0)), ""),
            (of(|o| o.tail = Some(99)), "one\ntwo\nthree\n"),
            (of(|o| o.limit_bytes = Some(5)), "one\nt"),
            (of(|o| o.since = Some("2026-01-01T00:00:02Z".parse().unwrap())), "two\nthree\n"),
            (of(|o| o.stream = Some("stderr".into())), "two\n"),
            (of(|o| (o.timestamps, o.tail) = (true, Some(1))), "2026-01-01T00:00:03Z ree\n"),
            (of(|o| o.follow = true), "one\ntwo\nthree\n"),
        ] {
            assert_eq!(read(LOG, options.clone()).await, expected, "{options:?}");
        }
    }

    #[test]
    fn rotation_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let rotation = Rotation { period: Duration::from_secs(1), max_size: 3, max_files: 3 };
        for i in 0..5 {
            std::fs::write(&path, "xxxx").unwrap();
            let now = Timestamp::from_second(1_800_000_000 + i).unwrap();
            assert!(rotate(&path, rotation, now).unwrap());
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        std::fs::write(&path, "x").unwrap();
        assert!(!rotate(&path, rotation, Timestamp::UNIX_EPOCH).unwrap());
    }

    #[test]
    fn logs_tell_how_often_a_container_was_started() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(restarts(&dir.path().join("none")), 0);
        for (names, expected) in [
            (&["other", "x.log", "99.logs", "-1.log"][..], 0),
            (&["0.log"], 1),
            (&["2.log.20240101-000000.gz", "1.log"], 3),
            (&["9999999999999.log"], 3),
        ] {
            names.iter().for_each(|name| std::fs::write(dir.path().join(name), "").unwrap());
            assert_eq!(restarts(dir.path()), expected, "{names:?}");
        }
        std::fs::create_dir(dir.path().join("7.log")).unwrap();
        assert_eq!(restarts(dir.path()), 3);
    }
}
