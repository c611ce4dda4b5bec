//! Encryption at rest: which resources are stored encrypted, and with which keys.
//!
//! ```text
//! EncryptionConfiguration ──→ rules: resource → providers; the first writes, all of them read, told apart by a prefix
//! store ──value, etcd key──→ Encryption ──→ provider (AES-CBC, AES-GCM, secretbox, KMS, identity) ──→ stored forms
//! ```
//! The file may change under a running server; what is stored under an older key is rewritten by the next write, also one
//! that changes nothing. Contract: "Encrypting Confidential Data at Rest"; upstream's `storage/value`.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use component_base::task::Tasks;
use parking_lot::Mutex;

use crate::{
    registry::catalog::Catalog,
    storage::{ResourceId, Transformer, Undecoded},
};

pub mod config;
mod kms;
pub mod metrics;
mod provider;
#[cfg(test)]
mod tests;

use config::ConfigError;
use kms::{Kms, Settings};
use metrics::Way;
use provider::{Failure, Provider};

/// What every encrypted value begins with.
pub(crate) const MARK: &[u8] = b"k8s:enc:";

/// For how long plugins of a changed configuration may be unwell at least before that is reported.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often they are asked meanwhile; their own answers are kept for longer.
const PACE: Duration = Duration::from_millis(100);

/// The transformer between the store and what it keeps.
pub struct Encryption {
    inner: Arc<dyn Transformer>,
    /// `/registry`.
    root: String,
    /// Where built-in resources are below that, by group and plural.
    prefixes: HashMap<(String, String), &'static str>,
    rules: Arc<ArcSwap<Vec<Rule>>>,
    plugins: Plugins,
    /// The hash of the text read last.
    text: Mutex<String>,
    /// Counts configurations, so that one that waits for its plugins does not replace a later one.
    generation: Arc<AtomicU64>,
}

/// The KMS plugins that are looked after.
struct Plugins {
    tasks: Tasks,
    /// The hash of this server's identity, for metrics.
    server: Arc<str>,
    known: Mutex<Vec<Weak<Kms>>>,
}

impl Plugins {
    fn new(server: &str, tasks: &Tasks) -> Self {
        Self { tasks: tasks.clone(), server: metrics::hash(server).into(), known: Mutex::default() }
    }

    /// The plugin of these settings: the one that is in use already, or a new one.
    fn get(&self, settings: Settings) -> std::io::Result<Arc<Kms>> {
        let mut known = self.known.lock();
        known.retain(|one| one.strong_count() > 0);
        if let Some(kms) = known.iter().filter_map(Weak::upgrade).find(|kms| kms.is(&settings)) {
            return Ok(kms);
        }
        let kms = Arc::new(Kms::start(settings, self.server.clone(), &self.tasks)?);
        known.push(Arc::downgrade(&kms));
        Ok(kms)
    }
}

/// Providers of some resources.
#[derive(Debug)]
struct Rule {
    resources: Vec<Pattern>,
    providers: Vec<Provider>,
}

/// Which resources a rule is for.
#[derive(Debug, PartialEq, Eq)]
enum Pattern {
    /// `*.*`.
    All,
    /// `*.apps`, or `*.` for the core group.
    Group(String),
    /// `secrets`, `deployments.apps`.
    One(String, String),
}

impl Pattern {
    fn parse(text: &str) -> Self {
        match text.split_once('.') {
            Some(("*", "*")) => Self::All,
            Some(("*", group)) => Self::Group(group.to_owned()),
            Some((plural, group)) => Self::One(group.to_owned(), plural.to_owned()),
            None => Self::One(String::new(), text.to_owned()),
        }
    }

    /// Whether it is for all that another one is for, and more.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, other) => *other != Self::All,
            (Self::Group(group), Self::One(of, _)) => group == of,
            _ => false,
        }
    }

    fn is(&self, id: &ResourceId) -> bool {
        match self {
            Self::All => true,
            Self::Group(group) => group == id.group(),
            Self::One(group, plural) => group == id.group() && plural == id.plural(),
        }
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("*.*"),
            Self::Group(group) => write!(f, "*.{group}"),
            Self::One(group, plural) if group.is_empty() => f.write_str(plural),
            Self::One(group, plural) => write!(f, "{plural}.{group}"),
        }
    }
}

impl Encryption {
    /// Encrypts what `inner` makes, by the rules of a configuration's text. `root` is `--etcd-prefix`, `server` the
    /// server's identity; plugins are looked after until `tasks` drain.
    ///
    /// # Errors
    /// When the configuration is of no use.
    pub fn new(
        text: &str,
        root: &str,
        catalog: &Catalog,
        inner: Arc<dyn Transformer>,
        (server, tasks): (&str, &Tasks),
    ) -> Result<Self, ConfigError> {
        let place = |resource: &Arc<crate::registry::Resource>| {
            ((resource.stored_group().to_owned(), resource.plural.to_owned()), resource.storage_prefix)
        };
        let plugins = Plugins::new(server, tasks);
        let rules = config::read(text, &plugins)?;
        let hash = metrics::hash(text);
        metrics::configured(&plugins.server, &hash);
        Ok(Self {
            inner,
            root: root.trim_end_matches('/').to_owned(),
            prefixes: catalog.iter().map(place).collect(),
            rules: Arc::new(ArcSwap::from_pointee(rules)),
            plugins,
            text: Mutex::new(hash),
            generation: Arc::default(),
        })
    }

    /// Takes over a changed configuration, once the plugins it names are well.
    ///
    /// # Errors
    /// When it is of no use; what was there before stays.
    pub fn reload(&self, text: &str) -> Result<(), ConfigError> {
        let hash = metrics::hash(text);
        if *self.text.lock() == hash {
            return Ok(());
        }
        let server = self.plugins.server.clone();
        let rules = config::read(text, &self.plugins).inspect_err(|_| metrics::reloaded(&server, false))?;
        (*self.text.lock()).clone_from(&hash);
        let generation = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
        let plugins = plugins(&rules);
        let (current, latest) = (self.rules.clone(), self.generation.clone());
        let take_over = move || {
            current.store(Arc::new(rules));
            metrics::reloaded(&server, true);
            metrics::configured(&server, &hash);
        };
        if plugins.is_empty() {
            take_over();
            return Ok(());
        }
        let (server, drain) = (self.plugins.server.clone(), self.plugins.tasks.drain());
        self.plugins.tasks.spawn("encryption configuration", async move {
            let latest = || latest.load(Ordering::Acquire) == generation;
            if drain.run_until_cancelled(well(&plugins, &server, latest)).await == Some(true) && latest() {
                take_over();
            }
        });
        Ok(())
    }

    /// How the KMS plugins are.
    ///
    /// # Errors
    /// What is wrong with those that are not well.
    pub async fn check(&self) -> Result<(), String> {
        let plugins = plugins(&self.rules.load());
        check(&plugins).await
    }

    /// Whether any value goes through a KMS plugin.
    pub fn has_plugins(&self) -> bool {
        !plugins(&self.rules.load()).is_empty()
    }

    /// etcd's key of an object: what binds a value to its place.
    fn path(&self, id: &ResourceId, key: &str) -> String {
        match self.prefixes.get(&(id.group().to_owned(), id.plural().to_owned())) {
            Some(prefix) => format!("{}/{prefix}/{key}", self.root),
            None => format!("{}/{}/{}/{key}", self.root, id.group(), id.plural()),
        }
    }
}

/// Waits until all plugins are well; `false` when that is not wanted any more. Each time it takes too long is counted.
async fn well(plugins: &[Arc<Kms>], server: &str, wanted: impl Fn() -> bool) -> bool {
    let timeouts: Duration = plugins.iter().map(|plugin| plugin.timeout()).sum();
    let patience = PATIENCE.max(timeouts * 2);
    let mut begun = tokio::time::Instant::now();
    while wanted() {
        let Err(why) = check(plugins).await else { return true };
        if begun.elapsed() >= patience {
            tracing::error!(why, "health check for new transformers failed, what was loaded before stays");
            metrics::reloaded(server, false);
            begun = tokio::time::Instant::now();
        }
        tokio::time::sleep(PACE).await;
    }
    false
}

/// How plugins are, one after the other.
async fn check(plugins: &[Arc<Kms>]) -> Result<(), String> {
    let mut wrong = Vec::new();
    for (at, plugin) in plugins.iter().enumerate() {
        wrong.extend(plugin.checked().await.err().map(|why| format!("kms-provider-{at}: {why}")));
    }
    match wrong.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        all => Err(format!("[{}]", all.join(", "))),
    }
}

/// The KMS plugins of some rules.
fn plugins(rules: &[Rule]) -> Vec<Arc<Kms>> {
    let all = rules.iter().flat_map(|rule| &rule.providers);
    let kms = |provider: &Provider| match provider {
        Provider::Kms(kms) => Some(kms.clone()),
        Provider::Identity | Provider::Keys(..) => None,
    };
    all.filter_map(kms).collect()
}

/// The providers of a resource in order: those of the first rule that is for it, and of all that name it.
fn providers<'a>(rules: &'a [Rule], id: &'a ResourceId) -> impl Iterator<Item = &'a Provider> + Clone {
    let first = rules.iter().position(|rule| rule.resources.iter().any(|pattern| pattern.is(id)));
    let named = |pattern: &Pattern| matches!(pattern, Pattern::One(..)) && pattern.is(id);
    let of = move |(at, rule): &(usize, &Rule)| Some(*at) == first || rule.resources.iter().any(named);
    rules.iter().enumerate().filter(of).flat_map(|(_, rule)| &rule.providers)
}

impl Transformer for Encryption {
    fn decode(&self, id: &ResourceId, key: &str, value: Bytes) -> Result<Bytes, Undecoded> {
        let rules = self.rules.load();
        if !value.starts_with(MARK) {
            let (all, begun) = (providers(&rules, id), Instant::now());
            let encrypted = all.clone().next().is_some();
            if encrypted && !all.clone().any(Provider::is_identity) {
                metrics::transformed(id, Way::FromStorage, "unknown", "unknown-non-grpc", begun);
                // Upstream's words for it.
                return Err(Undecoded::Sealed("no matching prefix found".to_owned()));
            }
            if encrypted {
                metrics::transformed(id, Way::FromStorage, "identity", "OK", begun);
            }
            return self.inner.decode(id, key, value);
        }
        let (path, begun) = (self.path(id, key), Instant::now());
        let failed = |text: &str| ("unknown", Failure::Value(text.to_owned()));
        let mut failure = failed("identity transformer tried to read encrypted data");
        for provider in providers(&rules, id).filter(|provider| provider.reads(&value)) {
            match provider.open(&value, path.as_bytes()) {
                Ok(plain) => {
                    metrics::transformed(id, Way::FromStorage, provider.prefix(), "OK", begun);
                    return self.inner.decode(id, key, plain.into());
                }
                Err(why) => failure = (provider.prefix(), why),
            }
        }
        let (prefix, why) = failure;
        metrics::transformed(id, Way::FromStorage, prefix, why.word(), begun);
        Err(Undecoded::Sealed(why.to_string()))
    }

    fn encode(&self, id: &ResourceId, key: &str, json: Vec<u8>) -> Result<Vec<u8>, String> {
        let plain = self.inner.encode(id, key, json)?;
        let rules = self.rules.load();
        let Some(provider) = providers(&rules, id).next() else { return Ok(plain) };
        let begun = Instant::now();
        let sealed = provider.seal(plain, self.path(id, key).as_bytes());
        let word = sealed.as_ref().err().map_or("OK", Failure::word);
        metrics::transformed(id, Way::ToStorage, provider.prefix(), word, begun);
        sealed.map_err(|why| why.to_string())
    }

    fn looks_at(&self, id: &ResourceId) -> bool {
        providers(&self.rules.load(), id).next().is_some() || self.inner.looks_at(id)
    }

    fn is_stale(&self, id: &ResourceId, value: &[u8]) -> bool {
        let rules = self.rules.load();
        match providers(&rules, id).next() {
            Some(provider) => !provider.wrote(value),
            None => self.inner.is_stale(id, value),
        }
    }
}
