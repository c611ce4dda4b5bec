//! Strict decoding of component configuration files: YAML or JSON, with the expected apiVersion and kind, unknown and
//! duplicate fields refused with their place.

use std::{
    fmt,
    marker::PhantomData,
    path::{Path, PathBuf},
};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, DeserializeSeed, IgnoredAny, IntoDeserializer, MapAccess, Visitor},
};

/// Why a configuration file is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read configuration file {path:?}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write configuration file {path:?}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("configuration does not encode: {0}")]
    Encode(String),
    #[error("configuration file {origin} does not decode: {message}")]
    Decode { origin: String, message: String },
    #[error(
        "configuration file {origin}: no kind {kind:?} is registered for version {api_version:?}, expected {expected}"
    )]
    Kind { origin: String, api_version: String, kind: String, expected: String },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TypeMeta {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
}

/// Reads a configuration of one apiVersion and kind from a file. `T` should deny unknown fields and have `apiVersion` and
/// `kind` fields of its own.
///
/// # Errors
/// When the file cannot be read, is not of that kind, or has fields `T` does not know.
pub fn load<T: DeserializeOwned>(path: &Path, api_version: &str, kind: &str) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(&text, &path.display().to_string(), api_version, kind)
}

/// Writes a configuration to a file, as YAML that [`load`] reads (`--write-config-to`).
///
/// # Errors
/// When the file cannot be written.
pub fn save<T: Serialize>(config: &T, path: &Path) -> Result<(), ConfigError> {
    let text = serde_saphyr::to_string(config).map_err(|error| ConfigError::Encode(error.to_string()))?;
    std::fs::write(path, text).map_err(|source| ConfigError::Write { path: path.to_owned(), source })
}

/// As [`load`], from text; `origin` names it in errors.
///
/// # Errors
/// As [`load`], except for reading.
pub fn parse<T: DeserializeOwned>(
    text: &str,
    origin: &str,
    api_version: &str,
    kind: &str,
) -> Result<T, ConfigError> {
    let decode = |error: serde_saphyr::Error| ConfigError::Decode {
        origin: origin.to_owned(),
        message: error.to_string(),
    };
    let found: TypeMeta = serde_saphyr::from_str(text).map_err(decode)?;
    if found.api_version != api_version || found.kind != kind {
        return Err(ConfigError::Kind {
            origin: origin.to_owned(),
            api_version: found.api_version,
            kind: found.kind,
            expected: format!("{kind} in {api_version}"),
        });
    }
    serde_saphyr::from_str(text).map_err(decode)
}

/// As [`load`], for a `T` that says nothing of `apiVersion` and `kind`: they are checked here and go no further.
///
/// # Errors
/// As [`load`].
pub fn load_content<T: DeserializeOwned>(
    path: &Path,
    api_version: &str,
    kind: &str,
) -> Result<T, ConfigError> {
    load(path, api_version, kind).map(|Content(content)| content)
}

/// As [`load_content`], from text; `origin` names it in errors.
///
/// # Errors
/// As [`load`], except for reading.
pub fn parse_content<T: DeserializeOwned>(
    text: &str,
    origin: &str,
    api_version: &str,
    kind: &str,
) -> Result<T, ConfigError> {
    parse(text, origin, api_version, kind).map(|Content(content)| content)
}

/// A document without its `apiVersion` and `kind`.
struct Content<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Content<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ContentVisitor(PhantomData))
    }
}

struct ContentVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ContentVisitor<T> {
    type Value = Content<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a configuration")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Content<T>, A::Error> {
        T::deserialize(serde::de::value::MapAccessDeserializer::new(Untyped(map))).map(Content)
    }
}

/// The fields of a document but for its `apiVersion` and `kind`.
struct Untyped<A>(A);

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Untyped<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let mut seed = Some(seed);
        loop {
            match self.0.next_key_seed(Key(&mut seed))? {
                Some(None) => drop(self.0.next_value::<IgnoredAny>()?),
                Some(Some(key)) => return Ok(Some(key)),
                None => return Ok(None),
            }
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.0.next_value_seed(seed)
    }
}

/// Decodes a key while the decoder still knows its place; nothing for `apiVersion` and `kind`.
struct Key<'s, K>(&'s mut Option<K>);

impl<'de, K: DeserializeSeed<'de>> DeserializeSeed<'de> for Key<'_, K> {
    type Value = Option<K::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl<'de, K: DeserializeSeed<'de>> Visitor<'de> for Key<'_, K> {
    type Value = Option<K::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Self::Value, E> {
        if matches!(name, "apiVersion" | "kind") {
            return Ok(None);
        }
        let seed = self.0.take().ok_or_else(|| E::custom("a field is asked for once"))?;
        seed.deserialize(name.into_deserializer()).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Sample {
        #[serde(rename = "apiVersion")]
        _api_version: String,
        #[serde(rename = "kind")]
        _kind: String,
        parallelism: u32,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Bare {
        parallelism: u32,
    }

    fn sample(text: &str) -> Result<Sample, ConfigError> {
        parse(text, "test.yaml", "sample.config/v1", "Sample")
    }

    #[test]
    fn reads_yaml_and_json_and_names_what_is_wrong() {
        let yaml = "apiVersion: sample.config/v1\nkind: Sample\nparallelism: 3\n";
        assert_eq!(sample(yaml).unwrap().parallelism, 3);
        let json = r#"{"apiVersion":"sample.config/v1","kind":"Sample","parallelism":4}"#;
        assert_eq!(sample(json).unwrap().parallelism, 4);
        let unknown = sample(&format!("{yaml}paralellism: 4\n")).unwrap_err().to_string();
        assert!(unknown.contains("paralellism") && unknown.contains("line 4"), "{unknown}");
        let content: Bare = parse_content(yaml, "test.yaml", "sample.config/v1", "Sample").unwrap();
        assert_eq!(content.parallelism, 3);
        let unknown = format!("{yaml}paralellism: 4\n");
        let unknown = parse_content::<Bare>(&unknown, "test.yaml", "sample.config/v1", "Sample");
        let unknown = unknown.unwrap_err().to_string();
        assert!(unknown.contains("paralellism") && unknown.contains("line 4"), "{unknown}");
        assert!(matches!(sample("apiVersion: v1\nkind: Pod\n"), Err(ConfigError::Kind { .. })));
        assert!(sample(&format!("{yaml}parallelism: 4\n")).is_err(), "duplicate field");
    }
}
