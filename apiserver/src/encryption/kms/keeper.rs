//! Looks after a plugin: asks how it is, has a seed for its current key, and has seeds decrypted.
//!
//! ```text
//! every minute; every ten seconds while it is not well; when somebody asks for its health ──→ Status
//!     its key is another one ──→ Encrypt a new seed ──→ what is written with, for three minutes from the Status on
//! ```
//! While the plugin is not well the last seed stays in use until its time is over; from then on nothing is written. So who
//! changes the plugin's key knows that three minutes later nobody writes with the one before.

use std::{
    sync::{Arc, mpsc as blocking},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::FuturesUnordered};
use jiff::Timestamp;
use proto::kms::v2::StatusResponse;
use tokio::sync::{mpsc, oneshot};

use super::{
    Current, Known, Shared,
    sealed::{DERIVED, KeyIdError, SEED, Sealed},
    service::{CallError, Service},
};
use crate::encryption::metrics;

/// How often a healthy plugin is asked how it is, and one that is not.
const CHECKS: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(10));
/// For how long an answer is good for those who ask for its health, when it is well, and when it is not.
const FRESH: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(3));
/// How long a seed is written with when the plugin does not say any more that its key is the current one.
const LASTS: Duration = Duration::from_secs(180);

/// Who asks how the plugin is.
pub(super) type Look = oneshot::Sender<Result<(), String>>;

/// A seed to be decrypted, and who waits for it.
pub(super) struct Decryption {
    pub(super) sealed: Sealed,
    pub(super) reply: blocking::SyncSender<Result<Vec<u8>, CallError>>,
}

/// Goes on until nobody asks any more.
pub(super) async fn keep(
    shared: Arc<Shared>,
    service: Service,
    decryptions: mpsc::UnboundedReceiver<Decryption>,
    looks: mpsc::Receiver<Look>,
) {
    let service = Arc::new(service);
    let probe = Probe { shared, service: service.clone(), version: None, last: None };
    tokio::join!(decrypt(&service, decryptions), probe.run(looks));
}

/// Has seeds decrypted, all that are asked for at once.
async fn decrypt(service: &Service, mut decryptions: mpsc::UnboundedReceiver<Decryption>) {
    let mut calls = FuturesUnordered::new();
    loop {
        tokio::select! {
            asked = decryptions.recv() => match asked {
                None => return,
                Some(Decryption { sealed, reply }) => calls.push(async move {
                    if reply.send(service.decrypt(&sealed).await).is_err() {
                        tracing::debug!("nobody waits for the seed any more");
                    }
                }),
            },
            Some(()) = calls.next() => {}
        }
    }
}

/// What is known of how a plugin is.
pub(super) struct Probe {
    pub(super) shared: Arc<Shared>,
    pub(super) service: Arc<Service>,
    /// The version its first status had, which stays.
    pub(super) version: Option<String>,
    /// How it was, and when.
    pub(super) last: Option<(Instant, Result<(), String>)>,
}

impl Probe {
    async fn run(mut self, mut looks: mpsc::Receiver<Look>) {
        let mut next = tokio::time::Instant::now();
        loop {
            tokio::select! {
                look = looks.recv() => {
                    let Some(reply) = look else { return };
                    if reply.send(self.look().await).is_err() {
                        tracing::debug!("nobody waits for the plugin's state any more");
                    }
                }
                () = tokio::time::sleep_until(next) => {
                    let outcome = self.look().await;
                    let pause = if outcome.is_ok() { CHECKS.0 } else { CHECKS.1 };
                    if let Err(why) = &outcome {
                        tracing::warn!(provider = self.shared.name, why, "KMS plugin failed health check probe");
                    }
                    next = tokio::time::Instant::now() + pause;
                }
            }
        }
    }

    /// How the plugin is; it is asked unless it was just before.
    async fn look(&mut self) -> Result<(), String> {
        if let Some((when, outcome)) = &self.last {
            let fresh = if outcome.is_ok() { FRESH.0 } else { FRESH.1 };
            if when.elapsed() < fresh {
                return outcome.clone();
            }
        }
        let outcome = self.check().await;
        self.last = Some((Instant::now(), outcome.clone()));
        outcome
    }

    /// Asks the plugin how it is, and makes a new seed when its key is another one.
    pub(super) async fn check(&mut self) -> Result<(), String> {
        let name = self.shared.name.clone();
        let begun = (Instant::now(), Timestamp::now());
        let status = self.service.status().await.map_err(|error| {
            format!("failed to perform status section of the healthz check for KMS Provider {name}, error: {error}")
        })?;
        let mut wrong: Vec<String> = self.faults(&status).into_iter().collect();
        wrong.extend(match KeyIdError::check(&status.key_id) {
            Ok(()) => {
                let hash = metrics::hash(&status.key_id);
                metrics::key_told(&name, &hash, &self.shared.server);
                self.rotate(&status.key_id, begun).await.err()
            }
            Err(why) => {
                metrics::key_refused(&name, why.word());
                Some(format!("got invalid KMSv2 KeyID: {why}"))
            }
        });
        let wrong = match wrong.as_slice() {
            [] => return Ok(()),
            [one] => one.clone(),
            all => format!("[{}]", all.join(", ")),
        };
        Err(format!("kmsv2 Provider {name} is not healthy, error: {wrong}"))
    }

    /// What is wrong with a status, its key aside.
    fn faults(&mut self, status: &StatusResponse) -> Vec<String> {
        let mut faults = Vec::new();
        if status.healthz != "ok" {
            faults.push(format!("got unexpected healthz status: {}", status.healthz));
        }
        if !matches!(status.version.as_str(), "v2" | "v2beta1") {
            faults.push(format!("expected KMSv2 API version v2, got {}", status.version));
            return faults;
        }
        let first = self.version.get_or_insert_with(|| status.version.clone());
        if *first != status.version {
            faults.push(format!(
                "KMSv2 API version should not change after the initial status response version {first}, got {}",
                status.version
            ));
        }
        faults
    }

    /// Goes on with the seed while the plugin's key stays, which this says it did when the status was asked for.
    async fn rotate(&self, key_id: &str, begun: (Instant, Timestamp)) -> Result<(), String> {
        let (until, expires) = (begun.0 + LASTS, begun.1 + LASTS);
        let current = self.shared.current.load_full();
        let (sealed, known) = match current.as_deref() {
            Some(current) if current.sealed.key_id == key_id => {
                (current.sealed.clone(), current.known.clone())
            }
            _ => self.seed(key_id).await.map_err(|why| format!("failed to rotate DEK: {why}"))?,
        };
        self.shared.current.store(Some(Arc::new(Current { sealed, known, until, expires })));
        Ok(())
    }

    /// A new seed, encrypted with the key of this name.
    async fn seed(&self, key_id: &str) -> Result<(Sealed, Arc<Known>), String> {
        let begun = Instant::now();
        let mut seed = [0; SEED];
        let filled = aws_lc_rs::rand::fill(&mut seed);
        metrics::generated(begun, filled.is_ok());
        filled.map_err(|_| "there are no random bytes".to_owned())?;
        let answer = self.service.encrypt(&seed).await;
        let answer = answer.map_err(|error| format!("failed to encrypt DEK, error: {error}"))?;
        let sealed = Sealed {
            seed: answer.ciphertext,
            key_id: answer.key_id,
            annotations: answer.annotations,
            source: DERIVED,
        };
        sealed.check()?;
        let known = Arc::new(Known::new(&sealed, &seed)?);
        if sealed.key_id != key_id {
            // The plugin changes its key right now; the next look finds both the same.
            let status = metrics::hash(key_id);
            return Err(format!("statusKeyIDHash={status:?}, encryptKeyIDHash={:?}", known.key));
        }
        self.shared.know(sealed.clone(), known.clone());
        Ok((sealed, known))
    }
}
