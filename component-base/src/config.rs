//! Strict decoding of component configuration files: YAML or JSON, with the expected apiVersion and kind, unknown and
//! duplicate fields refused with their place.

use std::path::{Path, PathBuf};

use serde::{Deserialize, de::DeserializeOwned};

/// Why a configuration file is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read configuration file {path:?}")]
    Read { path: PathBuf, source: std::io::Error },
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
        assert!(matches!(sample("apiVersion: v1\nkind: Pod\n"), Err(ConfigError::Kind { .. })));
        assert!(sample(&format!("{yaml}parallelism: 4\n")).is_err(), "duplicate field");
    }
}
