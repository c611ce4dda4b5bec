//! The row of an event, in whichever of its two forms it comes.

use jiff::Timestamp;
use serde_json::Value;

use super::kit::text;
use crate::{object::Object, table};

/// Cells in the order of both kinds' columns.
pub(super) fn row(obj: &Object, now: Timestamp) -> Vec<Value> {
    let value = obj.to_value();
    let first = |pointers: &[&str]| {
        pointers.iter().map(|p| text(&value, p)).find(|t| !t.is_empty()).unwrap_or_default().to_owned()
    };
    let about = if value.get("regarding").is_some() { "/regarding" } else { "/involvedObject" };
    let subject = |field: &str| text(&value, &format!("{about}/{field}"));
    let object = match (subject("kind").to_lowercase(), subject("name")) {
        (kind, "") => kind,
        (kind, name) => format!("{kind}/{name}"),
    };
    let source = match (
        first(&[
            "/source/component",
            "/deprecatedSource/component",
            "/reportingComponent",
            "/reportingController",
        ]),
        first(&["/source/host", "/deprecatedSource/host", "/reportingInstance"]),
    ) {
        (component, host) if host.is_empty() => component,
        (component, host) => format!("{component}, {host}"),
    };
    let ago = |pointers: &[&str]| match first(pointers) {
        none if none.is_empty() => "<unknown>".to_owned(),
        at => table::since(&at, now),
    };
    let counts = ["/series/count", "/count", "/deprecatedCount"].iter();
    // What happened once needs no count.
    let count = counts.filter_map(|p| value.pointer(p)?.as_i64()).find(|count| *count != 0);
    vec![
        ago(&[
            "/series/lastObservedTime",
            "/lastTimestamp",
            "/deprecatedLastTimestamp",
            "/firstTimestamp",
            "/deprecatedFirstTimestamp",
            "/eventTime",
        ])
        .into(),
        first(&["/type"]).into(),
        first(&["/reason"]).into(),
        object.into(),
        subject("fieldPath").into(),
        source.into(),
        first(&["/message", "/note"]).trim().into(),
        ago(&["/firstTimestamp", "/deprecatedFirstTimestamp", "/eventTime"]).into(),
        count.unwrap_or(1).into(),
        obj.name().into(),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_forms_show_the_same() {
        let core = json!({"metadata": {"name": "e"}, "type": "Normal", "reason": "Started", "message": "m", "count": 3,
            "involvedObject": {"kind": "Pod", "name": "p"}, "source": {"component": "kubelet", "host": "n1"},
            "firstTimestamp": "1970-01-01T00:00:00Z", "lastTimestamp": "1970-01-01T00:01:00Z"});
        let new = json!({"metadata": {"name": "e"}, "type": "Normal", "reason": "Started", "note": "m", "deprecatedCount": 3,
            "regarding": {"kind": "Pod", "name": "p"}, "deprecatedSource": {"component": "kubelet", "host": "n1"},
            "deprecatedFirstTimestamp": "1970-01-01T00:00:00Z", "deprecatedLastTimestamp": "1970-01-01T00:01:00Z"});
        let now = Timestamp::from_second(90).unwrap();
        let row = |v| row(&Object::from_value(v).unwrap(), now);
        assert_eq!(row(core.clone()), row(new));
        assert_eq!(row(core)[..4], [json!("30s"), json!("Normal"), json!("Started"), json!("pod/p")]);
    }
}
