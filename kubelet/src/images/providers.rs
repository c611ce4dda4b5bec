//! Programs that know the credentials of registries: the kubelet asks them before it pulls an image that they are for.
//!
//! ```text
//! image -> providers whose patterns match -> program (request on its input, response on its output) -> credentials, kept
//!            `-> token and annotations of the pod's service account, for those that ask for them (`account`)
//! ```
//! Contract: KEP-2133 and KEP-4412; configuration `CredentialProviderConfig` of kubelet.config.k8s.io, in one file or in a
//! folder of them, exchange credentialprovider.kubelet.k8s.io. An image's name has neither tag nor digest.

pub mod account;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};

use self::account::{Account, Asker, TokenAttributes};
use super::{Credential, Origin, repository, verified::hex};
use crate::{metrics, options::file::GoDuration, runtime::cri};

/// How long a program may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much a program may say.
const MAX_ANSWER: u64 = 1 << 20;
const EXCHANGE: &str = "credentialprovider.kubelet.k8s.io/v1";
/// Versions of the exchange that a program may speak.
const EXCHANGES: [&str; 3] =
    [EXCHANGE, "credentialprovider.kubelet.k8s.io/v1beta1", "credentialprovider.kubelet.k8s.io/v1alpha1"];
/// Versions of the configuration.
const CONFIGURATIONS: [&str; 3] =
    ["kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v1beta1", "kubelet.config.k8s.io/v1alpha1"];

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
    #[serde(default)]
    token_attributes: Option<TokenAttributes>,
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
    #[serde(skip_serializing_if = "str::is_empty")]
    service_account_token: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    service_account_annotations: BTreeMap<String, String>,
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
}

type Known = (Instant, BTreeMap<String, Auth>);
/// For what credentials are kept: the provider, the image, its registry or all, and whose they are.
type Key = (String, String, String);

/// The providers of this node.
#[derive(Debug, Default)]
pub struct Providers {
    folder: PathBuf,
    list: Vec<Provider>,
    known: Mutex<HashMap<Key, Known>>,
}

impl Providers {
    /// Reads the configuration, a file or a folder of them; the programs are in `folder`. With `tokens`, programs may have
    /// those of service accounts.
    ///
    /// # Errors
    /// When a file is wrong, or a program is not there.
    pub fn load(path: &Path, folder: &Path, tokens: bool) -> Result<Self, ProviderError> {
        let wrong = |message| ProviderError::Configuration { path: path.to_owned(), message };
        let (mut list, mut sum): (Vec<Provider>, _) = (Vec::new(), Sha256::new());
        for file in files(path)? {
            let text = std::fs::read_to_string(&file)
                .map_err(|source| ProviderError::Read { path: file.clone(), source })?;
            // With its length before it, no two sets of files have the same sum.
            sum.update((text.len() as u64).to_be_bytes());
            sum.update(&text);
            list.extend(
                parse(&text, tokens)
                    .map_err(|message| ProviderError::Configuration { path: file.clone(), message })?,
            );
        }
        for (i, provider) in list.iter().enumerate() {
            let name = &provider.name;
            if list[..i].iter().any(|other| other.name == *name) {
                return Err(wrong(format!(
                    "duplicate provider name {name:?} found in configuration file(s)"
                )));
            }
            let program = folder.join(name);
            if !program.is_file() {
                return Err(wrong(format!("plugin binary executable {} did not exist", program.display())));
            }
        }
        let sum = format!("sha256:{}", hex(&sum.finalize()));
        metrics::get().credential_providers.with_label_values(&[&sum]).set(1);
        Ok(Self { folder: folder.to_owned(), list, known: Mutex::default() })
    }

    /// The credentials for an image that a pod needs, the most specific first. A provider that fails gives none.
    pub async fn credentials(&self, image: &str, asker: Asker<'_>) -> Vec<Credential> {
        let image = repository(image);
        let mut found: Vec<(String, Auth, Origin)> = Vec::new();
        for provider in self.list.iter().filter(|p| p.match_images.iter().any(|m| matches(m, &image))) {
            match self.of(provider, &image, asker).await {
                Ok((auth, origin)) => found.extend(
                    auth.into_iter()
                        .filter(|(pattern, _)| matches(pattern, &image))
                        .map(|(pattern, auth)| (pattern, auth, origin.clone())),
                ),
                Err(error) => {
                    tracing::error!(
                        image,
                        provider = provider.name,
                        pod = asker.display(),
                        error,
                        "no credentials"
                    );
                }
            }
        }
        // Longer patterns are more specific, and sort behind what they begin with.
        found.sort_by(|a, b| b.0.cmp(&a.0));
        let credential = |(_, auth, origin): (String, Auth, Origin)| Credential {
            auth: cri::AuthConfig {
                username: auth.username,
                password: auth.password,
                ..cri::AuthConfig::default()
            },
            origin,
        };
        found.into_iter().map(credential).collect()
    }

    async fn of(
        &self,
        provider: &Provider,
        image: &str,
        asker: Asker<'_>,
    ) -> Result<(BTreeMap<String, Auth>, Origin), String> {
        let account = match &provider.token_attributes {
            None => None,
            Some(attributes) => match attributes.of(asker).await? {
                // Not a pod for this provider.
                account::Found::NotWanted => return Ok((BTreeMap::new(), Origin::Node)),
                account::Found::None => None,
                account::Found::Account(account) => Some(account),
            },
        };
        let origin = account.as_ref().map_or(Origin::Node, |account| Origin::Account(account.whose.clone()));
        let kept_for = account.as_ref().map(|account| account.key.clone()).unwrap_or_default();
        let keys = [image, registry(image), "<global>"];
        {
            let mut known = self.known.lock();
            known.retain(|_, (until, _)| *until > Instant::now());
            let key = |text: &str| (provider.name.clone(), text.to_owned(), kept_for.clone());
            if let Some((_, auth)) = keys.iter().find_map(|text| known.get(&key(text))) {
                return Ok((auth.clone(), origin));
            }
        }
        let begun = Instant::now();
        let response = self.ask(provider, image, account.as_ref()).await;
        let labels = [provider.name.as_str()];
        let metrics = metrics::get();
        metrics.credential_duration.with_label_values(&labels).observe(begun.elapsed().as_secs_f64());
        let response =
            response.inspect_err(|_| metrics.credential_errors.with_label_values(&labels).inc())?;
        if let Some(account) = account.as_ref().filter(|account| account.is_shared)
            && response.auth.values().any(|auth| auth.password == account.token)
        {
            return Err(
                "credential provider plugin returned the service account token as the password which is not \
                        allowed when service account cache type is not set to 'Token'"
                    .to_owned(),
            );
        }
        let key = match response.cache_key_type.as_str() {
            "Registry" => keys[1],
            "Global" => keys[2],
            _ => keys[0],
        };
        let lasts = response.cache_duration.unwrap_or(provider.default_cache_duration).0;
        if !lasts.is_zero() {
            let entry = (Instant::now() + lasts, response.auth.clone());
            self.known.lock().insert((provider.name.clone(), key.to_owned(), kept_for), entry);
        }
        Ok((response.auth, origin))
    }

    async fn ask(
        &self,
        provider: &Provider,
        image: &str,
        account: Option<&Account>,
    ) -> Result<Response, String> {
        let request = Request {
            kind: "CredentialProviderRequest",
            api_version: &provider.api_version,
            image,
            service_account_token: account.map_or("", |account| &account.token),
            service_account_annotations: account
                .map(|account| account.annotations.clone())
                .unwrap_or_default(),
        };
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
        let answer = answer.map_err(|e| e.to_string())?;
        // What does not read is not told: it may hold credentials.
        let response: Response = serde_json::from_slice(&answer)
            .map_err(|_| "error decoding credential provider plugin response from stdout".to_owned())?;
        if response.kind != "CredentialProviderResponse" || response.api_version != provider.api_version {
            return Err(format!(
                "apiVersion from credential plugin response did not match expected apiVersion:{}, actual apiVersion:{}",
                provider.api_version, response.api_version
            ));
        }
        match response.cache_key_type.as_str() {
            "Image" | "Registry" | "Global" => Ok(response),
            other => Err(format!("cacheKeyType {other:?} is not known")),
        }
    }
}

/// The file itself, or those of the folder in the order of their names.
fn files(path: &Path) -> Result<Vec<PathBuf>, ProviderError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries =
        std::fs::read_dir(path).map_err(|source| ProviderError::Read { path: path.to_owned(), source })?;
    let is_one = |path: &PathBuf| {
        path.is_file() && path.extension().is_some_and(|e| e == "json" || e == "yaml" || e == "yml")
    };
    let mut all: Vec<PathBuf> =
        entries.filter_map(Result::ok).map(|entry| entry.path()).filter(is_one).collect();
    all.sort();
    if all.is_empty() {
        let message = "no configuration files found in directory".to_owned();
        return Err(ProviderError::Configuration { path: path.to_owned(), message });
    }
    Ok(all)
}

fn parse(text: &str, tokens: bool) -> Result<Vec<Provider>, String> {
    let file: Configuration = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    if file.kind != "CredentialProviderConfig" || !CONFIGURATIONS.contains(&file.api_version.as_str()) {
        return Err("want CredentialProviderConfig of kubelet.config.k8s.io/v1".to_owned());
    }
    if file.providers.is_empty() {
        return Err("providers: Required value: at least 1 item in plugins is required".to_owned());
    }
    for (i, provider) in file.providers.iter().enumerate() {
        let name = &provider.name;
        if name.is_empty() || name.contains(['/', ' ']) || name == "." || name == ".." {
            return Err(format!("providers[{i}].name: {name:?} is no name of a program in the folder"));
        }
        if provider.match_images.is_empty() {
            return Err(format!("providers[{i}].matchImages: at least one pattern is needed"));
        }
        if !EXCHANGES.contains(&provider.api_version.as_str()) {
            let all = EXCHANGES.join(", ");
            return Err(format!("providers[{i}].apiVersion: Unsupported value, supported values: {all}"));
        }
        let Some(attributes) = &provider.token_attributes else { continue };
        let wrong = if !tokens {
            Err("tokenAttributes is not supported when KubeletServiceAccountTokenForCredentialProviders feature gate is \
                 disabled"
                .to_owned())
        } else if provider.api_version != EXCHANGE {
            Err(format!("tokenAttributes is only supported for {EXCHANGE} API version"))
        } else {
            attributes.check()
        };
        wrong.map_err(|why| format!("providers[{i}].tokenAttributes: {why}"))?;
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
    use std::{os::unix::fs::PermissionsExt as _, sync::Arc};

    use k8s_openapi::api::core::v1::{Pod, ServiceAccount};

    use super::*;
    use crate::{
        api::{FetchError, ObjectSource, Standalone},
        images::verified::PullAccount,
        pod, testing,
    };

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
            parse(&format!("{head}- {provider}\n"), true).map(|list| list.len())
        };
        let fine = "{name: p, matchImages: [\"a.io\"], defaultCacheDuration: 1h, apiVersion: credentialprovider.kubelet.k8s.io/v1}";
        assert_eq!(with(fine), Ok(1));
        assert!(with(&fine.replace("name: p", "name: ../p")).unwrap_err().starts_with("providers[0].name"));
        assert!(with(&fine.replace("[\"a.io\"]", "[]")).unwrap_err().starts_with("providers[0].matchImages"));
        assert!(with(&fine.replace("io/v1", "io/v2")).is_err());
        assert_eq!(with(&fine.replace("io/v1", "io/v1beta1")), Ok(1));
        let tokens = "tokenAttributes: {serviceAccountTokenAudience: a, cacheType: Token, requireServiceAccount: true}";
        let asking = fine.replace("name: p", &format!("name: p, {tokens}"));
        assert_eq!(with(&asking), Ok(1));
        assert!(with(&asking.replace("io/v1", "io/v1beta1")).unwrap_err().contains("only supported for"));
        assert!(with(&asking.replace("cacheType: Token", "cacheType: Pod")).is_err());
        assert!(with(&fine.replace("name: p", "name: p, tokenAttributes: {}")).is_err());
        let head = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n";
        assert!(
            parse(&format!("{head}- {asking}\n"), false).unwrap_err().contains("feature gate is disabled")
        );
    }

    /// A folder with a program that answers for `*.example.io` with its first argument as password, or with what a field of
    /// the request says where that is the token's; it keeps its requests in the book.
    struct Shop(tempfile::TempDir);

    impl Shop {
        fn new(more: &str) -> (Self, Providers) {
            let shop = Self(tempfile::tempdir().unwrap());
            let program = shop.0.path().join("provider");
            let script = "#!/bin/sh\nread -r asked\necho \"$asked\" >> \"$BOOK\"\n\
                word=$1\n[ \"$1\" = echo ] && word=${asked#*serviceAccountToken\\\":\\\"} && word=${word%%\\\"*}\n\
                printf '{\"kind\":\"CredentialProviderResponse\",\
                \"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1\",\"cacheKeyType\":\"Registry\",\
                \"auth\":{\"*.example.io\":{\"username\":\"u\",\"password\":\"%s\"},\"else.io\":{\"username\":\"x\"}}}' \"$word\"\n";
            std::fs::write(&program, script).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
            let config = format!(
                "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: provider\n  \
                 matchImages: [\"*.example.io\"]\n  defaultCacheDuration: 1h\n  \
                 apiVersion: credentialprovider.kubelet.k8s.io/v1\n  \
                 env: [{{name: BOOK, value: \"{}\"}}]\n{more}",
                shop.0.path().join("book").display()
            );
            std::fs::write(shop.config(), config).unwrap();
            let providers = Providers::load(&shop.config(), shop.0.path(), true).unwrap();
            (shop, providers)
        }

        fn config(&self) -> PathBuf {
            self.0.path().join("config.yaml")
        }

        /// The requests so far.
        fn book(&self) -> Vec<serde_json::Value> {
            let text = std::fs::read_to_string(self.0.path().join("book")).unwrap_or_default();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        }
    }

    #[tokio::test]
    async fn a_program_is_asked_once_while_its_answer_holds() {
        let (shop, providers) = Shop::new("  args: [secret]\n");
        let pod = testing::pod("a").build();
        let asker = Asker { pod: &pod, objects: &Standalone };
        let found = providers.credentials("reg.example.io/a:1", asker).await;
        assert_eq!((found.len(), &found[0].origin), (1, &Origin::Node));
        assert_eq!((found[0].auth.username.as_str(), found[0].auth.password.as_str()), ("u", "secret"));
        assert_eq!(providers.credentials("reg.example.io/b:1", asker).await.len(), 1);
        assert!(providers.credentials("docker.io/a", asker).await.is_empty());
        let asked = shop.book();
        assert_eq!(asked.len(), 1, "the answer was for the whole registry: {asked:?}");
        assert_eq!(asked[0]["image"], "reg.example.io/a", "without its tag");
        assert_eq!(asked[0].get("serviceAccountToken"), None);
        assert!(Providers::load(&shop.config(), Path::new("/nowhere"), true).is_err());
    }

    #[tokio::test]
    async fn folders_of_configurations_are_one() {
        let (shop, _) = Shop::new("");
        let folder = shop.0.path().join("all");
        std::fs::create_dir(&folder).unwrap();
        assert!(Providers::load(&folder, shop.0.path(), true).is_err(), "there is none");
        std::fs::copy(shop.config(), folder.join("a.yaml")).unwrap();
        std::fs::write(folder.join("b.txt"), "nothing").unwrap();
        assert_eq!(Providers::load(&folder, shop.0.path(), true).unwrap().list.len(), 1);
        std::fs::copy(shop.config(), folder.join("c.yml")).unwrap();
        let twice = Providers::load(&folder, shop.0.path(), true).unwrap_err().to_string();
        assert!(twice.contains("duplicate provider name \"provider\""), "{twice}");
    }

    /// A cluster with one service account, whose tokens say for which pod they are.
    struct Accounts;

    #[async_trait::async_trait]
    impl ObjectSource for Accounts {
        async fn service_account(
            &self,
            namespace: &str,
            name: &str,
        ) -> Result<Option<Arc<ServiceAccount>>, FetchError> {
            let mut account = ServiceAccount::default();
            account.metadata.name = Some(name.to_owned());
            account.metadata.namespace = Some(namespace.to_owned());
            account.metadata.uid = Some(format!("uid-of-{name}"));
            account.metadata.annotations =
                Some(BTreeMap::from([("example.io/role".into(), "puller".into())]));
            Ok(Some(Arc::new(account)))
        }
        async fn token(&self, pod: &Pod, audience: Option<&str>, _: i64) -> Result<String, FetchError> {
            Ok(format!("token-of-{}-for-{}", pod::uid(pod), audience.unwrap_or_default()))
        }
    }

    fn asking(cache: &str, more: &str) -> String {
        format!(
            "  tokenAttributes:\n    serviceAccountTokenAudience: reg\n    cacheType: {cache}\n    \
             requireServiceAccount: true\n{more}"
        )
    }

    fn pods() -> [Pod; 3] {
        let with = |name: &str, account: &str| {
            testing::pod(name)
                .with(|p| p.spec.get_or_insert_default().service_account_name = Some(account.to_owned()))
                .build()
        };
        [with("a", "app"), with("b", "app"), with("c", "other")]
    }

    #[tokio::test]
    async fn credentials_are_kept_for_each_account_or_each_token() {
        for (cache, expected) in [("ServiceAccount", 2), ("Token", 3)] {
            let (shop, providers) = Shop::new(&format!("  args: [secret]\n{}", asking(cache, "")));
            for pod in pods() {
                let asker = Asker { pod: &pod, objects: &Accounts };
                for image in ["reg.example.io/a:1", "reg.example.io/a:1"] {
                    let found = providers.credentials(image, asker).await;
                    let account = pod::spec(&pod).service_account_name.clone().unwrap();
                    let whose = PullAccount {
                        namespace: "ns".into(),
                        uid: format!("uid-of-{account}"),
                        name: account,
                    };
                    assert_eq!(found[0].origin, Origin::Account(whose));
                }
            }
            let asked = shop.book();
            assert_eq!(asked.len(), expected, "{cache}");
            assert_eq!(asked[0]["serviceAccountToken"], "token-of-uid-a-for-reg");
            assert_eq!(asked[0].get("serviceAccountAnnotations"), None);
        }
    }

    #[tokio::test]
    async fn annotations_go_along_and_pods_without_those_that_are_required_are_left_alone() {
        let keys = "    requiredServiceAccountAnnotationKeys: [example.io/role]\n    \
                    optionalServiceAccountAnnotationKeys: [example.io/none]\n";
        let (shop, providers) = Shop::new(&format!("  args: [secret]\n{}", asking("Token", keys)));
        let [pod, ..] = pods();
        let asker = Asker { pod: &pod, objects: &Accounts };
        assert_eq!(providers.credentials("reg.example.io/a", asker).await.len(), 1);
        assert_eq!(
            shop.book()[0]["serviceAccountAnnotations"],
            serde_json::json!({"example.io/role": "puller"})
        );
        let keys = "    requiredServiceAccountAnnotationKeys: [example.io/none]\n";
        let (shop, providers) = Shop::new(&format!("  args: [secret]\n{}", asking("Token", keys)));
        assert!(providers.credentials("reg.example.io/a", asker).await.is_empty());
        let without = testing::pod("w").build();
        let asker = Asker { pod: &without, objects: &Accounts };
        assert!(providers.credentials("reg.example.io/a", asker).await.is_empty(), "it has no account");
        assert!(shop.book().is_empty());
    }

    #[tokio::test]
    async fn a_token_is_a_password_only_where_credentials_are_kept_by_token() {
        let [pod, ..] = pods();
        let asker = Asker { pod: &pod, objects: &Accounts };
        let (_shop, providers) = Shop::new(&format!("  args: [echo]\n{}", asking("Token", "")));
        let found = providers.credentials("reg.example.io/a", asker).await;
        assert_eq!(found[0].auth.password, "token-of-uid-a-for-reg");
        let (_shop, providers) = Shop::new(&format!("  args: [echo]\n{}", asking("ServiceAccount", "")));
        assert!(providers.credentials("reg.example.io/a", asker).await.is_empty());
    }
}
