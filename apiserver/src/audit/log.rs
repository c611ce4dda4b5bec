//! The log back end: one line per event, into a file that is rotated by size, or to standard output.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use flate2::{Compression, write::GzEncoder};
use jiff::Timestamp;
use parking_lot::Mutex;

use super::{Event, metrics, options::Backend};

/// How the file is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LogOptions {
    /// The file; `-` is standard output.
    pub(super) path: String,
    /// Bytes before it is rotated; 0 for never.
    pub(super) max_size: u64,
    /// Rotated files that are kept; 0 for all.
    pub(super) max_backups: usize,
    /// Age of rotated files that are kept; zero for any.
    pub(super) max_age: Duration,
    /// Whether rotated files are compressed.
    pub(super) compresses: bool,
    /// One line for people instead of JSON.
    pub(super) legacy: bool,
}

/// The back end. Writes go to the page cache, so that a request does not wait for a disk.
pub(super) struct Log {
    options: LogOptions,
    out: Mutex<Out>,
}

enum Out {
    Standard,
    File { file: File, size: u64 },
}

impl Log {
    /// Opens the file, and makes its folder when it is missing.
    pub(super) fn open(options: LogOptions) -> io::Result<Self> {
        let out = match options.path.as_str() {
            "-" => Out::Standard,
            path => {
                if let Some(folder) = Path::new(path).parent().filter(|f| !f.as_os_str().is_empty()) {
                    fs::create_dir_all(folder)?;
                }
                open(Path::new(path))?
            }
        };
        Ok(Self { options, out: Mutex::new(out) })
    }

    fn write(&self, event: &Event) -> io::Result<()> {
        let mut line = match self.options.legacy {
            true => event.legacy().into_bytes(),
            false => serde_json::to_vec(event)?,
        };
        line.push(b'\n');
        let mut out = self.out.lock();
        let rotates = matches!(&*out, Out::File { size, .. }
            if self.options.max_size > 0 && *size > 0 && *size + line.len() as u64 > self.options.max_size);
        if rotates {
            *out = self.rotate()?;
        }
        match &mut *out {
            Out::Standard => io::stdout().lock().write_all(&line),
            Out::File { file, size } => {
                file.write_all(&line)?;
                *size += line.len() as u64;
                Ok(())
            }
        }
    }

    /// Puts the file aside and begins another.
    fn rotate(&self) -> io::Result<Out> {
        let path = Path::new(&self.options.path);
        let aside = aside(path, Timestamp::now());
        fs::rename(path, &aside)?;
        let out = open(path)?;
        if self.options.compresses {
            compress(&aside)?;
        }
        self.tidy(path)?;
        Ok(out)
    }

    /// Removes rotated files that are too many or too old.
    fn tidy(&self, path: &Path) -> io::Result<()> {
        let mut old = rotated(path)?;
        old.sort_by(|a, b| b.cmp(a));
        let now = SystemTime::now();
        for (at, file) in old.iter().enumerate() {
            let many = self.options.max_backups > 0 && at >= self.options.max_backups;
            let age = fs::metadata(file)?.modified().ok().and_then(|at| now.duration_since(at).ok());
            let aged = !self.options.max_age.is_zero() && age.is_some_and(|age| age > self.options.max_age);
            if many || aged {
                fs::remove_file(file)?;
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<Out> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let size = file.metadata()?.len();
    Ok(Out::File { file, size })
}

/// Name without its ending, and the ending with its dot.
fn parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.map(|p| p.to_string_lossy().into_owned());
    let ending = text(path.extension()).map(|ending| format!(".{ending}")).unwrap_or_default();
    (text(path.file_stem()).unwrap_or_default(), ending)
}

/// `audit-2006-01-02T15-04-05.000.log`.
fn aside(path: &Path, now: Timestamp) -> PathBuf {
    let (stem, ending) = parts(path);
    path.with_file_name(format!("{stem}-{}{ending}", now.strftime("%Y-%m-%dT%H-%M-%S.%3f")))
}

fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (stem, ending) = parts(path);
    let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let stamp = name
            .strip_prefix(&format!("{stem}-"))
            .map(|rest| rest.strip_suffix(".gz").unwrap_or(rest))
            .and_then(|rest| rest.strip_suffix(&ending));
        // Only what is named as `aside` names is this log's.
        if stamp.is_some_and(|stamp| stamp.len() == 23 && stamp.as_bytes().get(10) == Some(&b'T')) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn compress(path: &Path) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    let packed = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(name)?;
    let mut encoder = GzEncoder::new(packed, Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?;
    fs::remove_file(path)
}

#[async_trait]
impl Backend for Log {
    async fn process(&self, events: Vec<Arc<Event>>) -> bool {
        for (at, event) in events.iter().enumerate() {
            if let Err(error) = self.write(event) {
                metrics::failed("log", events.len() - at);
                tracing::error!(%error, path = self.options.path, "audit events were not written");
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_are_rotated_compressed_and_limited_in_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folder/audit.log");
        let options = LogOptions {
            path: path.to_string_lossy().into_owned(),
            max_size: 500,
            max_backups: 2,
            compresses: true,
            ..LogOptions::default()
        };
        let log = Log::open(options).unwrap();
        for _ in 0..40 {
            assert!(log.process(vec![Arc::new(Event::default())]).await);
        }
        let mut old = rotated(&path).unwrap();
        old.sort();
        assert!((1..=2).contains(&old.len()), "{old:?}");
        assert!(old.iter().all(|path| path.to_string_lossy().ends_with(".log.gz")), "{old:?}");
        assert!(fs::metadata(&path).unwrap().len() <= 500);
    }
}
