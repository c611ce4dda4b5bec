//! logind over D-Bus: its inhibitor locks and its word on shutdowns.
//!
//! Contract: org.freedesktop.login1.Manager (`Inhibit`, `PrepareForShutdown`, `InhibitDelayMaxUSec`), logind.conf(5).

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use futures::StreamExt as _;
use zbus::{Connection, connection, proxy, zvariant::OwnedFd};

use super::Sessions;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(25);
/// Where logind reads what it is told beside its own file.
const FOLDER: &str = "/etc/systemd/logind.conf.d";
const FILE: &str = "99-kubelet.conf";
/// How often logind is asked whether it has read its files again, and how long each time is waited.
const READS: (u32, Duration) = (8, Duration::from_millis(250));
const HANGUP: i32 = 1;

#[proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1",
    gen_blocking = false
)]
trait Manager {
    fn inhibit(&self, what: &str, who: &str, why: &str, mode: &str) -> zbus::Result<OwnedFd>;

    #[zbus(property(emits_changed_signal = "false"), name = "InhibitDelayMaxUSec")]
    fn inhibit_delay_max(&self) -> zbus::Result<u64>;

    #[zbus(signal)]
    fn prepare_for_shutdown(&self, start: bool) -> zbus::Result<()>;
}

#[proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1",
    gen_blocking = false
)]
trait Systemd {
    fn kill_unit(&self, name: &str, whom: &str, signal: i32) -> zbus::Result<()>;
}

/// logind cannot be talked to, or does not do what it is asked for.
#[derive(Debug, thiserror::Error)]
pub enum LogindError {
    /// The bus or logind.
    #[error("logind: {0}")]
    Bus(#[from] zbus::Error),
    /// Its file cannot be written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not wait as long as it has to.
    #[error("logind waits for {given:?} and not for the {needed:?} that pods may need")]
    Impatient {
        /// What is needed.
        needed: Duration,
        /// What it gives.
        given: Duration,
    },
}

/// A connection to logind.
pub struct Logind {
    manager: ManagerProxy<'static>,
    systemd: SystemdProxy<'static>,
    words: PrepareForShutdownStream,
    folder: PathBuf,
}

/// Connects to logind on the system's bus.
///
/// # Errors
/// When there is no bus, or it refuses.
pub async fn connect() -> Result<Logind, LogindError> {
    let bus = connection::Builder::system()?.method_timeout(PATIENCE).build().await?;
    Logind::on(&bus, Path::new(FOLDER)).await
}

impl Logind {
    async fn on(bus: &Connection, folder: &Path) -> Result<Self, LogindError> {
        let manager = ManagerProxy::new(bus).await?;
        let words = manager.receive_prepare_for_shutdown().await?;
        Ok(Self { words, manager, systemd: SystemdProxy::new(bus).await?, folder: folder.to_owned() })
    }
}

/// What logind is to read.
fn setting(time: Duration) -> String {
    format!("# Pods are given this time to end.\n[Login]\nInhibitDelayMaxSec={}\n", time.as_secs())
}

#[async_trait]
impl Sessions for Logind {
    async fn patience(&mut self) -> Result<Duration, LogindError> {
        Ok(Duration::from_micros(self.manager.inhibit_delay_max().await?))
    }

    async fn ask_for(&mut self, time: Duration) -> Result<(), LogindError> {
        let path = self.folder.join(FILE);
        let written =
            std::fs::create_dir_all(&self.folder).and_then(|()| std::fs::write(&path, setting(time)));
        written.map_err(|source| LogindError::File { path, source })?;
        // That is how logind is made to read its files again.
        self.systemd.kill_unit("systemd-logind.service", "all", HANGUP).await?;
        for _ in 0..READS.0 {
            if self.patience().await? >= time {
                break;
            }
            tokio::time::sleep(READS.1).await;
        }
        Ok(())
    }

    async fn inhibit(&mut self) -> Result<Box<dyn Send>, LogindError> {
        let why = "Kubelet needs time to handle node shutdown";
        Ok(Box::new(self.manager.inhibit("shutdown", "kubelet", why, "delay").await?))
    }

    async fn next(&mut self) -> Option<bool> {
        while let Some(word) = self.words.next().await {
            match word.args() {
                Ok(args) => return Some(args.start),
                Err(error) => tracing::error!(%error, "logind's word on a shutdown makes no sense"),
            }
        }
        tracing::error!("lost logind");
        None
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        os::{fd::OwnedFd as Descriptor, unix},
        sync::Arc,
    };

    use parking_lot::Mutex;
    use tokio::net::UnixStream;
    use zbus::{fdo, interface, object_server::SignalEmitter};

    use super::*;

    /// logind, and systemd which makes it read its files again.
    #[derive(Clone)]
    struct Fake {
        delay: Arc<Mutex<u64>>,
        lock: Arc<Mutex<Option<unix::net::UnixStream>>>,
    }

    struct FakeSystemd(Fake);

    #[interface(name = "org.freedesktop.login1.Manager")]
    impl Fake {
        async fn inhibit(
            &self,
            what: &str,
            who: &str,
            why: &str,
            mode: &str,
            #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
        ) -> fdo::Result<OwnedFd> {
            assert_eq!((what, who, mode, why.is_empty()), ("shutdown", "kubelet", "delay", false));
            Self::prepare_for_shutdown(&emitter, true).await?;
            Self::prepare_for_shutdown(&emitter, false).await?;
            let lock = self.lock.lock().take().ok_or_else(|| fdo::Error::Failed("held".to_owned()))?;
            Ok(Descriptor::from(lock).into())
        }

        #[zbus(property, name = "InhibitDelayMaxUSec")]
        async fn inhibit_delay_max(&self) -> u64 {
            *self.delay.lock()
        }

        #[zbus(signal)]
        async fn prepare_for_shutdown(emitter: &SignalEmitter<'_>, start: bool) -> zbus::Result<()>;
    }

    #[interface(name = "org.freedesktop.systemd1.Manager")]
    impl FakeSystemd {
        async fn kill_unit(&self, name: &str, whom: &str, signal: i32) {
            assert_eq!((name, whom, signal), ("systemd-logind.service", "all", 1));
            *self.0.delay.lock() = 90_000_000;
        }
    }

    /// The two ends of a connection without a bus, the other one served by `fake`.
    async fn connected(fake: Fake) -> (Connection, Connection) {
        let (near, far) = UnixStream::pair().unwrap();
        let served = connection::Builder::unix_stream(far)
            .server(zbus::Guid::generate())
            .unwrap()
            .p2p()
            .serve_at("/org/freedesktop/login1", fake.clone())
            .unwrap()
            .serve_at("/org/freedesktop/systemd1", FakeSystemd(fake))
            .unwrap();
        let asking = connection::Builder::unix_stream(near).p2p();
        tokio::try_join!(asking.build(), served.build()).unwrap()
    }

    #[tokio::test]
    async fn logind_waits_as_long_as_it_is_told_and_the_lock_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = unix::net::UnixStream::pair().unwrap();
        let fake = Fake { delay: Arc::new(Mutex::new(5_000_000)), lock: Arc::new(Mutex::new(Some(theirs))) };
        let (bus, served) = connected(fake).await;
        let folder = dir.path().join("logind.conf.d");
        let mut logind = Logind::on(&bus, &folder).await.unwrap();
        assert_eq!(logind.patience().await.unwrap(), Duration::from_secs(5));
        logind.ask_for(Duration::from_secs(90)).await.unwrap();
        assert_eq!(logind.patience().await.unwrap(), Duration::from_secs(90));
        let text = std::fs::read_to_string(folder.join(FILE)).unwrap();
        assert!(text.ends_with("[Login]\nInhibitDelayMaxSec=90\n"), "{text}");

        let lock = logind.inhibit().await.unwrap();
        assert_eq!((logind.next().await, logind.next().await), (Some(true), Some(false)));
        ours.set_nonblocking(true).unwrap();
        let mut byte = [0];
        let held = (&ours).read(&mut byte).unwrap_err();
        assert_eq!(held.kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        assert_eq!((&ours).read(&mut byte).unwrap(), 0, "let go");
        assert!(matches!(logind.inhibit().await, Err(LogindError::Bus(_))), "a second lock is refused");
        served.close().await.unwrap();
        while logind.next().await.is_some() {}
    }
}
