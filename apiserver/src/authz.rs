//! Authorization: may this user do that?
//!
//! ```text
//! attributes → system:masters → --authorization-mode in order (Node, RBAC, ABAC, Webhook, AlwaysAllow,
//!                                                        AlwaysDeny)
//! ```
//!
//! Contract: Kubernetes "Authorization"; upstream `pkg/kubeapiserver/authorizer`.

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use component_base::features::Gates;
use futures::future::BoxFuture;
use prometheus::IntCounter;
use serde_json::{Value, json};

use crate::{
    auth::{Attributes, Authorizer, Decision, User},
    egress::Route,
    metrics,
    objects::Objects,
    response::sanitized,
};

pub mod abac;
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
    /// Policies of a file.
    Abac(PathBuf),
    /// A service that is asked.
    Webhook(webhook::Options),
}

impl Mode {
    /// How the flag and the file call it.
    fn word(&self) -> &'static str {
        match self {
            Self::AlwaysAllow => "AlwaysAllow",
            Self::AlwaysDeny => "AlwaysDeny",
            Self::Node => "Node",
            Self::Rbac => "RBAC",
            Self::Abac(_) => "ABAC",
            Self::Webhook(_) => "Webhook",
        }
    }
}

/// What [`build`] makes.
pub struct Authorization {
    /// The chain of modes.
    pub authorizer: Arc<dyn Authorizer>,
    /// The same, whose webhooks may be replaced.
    pub chain: Arc<Chain>,
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
pub fn webhooks(modes: &[Mode], route: &Route) -> Result<Vec<Arc<dyn Authorizer>>, webhook::BuildError> {
    let mut all: Vec<Arc<dyn Authorizer>> = Vec::new();
    for mode in modes {
        if let Mode::Webhook(options) = mode {
            all.push(Arc::new(webhook::WebhookAuthorizer::new(options.clone(), route)?));
        }
    }
    Ok(all)
}

/// Makes the chain for these modes, none of which is a webhook; no mode means AlwaysAllow, as upstream.
#[cfg(test)]
pub(crate) fn build(modes: &[Mode]) -> Authorization {
    build_with(modes, Vec::new(), Gates::default()).expect("no mode has a file")
}

/// Makes the chain for these modes and their webhooks; no mode means AlwaysAllow, as upstream.
///
/// # Errors
/// When a mode's file is of no use.
pub fn build_with(
    modes: &[Mode],
    webhooks: Vec<Arc<dyn Authorizer>>,
    gates: Gates,
) -> Result<Authorization, abac::LoadError> {
    let mut own: Vec<(Mode, Arc<dyn Authorizer>)> = Vec::new();
    let mut feeds = Vec::new();
    let mut index = None;
    let modes = if modes.is_empty() { &[Mode::AlwaysAllow] } else { modes };
    for mode in modes {
        let authorizer: Arc<dyn Authorizer> = match mode {
            Mode::Webhook(_) => continue,
            Mode::AlwaysAllow => Arc::new(Always(true)),
            Mode::AlwaysDeny => Arc::new(Always(false)),
            Mode::Abac(file) => Arc::new(abac::Policies::load(file)?),
            Mode::Rbac => {
                let rbac = Arc::new(rbac::Rbac::default());
                feeds.extend(rbac::KINDS.map(|kind| feed::Feed::new(kind, rbac.clone())));
                index = Some(rbac.clone());
                rbac
            }
            Mode::Node => {
                let node = Arc::new(node::NodeAuthorizer::new(gates));
                feeds.extend(node::kinds(gates).map(|kind| feed::Feed::new(kind, node.clone())));
                node
            }
        };
        own.push((mode.clone(), authorizer));
    }
    let current = ArcSwap::from_pointee(assemble(modes, &own, webhooks));
    let chain = Arc::new(Chain { own, current });
    Ok(Authorization { authorizer: chain.clone(), chain, rbac: index, feeds })
}

/// The authorizers in the order of their modes, behind the group that may do everything.
fn assemble(
    modes: &[Mode],
    own: &[(Mode, Arc<dyn Authorizer>)],
    webhooks: Vec<Arc<dyn Authorizer>>,
) -> Union {
    let mut webhooks = webhooks.into_iter();
    let mut all: Vec<Arc<dyn Authorizer>> = vec![Arc::new(Masters)];
    for mode in modes {
        match mode {
            Mode::Webhook(_) => all.extend(webhooks.next().map(|one| Counted::of(mode, one))),
            mode => all
                .extend(own.iter().find(|(of, _)| of == mode).map(|(_, own)| Counted::of(mode, own.clone()))),
        }
    }
    Union(all)
}

/// A chain of authorizers. What the server is itself stays; webhooks, and the order of all, may change.
pub struct Chain {
    own: Vec<(Mode, Arc<dyn Authorizer>)>,
    current: ArcSwap<Union>,
}

impl Chain {
    /// Puts these modes and their webhooks in the place of the former ones.
    ///
    /// # Errors
    /// When a mode that is no webhook came or went: that takes a new start.
    pub fn replace(&self, modes: &[Mode], webhooks: Vec<Arc<dyn Authorizer>>) -> Result<(), String> {
        let is_own = |mode: &&Mode| !matches!(mode, Mode::Webhook(_));
        let wanted: Vec<&Mode> = modes.iter().filter(is_own).collect();
        if let Some((gone, _)) = self.own.iter().find(|(mode, _)| !wanted.contains(&mode)) {
            return Err(format!("authorizers: {gone:?} cannot be left out while the server runs"));
        }
        if let Some(new) = wanted.iter().find(|mode| !self.own.iter().any(|(own, _)| own == **mode)) {
            return Err(format!("authorizers: {new:?} cannot be added while the server runs"));
        }
        self.current.store(Arc::new(assemble(modes, &self.own, webhooks)));
        Ok(())
    }
}

#[async_trait]
impl Authorizer for Chain {
    async fn authorize(&self, attributes: &Attributes) -> Decision {
        let current = self.current.load_full();
        current.authorize(attributes).await
    }

    async fn rules(&self, user: &User, namespace: &str) -> (Vec<Value>, Vec<Value>, bool) {
        let current = self.current.load_full();
        current.rules(user, namespace).await
    }
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

/// An authorizer whose decisions are counted.
struct Counted {
    inner: Arc<dyn Authorizer>,
    allowed: IntCounter,
    denied: IntCounter,
}

impl Counted {
    fn of(mode: &Mode, inner: Arc<dyn Authorizer>) -> Arc<dyn Authorizer> {
        let name = match mode {
            Mode::Webhook(options) => options.name.clone(),
            mode => mode.word().to_lowercase(),
        };
        let count = |decision| metrics::DECISIONS.with_label_values(&[mode.word(), name.as_str(), decision]);
        Arc::new(Self { inner, allowed: count("allowed"), denied: count("denied") })
    }
}

#[async_trait]
impl Authorizer for Counted {
    async fn authorize(&self, attributes: &Attributes) -> Decision {
        let decision = self.inner.authorize(attributes).await;
        match decision {
            Decision::Allow(_) => self.allowed.inc(),
            Decision::Deny(_) | Decision::Failed { denied: true, .. } => self.denied.inc(),
            // Not the last word.
            Decision::NoOpinion(_) | Decision::Failed { denied: false, .. } => {}
        }
        decision
    }

    async fn rules(&self, user: &User, namespace: &str) -> (Vec<Value>, Vec<Value>, bool) {
        self.inner.rules(user, namespace).await
    }
}

/// Authorizers in order; the first opinion counts, reasons and errors of the others are joined.
pub struct Union(pub Vec<Arc<dyn Authorizer>>);

#[async_trait]
impl Authorizer for Union {
    async fn authorize(&self, attributes: &Attributes) -> Decision {
        let (mut reasons, mut errors) = (Vec::new(), Vec::new());
        for one in &self.0 {
            let reason = match one.authorize(attributes).await {
                Decision::NoOpinion(reason) => reason,
                Decision::Failed { denied: false, reason, error } => {
                    errors.push(error);
                    reason
                }
                opinion => return opinion,
            };
            if !reason.is_empty() {
                reasons.push(reason);
            }
        }
        let reason = reasons.join("\n");
        match errors.len() {
            0 => Decision::NoOpinion(reason),
            1 => Decision::Failed { denied: false, reason, error: errors.remove(0) },
            _ => Decision::Failed { denied: false, reason, error: format!("[{}]", errors.join(", ")) },
        }
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
        return sanitized(&format!("User {:?} cannot {verb} path {path:?}", user.name)) + &why;
    }
    let resource = match subresource.as_str() {
        "" => resource.to_string(),
        sub => format!("{resource}/{sub}"),
    };
    let scope = match namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        ns => format!("in the namespace {ns:?}"),
    };
    let what =
        format!("User {:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}", user.name);
    sanitized(&what) + &why
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Allows one verb.
    struct Verb(&'static str);

    #[async_trait]
    impl Authorizer for Verb {
        async fn authorize(&self, attributes: &Attributes) -> Decision {
            let yes = attributes.verb == self.0;
            if yes { Decision::Allow(String::new()) } else { Decision::NoOpinion(String::new()) }
        }
    }

    #[test]
    fn refusals_are_no_html() {
        let user = Arc::new(User { name: "<b>".to_owned(), ..User::default() });
        let asked = Attributes {
            user,
            verb: "get".into(),
            resource: "pods".into(),
            is_resource: true,
            ..Attributes::default()
        };
        let said = forbidden_message(&asked, "a < b");
        let want =
            "User \"&lt;b&gt;\" cannot get resource \"pods\" in API group \"\" at the cluster scope: a < b";
        assert_eq!(said, want);
    }

    /// Decides the same of everything.
    struct Fixed(Decision);

    #[async_trait]
    impl Authorizer for Fixed {
        async fn authorize(&self, _: &Attributes) -> Decision {
            self.0.clone()
        }
    }

    #[tokio::test]
    async fn who_cannot_be_asked_is_passed_over_unless_that_denies() {
        let failed =
            |denied, error: &str| Decision::Failed { denied, reason: String::new(), error: error.to_owned() };
        let of = async |all: Vec<Decision>| {
            let all = all.into_iter().map(|one| Arc::new(Fixed(one)) as Arc<dyn Authorizer>).collect();
            Union(all).authorize(&Attributes::default()).await
        };
        let allow = Decision::Allow("r".to_owned());
        assert_eq!(of(vec![failed(false, "a"), allow.clone()]).await, allow);
        assert_eq!(of(vec![failed(true, "a"), allow]).await, failed(true, "a"));
        assert_eq!(of(vec![failed(false, "a")]).await, failed(false, "a"));
        let no = Decision::NoOpinion("no".to_owned());
        let told = of(vec![failed(false, "a"), no, failed(false, "b")]).await;
        assert_eq!(
            told,
            Decision::Failed { denied: false, reason: "no".to_owned(), error: "[a, b]".to_owned() }
        );
        assert_eq!(told.allowed(), Err("no".to_owned()));
    }

    fn webhook(name: &str) -> Mode {
        let options = webhook::Options {
            name: name.to_owned(),
            kubeconfig: "/none".into(),
            version: "v1",
            timeout: std::time::Duration::from_secs(1),
            allowed_ttl: std::time::Duration::ZERO,
            denied_ttl: std::time::Duration::ZERO,
            fails_closed: false,
            conditions: Vec::new(),
        };
        Mode::Webhook(options)
    }

    #[tokio::test]
    async fn webhooks_are_replaced_and_what_the_server_is_itself_stays() {
        let before = [webhook("a"), Mode::AlwaysDeny];
        let made = build_with(&before, vec![Arc::new(Verb("get"))], Gates::default()).unwrap();
        let asks = |verb: &str| Attributes { verb: verb.into(), ..Attributes::default() };
        let allowed =
            async |verb: &str| matches!(made.authorizer.authorize(&asks(verb)).await, Decision::Allow(_));
        assert!(allowed("get").await && !allowed("list").await);
        let after = [webhook("b"), webhook("c"), Mode::AlwaysDeny];
        made.chain.replace(&after, vec![Arc::new(Verb("list")), Arc::new(Verb("watch"))]).unwrap();
        assert!(!allowed("get").await && allowed("list").await && allowed("watch").await);
        for wrong in [&[webhook("b")][..], &[Mode::AlwaysDeny, Mode::AlwaysAllow], &[]] {
            assert!(made.chain.replace(wrong, vec![Arc::new(Verb("get"))]).is_err(), "{wrong:?}");
        }
        assert!(!allowed("get").await && allowed("list").await);
        made.chain.replace(&[Mode::AlwaysDeny], Vec::new()).unwrap();
        assert!(!allowed("list").await);
    }
}
