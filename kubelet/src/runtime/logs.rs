//! Container logs: the CRI line format, which lines a reader wants, and following a file that is rotated.
//!
//! Contract: CRI logging (`<RFC 3339 nano> <stdout|stderr> <P|F> <text>`) and core/v1 PodLogOptions.

use std::{
    fs,
    io::{self, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
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
async fn tail_offset(file: &mut File, lines: u64) -> io::Result<u64> {
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
) -> io::Result<()>
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
) -> io::Result<bool>
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

/// Ends of the names of logs that are packed, and that were being packed.
const PACKED: &str = ".gz";
const PACKING: &str = ".tmp";

/// Sets the log aside when it has grown too large, and answers with where it is then: the runtime has to open a new one. Those
/// that were set aside before are packed, and the oldest go.
///
/// # Errors
/// When a file cannot be renamed, packed or removed.
pub fn rotate(path: &Path, rotation: Rotation, now: Timestamp) -> io::Result<Option<PathBuf>> {
    if fs::metadata(path)?.len() < rotation.max_size {
        return Ok(None);
    }
    let plan = plan(aside(path)?, rotation.max_files.saturating_sub(2));
    for old in &plan.remove {
        fs::remove_file(old)?;
    }
    for old in &plan.pack {
        pack(old)?;
    }
    let rotated = with_end(path, &now.strftime(".%Y%m%d-%H%M%S").to_string());
    fs::rename(path, &rotated)?;
    Ok(Some(rotated))
}

/// Removes a log with all that was set aside of it.
///
/// # Errors
/// When a file cannot be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    for file in aside(path)?.into_iter().chain([path.to_owned()]) {
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// What was set aside of a log.
fn aside(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Ok(vec![]) };
    let prefix = format!("{}.", name.to_string_lossy());
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        entries => entries?.filter_map(Result::ok),
    };
    let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    Ok(ours.map(|entry| entry.path()).collect())
}

/// What becomes of logs that were set aside.
#[derive(Debug, PartialEq, Eq)]
struct Aside {
    remove: Vec<PathBuf>,
    pack: Vec<PathBuf>,
}

/// Of those that were set aside so many of the newest stay. What was being packed when something went wrong is there twice.
fn plan(mut all: Vec<PathBuf>, keep: usize) -> Aside {
    let ends = |path: &Path, end: &str| path.to_string_lossy().ends_with(end);
    all.sort();
    let twice = |path: &Path| all.binary_search(&with_end(path, PACKED)).is_ok();
    let (mut remove, used): (Vec<_>, Vec<_>) =
        all.iter().cloned().partition(|path| ends(path, PACKING) || (!ends(path, PACKED) && twice(path)));
    let excess = used.len().saturating_sub(keep);
    remove.extend_from_slice(&used[..excess]);
    let pack = used[excess..].iter().filter(|path| !ends(path, PACKED)).cloned().collect();
    Aside { remove, pack }
}

fn pack(path: &Path) -> io::Result<()> {
    let temporary = with_end(path, PACKING);
    let packed = (|| {
        let mut from = fs::File::open(path)?;
        let to = fs::File::create(&temporary)?;
        to.set_permissions(from.metadata()?.permissions())?;
        let mut encoder = GzEncoder::new(to, Compression::default());
        io::copy(&mut from, &mut encoder)?;
        encoder.finish()?;
        fs::rename(&temporary, with_end(path, PACKED))?;
        fs::remove_file(path)
    })();
    if packed.is_err() {
        // The next rotation removes it otherwise.
        drop(fs::remove_file(&temporary));
    }
    packed
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// How often a container was started before that the runtime knows nothing of, by the logs it has left: each instance has
/// one by its number. A machine that was started anew may have a runtime that knows nothing.
#[must_use]
pub fn restarts(folder: &Path) -> u32 {
    // Without a folder there was no instance.
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let files = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_dir()));
    let number = |entry: fs::DirEntry| {
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
        fs::write(&path, content).unwrap();
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
            fs::write(&path, "xxxx").unwrap();
            let now = Timestamp::from_second(1_800_000_000 + i).unwrap();
            let rotated = rotate(&path, rotation, now).unwrap().unwrap();
            assert_eq!(rotated.extension().unwrap().len(), "20270115-080000".len());
        }
        let names = || {
            let entries = fs::read_dir(dir.path()).unwrap();
            let mut names: Vec<_> =
                entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(names(), ["0.log.20270115-080003.gz", "0.log.20270115-080004"]);
        let mut text = String::new();
        let packed = fs::File::open(dir.path().join("0.log.20270115-080003.gz")).unwrap();
        io::Read::read_to_string(&mut flate2::read::GzDecoder::new(packed), &mut text).unwrap();
        assert_eq!(text, "xxxx");
        assert!(
            rotate(&path, rotation, Timestamp::UNIX_EPOCH)
                .is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
        );
        fs::write(&path, "x").unwrap();
        assert_eq!(rotate(&path, rotation, Timestamp::UNIX_EPOCH).unwrap(), None);
        fs::write(dir.path().join("0.logs"), "").unwrap();
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(names(), ["0.logs"]);
    }

    #[test]
    fn of_logs_set_aside_the_newest_stay_packed() {
        let of = |names: &[&str], keep| {
            let Aside { remove, pack } = plan(names.iter().map(PathBuf::from).collect(), keep);
            let list = |paths: Vec<PathBuf>| {
                paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
            };
            (list(remove), list(pack))
        };
        for (names, keep, remove, pack) in [
            (&[][..], 3, "", ""),
            (&["l.3", "l.1.gz", "l.2.gz"], 3, "", "l.3"),
            (&["l.3", "l.1.gz", "l.2.gz"], 1, "l.1.gz l.2.gz", "l.3"),
            (&["l.3", "l.1.gz"], 0, "l.1.gz l.3", ""),
            (&["l.2", "l.2.gz", "l.3", "l.3.tmp"], 9, "l.2 l.3.tmp", "l.3"),
            (&["l.1.tmp", "l.1", "l.2"], 1, "l.1.tmp l.1", "l.2"),
        ] {
            assert_eq!(of(names, keep), (remove.to_owned(), pack.to_owned()), "{names:?} {keep}");
        }
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
            names.iter().for_each(|name| fs::write(dir.path().join(name), "").unwrap());
            assert_eq!(restarts(dir.path()), expected, "{names:?}");
        }
        fs::create_dir(dir.path().join("7.log")).unwrap();
        assert_eq!(restarts(dir.path()), 3);
    }
}
