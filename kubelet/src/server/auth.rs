//! Who calls, and whether they may: client certificates, tokens reviewed by the API server, and access reviews.
//!
//! Contract: "Kubelet authentication/authorization". Answers of the API server are kept for a while, by upstream's times.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Response, StatusCode, header, request::Parts};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use rustls::{RootCertStore, pki_types::CertificateDer};
use rustls_pki_types::UnixTime;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Body, answer, attributes};

const TOKEN_TTL: Duration = Duration::from_secs(120);
const ALLOWED_TTL: Duration = Duration::from_secs(300);
const DENIED_TTL: Duration = Duration::from_secs(30);
/// Most answers kept; beyond it the memory starts over.
const MOST: usize = 4096;

/// A caller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct User {
    /// Name.
    pub name: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Uid, when the API server gave one.
    pub uid: Option<String>,
}

/// What is trusted and asked.
pub struct Gate {
    /// Node the requests are about.
    pub node: String,
    /// CA of client certificates.
    pub roots: Option<Arc<RootCertStore>>,
    /// The API server, for reviews; `None` when reviews are off.
    pub tokens: Option<Client>,
    /// The API server, for access reviews; `None` allows every known caller.
    pub access: Option<Client>,
    /// Callers without credentials are let in, as `system:anonymous`.
    pub anonymous: bool,
    known_tokens: Memory<[u8; 32], Option<User>>,
    known_access: Memory<(User, &'static str, &'static str), bool>,
}

struct Memory<K, V>(Mutex<HashMap<K, (Instant, V)>>);

impl<K: Eq + Hash, V: Clone> Memory<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        self.0.lock().get(key).filter(|(until, _)| *until > Instant::now()).map(|(_, value)| value.clone())
    }

    fn put(&self, key: K, ttl: Duration, value: V) {
        let mut map = self.0.lock();
        if map.len() >= MOST {
            map.clear();
        }
        map.insert(key, (Instant::now() + ttl, value));
    }
}

impl Gate {
    /// A gate for this node that lets nobody in until its fields say so.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            roots: None,
            tokens: None,
            access: None,
            anonymous: false,
            known_tokens: Memory(Mutex::default()),
            known_access: Memory(Mutex::default()),
        }
    }

    /// Lets the request in, or answers it.
    ///
    /// # Errors
    /// The answer: 401, 403, or 500 when the API server cannot be asked.
    pub async fn check(
        &self,
        parts: &Parts,
        chain: &[CertificateDer<'static>],
    ) -> Result<(), Box<Response<Body>>> {
        let plain = "text/plain; charset=utf-8";
        let Some(user) = self.user(parts, chain).await else {
            return Err(Box::new(answer(StatusCode::UNAUTHORIZED, plain, "Unauthorized")));
        };
        let Some(client) = &self.access else { return Ok(()) };
        let verb = attributes::verb(&parts.method);
        let wanted = attributes::subresources(parts.uri.path());
        for subresource in &wanted {
            match self.allowed(client, &user, verb, subresource).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(%error, user = user.name, "authorization error");
                    let text = format!(
                        "Authorization error (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])",
                        user.name,
                        wanted.join(" ")
                    );
                    return Err(Box::new(answer(StatusCode::INTERNAL_SERVER_ERROR, plain, text)));
                }
            }
        }
        let text = format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])\n",
            user.name,
            wanted.join(" ")
        );
        Err(Box::new(answer(StatusCode::FORBIDDEN, plain, text)))
    }

    async fn user(&self, parts: &Parts, chain: &[CertificateDer<'static>]) -> Option<User> {
        if let Some(user) = self.certified(chain) {
            return Some(user);
        }
        let bearer = parts.headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        if let Some(token) = bearer.and_then(|v| v.strip_prefix("Bearer ")) {
            return self.token_user(token.trim()).await;
        }
        self.anonymous.then(|| User {
            name: "system:anonymous".to_owned(),
            groups: vec!["system:unauthenticated".to_owned()],
            uid: None,
        })
    }

    fn certified(&self, chain: &[CertificateDer<'static>]) -> Option<User> {
        let roots = self.roots.as_ref()?;
        let leaf = chain.first()?;
        if let Err(error) = component_base::tls::verify_client(Arc::clone(roots), chain, UnixTime::now()) {
            tracing::debug!(%error, "client certificate is not trusted");
            return None;
        }
        // A certificate that was just verified can be read.
        let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let mut groups: Vec<String> =
            subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
        groups.push("system:authenticated".to_owned());
        Some(User { name, groups, uid: None })
    }

    async fn token_user(&self, token: &str) -> Option<User> {
        let client = self.tokens.as_ref()?;
        let key: [u8; 32] = Sha256::digest(token).into();
        if let Some(known) = self.known_tokens.get(&key) {
            return known;
        }
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(client.clone());
        match api.create(&PostParams::default(), &review).await {
            Ok(answer) => {
                let status = answer.status.unwrap_or_default();
                let user = status.user.filter(|_| status.authenticated == Some(true)).map(|u| User {
                    name: u.username.unwrap_or_default(),
                    groups: u.groups.unwrap_or_default(),
                    uid: u.uid,
                });
                self.known_tokens.put(key, TOKEN_TTL, user.clone());
                user
            }
            Err(error) => {
                tracing::error!(%error, "unable to review a token");
                None
            }
        }
    }

    async fn allowed(
        &self,
        client: &Client,
        user: &User,
        verb: &'static str,
        subresource: &'static str,
    ) -> Result<bool, kube::Error> {
        let key = (user.clone(), verb, subresource);
        if let Some(known) = self.known_access.get(&key) {
            return Ok(known);
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                groups: Some(user.groups.clone()),
                uid: user.uid.clone(),
                resource_attributes: Some(ResourceAttributes {
                    name: Some(self.node.clone()),
                    verb: Some(verb.to_owned()),
                    version: Some("v1".into()),
                    resource: Some("nodes".into()),
                    subresource: Some(subresource.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(client.clone());
        let answer = api.create(&PostParams::default(), &review).await?;
        let allowed = answer.status.is_some_and(|s| s.allowed);
        self.known_access.put(key, if allowed { ALLOWED_TTL } else { DENIED_TTL }, allowed);
        Ok(allowed)
    }
}
