//! EncryptionConfiguration: the file, and the rules it makes.
//!
//! Contract: apiserver.config.k8s.io/v1.

use std::{collections::HashSet, path::PathBuf, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use component_base::{config, goduration};
use serde::Deserialize;

use super::{
    Pattern, Plugins, Rule,
    kms::Settings,
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
    kms: Option<KmsFile>,
}

/// Of one call to a plugin.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct KmsFile {
    #[serde(rename = "apiVersion")]
    api_version: String,
    name: String,
    cachesize: Option<i64>,
    endpoint: String,
    timeout: String,
}

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
    /// A KMS plugin cannot be looked after.
    #[error("encryption configuration: a thread for a KMS provider")]
    Thread(#[source] std::io::Error),
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
pub(super) fn read(text: &str, plugins: &Plugins) -> Result<Vec<Rule>, ConfigError> {
    const KIND: &str = "EncryptionConfiguration";
    let file: File = config::parse_content(text, KIND, "apiserver.config.k8s.io/v1", KIND)?;
    if file.resources.is_empty() {
        return Err(required("resources"));
    }
    let mut names = HashSet::new();
    let mut rules: Vec<Rule> = Vec::new();
    for (at, entry) in file.resources.into_iter().enumerate() {
        let place = format!("resources[{at}]");
        if entry.resources.is_empty() {
            return Err(required(&format!("{place}.resources")));
        }
        if entry.providers.is_empty() {
            return Err(required(&format!("{place}.providers")));
        }
        let resources = patterns(&entry.resources, &format!("{place}.resources"))?;
        unmasked(&resources, &rules)?;
        let mut providers = Vec::new();
        for (at, one) in entry.providers.into_iter().enumerate() {
            let place = format!("{place}.providers[{at}]");
            if let Some(kms) = &one.kms
                && !names.insert(kms.name.clone())
            {
                let why = format!("{:?}: duplicate KMS provider name, names must be unique", kms.name);
                return Err(invalid(&format!("{place}.kms.name"), &why));
            }
            providers.push(provider(one, &place, plugins)?);
        }
        rules.push(Rule { resources, providers });
    }
    Ok(rules)
}

/// The resources of one rule.
fn patterns(texts: &[String], place: &str) -> Result<Vec<Pattern>, ConfigError> {
    for (at, text) in texts.iter().enumerate() {
        if let Some(why) = misnamed(text) {
            return Err(invalid(&format!("{place}[{at}]"), &format!("{text:?}: {why}")));
        }
    }
    let patterns: Vec<Pattern> = texts.iter().map(|text| Pattern::parse(text)).collect();
    for (at, one) in patterns.iter().enumerate() {
        for other in &patterns[at + 1..] {
            if one == other {
                return Err(invalid(place, "the same resource cannot be specified multiple times"));
            }
            if one.covers(other) || other.covers(one) {
                return Err(invalid(
                    place,
                    "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed \
                     as they will be masked",
                ));
            }
        }
    }
    Ok(patterns)
}

/// Why no resource is meant by this.
fn misnamed(text: &str) -> Option<&'static str> {
    const NOT_SERVED: [&str; 3] = ["apiserveripinfo", "serviceipallocations", "servicenodeportallocations"];
    let (plural, group) = text.split_once('.').unwrap_or((text, ""));
    if text.chars().any(char::is_uppercase) {
        Some("resource name should not contain capital letters")
    } else if text == "*" {
        Some("use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources")
    } else if NOT_SERVED.contains(&text) {
        Some("resources which do not have REST API/s cannot be encrypted")
    } else if group == "events.k8s.io" {
        Some("objects of events.k8s.io are stored as those of the core group: use 'events'")
    } else if group == "extensions" {
        Some("'extensions' group has been removed and cannot be used for encryption")
    } else if group == "*" && plural != "*" {
        Some("encrypting the same resource across groups is not supported")
    } else {
        None
    }
}

/// Whether a rule's resources are not an earlier rule's already; one by its name may be in several.
fn unmasked(resources: &[Pattern], earlier: &[Rule]) -> Result<(), ConfigError> {
    let earlier = || earlier.iter().flat_map(|rule| &rule.resources);
    for one in resources {
        if let Some(mask) =
            earlier().find(|mask| mask.covers(one) || *mask == one && !matches!(one, Pattern::One(..)))
        {
            return Err(ConfigError::Invalid(format!(
                "resource {:?} is masked by earlier rule {:?}",
                one.to_string(),
                mask.to_string()
            )));
        }
    }
    Ok(())
}

fn required(place: &str) -> ConfigError {
    ConfigError::Invalid(format!("{place}: Required value"))
}

fn invalid(place: &str, why: &str) -> ConfigError {
    ConfigError::Invalid(format!("{place}: Invalid value: {why}"))
}

/// Which plugin is meant.
fn plugin(file: &KmsFile, place: &str) -> Result<Settings, ConfigError> {
    let place = |field: &str| format!("{place}.kms.{field}");
    match file.api_version.as_str() {
        "v2" => {}
        "" | "v1" => {
            let why = "\"v1\": KMS v1 is deprecated and not supported by this server, use v2";
            return Err(invalid(&place("apiVersion"), why));
        }
        other => {
            let why = format!("unsupported apiVersion {other} for KMS provider, only v2 is supported");
            return Err(invalid(&place("apiVersion"), &why));
        }
    }
    if file.name.is_empty() {
        return Err(required(&place("name")));
    }
    if file.name.contains(':') {
        let why = format!("invalid KMS provider name {}, must not contain ':'", file.name);
        return Err(invalid(&place("name"), &why));
    }
    if file.cachesize.is_some() {
        return Err(invalid(&place("cachesize"), "cachesize is not supported in v2"));
    }
    if file.endpoint.is_empty() {
        return Err(invalid(&place("endpoint"), "endpoint is a mandatory field for a kms"));
    }
    let timeout = match file.timeout.as_str() {
        "" => DEFAULT_TIMEOUT,
        text => goduration::parse(text).map_err(|error| invalid(&place("timeout"), &error.to_string()))?,
    };
    if timeout.is_zero() {
        return Err(invalid(&place("timeout"), "timeout should be a positive value"));
    }
    let socket = socket(&file.endpoint).map_err(|why| invalid(&place("endpoint"), &why))?;
    Ok(Settings { name: file.name.clone(), socket, timeout })
}

/// The path in `unix:///path`; one that begins with `@` is of the abstract namespace.
fn socket(endpoint: &str) -> Result<PathBuf, String> {
    let path = endpoint.strip_prefix("unix://").ok_or_else(|| {
        let scheme = endpoint.split_once("://").map_or("", |(scheme, _)| scheme);
        format!("unsupported scheme {scheme:?} for KMS provider, only unix is supported")
    })?;
    match path.strip_prefix("/@") {
        Some(name) => Ok(PathBuf::from(format!("\0{name}"))),
        None if path.starts_with('/') => Ok(PathBuf::from(path)),
        None => Err(format!("{endpoint:?}: should be unix:///path")),
    }
}

fn provider(file: ProviderFile, place: &str, plugins: &Plugins) -> Result<Provider, ConfigError> {
    let ProviderFile { aesgcm, aescbc, secretbox, identity, kms } = file;
    let mut found: Vec<Provider> = Vec::new();
    for (kind, given) in [(Kind::AesGcm, aesgcm), (Kind::AesCbc, aescbc), (Kind::Secretbox, secretbox)] {
        if let Some(given) = given {
            found.push(Provider::Keys(kind, keys(kind, given, place)?));
        }
    }
    found.extend(identity.map(|Nothing {}| Provider::Identity));
    if let Some(kms) = kms {
        let started = plugins.get(plugin(&kms, place)?);
        found.push(Provider::Kms(started.map_err(ConfigError::Thread)?));
    }
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
            return Err(invalid(&format!("{place}.name"), "must not contain ':'"));
        }
        let secret = BASE64_STANDARD.decode(&one.secret).map_err(|_| {
            ConfigError::Invalid(format!("{place}.secret: Invalid value: secret must be base64 encoded"))
        })?;
        keys.push(Key::new(kind, &one.name, secret).map_err(|source| ConfigError::Key { place, source })?);
    }
    Ok(keys)
}
