//! RBAC: roles and bindings, indexed by subject so that a decision touches only the user's bindings.
//!
//! ```text
//! user, groups, service account → bindings (cluster-wide, namespace) → role → rules
//! ```
//!
//! Contract: rbac.authorization.k8s.io/v1; upstream `plugin/pkg/auth/authorizer/rbac`.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use parking_lot::RwLock;
use serde_json::{Value, json};

use super::feed::Index;
use crate::{
    auth::{Attributes, Authorizer, Decision, User},
    authn::serviceaccount::username,
    object::Object,
    objects::{CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, Kind, ROLE_BINDINGS, ROLES},
};

pub mod escalation;
pub mod rule;

use rule::Rule;

/// What the index follows.
pub const KINDS: [Kind; 4] = [ROLES, CLUSTER_ROLES, ROLE_BINDINGS, CLUSTER_ROLE_BINDINGS];

/// Namespace and name; the namespace is empty for cluster scope.
type Key = (String, String);

/// The RBAC authorizer.
#[derive(Default)]
pub struct Rbac {
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    /// Rules by role; cluster roles have an empty namespace.
    roles: HashMap<Key, Arc<[Rule]>>,
    bindings: HashMap<Key, Binding>,
    /// Bindings that name a subject, in order of their names.
    by_subject: HashMap<Subject, BTreeSet<Key>>,
}

struct Binding {
    subjects: Vec<Subject>,
    /// The role's key: a role of the binding's namespace, or a cluster role.
    role: Key,
    role_kind: String,
}

/// Service accounts are indexed by their user name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

/// A rule that applies to a user, and the binding that gives it.
struct Granted {
    rules: Arc<[Rule]>,
    source: String,
}

impl Rbac {
    /// All rules of a user in a namespace (empty: cluster scope only), with roles that do not exist.
    fn granted(&self, user: &User, namespace: &str) -> (Vec<Granted>, Vec<String>) {
        let state = self.state.read();
        let (mut granted, mut errors) = (Vec::new(), Vec::new());
        let subjects: Vec<Subject> = std::iter::once(Subject::User(user.name.clone()))
            .chain(user.groups.iter().cloned().map(Subject::Group))
            .collect();
        let scopes = if namespace.is_empty() { vec![""] } else { vec!["", namespace] };
        for scope in scopes {
            let mut seen = BTreeSet::new();
            for subject in &subjects {
                let Some(keys) = state.by_subject.get(subject) else { continue };
                let from = (scope.to_owned(), String::new());
                for key in keys.range(from..).take_while(|k| k.0 == scope) {
                    if !seen.insert(key) {
                        continue;
                    }
                    let Some(binding) = state.bindings.get(key) else { continue };
                    match state.roles.get(&binding.role) {
                        Some(rules) => {
                            granted.push(Granted {
                                rules: rules.clone(),
                                source: source(key, binding, subject),
                            });
                        }
                        None => errors.push(missing(binding)),
                    }
                }
            }
        }
        (granted, errors)
    }

    /// The rules of a role a binding in `namespace` refers to; `None` when it does not exist.
    pub fn role_rules(&self, kind: &str, namespace: &str, name: &str) -> Option<Arc<[Rule]>> {
        let namespace = if kind == "ClusterRole" { "" } else { namespace };
        self.state.read().roles.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Every rule of a user in a namespace.
    pub fn rules_of(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let (granted, _) = self.granted(user, namespace);
        granted.iter().flat_map(|g| g.rules.iter().cloned()).collect()
    }
}

fn source((namespace, name): &Key, binding: &Binding, subject: &Subject) -> String {
    let subject = match subject {
        Subject::User(name) => match crate::authn::serviceaccount::split_username(name) {
            Some((ns, account)) => format!("ServiceAccount \"{account}/{ns}\""),
            None => format!("User {name:?}"),
        },
        Subject::Group(name) => format!("Group {name:?}"),
    };
    let Binding { role_kind, role: (_, role), .. } = binding;
    if namespace.is_empty() {
        format!("ClusterRoleBinding {name:?} of {role_kind} {role:?} to {subject}")
    } else {
        format!("RoleBinding \"{name}/{namespace}\" of {role_kind} {role:?} to {subject}")
    }
}

fn missing(binding: &Binding) -> String {
    let resource = if binding.role_kind == "ClusterRole" { CLUSTER_ROLES } else { ROLES };
    format!("{}.{} {:?} not found", resource.resource, resource.group, binding.role.1)
        .replace("clusterroles.", "clusterrole.")
        .replace("roles.", "role.")
}

#[async_trait]
impl Authorizer for Rbac {
    async fn authorize(&self, attributes: &Attributes) -> Decision {
        let (granted, errors) = self.granted(&attributes.user, &attributes.namespace);
        for one in &granted {
            if one.rules.iter().any(|rule| rule.allows(attributes)) {
                return Decision::Allow(format!("RBAC: allowed by {}", one.source));
            }
        }
        match errors.as_slice() {
            [] => Decision::NoOpinion(String::new()),
            [one] => Decision::NoOpinion(format!("RBAC: {one}")),
            many => Decision::NoOpinion(format!("RBAC: [{}]", many.join(", "))),
        }
    }

    async fn rules(&self, user: &User, namespace: &str) -> (Vec<Value>, Vec<Value>, bool) {
        let (mut resources, mut paths) = (Vec::new(), Vec::new());
        for rule in self.rules_of(user, namespace) {
            if rule.paths.is_empty() {
                let mut value =
                    json!({"verbs": rule.verbs, "apiGroups": rule.groups, "resources": rule.resources});
                if !rule.names.is_empty() {
                    value["resourceNames"] = json!(rule.names);
                }
                resources.push(value);
            } else {
                paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.paths}));
            }
        }
        (resources, paths, false)
    }
}

impl Index for Rbac {
    fn apply(&self, kind: Kind, object: &Object) {
        let key = (object.namespace().to_owned(), object.name().to_owned());
        let mut state = self.state.write();
        if kind == ROLES || kind == CLUSTER_ROLES {
            state.roles.insert(key, rule::rules_of(object).into());
        } else {
            state.unbind(&key);
            let binding = Binding::read(object);
            for subject in &binding.subjects {
                state.by_subject.entry(subject.clone()).or_default().insert(key.clone());
            }
            state.bindings.insert(key, binding);
        }
    }

    fn remove(&self, kind: Kind, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        let mut state = self.state.write();
        if kind == ROLES || kind == CLUSTER_ROLES {
            state.roles.remove(&key);
        } else {
            state.unbind(&key);
        }
    }
}

impl State {
    fn unbind(&mut self, key: &Key) {
        let Some(binding) = self.bindings.remove(key) else { return };
        for subject in binding.subjects {
            if let Some(keys) = self.by_subject.get_mut(&subject) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_subject.remove(&subject);
                }
            }
        }
    }
}

impl Binding {
    fn read(object: &Object) -> Self {
        let reference = |field: &str| {
            let found = object.get("roleRef").and_then(|r| r.get(field)).and_then(Value::as_str);
            found.unwrap_or_default().to_owned()
        };
        let role_kind = reference("kind");
        let namespace = if role_kind == "Role" { object.namespace() } else { "" };
        let role = (namespace.to_owned(), reference("name"));
        let subjects = object.get("subjects").and_then(Value::as_array).into_iter().flatten();
        let subjects = subjects.filter_map(|s| Subject::read(s, object.namespace())).collect();
        Self { subjects, role, role_kind }
    }
}

impl Subject {
    fn read(value: &Value, binding_namespace: &str) -> Option<Self> {
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
        let name = text("name").to_owned();
        match text("kind") {
            "User" => Some(Self::User(name)),
            "Group" => Some(Self::Group(name)),
            "ServiceAccount" => {
                let namespace = match text("namespace") {
                    "" => binding_namespace,
                    namespace => namespace,
                };
                (!namespace.is_empty()).then(|| Self::User(username(namespace, &name)))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
