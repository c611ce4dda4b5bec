//! Programs that know the credentials of registries: the kubelet asks them before it pulls an image that they are for.
//!
//! ```text
//! image -> providers whose patterns match -> program (request on its input, response on its output) -> credentials, kept
//! ```
//! Contract: KEP-2133; configuration `CredentialProviderConfig` of kubelet.config.k8s.io/v1, exchange
//! credentialprovider.kubelet.k8s.io/v1. Tokens of service accounts for providers (`tokenAttributes`) are not supported.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};

use crate::{options::file::GoDuration, runtime::cri};

/// How long a program may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much a program may say.
const MAX_ANSWER: u64 = 1 << 20;
const EXCHANGE: &str = "credentialprovider.kubelet.k8s.io/v1";

/// The configuration file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Configuration {
    api_version: String,
    kind: String,
    providers: Vec<Provider>,
}

/// One program and what it is for.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Provider {
    name: String,
    match_images: Vec<String>,
    default_cache_duration: GoDuration,
    api_version: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Variable {
    name: String,
    #[serde(default)]
    value: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    kind: &'a str,
    api_version: &'a str,
    image: &'a str,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    kind: String,
    api_version: String,
    cache_key_type: String,
    #[serde(default)]
    cache_duration: Option<GoDuration>,
    #[serde(default)]
    auth: BTreeMap<String, Auth>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Auth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

/// Providers that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is wrong.
    #[error("{path}: {message}")]
    Configuration {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A program could not be run or does not answer.
    #[error("credential provider {name}: {message}")]
    Run {
        /// The program.
        name: String,
        /// Why.
        message: String,
    },
}

type Known = (Instant, BTreeMap<String, Auth>);

/// The providers of this node.
#[derive(Debug, Default)]
pub struct Providers {
    folder: PathBuf,
    list: Vec<Provider>,
    known: Mutex<HashMap<(String, String), Known>>,
}

impl Providers {
    /// Reads the configuration; the programs are in `folder`.
    ///
    /// # Errors
    /// When the file is wrong, or a program is not there.
    pub fn load(path: &Path, folder: &Path) -> Result<Self, ProviderError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ProviderError::Read { path: path.to_owned(), source })?;
        let list = parse(&text)
            .and_then(|list| {
                let absent = list.iter().find(|p| !folder.join(&p.name).is_file());
                match absent {
                    Some(p) => Err(format!(
                        "plugin binary executable {} did not exist",
                        folder.join(&p.name).display()
                    )),
                    None => Ok(list),
                }
            })
            .map_err(|message| ProviderError::Configuration { path: path.to_owned(), message })?;
        Ok(Self { folder: folder.to_owned(), list, known: Mutex::default() })
    }

    /// The credentials for an image, the most specific first. A provider that fails gives none.
    pub async fn credentials(&self, image: &str) -> Vec<cri::AuthConfig> {
        let mut found: Vec<(String, Auth)> = Vec::new();
        for provider in self.list.iter().filter(|p| p.match_images.iter().any(|m| matches(m, image))) {
            match self.of(provider, image).await {
                Ok(auth) => found.extend(auth.into_iter().filter(|(pattern, _)| matches(pattern, image))),
                Err(error) => tracing::error!(image, %error, "no credentials"),
            }
        }
        // Longer patterns are more specific, and sort behind what they begin with.
        found.sort_by(|a, b| b.0.cmp(&a.0));
        let config = |(_, auth): (String, Auth)| cri::AuthConfig {
            username: auth.username,
            password: auth.password,
            ..cri::AuthConfig::default()
        };
        found.into_iter().map(config).collect()
    }

    async fn of(&self, provider: &Provider, image: &str) -> Result<BTreeMap<String, Auth>, ProviderError> {
        let keys = [image, registry(image), "<global>"];
        {
            let mut known = self.known.lock();
            known.retain(|_, (until, _)| *until > Instant::now());
            let key = |text: &str| (provider.name.clone(), text.to_owned());
            if let Some((_, auth)) = keys.iter().find_map(|text| known.get(&key(text))) {
                return Ok(auth.clone());
            }
        }
        let response = self.ask(provider, image).await.map_err(|message| {
            let name = provider.name.clone();
            ProviderError::Run { name, message }
        })?;
        let key = match response.cache_key_type.as_str() {
            "Registry" => keys[1],
            "Global" => keys[2],
            _ => keys[0],
        };
        let lasts = response.cache_duration.unwrap_or(provider.default_cache_duration).0;
        if !lasts.is_zero() {
            let entry = (Instant::now() + lasts, response.auth.clone());
            self.known.lock().insert((provider.name.clone(), key.to_owned()), entry);
        }
        Ok(response.auth)
    }

    async fn ask(&self, provider: &Provider, image: &str) -> Result<Response, String> {
        let request = Request { kind: "CredentialProviderRequest", api_version: EXCHANGE, image };
        let request = serde_json::to_vec(&request).map_err(|e| e.to_string())?;
        let mut child = Command::new(self.folder.join(&provider.name))
            .args(&provider.args)
            .envs(provider.env.iter().map(|v| (&v.name, &v.value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| e.to_string())?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let talk = async move {
            let (Some(mut input), Some(output)) = (input, output) else {
                return Err(io::Error::from(io::ErrorKind::BrokenPipe));
            };
            // A program that does not read its request may still know its answer.
            if let Err(error) = input.write_all(&request).await {
                tracing::debug!(%error, "the credential provider does not read");
            }
            drop(input);
            let mut answer = Vec::new();
            output.take(MAX_ANSWER).read_to_end(&mut answer).await?;
            let status = child.wait().await?;
            if status.success() { Ok(answer) } else { Err(io::Error::other(status.to_string())) }
        };
        let answer = tokio::time::timeout(PATIENCE, talk).await.map_err(|_| "it took too long".to_owned())?;
        let response: Response =
            serde_json::from_slice(&answer.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
        if response.kind != "CredentialProviderResponse" || response.api_version != EXCHANGE {
            return Err(format!("{} of {} is no answer", response.kind, response.api_version));
        }
        match response.cache_key_type.as_str() {
            "Image" | "Registry" | "Global" => Ok(response),
            other => Err(format!("cacheKeyType {other:?} is not known")),
        }
    }
}

fn parse(text: &str) -> Result<Vec<Provider>, String> {
    let file: Configuration = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    if file.kind != "CredentialProviderConfig" || file.api_version != "kubelet.config.k8s.io/v1" {
        return Err("want CredentialProviderConfig of kubelet.config.k8s.io/v1".to_owned());
    }
    for (i, provider) in file.providers.iter().enumerate() {
        let name = &provider.name;
        if name.is_empty() || name.contains(['/', ' ']) || name == "." || name == ".." {
            return Err(format!("providers[{i}].name: {name:?} is no name of a program in the folder"));
        }
        if file.providers[..i].iter().any(|other| other.name == *name) {
            return Err(format!("providers[{i}].name: {name:?} is there twice"));
        }
        if provider.match_images.is_empty() {
            return Err(format!("providers[{i}].matchImages: at least one pattern is needed"));
        }
        if provider.api_version != EXCHANGE {
            return Err(format!("providers[{i}].apiVersion: only {EXCHANGE} is supported"));
        }
    }
    Ok(file.providers)
}

/// The host of an image's registry, with its port.
fn registry(image: &str) -> &str {
    image.split('/').next().unwrap_or(image)
}

/// Whether a pattern is for an image: hosts have as many parts, `*` stands for anything within one, ports are the same, and
/// the image's path begins with the pattern's.
fn matches(pattern: &str, image: &str) -> bool {
    let plain = |text: &str| text.trim_start_matches("https://").trim_start_matches("http://").to_owned();
    let (pattern, image) = (plain(pattern), plain(image));
    let split = |text: &str| -> (String, String, String) {
        let (host, path) = text.split_once('/').unwrap_or((text, ""));
        let (host, port) = host.split_once(':').unwrap_or((host, ""));
        (host.to_owned(), port.to_owned(), path.to_owned())
    };
    let ((host, port, path), (wanted, its_port, its_path)) = (split(&pattern), split(&image));
    let parts: Vec<&str> = host.split('.').collect();
    let its_parts: Vec<&str> = wanted.split('.').collect();
    port == its_port
        && its_path.starts_with(&path)
        && parts.len() == its_parts.len()
        && parts.iter().zip(&its_parts).all(|(pattern, part)| glob(pattern, part))
}

fn glob(pattern: &str, text: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == text };
    let Some(rest) = text.strip_prefix(before) else { return false };
    (0..=rest.len()).any(|at| rest.is_char_boundary(at) && glob(after, &rest[at..]))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn patterns_match_part_by_part() {
        for (pattern, image, fits) in [
            ("*.dkr.ecr.*.amazonaws.com", "1.dkr.ecr.eu-west-1.amazonaws.com/a:1", true),
            ("*.dkr.ecr.*.amazonaws.com", "1.dkr.ecr.amazonaws.com/a:1", false),
            ("reg*.io", "registry.io/a", true),
            ("*.io", "a.b.io/x", false),
            ("registry.io:8080/path", "registry.io:8080/path/a:1", true),
            ("registry.io:8080/path", "registry.io/path/a:1", false),
            ("registry.io/path", "registry.io/other", false),
            ("https://registry.io", "registry.io/a", true),
        ] {
            assert_eq!(matches(pattern, image), fits, "{pattern} {image}");
        }
    }

    #[test]
    fn mistakes_in_the_configuration_are_named() {
        let with = |provider: &str| {
            let head = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n";
            parse(&format!("{head}- {provider}\n")).map(|list| list.len())
        };
        let fine = "{name: p, matchImages: [\"a.io\"], defaultCacheDuration: 1h, apiVersion: credentialprovider.kubelet.k8s.io/v1}";
        assert_eq!(with(fine), Ok(1));
        assert!(with(&fine.replace("name: p", "name: ../p")).unwrap_err().starts_with("providers[0].name"));
        assert!(with(&fine.replace("[\"a.io\"]", "[]")).unwrap_err().starts_with("providers[0].matchImages"));
        assert!(with(&fine.replace("io/v1", "io/v1alpha1")).is_err());
        assert!(with(&format!("{fine}\n- {fine}")).unwrap_err().contains("twice"));
        assert!(with(&fine.replace("name: p", "name: p, tokenAttributes: {}")).is_err());
    }

    #[tokio::test]
    async fn a_program_is_asked_once_while_its_answer_holds() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("provider");
        let script = "#!/bin/sh\ncat >> \"$BOOK\"\nprintf '{\"kind\":\"CredentialProviderResponse\",\
            \"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1\",\"cacheKeyType\":\"Registry\",\
            \"auth\":{\"*.example.io\":{\"username\":\"u\",\"password\":\"%s\"},\"else.io\":{\"username\":\"x\"}}}' \"$1\"\n";
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let book = dir.path().join("book");
        let config = format!(
            "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: provider\n  \
             matchImages: [\"*.example.io\"]\n  defaultCacheDuration: 1h\n  \
             apiVersion: credentialprovider.kubelet.k8s.io/v1\n  args: [secret]\n  \
             env: [{{name: BOOK, value: \"{}\"}}]\n",
            book.display()
        );
        let path = dir.path().join("config.yaml");
        std::fs::write(&path, config).unwrap();
        let providers = Providers::load(&path, dir.path()).unwrap();
        let found = providers.credentials("reg.example.io/a:1").await;
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].username.as_str(), found[0].password.as_str()), ("u", "secret"));
        assert_eq!(providers.credentials("reg.example.io/b:1").await.len(), 1);
        assert!(providers.credentials("docker.io/a").await.is_empty());
        let asked = std::fs::read_to_string(&book).unwrap();
        assert_eq!(asked.matches("reg.example.io/a:1").count(), 1, "{asked}");
        assert!(!asked.contains("/b:1"), "the answer was for the whole registry: {asked}");
        assert!(Providers::load(&path, Path::new("/nowhere")).is_err());
    }
}
