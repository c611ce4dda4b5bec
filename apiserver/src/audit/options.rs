//! Flags of audit, and the back ends they make.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use component_base::{
    config::{self, ConfigError},
    flags::{Flag, Kind, Values},
    task::Tasks,
};

use super::{
    Auditor, Event,
    batch::{Batch, BatchOptions},
    log::{Log, LogOptions},
    metrics,
    policy::Policy,
    truncate::Truncate,
    webhook::Webhook,
};
use crate::{
    egress::Route,
    webhook::kubeconfig::{KubeconfigError, Remote},
};

/// Where events go.
#[async_trait]
pub(super) trait Backend: Send + Sync {
    /// Takes events; false when some are lost.
    async fn process(&self, events: Vec<Arc<Event>>) -> bool;
}

/// The flags of audit, as parsed.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--audit-policy-file`.
    policy: Option<PathBuf>,
    log: Option<(LogOptions, Delivery)>,
    webhook: Option<(PathBuf, Duration, Delivery)>,
}

/// How a back end gets its events.
#[derive(Clone, Copy, Debug)]
struct Delivery {
    mode: Mode,
    batch: BatchOptions,
    /// Bytes of a batch and of an event, where they are bounded.
    truncate: Option<(usize, usize)>,
}

/// `--audit-*-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// No request waits.
    Batch,
    /// Requests wait, and go on whatever comes of it.
    Blocking,
    /// Requests wait, and are refused when their first event is lost.
    BlockingStrict,
}

/// Why audit cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The policy does not decode.
    #[error("audit policy")]
    Policy(#[from] ConfigError),
    /// The policy decodes, but makes no sense.
    #[error("audit policy: {0}")]
    Invalid(String),
    /// The log cannot be written.
    #[error("audit log {0}")]
    Log(String, #[source] std::io::Error),
    /// The webhook's kubeconfig is of no use.
    #[error("audit webhook")]
    Webhook(#[from] KubeconfigError),
}

/// The flags.
pub fn flags() -> Vec<Flag> {
    let mut all = vec![
        Flag::new(
            "audit-policy-file",
            Kind::String,
            "",
            "file with the audit policy; nothing is recorded without",
        ),
        Flag::new("audit-log-path", Kind::String, "", "file of the audit log; - is standard output"),
        Flag::new("audit-log-maxage", Kind::Int, "366", "days that rotated files are kept; 0 for any"),
        Flag::new("audit-log-maxbackup", Kind::Int, "100", "rotated files that are kept; 0 for all"),
        Flag::new("audit-log-maxsize", Kind::Int, "100", "megabytes before the file is rotated; 0 for never"),
        Flag::new("audit-log-format", Kind::String, "json", "form of the log's lines: json or legacy"),
        Flag::new("audit-log-compress", Kind::Bool, "false", "compress rotated files"),
        Flag::new("audit-log-version", Kind::String, "audit.k8s.io/v1", "version of the log's events"),
        Flag::new("audit-webhook-config-file", Kind::String, "", "kubeconfig of the audit webhook"),
        Flag::new(
            "audit-webhook-initial-backoff",
            Kind::Duration,
            "10s",
            "pause after a first failed request",
        ),
        Flag::new(
            "audit-webhook-version",
            Kind::String,
            "audit.k8s.io/v1",
            "version of the webhook's events",
        ),
    ];
    all.extend(
        DELIVERY
            .iter()
            .flat_map(|lines| lines.iter())
            .map(|(name, kind, default, help)| Flag::new(name, *kind, *default, help)),
    );
    all
}

type Line = (&'static str, Kind, &'static str, &'static str);

macro_rules! delivery {
    ($name:literal, $mode:literal, $size:literal, $wait:literal, $throttle:literal, $qps:literal, $burst:literal) => {
        [
            (concat!("audit-", $name, "-mode"), Kind::String, $mode, "batch, blocking or blocking-strict"),
            (concat!("audit-", $name, "-batch-buffer-size"), Kind::Int, "10000", "events that wait at most"),
            (concat!("audit-", $name, "-batch-max-size"), Kind::Int, $size, "events of one batch"),
            (
                concat!("audit-", $name, "-batch-max-wait"),
                Kind::Duration,
                $wait,
                "time a batch waits to be full",
            ),
            (
                concat!("audit-", $name, "-batch-throttle-enable"),
                Kind::Bool,
                $throttle,
                "bound the rate of batches",
            ),
            (concat!("audit-", $name, "-batch-throttle-qps"), Kind::Float, $qps, "batches a second"),
            (
                concat!("audit-", $name, "-batch-throttle-burst"),
                Kind::Int,
                $burst,
                "batches after a quiet time",
            ),
            (concat!("audit-", $name, "-truncate-enabled"), Kind::Bool, "false", "bound the size of events"),
            (concat!("audit-", $name, "-truncate-max-batch-size"), Kind::Int, "10485760", "bytes of a batch"),
            (concat!("audit-", $name, "-truncate-max-event-size"), Kind::Int, "102400", "bytes of an event"),
        ]
    };
}

const DELIVERY: [[Line; 10]; 2] = [
    delivery!("log", "blocking", "1", "0s", "false", "0", "0"),
    delivery!("webhook", "batch", "400", "30s", "true", "10", "15"),
];

impl Delivery {
    fn new(values: &Values, name: &'static str) -> Result<Self, (&'static str, String)> {
        let flag = |rest: &str| format!("audit-{name}-{rest}");
        let number = |rest: &str| usize::try_from(values.int(&flag(rest))).unwrap_or(0);
        let mode = match values.string(&flag("mode")) {
            "batch" => Mode::Batch,
            "blocking" => Mode::Blocking,
            "blocking-strict" => Mode::BlockingStrict,
            other => {
                let flag = if name == "log" { "audit-log-mode" } else { "audit-webhook-mode" };
                return Err((flag, other.to_owned()));
            }
        };
        let throttle = (values.float(&flag("batch-throttle-qps")), number("batch-throttle-burst"));
        let bounds = (number("truncate-max-batch-size"), number("truncate-max-event-size"));
        Ok(Self {
            mode,
            batch: BatchOptions {
                buffer: number("batch-buffer-size"),
                max_size: number("batch-max-size").max(1),
                max_wait: values.duration(&flag("batch-max-wait")),
                throttle: values.bool(&flag("batch-throttle-enable")).then_some(throttle),
            },
            truncate: values.bool(&flag("truncate-enabled")).then_some(bounds),
        })
    }

    fn wrap(&self, name: &'static str, backend: Arc<dyn Backend>, tasks: &Tasks) -> Arc<dyn Backend> {
        let delivered: Arc<dyn Backend> = match self.mode {
            Mode::Batch => Arc::new(Batch::start(name, self.batch, backend, tasks)),
            Mode::Blocking => Arc::new(Lenient(backend)),
            Mode::BlockingStrict => backend,
        };
        match self.truncate {
            Some((max_batch, max_event)) => Arc::new(Truncate { max_batch, max_event, next: delivered }),
            None => delivered,
        }
    }
}

/// A back end whose losses do not matter to requests; they are counted and logged where they happen.
struct Lenient(Arc<dyn Backend>);

#[async_trait]
impl Backend for Lenient {
    async fn process(&self, events: Vec<Arc<Event>>) -> bool {
        self.0.process(events).await;
        true
    }
}

impl Options {
    /// Reads the flags.
    ///
    /// # Errors
    /// Flag and value of what is none of those allowed.
    pub fn new(values: &Values) -> Result<Self, (&'static str, String)> {
        let path = |flag: &str| values.optional(flag).map(PathBuf::from);
        let number = |flag: &str| u64::try_from(values.int(flag)).unwrap_or(0);
        for flag in ["audit-log-version", "audit-webhook-version"] {
            if values.string(flag) != "audit.k8s.io/v1" {
                return Err((flag, values.string(flag).to_owned()));
            }
        }
        let format = values.string("audit-log-format");
        if !matches!(format, "json" | "legacy") {
            return Err(("audit-log-format", format.to_owned()));
        }
        let log = values.optional("audit-log-path").map(|path| LogOptions {
            path: path.to_owned(),
            max_size: number("audit-log-maxsize") * 1024 * 1024,
            max_backups: usize::try_from(number("audit-log-maxbackup")).unwrap_or(0),
            max_age: Duration::from_secs(number("audit-log-maxage") * 24 * 60 * 60),
            compresses: values.bool("audit-log-compress"),
            legacy: format == "legacy",
        });
        let (of_log, of_webhook) = (Delivery::new(values, "log")?, Delivery::new(values, "webhook")?);
        let backoff = values.duration("audit-webhook-initial-backoff");
        Ok(Self {
            policy: path("audit-policy-file"),
            log: log.map(|log| (log, of_log)),
            webhook: path("audit-webhook-config-file").map(|path| (path, backoff, of_webhook)),
        })
    }
}

/// The auditor that the flags ask for; without a policy or a back end there is none. `route` leads to the webhook.
///
/// # Errors
/// When a file is of no use.
pub fn build(options: &Options, route: &Route, tasks: &Tasks) -> Result<Option<Arc<Auditor>>, BuildError> {
    metrics::register();
    let Some(path) = &options.policy else { return Ok(None) };
    let policy: Policy = config::load_content(path, "audit.k8s.io/v1", "Policy")?;
    let errors = policy.validate();
    if !errors.is_empty() {
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        return Err(BuildError::Invalid(all.join(", ")));
    }
    if policy.rules.is_empty() {
        tracing::warn!(path = %path.display(), "the audit policy has no rules: nothing is recorded");
    }
    let mut backends = Vec::new();
    if let Some((log, delivery)) = &options.log {
        let file = Log::open(log.clone()).map_err(|error| BuildError::Log(log.path.clone(), error))?;
        backends.push(delivery.wrap("log", Arc::new(file), tasks));
    }
    if let Some((path, backoff, delivery)) = &options.webhook {
        let remote = Remote::load(path, "audit", route)?;
        let webhook = Arc::new(Webhook { remote, backoff: *backoff });
        backends.push(delivery.wrap("webhook", webhook, tasks));
    }
    Ok((!backends.is_empty()).then(|| Arc::new(Auditor::new(policy, backends))))
}
