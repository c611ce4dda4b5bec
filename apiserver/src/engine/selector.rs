//! Label and field selectors of a request, parsed for the store.
//!
//! Contract: apimachinery `pkg/labels.Parse` and `pkg/fields.ParseSelector`.

use component_base::selector::{LabelSelector, Operator, Requirement, SelectorError};

use crate::{
    registry::SelectableField,
    status::Status,
    storage::{FieldRequirement, LabelOperator, LabelRequirement, Selection},
};

/// Both selectors; fields must be selectable.
pub(crate) fn parse(labels: &str, fields: &str, selectable: &[SelectableField]) -> Result<Selection, Status> {
    let labels: LabelSelector =
        labels.parse().map_err(|error: SelectorError| Status::bad_request(error.to_string()))?;
    let labels = labels.requirements().iter().map(requirement).collect();
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
    Ok(Selection { labels, fields: requirements, shard: None })
}

/// A requirement as the store has it, where `=` is a list of one.
fn requirement(parsed: &Requirement) -> LabelRequirement {
    let operator = match parsed.operator() {
        Operator::In | Operator::Equals | Operator::DoubleEquals => LabelOperator::In,
        Operator::NotIn | Operator::NotEquals => LabelOperator::NotIn,
        Operator::Exists => LabelOperator::Exists,
        Operator::DoesNotExist => LabelOperator::DoesNotExist,
        Operator::GreaterThan => LabelOperator::GreaterThan,
        Operator::LessThan => LabelOperator::LessThan,
    };
    LabelRequirement { key: parsed.key().to_owned(), operator, values: parsed.values().to_vec() }
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
        for (text, why) in [
            ("a in", "unable to parse requirement: found '' expected: '('"),
            ("a in b)", "unable to parse requirement: found 'b' expected: '('"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ] {
            let refused = parse(text, "", &[]).unwrap_err();
            assert_eq!((refused.code, refused.message.as_str()), (400, why), "{text}");
        }
    }

    #[test]
    fn only_selectable_fields() {
        assert!(parse("", "metadata.name!=x", &[]).unwrap().fields[0].negate);
        assert_eq!(parse("", "spec.x=y", &[]).unwrap_err().code, 400);
    }
}
