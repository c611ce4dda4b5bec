//! Strategic merge patch: a merge patch that knows which lists merge, and by which key.
//!
//! Contract: "Strategic Merge Patch" of the API conventions and apimachinery's `strategicpatch`:
//! `$patch: replace|delete`, `$retainKeys`, `$deleteFromPrimitiveList/<field>`,
//! `$setElementOrder/<field>`.

use proto::table::{self, Field, Kind, TypeId};
use serde_json::{Map, Value};

use super::{PatchError, go_text};

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList";
const ORDER: &str = "$setElementOrder";

/// How a list of objects merges.
#[derive(Clone, Copy)]
struct ListRule {
    /// Key by which members are told apart; `None` for scalars.
    key: Option<&'static str>,
    /// Type of the members, if they are messages.
    member: Option<TypeId>,
}

/// Applies `patch` to `current`, an object of a built-in type (`None`: nothing is known of its lists,
/// so they are replaced, as for a custom resource's parts without schema).
pub fn strategic(current: &Value, patch: &Value, kind: Option<TypeId>) -> Result<Value, PatchError> {
    match (current, patch) {
        (Value::Object(current), Value::Object(patch)) => {
            merge_map(current.clone(), patch, kind).map(Value::Object)
        }
        (_, Value::Object(patch)) => merge_map(Map::new(), patch, kind).map(Value::Object),
        (_, other) => Ok(other.clone()),
    }
}

fn merge_map(
    mut current: Map<String, Value>,
    patch: &Map<String, Value>,
    kind: Option<TypeId>,
) -> Result<Map<String, Value>, PatchError> {
    match patch.get(DIRECTIVE).map(Value::as_str) {
        None => {}
        Some(Some("replace")) => return Ok(without(patch, DIRECTIVE)),
        Some(Some("delete")) => return Ok(Map::new()),
        Some(_) => return Err(unknown(patch)),
    }
    if let Some(keep) = patch.get(RETAIN) {
        retain(&mut current, patch, keep)?;
    }
    let mut ordered = Vec::new();
    for (directive, order) in patch.iter().filter(|(key, _)| key.starts_with(ORDER)) {
        let field = named(directive, ORDER, "setElementOrder list")?;
        merge_in_order(&mut current, field, (patch.get(field), order), field_of(kind, field))?;
        ordered.push(field);
    }
    for (key, change) in patch {
        if key.starts_with(DELETE_FROM) {
            let field = named(key, DELETE_FROM, "primitive list")?;
            if let (Some(Value::Array(list)), Value::Array(gone)) = (current.get_mut(field), change) {
                list.retain(|value| !gone.contains(value));
            }
        } else if !key.starts_with('$') && !ordered.contains(&key.as_str()) {
            merge_field(&mut current, key, change, field_of(kind, key))?;
        }
    }
    Ok(current)
}

/// The field that a directive about a list names after a slash.
fn named<'a>(key: &'a str, directive: &str, what: &'static str) -> Result<&'a str, PatchError> {
    key.strip_prefix(directive).and_then(|rest| rest.strip_prefix('/')).ok_or(PatchError::Format(what))
}

fn merge_field(
    current: &mut Map<String, Value>,
    key: &str,
    change: &Value,
    field: Option<&'static Field>,
) -> Result<(), PatchError> {
    let new = match (current.get_mut(key).map(Value::take), change) {
        (_, Value::Null) => None,
        (Some(Value::Object(_)), Value::Object(patch)) if field.is_some_and(|f| f.patch_replace) => {
            Some(Value::Object(patch.clone()))
        }
        (Some(Value::Object(old)), Value::Object(patch)) => {
            // A map or message without the merge strategy merges all the same; only lists differ.
            let kind = match field.map(|f| &f.kind) {
                Some(Kind::Message(id)) => Some(*id),
                _ => None,
            };
            Some(Value::Object(merge_map(old, patch, kind)?))
        }
        (Some(Value::Array(old)), Value::Array(patch)) => Some(Value::Array(merge_lists(old, patch, field)?)),
        // What is not there yet, or something else, is as the patch has it.
        (_, new) => undirected(new),
    };
    match new {
        Some(new) => current.insert(key.to_owned(), new),
        None => current.remove(key),
    };
    Ok(())
}

/// A value without nulls, and without the parts that only say what to do; none where it is one of these.
fn undirected(value: &Value) -> Option<Value> {
    Some(match value {
        Value::Null => return None,
        Value::Object(members) if members.contains_key(DIRECTIVE) => return None,
        Value::Object(members) => {
            let kept = members.iter().filter(|(key, _)| !key.starts_with('$'));
            Value::Object(kept.filter_map(|(key, value)| Some((key.clone(), undirected(value)?))).collect())
        }
        Value::Array(all) => Value::Array(all.iter().filter_map(undirected).collect()),
        scalar => scalar.clone(),
    })
}

fn merge_lists(
    old: Vec<Value>,
    patch: &[Value],
    field: Option<&'static Field>,
) -> Result<Vec<Value>, PatchError> {
    match field.filter(|f| f.patch_merge).and_then(list_rule) {
        Some(rule) => merge_list(old, patch, rule),
        None => Ok(patch.iter().filter(|v| !is_directive(v)).cloned().collect()),
    }
}

fn merge_list(old: Vec<Value>, patch: &[Value], rule: ListRule) -> Result<Vec<Value>, PatchError> {
    check_members(&old, patch)?;
    let Some(key) = rule.key else {
        let mut out = old.clone();
        for value in patch {
            if !out.contains(value) {
                out.push(value.clone());
            }
        }
        return Ok(interleaved(out, patch, &old, None));
    };
    let (mut out, mut plain, mut replaces) = (old, Vec::new(), false);
    for change in patch {
        let Value::Object(members) = change else { continue };
        match members.get(DIRECTIVE).map(Value::as_str) {
            None => plain.push(change.clone()),
            Some(Some("delete")) => {
                let id = members.get(key).ok_or_else(|| without_key(members, key))?;
                out.retain(|member| member.get(key) != Some(id));
            }
            // It speaks of the whole list, whatever else it says.
            Some(Some("replace")) => replaces = true,
            Some(Some("merge")) => return Err(PatchError::MergingLists),
            Some(_) => return Err(unknown(members)),
        }
    }
    if replaces {
        return Ok(plain);
    }
    let before = out.clone();
    for change in &plain {
        let Value::Object(members) = change else { continue };
        let id = members.get(key).ok_or_else(|| without_key(members, key))?;
        match out.iter_mut().find(|member| member.get(key) == Some(id)) {
            Some(member) => {
                let old = member.as_object().cloned().unwrap_or_default();
                *member = Value::Object(merge_map(old, members, rule.member)?);
            }
            // Nothing in a new member merges: it may have members of its own that are alike.
            None => out.extend(undirected(change)),
        }
    }
    Ok(interleaved(out, &plain, &before, Some(key)))
}

/// All members of a list that is merged are of one type, and none is a list.
fn check_members(old: &[Value], patch: &[Value]) -> Result<(), PatchError> {
    let mut types = old.iter().chain(patch).map(go_type);
    let Some(first) = types.next() else { return Ok(()) };
    if first.starts_with("[]") {
        return Err(PatchError::ListOfLists);
    }
    if types.any(|other| other != first) {
        let lists = [old, patch].map(|list| Value::Array(list.to_vec()));
        return Err(PatchError::MixedList(go_text(&Value::from(lists.to_vec()))));
    }
    Ok(())
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn without_key(member: &Map<String, Value>, key: &str) -> PatchError {
    PatchError::MergeKey { member: go_text(&Value::Object(member.clone())), key: key.to_owned() }
}

fn unknown(patch: &Map<String, Value>) -> PatchError {
    PatchError::Directive {
        directive: patch.get(DIRECTIVE).map(go_text).unwrap_or_default(),
        map: go_text(&Value::Object(patch.clone())),
    }
}

/// Sorts a merged list: members that `wanted` names stand in its order, the others keep the order they had `before`. One
/// of these stands in front of the first named member that it stood in front of before; without such, behind all.
fn interleaved(list: Vec<Value>, wanted: &[Value], before: &[Value], key: Option<&str>) -> Vec<Value> {
    let identity = |v: &Value| match key {
        Some(key) => v.get(key).cloned(),
        None => Some(v.clone()),
    };
    let place = |list: &[Value], member: &Value| {
        let id = identity(member)?;
        list.iter().position(|m| identity(m).as_ref() == Some(&id))
    };
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        list.into_iter().partition(|member| place(wanted, member).is_some());
    named.sort_by_cached_key(|member| place(wanted, member));
    others.sort_by_cached_key(|member| place(before, member).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    for member in named {
        let stood = place(before, &member);
        while let Some(other) =
            others.next_if(|o| stood.is_some_and(|stood| place(before, o).is_some_and(|own| own < stood)))
        {
            out.push(other);
        }
        out.push(member);
    }
    out.extend(others);
    out
}

/// Merges a list and sorts it as the directive says.
fn merge_in_order(
    current: &mut Map<String, Value>,
    field: &str,
    (patch, order): (Option<&Value>, &Value),
    known: Option<&'static Field>,
) -> Result<(), PatchError> {
    let list = |value: Option<&Value>| match value {
        None => Ok(None),
        Some(Value::Array(list)) => Ok(Some(list.clone())),
        Some(other) => Err(PatchError::NoList(go_type(other))),
    };
    let order = list(Some(order))?.unwrap_or_default();
    let (before, patch) = (list(current.get(field))?, list(patch)?);
    let key = known.and_then(list_rule).and_then(|rule| rule.key);
    check_order(patch.as_deref().unwrap_or_default(), &order, key)?;
    let merged = match (before.clone(), patch) {
        (None, None) => return Ok(()),
        (Some(list), None) => list,
        (None, Some(patch)) => patch.iter().filter_map(undirected).collect(),
        (Some(list), Some(patch)) => merge_lists(list, &patch, known)?,
    };
    let sorted = interleaved(merged, &order, &before.unwrap_or_default(), key);
    current.insert(field.to_owned(), Value::Array(sorted));
    Ok(())
}

/// The members of a patch stand in the order that the directive says, which names all of them.
fn check_order(patch: &[Value], order: &[Value], key: Option<&str>) -> Result<(), PatchError> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let identity = |v: &Value| match key {
        Some(key) => v.get(key).cloned(),
        None => Some(v.clone()),
    };
    let mut wanted = order.iter();
    let is_told = |member: &Value| {
        let id = identity(member);
        wanted.any(|other| identity(other) == id)
    };
    let has_directive = |member: &&Value| member.get(DIRECTIVE).is_some();
    if patch.iter().filter(|member| !has_directive(member)).all(is_told) {
        return Ok(());
    }
    let shown = |list: &[Value]| go_text(&Value::Array(list.to_vec()));
    Err(PatchError::Order { patch: shown(patch), order: shown(order) })
}

fn retain(
    current: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    keep: &Value,
) -> Result<(), PatchError> {
    let Value::Array(keep) = keep else { return Err(PatchError::Format("retainKeys")) };
    let kept = |key: &str| keep.iter().any(|k| k == key);
    if patch.iter().any(|(k, v)| !k.starts_with('$') && !v.is_null() && !kept(k)) {
        return Err(PatchError::Format("retainKeys"));
    }
    current.retain(|key, _| kept(key));
    Ok(())
}

/// A list member that holds nothing but a directive.
fn is_directive(value: &Value) -> bool {
    value.as_object().is_some_and(|m| m.len() == 1 && m.contains_key(DIRECTIVE))
}

fn without(map: &Map<String, Value>, directive: &str) -> Map<String, Value> {
    map.iter().filter(|(k, _)| *k != directive).map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn field_of(kind: Option<TypeId>, name: &str) -> Option<&'static Field> {
    table::builtin().get(kind?).field(name)
}

fn list_rule(field: &'static Field) -> Option<ListRule> {
    let Kind::List(member) = &field.kind else { return None };
    match **member {
        Kind::Message(id) => Some(ListRule { key: Some(field.merge_key?), member: Some(id) }),
        _ => Some(ListRule { key: None, member: None }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn pod() -> Option<TypeId> {
        table::builtin().by_kind("", "v1", "Pod")
    }

    fn apply(current: Value, patch: Value) -> Result<Value, String> {
        strategic(&current, &patch, pod()).map_err(|e| e.to_string())
    }

    fn spec(current: Value, patch: Value) -> Value {
        apply(json!({"spec": current}), json!({"spec": patch})).unwrap()["spec"].clone()
    }

    #[test]
    fn lists_merge_by_their_key_and_others_are_replaced() {
        let current =
            json!({"containers": [{"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "1"}]});
        let merged =
            spec(current, json!({"containers": [{"name": "a", "image": "2", "args": ["y"]}, {"name": "c"}]}));
        assert_eq!(
            merged,
            json!({"containers": [{"name": "a", "image": "2", "args": ["y"]}, {"name": "c"}, {"name": "b", "image": "1"}]}),
            "b stood behind a, and nothing says that it stands before the newcomer"
        );
    }

    #[test]
    fn directives_replace_delete_and_order() {
        let containers = || json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]});
        let cases = [
            (json!({"containers": [{"$patch": "delete", "name": "b"}]}), json!(["a", "c"])),
            (json!({"containers": [{"$patch": "replace"}, {"name": "z"}]}), json!(["z"])),
            (json!({"containers": [{"name": "z"}]}), json!(["z", "a", "b", "c"])),
            (json!({"containers": [{"name": "c"}, {"name": "a"}]}), json!(["b", "c", "a"])),
            (
                json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "d"}, {"name": "a"}], "containers": [{"name": "d"}]}),
                json!(["b", "c", "d", "a"]),
            ),
            (json!({"containers": [{"name": "a", "$patch": "replace", "image": "i"}]}), json!([])),
            (
                json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "z"}]}),
                json!(["z", "b", "c"]),
            ),
        ];
        for (patch, want) in cases {
            let merged = spec(containers(), patch.clone());
            let names: Vec<Value> =
                merged["containers"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
            assert_eq!(json!(names), want, "{patch}");
        }
    }

    #[test]
    fn scalars_in_sets_come_and_go() {
        let current = json!({"metadata": {"finalizers": ["a", "b"]}});
        let added = apply(current.clone(), json!({"metadata": {"finalizers": ["b", "c"]}})).unwrap();
        assert_eq!(added["metadata"]["finalizers"], json!(["a", "b", "c"]));
        let gone =
            apply(current, json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}})).unwrap();
        assert_eq!(gone["metadata"]["finalizers"], json!(["b"]));
    }

    #[test]
    fn unions_keep_only_what_retain_keys_names() {
        let current = json!({"volumes": [{"name": "v", "emptyDir": {}}]});
        let patch = json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]});
        assert_eq!(spec(current, patch), json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}));
    }

    #[test]
    fn null_removes_and_maps_merge() {
        let current = json!({"metadata": {"labels": {"a": "1", "b": "2"}, "annotations": {"x": "y"}}});
        let merged = apply(
            current,
            json!({"metadata": {"labels": {"a": null, "c": "3"}, "annotations": {"$patch": "replace", "n": "m"}}}),
        );
        assert_eq!(
            merged.unwrap(),
            json!({"metadata": {"labels": {"b": "2", "c": "3"}, "annotations": {"n": "m"}}})
        );
    }

    #[test]
    fn what_is_new_is_taken_as_it_is() {
        let ports =
            json!([{"containerPort": 53, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}]);
        let patch = json!({"containers": [{"name": "dns", "ports": ports, "args": null}]});
        let want = json!({"containers": [{"name": "dns", "ports": ports}]});
        for current in [json!({}), json!({"containers": []}), json!({"containers": "none"})] {
            assert_eq!(spec(current, patch.clone()), want);
        }
        let replaced =
            json!({"metadata": {"annotations": {"$patch": "replace", "n": "m"}, "labels": {"a": "b"}}});
        assert_eq!(apply(json!({}), replaced).unwrap(), json!({"metadata": {"labels": {"a": "b"}}}));
        let emptied = json!({"securityContext": {"$patch": "delete"}});
        assert_eq!(
            spec(json!({"securityContext": {"runAsUser": 1}}), emptied),
            json!({"securityContext": {}})
        );
    }

    #[test]
    fn mistakes_are_named() {
        let order = |patch: Value, order: Value| json!({"spec": {"$setElementOrder/containers": order, "containers": patch}});
        let (a, b) = (json!({"name": "a"}), json!({"name": "b"}));
        let cases = [
            (
                json!({"spec": {"containers": [{"image": "i"}]}}),
                500,
                "map: map[image:i] does not contain declared merge key: name",
            ),
            (
                json!({"spec": {"containers": [{"$patch": "delete"}]}}),
                500,
                "map: map[$patch:delete] does not contain declared merge key: name",
            ),
            (
                json!({"spec": {"$patch": "explode"}}),
                500,
                "unknown patch type: explode in map: map[$patch:explode]",
            ),
            (
                json!({"spec": {"$patch": "merge"}}),
                500,
                "unknown patch type: merge in map: map[$patch:merge]",
            ),
            (
                json!({"spec": {"containers": [{"$patch": "merge", "name": "a"}]}}),
                500,
                "merging lists cannot yet be specified in the patch",
            ),
            (json!({"spec": {"$retainKeys": 1}}), 400, "invalid patch format of retainKeys"),
            (json!({"spec": {"$retainKeys": ["a"], "b": 1}}), 400, "invalid patch format of retainKeys"),
            (json!({"spec": {"$setElementOrder": []}}), 400, "invalid patch format of setElementOrder list"),
            (
                json!({"spec": {"$deleteFromPrimitiveList": []}}),
                400,
                "invalid patch format of primitive list",
            ),
            (order(json!([]), json!("x")), 500, "expected a []interface {}, but received a string"),
            (
                order(json!([a, b]), json!([b, a])),
                500,
                "The order in patch list:\n[map[name:a] map[name:b]]\n doesn't match $setElementOrder list:\n[map[name:b] \
                 map[name:a]]\n",
            ),
            (
                json!({"spec": {"containers": ["a", 1]}}),
                500,
                "list element types are not identical: [[] [a 1]]",
            ),
        ];
        for (patch, code, want) in cases {
            let error = strategic(&json!({"spec": {"containers": []}}), &patch, pod()).unwrap_err();
            let status = crate::status::Status::from(error);
            assert_eq!((status.code, status.message.as_str()), (code, want), "{patch}");
        }
        let lists = apply(json!({"spec": {"containers": []}}), json!({"spec": {"containers": [[]]}}));
        assert_eq!(lists.unwrap_err(), "lists of lists are not supported");
    }

    proptest! {
        #[test]
        fn any_patch_ends_without_panic_and_an_empty_one_changes_nothing(a in json(), b in json()) {
            // Only the absence of a panic is asserted of arbitrary patches.
            drop(strategic(&a, &b, pod()));
            if a.is_object() {
                prop_assert_eq!(strategic(&a, &json!({}), pod()), Ok(a));
            }
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let key = prop::sample::select(vec![
            "spec",
            "metadata",
            "containers",
            "name",
            "volumes",
            "$patch",
            "$retainKeys",
            "$setElementOrder/containers",
            "$deleteFromPrimitiveList/finalizers",
            "finalizers",
            "x",
        ]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            prop::sample::select(vec!["a", "delete", "replace"]).prop_map(Value::from)
        ];
        leaf.prop_recursive(5, 64, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(key.clone(), inner, 0..5)
                    .prop_map(|m| Value::Object(m.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
            ]
        })
    }
}
