use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;
use proptest::prelude::*;

use super::*;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn matches_as_upstream() {
    let set = labels(&[("x", "y"), ("n", "5"), ("foo", "bar")]);
    for (selector, expected) in [
        ("", true),
        ("x=y", true),
        ("x==y,foo=bar", true),
        ("x=z", false),
        ("x!=z", true),
        ("gone!=z", true),
        ("x in (a, y)", true),
        ("x in ()", false),
        ("x notin (a,b)", true),
        ("gone notin (a)", true),
        ("x", true),
        ("!x", false),
        ("!gone", true),
        ("n>4", true),
        ("n<5", false),
        ("x>1", false),
        ("in in (in)", false),
        ("notin", false),
        ("x=", false),
    ] {
        assert_eq!(selector.parse::<LabelSelector>().unwrap().matches(&set), expected, "{selector}");
    }
}

#[test]
fn prints_sorted() {
    for (text, printed) in [
        ("z, a=b", "a=b,z"),
        ("x in (b,a,b)", "x in (a,b)"),
        ("x in ( )", "x in ()"),
        ("x in (,a)", "x in (,a)"),
        ("!x", "!x"),
        ("x>1", "x>1"),
        ("x =", "x="),
    ] {
        assert_eq!(text.parse::<LabelSelector>().unwrap().to_string(), printed, "{text}");
    }
}

#[test]
fn refuses_with_upstreams_words() {
    for (text, message) in [
        (
            "x=a||y=b",
            "unable to parse requirement: values[0][x]: Invalid value: \"a||y\": a valid label must be",
        ),
        ("x==a==b", "found '==', expected: ',' or 'end of string'"),
        ("x,,y", "found ',', expected: identifier after ','"),
        ("x in", "unable to parse requirement: found '' expected: '('"),
        ("x in a", "unable to parse requirement: found 'a' expected: '('"),
        ("(", "found '(', expected: !, identifier, or 'end of string'"),
        ("x foo y", "unable to parse requirement: found 'foo', expected: in, notin, =, ==, !=, gt, lt"),
        ("x in (a", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("x>a", "unable to parse requirement: values[0]: Invalid value: \"a\": for 'Gt', 'Lt' operators"),
        (
            "a/b/c",
            "unable to parse requirement: <nil>: Invalid value: \"a/b/c\": a valid label key must consist",
        ),
        ("!", "unable to parse requirement: found '', expected: identifier"),
    ] {
        let error = text.parse::<LabelSelector>().unwrap_err().to_string();
        assert!(error.starts_with(message), "{text}: {error}");
    }
}

#[test]
fn api_form() {
    assert!(!LabelSelector::from_api(None).unwrap().matches(&labels(&[])));
    assert!(LabelSelector::from_api(Some(&ApiSelector::default())).unwrap().matches(&labels(&[])));
    let expression = |operator: &str, values: &[&str]| ApiSelector {
        match_expressions: Some(vec![LabelSelectorRequirement {
            key: "tier".into(),
            operator: operator.into(),
            values: Some(values.iter().map(|value| (*value).to_owned()).collect()),
        }]),
        match_labels: Some(labels(&[("app", "web")])),
    };
    let selector = LabelSelector::from_api(Some(&expression("In", &["a", "b"]))).unwrap();
    assert_eq!(selector.to_string(), "app=web,tier in (a,b)");
    assert!(selector.matches(&labels(&[("app", "web"), ("tier", "b")])));
    let error = LabelSelector::from_api(Some(&expression("Gt", &["1"]))).unwrap_err();
    assert_eq!(error.to_string(), "\"Gt\" is not a valid label selector operator");
    assert!(LabelSelector::from_api(Some(&expression("Exists", &["1"]))).is_err());
}

#[test]
fn field_selectors() {
    let selector: FieldSelector =
        r"metadata.name=a\,b,spec.nodeName!=n,status.phase==Running".parse().unwrap();
    assert_eq!(selector.exact("metadata.name"), Some("a,b"));
    assert_eq!(selector.to_string(), r"metadata.name=a\,b,spec.nodeName!=n,status.phase=Running");
    assert!(selector.matches(|field| match field {
        "metadata.name" => Some("a,b"),
        "status.phase" => Some("Running"),
        _ => None,
    }));
    for (text, message) in [
        ("abc", "invalid selector: 'abc'; can't understand 'abc'"),
        (r"a=\x", r"invalid field selector: invalid escape sequence: \x"),
        ("a=b=c", "invalid field selector: unescaped character in value: 61"),
    ] {
        assert_eq!(text.parse::<FieldSelector>().unwrap_err().to_string(), message);
    }
}

proptest! {
    #[test]
    fn printing_and_parsing_agree(text in "!?[a-c]{1,2}( in \\([a-c,]{0,4}\\)|=[a-c]{0,2}|!=[a-c]|>[0-9]|)(,[d-f]{1,3})?") {
        if let Ok(selector) = text.parse::<LabelSelector>() {
            let again: LabelSelector = selector.to_string().parse().unwrap();
            prop_assert_eq!(selector, again);
        }
    }

    #[test]
    fn never_panics(text in ".{0,40}") {
        // Only the absence of a panic matters here.
        let _label = text.parse::<LabelSelector>();
        let _field = text.parse::<FieldSelector>();
    }
}
