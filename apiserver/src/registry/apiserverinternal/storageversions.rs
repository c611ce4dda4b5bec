//! `storageversions` of internal.apiserver.k8s.io: which versions servers store and read a resource in.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value;

use crate::{
    field::{ErrorList, Path},
    object::Object,
    registry::{
        Column, Resource, Subresource,
        kit::{Cell, Plain, Rules, at::At, column, format, items, short_list, text},
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("CommonEncodingVersion", "string"),
    column("StorageVersions", "string"),
    column("Age", "string"),
];
const CELLS: &[Cell] =
    &[Cell::Name, Cell::Field("/status/commonEncodingVersion", "<unset>"), Cell::With(versions), Cell::Age];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        versions: &["v1alpha1"],
        storage_version: "v1alpha1",
        namespaced: false,
        subresources: &[Subresource::Status],
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            name,
            validate_new: check,
            validate_status: |new, _, errors| check(new, errors),
            status_alone: true,
            unconditional_update: false,
            ..Rules::new(Plain { status: true, generation: false, cells: CELLS })
        }),
        ..Resource::of("internal.apiserver.k8s.io", "StorageVersion", "storageversions", "storageversion")
    }
}

fn versions(object: &Object) -> Value {
    let one =
        |version: &Value| format!("{}={}", text(version, "/apiServerID"), text(version, "/encodingVersion"));
    short_list(&items(object.pointer("/status/storageVersions")).map(one).collect::<Vec<_>>())
}

/// `group.resource`.
fn name(name: &str, _prefix: bool) -> Vec<String> {
    let Some((group, resource)) = name.rsplit_once('.') else {
        return vec!["name must be in the form of <group>.<resource>".to_owned()];
    };
    let told = |part: &str, wrong: Vec<String>| {
        wrong.into_iter().map(|why| format!("the {part} segment {why}")).collect::<Vec<_>>()
    };
    let mut wrong = told("group", format::dns_subdomain(group));
    wrong.extend(told("resource", format::dns_1035_label(resource)));
    wrong
}

fn check(object: &Object, errors: &mut ErrorList) {
    let status = At::status(object);
    let mut servers = BTreeSet::new();
    for version in status.get("storageVersions").items() {
        let server = version.get("apiServerID");
        if !servers.insert(server.text()) {
            server.duplicate(errors);
        }
        check_server(&version, errors);
    }
    check_common(&status, errors);
    check_conditions(&status, errors);
}

fn check_server(version: &At<'_>, errors: &mut ErrorList) {
    version.get("apiServerID").check_format(errors, format::dns_subdomain);
    let (encoding, decodable) = (version.get("encodingVersion"), version.get("decodableVersions"));
    check_version(&encoding, errors);
    decodable.items().for_each(|one| check_version(&one, errors));
    let known: Vec<&str> = decodable.items().map(|one| one.text()).collect();
    if !known.contains(&encoding.text()) {
        decodable
            .invalid(errors, format!("decodableVersions must include encodingVersion {}", encoding.text()));
    }
    for served in version.get("servedVersions").items() {
        check_version(&served, errors);
        if !known.contains(&served.text()) {
            let all = known.join(" ");
            served.invalid(
                errors,
                format!(
                    "individual served version : {} must be included in decodableVersions : [{all}]",
                    served.text()
                ),
            );
        }
    }
}

/// `version` or `group/version`.
fn check_version(at: &At<'_>, errors: &mut ErrorList) {
    const EMPTY: &str = "must be non-empty";
    let parts: Vec<&str> = at.text().split('/').collect();
    let (group, version) = match parts.as_slice() {
        [version] => (None, *version),
        [group, version] => (Some(*group), *version),
        _ => {
            return at.invalid(
                errors,
                "an apiVersion is a DNS-1035 label, which must consist of lower case alphanumeric characters or '-', \
                 start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or \
                 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?') with an optional DNS subdomain \
                 prefix and '/' (e.g. 'example.com/MyVersion')",
            );
        }
    };
    let part = |told: &str, text: &str, check: &dyn Fn(&str) -> Vec<String>| -> Vec<String> {
        let wrong = if text.is_empty() { vec![EMPTY.to_owned()] } else { check(text) };
        wrong.into_iter().map(|why| format!("{told} part: {why}")).collect()
    };
    let mut wrong = group.map(|group| part("group", group, &format::dns_subdomain)).unwrap_or_default();
    wrong.extend(part("version", version, &format::dns_1035_label));
    if !wrong.is_empty() {
        at.invalid_as(errors, at.text(), wrong.join(","));
    }
}

/// The version that all servers store in, if there is one.
fn check_common(status: &At<'_>, errors: &mut ErrorList) {
    let stated = status.get("commonEncodingVersion");
    let mut stored = status.get("storageVersions").items().map(|one| one.text_of("encodingVersion"));
    let first = stored.next();
    let common = first.filter(|first| stored.all(|other| other == *first));
    match common {
        None if stated.is_set() => stated.invalid(
            errors,
            "should be nil if servers do not agree on the same encoding version, or if there is no server reporting \
             the supported versions yet",
        ),
        Some(common) if !stated.is_set() => {
            stated.invalid(errors, format!("the common encoding version is {common}"));
        }
        Some(common) if stated.text() != common => {
            stated.invalid(errors, format!("the actual common encoding version is {common}"));
        }
        _ => {}
    }
}

/// Conditions of this kind, told of as if the status were their list: clients know them so.
fn check_conditions(status: &At<'_>, errors: &mut ErrorList) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, condition) in status.get("conditions").items().enumerate() {
        let at = |field: &'static str| condition.get(field).named(Path::new("status").index(i).child(field));
        let kind = at("type");
        if let Some(first) = seen.iter().rposition(|other| *other == kind.text()) {
            kind.invalid(
                errors,
                format!("the type of the condition is not unique, it also appears in conditions[{first}]"),
            );
        }
        seen.push(kind.text());
        kind.check_format(errors, format::qualified_name);
        at("status").check_format(errors, format::qualified_name);
        at("reason").check_required(errors);
        at("message").check_required(errors);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::registry::testing::{Kind, changed};

    #[test]
    fn servers_agree_on_a_version_or_not() {
        let kind = Kind::new("internal.apiserver.k8s.io", "storageversions");
        let created = kind.create(json!({"metadata": {"name": "apps.deployments"}, "status": {"a": 1}}));
        assert_eq!(created.1, Vec::<String>::new());
        assert!(created.0.get("status").is_none(), "the status is written apart");
        let status = json!({"commonEncodingVersion": "apps/v1", "storageVersions": [
            {"apiServerID": "a", "encodingVersion": "apps/v1", "decodableVersions": ["apps/v1"],
             "servedVersions": ["apps/v1"]}]});
        let good = changed(&created.0, &[("/status", status)]);
        let wrong = |changes: &[(&str, serde_json::Value)]| {
            kind.update(changed(&good, changes), created.0.clone(), "status").1
        };
        assert_eq!(wrong(&[]), Vec::<String>::new());
        let server = "/status/storageVersions/0";
        for (pointer, value, why) in [
            (
                "/status/commonEncodingVersion",
                json!(null),
                "status.commonEncodingVersion: Invalid value: null: the common encoding version is apps/v1",
            ),
            (
                "/status/commonEncodingVersion",
                json!("v1"),
                "status.commonEncodingVersion: Invalid value: \"v1\": the actual common encoding version is apps/v1",
            ),
            (
                &format!("{server}/servedVersions"),
                json!(["apps/v2"]),
                "status.storageVersions[0].servedVersions[0]: Invalid value: \"apps/v2\": individual served version : apps/v2 must be included in decodableVersions : [apps/v1]",
            ),
            (
                &format!("{server}/decodableVersions"),
                json!(["apps/v1", "/v1"]),
                "status.storageVersions[0].decodableVersions[1]: Invalid value: \"/v1\": group part: must be non-empty",
            ),
            (
                "/status/conditions",
                json!([{"type": "A", "status": "True", "reason": "r"}]),
                "status[0].message: Required value",
            ),
        ] {
            assert_eq!(wrong(&[(pointer, value)]), [why]);
        }
        let named = |name: &str| super::name(name, false);
        assert_eq!(named("pods"), ["name must be in the form of <group>.<resource>"]);
        assert!(named("apps.Pods")[0].starts_with("the resource segment a DNS-1035 label"));
    }
}
