//! The two forms of an event: core/v1, in which it is stored, and events.k8s.io/v1.
//!
//! Contract: upstream's conversions of events.k8s.io: the same facts under other names.

use crate::object::Object;

/// The apiVersion of the stored form.
pub(super) const CORE: &str = "v1";

/// Names that differ: in core, in events.k8s.io.
const NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// Renames in place; an event that has the wanted form already stays as it is.
pub(super) fn convert(event: &mut Object, to_core: bool) {
    for (core, other) in NAMES {
        let (from, to) = if to_core { (other, core) } else { (core, other) };
        if let Some(value) = event.remove(from) {
            event.set(to, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_forms_have_the_same_facts() {
        let core = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod"}, "message": "m", "reason": "r",
            "type": "Normal", "source": {"component": "c"}, "count": 2, "reportingComponent": "c", "series": {"count": 3}});
        let mut event = Object::from_value(core.clone()).unwrap();
        convert(&mut event, false);
        assert_eq!(event.pointer("/regarding/kind"), Some(&json!("Pod")));
        assert_eq!((event.get("note"), event.get("deprecatedCount")), (Some(&json!("m")), Some(&json!(2))));
        assert!(event.get("message").is_none());
        convert(&mut event, false);
        convert(&mut event, true);
        assert_eq!(event.into_value(), core);
    }
}
