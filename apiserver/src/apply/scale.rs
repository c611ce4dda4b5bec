//! Who owns the number of replicas: told as a field of the Scale, kept as a field of the object behind it.
//!
//! Contract: KEP-555, "Scale subresource"; `ScaleHandler` of apimachinery.

use serde_json::Value;

use super::{
    FieldSet,
    managers::{self, Entry, Managers},
    set::Element,
};

const API_VERSION: &str = "autoscaling/v1";
const REPLICAS: &str = "/spec/replicas";

/// Where objects of one version keep their number of replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replicas<'p> {
    /// The kind has no such version: what is noted of it is forgotten.
    Unknown,
    /// Objects of this version are not scaled.
    Nowhere,
    /// At a JSON pointer.
    At(&'p str),
}

/// Puts into a Scale who owns the number of the object behind it. `place` tells where versions of it keep the number.
pub fn show<'p>(parent: &Value, scale: &mut Value, place: impl Fn(&str) -> Replicas<'p>) {
    let owners = Managers::of(parent).into_entries().filter_map(|entry| {
        let Replicas::At(pointer) = place(entry.api_version()) else { return None };
        entry.set.has(&field(pointer)).then(|| entry.moved(API_VERSION, field(REPLICAS)))
    });
    managers::store(scale, Managers::from_entries(owners.collect()));
}

/// Puts into the object behind a Scale who owns its number now. Who newly does owns it in `version`, at `pointer`.
pub fn bring_back<'p>(
    parent: &mut Value,
    scale: &Value,
    (version, pointer): (&str, &str),
    place: impl Fn(&str) -> Replicas<'p>,
) {
    let mut owners: Vec<Entry> = Managers::of(scale).into_entries().collect();
    let mut entries = Vec::new();
    for mut entry in Managers::of(parent).into_entries() {
        match place(entry.api_version()) {
            Replicas::Unknown => continue,
            Replicas::At(at) if entry.set.has(&field(at)) => {
                match owners.iter().position(|owner| owner.is_same_manager(&entry)) {
                    Some(own) => drop(owners.remove(own)),
                    None => entry.set = entry.set.difference(&field(at)),
                }
            }
            _ => {}
        }
        entries.push(entry);
    }
    let new = owners.into_iter().filter(|owner| owner.set.has(&field(REPLICAS)));
    entries.extend(new.map(|owner| owner.moved(version, field(pointer))));
    let mut all = Managers::from_entries(entries);
    all.drop_empty();
    managers::store(parent, all);
}

/// The set of the one field at a JSON pointer.
fn field(pointer: &str) -> FieldSet {
    let names = pointer.strip_prefix('/').unwrap_or(pointer).rsplit('/');
    names.fold(FieldSet::itself(), |below, name| FieldSet::with(vec![(Element::field(name), below)]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn place(version: &str) -> Replicas<'static> {
        match version {
            "apps/v1" => Replicas::At(REPLICAS),
            "apps/v0" => Replicas::Nowhere,
            _ => Replicas::Unknown,
        }
    }

    fn entry(manager: &str, operation: &str, version: &str, fields: Value) -> Value {
        json!({"manager": manager, "operation": operation, "apiVersion": version, "fieldsType": "FieldsV1",
            "time": "2024-01-01T00:00:00Z", "fieldsV1": fields})
    }

    fn object(entries: &[Value]) -> Value {
        json!({"metadata": {"managedFields": entries}})
    }

    fn replicas() -> Value {
        json!({"f:spec": {"f:replicas": {}}})
    }

    fn owners(object: &Value) -> Vec<(String, Value)> {
        let list = object["metadata"]["managedFields"].as_array();
        let one = |e: &Value| {
            let text = |name: &str| e[name].as_str().unwrap_or_default();
            (
                format!("{} {} {}", text("manager"), text("operation"), text("apiVersion")),
                e["fieldsV1"].clone(),
            )
        };
        list.into_iter().flatten().map(one).collect()
    }

    #[test]
    fn a_scale_shows_the_owners_of_the_number_and_of_nothing_else() {
        let parent = object(&[
            entry("a", "Apply", "apps/v1", json!({"f:spec": {"f:replicas": {}, "f:paused": {}}})),
            entry("b", "Update", "apps/v1", json!({"f:spec": {"f:paused": {}}})),
            entry("c", "Update", "apps/v0", replicas()),
        ]);
        let mut scale = json!({"metadata": {}});
        show(&parent, &mut scale, place);
        assert_eq!(owners(&scale), [("a Apply autoscaling/v1".to_owned(), replicas())]);
    }

    #[test]
    fn what_a_scale_takes_its_owner_loses() {
        let both = json!({"f:spec": {"f:replicas": {}, "f:paused": {}}});
        let parent = object(&[
            entry("a", "Apply", "apps/v1", both),
            entry("b", "Update", "apps/v1", replicas()),
            entry("c", "Update", "apps/v0", replicas()),
            entry("d", "Update", "old/v1", replicas()),
        ]);
        let after = |scale: &[Value]| {
            let mut parent = parent.clone();
            bring_back(&mut parent, &object(scale), ("apps/v1", REPLICAS), place);
            owners(&parent)
        };
        let paused = json!({"f:spec": {"f:paused": {}}});
        let one = |name: &str, fields: Value| (name.to_owned(), fields);
        assert_eq!(
            after(&[entry("new", "Apply", API_VERSION, replicas())]),
            [
                one("a Apply apps/v1", paused.clone()),
                one("new Apply apps/v1", replicas()),
                one("c Update apps/v0", replicas()),
            ]
        );
        // Who shares the number keeps it; a Scale that nobody says anything of takes it from all.
        let shared =
            [entry("a", "Apply", API_VERSION, replicas()), entry("b", "Update", API_VERSION, replicas())];
        assert_eq!(after(&shared).len(), 3);
        assert_eq!(after(&[]), [one("a Apply apps/v1", paused), one("c Update apps/v0", replicas())]);
    }
}
