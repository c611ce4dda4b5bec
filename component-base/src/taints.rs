//! Taints of nodes, and which of them a pod tolerates.
//!
//! Contract: "Taints and Tolerations"; numbers are compared as KEP-5471 has it.

use k8s_openapi::api::core::v1::{Taint, Toleration};

/// Whether a toleration puts up with a taint; `compare` says whether there are operators that compare numbers.
pub fn tolerates(toleration: &Toleration, taint: &Taint, compare: bool) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    let (bound, found) = (toleration.value.as_deref().unwrap_or_default(), taint.value.as_deref());
    let found = found.unwrap_or_default();
    let compared = |holds: fn(i64, i64) -> bool| match (whole_number(found), whole_number(bound)) {
        (Some(found), Some(bound)) => compare && holds(found, bound),
        _ => false,
    };
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => bound == found,
        "Exists" => true,
        "Lt" => compared(|found, bound| found < bound),
        "Gt" => compared(|found, bound| found > bound),
        _ => false,
    }
}

/// A whole number as people write it: no sign but a minus, no zero in front.
pub fn whole_number(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = match digits.as_bytes() {
        [b'0'] => digits.len() == text.len(),
        [b'1'..=b'9', ..] => true,
        _ => false,
    };
    text.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tolerations_follow_the_taints_page() {
        let taint = |value: &str| -> Taint {
            serde_json::from_value(json!({"key": "k", "value": value, "effect": "NoExecute"})).unwrap()
        };
        let table = [
            (json!({}), "", true),
            (json!({}), "v", false),
            (json!({"operator": "Exists"}), "v", true),
            (json!({"key": "k", "value": "v"}), "v", true),
            (json!({"key": "k", "operator": "Equal", "value": "w"}), "v", false),
            (json!({"key": "other", "operator": "Exists"}), "v", false),
            (json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}), "v", false),
            (json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), "v", true),
            (json!({"key": "k", "operator": "Near", "value": "v"}), "v", false),
        ];
        for (toleration, value, expected) in table {
            let read: Toleration = serde_json::from_value(toleration.clone()).unwrap();
            assert_eq!(tolerates(&read, &taint(value), true), expected, "{toleration} of {value}");
            assert_eq!(tolerates(&read, &taint(value), false), expected, "{toleration} of {value}");
        }
        for (operator, bound, value, expected) in [
            ("Lt", "10", "9", true),
            ("Lt", "10", "10", false),
            ("Gt", "-5", "-4", true),
            ("Gt", "10", "10", false),
            ("Gt", "1", "+2", false),
            ("Gt", "1", "02", false),
            ("Gt", "-0", "1", false),
            ("Lt", "many", "1", false),
            ("Lt", "5", "", false),
        ] {
            let read = json!({"key": "k", "operator": operator, "value": bound});
            let read: Toleration = serde_json::from_value(read).unwrap();
            assert_eq!(tolerates(&read, &taint(value), true), expected, "{value} {operator} {bound}");
            assert!(!tolerates(&read, &taint(value), false), "the gate is off");
        }
    }
}
