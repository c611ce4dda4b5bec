//! What becomes of objects, by their kind, the options and the clock.

use std::sync::Arc;

use super::*;
use crate::registry::catalog;

const NOW: &str = "2030-01-01T00:01:00Z";

fn resource(group: &str, version: &str, plural: &str) -> Arc<Resource> {
    catalog::builtin().find(group, version, plural).unwrap().clone()
}

fn object(value: Value) -> Object {
    Object::from_value(value).unwrap()
}

fn fate(resource: &Resource, it: &Value, options: &Value) -> Fate {
    decide(resource, &object(it.clone()), &object(options.clone()), true, NOW.parse().unwrap())
}

/// What is marked: when it goes, its seconds, its generation and its finalizers.
fn told(fate: &Fate) -> String {
    let (word, object) = match fate {
        Fate::Gone(object) => ("gone", object),
        Fate::Marked(object) => ("marked", object),
        Fate::Pending => return "pending".to_owned(),
    };
    let seconds = earlier(object).map_or("-".to_owned(), |seconds| seconds.to_string());
    let at = object.meta_str("deletionTimestamp").get(14..19).unwrap_or("-");
    format!("{word} {at} {seconds} {} {:?}", object.generation(), object.finalizers())
}

#[test]
fn pods_are_given_time_once_and_then_only_less() {
    let pods = resource("", "v1", "pods");
    let spec = json!({"nodeName": "n", "terminationGracePeriodSeconds": 30});
    let fresh = |meta: Value| json!({"metadata": meta, "spec": spec});
    let marked = |at: &str, seconds: i64| {
        let at = format!("2030-01-01T00:{at}Z");
        fresh(json!({"generation": 2, "deletionTimestamp": at, "deletionGracePeriodSeconds": seconds}))
    };
    for (pod, options, want) in [
        (fresh(json!({"generation": 1})), json!({}), "marked 01:30 30 2 []"),
        (fresh(json!({"generation": 1})), json!({"gracePeriodSeconds": 5}), "marked 01:05 5 2 []"),
        (fresh(json!({})), json!({"gracePeriodSeconds": -7}), "marked 01:01 1 0 []"),
        (fresh(json!({"generation": 1})), json!({"gracePeriodSeconds": 0}), "gone 01:00 0 2 []"),
        (
            fresh(json!({"finalizers": ["a/b"]})),
            json!({"gracePeriodSeconds": 0}),
            r#"marked 01:00 0 0 ["a/b"]"#,
        ),
        (json!({"metadata": {}, "spec": {}}), json!({}), "gone 01:00 0 0 []"),
        // Ten seconds ago it was given thirty.
        (marked("01:20", 30), json!({}), "pending"),
        (marked("01:20", 30), json!({"gracePeriodSeconds": 30}), "pending"),
        (marked("01:20", 30), json!({"gracePeriodSeconds": 15}), "marked 01:05 15 2 []"),
        (marked("01:20", 30), json!({"gracePeriodSeconds": 5}), "marked 01:00 1 2 []"),
        (marked("01:20", 30), json!({"gracePeriodSeconds": 0}), "gone 01:00 0 2 []"),
        // Its time was set and is over, or nobody said how long it is.
        (marked("00:20", 0), json!({}), "gone 00:20 0 2 []"),
        (fresh(json!({"deletionTimestamp": "2030-01-01T00:00:20Z"})), json!({}), "gone 00:20 - 0 []"),
    ] {
        assert_eq!(told(&fate(&pods, &pod, &options)), want, "{pod} {options}");
    }
    // What waits for its time keeps the finalizers it has.
    let mut pod = marked("01:20", 30);
    pod["metadata"]["finalizers"] = json!(["a/b"]);
    assert_eq!(fate(&pods, &pod, &json!({"propagationPolicy": "Foreground"})), Fate::Pending);
    let huge = json!({"gracePeriodSeconds": i64::MAX});
    assert!(matches!(fate(&pods, &fresh(json!({})), &huge), Fate::Marked(_)));
}

#[test]
fn other_objects_go_at_once_or_with_their_finalizers() {
    let (maps, jobs) = (resource("", "v1", "configmaps"), resource("batch", "v1", "jobs"));
    let events = resource("", "v1", "events");
    for (resource, meta, options, want) in [
        (&maps, json!({}), json!({}), "gone - - 0 []"),
        (&maps, json!({}), json!({"gracePeriodSeconds": 9}), "gone - - 0 []"),
        (&maps, json!({"finalizers": ["a/b"], "generation": 4}), json!({}), r#"marked 01:00 0 5 ["a/b"]"#),
        (&maps, json!({}), json!({"propagationPolicy": "Orphan"}), r#"marked 01:00 0 0 ["orphan"]"#),
        (
            &maps,
            json!({"finalizers": ["orphan", "a/b"]}),
            json!({"propagationPolicy": "Foreground"}),
            r#"marked 01:00 0 0 ["a/b", "foregroundDeletion"]"#,
        ),
        (&maps, json!({"finalizers": ["orphan", "a/b"]}), json!({}), r#"marked 01:00 0 0 ["orphan", "a/b"]"#),
        (
            &maps,
            json!({"finalizers": ["orphan"]}),
            json!({"orphanDependents": false}),
            r#"gone - - 0 ["orphan"]"#,
        ),
        (&jobs, json!({}), json!({}), r#"marked 01:00 0 0 ["orphan"]"#),
        (&jobs, json!({}), json!({"propagationPolicy": "Background"}), "gone - - 0 []"),
        (&events, json!({}), json!({"propagationPolicy": "Foreground"}), "gone - - 0 []"),
        (
            &maps,
            json!({"finalizers": ["a/b"], "deletionTimestamp": "2030-01-01T00:00:20Z",
                "deletionGracePeriodSeconds": 0, "generation": 4}),
            json!({}),
            r#"marked 00:20 0 4 ["a/b"]"#,
        ),
    ] {
        assert_eq!(told(&fate(resource, &json!({"metadata": meta}), &options)), want, "{meta} {options}");
    }
    let orphan = object(json!({"propagationPolicy": "Orphan"}));
    let fate = decide(&maps, &object(json!({"metadata": {}})), &orphan, false, NOW.parse().unwrap());
    assert!(matches!(fate, Fate::Gone(_)), "nobody would take the mark away");
}

#[test]
fn namespaces_end_when_they_are_empty() {
    let namespaces = resource("", "v1", "namespaces");
    let held = json!({"finalizers": ["kubernetes"]});
    for (meta, spec, options, want) in [
        (json!({}), held.clone(), json!({}), "marked 01:00 - 0 []"),
        (json!({}), json!({}), json!({}), "marked 01:00 - 0 []"),
        (
            json!({"finalizers": ["orphan", "a/b"]}),
            held.clone(),
            json!({"orphanDependents": false}),
            r#"marked 01:00 - 0 ["a/b", "foregroundDeletion"]"#,
        ),
        (
            json!({"finalizers": ["a/b"]}),
            held.clone(),
            json!({"propagationPolicy": "Orphan"}),
            r#"marked 01:00 - 0 ["a/b", "orphan"]"#,
        ),
        (json!({"deletionTimestamp": "2030-01-01T00:00:20Z"}), held, json!({}), "pending"),
        (json!({"deletionTimestamp": "2030-01-01T00:00:20Z"}), json!({}), json!({}), "gone 00:20 - 0 []"),
    ] {
        let namespace = json!({"metadata": meta, "spec": spec});
        let fate = fate(&namespaces, &namespace, &options);
        assert_eq!(told(&fate), want, "{namespace} {options}");
        if let Fate::Marked(namespace) = fate {
            assert_eq!(namespace.pointer("/status/phase"), Some(&json!("Terminating")));
        }
    }
}
