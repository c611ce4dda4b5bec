//! Who asks and whether they may: the types the request path passes between its stages.
//!
//! Implementations live under `authn/` and `authz/`. Contract: upstream's `authentication/user`,
//! `authorization/authorizer`.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use component_base::selector::{FieldRequirement, FieldSelector, LabelSelector, Requirement};
use sha2::{Digest, Sha256};
use smol_str::SmolStr;

/// An authenticated (or anonymous) user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Name, for example `system:node:n1`.
    pub name: String,
    /// Uid, often empty.
    pub uid: String,
    /// Groups, including `system:authenticated`.
    pub groups: Vec<String>,
    /// Extra keys and values.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What a request wants, for authorizers and admission.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Who.
    pub user: Arc<User>,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or the lower-case
    /// HTTP method for non-resource paths.
    pub verb: SmolStr,
    /// Namespace; empty for cluster scope.
    pub namespace: SmolStr,
    /// API group.
    pub group: SmolStr,
    /// API version.
    pub version: SmolStr,
    /// Plural resource.
    pub resource: SmolStr,
    /// Subresource, if any.
    pub subresource: SmolStr,
    /// Object name, if any.
    pub name: SmolStr,
    /// Whether this is a resource request; else only `path` counts.
    pub is_resource: bool,
    /// URL path.
    pub path: String,
    /// Fields of the objects that list, watch and deletecollection are about.
    pub field_selector: Selected<FieldRequirement>,
    /// Labels of the objects that list, watch and deletecollection are about.
    pub label_selector: Selected<Requirement>,
}

/// What a request selects, as authorizers see it. Requirements that cannot be read are left out: what is asked about is
/// then more than what is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected<R> {
    /// What has to hold, all of it.
    pub requirements: Vec<R>,
    /// Whether some of it, or all, could not be read.
    pub unread: bool,
}

impl<R> Default for Selected<R> {
    fn default() -> Self {
        Self { requirements: Vec::new(), unread: false }
    }
}

impl Selected<FieldRequirement> {
    /// From the text of a query.
    pub fn fields(text: &str) -> Self {
        match text.parse::<FieldSelector>() {
            Ok(selector) => Self { requirements: selector.terms().to_vec(), unread: false },
            Err(_) => Self { requirements: Vec::new(), unread: true },
        }
    }

    /// Whether only objects with this value of a field are selected.
    pub fn has(&self, field: &str, value: &str) -> bool {
        self.requirements.iter().any(|one| one.equal && one.field == field && one.value == value)
    }
}

impl Selected<Requirement> {
    /// From the text of a query.
    pub fn labels(text: &str) -> Self {
        match text.parse::<LabelSelector>() {
            Ok(selector) => Self { requirements: selector.requirements().to_vec(), unread: false },
            Err(_) => Self { requirements: Vec::new(), unread: true },
        }
    }
}

/// An authorizer's answer; the chain stops at the first that is not `NoOpinion`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on, with the reason audit shows.
    Allow(String),
    /// Stop: forbidden, whatever others say.
    Deny(String),
    /// Ask the next one; the reason shows in the final 403.
    NoOpinion(String),
    /// Somebody who had a say could not be asked: not allowed, and with `denied` whatever others say. A request that needed
    /// the decision fails with the error.
    Failed {
        /// Whether the next one is not asked.
        denied: bool,
        /// What others said.
        reason: String,
        /// What went wrong.
        error: String,
    },
}

impl Decision {
    /// The reason why it is allowed, or why not.
    ///
    /// # Errors
    /// When it is not.
    pub fn allowed(self) -> Result<String, String> {
        match self {
            Self::Allow(reason) => Ok(reason),
            Self::Deny(reason) | Self::NoOpinion(reason) | Self::Failed { reason, .. } => Err(reason),
        }
    }
}

/// Decides whether attributes are allowed.
#[async_trait]
pub trait Authorizer: Send + Sync {
    /// The decision; must not block on anything but memory or a bounded remote call.
    async fn authorize(&self, attributes: &Attributes) -> Decision;
    /// Rules of a user in a namespace for SelfSubjectRulesReview: (resource rules, non-resource rules, incomplete).
    async fn rules(
        &self,
        _user: &User,
        _namespace: &str,
    ) -> (Vec<serde_json::Value>, Vec<serde_json::Value>, bool) {
        (Vec::new(), Vec::new(), true)
    }
}

/// Verified-by-signature certificates of a connection's peer in DER, leaf first (chain not yet checked).
#[derive(Debug, Default)]
pub struct PeerCertificates {
    chain: Vec<Vec<u8>>,
    fingerprint: OnceLock<[u8; 32]>,
}

impl PeerCertificates {
    /// These, leaf first.
    pub fn new(chain: Vec<Vec<u8>>) -> Self {
        Self { chain, fingerprint: OnceLock::new() }
    }

    /// Leaf first; none when the peer has shown none.
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }

    /// What tells the chain apart from all others: SHA-256 of lengths and certificates.
    pub fn fingerprint(&self) -> &[u8; 32] {
        self.fingerprint.get_or_init(|| {
            let mut hash = Sha256::new();
            for der in &self.chain {
                hash.update(der.len().to_be_bytes());
                hash.update(der);
            }
            hash.finalize().into()
        })
    }
}

/// What an authenticator may look at.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// The peer's certificates.
    pub peer_certificates: Arc<PeerCertificates>,
    /// The bearer token, if any.
    pub bearer: Option<String>,
    /// The request's headers, where a front proxy may name the user in them; empty otherwise.
    pub headers: http::HeaderMap,
}

/// An authenticator's answer for one request: `Ok(None)` = these are not my credentials.
#[async_trait]
pub trait Authenticator: Send + Sync {
    /// `Err` = credentials of this kind were there and are bad (ends as 401 when no other succeeds).
    async fn authenticate(&self, credentials: &Credentials) -> Result<Option<Arc<User>>, String>;
}

impl User {
    /// `system:anonymous`.
    pub fn anonymous() -> Self {
        Self {
            name: "system:anonymous".to_owned(),
            groups: vec!["system:unauthenticated".to_owned()],
            ..Self::default()
        }
    }

    /// The server acting for itself over loopback: `system:apiserver` in `system:masters`.
    pub fn apiserver() -> Self {
        Self {
            name: "system:apiserver".to_owned(),
            groups: vec!["system:masters".to_owned(), "system:authenticated".to_owned()],
            ..Self::default()
        }
    }

    /// Whether the user is in a group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}
