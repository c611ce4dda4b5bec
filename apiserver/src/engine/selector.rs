//! Label and field selectors of a request, parsed for the store.
//!
//! Contract: apimachinery `pkg/labels.Parse` and `pkg/fields.ParseSelector`.

use crate::{
    registry::SelectableField,
    status::Status,
    storage::{FieldRequirement, LabelOperator, LabelRequirement, Selection},
};

/// Both selectors; fields must be selectable.
pub(crate) fn parse(labels: &str, fields: &str, selectable: &[SelectableField]) -> Result<Selection, Status> {
    let labels = split(labels).into_iter().map(label).collect::<Result<_, _>>()?;
    let mut requirements = Vec::new();
    for term in fields.split(',').map(str::trim).filter(|t| !t.is_empty()) {
        let one = field(term)?;
        let known = matches!(one.field.as_str(), "metadata.name" | "metadata.namespace")
            || selectable.iter().any(|f| f.name == one.field);
        if !known {
            return Err(Status::bad_request(format!("field label not supported: {}", one.field)));
        }
        requirements.push(one);
    }
    Ok(Selection { labels, fields: requirements })
}

/// Splits at commas outside parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_u32, 0);
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.into_iter().map(str::trim).filter(|p| !p.is_empty()).collect()
}

fn label(term: &str) -> Result<LabelRequirement, Status> {
    let bad = || Status::bad_request(format!("unable to parse requirement: {term:?}"));
    let of = |key: &str, operator, values: Vec<String>| {
        let key = key.trim();
        let legal = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        if key.is_empty() || !key.chars().all(legal) {
            return Err(bad());
        }
        Ok(LabelRequirement { key: key.to_owned(), operator, values })
    };
    if let Some(body) = term.strip_suffix(')') {
        let (head, values) = body.split_once('(').ok_or_else(bad)?;
        let (key, word) = head.trim().rsplit_once(char::is_whitespace).ok_or_else(bad)?;
        let operator = match word {
            "in" => LabelOperator::In,
            "notin" => LabelOperator::NotIn,
            _ => return Err(bad()),
        };
        return of(key, operator, values.split(',').map(|v| v.trim().to_owned()).collect());
    }
    if let Some(key) = term.strip_prefix('!') {
        return of(key, LabelOperator::DoesNotExist, Vec::new());
    }
    for (sign, operator) in [
        ("!=", LabelOperator::NotIn),
        ("==", LabelOperator::In),
        ("=", LabelOperator::In),
        (">", LabelOperator::GreaterThan),
        ("<", LabelOperator::LessThan),
    ] {
        if let Some((key, value)) = term.split_once(sign) {
            return of(key, operator, vec![value.trim().to_owned()]);
        }
    }
    of(term, LabelOperator::Exists, Vec::new())
}

fn field(term: &str) -> Result<FieldRequirement, Status> {
    for (sign, negate) in [("!=", true), ("==", false), ("=", false)] {
        if let Some((field, value)) = term.split_once(sign) {
            return Ok(FieldRequirement {
                field: field.trim().to_owned(),
                value: value.trim().to_owned(),
                negate,
            });
        }
    }
    Err(Status::bad_request(format!("invalid selector: '{term}'; can't understand '{term}'")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_terms() {
        use LabelOperator as Op;
        let cases = [
            ("a", Op::Exists, "a", vec![]),
            ("!a", Op::DoesNotExist, "a", vec![]),
            ("a=b", Op::In, "a", vec!["b"]),
            ("a==b", Op::In, "a", vec!["b"]),
            ("a != b", Op::NotIn, "a", vec!["b"]),
            ("a in (b, c)", Op::In, "a", vec!["b", "c"]),
            ("x.io/a notin (b)", Op::NotIn, "x.io/a", vec!["b"]),
            ("a>3", Op::GreaterThan, "a", vec!["3"]),
        ];
        for (text, operator, key, values) in cases {
            let got = parse(text, "", &[]).unwrap().labels;
            let values = values.into_iter().map(str::to_owned).collect();
            assert_eq!(got, vec![LabelRequirement { key: key.to_owned(), operator, values }], "{text}");
        }
        assert_eq!(parse("a in (b,c),d", "", &[]).unwrap().labels.len(), 2);
        assert!(parse("a in b)", "", &[]).is_err());
        assert!(parse("a b", "", &[]).is_err());
    }

    #[test]
    fn only_selectable_fields() {
        assert!(parse("", "metadata.name!=x", &[]).unwrap().fields[0].negate);
        assert_eq!(parse("", "spec.x=y", &[]).unwrap_err().code, 400);
    }
}
