//! Selectors as people write them on a command line.
//!
//! Contract: apimachinery `labels.Selector` in its text form: terms in the order of their keys.

use serde_json::Value;

use super::{items, text};

/// A label selector as text, empty when it selects all; none when it is no selector.
pub(in crate::registry) fn of(selector: &Value) -> Option<String> {
    let mut terms: Vec<(&str, String)> = Vec::new();
    for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
        terms.push((key, format!("{key}={}", value.as_str().unwrap_or_default())));
    }
    for term in items(selector.get("matchExpressions")) {
        let key = text(term, "/key");
        let mut values: Vec<&str> = items(term.get("values")).filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        terms.push((
            key,
            match text(term, "/operator") {
                "In" => format!("{key} in ({values})"),
                "NotIn" => format!("{key} notin ({values})"),
                "Exists" => key.to_owned(),
                "DoesNotExist" => format!("!{key}"),
                _ => return None,
            },
        ));
    }
    terms.sort_by(|a, b| a.0.cmp(b.0));
    Some(terms.into_iter().map(|(_, term)| term).collect::<Vec<_>>().join(","))
}

/// The cell of a selector: what stands there when it selects all or is none.
pub(super) fn cell(selector: Option<&Value>) -> String {
    match selector.map(of) {
        Some(Some(text)) if !text.is_empty() => text,
        Some(None) => "<error>".to_owned(),
        _ => "<none>".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_read_as_they_are_typed() {
        let selector = json!({"matchLabels": {"b": "1"}, "matchExpressions": [
            {"key": "a", "operator": "In", "values": ["y", "x"]}, {"key": "c", "operator": "DoesNotExist"}]});
        assert_eq!(cell(Some(&selector)), "a in (x,y),b=1,!c");
        assert_eq!(cell(Some(&json!({}))), "<none>");
        assert_eq!(cell(None), "<none>");
        assert_eq!(cell(Some(&json!({"matchExpressions": [{"key": "a", "operator": "Near"}]}))), "<error>");
    }
}
