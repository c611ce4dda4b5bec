//! The termination message of a container that ended: the file it wrote, or the end of its log.
//!
//! Contract: `terminationMessagePath` and `terminationMessagePolicy`; at most 4096 bytes from the file, 2048 bytes
//! or 80 lines from the log.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use super::{cri, logs, observed};

const FILE_LIMIT: u64 = 4096;
const LOG_LIMIT: u64 = 2048;
const LOG_LINES: usize = 80;

/// The message of an exited container.
#[must_use]
pub fn message(status: &cri::ContainerStatus) -> String {
    let path = status.annotations.get(observed::TERMINATION_PATH);
    let mount = status.mounts.iter().find(|m| Some(&m.container_path) == path);
    let written = mount.map(|m| read_end(Path::new(&m.host_path), FILE_LIMIT)).unwrap_or_default();
    let fallback =
        status.annotations.get(observed::TERMINATION_POLICY).is_some_and(|p| p == "FallbackToLogsOnError");
    let text = if written.is_empty() && fallback && status.exit_code != 0 {
        log_end(Path::new(&status.log_path))
    } else {
        written
    };
    match (status.message.is_empty(), text.is_empty()) {
        (true, _) => text,
        (false, true) => status.message.clone(),
        (false, false) => format!("{}: {text}", status.message),
    }
}

/// The last bytes of a file; a file that cannot be read gives nothing, as a container need not write one.
fn read_end(path: &Path, limit: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(limit)))?;
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

fn log_end(path: &Path) -> String {
    // A line of the log carries some 45 bytes around its text.
    let raw = read_end(path, LOG_LIMIT * 4);
    let lines: Vec<String> =
        raw.lines().filter_map(|l| logs::parse(l.as_bytes()).map(|p| p.text())).collect();
    let from = lines.len().saturating_sub(LOG_LINES);
    let mut text = lines[from..].concat();
    let excess = text.len().saturating_sub(usize::try_from(LOG_LIMIT).unwrap_or(usize::MAX));
    let cut = (excess..text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    text.drain(..cut);
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn status(dir: &Path, policy: &str, code: i32) -> cri::ContainerStatus {
        cri::ContainerStatus {
            exit_code: code,
            annotations: HashMap::from([
                (observed::TERMINATION_PATH.to_owned(), "/t".to_owned()),
                (observed::TERMINATION_POLICY.to_owned(), policy.to_owned()),
            ]),
            mounts: vec![cri::Mount {
                container_path: "/t".into(),
                host_path: dir.join("t").to_string_lossy().into_owned(),
                ..Default::default()
            }],
            log_path: dir.join("log").to_string_lossy().into_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn file_first_then_log_on_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("log"), "2026-01-01T00:00:00.0Z stderr F boom\n").unwrap();
        assert_eq!(message(&status(dir.path(), "FallbackToLogsOnError", 1)), "boom\n");
        assert_eq!(message(&status(dir.path(), "FallbackToLogsOnError", 0)), "");
        assert_eq!(message(&status(dir.path(), "File", 1)), "");
        std::fs::write(dir.path().join("t"), "x".repeat(5000)).unwrap();
        assert_eq!(message(&status(dir.path(), "File", 1)).len(), 4096);
    }
}
