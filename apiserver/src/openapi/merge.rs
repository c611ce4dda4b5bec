//! What other servers describe in v2, added to this server's own document.
//!
//! A definition that both have under one name but not alike gets another name, and so does what leads to it. Contract:
//! kube-aggregator's merged Swagger 2.0.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

const REFERENCE: &str = "#/definitions/";
const KINDS: &str = "x-kubernetes-group-version-kind";

/// What another server's document says of one group version.
#[derive(Debug, PartialEq)]
pub struct Described {
    /// Of all that follows.
    pub(super) digest: String,
    paths: Map<String, Value>,
    /// Those that the paths lead to.
    definitions: Map<String, Value>,
}

impl Described {
    /// What a Swagger document says of a group version; `None` when it says nothing of it.
    pub fn of(document: &Value, group: &str, version: &str) -> Option<Self> {
        let part = |name: &str| document.get(name).and_then(Value::as_object);
        let (whole, below) = (format!("/apis/{group}/"), format!("/apis/{group}/{version}/"));
        let is_its = |path: &str| path == whole || path.starts_with(&below);
        let paths = part("paths")?.iter().filter(|(path, _)| is_its(path));
        let paths: Map<String, Value> = paths.map(|(path, item)| (path.clone(), item.clone())).collect();
        if paths.is_empty() {
            return None;
        }
        let all = part("definitions");
        let (mut definitions, mut open) = (Map::new(), BTreeSet::new());
        paths.values().for_each(|item| references(item, &mut open));
        while let Some(name) = open.pop_first() {
            let Some(definition) = all.and_then(|all| all.get(&name)) else { continue };
            if !definitions.contains_key(&name) {
                references(definition, &mut open);
                definitions.insert(name, definition.clone());
            }
        }
        let mut hash = Sha256::new();
        for part in [&paths, &definitions] {
            hash.update(Value::Object(part.clone()).to_string());
        }
        let digest = hash.finalize().iter().map(|byte| format!("{byte:02X}")).collect();
        Some(Self { digest, paths, definitions })
    }

    /// Adds it to a document that does not have it yet.
    pub fn add_to(&self, document: &mut Value) {
        let Some(Value::Object(known)) = document.get_mut("definitions") else { return };
        let names = names(known, &self.definitions);
        for (name, definition) in &self.definitions {
            let name = names.get(name).unwrap_or(name);
            match known.get_mut(name) {
                Some(same) => merge_kinds(same, definition),
                None => {
                    let mut definition = definition.clone();
                    rename(&mut definition, &names);
                    known.insert(name.clone(), definition);
                }
            }
        }
        let Some(Value::Object(paths)) = document.get_mut("paths") else { return };
        for (path, item) in &self.paths {
            // Who describes a path first is right.
            if !paths.contains_key(path) {
                let mut item = item.clone();
                rename(&mut item, &names);
                paths.insert(path.clone(), item);
            }
        }
    }
}

/// New names for definitions that are others than those of the same name, or lead to such.
fn names(known: &Map<String, Value>, others: &Map<String, Value>) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    loop {
        let is_other = |name: &str, definition: &Value| {
            let mut leads_to = BTreeSet::new();
            references(definition, &mut leads_to);
            known.get(name).is_some_and(|own| {
                !alike(own, definition) || leads_to.iter().any(|to| names.contains_key(to))
            })
        };
        let next =
            others.iter().find(|(name, definition)| !names.contains_key(*name) && is_other(name, definition));
        let Some((name, _)) = next else { return names };
        let is_free = |new: &String| !known.contains_key(new) && !others.contains_key(new);
        let new = (2_u32..).map(|number| format!("{name}_v{number}")).find(is_free);
        names.insert(name.clone(), new.unwrap_or_default());
    }
}

/// Whether two definitions differ in nothing but the kinds they are of.
fn alike(one: &Value, other: &Value) -> bool {
    let (Some(one), Some(other)) = (one.as_object(), other.as_object()) else { return one == other };
    let rest = |fields: &Map<String, Value>| fields.keys().filter(|key| *key != KINDS).count();
    rest(one) == rest(other) && one.iter().all(|(key, value)| key == KINDS || other.get(key) == Some(value))
}

fn merge_kinds(own: &mut Value, other: &Value) {
    let more = other.get(KINDS).and_then(Value::as_array).cloned().unwrap_or_default();
    let Some(own) = own.as_object_mut().filter(|_| !more.is_empty()) else { return };
    let kinds = own.entry(KINDS).or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(kinds) = kinds {
        for kind in more {
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
    }
}

/// The names of the definitions a value refers to.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(name) =
                fields.get("$ref").and_then(Value::as_str).and_then(|to| to.strip_prefix(REFERENCE))
            {
                found.insert(name.to_owned());
            }
            fields.values().for_each(|field| references(field, found));
        }
        Value::Array(members) => members.iter().for_each(|member| references(member, found)),
        _ => {}
    }
}

fn rename(value: &mut Value, names: &BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(to)) = fields.get_mut("$ref")
                && let Some(new) = to.strip_prefix(REFERENCE).and_then(|name| names.get(name))
            {
                *to = format!("{REFERENCE}{new}");
            }
            fields.values_mut().for_each(|field| rename(field, names));
        }
        Value::Array(members) => members.iter_mut().for_each(|member| rename(member, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn to(name: &str) -> Value {
        json!({"$ref": format!("#/definitions/{name}")})
    }

    fn other() -> Value {
        json!({"swagger": "2.0",
        "paths": {
            "/apis/a.b/": {"get": {}},
            "/apis/a.b/v1/things": {"get": {"responses": {"200": {"schema": to("Thing")}}}},
            "/apis/a.b/v2/things": {"get": {"responses": {"200": {"schema": to("Newer")}}}},
            "/version": {"get": {}},
        },
        "definitions": {
            "Thing": {"properties": {"meta": to("Meta"), "part": to("Part"), "time": to("Time")}},
            "Meta": {"properties": {"owner": to("Owner")}},
            "Owner": {"type": "string"},
            "Part": {"type": "object", KINDS: [{"kind": "Part", "group": "a.b", "version": "v1"}]},
            "Time": {"type": "string"},
            "Newer": {}, "Unused": {},
        }})
    }

    #[test]
    fn only_what_a_group_version_leads_to_is_kept() {
        let described = Described::of(&other(), "a.b", "v1").unwrap();
        assert_eq!(described.paths.keys().collect::<Vec<_>>(), ["/apis/a.b/", "/apis/a.b/v1/things"]);
        let definitions: Vec<&str> = described.definitions.keys().map(String::as_str).collect();
        assert_eq!(definitions, ["Meta", "Owner", "Part", "Thing", "Time"]);
        assert_eq!(Described::of(&other(), "c.d", "v1"), None);
        assert_eq!(Described::of(&json!([]), "a.b", "v1"), None);
        assert_ne!(described.digest, Described::of(&other(), "a.b", "v2").unwrap().digest);
    }

    #[test]
    fn definitions_that_clash_get_other_names_and_so_does_what_leads_to_them() {
        let mut document = json!({
        "paths": {"/apis/a.b/": {"own": true}},
        "definitions": {
            "Meta": {"properties": {"owner": to("Owner")}},
            "Owner": {"type": "integer"},
            "Part": {"type": "object", KINDS: [{"kind": "Part", "group": "", "version": "v1"}]},
            "Time": {"type": "string"},
        }});
        Described::of(&other(), "a.b", "v1").unwrap().add_to(&mut document);
        let definitions = &document["definitions"];
        assert_eq!(definitions["Owner"]["type"], "integer");
        assert_eq!(definitions["Owner_v2"]["type"], "string");
        assert_eq!(definitions["Meta"]["properties"]["owner"], to("Owner"));
        assert_eq!(definitions["Meta_v2"]["properties"]["owner"], to("Owner_v2"));
        let thing = &definitions["Thing"]["properties"];
        assert_eq!(
            (&thing["meta"], &thing["time"], &thing["part"]),
            (&to("Meta_v2"), &to("Time"), &to("Part"))
        );
        assert_eq!(definitions["Part"][KINDS].as_array().map(Vec::len), Some(2));
        assert_eq!(definitions.get("Time_v2"), None);
        assert_eq!(document["paths"]["/apis/a.b/"], json!({"own": true}));
        assert_eq!(
            document["paths"]["/apis/a.b/v1/things"]["get"]["responses"]["200"]["schema"],
            to("Thing")
        );
        // The same once more changes nothing but names that are free.
        let before = document.clone();
        let same = Described::of(&before, "a.b", "v1").unwrap();
        same.add_to(&mut document);
        assert_eq!(document, before);
    }
}
