//! Files that are read again when they change: CA bundles and client certificates, so that their rotation needs no restart.

use std::{
    path::PathBuf,
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use component_base::{
    metrics::{self, Stability},
    task::Tasks,
};
use prometheus::{GaugeVec, IntCounterVec};
use sha2::{Digest, Sha256};

/// How often files are looked at, as upstream's dynamic certificates.
const INTERVAL: Duration = Duration::from_secs(60);

/// How often a configuration was taken over from a changed file, and when last, or not.
pub struct Counts {
    configuration: &'static str,
    server: String,
}

const BY_RESULT: &[&str] = &["apiserver_id_hash", "status"];
static RELOADS: LazyLock<[IntCounterVec; 2]> = LazyLock::new(|| {
    ["authentication", "authorization"].map(|configuration| {
        let name = format!("apiserver_{configuration}_config_controller_automatic_reloads_total");
        let help = "Changed configurations, by whether they were taken over.";
        metrics::counter_vec(&name, help, Stability::Beta, BY_RESULT)
    })
});
static RELOADED: LazyLock<[GaugeVec; 2]> = LazyLock::new(|| {
    ["authentication", "authorization"].map(|configuration| {
        let name =
            format!("apiserver_{configuration}_config_controller_automatic_reload_last_timestamp_seconds");
        let help = "When a changed configuration was last taken over, or not.";
        metrics::float_gauge_vec(&name, help, Stability::Beta, BY_RESULT)
    })
});

impl Counts {
    /// For `authentication` or `authorization`, of the server with this identity.
    pub fn new(configuration: &'static str, identity: &str) -> Self {
        let hash = Sha256::digest(identity.as_bytes());
        let server = hash.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"));
        Self { configuration, server }
    }

    /// Counts an outcome, and gives it back.
    ///
    /// # Errors
    /// The outcome's own.
    pub fn count(&self, outcome: Result<(), String>) -> Result<(), String> {
        let at = usize::from(self.configuration != "authentication");
        let labels = [self.server.as_str(), if outcome.is_ok() { "success" } else { "failure" }];
        RELOADS[at].with_label_values(&labels).inc();
        let now = jiff::Timestamp::now().as_duration().as_secs_f64();
        RELOADED[at].with_label_values(&labels).set(now);
        outcome
    }
}

/// Calls `reload` when one of the files has another time than before. What cannot be used is logged, and tried again when
/// the files change once more or, as writing several files takes a while, the next time.
pub fn watch(
    tasks: &Tasks,
    what: &'static str,
    files: Vec<PathBuf>,
    reload: impl Fn() -> Result<(), String> + Send + Sync + 'static,
) {
    if files.is_empty() {
        return;
    }
    let drain = tasks.drain();
    tasks.spawn(format!("reload of {what}"), async move {
        let mut known = times(&files);
        while drain.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
            known = look(what, &files, known, &reload);
        }
    });
}

type Times = Vec<Option<SystemTime>>;

fn times(files: &[PathBuf]) -> Times {
    files.iter().map(|path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok()).collect()
}

/// One look; the times that count as known from then on.
fn look(what: &str, files: &[PathBuf], known: Times, reload: &dyn Fn() -> Result<(), String>) -> Times {
    let now = times(files);
    if now == known {
        return known;
    }
    match reload() {
        Ok(()) => {
            tracing::info!(what, "changed files were loaded");
            now
        }
        Err(error) => {
            tracing::error!(what, error, "changed files are not usable, what was loaded before stays");
            known
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn changed_files_are_loaded_until_they_are_usable() {
        let directory = tempfile::tempdir().unwrap();
        let files = vec![directory.path().join("a"), directory.path().join("b")];
        std::fs::write(&files[0], "1").unwrap();
        let known = times(&files);
        let calls = AtomicUsize::new(0);
        let reload = || match calls.fetch_add(1, Ordering::Relaxed) {
            0 => Err("half written".to_owned()),
            _ => Ok(()),
        };
        let known = look("files", &files, known, &reload);
        assert_eq!(calls.load(Ordering::Relaxed), 0);
        std::fs::write(&files[1], "2").unwrap();
        let known = look("files", &files, known, &reload);
        let known = look("files", &files, known, &reload);
        look("files", &files, known, &reload);
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }
}
