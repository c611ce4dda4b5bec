//! What kubeconfig files say: where a webhook of the server's own flags is, and who the server is to others.
//!
//! Of the first, the current context counts; of the second, the user whose name is the host's. Credentials that a program
//! would have to be run for are refused. Contract: upstream's `util/webhook` authentication.

use std::path::{Path, PathBuf};

use base64::{Engine, prelude::BASE64_STANDARD};
use hyper_util::client::legacy::Client;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::Deserialize;

use super::*;

/// Why a kubeconfig is of no use.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// A file cannot be read.
    #[error("reading {0}")]
    Read(PathBuf, #[source] std::io::Error),
    /// It is no kubeconfig.
    #[error("{0} does not decode")]
    Decode(PathBuf, #[source] Box<serde_saphyr::Error>),
    /// It decodes, but does not say where or how.
    #[error("{0}: {1}")]
    Unusable(PathBuf, String),
}

/// A service named by a kubeconfig.
pub struct Remote {
    known: Known,
    headers: Headers,
    user_agent: String,
}

/// Users of a kubeconfig, named for the hosts they are shown to: `host:port`, `*.domain:port`, `*`.
pub struct Credentials {
    config: Kubeconfig,
    path: PathBuf,
}

/// The certificate and key a client shows.
pub(super) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// What requests of a user carry.
#[derive(Clone, Default)]
pub(super) struct Headers {
    pub(super) fixed: Vec<(header::HeaderName, HeaderValue)>,
    /// Read again for every request, as tokens are replaced.
    token_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Kubeconfig {
    clusters: Vec<Named>,
    users: Vec<Named>,
    contexts: Vec<Named>,
    current_context: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
    cluster: Cluster,
    user: UserEntry,
    context: Context,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: String,
    certificate_authority_data: String,
    insecure_skip_tls_verify: bool,
    tls_server_name: String,
    proxy_url: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct UserEntry {
    client_certificate: String,
    client_certificate_data: String,
    client_key: String,
    client_key_data: String,
    token: String,
    #[serde(rename = "tokenFile")]
    token_file: String,
    username: String,
    password: String,
    #[serde(rename = "as")]
    impersonate: String,
    as_uid: String,
    as_groups: Vec<String>,
    exec: Option<Value>,
    auth_provider: Option<Value>,
}

// === impl Remote ===

impl Remote {
    /// Reads the file. `caller` is the end of the user agent, for example `audit`; `route` leads to the service.
    ///
    /// # Errors
    /// When the file is of no use.
    pub fn load(path: &Path, caller: &str, route: &Route) -> Result<Self, KubeconfigError> {
        let unusable = |why: &str| KubeconfigError::Unusable(path.to_owned(), why.to_owned());
        let config = Kubeconfig::read(path)?;
        let context = config.current().ok_or_else(|| unusable("the current context is not there"))?;
        let cluster = named(&config.clusters, &context.cluster)
            .map(|one| &one.cluster)
            .ok_or_else(|| unusable("the cluster of the current context is not there"))?;
        let nobody = UserEntry::default();
        let user = match named(&config.users, &context.user) {
            Some(one) => &one.user,
            None if context.user.is_empty() => &nobody,
            None => return Err(unusable("the user of the current context is not there")),
        };
        if !cluster.proxy_url.is_empty() {
            return Err(unusable("a proxy is not supported here"));
        }
        Ok(Self {
            headers: user.headers(path)?,
            known: connection(path, cluster, user.identity(path)?, route)?,
            user_agent: component_base::version::user_agent(&format!("kube-apiserver-{caller}")),
        })
    }

    /// Posts JSON and reads the JSON of the answer.
    ///
    /// # Errors
    /// When there is no answer in time, or none that is JSON and says success.
    pub async fn ask(&self, body: &Value, timeout: Duration) -> Result<Value, CallError> {
        let (code, answer) =
            exchange(&self.known, &self.known.url, &self.user_agent, self.headers.now().await, body, timeout)
                .await?;
        read(code, &answer)
    }

    /// Posts JSON; what is answered does not matter as long as it says success.
    ///
    /// # Errors
    /// When there is no answer in time, or none that says success.
    pub async fn send(&self, body: &Value, timeout: Duration) -> Result<(), CallError> {
        let (code, answer) =
            exchange(&self.known, &self.known.url, &self.user_agent, self.headers.now().await, body, timeout)
                .await?;
        if (200..=206).contains(&code) { Ok(()) } else { Err(failure::of_code(code, &answer)) }
    }
}

// === impl Credentials ===

impl Credentials {
    /// Reads the file; that every user in it is of use is seen to at once.
    ///
    /// # Errors
    /// When the file is of no use.
    pub fn load(path: &Path) -> Result<Self, KubeconfigError> {
        let config = Kubeconfig::read(path)?;
        for one in &config.users {
            one.user.headers(path)?;
            one.user.identity(path)?;
        }
        Ok(Self { config, path: path.to_owned() })
    }

    /// What is shown to a host: its own user's, its domain's, that of all hosts, or the current context's.
    pub(super) fn of(&self, host: &str, port: u16) -> Result<(Headers, Option<Identity>), KubeconfigError> {
        let user = self.user(host, port);
        user.map_or_else(
            || Ok(Default::default()),
            |user| Ok((user.headers(&self.path)?, user.identity(&self.path)?)),
        )
    }

    fn user(&self, host: &str, port: u16) -> Option<&UserEntry> {
        let of = |name: &str| named(&self.config.users, name).map(|one| &one.user);
        let or_its_domain = |target: &str| {
            let mut rests = target.match_indices('.').map(|(at, _)| format!("*{}", &target[at..]));
            of(target).or_else(|| rests.find_map(|name| of(&name)))
        };
        or_its_domain(&format!("{host}:{port}"))
            .or_else(|| if port == 443 { or_its_domain(host) } else { None })
            .or_else(|| of("*"))
            .or_else(|| of(&self.config.current()?.user))
    }
}

// === impl Headers ===

impl Headers {
    /// As they are for a request now.
    pub(super) async fn now(&self) -> Vec<(header::HeaderName, HeaderValue)> {
        let mut headers = self.fixed.clone();
        if let Some(path) = &self.token_file
            && let Ok(token) = tokio::fs::read_to_string(path).await
            && let Ok(value) = HeaderValue::try_from(format!("Bearer {}", token.trim()))
        {
            headers.retain(|(name, _)| name != header::AUTHORIZATION);
            headers.push((header::AUTHORIZATION, value));
        }
        headers
    }
}

// === impl Kubeconfig ===

impl Kubeconfig {
    fn read(path: &Path) -> Result<Self, KubeconfigError> {
        let text = read_file(path)?;
        serde_saphyr::from_str(&String::from_utf8_lossy(&text))
            .map_err(|error| KubeconfigError::Decode(path.to_owned(), Box::new(error)))
    }

    fn current(&self) -> Option<&Context> {
        named(&self.contexts, &self.current_context).map(|one| &one.context)
    }
}

fn named<'a>(all: &'a [Named], name: &str) -> Option<&'a Named> {
    all.iter().find(|one| one.name == name)
}

// === impl UserEntry ===

impl UserEntry {
    fn headers(&self, path: &Path) -> Result<Headers, KubeconfigError> {
        let unusable = |why: String| KubeconfigError::Unusable(path.to_owned(), why);
        if self.exec.is_some() || self.auth_provider.is_some() {
            return Err(unusable("credentials of a program (exec) are not supported here".to_owned()));
        }
        let credentials = if !self.token.is_empty() {
            Some(format!("Bearer {}", self.token))
        } else if !self.username.is_empty() {
            let both = format!("{}:{}", self.username, self.password);
            Some(format!("Basic {}", BASE64_STANDARD.encode(both)))
        } else {
            None
        };
        let texts = credentials.map(|text| ("authorization", text)).into_iter();
        let texts = texts
            .chain([("impersonate-user", self.impersonate.clone()), ("impersonate-uid", self.as_uid.clone())])
            .chain(self.as_groups.iter().map(|group| ("impersonate-group", group.clone())));
        let mut fixed = Vec::new();
        for (name, text) in texts.filter(|(_, text)| !text.is_empty()) {
            let mut value = HeaderValue::try_from(text).map_err(|error| unusable(error.to_string()))?;
            value.set_sensitive(true);
            fixed.push((header::HeaderName::from_static(name), value));
        }
        let token_file = (!self.token_file.is_empty()).then(|| folder(path).join(&self.token_file));
        Ok(Headers { fixed, token_file })
    }

    fn identity(&self, path: &Path) -> Result<Option<Identity>, KubeconfigError> {
        let unusable = |why: String| KubeconfigError::Unusable(path.to_owned(), why);
        let certificate = content(path, &self.client_certificate_data, &self.client_certificate)?;
        let key = content(path, &self.client_key_data, &self.client_key)?;
        if certificate.is_empty() {
            return Ok(None);
        }
        let chain = CertificateDer::pem_slice_iter(&certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| unusable(format!("client certificate: {error}")))?;
        let key =
            PrivateKeyDer::from_pem_slice(&key).map_err(|error| unusable(format!("client key: {error}")))?;
        Ok(Some((chain, key)))
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or_else(|| Path::new(""))
}

fn read_file(path: &Path) -> Result<Vec<u8>, KubeconfigError> {
    std::fs::read(path).map_err(|error| KubeconfigError::Read(path.to_owned(), error))
}

/// What stands in a kubeconfig itself, or in a file it names.
fn content(path: &Path, data: &str, file: &str) -> Result<Vec<u8>, KubeconfigError> {
    match (data, file) {
        ("", "") => Ok(Vec::new()),
        ("", file) => read_file(&folder(path).join(file)),
        (data, _) => BASE64_STANDARD
            .decode(data)
            .map_err(|error| KubeconfigError::Unusable(path.to_owned(), error.to_string())),
    }
}

fn connection(
    path: &Path,
    cluster: &Cluster,
    identity: Option<Identity>,
    route: &Route,
) -> Result<Known, KubeconfigError> {
    let unusable = |why: String| KubeconfigError::Unusable(path.to_owned(), why);
    let bundle = content(path, &cluster.certificate_authority_data, &cluster.certificate_authority)?;
    let uri: Uri = cluster.server.parse().map_err(|error| unusable(format!("server: {error}")))?;
    if uri.scheme_str().is_none() || uri.authority().is_none() {
        return Err(unusable(format!("server {:?} is no URL", cluster.server)));
    }
    let tls = tls::config_with(&bundle, identity, cluster.insecure_skip_tls_verify).map_err(unusable)?;
    let mut builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    if !cluster.tls_server_name.is_empty() {
        let name = ServerName::try_from(cluster.tls_server_name.clone())
            .map_err(|error| unusable(format!("tls-server-name: {error}")))?;
        builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    let client = Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE)
        .pool_timer(hyper_util::rt::TokioTimer::new())
        .build(builder.enable_http1().wrap_connector(Connector::outside(route.clone())));
    Ok(Known { client, url: cluster.server.clone(), headers: Headers::default() })
}
