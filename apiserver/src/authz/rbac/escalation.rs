//! Nobody grants what they do not have: checks of writes to roles and bindings.
//!
//! Writing a role needs all its permissions or the verb `escalate`; writing a binding needs all
//! permissions of its role or the verb `bind`. Contract: Kubernetes "Privilege escalation prevention";
//! upstream `pkg/registry/rbac/*/policybased`.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value;

use super::{
    Rbac,
    rule::{Rule, rules_of, uncovered},
};
use crate::{
    auth::{Attributes, Authorizer, Decision, User},
    object::Object,
    objects::{CLUSTER_ROLES, ROLES},
    status::{GroupName, Status},
};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Checks writes of roles and bindings.
pub struct Escalation {
    rbac: Arc<Rbac>,
    authorizer: Arc<dyn Authorizer>,
}

impl Escalation {
    /// `authorizer` is the whole chain: it decides on `escalate` and `bind`.
    pub fn new(rbac: Arc<Rbac>, authorizer: Arc<dyn Authorizer>) -> Self {
        Self { rbac, authorizer }
    }

    /// Whether `user` may write `object`, a role or binding in `namespace` (empty: cluster scope).
    pub async fn check(
        &self,
        attributes: &Attributes,
        object: &Object,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        if attributes.user.in_group("system:masters")
            || old.is_some_and(|old| only_owners_differ(object, old))
        {
            return Ok(());
        }
        match attributes.resource.as_str() {
            "roles" | "clusterroles" => self.check_role(attributes, object).await,
            "rolebindings" | "clusterrolebindings" => self.check_binding(attributes, object).await,
            _ => Ok(()),
        }
    }

    async fn check_role(&self, attributes: &Attributes, role: &Object) -> Result<(), Status> {
        if self.may("escalate", attributes, &attributes.resource, role.name()).await {
            return Ok(());
        }
        let resource = GroupName::new(GROUP, attributes.resource.as_str());
        self.confirm(attributes, &rules_of(role))
            .map_err(|why| Status::forbidden(&resource, role.name(), &why))?;
        let selectors = role.pointer("/aggregationRule/clusterRoleSelectors").and_then(Value::as_array);
        if selectors.is_some_and(|s| !s.is_empty()) && self.confirm(attributes, &everything()).is_err() {
            let why = "must have cluster-admin privileges to use the aggregationRule";
            return Err(Status::forbidden(&resource, role.name(), why));
        }
        Ok(())
    }

    async fn check_binding(&self, attributes: &Attributes, binding: &Object) -> Result<(), Status> {
        let reference = |field: &str| {
            binding.get("roleRef").and_then(|r| r.get(field)).and_then(Value::as_str).unwrap_or_default()
        };
        let (kind, name) = (reference("kind"), reference("name"));
        let role_kind = if kind == "ClusterRole" { CLUSTER_ROLES } else { ROLES };
        if self.may("bind", attributes, role_kind.resource, name).await {
            return Ok(());
        }
        let rules = self.rbac.role_rules(kind, &attributes.namespace, name);
        let rules = rules.ok_or_else(|| Status::not_found(&role_kind.group_name(), name))?;
        let resource = GroupName::new(GROUP, attributes.resource.as_str());
        self.confirm(attributes, &rules).map_err(|why| Status::forbidden(&resource, binding.name(), &why))
    }

    async fn may(&self, verb: &str, attributes: &Attributes, resource: &str, name: &str) -> bool {
        let asked = Attributes {
            user: attributes.user.clone(),
            verb: verb.into(),
            namespace: attributes.namespace.clone(),
            group: GROUP.into(),
            version: "*".into(),
            resource: resource.into(),
            name: name.into(),
            is_resource: true,
            ..Attributes::default()
        };
        matches!(self.authorizer.authorize(&asked).await, Decision::Allow(_))
    }

    fn confirm(&self, attributes: &Attributes, wanted: &[Rule]) -> Result<(), String> {
        let user = &attributes.user;
        let missing = uncovered(&self.rbac.rules_of(user, &attributes.namespace), wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let lines: BTreeSet<String> = compact(missing).iter().map(Rule::compact).collect();
        Err(format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            user.name,
            groups(user),
            lines.into_iter().collect::<Vec<_>>().join("\n")
        ))
    }
}

/// Groups as Go's `%q` prints a list.
fn groups(user: &User) -> String {
    format!("[{}]", user.groups.iter().map(|g| format!("{g:?}")).collect::<Vec<_>>().join(" "))
}

/// Joins atoms that differ only in their verb.
fn compact(atoms: Vec<Rule>) -> Vec<Rule> {
    let mut joined: Vec<Rule> = Vec::new();
    for atom in atoms {
        let same = |r: &&mut Rule| {
            r.groups == atom.groups
                && r.resources == atom.resources
                && r.names == atom.names
                && r.paths == atom.paths
        };
        match joined.iter_mut().find(same) {
            Some(rule) if !rule.verbs.contains(&atom.verbs[0]) => rule.verbs.extend(atom.verbs),
            Some(_) => {}
            None => joined.push(atom),
        }
    }
    joined
}

fn everything() -> [Rule; 2] {
    let star = || vec!["*".to_owned()];
    [
        Rule { verbs: star(), groups: star(), resources: star(), ..Rule::default() },
        Rule { verbs: star(), paths: star(), ..Rule::default() },
    ]
}

/// Whether only owner references, finalizers and managed fields differ: what garbage collection needs.
pub fn only_owners_differ(new: &Object, old: &Object) -> bool {
    let strip = |object: &Object| {
        let mut object = object.clone();
        for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion", "generation"] {
            object.metadata_mut().remove(field);
        }
        object
    };
    strip(new) == strip(old)
}
