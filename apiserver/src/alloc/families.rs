//! The addresses and families of a service as its user states them: brought in line, inferred, or refused. Pure.
//!
//! Contract: KEP-563, "API Design"; upstream's `initIPFamilyFields` and `normalizeClusterIPs`.

use serde_json::{Map, Value, json};

use super::plan::Family;
use crate::{
    field::{Error, ErrorList, Path},
    registry::check_service_families,
};

type Fields = Map<String, Value>;

const SINGLE: &str = "SingleStack";
const PREFER: &str = "PreferDualStack";
const REQUIRE: &str = "RequireDualStack";

/// Whether a field says nothing.
pub(super) fn is_nothing(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    }
}

/// Brings `clusterIPs` in line with `clusterIP` where a client that knows only the one has set or changed it.
pub(super) fn normalize(spec: &mut Fields, old: Option<&Fields>) {
    let ip = text(spec, "clusterIP").to_owned();
    let Some(old) = old else {
        if !ip.is_empty() && is_nothing(spec.get("clusterIPs")) {
            spec.insert("clusterIPs".to_owned(), json!([ip]));
        }
        return;
    };
    let before = text(old, "clusterIP");
    if list(spec, "clusterIPs").is_empty() && ip == before && !list(old, "clusterIPs").is_empty() {
        spec.insert("clusterIPs".to_owned(), json!(list(old, "clusterIPs")));
    }
    if ip == before || list(spec, "clusterIPs") != list(old, "clusterIPs") {
        return;
    }
    if ip.is_empty() {
        spec.remove("clusterIPs");
    } else {
        spec.insert("clusterIPs".to_owned(), json!([ip]));
    }
}

/// Fills in policy and families, for a service that is no name of another one. `available` are the families of the
/// cluster's ranges, primary first.
///
/// # Errors
/// What does not go together, or not with the cluster.
pub(super) fn settle(spec: &mut Fields, old: Option<&Fields>, available: &[Family]) -> Result<(), ErrorList> {
    if old.is_some_and(|old| keeps_preference(spec, old)) {
        return Ok(());
    }
    let selects = spec.get("selector").and_then(Value::as_object).is_some_and(|s| !s.is_empty());
    let only_names = text(spec, "clusterIP") == "None" && !selects;
    if spec.get("ipFamilyPolicy").is_none_or(Value::is_null) {
        let before = old.and_then(|old| old.get("ipFamilyPolicy")).and_then(Value::as_str);
        let policy = before.unwrap_or(if only_names { REQUIRE } else { SINGLE });
        spec.insert("ipFamilyPolicy".to_owned(), policy.into());
    }
    fail(check_service_families(spec, old))?;
    let mut errors = ErrorList::new();
    if let Some(old) = old {
        check_release(spec, old, &mut errors);
    }
    check_policy(spec, &mut errors);
    infer(spec, available, &mut errors);
    fail(errors)?;
    let single = text(spec, "ipFamilyPolicy") == SINGLE;
    if !only_names {
        fail(check_available(spec, available))?;
    }
    let mut families: Vec<Family> = list(spec, "ipFamilies").into_iter().filter_map(Family::parse).collect();
    if families.is_empty() {
        families.push(available.first().copied().unwrap_or(Family::V4));
    }
    if !single && families.len() == 1 && (only_names || available.len() > 1) {
        families.push(families[0].other());
    }
    let names: Vec<&str> = families.into_iter().map(Family::name).collect();
    spec.insert("ipFamilies".to_owned(), json!(names));
    Ok(())
}

/// Whether an update leaves a service that prefers two families as it is, whatever the cluster has by now.
fn keeps_preference(spec: &Fields, old: &Fields) -> bool {
    let same = |field: &str| list(spec, field) == list(old, field);
    let before = old.get("ipFamilyPolicy").and_then(Value::as_str);
    text(spec, "ipFamilyPolicy") == PREFER
        && before.is_none_or(|before| before == PREFER)
        && kind(spec) == kind(old)
        && same("clusterIPs")
        && same("ipFamilies")
}

/// A second address and family go with a word: one family is asked for, or they are left as they were.
fn check_release(spec: &mut Fields, old: &Fields, errors: &mut ErrorList) {
    let single = text(spec, "ipFamilyPolicy") == SINGLE;
    let policy = spec.get("ipFamilyPolicy").cloned().unwrap_or_default();
    for (field, what) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
        let (now, before) = (list(spec, field), list(old, field));
        if single && now == before && now.len() > 1 {
            let first = json!([now[0]]);
            spec.insert(field.to_owned(), first);
        } else if !single && !now.is_empty() && now.len() < before.len() {
            let why = format!("must be 'SingleStack' to release the secondary {what}");
            errors.push(Error::invalid(&path("ipFamilyPolicy"), policy.clone(), why));
        }
    }
}

fn check_policy(spec: &Fields, errors: &mut ErrorList) {
    let policy = text(spec, "ipFamilyPolicy");
    for (field, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
        if policy == SINGLE && list(spec, field).len() == 2 {
            let why =
                format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
            errors.push(Error::invalid(&path("ipFamilyPolicy"), policy, why));
        }
    }
}

/// Families of the addresses that are stated beyond the families that are.
fn infer(spec: &mut Fields, available: &[Family], errors: &mut ErrorList) {
    let mut families: Vec<String> = list(spec, "ipFamilies").into_iter().map(str::to_owned).collect();
    let ips = list(spec, "clusterIPs");
    for (i, ip) in ips.iter().enumerate().skip(families.len()) {
        let Ok(ip) = ip.parse() else { break };
        let family = Family::of(ip);
        if available.contains(&family) {
            families.push(family.name().to_owned());
        } else {
            let why = format!("{} is not configured on this cluster", family.name());
            errors.push(Error::invalid(&path("clusterIPs").index(i), json!(ips), why));
        }
    }
    if !families.is_empty() {
        spec.insert("ipFamilies".to_owned(), json!(families));
    }
}

fn check_available(spec: &Fields, available: &[Family]) -> ErrorList {
    let mut errors = ErrorList::new();
    if text(spec, "ipFamilyPolicy") == REQUIRE && available.len() < 2 {
        let why = "this cluster is not configured for dual-stack services";
        errors.push(Error::invalid(&path("ipFamilyPolicy"), REQUIRE, why));
    }
    for (i, family) in list(spec, "ipFamilies").into_iter().enumerate() {
        if Family::parse(family).is_none_or(|family| !available.contains(&family)) {
            let at = path("ipFamilies").index(i);
            errors.push(Error::invalid(&at, family, "not configured on this cluster"));
        }
    }
    errors
}

fn fail(errors: ErrorList) -> Result<(), ErrorList> {
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn path(field: &str) -> Path {
    Path::new("spec").child(field)
}

fn kind(spec: &Fields) -> &str {
    match text(spec, "type") {
        "" => "ClusterIP",
        kind => kind,
    }
}

fn text<'f>(spec: &'f Fields, field: &str) -> &'f str {
    spec.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn list<'f>(spec: &'f Fields, field: &str) -> Vec<&'f str> {
    let members = spec.get(field).and_then(Value::as_array).into_iter().flatten();
    members.map(|member| member.as_str().unwrap_or_default()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Family; 2] = [Family::V4, Family::V6];

    fn fields(value: Value) -> Fields {
        let Value::Object(fields) = value else { panic!("a spec is an object") };
        fields
    }

    fn settled(new: Value, old: Option<Value>, available: &[Family]) -> Result<Value, Vec<String>> {
        let (mut new, old) = (fields(new), old.map(fields));
        normalize(&mut new, old.as_ref());
        let done = settle(&mut new, old.as_ref(), available);
        done.map(|()| Value::Object(new))
            .map_err(|errors| errors.iter().map(|e| format!("{}: {}", e.field, e.detail)).collect())
    }

    #[test]
    fn what_is_not_stated_is_inferred() {
        let table = [
            (json!({}), json!({"ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"})),
            (
                json!({"ipFamilyPolicy": PREFER}),
                json!({"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": PREFER}),
            ),
            (
                json!({"clusterIP": "fd00::1"}),
                json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"], "ipFamilies": ["IPv6"],
                    "ipFamilyPolicy": SINGLE}),
            ),
            (
                json!({"clusterIP": "None"}),
                json!({"clusterIP": "None", "clusterIPs": ["None"], "ipFamilies": ["IPv4", "IPv6"],
                    "ipFamilyPolicy": REQUIRE}),
            ),
            (
                json!({"clusterIP": "None", "selector": {"a": "b"}, "ipFamilies": ["IPv6"]}),
                json!({"clusterIP": "None", "clusterIPs": ["None"], "selector": {"a": "b"}, "ipFamilies": ["IPv6"],
                    "ipFamilyPolicy": SINGLE}),
            ),
        ];
        for (spec, want) in table {
            assert_eq!(settled(spec.clone(), None, &BOTH), Ok(want), "{spec}");
        }
        let one = json!({"ipFamilies": ["IPv4"], "ipFamilyPolicy": PREFER});
        assert_eq!(settled(json!({"ipFamilyPolicy": PREFER}), None, &BOTH[..1]), Ok(one));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let table = [
            (
                json!({"clusterIP": "x"}),
                "spec.clusterIPs[0]: must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ),
            (
                json!({"clusterIPs": ["10.0.0.1"]}),
                "spec.clusterIPs: must be empty when `clusterIP` is not specified",
            ),
            (
                json!({"ipFamilies": ["IPv4", "IPv6"]}),
                "spec.ipFamilyPolicy: must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
            ),
            (
                json!({"clusterIP": "10.0.0.1", "ipFamilies": ["IPv6"]}),
                "spec.clusterIPs[0]: expected an IPv6 value as indicated by `ipFamilies[0]`",
            ),
            (json!({"ipFamilies": ["IPv5"]}), "spec.ipFamilies[0]: supported values: \"IPv4\", \"IPv6\""),
            (
                json!({"ipFamilyPolicy": ""}),
                "spec.ipFamilyPolicy: supported values: \"PreferDualStack\", \"RequireDualStack\", \"SingleStack\"",
            ),
        ];
        for (spec, why) in table {
            assert_eq!(settled(spec.clone(), None, &BOTH), Err(vec![why.to_owned()]), "{spec}");
        }
        let table = [
            (
                json!({"ipFamilyPolicy": REQUIRE}),
                "spec.ipFamilyPolicy: this cluster is not configured for dual-stack services",
            ),
            (json!({"ipFamilies": ["IPv6"]}), "spec.ipFamilies[0]: not configured on this cluster"),
            (json!({"clusterIP": "fd00::1"}), "spec.clusterIPs[0]: IPv6 is not configured on this cluster"),
        ];
        for (spec, why) in table {
            assert_eq!(settled(spec.clone(), None, &BOTH[..1]), Err(vec![why.to_owned()]), "{spec}");
        }
    }

    #[test]
    fn a_second_family_comes_and_goes_with_the_policy() {
        let old = json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"],
            "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": REQUIRE});
        let mut single = old.clone();
        single["ipFamilyPolicy"] = SINGLE.into();
        let less = json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": SINGLE});
        assert_eq!(settled(single.clone(), Some(old.clone()), &BOTH), Ok(less.clone()));
        let mut more = less.clone();
        more["ipFamilyPolicy"] = REQUIRE.into();
        let both = settled(more.clone(), Some(less), &BOTH).unwrap();
        assert_eq!(both["ipFamilies"], json!(["IPv4", "IPv6"]));
        assert_eq!(
            settled(more, Some(old.clone()), &BOTH),
            Err(vec![
                "spec.ipFamilyPolicy: must be 'SingleStack' to release the secondary cluster IP".to_owned(),
                "spec.ipFamilyPolicy: must be 'SingleStack' to release the secondary IP family".to_owned(),
            ])
        );
        // What prefers two families stays as it is, even where the cluster has lost one.
        let mut prefers = old;
        prefers["ipFamilyPolicy"] = PREFER.into();
        assert_eq!(settled(prefers.clone(), Some(prefers.clone()), &BOTH[..1]), Ok(prefers));
        // A client that knows one address alone changes the list with it.
        let alone = json!({"clusterIP": "None", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": SINGLE});
        let before = json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": SINGLE});
        assert_eq!(settled(alone, Some(before), &BOTH).unwrap()["clusterIPs"], json!(["None"]));
    }
}
