//! AdmissionConfiguration: what `--admission-control-config-file` says of each plugin.
//!
//! Contract: apiserver.config.k8s.io/v1; the configuration of a plugin stands in the file or in one that it names.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use component_base::config::{self, ConfigError};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

const VERSIONS: &[&str] = &["apiserver.config.k8s.io/v1", "apiserver.k8s.io/v1alpha1"];
const KIND: &str = "AdmissionConfiguration";

/// Why the file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It, or one it names, cannot be read.
    #[error("unable to read admission control configuration from {0:?}")]
    Read(PathBuf, #[source] std::io::Error),
    /// It does not decode.
    #[error("admission control configuration")]
    Decode(#[from] ConfigError),
}

/// The configurations of plugins, by their names.
#[derive(Clone, Debug, Default)]
pub struct Configurations(HashMap<String, Configuration>);

/// The configuration of one plugin.
#[derive(Clone, Debug)]
pub struct Configuration {
    text: String,
    /// Where it stands: what it names is found from there.
    path: PathBuf,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    plugins: Vec<PluginFile>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PluginFile {
    name: String,
    path: PathBuf,
    configuration: Option<Value>,
}

impl Configurations {
    /// Reads the file and those it names.
    ///
    /// # Errors
    /// When one of them cannot be read, or the file does not decode.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|error| LoadError::Read(path.to_owned(), error))
        };
        let file: File = parse(&read(path)?, &path.display().to_string(), VERSIONS, KIND)?;
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        let mut all = HashMap::new();
        for plugin in file.plugins {
            let configuration = match plugin.configuration {
                Some(inline) => Configuration { text: inline.to_string(), path: path.to_owned() },
                None if plugin.path.as_os_str().is_empty() => continue,
                None => {
                    let path = folder.join(plugin.path);
                    Configuration { text: read(&path)?, path }
                }
            };
            // The first one named counts.
            all.entry(plugin.name).or_insert(configuration);
        }
        Ok(Self(all))
    }

    /// That of a plugin.
    pub(super) fn of(&self, plugin: &str) -> Option<&Configuration> {
        self.0.get(plugin)
    }

    #[cfg(test)]
    pub(super) fn with(plugin: &str, text: &str) -> Self {
        let configuration = Configuration { text: text.to_owned(), path: PathBuf::from("test") };
        Self(HashMap::from([(plugin.to_owned(), configuration)]))
    }
}

impl Configuration {
    /// Decodes a configuration of one of some apiVersions.
    ///
    /// # Errors
    /// When it is of none of them, or has what `T` does not know.
    pub(super) fn decode<T: DeserializeOwned>(
        &self,
        versions: &[&str],
        kind: &str,
    ) -> Result<T, ConfigError> {
        parse(&self.text, &self.path.display().to_string(), versions, kind)
    }

    /// Decodes a configuration of the days before they had versions.
    ///
    /// # Errors
    /// When it does not decode.
    pub(super) fn decode_bare<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        serde_saphyr::from_str(&self.text).map_err(|error| ConfigError::Decode {
            origin: self.path.display().to_string(),
            message: error.to_string(),
        })
    }

    /// A file that the configuration names.
    pub(super) fn beside(&self, path: &str) -> PathBuf {
        self.path.parent().unwrap_or_else(|| Path::new("")).join(path)
    }
}

/// Decodes a document of one of some apiVersions; what the last of them says of a document of none.
fn parse<T: DeserializeOwned>(
    text: &str,
    origin: &str,
    versions: &[&str],
    kind: &str,
) -> Result<T, ConfigError> {
    let (last, others) = versions.split_last().unwrap_or((&"", &[]));
    for version in others {
        match config::parse_content(text, origin, version, kind) {
            Err(ConfigError::Kind { .. }) => {}
            decided => return decided,
        }
    }
    config::parse_content(text, origin, last, kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_stand_in_the_file_or_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admission.yaml");
        std::fs::write(dir.path().join("b.yaml"), "x: 2").unwrap();
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\n";
        let write = |plugins: &str| std::fs::write(&path, format!("{head}plugins: {plugins}\n")).unwrap();
        write("[{name: A, configuration: {x: 1}}, {name: B, path: b.yaml}, {name: C}]");
        let all = Configurations::load(&path).unwrap();
        let x = |name: &str| all.of(name).map(|one| one.decode_bare::<Value>().unwrap()["x"].clone());
        assert_eq!((x("A"), x("B"), x("C")), (Some(1.into()), Some(2.into()), None));
        assert_eq!(all.of("B").unwrap().beside("key"), dir.path().join("key"));
        for bad in ["[{name: B, path: none.yaml}]", "[{nam: B}]"] {
            write(bad);
            assert!(Configurations::load(&path).is_err(), "{bad}");
        }
    }
}
