//! Encryption at rest: which resources are stored encrypted, and with which keys.
//!
//! ```text
//! EncryptionConfiguration ──→ rules: resource → providers; the first writes, all of them read, told apart by a prefix
//! store ──value, etcd key──→ Encryption ──→ provider (AES-CBC, AES-GCM, secretbox, identity) ──→ stored forms
//! ```
//! The file may change under a running server; what is stored under an older key is rewritten by the next write, also one
//! that changes nothing. Contract: "Encrypting Confidential Data at Rest"; upstream's `storage/value`.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use bytes::Bytes;

use crate::{
    registry::catalog::Catalog,
    storage::{ResourceId, Transformer},
};

pub mod config;
mod provider;
#[cfg(test)]
mod tests;

use config::ConfigError;
use provider::Provider;

/// What every encrypted value begins with.
const MARK: &[u8] = b"k8s:enc:";

/// The transformer between the store and what it keeps.
pub struct Encryption {
    inner: Arc<dyn Transformer>,
    /// `/registry`.
    root: String,
    /// Where built-in resources are below that, by group and plural.
    prefixes: HashMap<(String, String), &'static str>,
    rules: ArcSwap<Vec<Rule>>,
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

    fn is(&self, id: &ResourceId) -> bool {
        match self {
            Self::All => true,
            Self::Group(group) => group == id.group(),
            Self::One(group, plural) => group == id.group() && plural == id.plural(),
        }
    }
}

impl Encryption {
    /// Encrypts what `inner` makes, by the rules of a configuration's text. `root` is `--etcd-prefix`.
    ///
    /// # Errors
    /// When the configuration is of no use.
    pub fn new(
        text: &str,
        root: &str,
        catalog: &Catalog,
        inner: Arc<dyn Transformer>,
    ) -> Result<Self, ConfigError> {
        let place = |resource: &Arc<crate::registry::Resource>| {
            ((resource.stored_group().to_owned(), resource.plural.to_owned()), resource.storage_prefix)
        };
        Ok(Self {
            inner,
            root: root.trim_end_matches('/').to_owned(),
            prefixes: catalog.iter().map(place).collect(),
            rules: ArcSwap::from_pointee(config::read(text)?),
        })
    }

    /// Takes over a changed configuration.
    ///
    /// # Errors
    /// When it is of no use; what was there before stays.
    pub fn reload(&self, text: &str) -> Result<(), ConfigError> {
        self.rules.store(Arc::new(config::read(text)?));
        Ok(())
    }

    /// etcd's key of an object: what binds a value to its place.
    fn path(&self, id: &ResourceId, key: &str) -> String {
        match self.prefixes.get(&(id.group().to_owned(), id.plural().to_owned())) {
            Some(prefix) => format!("{}/{prefix}/{key}", self.root),
            None => format!("{}/{}/{}/{key}", self.root, id.group(), id.plural()),
        }
    }
}

fn providers<'a>(rules: &'a [Rule], id: &ResourceId) -> &'a [Provider] {
    let found = rules.iter().find(|rule| rule.resources.iter().any(|pattern| pattern.is(id)));
    found.map_or(&[], |rule| &rule.providers)
}

impl Transformer for Encryption {
    fn decode(&self, id: &ResourceId, key: &str, value: Bytes) -> Result<Bytes, String> {
        let rules = self.rules.load();
        if !value.starts_with(MARK) {
            let all = providers(&rules, id);
            if !all.is_empty() && !all.iter().any(Provider::is_identity) {
                return Err("the value is not encrypted, and no provider reads such values".to_owned());
            }
            return self.inner.decode(id, key, value);
        }
        let path = self.path(id, key);
        let mut failure = "identity transformer tried to read encrypted data".to_owned();
        for provider in providers(&rules, id).iter().filter(|provider| provider.reads(&value)) {
            match provider.open(&value, path.as_bytes()) {
                Ok(plain) => return self.inner.decode(id, key, plain.into()),
                Err(why) => failure = why,
            }
        }
        Err(failure)
    }

    fn encode(&self, id: &ResourceId, key: &str, json: Vec<u8>) -> Result<Vec<u8>, String> {
        let plain = self.inner.encode(id, key, json)?;
        let rules = self.rules.load();
        match providers(&rules, id).first() {
            Some(provider) => provider.seal(plain, self.path(id, key).as_bytes()),
            None => Ok(plain),
        }
    }

    fn looks_at(&self, id: &ResourceId) -> bool {
        !providers(&self.rules.load(), id).is_empty()
    }

    fn is_stale(&self, id: &ResourceId, value: &[u8]) -> bool {
        let rules = self.rules.load();
        providers(&rules, id).first().is_some_and(|provider| !provider.wrote(value))
    }
}
