//! The roles and bindings every cluster starts with, reconciled at start-up.
//!
//! The tables hold the policy of Kubernetes 1.36 in words separated by blanks (`core` is the group
//! without a name). What is missing in the cluster is added; what somebody added stays; objects
//! annotated `rbac.authorization.kubernetes.io/autoupdate: "false"` are left alone. What is behind a feature gate is there
//! when the gate is on.
//! Contract: Kubernetes "Default roles and role bindings".

use component_base::features::{Gate, Gates};
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::rbac::rule::{Rule as Policy, rules_of, uncovered};
use crate::{
    object::Object,
    objects::{CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, Kind, Objects, ROLE_BINDINGS, ROLES, new_object},
    status::{Reason, Status},
};

mod certificates;
mod components;
mod controllers;
mod namespaces;
mod nodes;
mod users;

const API_VERSION: &str = "rbac.authorization.k8s.io/v1";
const API_GROUP: &str = "rbac.authorization.k8s.io";
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// One rule of a table row.
struct Rule {
    verbs: &'static str,
    groups: &'static str,
    resources: &'static str,
    names: &'static str,
    paths: &'static str,
    /// The gate it is behind.
    gate: Option<Gate>,
}

struct Role {
    /// Empty for a cluster role.
    namespace: &'static str,
    name: &'static str,
    /// This role's rules join `admin`, `edit` or `view`.
    aggregate_to: &'static str,
    /// This role is the sum of all that aggregate to it.
    aggregates: &'static str,
    rules: &'static [Rule],
    /// The gate it is behind.
    gate: Option<Gate>,
}

struct Binding {
    namespace: &'static str,
    name: &'static str,
    role: &'static str,
    subjects: &'static [Subject],
    /// The gate it is behind.
    gate: Option<Gate>,
}

enum Subject {
    User(&'static str),
    Group(&'static str),
    ServiceAccount(&'static str, &'static str),
}

/// Name of the controller and its rules.
type Controller = (&'static str, &'static [Rule]);

/// Objects reconciled at once: etcd commits their writes together.
const AT_ONCE: usize = 32;
const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";
const ALL: &str = "*";
/// Paths that are there when their gates are on.
const PAGES: [(Gate, &str); 2] = [(Gate::ComponentFlagz, "/flagz"), (Gate::ComponentStatusz, "/statusz")];
const ROLE: Role = Role { namespace: "", name: "", aggregate_to: "", aggregates: "", rules: &[], gate: None };
const BINDING: Binding = Binding { namespace: "", name: "", role: "", subjects: &[], gate: None };
/// Reporting events, old and new API.
const EVENTS: Rule = on("create patch update", "core events.k8s.io", "events");

const fn on(verbs: &'static str, groups: &'static str, resources: &'static str) -> Rule {
    Rule { verbs, groups, resources, names: "", paths: "", gate: None }
}

const fn named(
    verbs: &'static str,
    groups: &'static str,
    resources: &'static str,
    names: &'static str,
) -> Rule {
    Rule { verbs, groups, resources, names, paths: "", gate: None }
}

const fn paths(verbs: &'static str, paths: &'static str) -> Rule {
    Rule { verbs, groups: "", resources: "", names: "", paths, gate: None }
}

/// Every bootstrap object with its kind: roles before the bindings that name them.
pub fn policy(now: Timestamp, gates: Gates) -> Vec<(Kind, Object)> {
    let open = |gate: Option<Gate>| gate.is_none_or(|gate| gates.has(gate));
    let tables = [users::ROLES, certificates::ROLES, components::ROLES, nodes::ROLES, namespaces::ROLES];
    let roles = tables.into_iter().flatten().filter(|role| open(role.gate));
    let mut all: Vec<(Kind, Object)> = roles.map(|role| role.object(now, gates)).collect();
    let gated =
        controllers::GATED.iter().filter(|(gate, _)| gates.has(*gate)).map(|(_, controller)| controller);
    let controllers: Vec<&Controller> = controllers::CONTROLLERS.iter().chain(gated).collect();
    for (name, rules) in &controllers {
        let mut role = named_object("ClusterRole", "", &format!("system:controller:{name}"), now);
        role.set("rules", values(rules, gates));
        all.push((CLUSTER_ROLES, role));
    }
    let tables = [users::BINDINGS, components::BINDINGS, nodes::BINDINGS, namespaces::BINDINGS];
    let bindings = tables.into_iter().flatten().filter(|binding| open(binding.gate));
    all.extend(bindings.map(|binding| binding.object(now)));
    for (name, _) in &controllers {
        let role = format!("system:controller:{name}");
        let mut binding = named_object("ClusterRoleBinding", "", &role, now);
        binding.set("roleRef", role_ref("ClusterRole", &role));
        binding.set("subjects", vec![Subject::ServiceAccount("kube-system", name).value()]);
        all.push((CLUSTER_ROLE_BINDINGS, binding));
    }
    all
}

/// The rules of `system:node`: what the Node authorizer grants every node.
pub(super) fn node_rules(gates: Gates) -> Vec<Policy> {
    let role = nodes::ROLES.iter().find(|role| role.name == "system:node");
    role.into_iter().flat_map(|role| values(role.rules, gates)).map(|rule| Policy::read(&rule)).collect()
}

/// The rules whose gates are on.
fn values(rules: &[Rule], gates: Gates) -> Vec<Value> {
    let open = rules.iter().filter(|rule| rule.gate.is_none_or(|gate| gates.has(gate)));
    open.map(|rule| rule.value(gates)).collect()
}

/// Brings the cluster's bootstrap policy up to date. Safe to run on several servers at once.
pub async fn reconcile(objects: &dyn Objects, now: Timestamp, gates: Gates) -> Result<(), Status> {
    let (roles, bindings): (Vec<_>, Vec<_>) =
        policy(now, gates).into_iter().partition(|(kind, _)| [ROLES, CLUSTER_ROLES].contains(kind));
    for objects_of in [roles, bindings] {
        let each = futures::stream::iter(objects_of).map(|(kind, wanted)| settle(objects, kind, wanted));
        each.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    }
    Ok(())
}

/// Reconciles one object; two servers starting together collide at most a few times on it.
async fn settle(objects: &dyn Objects, kind: Kind, wanted: Object) -> Result<(), Status> {
    for _ in 0..5 {
        match reconcile_one(objects, kind, &wanted).await {
            Err(s) if matches!(s.reason, Reason::Conflict | Reason::AlreadyExists) => {}
            done => return done,
        }
    }
    Ok(())
}

async fn reconcile_one(objects: &dyn Objects, kind: Kind, wanted: &Object) -> Result<(), Status> {
    let Some(current) = objects.get_latest(kind, wanted.namespace(), wanted.name()).await? else {
        objects.create(kind, wanted.clone()).await?;
        return Ok(());
    };
    if current.get("roleRef").is_some() && current.get("roleRef") != wanted.get("roleRef") {
        // A role reference never changes: the binding is made anew.
        objects.delete(kind, &current).await?;
        objects.create(kind, wanted.clone()).await?;
        return Ok(());
    }
    if let Some(updated) = merged(&current, wanted) {
        objects.update(kind, updated).await?;
    }
    Ok(())
}

/// The current object with what it lacks; `None` when nothing is missing or updates are declined.
pub fn merged(current: &Object, wanted: &Object) -> Option<Object> {
    if current.annotation(AUTO_UPDATE) == Some("false") {
        return None;
    }
    let mut next = current.clone();
    for field in ["labels", "annotations"] {
        for (key, value) in wanted.meta_pairs(field).collect::<Vec<_>>() {
            let map = next.metadata_mut().entry(field).or_insert_with(|| json!({}));
            if map.get(key).is_none() {
                map[key] = json!(value);
            }
        }
    }
    if let Some(rule) = wanted.get("aggregationRule") {
        // The aggregation controller owns the rules of such a role.
        if next.get("aggregationRule").is_none() {
            next.set("aggregationRule", rule.clone());
        }
    } else if wanted.get("rules").is_some() {
        let missing = uncovered(&rules_of(current), &rules_of(wanted));
        append(&mut next, "rules", missing.iter().map(rule_value).collect());
    }
    if let Some(Value::Array(subjects)) = wanted.get("subjects") {
        let has = current.get("subjects").and_then(Value::as_array);
        let missing = subjects.iter().filter(|s| !has.is_some_and(|h| h.contains(s))).cloned().collect();
        append(&mut next, "subjects", missing);
    }
    (next != *current).then_some(next)
}

fn append(object: &mut Object, field: &str, missing: Vec<Value>) {
    if missing.is_empty() {
        return;
    }
    let mut list = match object.remove(field) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    list.extend(missing);
    object.set(field, list);
}

fn rule_value(rule: &Policy) -> Value {
    let mut value = json!({"verbs": rule.verbs});
    for (field, list) in [
        ("apiGroups", &rule.groups),
        ("resources", &rule.resources),
        ("resourceNames", &rule.names),
        ("nonResourceURLs", &rule.paths),
    ] {
        if !list.is_empty() {
            value[field] = json!(list);
        }
    }
    value
}

fn named_object(kind: &str, namespace: &str, name: &str, now: Timestamp) -> Object {
    let mut object = new_object(API_VERSION, kind, namespace, name, now);
    let metadata = object.metadata_mut();
    metadata.insert("labels".to_owned(), json!({"kubernetes.io/bootstrapping": "rbac-defaults"}));
    metadata.insert("annotations".to_owned(), json!({AUTO_UPDATE: "true"}));
    object
}

fn role_ref(kind: &str, name: &str) -> Value {
    json!({"apiGroup": API_GROUP, "kind": kind, "name": name})
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().map(|w| if w == "core" { "" } else { w }).collect()
}

impl Rule {
    /// There when the gate is on.
    const fn behind(self, gate: Gate) -> Self {
        Self { gate: Some(gate), ..self }
    }

    fn value(&self, gates: Gates) -> Value {
        let hidden = |word: &&str| PAGES.iter().any(|(gate, page)| page == word && !gates.has(*gate));
        let mut value = json!({"verbs": words(self.verbs)});
        for (field, text) in [
            ("apiGroups", self.groups),
            ("resources", self.resources),
            ("resourceNames", self.names),
            ("nonResourceURLs", self.paths),
        ] {
            if !text.is_empty() {
                let told: Vec<&str> = words(text).into_iter().filter(|word| !hidden(word)).collect();
                value[field] = json!(told);
            }
        }
        value
    }
}

impl Role {
    fn object(&self, now: Timestamp, gates: Gates) -> (Kind, Object) {
        let (kind, word) =
            if self.namespace.is_empty() { (CLUSTER_ROLES, "ClusterRole") } else { (ROLES, "Role") };
        let mut object = named_object(word, self.namespace, self.name, now);
        let label = |to: &str| format!("rbac.authorization.k8s.io/aggregate-to-{to}");
        if !self.aggregate_to.is_empty() {
            object.metadata_mut()["labels"][label(self.aggregate_to)] = json!("true");
        }
        if self.aggregates.is_empty() {
            object.set("rules", values(self.rules, gates));
        } else {
            let selector = json!({"matchLabels": {label(self.aggregates): "true"}});
            object.set("aggregationRule", json!({"clusterRoleSelectors": [selector]}));
            object.set("rules", Value::Null);
        }
        (kind, object)
    }
}

impl Binding {
    fn object(&self, now: Timestamp) -> (Kind, Object) {
        let (kind, word, role) = if self.namespace.is_empty() {
            (CLUSTER_ROLE_BINDINGS, "ClusterRoleBinding", "ClusterRole")
        } else {
            (ROLE_BINDINGS, "RoleBinding", "Role")
        };
        let mut object = named_object(word, self.namespace, self.name, now);
        object.set("roleRef", role_ref(role, self.role));
        if !self.subjects.is_empty() {
            object.set("subjects", self.subjects.iter().map(Subject::value).collect::<Vec<_>>());
        }
        (kind, object)
    }
}

impl Subject {
    fn value(&self) -> Value {
        match self {
            Self::User(name) => json!({"apiGroup": API_GROUP, "kind": "User", "name": name}),
            Self::Group(name) => json!({"apiGroup": API_GROUP, "kind": "Group", "name": name}),
            Self::ServiceAccount(namespace, name) => {
                json!({"kind": "ServiceAccount", "namespace": namespace, "name": name})
            }
        }
    }
}

#[cfg(test)]
mod tests;
