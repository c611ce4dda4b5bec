//! One policy rule: what it allows, and whether other rules cover it.
//!
//! Contract: rbac/v1 PolicyRule; upstream `component-helpers/auth/rbac/validation`.

use serde_json::Value;

use crate::{auth::Attributes, object::Object};

/// A rule on resources, or (`paths` not empty) on URL paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Verbs, or `*`.
    pub verbs: Vec<String>,
    /// API groups, or `*`.
    pub groups: Vec<String>,
    /// `resource`, `resource/subresource`, `*/subresource`, `*`.
    pub resources: Vec<String>,
    /// Object names; empty means any.
    pub names: Vec<String>,
    /// URL paths, `*` alone or at the end.
    pub paths: Vec<String>,
}

impl Rule {
    /// Reads one element of `rules`; malformed fields count as empty and so allow nothing.
    pub fn read(value: &Value) -> Self {
        let list = |field: &str| {
            let items = value.get(field).and_then(Value::as_array).into_iter().flatten();
            items.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Self {
            verbs: list("verbs"),
            groups: list("apiGroups"),
            resources: list("resources"),
            names: list("resourceNames"),
            paths: list("nonResourceURLs"),
        }
    }

    /// Whether the rule allows this request.
    pub fn allows(&self, attributes: &Attributes) -> bool {
        if !has_or_star(&self.verbs, &attributes.verb) {
            return false;
        }
        if !attributes.is_resource {
            return self.paths.iter().any(|p| path_matches(p, &attributes.path));
        }
        has_or_star(&self.groups, &attributes.group)
            && self.matches_resource(&attributes.resource, &attributes.subresource)
            && (self.names.is_empty() || self.names.iter().any(|name| *name == attributes.name))
    }

    fn matches_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|r| match r.split_once('/') {
            None => r == "*" || (subresource.is_empty() && r == resource),
            Some((main, sub)) => {
                !subresource.is_empty() && sub == subresource && (main == "*" || main == resource)
            }
        })
    }

    /// The rule as rules of one verb, group, resource and name each.
    fn atoms(&self) -> Vec<Self> {
        let mut atoms = Vec::new();
        let one = |s: &String| vec![s.clone()];
        for verb in &self.verbs {
            for path in &self.paths {
                atoms.push(Self { verbs: one(verb), paths: one(path), ..Self::default() });
            }
            for group in &self.groups {
                for resource in &self.resources {
                    let atom = Self {
                        verbs: one(verb),
                        groups: one(group),
                        resources: one(resource),
                        ..Self::default()
                    };
                    if self.names.is_empty() {
                        atoms.push(atom);
                    } else {
                        atoms.extend(self.names.iter().map(|n| Self { names: one(n), ..atom.clone() }));
                    }
                }
            }
        }
        atoms
    }

    /// Whether this rule allows all that an atom allows.
    fn covers(&self, atom: &Self) -> bool {
        let covers_resource = |r: &String| {
            has_or_star(&self.resources, r)
                || r.split_once('/')
                    .is_some_and(|(_, sub)| self.resources.iter().any(|x| *x == format!("*/{sub}")))
        };
        let covers_path = |p: &String| self.paths.iter().any(|own| own == p || path_matches(own, p));
        atom.verbs.iter().all(|v| has_or_star(&self.verbs, v))
            && atom.groups.iter().all(|g| has_or_star(&self.groups, g))
            && atom.resources.iter().all(covers_resource)
            && atom.paths.iter().all(covers_path)
            && match (self.names.is_empty(), atom.names.is_empty()) {
                (true, _) => true,
                (false, true) => false,
                (false, false) => atom.names.iter().all(|n| self.names.contains(n)),
            }
    }

    /// The rule in the short form error messages use.
    pub fn compact(&self) -> String {
        let mut parts = Vec::new();
        for (label, list) in [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.paths),
            ("ResourceNames", &self.names),
            ("Verbs", &self.verbs),
        ] {
            if !list.is_empty() {
                parts.push(format!(
                    "{label}:[{}]",
                    list.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(" ")
                ));
            }
        }
        format!("{{{}}}", parts.join(", "))
    }
}

/// The atoms of `wanted` that `owned` does not cover; empty when all is covered.
pub fn uncovered(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let atoms = wanted.iter().flat_map(Rule::atoms);
    atoms.filter(|atom| !owned.iter().any(|own| own.covers(atom))).collect()
}

/// The rules of a Role or ClusterRole.
pub fn rules_of(role: &Object) -> Vec<Rule> {
    role.get("rules").and_then(Value::as_array).into_iter().flatten().map(Rule::read).collect()
}

fn has_or_star(list: &[String], wanted: &str) -> bool {
    list.iter().any(|s| s == "*" || s == wanted)
}

/// `*` matches all, a trailing `*` any continuation of what stands before it.
fn path_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(stem) => path.starts_with(stem.trim_end_matches('*')),
        None => pattern == path,
    }
}
