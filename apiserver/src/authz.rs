//! Authorization: may this user do that?
//!
//! ```text
//! attributes → system:masters → --authorization-mode in order (Node, RBAC, Webhook, AlwaysAllow, AlwaysDeny)
//! ```
//!
//! Contract: Kubernetes "Authorization"; upstream `pkg/kubeapiserver/authorizer`.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::{
    auth::{Attributes, Authorizer, Decision, User},
    objects::Objects,
};

pub mod bootstrap;
pub mod config;
pub mod feed;
pub mod node;
pub mod rbac;
pub mod review;
pub mod webhook;

/// One word of `--authorization-mode`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everything is allowed.
    AlwaysAllow,
    /// Nothing is allowed.
    AlwaysDeny,
    /// Kubelets, by what their pods use.
    Node,
    /// Roles and bindings.
    Rbac,
    /// A service that is asked.
    Webhook(webhook::Options),
}

/// What [`build`] makes.
pub struct Authorization {
    /// The chain of modes.
    pub authorizer: Arc<dyn Authorizer>,
    /// The RBAC index, for escalation checks; present when RBAC is a mode.
    pub rbac: Option<Arc<rbac::Rbac>>,
    /// Follows the store until `start`ed tasks end.
    feeds: Vec<feed::Feed>,
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "AlwaysAllow" => Ok(Self::AlwaysAllow),
            "AlwaysDeny" => Ok(Self::AlwaysDeny),
            "Node" => Ok(Self::Node),
            "RBAC" => Ok(Self::Rbac),
            other => Err(format!("authorization-mode {other:?} is not a valid mode")),
        }
    }
}

/// The webhooks among the modes, in their order.
///
/// # Errors
/// When one cannot be asked.
pub fn webhooks(modes: &[Mode]) -> Result<Vec<Arc<dyn Authorizer>>, webhook::BuildError> {
    let mut all: Vec<Arc<dyn Authorizer>> = Vec::new();
    for mode in modes {
        if let Mode::Webhook(options) = mode {
            all.push(Arc::new(webhook::WebhookAuthorizer::new(options.clone())?));
        }
    }
    Ok(all)
}

/// Makes the chain for these modes, none of which is a webhook; no mode means AlwaysAllow, as upstream.
#[cfg(test)]
pub(crate) fn build(modes: &[Mode]) -> Authorization {
    build_with(modes, Vec::new())
}

/// Makes the chain for these modes and their webhooks; no mode means AlwaysAllow, as upstream.
pub fn build_with(modes: &[Mode], webhooks: Vec<Arc<dyn Authorizer>>) -> Authorization {
    let mut webhooks = webhooks.into_iter();
    let mut chain: Vec<Arc<dyn Authorizer>> = vec![Arc::new(Masters)];
    let mut feeds = Vec::new();
    let mut index = None;
    for mode in modes {
        match mode {
            Mode::Webhook(_) => chain.extend(webhooks.next()),
            Mode::AlwaysAllow => chain.push(Arc::new(Always(true))),
            Mode::AlwaysDeny => chain.push(Arc::new(Always(false))),
            Mode::Rbac => {
                let rbac = Arc::new(rbac::Rbac::default());
                feeds.extend(rbac::KINDS.map(|kind| feed::Feed::new(kind, rbac.clone())));
                index = Some(rbac.clone());
                chain.push(rbac);
            }
            Mode::Node => {
                let node = Arc::new(node::NodeAuthorizer::default());
                feeds.extend(node::KINDS.map(|kind| feed::Feed::new(kind, node.clone())));
                chain.push(node);
            }
        }
    }
    if modes.is_empty() {
        chain.push(Arc::new(Always(true)));
    }
    Authorization { authorizer: Arc::new(Union(chain)), rbac: index, feeds }
}

impl Authorization {
    /// Follows the store in tasks of the caller's; resolves once every index has seen all that exists.
    pub async fn start(
        &mut self,
        objects: &Arc<dyn Objects>,
        spawn: &(dyn Fn(&'static str, BoxFuture<'static, ()>) + Sync),
    ) {
        let mut started = Vec::new();
        for feed in self.feeds.drain(..) {
            let (follow, synced) = feed.start(objects.clone());
            spawn("authorization-index", follow);
            started.push(synced);
        }
        for mut synced in started {
            // An error means that the feed ended with the server; there is nothing to wait for then.
            if synced.wait_for(|done| *done).await.is_err() {
                return;
            }
        }
    }
}

/// Authorizers in order; the first opinion counts, reasons of the others are joined.
pub struct Union(pub Vec<Arc<dyn Authorizer>>);

#[async_trait]
impl Authorizer for Union {
    async fn authorize(&self, attributes: &Attributes) -> Decision {
        let mut reasons = Vec::new();
        for one in &self.0 {
            match one.authorize(attributes).await {
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
                opinion => return opinion,
            }
        }
        Decision::NoOpinion(reasons.join("\n"))
    }

    async fn rules(&self, user: &User, namespace: &str) -> (Vec<Value>, Vec<Value>, bool) {
        let (mut resources, mut paths, mut incomplete) = (Vec::new(), Vec::new(), false);
        for one in &self.0 {
            let (r, p, i) = one.rules(user, namespace).await;
            resources.extend(r);
            paths.extend(p);
            incomplete |= i;
        }
        (resources, paths, incomplete)
    }
}

/// `system:masters` may do everything, whatever the modes.
struct Masters;

#[async_trait]
impl Authorizer for Masters {
    async fn authorize(&self, attributes: &Attributes) -> Decision {
        if attributes.user.in_group("system:masters") {
            Decision::Allow(String::new())
        } else {
            Decision::NoOpinion(String::new())
        }
    }

    async fn rules(&self, user: &User, _namespace: &str) -> (Vec<Value>, Vec<Value>, bool) {
        if user.in_group("system:masters") { everything() } else { (Vec::new(), Vec::new(), false) }
    }
}

struct Always(bool);

#[async_trait]
impl Authorizer for Always {
    async fn authorize(&self, _attributes: &Attributes) -> Decision {
        if self.0 {
            Decision::Allow(String::new())
        } else {
            Decision::NoOpinion("Everything is forbidden.".to_owned())
        }
    }

    async fn rules(&self, _user: &User, _namespace: &str) -> (Vec<Value>, Vec<Value>, bool) {
        if self.0 { everything() } else { (Vec::new(), Vec::new(), false) }
    }
}

fn everything() -> (Vec<Value>, Vec<Value>, bool) {
    let resources = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
    let paths = json!({"verbs": ["*"], "nonResourceURLs": ["*"]});
    (vec![resources], vec![paths], false)
}

/// The message of a 403, naming who wanted what where, as upstream words it.
pub fn forbidden_message(attributes: &Attributes, reason: &str) -> String {
    let Attributes { user, verb, namespace, group, resource, subresource, path, .. } = attributes;
    let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    if !attributes.is_resource {
        return format!("User {:?} cannot {verb} path {path:?}{why}", user.name);
    }
    let resource = match subresource.as_str() {
        "" => resource.clone(),
        sub => format!("{resource}/{sub}"),
    };
    let scope = match namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        ns => format!("in the namespace {ns:?}"),
    };
    format!("User {:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}{why}", user.name)
}
