//! Strategic merge patch: a merge patch that knows which lists merge, and by which key.
//!
//! Contract: "Strategic Merge Patch" of the API conventions and apimachinery's `strategicpatch`:
//! `$patch: replace|delete|merge`, `$retainKeys`, `$deleteFromPrimitiveList/<field>`,
//! `$setElementOrder/<field>`.

use proto::table::{self, Field, Kind, TypeId};
use serde_json::{Map, Value};

use super::PatchError;

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

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
    match directive(patch)? {
        Some("replace") => return Ok(without_directives(patch)),
        Some("delete") => return Ok(Map::new()),
        _ => {}
    }
    if let Some(keep) = patch.get(RETAIN) {
        retain(&mut current, patch, keep)?;
    }
    for (key, change) in patch {
        if let Some(field) = key.strip_prefix(DELETE_FROM) {
            delete_scalars(&mut current, field, change)?;
        }
    }
    let ordered = patch.keys().filter_map(|key| key.strip_prefix(ORDER));
    let before: Vec<Vec<Value>> = ordered.map(|field| members(current.get(field))).collect();
    for (key, change) in patch {
        if key.starts_with('$') {
            continue;
        }
        merge_field(&mut current, key, change, field_of(kind, key))?;
    }
    let ordered = patch.iter().filter_map(|(key, order)| Some((key.strip_prefix(ORDER)?, order)));
    for ((field, order), before) in ordered.zip(before) {
        let rule = field_of(kind, field).and_then(list_rule);
        set_order(&mut current, field, order, rule, patch.get(field), &before)?;
    }
    Ok(current)
}

fn members(list: Option<&Value>) -> Vec<Value> {
    list.and_then(Value::as_array).cloned().unwrap_or_default()
}

fn merge_field(
    current: &mut Map<String, Value>,
    key: &str,
    change: &Value,
    field: Option<&'static Field>,
) -> Result<(), PatchError> {
    let old = current.get(key);
    let new = match (change, field.map(|f| &f.kind)) {
        (Value::Null, _) => {
            current.remove(key);
            return Ok(());
        }
        (Value::Object(patch), _) if field.is_some_and(|f| f.patch_replace) => {
            Value::Object(without_directives(patch))
        }
        (Value::Object(patch), kind) => {
            // A map or message without the merge strategy merges all the same; only lists differ.
            let kind = match kind {
                Some(Kind::Message(id)) => Some(*id),
                _ => None,
            };
            let old = old.and_then(Value::as_object).cloned().unwrap_or_default();
            if directive(patch)? == Some("delete") {
                current.remove(key);
                return Ok(());
            }
            Value::Object(merge_map(old, patch, kind)?)
        }
        (Value::Array(patch), _) => match field.filter(|f| f.patch_merge).and_then(list_rule) {
            Some(rule) => {
                let old = old.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                Value::Array(merge_list(old, patch, rule)?)
            }
            None => Value::Array(patch.iter().filter(|v| !is_directive(v)).cloned().collect()),
        },
        (scalar, _) => scalar.clone(),
    };
    current.insert(key.to_owned(), new);
    Ok(())
}

fn merge_list(old: &[Value], patch: &[Value], rule: ListRule) -> Result<Vec<Value>, PatchError> {
    // A member that is nothing but a directive speaks of the whole list.
    if patch.iter().any(|v| is_directive(v) && v.get(DIRECTIVE) == Some(&Value::from("replace"))) {
        return Ok(patch.iter().filter(|v| !is_directive(v)).cloned().collect());
    }
    let Some(key) = rule.key else {
        let mut out = old.to_vec();
        for value in patch {
            if !out.contains(value) {
                out.push(value.clone());
            }
        }
        return Ok(interleaved(out, patch, old, None));
    };
    let mut out = old.to_vec();
    for change in patch {
        let Value::Object(change) = change else {
            return Err(PatchError::MixedList(key.to_owned()));
        };
        let Some(id) = change.get(key) else {
            return Err(PatchError::MergeKey {
                member: Value::Object(change.clone()).to_string(),
                key: key.to_owned(),
            });
        };
        let at = out.iter().position(|member| member.get(key) == Some(id));
        match (directive(change)?, at) {
            (Some("delete"), _) => out.retain(|member| member.get(key) != Some(id)),
            (Some("replace"), Some(at)) => out[at] = Value::Object(without_directives(change)),
            (_, Some(at)) => {
                let member = out[at].as_object().cloned().unwrap_or_default();
                out[at] = Value::Object(merge_map(member, change, rule.member)?);
            }
            (_, None) => out.push(Value::Object(merge_map(Map::new(), change, rule.member)?)),
        }
    }
    Ok(interleaved(out, patch, old, Some(key)))
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

/// Sorts a merged list as the directive says.
fn set_order(
    current: &mut Map<String, Value>,
    field: &str,
    order: &Value,
    rule: Option<ListRule>,
    patched: Option<&Value>,
    before: &[Value],
) -> Result<(), PatchError> {
    let Value::Array(order) = order else {
        return Err(PatchError::Directive(format!("{ORDER}{field} must be a list")));
    };
    let key = rule.and_then(|r| r.key);
    let identity = |v: &Value| match key {
        Some(key) => v.get(key).cloned(),
        None => Some(v.clone()),
    };
    let wanted: Vec<Value> = order.iter().filter_map(identity).collect();
    for member in patched.and_then(Value::as_array).into_iter().flatten().filter(|m| !is_directive(m)) {
        let deleted = member.get(DIRECTIVE) == Some(&Value::from("delete"));
        if !deleted && identity(member).is_some_and(|id| !wanted.contains(&id)) {
            return Err(PatchError::Directive(format!(
                "{ORDER}{field} does not name every member of the patch"
            )));
        }
    }
    if let Some(Value::Array(list)) = current.get_mut(field) {
        *list = interleaved(std::mem::take(list), order, before, key);
    }
    Ok(())
}

fn delete_scalars(current: &mut Map<String, Value>, field: &str, gone: &Value) -> Result<(), PatchError> {
    let Value::Array(gone) = gone else {
        return Err(PatchError::Directive(format!("{DELETE_FROM}{field} must be a list")));
    };
    if let Some(Value::Array(list)) = current.get_mut(field) {
        list.retain(|v| !gone.contains(v));
    }
    Ok(())
}

fn retain(
    current: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    keep: &Value,
) -> Result<(), PatchError> {
    let Value::Array(keep) = keep else {
        return Err(PatchError::Directive(format!("{RETAIN} must be a list")));
    };
    let kept = |key: &str| keep.iter().any(|k| k == key);
    if let Some(missing) = patch.iter().find(|(k, v)| !k.starts_with('$') && !v.is_null() && !kept(k)) {
        return Err(PatchError::Directive(format!(
            "{RETAIN} does not name {}, which the patch sets",
            missing.0
        )));
    }
    current.retain(|key, _| kept(key));
    Ok(())
}

fn directive(patch: &Map<String, Value>) -> Result<Option<&str>, PatchError> {
    match patch.get(DIRECTIVE) {
        None => Ok(None),
        Some(Value::String(s)) if matches!(s.as_str(), "replace" | "delete" | "merge") => Ok(Some(s)),
        Some(other) => Err(PatchError::Directive(format!("unknown patch type {other}"))),
    }
}

/// A list member that holds nothing but a directive.
fn is_directive(value: &Value) -> bool {
    value.as_object().is_some_and(|m| m.len() == 1 && m.contains_key(DIRECTIVE))
}

fn without_directives(map: &Map<String, Value>) -> Map<String, Value> {
    map.iter().filter(|(k, _)| !k.starts_with('$')).map(|(k, v)| (k.clone(), v.clone())).collect()
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
            (
                json!({"containers": [{"name": "a", "$patch": "replace", "image": "i"}]}),
                json!(["a", "b", "c"]),
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
    fn mistakes_are_named() {
        let cases = [
            (
                json!({"spec": {"containers": [{"image": "i"}]}}),
                "map: {\"image\":\"i\"} does not contain declared merge key: name",
            ),
            (
                json!({"spec": {"$patch": "explode"}}),
                "invalid strategic merge patch: unknown patch type \"explode\"",
            ),
            (
                json!({"spec": {"$retainKeys": 1}}),
                "invalid strategic merge patch: $retainKeys must be a list",
            ),
            (json!({"spec": {"containers": ["a"]}}), "list element types are not identical at name"),
        ];
        for (patch, want) in cases {
            assert_eq!(apply(json!({"spec": {"containers": []}}), patch).unwrap_err(), want);
        }
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
