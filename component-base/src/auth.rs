//! Delegated authentication and authorization of those who call a daemon's own server: client certificates, front-proxy
//! headers, TokenReview and SubjectAccessReview (apiserver's `authenticatorfactory` and `authorizerfactory`).

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use http::{HeaderMap, request::Parts};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{
        NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
    },
};
use kube::{Api, api::PostParams};
use parking_lot::Mutex;
use prometheus::{Histogram, HistogramVec, IntCounterVec};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    client::{ClientError, ClientOptions},
    metrics::{self, Stability},
    tls::{self, TlsError},
};

/// What the API server is asked about access: how often, and how long that takes.
static REVIEWS: LazyLock<(IntCounterVec, HistogramVec)> = LazyLock::new(|| {
    let requests = metrics::counter_vec(
        "apiserver_delegated_authz_request_total",
        "Number of HTTP requests partitioned by status code.",
        Stability::Alpha,
        &["code"],
    );
    let latency = metrics::histogram_vec(
        "apiserver_delegated_authz_request_duration_seconds",
        "Request latency in seconds. Broken down by status code.",
        Stability::Alpha,
        &["code"],
        vec![0.25, 0.5, 0.7, 1.0, 1.5, 3.0, 5.0, 10.0],
    );
    (requests, latency)
});
/// How often a file of authorities is looked at, as upstream.
const LOOK: Duration = Duration::from_secs(60);
/// Reviews remembered at most; beyond this the memory starts anew.
const REMEMBERED: usize = 4096;

/// Where users and permissions come from.
#[derive(Clone, Debug)]
pub struct AuthOptions {
    /// Client for TokenReviews; none refuses bearer tokens.
    pub authentication_kubeconfig: Option<PathBuf>,
    /// Client for SubjectAccessReviews; none refuses all but `always_allow` and `system:masters`.
    pub authorization_kubeconfig: Option<PathBuf>,
    /// Authorities of client certificates.
    pub client_ca: Option<PathBuf>,
    /// Whether files of authorities are read again when they change.
    pub follows_files: bool,
    /// Authorities of front proxies.
    pub proxy_ca: Option<PathBuf>,
    /// Common names front proxies may have; empty for any.
    pub proxy_names: Vec<String>,
    pub username_headers: Vec<String>,
    pub group_headers: Vec<String>,
    pub extra_prefixes: Vec<String>,
    /// Paths without authorization; a trailing `*` matches a prefix.
    pub always_allow: Vec<String>,
    pub token_ttl: Duration,
    pub allowed_ttl: Duration,
    pub refused_ttl: Duration,
    /// Whether callers without credentials are `system:anonymous` rather than refused.
    pub anonymous: bool,
}

impl Default for AuthOptions {
    fn default() -> AuthOptions {
        let ttl = Duration::from_secs(10);
        AuthOptions {
            authentication_kubeconfig: None,
            authorization_kubeconfig: None,
            client_ca: None,
            follows_files: true,
            proxy_ca: None,
            proxy_names: Vec::new(),
            username_headers: vec!["x-remote-user".to_owned()],
            group_headers: vec!["x-remote-group".to_owned()],
            extra_prefixes: vec!["x-remote-extra-".to_owned()],
            always_allow: ["/healthz", "/readyz", "/livez"].map(str::to_owned).into(),
            token_ttl: ttl,
            allowed_ttl: ttl,
            refused_ttl: ttl,
            anonymous: true,
        }
    }
}

/// Why delegated authentication cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error("client for reviews cannot be made")]
    Client(#[from] ClientError),
    #[error("authorities of clients cannot be loaded")]
    Authorities(#[from] TlsError),
}

/// Who calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    fn anonymous() -> User {
        User {
            name: "system:anonymous".to_owned(),
            groups: vec!["system:unauthenticated".to_owned()],
            ..User::default()
        }
    }

    fn authenticated(mut self) -> User {
        if !self.groups.iter().any(|group| group == "system:authenticated") {
            self.groups.push("system:authenticated".to_owned());
        }
        self
    }
}

/// What the caller wants to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Attributes {
    NonResource {
        verb: String,
        path: String,
    },
    Resource {
        verb: String,
        group: String,
        version: String,
        resource: String,
        subresource: String,
        namespace: String,
        name: String,
    },
}

impl Attributes {
    /// Of a request for a path: the verb is the lower-case method.
    pub fn path(parts: &Parts) -> Attributes {
        Attributes::NonResource {
            verb: parts.method.as_str().to_ascii_lowercase(),
            path: parts.uri.path().to_owned(),
        }
    }
}

/// Outcome of authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    User(User),
    /// 401
    Refused,
}

/// Outcome of authorization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorization {
    Allowed,
    /// 403, with the reason.
    Refused(String),
    /// 500: no answer could be had.
    Unknown(String),
}

/// Answers with the moment until which they hold.
type Memory<K, V> = Mutex<HashMap<K, (V, Instant)>>;

/// Authenticates and authorizes the callers of one server.
pub struct Delegated {
    options: AuthOptions,
    client_roots: Option<Roots>,
    proxy_roots: Option<Roots>,
    tokens: Option<kube::Client>,
    access: Option<kube::Client>,
    /// By the token's SHA-256, so that no token is kept.
    known_tokens: Memory<[u8; 32], Option<User>>,
    known_access: Memory<(User, Attributes), Authorization>,
}

impl std::fmt::Debug for Delegated {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Delegated").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Delegated {
    /// Loads authorities and makes the clients for reviews.
    ///
    /// # Errors
    /// When a file that is named cannot be used.
    pub async fn new(options: AuthOptions, component: &str) -> Result<Delegated, AuthError> {
        let follows = options.follows_files;
        let roots = |path: &Option<PathBuf>| path.clone().map(|path| Roots::load(path, follows)).transpose();
        let (client_roots, proxy_roots) = (roots(&options.client_ca)?, roots(&options.proxy_ca)?);
        let tokens = client(options.authentication_kubeconfig.as_deref(), component).await?;
        let access = client(options.authorization_kubeconfig.as_deref(), component).await?;
        LazyLock::force(&CLIENT_CERTIFICATES);
        Ok(Delegated {
            options,
            client_roots,
            proxy_roots,
            tokens,
            access,
            known_tokens: Mutex::default(),
            known_access: Mutex::default(),
        })
    }

    /// As [`Delegated::new`], with one client for both reviews (the kubelet's own).
    ///
    /// # Errors
    /// When an authority file that is named cannot be used.
    pub fn with_client(options: AuthOptions, client: kube::Client) -> Result<Delegated, AuthError> {
        let follows = options.follows_files;
        let roots = |path: &Option<PathBuf>| path.clone().map(|path| Roots::load(path, follows)).transpose();
        Ok(Delegated {
            client_roots: roots(&options.client_ca)?,
            proxy_roots: roots(&options.proxy_ca)?,
            options,
            tokens: Some(client.clone()),
            access: Some(client),
            known_tokens: Mutex::default(),
            known_access: Mutex::default(),
        })
    }

    /// Refuses bearer tokens rather than having them reviewed.
    #[must_use]
    pub fn without_tokens(self) -> Delegated {
        Delegated { tokens: None, ..self }
    }

    /// Who the caller is: front proxy, then certificate, then token, then anonymous.
    pub async fn authenticate(&self, parts: &Parts, chain: &[CertificateDer<'_>]) -> Authentication {
        if let Some(user) = self.proxied(&parts.headers, chain) {
            return Authentication::User(user.authenticated());
        }
        if let Some(roots) = self.client_roots.as_ref().filter(|_| !chain.is_empty()) {
            return match tls::verify_client(roots.now(), chain, UnixTime::now()) {
                Ok(()) => match believed(&chain[0]) {
                    Some(user) => Authentication::User(user.authenticated()),
                    None => Authentication::Refused,
                },
                Err(error) => {
                    tracing::debug!(%error, "client certificate refused");
                    Authentication::Refused
                }
            };
        }
        match (bearer(&parts.headers), &self.tokens) {
            (Some(token), Some(client)) => match self.review_token(client, token).await {
                Some(user) => Authentication::User(user.authenticated()),
                None => Authentication::Refused,
            },
            (Some(_), None) => Authentication::Refused,
            (None, _) if self.options.anonymous => Authentication::User(User::anonymous()),
            (None, _) => Authentication::Refused,
        }
    }

    /// The user a trusted front proxy names.
    fn proxied(&self, headers: &HeaderMap, chain: &[CertificateDer<'_>]) -> Option<User> {
        let roots = self.proxy_roots.as_ref()?;
        let name = first_header(headers, &self.options.username_headers)?;
        tls::verify_client(roots.now(), chain, UnixTime::now()).ok()?;
        let proxy = certificate_user(chain.first()?)?;
        let names = &self.options.proxy_names;
        if !names.is_empty() && !names.contains(&proxy.name) {
            return None;
        }
        let text = |value: &http::HeaderValue| value.to_str().ok().map(str::to_owned);
        let groups =
            |header: &String| headers.get_all(header.as_str()).iter().filter_map(text).collect::<Vec<_>>();
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (header, value) in headers {
            let key = |prefix: &String| header.as_str().strip_prefix(prefix.to_ascii_lowercase().as_str());
            if let (Some(key), Some(value)) = (self.options.extra_prefixes.iter().find_map(key), text(value))
            {
                extra.entry(key.to_owned()).or_default().push(value);
            }
        }
        Some(User {
            name,
            uid: String::new(),
            groups: self.options.group_headers.iter().flat_map(groups).collect(),
            extra,
        })
    }

    async fn review_token(&self, client: &kube::Client, token: &str) -> Option<User> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some((user, until)) = self.known_tokens.lock().get(&digest)
            && *until > Instant::now()
        {
            return user.clone();
        }
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.to_owned(), audiences: None },
            ..TokenReview::default()
        };
        let status =
            match Api::<TokenReview>::all(client.clone()).create(&PostParams::default(), &review).await {
                Ok(review) => review.status.unwrap_or_default(),
                Err(error) => {
                    tracing::error!(error = crate::workqueue::chain(&error), "token cannot be reviewed");
                    return None;
                }
            };
        let user = status.user.filter(|_| status.authenticated == Some(true)).map(|user| User {
            name: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        });
        remember(&self.known_tokens, digest, user.clone(), self.options.token_ttl);
        user
    }

    /// Whether the user may do it: always-allowed paths, then `system:masters`, then a review.
    pub async fn authorize(&self, user: &User, attributes: &Attributes) -> Authorization {
        if let Attributes::NonResource { path, .. } = attributes
            && self.options.always_allow.iter().any(|allowed| path_matches(allowed, path))
        {
            return Authorization::Allowed;
        }
        if user.groups.iter().any(|group| group == "system:masters") {
            return Authorization::Allowed;
        }
        let Some(client) = &self.access else { return Authorization::Refused(String::new()) };
        let key = (user.clone(), attributes.clone());
        if let Some((outcome, until)) = self.known_access.lock().get(&key)
            && *until > Instant::now()
        {
            return outcome.clone();
        }
        let outcome = review_access(client, user, attributes).await;
        let ttl = match outcome {
            Authorization::Allowed => self.options.allowed_ttl,
            Authorization::Refused(_) => self.options.refused_ttl,
            Authorization::Unknown(_) => return outcome,
        };
        remember(&self.known_access, key, outcome.clone(), ttl);
        outcome
    }
}

fn remember<K: Eq + std::hash::Hash, V>(memory: &Memory<K, V>, key: K, value: V, ttl: Duration) {
    let mut memory = memory.lock();
    if memory.len() >= REMEMBERED {
        let now = Instant::now();
        memory.retain(|_, (_, until)| *until > now);
        if memory.len() >= REMEMBERED {
            memory.clear();
        }
    }
    memory.insert(key, (value, Instant::now() + ttl));
}

/// Authorities of a file, which may change: it is looked at when somebody comes, once a minute at most.
struct Roots {
    path: PathBuf,
    /// Changes count.
    follows: bool,
    state: Mutex<Loaded>,
}

struct Loaded {
    roots: Arc<RootCertStore>,
    changed: Option<SystemTime>,
    looked: Instant,
}

impl Roots {
    fn load(path: PathBuf, follows: bool) -> Result<Self, TlsError> {
        let (changed, looked) = (changed(&path), Instant::now());
        let roots = Arc::new(tls::load_roots(&path)?);
        Ok(Self { path, follows, state: Mutex::new(Loaded { roots, changed, looked }) })
    }

    /// Those of the file as it is, or as it was as long as it does not read.
    fn now(&self) -> Arc<RootCertStore> {
        let mut state = self.state.lock();
        if self.follows && state.looked.elapsed() >= LOOK {
            state.looked = Instant::now();
            self.look(&mut state);
        }
        state.roots.clone()
    }

    fn look(&self, state: &mut Loaded) {
        let changed = changed(&self.path);
        if changed == state.changed {
            return;
        }
        match tls::load_roots(&self.path) {
            Ok(roots) => {
                (state.roots, state.changed) = (Arc::new(roots), changed);
                tracing::info!(path = %self.path.display(), "changed authorities were loaded");
            }
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "changed authorities cannot be read");
            }
        }
    }
}

fn changed(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|about| about.modified()).ok()
}

async fn client(kubeconfig: Option<&Path>, component: &str) -> Result<Option<kube::Client>, ClientError> {
    let Some(path) = kubeconfig else { return Ok(None) };
    let options = ClientOptions {
        kubeconfig: Some(path.to_owned()),
        qps: 200.0,
        burst: 400,
        ..ClientOptions::new(component)
    };
    crate::client::connect(&options).await.map(Some)
}

fn path_matches(allowed: &str, path: &str) -> bool {
    match allowed.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => path.trim_start_matches('/') == allowed.trim_start_matches('/'),
    }
}

fn first_header(headers: &HeaderMap, names: &[String]) -> Option<String> {
    let value = |name: &String| headers.get(name.as_str())?.to_str().ok().filter(|text| !text.is_empty());
    names.iter().find_map(value).map(str::to_owned)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.trim().split_once(' ')?;
    Some(token.trim()).filter(|token| scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
}

/// The user a certificate names: the common name, and each organisation as a group.
pub fn certificate_user(certificate: &CertificateDer<'_>) -> Option<User> {
    user_of(&X509Certificate::from_der(certificate).ok()?.1)
}

fn user_of(certificate: &X509Certificate<'_>) -> Option<User> {
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok().map(str::to_owned));
    (!name.is_empty()).then(|| User { name, groups: groups.collect(), ..User::default() })
}

/// For how long certificates hold that requests are authenticated with, in seconds.
pub static CLIENT_CERTIFICATES: LazyLock<Histogram> = LazyLock::new(|| {
    metrics::histogram(
        "apiserver_client_certificate_expiration_seconds",
        "Time that is left to certificates requests are authenticated with, in seconds.",
        Stability::Alpha,
        vec![
            0.0,
            1800.0,
            3600.0,
            7200.0,
            21600.0,
            43200.0,
            86400.0,
            172_800.0,
            345_600.0,
            604_800.0,
            2_592_000.0,
            7_776_000.0,
            15_552_000.0,
            31_104_000.0,
        ],
    )
});

/// The user of a certificate whose chain was checked, which is counted.
fn believed(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let user = user_of(&parsed)?;
    let now = i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX);
    CLIENT_CERTIFICATES.observe((parsed.validity().not_after.timestamp() - now) as f64);
    Some(user)
}

async fn review_access(client: &kube::Client, user: &User, attributes: &Attributes) -> Authorization {
    let mut spec = SubjectAccessReviewSpec {
        user: Some(user.name.clone()),
        uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
        groups: Some(user.groups.clone()),
        extra: Some(user.extra.clone()).filter(|extra| !extra.is_empty()),
        ..SubjectAccessReviewSpec::default()
    };
    match attributes.clone() {
        Attributes::NonResource { verb, path } => {
            spec.non_resource_attributes = Some(NonResourceAttributes { verb: Some(verb), path: Some(path) });
        }
        Attributes::Resource { verb, group, version, resource, subresource, namespace, name } => {
            spec.resource_attributes = Some(ResourceAttributes {
                verb: Some(verb),
                group: Some(group),
                version: Some(version),
                resource: Some(resource),
                subresource: Some(subresource),
                namespace: Some(namespace),
                name: Some(name),
                ..ResourceAttributes::default()
            });
        }
    }
    let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
    let begun = Instant::now();
    let reviewed =
        Api::<SubjectAccessReview>::all(client.clone()).create(&PostParams::default(), &review).await;
    let code = match &reviewed {
        // What is made is answered with "created".
        Ok(_) => "201".to_owned(),
        Err(kube::Error::Api(status)) => status.code.to_string(),
        Err(_) => "<error>".to_owned(),
    };
    REVIEWS.0.with_label_values(&[&code]).inc();
    REVIEWS.1.with_label_values(&[&code]).observe(begun.elapsed().as_secs_f64());
    match reviewed {
        Ok(review) => match review.status {
            Some(status) if status.allowed => Authorization::Allowed,
            status => Authorization::Refused(status.and_then(|status| status.reason).unwrap_or_default()),
        },
        Err(error) => Authorization::Unknown(crate::workqueue::chain(&error)),
    }
}

#[cfg(test)]
mod tests;
