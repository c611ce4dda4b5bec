//! KMS v2: values are sealed with keys of a seed that only a plugin on this machine can decrypt.
//!
//! ```text
//! plugin ←─Status, Encrypt─ keeper (a thread): seed of the plugin's current key ──→ writes
//!        ←─────Decrypt───── keeper ←─ reads of values whose seed is not known yet
//! ```
//! A value is `k8s:enc:kms:v2:<name>:` and then a protobuf `EncryptedObject`: the encrypted seed, the plugin's key and notes,
//! and 32 random bytes, a nonce and the text with its tag. Its key is derived from the seed and the random bytes. Values
//! of the time before seeds have an encrypted AES key in place of one and no random bytes; they are read, not written.
//! Contract: KEP-3299; upstream's `storage/value/encrypt/envelope/kmsv2`.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, mpsc as blocking},
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use component_base::{task::Tasks, traces};
use jiff::Timestamp;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{mpsc, oneshot};

use super::{
    MARK,
    metrics::{self, Way},
    provider::Failure,
};

mod keeper;
mod sealed;
mod service;
#[cfg(test)]
mod tests;

use keeper::{Decryption, Look};
use sealed::{EncryptedObject, Sealed, Secret};
pub(crate) use service::CallError;
use service::Service;

/// Seeds kept: about one for each start of a server since everything was last rewritten. Some 1 KB each.
const MAX_SEEDS: usize = 10_000;

/// Checks that may wait for one that is under way; more wait for a place.
const LOOKS: usize = 16;

/// Which plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// Its name in stored values.
    pub(super) name: String,
    /// Its socket.
    pub(super) socket: PathBuf,
    /// Of one call.
    pub(super) timeout: Duration,
}

/// A plugin as a provider uses it.
pub(super) struct Kms {
    /// What it was made from.
    settings: Settings,
    /// `k8s:enc:kms:v2:<name>:`.
    prefix: String,
    shared: Arc<Shared>,
    /// Not more at once than threads that wait for the answers.
    decryptions: mpsc::UnboundedSender<Decryption>,
    looks: mpsc::Sender<Look>,
}

/// What the keeper and the users of a plugin share.
struct Shared {
    name: String,
    /// The hash of this server's identity, for metrics.
    server: Arc<str>,
    current: ArcSwapOption<Current>,
    seeds: Mutex<HashMap<Sealed, Arc<Known>>>,
}

/// What is written with.
struct Current {
    sealed: Sealed,
    known: Arc<Known>,
    /// Not after this.
    until: Instant,
    /// The same for people.
    expires: Timestamp,
}

/// A decrypted seed.
struct Known {
    secret: Secret,
    /// The hash of its key's name, for metrics.
    key: String,
}

// === impl Kms ===

impl Kms {
    /// Starts to look after a plugin; that ends when nobody uses it any more.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(settings: Settings, server: Arc<str>, tasks: &Tasks) -> std::io::Result<Self> {
        let (decryptions, asked) = mpsc::unbounded_channel();
        let (looks, looked) = mpsc::channel(LOOKS);
        let shared = Arc::new(Shared::new(&settings.name, server));
        let (of, keeper, drain) = (settings.clone(), shared.clone(), tasks.drain());
        // Of its own, since who reads a value waits without giving its thread back.
        tasks.spawn_thread("kms-provider", async move {
            let keep = keeper::keep(keeper, Service::new(&of), asked, looked);
            drain.run_until_cancelled(keep).await;
        })?;
        let prefix = format!("{}kms:v2:{}:", String::from_utf8_lossy(MARK), settings.name);
        Ok(Self { settings, prefix, shared, decryptions, looks })
    }

    /// Whether it was made from these.
    pub(super) fn is(&self, settings: &Settings) -> bool {
        self.settings == *settings
    }

    /// What its values begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// How long one of its calls may take.
    pub(super) fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    /// How the plugin is; it is asked unless it was just before.
    pub(super) async fn checked(&self) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        let asked = self.looks.send(reply).await;
        let answer = if asked.is_ok() { answer.await.ok() } else { None };
        answer.unwrap_or_else(|| Err("it is looked after no more".to_owned()))
    }

    /// Whether a value is one of its.
    pub(super) fn reads(&self, value: &[u8]) -> bool {
        value.starts_with(self.prefix.as_bytes())
    }

    /// Whether a value is sealed with the plugin's current key.
    pub(super) fn wrote(&self, value: &[u8]) -> bool {
        let stored = value.strip_prefix(self.prefix.as_bytes()).map(EncryptedObject::decode);
        let current = self.shared.current.load();
        match (stored, current.as_deref()) {
            (Some(Ok(stored)), Some(current)) => {
                stored.key_id == current.sealed.key_id && stored.source == current.sealed.source
            }
            _ => false,
        }
    }

    /// Encrypts by the current seed.
    pub(super) fn seal(&self, plain: Vec<u8>, path: &[u8]) -> Result<Vec<u8>, Failure> {
        let _span = self.span("TransformToStorage with envelopeTransformer");
        let current = self.shared.current_at(Instant::now())?;
        let data = current.known.secret.seal(plain, path)?;
        metrics::key_used(Way::ToStorage, &self.shared.name, &current.known.key, &self.shared.server);
        let Sealed { seed, key_id, annotations, source } = current.sealed.clone();
        let object = EncryptedObject { data, key_id, seed, annotations, source };
        let mut value = Vec::with_capacity(self.prefix.len() + object.encoded_len());
        value.extend_from_slice(self.prefix.as_bytes());
        object.encode(&mut value).map_err(|error| Failure::Value(error.to_string()))?;
        Ok(value)
    }

    /// Decrypts by the seed that a value brings along.
    pub(super) fn open(&self, value: &[u8], path: &[u8]) -> Result<Vec<u8>, Failure> {
        let _span = self.span("TransformFromStorage with envelopeTransformer");
        let stored = value.get(self.prefix.len()..).unwrap_or_default();
        let stored = EncryptedObject::decode(stored).map_err(|error| Failure::Value(error.to_string()))?;
        let EncryptedObject { data, key_id, seed, annotations, source } = stored;
        if data.is_empty() {
            return Err(Failure::Value("encrypted data is empty".to_owned()));
        }
        let sealed = Sealed { seed, key_id, annotations, source };
        sealed.check()?;
        let known = self.known(sealed)?;
        metrics::key_used(Way::FromStorage, &self.shared.name, &known.key, &self.shared.server);
        Ok(known.secret.open(&data, path)?)
    }

    /// What a followed request spends here.
    fn span(&self, name: &'static str) -> Option<Box<traces::Part>> {
        let mut part = traces::work(name)?;
        part.note("transformer.provider.name", &self.shared.name);
        Some(part)
    }

    /// The seed; the plugin is asked when it is not known yet, and the caller's thread waits for that.
    fn known(&self, sealed: Sealed) -> Result<Arc<Known>, Failure> {
        if let Some(known) = self.shared.seeds.lock().get(&sealed) {
            return Ok(known.clone());
        }
        metrics::missed();
        let (reply, answer) = blocking::sync_channel(1);
        let sent = self.decryptions.send(Decryption { sealed: sealed.clone(), reply });
        // The call has an end of its own; without a keeper the channel closes.
        let ask =
            || sent.ok().and_then(|()| answer.recv().ok()).ok_or(Failure::Abandoned)?.map_err(Failure::from);
        // Other tasks of this thread go elsewhere while it waits.
        let shared_thread = tokio::runtime::Handle::try_current()
            .is_ok_and(|runtime| runtime.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread);
        let bytes: Vec<u8> = if shared_thread { tokio::task::block_in_place(ask) } else { ask() }?;
        let known = Arc::new(Known::new(&sealed, &bytes)?);
        self.shared.know(sealed, known.clone());
        Ok(known)
    }
}

impl std::fmt::Debug for Kms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kms").field("settings", &self.settings).finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    fn new(name: &str, server: Arc<str>) -> Self {
        Self { name: name.to_owned(), server, current: ArcSwapOption::empty(), seeds: Mutex::default() }
    }

    /// What is written with at a time.
    fn current_at(&self, now: Instant) -> Result<Arc<Current>, Failure> {
        let Some(current) = self.current.load_full() else {
            return Err(Failure::Value(format!("KMS provider {} gave no key yet", self.name)));
        };
        if now > current.until {
            return Err(Failure::Value(format!(
                "encryptedDEKSource with keyID hash {:?} expired at {:.0}: KMS provider {} does not say any more that \
                 its key is the current one",
                current.known.key, current.expires, self.name
            )));
        }
        Ok(current)
    }

    fn know(&self, sealed: Sealed, known: Arc<Known>) {
        let mut seeds = self.seeds.lock();
        if seeds.len() >= MAX_SEEDS {
            seeds.clear();
        }
        seeds.insert(sealed, known);
        metrics::seeds(&self.name, seeds.len());
    }
}

// === impl Known ===

impl Known {
    fn new(sealed: &Sealed, bytes: &[u8]) -> Result<Self, String> {
        Ok(Self { secret: Secret::new(sealed.source, bytes)?, key: metrics::hash(&sealed.key_id) })
    }
}
