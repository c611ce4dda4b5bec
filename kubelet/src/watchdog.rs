//! What systemd is told: that the kubelet has started and, where its unit has a watchdog, that it is well. One that is not, or
//! hangs, is started anew by systemd.
//!
//! Contract: sd_notify(3) and sd_watchdog_enabled(3); half of the unit's `WatchdogSec` between two words.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
    path::PathBuf,
    time::Duration,
};

use component_base::{health::Health, task::Tasks};

/// A watchdog must not be more impatient.
const LEAST: Duration = Duration::from_secs(1);
const READY: &str = "READY=1";
const WELL: &str = "WATCHDOG=1";

/// The unit's watchdog makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchdogError {
    /// It is no time.
    #[error("configure watchdog: error converting WATCHDOG_USEC: {0:?} is no number of microseconds")]
    Time(String),
    /// It is too short.
    #[error("configure watchdog timeout too small: {0:?}")]
    Short(Duration),
}

/// The way to systemd, as the environment of a unit tells it.
#[derive(Debug, Default)]
pub struct Watchdog {
    socket: Option<PathBuf>,
    /// Between two words; none without a watchdog.
    interval: Option<Duration>,
}

impl Watchdog {
    /// From the environment; a kubelet that is no unit tells nobody.
    ///
    /// # Errors
    /// When the watchdog's time makes no sense.
    pub fn of_process() -> Result<Self, WatchdogError> {
        let text = |name| std::env::var(name).ok();
        let interval = interval(text("WATCHDOG_USEC"), text("WATCHDOG_PID"), std::process::id())?;
        Ok(Self { socket: std::env::var_os("NOTIFY_SOCKET").map(PathBuf::from), interval })
    }

    /// Tells that the kubelet has started, and until the drain that it is well as long as it is.
    pub fn run(self, health: Health, tasks: &Tasks) {
        self.tell(READY);
        let Some(interval) = self.interval else { return };
        let mut ticks = tasks.ticks(interval);
        tasks.spawn("watchdog", async move {
            while ticks.next().await {
                self.round(&health);
            }
        });
    }

    fn round(&self, health: &Health) {
        match health.answer("/livez", "") {
            Some(report) if report.status.is_success() => self.tell(WELL),
            report => {
                let why = report.map(|report| report.text).unwrap_or_default();
                tracing::error!(why, "the watchdog is not told, since the kubelet is not healthy");
            }
        }
    }

    fn tell(&self, word: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = send(socket, word) {
            tracing::error!(%error, word, "cannot tell systemd");
        }
    }
}

/// A path, or a name without a place in the file system after an `@`.
fn send(socket: &std::path::Path, word: &str) -> io::Result<()> {
    let text = socket.to_string_lossy();
    let address = match text.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(word.as_bytes(), &address).map(drop)
}

/// Half of the watchdog's time, if it is there and this process is the one it watches.
fn interval(time: Option<String>, pid: Option<String>, own: u32) -> Result<Option<Duration>, WatchdogError> {
    let Some(text) = time.filter(|text| !text.is_empty()) else { return Ok(None) };
    let micros = text.parse::<u64>().ok().filter(|micros| *micros > 0);
    let time = Duration::from_micros(micros.ok_or(WatchdogError::Time(text))?);
    if pid.is_some_and(|pid| pid != own.to_string()) {
        return Ok(None);
    }
    if time <= LEAST {
        return Err(WatchdogError::Short(time));
    }
    Ok(Some(time / 2))
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use super::*;

    #[test]
    fn half_of_its_time_passes_between_two_words() {
        let of = |time: &str, pid: Option<&str>| interval(Some(time.to_owned()), pid.map(str::to_owned), 7);
        assert_eq!(of("10000000", None), Ok(Some(Duration::from_secs(5))));
        assert_eq!(of("10000000", Some("7")), Ok(Some(Duration::from_secs(5))));
        assert_eq!(of("10000000", Some("8")), Ok(None), "another process is watched");
        assert_eq!(of("", None), Ok(None));
        assert_eq!(interval(None, None, 7), Ok(None));
        assert_eq!(of("1000000", None), Err(WatchdogError::Short(LEAST)));
        for bad in ["0", "-1", "soon"] {
            assert_eq!(of(bad, None), Err(WatchdogError::Time(bad.to_owned())));
        }
    }

    #[test]
    fn only_who_is_well_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        systemd.set_nonblocking(true).unwrap();
        let heard = || {
            let mut word = [0; 32];
            systemd.recv(&mut word).ok().map(|length| String::from_utf8_lossy(&word[..length]).into_owned())
        };
        let watchdog = Watchdog { socket: Some(path), interval: None };
        let (health, well) = (Health::default(), Arc::new(AtomicBool::new(true)));
        let now = Arc::clone(&well);
        health.add(
            "syncloop",
            move || {
                if now.load(Ordering::Relaxed) { Ok(()) } else { Err("it hangs".to_owned()) }
            },
        );
        watchdog.tell(READY);
        assert_eq!(heard().as_deref(), Some("READY=1"));
        watchdog.round(&health);
        assert_eq!(heard().as_deref(), Some("WATCHDOG=1"));
        well.store(false, Ordering::Relaxed);
        watchdog.round(&health);
        assert_eq!(heard(), None);
        Watchdog::default().tell(READY);
    }
}
