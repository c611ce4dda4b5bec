//! A webhook that a kubeconfig file names: where the server's own flags point, outside the cluster.
//!
//! Of the file, the current context counts. Credentials that a program would have to be run for are refused.

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
    headers: Vec<(header::HeaderName, HeaderValue)>,
    /// Read again for every request, as tokens are replaced.
    token_file: Option<PathBuf>,
    user_agent: String,
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
    exec: Option<Value>,
}

impl Remote {
    /// Reads the file. `caller` is the end of the user agent, for example `audit`.
    ///
    /// # Errors
    /// When the file is of no use.
    pub fn load(path: &Path, caller: &str) -> Result<Self, KubeconfigError> {
        let unusable = |why: &str| KubeconfigError::Unusable(path.to_owned(), why.to_owned());
        let text = read_file(path)?;
        let text = String::from_utf8_lossy(&text);
        let config: Kubeconfig = serde_saphyr::from_str(&text)
            .map_err(|error| KubeconfigError::Decode(path.to_owned(), Box::new(error)))?;
        let named = |all: &[Named], name: &str| all.iter().position(|one| one.name == name);
        let context = named(&config.contexts, &config.current_context)
            .map(|at| &config.contexts[at].context)
            .ok_or_else(|| unusable("the current context is not there"))?;
        let cluster = named(&config.clusters, &context.cluster)
            .map(|at| &config.clusters[at].cluster)
            .ok_or_else(|| unusable("the cluster of the current context is not there"))?;
        let nobody = UserEntry::default();
        let user = match named(&config.users, &context.user) {
            Some(at) => &config.users[at].user,
            None if context.user.is_empty() => &nobody,
            None => return Err(unusable("the user of the current context is not there")),
        };
        if user.exec.is_some() {
            return Err(unusable("credentials of a program (exec) are not supported here"));
        }
        if !cluster.proxy_url.is_empty() {
            return Err(unusable("a proxy is not supported here"));
        }
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        let known = connection(path, folder, cluster, user)?;
        let mut headers = Vec::new();
        let credentials = if !user.token.is_empty() {
            Some(format!("Bearer {}", user.token))
        } else if !user.username.is_empty() {
            let both = format!("{}:{}", user.username, user.password);
            Some(format!("Basic {}", BASE64_STANDARD.encode(both)))
        } else {
            None
        };
        if let Some(credentials) = credentials {
            let mut value = HeaderValue::try_from(credentials).map_err(|e| unusable(&e.to_string()))?;
            value.set_sensitive(true);
            headers.push((header::AUTHORIZATION, value));
        }
        Ok(Self {
            known,
            headers,
            token_file: (!user.token_file.is_empty()).then(|| folder.join(&user.token_file)),
            user_agent: component_base::version::user_agent(&format!("kube-apiserver-{caller}")),
        })
    }

    async fn headers(&self) -> Vec<(header::HeaderName, HeaderValue)> {
        let mut headers = self.headers.clone();
        if let Some(path) = &self.token_file
            && let Ok(token) = tokio::fs::read_to_string(path).await
            && let Ok(value) = HeaderValue::try_from(format!("Bearer {}", token.trim()))
        {
            headers.retain(|(name, _)| name != header::AUTHORIZATION);
            headers.push((header::AUTHORIZATION, value));
        }
        headers
    }

    /// Posts JSON and reads the JSON of the answer.
    ///
    /// # Errors
    /// When there is no answer in time, or none that is JSON and says success.
    pub async fn ask(&self, body: &Value, timeout: Duration) -> Result<Value, CallError> {
        let (code, answer) =
            exchange(&self.known, &self.known.url, &self.user_agent, self.headers().await, body, timeout)
                .await?;
        read(code, &answer)
    }

    /// Posts JSON; what is answered does not matter as long as it says success.
    ///
    /// # Errors
    /// When there is no answer in time, or none that says success.
    pub async fn send(&self, body: &Value, timeout: Duration) -> Result<(), CallError> {
        let (code, answer) =
            exchange(&self.known, &self.known.url, &self.user_agent, self.headers().await, body, timeout)
                .await?;
        if (200..=206).contains(&code) { Ok(()) } else { Err(failure::of_code(code, &answer)) }
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, KubeconfigError> {
    std::fs::read(path).map_err(|error| KubeconfigError::Read(path.to_owned(), error))
}

fn connection(
    path: &Path,
    folder: &Path,
    cluster: &Cluster,
    user: &UserEntry,
) -> Result<Known, KubeconfigError> {
    let unusable = |why: String| KubeconfigError::Unusable(path.to_owned(), why);
    let content = |data: &str, file: &str| -> Result<Vec<u8>, KubeconfigError> {
        match (data, file) {
            ("", "") => Ok(Vec::new()),
            ("", file) => read_file(&folder.join(file)),
            (data, _) => BASE64_STANDARD.decode(data).map_err(|error| unusable(error.to_string())),
        }
    };
    let bundle = content(&cluster.certificate_authority_data, &cluster.certificate_authority)?;
    let certificate = content(&user.client_certificate_data, &user.client_certificate)?;
    let key = content(&user.client_key_data, &user.client_key)?;
    let identity = if certificate.is_empty() {
        None
    } else {
        let chain = CertificateDer::pem_slice_iter(&certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| unusable(format!("client certificate: {error}")))?;
        let key =
            PrivateKeyDer::from_pem_slice(&key).map_err(|error| unusable(format!("client key: {error}")))?;
        Some((chain, key))
    };
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
        .build(builder.enable_http1().wrap_connector(Connector::outside()));
    Ok(Known { client, url: cluster.server.clone() })
}
