//! Logs as upstream's daemons write them: klog's text lines (`I1120 22:49:50.123456    1234 file.rs:10] "message" key="value"`)
//! or one JSON object per line, with klog's verbosity levels (`-v`, `--vmodule`, [`vlog!`](crate::vlog)).
//!
//! Everything from `tracing` at INFO and above is written at level 0; DEBUG counts as `-v=4`, TRACE as `-v=6`.

use std::{
    fmt::{self, Write as _},
    str::FromStr,
    sync::{
        LazyLock,
        atomic::{AtomicU8, Ordering},
    },
};

use jiff::Timestamp;
use parking_lot::RwLock;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::SubscriberExt,
    registry::LookupSpan,
};

use crate::features::Gate;

pub mod streams;

use streams::{Router, Streams};

/// Libraries that say at INFO what they do for each request: that is for `-v=4`.
const CHATTY: [&str; 1] = ["hickory_server"];

static VERBOSITY: AtomicU8 = AtomicU8::new(0);
static MODULES: LazyLock<RwLock<Vec<ModuleLevel>>> = LazyLock::new(RwLock::default);

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Text,
    Json,
}

impl Format {
    /// As it is written in flags and files.
    pub const fn name(self) -> &'static str {
        match self {
            Format::Text => "text",
            Format::Json => "json",
        }
    }
}

/// How the log is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// How its lines look.
    pub format: Format,
    /// Up to which level messages are written.
    pub verbosity: u8,
    /// The same for certain files.
    pub modules: Vec<ModuleLevel>,
    /// Where lines go.
    pub streams: Streams,
}

/// One `pattern=N` of `--vmodule`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleLevel {
    /// File name without extension, with `*` and `?`.
    pub pattern: String,
    pub level: u8,
}

/// A log flag's value that is not usable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoggingError {
    #[error("unsupported log format {0:?}, expected \"text\" or \"json\"")]
    Format(String),
    #[error("format: Forbidden: Log format {0} is disabled, see {1} feature")]
    Disabled(&'static str, Gate),
    #[error("options.{0}: Forbidden: Feature {1} is disabled")]
    Option(String, Gate),
    #[error("flushFrequency: Invalid value: {0:?}: Must be greater than zero")]
    FlushFrequency(String),
    #[error("invalid vmodule entry {0:?}, expected pattern=N")]
    Module(String),
}

impl FromStr for Format {
    type Err = LoggingError;

    fn from_str(text: &str) -> Result<Format, LoggingError> {
        match text {
            "" | "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            other => Err(LoggingError::Format(other.to_owned())),
        }
    }
}

/// Parses `--vmodule`.
///
/// # Errors
/// When an entry is not `pattern=N`.
pub fn parse_modules(text: &str) -> Result<Vec<ModuleLevel>, LoggingError> {
    let entry = |entry: &str| {
        let parsed = entry.split_once('=').and_then(|(pattern, level)| Some((pattern, level.parse().ok()?)));
        match parsed {
            Some((pattern, level)) if !pattern.is_empty() => {
                Ok(ModuleLevel { pattern: pattern.to_owned(), level })
            }
            _ => Err(LoggingError::Module(entry.to_owned())),
        }
    };
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(entry).collect()
}

/// Installs the process's logger; only the first call of a process does. The verbosity applies each time.
pub fn init(settings: Settings) {
    let Settings { format, verbosity, modules, streams } = settings;
    VERBOSITY.store(verbosity, Ordering::Relaxed);
    let highest = modules.iter().map(|module| module.level).chain([verbosity]).max().unwrap_or(0);
    *MODULES.write() = modules;
    let level = match highest {
        0..4 => Level::INFO,
        4..6 => Level::DEBUG,
        _ => Level::TRACE,
    };
    // Warnings of theirs are heard in any case.
    let quiet = move |metadata: &tracing::Metadata<'_>| {
        level > Level::INFO
            || *metadata.level() < Level::INFO
            || !CHATTY.iter().any(|library| metadata.target().starts_with(library))
    };
    let subscriber = tracing_subscriber::fmt()
        .with_writer(Router::new(format, streams))
        .with_max_level(level)
        .event_format(Lines { format, pid: std::process::id() })
        .finish()
        .with(tracing_subscriber::filter::filter_fn(quiet));
    // An error means that a logger is installed already (a test harness, or an earlier call).
    let _installed = tracing::subscriber::set_global_default(subscriber).is_ok();
}

/// Sets the verbosity that [`enabled`] goes by; what is written of libraries stays as [`init`] said.
pub fn set_verbosity(verbosity: u8) {
    VERBOSITY.store(verbosity, Ordering::Relaxed);
}

/// Whether messages of a verbosity are written for a source file.
pub fn enabled(level: u8, file: &str) -> bool {
    if level <= VERBOSITY.load(Ordering::Relaxed) {
        return true;
    }
    let modules = MODULES.read();
    if modules.is_empty() {
        return false;
    }
    let stem = file.rsplit('/').next().unwrap_or(file).trim_end_matches(".rs");
    modules.iter().any(|module| level <= module.level && glob(module.pattern.as_bytes(), stem.as_bytes()))
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            glob(rest, text) || text.split_first().is_some_and(|(_, tail)| glob(pattern, tail))
        }
        (Some((b'?', rest)), Some((_, tail))) => glob(rest, tail),
        (Some((wanted, rest)), Some((found, tail))) if wanted == found => glob(rest, tail),
        _ => false,
    }
}

/// Logs at INFO when klog's verbosity is at least the first argument: `vlog!(4, key = %key, "synced")`.
#[macro_export]
macro_rules! vlog {
    ($level:expr, $($arguments:tt)+) => {
        if $crate::logging::enabled($level, file!()) {
            $crate::logging::tracing::info!(v = $level, $($arguments)+);
        }
    };
}

#[doc(hidden)]
pub use tracing;

#[derive(Debug)]
struct Lines {
    format: Format,
    pid: u32,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        let file = metadata.file().unwrap_or("unknown");
        let verbosity = match *metadata.level() {
            Level::DEBUG => 4,
            Level::TRACE => 6,
            _ => 0,
        };
        if verbosity > 0 && !enabled(verbosity, file) {
            return Ok(());
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let place = Place { level: *metadata.level(), file, line: metadata.line().unwrap_or(0), verbosity };
        let line = match self.format {
            Format::Text => text_line(Timestamp::now(), self.pid, &place, &fields),
            Format::Json => json_line(Timestamp::now(), &place, &fields),
        };
        writeln!(out, "{line}")
    }
}

struct Place<'a> {
    level: Level,
    file: &'a str,
    line: u32,
    verbosity: u8,
}

#[derive(Debug, Default)]
struct Fields {
    message: String,
    values: Vec<(&'static str, serde_json::Value)>,
}

impl Fields {
    fn push(&mut self, field: &Field, value: serde_json::Value) {
        if field.name() == "message" {
            self.message = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        } else {
            self.values.push((field.name(), value));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value.into());
    }
}

fn text_line(now: Timestamp, pid: u32, place: &Place<'_>, fields: &Fields) -> String {
    let severity = match place.level {
        Level::ERROR => 'E',
        Level::WARN => 'W',
        _ => 'I',
    };
    let time = now.to_zoned(jiff::tz::TimeZone::UTC).strftime("%m%d %H:%M:%S%.6f").to_string();
    let file = place.file.rsplit('/').next().unwrap_or(place.file);
    let mut line = format!("{severity}{time} {pid:7} {file}:{}] {:?}", place.line, fields.message);
    for (name, value) in &fields.values {
        // Writing to a String cannot fail.
        let _infallible = write!(line, " {name}={value}").is_ok();
    }
    line
}

fn json_line(now: Timestamp, place: &Place<'_>, fields: &Fields) -> String {
    let mut object = serde_json::Map::new();
    object.insert("ts".to_owned(), (now.as_microsecond() as f64 / 1000.0).into());
    object.insert("caller".to_owned(), format!("{}:{}", place.file, place.line).into());
    object.insert("msg".to_owned(), fields.message.clone().into());
    if matches!(place.level, Level::ERROR) {
        object.insert("logger".to_owned(), "error".into());
    } else {
        object.insert("v".to_owned(), place.verbosity.into());
    }
    for (name, value) in &fields.values {
        let name = if *name == "error" { "err" } else { name };
        object.insert(name.to_owned(), value.clone());
    }
    serde_json::Value::Object(object).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Fields {
        Fields { message: "pod started".into(), values: vec![("pod", "a/b".into()), ("count", 3.into())] }
    }

    #[test]
    fn lines_look_like_klogs() {
        let now: Timestamp = "2026-11-20T22:49:50.123456Z".parse().unwrap();
        let place = Place { level: Level::WARN, file: "kubelet/src/pod.rs", line: 7, verbosity: 0 };
        assert_eq!(
            text_line(now, 42, &place, &fields()),
            "W1120 22:49:50.123456      42 pod.rs:7] \"pod started\" pod=\"a/b\" count=3"
        );
        let json: serde_json::Value = serde_json::from_str(&json_line(now, &place, &fields())).unwrap();
        assert_eq!(json["ts"], 1_795_214_990_123.456);
        assert_eq!((&json["msg"], &json["v"], &json["count"]), (&"pod started".into(), &0.into(), &3.into()));
    }

    #[test]
    fn vmodule_patterns_match_file_names() {
        let modules = parse_modules("pod_*=4, proxy=2").unwrap();
        assert_eq!(modules[1], ModuleLevel { pattern: "proxy".into(), level: 2 });
        assert!(glob(b"pod_*", b"pod_worker") && !glob(b"pod_*", b"podworker") && glob(b"?od*", b"pod"));
        assert_eq!(parse_modules("a"), Err(LoggingError::Module("a".into())));
        assert!("xml".parse::<Format>().is_err());
    }
}
