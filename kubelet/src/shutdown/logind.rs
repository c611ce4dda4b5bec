//! logind over D-Bus: its inhibitor locks and its word on shutdowns.
//!
//! Contract: org.freedesktop.login1.Manager (`Inhibit`, `PrepareForShutdown`, `InhibitDelayMaxUSec`), logind.conf(5).

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;

use super::Sessions;
use crate::dbus::{
    self, Bus, BusError, Peer,
    message::{Body, Value},
};

const LOGIND: Peer = Peer {
    destination: "org.freedesktop.login1",
    path: "/org/freedesktop/login1",
    interface: "org.freedesktop.login1.Manager",
};
const SYSTEMD: Peer = Peer {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};
const SIGNAL: &str = "PrepareForShutdown";
/// Where logind reads what it is told beside its own file.
const FOLDER: &str = "/etc/systemd/logind.conf.d";
const FILE: &str = "99-kubelet.conf";
/// How often logind is asked whether it has read its files again, and how long each time is waited.
const READS: (u32, Duration) = (8, Duration::from_millis(250));
const HANGUP: i32 = 1;

/// logind cannot be talked to, or does not do what it is asked for.
#[derive(Debug, thiserror::Error)]
pub enum LogindError {
    /// The bus or logind.
    #[error("logind: {0}")]
    Bus(#[from] BusError),
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
    bus: Bus,
    folder: PathBuf,
}

/// Connects to logind on the system's bus.
///
/// # Errors
/// When there is no bus, or it refuses.
pub async fn connect() -> Result<Logind, LogindError> {
    Logind::on(dbus::system().await?, Path::new(FOLDER)).await
}

impl Logind {
    async fn on(mut bus: Bus, folder: &Path) -> Result<Self, LogindError> {
        bus.subscribe(LOGIND, SIGNAL).await?;
        Ok(Self { bus, folder: folder.to_owned() })
    }
}

/// What logind is to read.
fn setting(time: Duration) -> String {
    format!("# Pods are given this time to end.\n[Login]\nInhibitDelayMaxSec={}\n", time.as_secs())
}

#[async_trait]
impl Sessions for Logind {
    async fn patience(&mut self) -> Result<Duration, LogindError> {
        const NAME: &str = "InhibitDelayMaxUSec";
        match self.bus.property(LOGIND, NAME).await? {
            Value::Number(microseconds) => Ok(Duration::from_micros(microseconds)),
            _ => Err(BusError::Answer(NAME).into()),
        }
    }

    async fn ask_for(&mut self, time: Duration) -> Result<(), LogindError> {
        let path = self.folder.join(FILE);
        let written =
            std::fs::create_dir_all(&self.folder).and_then(|()| std::fs::write(&path, setting(time)));
        written.map_err(|source| LogindError::File { path, source })?;
        // That is how logind is made to read its files again.
        let body = Body::default().text("systemd-logind.service").text("all").signed(HANGUP);
        self.bus.call(SYSTEMD, "KillUnit", body).await?;
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
        let body = Body::default().text("shutdown").text("kubelet").text(why).text("delay");
        let answer = self.bus.call(LOGIND, "Inhibit", body).await?;
        let lock = answer.fds.into_iter().next().ok_or(BusError::Answer("Inhibit"))?;
        Ok(Box::new(lock))
    }

    async fn next(&mut self) -> Option<bool> {
        loop {
            match self.bus.signal().await {
                Ok(signal) if signal.member == SIGNAL => match signal.body.values().as_deref() {
                    Ok([Value::Flag(begins)]) => return Some(*begins),
                    other => tracing::error!(?other, "logind's word on a shutdown makes no sense"),
                },
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%error, "lost logind");
                    return None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::dbus::{
        message::{Kind, Message},
        tests::{FakeBus, Reply},
    };

    fn word(begins: bool) -> Message {
        let body = Body::default().flag(begins);
        Message { kind: Kind::Signal, member: SIGNAL.to_owned(), body, ..Message::default() }
    }

    #[tokio::test]
    async fn logind_waits_as_long_as_it_is_told_and_the_lock_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus");
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut delay, mut lock) = (5_000_000, Some(theirs));
        let server = FakeBus::serve(&path, move |bus, call| match call.member.as_str() {
            "Get" => Reply::Values(Body::default().variant(delay)),
            "KillUnit" => {
                let expected = Body::default().text("systemd-logind.service").text("all").signed(1);
                assert_eq!(call.body, expected);
                delay = 90_000_000;
                Reply::Values(Body::default())
            }
            "Inhibit" => {
                bus.send(word(true), None);
                bus.send(word(false), None);
                Reply::Descriptor(lock.take().unwrap().into())
            }
            _ => Reply::Failure("no such method"),
        });
        let folder = dir.path().join("logind.conf.d");
        let mut logind = Logind::on(Bus::at(&path).await.unwrap(), &folder).await.unwrap();
        assert_eq!(logind.patience().await.unwrap(), Duration::from_secs(5));
        logind.ask_for(Duration::from_secs(90)).await.unwrap();
        assert_eq!(logind.patience().await.unwrap(), Duration::from_secs(90));
        let text = std::fs::read_to_string(folder.join(FILE)).unwrap();
        assert!(text.ends_with("[Login]\nInhibitDelayMaxSec=90\n"), "{text}");

        let lock = logind.inhibit().await.unwrap();
        assert_eq!((logind.next().await, logind.next().await), (Some(true), Some(false)));
        ours.set_nonblocking(true).unwrap();
        let mut byte = [0];
        let held = io::Read::read(&mut &ours, &mut byte).unwrap_err();
        assert_eq!(held.kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        assert_eq!(io::Read::read(&mut &ours, &mut byte).unwrap(), 0, "let go");
        drop(logind);
        server.join().unwrap();
    }
}
