//! EncryptionConfiguration: the file, and the rules it makes.
//!
//! Contract: apiserver.config.k8s.io/v1.

use base64::{Engine, prelude::BASE64_STANDARD};
use component_base::config;
use serde::Deserialize;
use serde_json::Value;

use super::{
    Pattern, Rule,
    provider::{Key, KeyError, Kind, Provider},
};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    resources: Vec<Entry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Entry {
    resources: Vec<String>,
    providers: Vec<ProviderFile>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ProviderFile {
    aesgcm: Option<Keys>,
    aescbc: Option<Keys>,
    secretbox: Option<Keys>,
    identity: Option<Nothing>,
    kms: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Keys {
    keys: Vec<KeyFile>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct KeyFile {
    name: String,
    secret: String,
}

impl std::fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyFile").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why a configuration is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It does not decode.
    #[error("encryption configuration")]
    Decode(#[from] config::ConfigError),
    /// Something it must have is missing or more than there may be.
    #[error("encryption configuration: {0}")]
    Invalid(String),
    /// A key is of no use.
    #[error("encryption configuration: {place}")]
    Key {
        /// Where it is.
        place: String,
        /// What is wrong.
        #[source]
        source: KeyError,
    },
}

/// Reads a configuration's text.
///
/// # Errors
/// When it is of no use.
pub(super) fn read(text: &str) -> Result<Vec<Rule>, ConfigError> {
    const KIND: &str = "EncryptionConfiguration";
    let file: File = config::parse_content(text, KIND, "apiserver.config.k8s.io/v1", KIND)?;
    if file.resources.is_empty() {
        return Err(required("resources"));
    }
    let rule = |(at, entry): (usize, Entry)| -> Result<Rule, ConfigError> {
        let place = format!("resources[{at}]");
        if entry.resources.is_empty() {
            return Err(required(&format!("{place}.resources")));
        }
        if entry.providers.is_empty() {
            return Err(required(&format!("{place}.providers")));
        }
        let providers = entry.providers.into_iter().enumerate();
        Ok(Rule {
            resources: entry.resources.iter().map(|text| Pattern::parse(text)).collect(),
            providers: providers
                .map(|(at, one)| provider(one, &format!("{place}.providers[{at}]")))
                .collect::<Result<_, _>>()?,
        })
    };
    file.resources.into_iter().enumerate().map(rule).collect()
}

fn required(place: &str) -> ConfigError {
    ConfigError::Invalid(format!("{place}: Required value"))
}

fn provider(file: ProviderFile, place: &str) -> Result<Provider, ConfigError> {
    let ProviderFile { aesgcm, aescbc, secretbox, identity, kms } = file;
    if kms.is_some() {
        return Err(ConfigError::Invalid(format!("{place}.kms: not supported by this server")));
    }
    let mut found: Vec<Provider> = Vec::new();
    for (kind, given) in [(Kind::AesGcm, aesgcm), (Kind::AesCbc, aescbc), (Kind::Secretbox, secretbox)] {
        if let Some(given) = given {
            found.push(Provider::Keys(kind, keys(kind, given, place)?));
        }
    }
    found.extend(identity.map(|Nothing {}| Provider::Identity));
    match found.pop().filter(|_| found.is_empty()) {
        Some(provider) => Ok(provider),
        None => Err(ConfigError::Invalid(format!("{place}: exactly one provider must be configured"))),
    }
}

fn keys(kind: Kind, file: Keys, place: &str) -> Result<Vec<Key>, ConfigError> {
    if file.keys.is_empty() {
        return Err(required(&format!("{place}.keys")));
    }
    let mut keys = Vec::new();
    for (at, one) in file.keys.into_iter().enumerate() {
        let place = format!("{place}.keys[{at}]");
        if one.name.is_empty() {
            return Err(required(&format!("{place}.name")));
        }
        if one.name.contains(':') {
            return Err(ConfigError::Invalid(format!("{place}.name: Invalid value: must not contain ':'")));
        }
        let secret = BASE64_STANDARD.decode(&one.secret).map_err(|_| {
            ConfigError::Invalid(format!("{place}.secret: Invalid value: secret must be base64 encoded"))
        })?;
        keys.push(Key::new(kind, &one.name, secret).map_err(|source| ConfigError::Key { place, source })?);
    }
    Ok(keys)
}
