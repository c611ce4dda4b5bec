//! Authentication: who is behind a request.
//!
//! ```text
//! credentials → front proxy → x509 → token file → service account → bootstrap token → OIDC → webhook → anonymous or 401
//! ```
//!
//! One file per kind of credential; [`build`] puts them in upstream's order. The first that knows
//! the user wins; a bad credential is only an error when nobody else accepts it.
//! Contract: Kubernetes "Authenticating"; upstream `pkg/kubeapiserver/authenticator`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use component_base::features::{Gate, Gates};

use crate::{
    auth::{Authenticator, Credentials, User},
    bootstrap::{authentication_facts::RequestHeader, identity::lease_name},
    egress::{Egress, Network},
    objects::Objects,
    run::hostname,
};

pub mod bootstraptoken;
pub mod cache;
pub mod config;
pub mod issue;
pub mod jwt;
pub mod oidc;
pub mod requestheader;
pub mod review;
pub mod serviceaccount;
pub mod tokenfile;
pub mod webhook;
pub mod x509;

/// The flags of authentication, as parsed.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--client-ca-file`.
    pub client_ca_file: Option<PathBuf>,
    /// `--requestheader-client-ca-file` and the flags beside it.
    pub request_header: Option<(PathBuf, RequestHeader)>,
    /// `--token-auth-file`.
    pub token_auth_file: Option<PathBuf>,
    /// `--enable-bootstrap-token-auth`.
    pub bootstrap_tokens: bool,
    /// `--service-account-key-file`, repeatable; the signing key when empty.
    pub service_account_key_files: Vec<PathBuf>,
    /// `--service-account-signing-key-file`.
    pub service_account_signing_key_file: Option<PathBuf>,
    /// `--service-account-issuer`: the first one signs, all are accepted.
    pub service_account_issuers: Vec<String>,
    /// `--api-audiences`; the issuers when empty.
    pub api_audiences: Vec<String>,
    /// `--service-account-jwks-uri`.
    pub jwks_uri: Option<String>,
    /// `--service-account-max-token-expiration`; zero = no limit.
    pub max_token_expiration: Duration,
    /// `--feature-gates`.
    pub gates: Gates,
    /// `--service-account-extend-token-expiration`.
    pub extend_token_expiration: bool,
    /// `--service-account-lookup`.
    pub service_account_lookup: bool,
    /// `--anonymous-auth`; `None` when nothing was said.
    pub anonymous: Option<bool>,
    /// `--authentication-config`.
    pub config: Option<PathBuf>,
    /// `--oidc-*`, and the file of `--oidc-ca-file`.
    pub oidc: Option<(oidc::Options, Option<PathBuf>)>,
    /// `--authentication-token-webhook-*`: kubeconfig, version of reviews, how long answers are kept.
    pub webhook: Option<(PathBuf, &'static str, Duration)>,
}

/// Why authentication could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A file named by a flag could not be read.
    #[error("reading {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A key file holds no usable key.
    #[error("key file {path}")]
    Key {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: jwt::KeyError,
    },
    /// The client CA file holds no usable certificate.
    #[error("client CA")]
    ClientCa(#[from] x509::CaError),
    /// The token file is malformed.
    #[error("token auth file")]
    TokenFile(#[from] tokenfile::TokenFileError),
    /// `--authentication-config` is of no use.
    #[error("authentication configuration")]
    Config(#[from] config::LoadError),
    /// An issuer's expressions do not compile.
    #[error("issuer of tokens: {0}")]
    Issuer(String),
    /// The webhook's kubeconfig is of no use.
    #[error("token webhook")]
    Webhook(#[from] crate::webhook::kubeconfig::KubeconfigError),
    /// Flags and file both say it.
    #[error("--{0} cannot be given together with what --authentication-config says")]
    Twice(&'static str),
    /// Keys without an issuer, or the reverse.
    #[error("--service-account-issuer is required when service account keys are given")]
    NoIssuer,
}

/// What [`build`] makes: the authenticator and the parts other files need.
pub struct Authentication {
    /// All configured authenticators, in order.
    pub authenticator: Arc<dyn Authenticator>,
    /// Client certificates, for reloading the CA and for the extension-apiserver-authentication map.
    pub client_ca: Option<Arc<x509::ClientCertificates>>,
    /// Service account tokens: check with an audience (TokenReview).
    pub service_accounts: Option<Arc<serviceaccount::ServiceAccountTokens>>,
    /// The audiences a token must name to be accepted by this server.
    pub audiences: Vec<String>,
    /// Who may name users in headers.
    pub front_proxy: Option<Arc<requestheader::FrontProxy>>,
    /// Those of `--authentication-config`, which are replaced when the file changes.
    pub issuers: Arc<Issuers>,
    /// Which requests without credentials are taken for `system:anonymous`.
    pub anonymous: config::Anonymous,
    /// Issues service account tokens; absent without a signing key.
    pub issuer: Option<Arc<issue::Issuer>>,
}

impl Options {
    /// The audiences a token must name to be accepted by this server.
    pub fn audiences(&self) -> Vec<String> {
        if self.api_audiences.is_empty() {
            self.service_account_issuers.clone()
        } else {
            self.api_audiences.clone()
        }
    }
}

/// Reads the key files and makes the chain of authenticators. `egress` leads to webhooks and issuers.
pub fn build(
    options: &Options,
    objects: Arc<dyn Objects>,
    egress: &Egress,
) -> Result<Authentication, BuildError> {
    let mut chain: Vec<Arc<dyn Authenticator>> = Vec::new();
    let mut front_proxy = None;
    if let Some((path, header)) = &options.request_header {
        let proxy = Arc::new(requestheader::FrontProxy::new(&read(path)?, header.clone())?);
        chain.push(proxy.clone());
        front_proxy = Some(proxy);
    }
    let mut client_ca = None;
    if let Some(path) = &options.client_ca_file {
        let certificates = Arc::new(x509::ClientCertificates::new(&read(path)?)?);
        certificates.name_uids(options.gates.has(Gate::AllowParsingUserUIDFromCertAuth));
        chain.push(certificates.clone());
        client_ca = Some(certificates);
    }
    if let Some(path) = &options.token_auth_file {
        chain.push(Arc::new(tokenfile::TokenFile::parse(&read(path)?)?));
    }
    let signing = match &options.service_account_signing_key_file {
        None => None,
        Some(path) => Some(key(path, jwt::SigningKey::from_pem)?),
    };
    let mut keys = Vec::new();
    for path in &options.service_account_key_files {
        keys.extend(key(path, jwt::public_keys_from_pem)?);
    }
    if keys.is_empty() {
        keys.extend(signing.as_ref().map(|k| k.public().clone()));
    }
    let mut service_accounts = None;
    let mut issuer = None;
    if !keys.is_empty() {
        let first = options.service_account_issuers.first().ok_or(BuildError::NoIssuer)?.clone();
        let tokens = Arc::new(serviceaccount::ServiceAccountTokens::new(
            options.service_account_issuers.clone(),
            options.audiences(),
            keys.clone(),
            options.service_account_lookup,
            objects.clone(),
        ));
        chain.push(tokens.clone());
        service_accounts = Some(tokens);
        issuer = signing.map(|key| Arc::new(issue::Issuer::new(key, keys, first, options, objects.clone())));
    }
    if options.bootstrap_tokens {
        chain.push(Arc::new(bootstraptoken::BootstrapTokens::new(objects)));
    }
    let file = options.config.as_deref().map(config::load).transpose()?.unwrap_or_default();
    let issuers = Arc::new(Issuers(ArcSwap::from_pointee(Union(issuers(options, file.issuers, egress)?))));
    chain.push(issuers.clone());
    if let Some((path, version, ttl)) = &options.webhook {
        let remote = crate::webhook::kubeconfig::Remote::load(
            path,
            "authentication",
            &egress.of(Network::ControlPlane),
        )?;
        chain.push(Arc::new(webhook::WebhookTokens::new(remote, version, options.audiences(), *ttl)));
    }
    let anonymous = match (file.anonymous, options.anonymous) {
        (Some(_), Some(_)) => return Err(BuildError::Twice("anonymous-auth")),
        (Some(anonymous), None) => anonymous,
        (None, flag) => config::Anonymous { enabled: flag.unwrap_or(true), paths: Vec::new() },
    };
    Ok(Authentication {
        authenticator: Arc::new(Union(chain)),
        client_ca,
        service_accounts,
        front_proxy,
        issuers,
        anonymous,
        audiences: options.audiences(),
        issuer,
    })
}

/// Authenticators of issuers of tokens, all of which change at once.
pub struct Issuers(ArcSwap<Union>);

impl Issuers {
    /// Takes the issuers of a changed file in the place of the former ones.
    ///
    /// # Errors
    /// When the file is of no use; the former ones stay then.
    pub fn reload(&self, options: &Options, egress: &Egress) -> Result<(), BuildError> {
        let file = options.config.as_deref().map(config::load).transpose()?.unwrap_or_default();
        self.0.store(Arc::new(Union(issuers(options, file.issuers, egress)?)));
        Ok(())
    }
}

#[async_trait]
impl Authenticator for Issuers {
    async fn authenticate(&self, credentials: &Credentials) -> Result<Option<Arc<User>>, String> {
        let current = self.0.load_full();
        current.authenticate(credentials).await
    }
}

/// The issuers of the flags or of the file.
fn issuers(
    options: &Options,
    mut all: Vec<oidc::Options>,
    egress: &Egress,
) -> Result<Vec<Arc<dyn Authenticator>>, BuildError> {
    if let Some((flags, ca)) = &options.oidc {
        if !all.is_empty() {
            return Err(BuildError::Twice("oidc-issuer-url"));
        }
        let ca = ca.as_ref().map(read).transpose()?.unwrap_or_default();
        all.push(oidc::Options { ca, ..flags.clone() });
    }
    let server = lease_name(&hostname());
    let mut issuers: Vec<Arc<dyn Authenticator>> = Vec::new();
    for one in all {
        if one.network.is_some()
            && !options.gates.has(Gate::StructuredAuthenticationConfigurationEgressSelector)
        {
            return Err(BuildError::Config(config::LoadError::Invalid(format!(
                "issuer.egressSelectorType of {}: egress selector is not supported when \
                 StructuredAuthenticationConfigurationEgressSelector feature gate is disabled",
                one.url
            ))));
        }
        let hides_keys = !options.gates.has(Gate::StructuredAuthenticationConfigurationJWKSMetrics);
        let one = oidc::Options { server: server.clone(), hides_keys, ..one };
        issuers.push(Arc::new(oidc::Issuer::new(one, egress).map_err(BuildError::Issuer)?));
    }
    Ok(issuers)
}

fn read(path: &PathBuf) -> Result<Vec<u8>, BuildError> {
    std::fs::read(path).map_err(|source| BuildError::Read { path: path.clone(), source })
}

fn key<T>(path: &PathBuf, parse: impl Fn(&[u8]) -> Result<T, jwt::KeyError>) -> Result<T, BuildError> {
    parse(&read(path)?).map_err(|source| BuildError::Key { path: path.clone(), source })
}

/// Authenticators in order: the first user wins; errors count only when nobody knows the user.
pub struct Union(pub Vec<Arc<dyn Authenticator>>);

#[async_trait]
impl Authenticator for Union {
    async fn authenticate(&self, credentials: &Credentials) -> Result<Option<Arc<User>>, String> {
        let mut errors = Vec::new();
        for one in &self.0 {
            match one.authenticate(credentials).await {
                Ok(Some(mut user)) => {
                    if user.name != "system:anonymous" && !user.in_group("system:authenticated") {
                        Arc::make_mut(&mut user).groups.push("system:authenticated".to_owned());
                    }
                    return Ok(Some(user));
                }
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }
        match errors.is_empty() {
            true => Ok(None),
            false => Err(errors.join(", ")),
        }
    }
}
