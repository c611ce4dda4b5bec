//! `GET /logs/?query=`: logs of services, from the journal or from the files they are usually in.
//!
//! Contract: KEP-2258 (`enableSystemLogQuery`): `query` names services or one file, `sinceTime`, `untilTime`, `tailLines`,
//! `pattern` and `boot` are for the journal only. journalctl is run with what was checked, and answers for itself.

use std::{io::Read as _, process::Stdio, time::Duration};

use component_base::files::Files;
use http::{Response, StatusCode};
use jiff::Timestamp;
use tokio::{io::AsyncReadExt as _, process::Command};

use super::{Body, Query, answer};

/// How long the journal may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most of an answer.
const MOST: u64 = 64 << 20;
const MOST_LINES: i64 = 100_000;
const LONGEST_NAME: usize = 256;
const MOST_SERVICES: usize = 4;

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    services: Vec<String>,
    files: Vec<String>,
    options: Options,
}

/// Which part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Options {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    tail: Option<i64>,
    boot: Option<i64>,
    pattern: Option<String>,
}

impl Wanted {
    /// Reads the query; nothing where none of it is about logs.
    ///
    /// # Errors
    /// What does not read.
    pub(super) fn parse(query: &Query) -> Result<Option<Self>, String> {
        let mut wanted = Self::default();
        let named = query.all("query");
        for name in named.iter().filter(|name| !name.trim().is_empty()) {
            // With a slash it is a file.
            let list = if name.contains(['/', '\\']) { &mut wanted.files } else { &mut wanted.services };
            list.push(name.replace('\\', "/"));
        }
        if !named.is_empty() && wanted.files.is_empty() && wanted.services.is_empty() {
            return Err(format!("unit: Invalid value: {named:?}: unit cannot be empty"));
        }
        let said = |name: &str| query.get(name).filter(|text| !text.is_empty());
        let time = |name: &str| {
            let bad = |text: &str| format!("{name}: Invalid value: {text:?}: invalid time format");
            said(name).map(|text| text.parse::<Timestamp>().map_err(|_| bad(text))).transpose()
        };
        let number = |name: &str| {
            let bad = |text: &str, error| format!("{name}: Invalid value: {text:?}: {error}");
            said(name).map(|text| text.parse::<i64>().map_err(|error| bad(text, error))).transpose()
        };
        wanted.options = Options {
            since: time("sinceTime")?,
            until: time("untilTime")?,
            tail: number("tailLines")?,
            boot: number("boot")?,
            pattern: said("pattern").map(str::to_owned),
        };
        Ok((wanted != Self::default()).then_some(wanted))
    }

    /// Whether it makes sense.
    ///
    /// # Errors
    /// What does not.
    fn check(&self) -> Result<(), String> {
        let Self { services, files, options } = self;
        let unsafe_name = |name: &&String| {
            name.len() > LONGEST_NAME
                || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:@".contains(c))
        };
        if let Some(name) = services.iter().find(unsafe_name) {
            return Err(format!("query: Invalid value: {name:?}: input contains unsupported characters"));
        }
        if services.len() > MOST_SERVICES {
            let count = services.len();
            return Err(format!("query: Too many: {count}: must have at most {MOST_SERVICES} items"));
        }
        match files.as_slice() {
            [] => {}
            _ if !services.is_empty() => {
                return Err("query: Invalid value: cannot specify a file and service".into());
            }
            [_, _, ..] => return Err("query: Invalid value: cannot specify more than one file".into()),
            [_] if *options != Options::default() => {
                return Err("query: Invalid value: cannot specify file with options".into());
            }
            [_] => {}
        }
        if options.since.zip(options.until).is_some_and(|(since, until)| since > until) {
            return Err("untilTime: Invalid value: must be after `sinceTime`".into());
        }
        if let Some(boot) = options.boot.filter(|boot| *boot > 0) {
            return Err(format!("boot: Invalid value: {boot}: must be less than 1"));
        }
        match options.tail.filter(|tail| !(0..=MOST_LINES).contains(tail)) {
            Some(tail) => Err(format!(
                "tailLines: Invalid value: {tail}: must be between 0 and {MOST_LINES}, inclusive"
            )),
            None => Ok(()),
        }
    }

    /// What journalctl is told.
    fn arguments(&self, services: &[String]) -> Vec<String> {
        let Options { since, until, tail, boot, pattern } = &self.options;
        let time = |at: &Timestamp| at.strftime("%Y-%m-%d %H:%M:%S").to_string();
        let mut all = vec!["--utc".to_owned(), "--no-pager".to_owned()];
        all.extend(since.iter().map(|at| format!("--since={}", time(at))));
        all.extend(until.iter().map(|at| format!("--until={}", time(at))));
        if let Some(tail) = tail {
            all.extend(["--pager-end".to_owned(), format!("--lines={tail}")]);
        }
        all.extend(services.iter().map(|service| format!("--unit={service}")));
        if let Some(pattern) = pattern {
            all.extend([format!("--grep={pattern}"), "--case-sensitive=false".to_owned()]);
        }
        if let Some(boot) = boot {
            all.extend(["--boot".to_owned(), boot.to_string()]);
        }
        all.push("--output=short-precise".to_owned());
        all
    }
}

/// What comes of a query.
pub(super) enum Outcome {
    /// An answer.
    Answer(Response<Body>),
    /// It is for this file after all.
    File(String),
}

/// Answers a query.
pub(super) async fn serve(files: &Files, wanted: Wanted) -> Outcome {
    let plain = |code, text: Vec<u8>| Outcome::Answer(answer(code, "text/plain; charset=utf-8", text));
    if let Err(why) = wanted.check() {
        return plain(StatusCode::NOT_ACCEPTABLE, why.into_bytes());
    }
    if let [file] = wanted.files.as_slice() {
        return Outcome::File(file.trim_start_matches('/').to_owned());
    }
    let known = journal(&["--field".to_owned(), "_SYSTEMD_UNIT".to_owned()]).await.unwrap_or_default();
    let known = String::from_utf8_lossy(&known).into_owned();
    let (mut services, mut others) = (Vec::new(), Vec::new());
    for service in &wanted.services {
        let unit = format!("{service}.service");
        // Where one of its files is damaged, as after a power cut, journalctl lists nothing but reads what it can.
        let there = known.contains(&unit) || !journal(&newest(&unit)).await.unwrap_or_default().is_empty();
        if there { &mut services } else { &mut others }.push(service.clone());
    }
    if others.is_empty() {
        let said = journal(&wanted.arguments(&services)).await;
        let said = said.unwrap_or_else(|_| b"\nerror: journal output not available\n".to_vec());
        return plain(StatusCode::OK, said);
    }
    if wanted.options != Options::default() {
        let text = format!(
            "\noptions present and query resolved to log files for {others:?}\ntry without specifying options\n"
        );
        return plain(StatusCode::OK, text.into_bytes());
    }
    plain(StatusCode::OK, others.iter().flat_map(|service| of_files(files, service)).collect())
}

/// Asks journalctl for the newest line of a unit.
fn newest(unit: &str) -> [String; 4] {
    [format!("--unit={unit}"), "--lines=1".into(), "--quiet".into(), "--output=cat".into()]
}

/// What journalctl says.
async fn journal(arguments: &[String]) -> std::io::Result<Vec<u8>> {
    let mut child = Command::new("journalctl")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let mut said = Vec::new();
    if let Some(output) = child.stdout.take() {
        let mut output = output.take(MOST);
        // What came in time is told.
        if let Ok(read) = tokio::time::timeout(PATIENCE, output.read_to_end(&mut said)).await {
            read?;
        }
    }
    Ok(said)
}

/// The log of a service in the first of the files where it may be.
fn of_files(files: &Files, service: &str) -> Vec<u8> {
    for name in [service.to_owned(), format!("{service}.log"), format!("{service}/{service}.log")] {
        let Ok(file) = files.open(&name) else { continue };
        if !file.metadata().is_ok_and(|meta| meta.is_file()) {
            continue;
        }
        let mut said = Vec::new();
        return match file.take(MOST).read_to_end(&mut said) {
            Ok(_) => said,
            Err(error) => format!("\nerror getting log for {service}: {error}\n").into_bytes(),
        };
    }
    format!("\nlog not found for {service}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &str) -> Result<Option<Wanted>, String> {
        Wanted::parse(&Query::parse(Some(text)))
    }

    #[test]
    fn queries_are_read_and_checked() {
        assert_eq!(wanted(""), Ok(None));
        assert_eq!(wanted("other=1"), Ok(None));
        assert!(wanted("query=+").unwrap_err().contains("unit cannot be empty"));
        assert!(wanted("query=a&sinceTime=yesterday").unwrap_err().contains("invalid time format"));
        assert!(wanted("query=a&tailLines=some").is_err());
        for (text, fine) in [
            ("query=kubelet&query=containerd&tailLines=10", true),
            ("query=/pods/a.log", true),
            ("boot=-1", true),
            ("query=a%20b", false),
            ("query=a&query=/b", false),
            ("query=/a&query=/b", false),
            ("query=/a&boot=0", false),
            ("query=a&query=b&query=c&query=d&query=e", false),
            ("boot=1", false),
            ("tailLines=100001", false),
            ("sinceTime=2026-01-02T00:00:00Z&untilTime=2026-01-01T00:00:00Z", false),
        ] {
            assert_eq!(wanted(text).unwrap().unwrap().check().is_ok(), fine, "{text}");
        }
    }

    #[test]
    fn the_journal_is_asked_for_what_is_wanted() {
        let text = "query=kubelet&sinceTime=2026-01-01T10:00:00Z&untilTime=2026-01-01T11:00:00Z&tailLines=5&pattern=a&boot=-1";
        let arguments = wanted(text).unwrap().unwrap().arguments(&["kubelet".to_owned()]);
        assert_eq!(
            arguments,
            [
                "--utc",
                "--no-pager",
                "--since=2026-01-01 10:00:00",
                "--until=2026-01-01 11:00:00",
                "--pager-end",
                "--lines=5",
                "--unit=kubelet",
                "--grep=a",
                "--case-sensitive=false",
                "--boot",
                "-1",
                "--output=short-precise",
            ]
        );
    }

    #[test]
    fn services_without_a_journal_have_files() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir(root.join("b")).unwrap();
        std::fs::write(root.join("a.log"), "of a").unwrap();
        std::fs::write(root.join("b/b.log"), "of b").unwrap();
        let files = Files::new(root);
        assert_eq!(of_files(&files, "a"), b"of a");
        assert_eq!(of_files(&files, "b"), b"of b");
        assert_eq!(of_files(&files, ".."), b"\nlog not found for ..\n");
    }
}
