//! Impersonation: acting as somebody else.
//!
//! A mode asks two things: whether the requester may do just this while it acts as somebody of a kind
//! (`impersonate-on:<mode>:<verb>`), and whether it may act as this one (`impersonate:<mode>`). The first mode in which both
//! hold is taken; the last one is older than the others, and asks for every user, group, uid and extra value alone.
//!
//! Contract: "User impersonation" of the authentication reference; KEP-5284 (`ConstrainedImpersonation`); upstream's
//! `endpoints/filters/impersonation`. Upstream keeps what was allowed for ten seconds; nothing is kept here but which mode
//! helped a requester last.

use std::{collections::HashMap, sync::Arc, time::Instant};

use component_base::features::Gate;
use http::HeaderMap;
use parking_lot::Mutex;

use crate::{
    audit,
    auth::{Attributes, User},
    authn::serviceaccount::split_username,
    metrics,
    request_path::{forbidden, may},
    server::Server,
    status::Status,
    validate,
};

/// The API group of what is asked for.
const AUTHENTICATION: &str = "authentication.k8s.io";
const MASTERS: &str = "system:masters";
const AUTHENTICATED: &str = "system:authenticated";
const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Where a token says which node its pod is on.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// Where it is said which of these there were.
const KEYS: &str = "authentication.kubernetes.io/associated-node-keys";
/// From so many on it is asked for all at once.
const MANY: usize = 4;
/// Requesters whose mode is remembered: a megabyte.
const REQUESTERS: usize = 10_000;

/// A way to act as somebody else, in the order they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A pod's account acts as the pod's node.
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    /// Anybody else.
    UserInfo,
    /// Without constraints.
    Legacy,
}
use Mode::{ArbitraryNode, AssociatedNode, Legacy, ServiceAccount, UserInfo};

const MODES: [Mode; 5] = [AssociatedNode, ArbitraryNode, ServiceAccount, UserInfo, Legacy];

/// Which mode helped a requester last: it is tried first.
#[derive(Debug, Default)]
pub struct LastModes(Mutex<HashMap<Arc<str>, Mode>>);

// === impl LastModes ===

impl LastModes {
    fn of(&self, requester: &str) -> Option<Mode> {
        self.0.lock().get(requester).copied()
    }

    fn remember(&self, requester: &str, mode: Mode) {
        let mut known = self.0.lock();
        if known.len() >= REQUESTERS && !known.contains_key(requester) {
            known.clear();
        }
        known.insert(requester.into(), mode);
    }
}

// === impl Mode ===

impl Mode {
    fn name(self) -> &'static str {
        match self {
            AssociatedNode => "associated-node",
            ArbitraryNode => "arbitrary-node",
            ServiceAccount => "serviceaccount",
            UserInfo => "user-info",
            Legacy => "",
        }
    }

    /// As metrics have it.
    fn label(self) -> &'static str {
        if self == Legacy { "legacy" } else { self.name() }
    }

    /// What one has to be allowed to do.
    fn verb(self) -> String {
        match self {
            Legacy => "impersonate".to_owned(),
            other => format!("impersonate:{}", other.name()),
        }
    }

    /// Whether it is a way for a requester to act as somebody. Of all but others, the server knows what belongs to a name.
    fn fits(self, wanted: &User, requester: &User) -> bool {
        let bare = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        let (node, account) = (node_name(&wanted.name), split_username(&wanted.name));
        match self {
            AssociatedNode => bare && node.is_some() && node == node_of(requester),
            ArbitraryNode => bare && node.is_some(),
            ServiceAccount => bare && account.is_some(),
            UserInfo => node.is_none() && account.is_none(),
            Legacy => true,
        }
    }

    /// The requester as authorizers see it. Of an account on its own node, only what kinds of things its token says: what is
    /// allowed to it is allowed on all nodes.
    fn shown(self, requester: &User) -> User {
        let mut shown = requester.clone();
        if self == AssociatedNode {
            let keys = requester.extra.keys().cloned().collect();
            shown.extra = [(KEYS.to_owned(), keys)].into();
        }
        shown
    }
}

/// The node a user name is of.
fn node_name(user: &str) -> Option<&str> {
    user.strip_prefix("system:node:").filter(|name| validate::dns_subdomain(name, false).is_empty())
}

/// The node that the pod of a service account is on.
fn node_of(requester: &User) -> Option<&str> {
    split_username(&requester.name)?;
    match requester.extra.get(NODE_NAME)?.as_slice() {
        [one] => Some(one),
        _ => None,
    }
}

/// Who is to act: somebody else where headers say so and the user may, for the request that `asked` describes.
pub(super) async fn act_as(
    server: &Server,
    user: User,
    headers: &HeaderMap,
    asked: impl FnOnce(&User) -> Attributes,
) -> Result<User, Status> {
    let constrained = server.gates.has(Gate::ConstrainedImpersonation);
    let Some(wanted) = wanted(headers, constrained)? else { return Ok(user) };
    let asked = asked(&user);
    let last = if constrained { server.impersonation.of(&user.name) } else { Some(Legacy) };
    let others = MODES.into_iter().filter(|mode| constrained && Some(*mode) != last);
    let (mut first, begun) = (None, Instant::now());
    let told = |mode: &str, decision: &str| {
        if constrained {
            metrics::IMPERSONATIONS.with_label_values(&[mode, decision]).inc();
            metrics::IMPERSONATING
                .with_label_values(&[mode, decision])
                .observe(begun.elapsed().as_secs_f64());
        }
    };
    for mode in last.into_iter().chain(others).filter(|mode| mode.fits(&wanted, &user)) {
        match check(server, mode, &wanted, &asked).await {
            Ok(target) => {
                told(mode.label(), "allowed");
                if constrained {
                    server.impersonation.remember(&user.name, mode);
                }
                if let Some(context) = audit::current() {
                    let constraint = if mode == Legacy { String::new() } else { mode.verb() };
                    context.impersonated(&target, constraint);
                }
                return Ok(target);
            }
            Err(status) => drop(first.get_or_insert(status)),
        }
    }
    told("", "denied");
    Err(first.unwrap_or_else(|| Status::internal("all impersonation modes failed")))
}

/// Who is wanted, as the headers say it.
fn wanted(headers: &HeaderMap, constrained: bool) -> Result<Option<User>, Status> {
    let text = |value: &http::HeaderValue| value.to_str().ok().map(str::to_owned);
    let one = |name: &str| headers.get(name).and_then(text).unwrap_or_default();
    let mut wanted = User { name: one("impersonate-user"), uid: one("impersonate-uid"), ..User::default() };
    wanted.groups = headers.get_all("impersonate-group").iter().filter_map(text).collect();
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix("impersonate-extra-") else { continue };
        let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned();
        wanted.extra.entry(key).or_default().extend(text(value));
    }
    if !wanted.name.is_empty() {
        return Ok(Some(wanted));
    }
    if wanted == User::default() {
        return Ok(None);
    }
    let name = if constrained { " name" } else { "" };
    let message = format!(
        "requested groups {:?}, uid {:?} and extra {:?} without impersonating a user{name}",
        wanted.groups, wanted.uid, wanted.extra
    );
    Err(Status::bad_request(message))
}

/// Who acts in a mode, if that is allowed.
async fn check(server: &Server, mode: Mode, wanted: &User, asked: &Attributes) -> Result<User, Status> {
    let requester = mode.shown(&asked.user);
    if mode != Legacy {
        let verb = format!("impersonate-on:{}:{}", mode.name(), asked.verb);
        ask(server, mode, &Attributes { user: requester.clone(), verb, ..asked.clone() }).await?;
    }
    let asks = Asks { server, mode, requester };
    let mut target = wanted.clone();
    asks.name(wanted, &mut target).await?;
    if !wanted.uid.is_empty() {
        asks.may("uids", "", &wanted.uid).await?;
    }
    asks.groups(&wanted.groups).await?;
    asks.extra(wanted).await?;
    let base = match target.name.as_str() {
        "system:anonymous" => Some(UNAUTHENTICATED),
        _ if target.in_group(UNAUTHENTICATED) => None,
        _ => Some(AUTHENTICATED),
    };
    if let Some(base) = base.filter(|base| !target.in_group(base)) {
        target.groups.push(base.to_owned());
    }
    Ok(target)
}

/// One question of a mode.
async fn ask(server: &Server, mode: Mode, asked: &Attributes) -> Result<(), Status> {
    let begun = Instant::now();
    let answer = may(server, asked).await;
    if server.gates.has(Gate::ConstrainedImpersonation) {
        let labels = [mode.label(), if answer.is_ok() { "allowed" } else { "denied" }];
        metrics::IMPERSONATION_CHECKS.with_label_values(&labels).inc();
        metrics::IMPERSONATION_CHECKING.with_label_values(&labels).observe(begun.elapsed().as_secs_f64());
    }
    answer
}

/// What is asked in a mode.
struct Asks<'a> {
    server: &'a Server,
    mode: Mode,
    requester: User,
}

// === impl Asks ===

impl Asks<'_> {
    fn attributes(&self, resource: &str, subresource: &str, name: &str) -> Attributes {
        // Users and groups of old are of the core group.
        let core = self.mode == Legacy && matches!(resource, "users" | "groups" | "serviceaccounts");
        Attributes {
            user: self.requester.clone(),
            verb: self.mode.verb(),
            group: if core { String::new() } else { AUTHENTICATION.to_owned() },
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            name: name.to_owned(),
            is_resource: true,
            ..Attributes::default()
        }
    }

    async fn may(&self, resource: &str, subresource: &str, name: &str) -> Result<(), Status> {
        ask(self.server, self.mode, &self.attributes(resource, subresource, name)).await
    }

    /// The groups of nodes and of accounts are known.
    async fn name(&self, wanted: &User, target: &mut User) -> Result<(), Status> {
        if let Some((namespace, name)) = split_username(&wanted.name) {
            if wanted.groups.is_empty() {
                target.groups =
                    vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
            }
            let account = self.attributes("serviceaccounts", "", name);
            let account = Attributes { namespace: namespace.to_owned(), ..account };
            return ask(self.server, self.mode, &account).await;
        }
        match node_name(&wanted.name).filter(|_| self.mode != Legacy) {
            Some(node) => {
                target.groups = vec!["system:nodes".to_owned()];
                let name = if self.mode == AssociatedNode { "*" } else { node };
                self.may("nodes", "", name).await
            }
            None => self.may("users", "", &wanted.name).await,
        }
    }

    async fn groups(&self, groups: &[String]) -> Result<(), Status> {
        if self.mode != Legacy {
            let refuse = |name: &str, why: &str| Err(forbidden(&self.attributes("groups", "", name), why));
            if groups.iter().any(String::is_empty) {
                return refuse("", "impersonating the empty string group is not allowed");
            }
            if groups.iter().any(|group| group == MASTERS) {
                return refuse(MASTERS, "impersonating the system:masters group is not allowed");
            }
            if groups.len() >= MANY && self.may("groups", "", "*").await.is_ok() {
                return Ok(());
            }
        }
        for group in groups {
            self.may("groups", "", group).await?;
        }
        Ok(())
    }

    async fn extra(&self, wanted: &User) -> Result<(), Status> {
        if self.mode != Legacy {
            for (key, values) in &wanted.extra {
                check_extra(key, values)
                    .map_err(|why| forbidden(&self.attributes("userextras", "", ""), &why))?;
            }
            let values: usize = wanted.extra.values().map(Vec::len).sum();
            if values >= MANY && self.may("userextras", "*", "*").await.is_ok() {
                return Ok(());
            }
        }
        for (key, values) in &wanted.extra {
            for value in values {
                self.may("userextras", key, value).await?;
            }
        }
        Ok(())
    }
}

/// What was always let through and is not any more.
fn check_extra(key: &str, values: &[String]) -> Result<(), String> {
    if key.is_empty() {
        return Err("impersonating the empty string key in extra is not allowed".to_owned());
    }
    if let Some((part, why)) = validate::domain_prefixed_path(key).first() {
        return Err(format!(
            "impersonating an invalid key in extra is not allowed: extra.key: Invalid value: {part:?}: {why}"
        ));
    }
    if key.to_lowercase() != key {
        return Err(format!("impersonating a non-lowercase key in extra is not allowed: {key:?}"));
    }
    if values.is_empty() {
        return Err("impersonating empty values in extra is not allowed".to_owned());
    }
    if values.iter().any(String::is_empty) {
        return Err("impersonating the empty string value in extra is not allowed".to_owned());
    }
    Ok(())
}
