//! Impersonation: acting as somebody else.
//!
//! A mode asks two things: whether the requester may do just this while it acts as somebody of a kind
//! (`impersonate-on:<mode>:<verb>`), and whether it may act as this one (`impersonate:<mode>`). The first mode in which both
//! hold is taken; the last one is older than the others, and asks for every user, group, uid and extra value alone.
//!
//! Contract: "User impersonation" of the authentication reference; KEP-5284 (`ConstrainedImpersonation`); upstream's
//! `endpoints/filters/impersonation`. As there, what a mode with constraints allowed is kept for ten seconds, and which mode
//! helped a requester last.

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use component_base::features::Gate;
use http::HeaderMap;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use smol_str::SmolStr;

use crate::{
    audit,
    auth::{Attributes, Authorizer, User},
    authn::{cache::Cache, serviceaccount::split_username},
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
/// How long it is known what was allowed.
const KEPT: Duration = Duration::from_secs(10);
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

/// What is known of those who acted as somebody else.
pub struct Memory {
    /// Which mode helped a requester last: it is tried first.
    last: Mutex<HashMap<Arc<str>, Mode>>,
    /// Who acts, by everything that was asked.
    whole: Cache<Key, User>,
    /// Who acts, by who wanted to be whom.
    who: Cache<Key, User>,
}

type Key = [u8; 32];

// === impl Memory ===

impl Default for Memory {
    fn default() -> Self {
        let cache = || Cache::new(KEPT, Duration::ZERO);
        Self { last: Mutex::default(), whole: cache(), who: cache() }
    }
}

impl Memory {
    fn of(&self, requester: &str) -> Option<Mode> {
        self.last.lock().get(requester).copied()
    }

    fn remember(&self, requester: &str, mode: Mode) {
        let mut known = self.last.lock();
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
    user: Arc<User>,
    headers: &HeaderMap,
    asked: impl FnOnce(&Arc<User>) -> Attributes,
) -> Result<Arc<User>, Status> {
    let constrained = server.gates.has(Gate::ConstrainedImpersonation);
    let Some(wanted) = wanted(headers, constrained)? else { return Ok(user) };
    let asked = asked(&user);
    let place = Place { authorizer: &*server.authorizer, memory: &server.impersonation, constrained };
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
        match check(&place, mode, &wanted, &asked).await {
            Ok(target) => {
                told(mode.label(), "allowed");
                if constrained {
                    server.impersonation.remember(&user.name, mode);
                }
                if let Some(context) = audit::current() {
                    let constraint = if mode == Legacy { String::new() } else { mode.verb() };
                    context.impersonated(&target, constraint);
                }
                return Ok(Arc::new(target));
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
async fn check(place: &Place<'_>, mode: Mode, wanted: &User, asked: &Attributes) -> Result<User, Status> {
    let requester = mode.shown(&asked.user);
    if mode == Legacy {
        return target(&Asks { place, mode, requester }, wanted).await;
    }
    let asked = Attributes { user: Arc::new(requester.clone()), ..asked.clone() };
    // An account may act as its node wherever it is: which one this is does not matter to what is known.
    let kind = if mode == AssociatedNode { &User::default() } else { wanted };
    let named = |known: User| User { name: wanted.name.clone(), ..known };
    let (memory, now) = (place.memory, Instant::now());
    let whole = key(&(mode, kind, &asked));
    if let Some(known) = memory.whole.get(&whole, now) {
        return Ok(named(known));
    }
    let verb = format!("impersonate-on:{}:{}", mode.name(), asked.verb);
    ask(place, mode, &Attributes { verb: verb.into(), ..asked }).await?;
    let who = key(&(mode, kind, &requester));
    let target = match memory.who.get(&who, now) {
        Some(known) => named(known),
        None => {
            let target = target(&Asks { place, mode, requester }, wanted).await?;
            memory.who.put(who, target.clone(), true, Instant::now());
            target
        }
    };
    memory.whole.put(whole, target.clone(), true, Instant::now());
    Ok(target)
}

/// What tells questions apart: texts are quoted, so that no two of them look alike.
fn key(question: &impl fmt::Debug) -> Key {
    Sha256::digest(format!("{question:?}")).into()
}

/// Who acts, if the requester may act as this one.
async fn target(asks: &Asks<'_>, wanted: &User) -> Result<User, Status> {
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

/// Who is asked, and what is known already.
struct Place<'a> {
    authorizer: &'a dyn Authorizer,
    memory: &'a Memory,
    /// Whether there are modes with constraints.
    constrained: bool,
}

/// One question of a mode.
async fn ask(place: &Place<'_>, mode: Mode, asked: &Attributes) -> Result<(), Status> {
    let begun = Instant::now();
    let answer = may(place.authorizer, asked).await;
    if place.constrained {
        let labels = [mode.label(), if answer.is_ok() { "allowed" } else { "denied" }];
        metrics::IMPERSONATION_CHECKS.with_label_values(&labels).inc();
        metrics::IMPERSONATION_CHECKING.with_label_values(&labels).observe(begun.elapsed().as_secs_f64());
    }
    answer
}

/// What is asked in a mode.
struct Asks<'a> {
    place: &'a Place<'a>,
    mode: Mode,
    requester: User,
}

// === impl Asks ===

impl Asks<'_> {
    fn attributes(&self, resource: &str, subresource: &str, name: &str) -> Attributes {
        // Users and groups of old are of the core group.
        let core = self.mode == Legacy && matches!(resource, "users" | "groups" | "serviceaccounts");
        Attributes {
            user: Arc::new(self.requester.clone()),
            verb: self.mode.verb().into(),
            group: if core { SmolStr::default() } else { AUTHENTICATION.into() },
            version: "v1".into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            is_resource: true,
            ..Attributes::default()
        }
    }

    async fn may(&self, resource: &str, subresource: &str, name: &str) -> Result<(), Status> {
        ask(self.place, self.mode, &self.attributes(resource, subresource, name)).await
    }

    /// The groups of nodes and of accounts are known.
    async fn name(&self, wanted: &User, target: &mut User) -> Result<(), Status> {
        if let Some((namespace, name)) = split_username(&wanted.name) {
            if wanted.groups.is_empty() {
                target.groups =
                    vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
            }
            let account = self.attributes("serviceaccounts", "", name);
            let account = Attributes { namespace: namespace.into(), ..account };
            return ask(self.place, self.mode, &account).await;
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

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::auth::Decision;

    /// Allows everything, and keeps what it was asked.
    #[derive(Default)]
    struct Lenient(Mutex<Vec<String>>);

    #[async_trait]
    impl Authorizer for Lenient {
        async fn authorize(&self, asked: &Attributes) -> Decision {
            self.0.lock().push(format!("{} {}/{}", asked.verb, asked.resource, asked.name));
            Decision::Allow(String::new())
        }
    }

    fn user(name: &str, extra: &[(&str, &str)]) -> User {
        let extra = extra.iter().map(|(key, value)| ((*key).to_owned(), vec![(*value).to_owned()])).collect();
        User { name: name.to_owned(), extra, ..User::default() }
    }

    fn get(requester: &User, name: &str) -> Attributes {
        Attributes {
            user: Arc::new(requester.clone()),
            verb: "get".into(),
            resource: "pods".into(),
            name: name.into(),
            is_resource: true,
            ..Attributes::default()
        }
    }

    /// What is asked for one request after the other.
    async fn asked(mode: Mode, requests: &[(&User, Attributes)]) -> Vec<Vec<String>> {
        let (authorizer, memory) = (Lenient::default(), Memory::default());
        let place = Place { authorizer: &authorizer, memory: &memory, constrained: true };
        let mut all = Vec::new();
        for (wanted, request) in requests {
            let target = check(&place, mode, wanted, request).await.unwrap();
            assert_eq!(target.name, wanted.name, "whoever was known");
            all.push(std::mem::take(&mut *authorizer.0.lock()));
        }
        all
    }

    #[tokio::test]
    async fn what_was_allowed_is_not_asked_again() {
        let (jane, me, you) = (user("jane", &[]), user("me", &[]), user("you", &[]));
        let (joe, on, who) =
            (user("joe", &[]), "impersonate-on:user-info:get pods/", "impersonate:user-info users/");
        let all = [
            (&jane, get(&me, "a")),
            (&jane, get(&me, "a")),
            (&jane, get(&me, "b")),
            (&joe, get(&me, "a")),
            (&jane, get(&you, "a")),
        ];
        assert_eq!(
            asked(UserInfo, &all).await,
            [
                vec![format!("{on}a"), format!("{who}jane")],
                vec![],
                vec![format!("{on}b")],
                vec![format!("{on}a"), format!("{who}joe")],
                vec![format!("{on}a"), format!("{who}jane")],
            ]
        );
        // Without constraints everything is asked every time.
        let legacy = asked(Legacy, &all[..2]).await;
        assert_eq!(legacy, vec![vec!["impersonate users/jane".to_owned()]; 2]);
    }

    #[tokio::test]
    async fn what_an_account_may_on_one_node_it_may_on_its_node() {
        let account = |node: &str| user("system:serviceaccount:n:a", &[(NODE_NAME, node)]);
        let nodes = ["x", "y"].map(|node| user(&format!("system:node:{node}"), &[]));
        let all = [(&nodes[0], get(&account("x"), "p")), (&nodes[1], get(&account("y"), "p"))];
        let first = vec![
            "impersonate-on:associated-node:get pods/p".to_owned(),
            "impersonate:associated-node nodes/*".to_owned(),
        ];
        assert_eq!(asked(AssociatedNode, &all).await, [first, vec![]]);
    }
}
