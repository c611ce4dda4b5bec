//! Label and field selectors: the text grammar with upstream's messages (apimachinery's `labels` and `fields`), the API form
//! `LabelSelector`, and matching. A parsed label selector is a list of requirements sorted by key, ready to match.

use std::{borrow::Borrow, cmp::Ordering, collections::BTreeMap, fmt, str::FromStr};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as ApiSelector;

mod field;
mod label;

pub use field::{FieldError, FieldRequirement, FieldSelector};
pub use label::{key_errors as label_key_errors, value_errors as label_value_errors};

/// A set of labels that a selector can look into.
pub trait Labels {
    /// The value of a label.
    fn label(&self, key: &str) -> Option<&str>;
}

impl<K: Borrow<str> + Ord, V: AsRef<str>> Labels for BTreeMap<K, V> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(AsRef::as_ref)
    }
}

impl<L: Labels> Labels for Option<L> {
    fn label(&self, key: &str) -> Option<&str> {
        self.as_ref()?.label(key)
    }
}

impl<L: Labels + ?Sized> Labels for &L {
    fn label(&self, key: &str) -> Option<&str> {
        (**self).label(key)
    }
}

/// What a requirement asks of a label's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    In,
    NotIn,
    Equals,
    DoubleEquals,
    NotEquals,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

impl Operator {
    /// Upstream's internal name, as error messages show it.
    const fn as_str(self) -> &'static str {
        match self {
            Operator::In => "in",
            Operator::NotIn => "notin",
            Operator::Equals => "=",
            Operator::DoubleEquals => "==",
            Operator::NotEquals => "!=",
            Operator::Exists => "exists",
            Operator::DoesNotExist => "!",
            Operator::GreaterThan => "gt",
            Operator::LessThan => "lt",
        }
    }
}

/// One condition of a label selector; values are sorted and distinct.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

/// Why a text or API object is no label selector. Display is upstream's wording.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error("found '{found}', expected: {expected}")]
    Unexpected { found: String, expected: &'static str },
    #[error("found '{0}' expected: '('")]
    NoParenthesis(String),
    #[error("unable to parse requirement: {0}")]
    Requirement(Box<SelectorError>),
    #[error("{0:?} is not a valid label selector operator")]
    Operator(String),
    #[error("{}", display_invalid(.0))]
    Invalid(Vec<String>),
}

fn display_invalid(messages: &[String]) -> String {
    match messages {
        [message] => message.clone(),
        _ => format!("[{}]", messages.join(", ")),
    }
}

impl Requirement {
    /// A checked requirement.
    ///
    /// # Errors
    /// When the key or a value is not label-shaped or the number of values does not fit the operator.
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Requirement, SelectorError> {
        let mut errors = Vec::new();
        if let Some(message) = label::key_message("key", key) {
            errors.push(message);
        }
        errors.extend(arity_message(operator, &values));
        for (index, value) in values.iter().enumerate() {
            let messages = label::value_errors(value);
            if !messages.is_empty() {
                errors.push(format!(
                    "values[{index}][{key}]: Invalid value: {value:?}: {}",
                    messages.join("; ")
                ));
            }
        }
        if !errors.is_empty() {
            return Err(SelectorError::Invalid(errors));
        }
        let mut values = values;
        values.sort_unstable();
        values.dedup();
        Ok(Requirement { key: key.to_owned(), operator, values })
    }

    /// The label it looks at.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What it asks.
    pub const fn operator(&self) -> Operator {
        self.operator
    }

    /// The values it compares with.
    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// Whether the labels satisfy it.
    pub fn matches(&self, labels: &impl Labels) -> bool {
        let value = labels.label(&self.key);
        let listed = |value: &str| self.values.binary_search_by(|own| own.as_str().cmp(value)).is_ok();
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(listed),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => self.compare(value) == Some(Ordering::Greater),
            Operator::LessThan => self.compare(value) == Some(Ordering::Less),
        }
    }

    fn compare(&self, value: Option<&str>) -> Option<Ordering> {
        let value: i64 = value?.parse().ok()?;
        let bound: i64 = self.values.first()?.parse().ok()?;
        Some(value.cmp(&bound))
    }
}

fn arity_message(operator: Operator, values: &[String]) -> Vec<String> {
    let shown =
        || format!("[{}]", values.iter().map(|value| format!("{value:?}")).collect::<Vec<_>>().join(","));
    let invalid = |detail: &str| vec![format!("values: Invalid value: {}: {detail}", shown())];
    match operator {
        Operator::In | Operator::NotIn if values.is_empty() => {
            invalid("for 'in', 'notin' operators, values set can't be empty")
        }
        Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
            invalid("exact-match compatibility requires one single value")
        }
        Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
            invalid("values set must be empty for exists and does not exist")
        }
        Operator::GreaterThan | Operator::LessThan if values.len() != 1 => {
            invalid("for 'Gt', 'Lt' operators, exactly one value is required")
        }
        Operator::GreaterThan | Operator::LessThan if values[0].parse::<i64>().is_err() => {
            let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
            vec![format!("values[0]: Invalid value: {:?}: {detail}", values[0])]
        }
        _ => Vec::new(),
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::In => write!(out, "{key} in ({values})"),
            Operator::NotIn => write!(out, "{key} notin ({values})"),
            Operator::Equals => write!(out, "{key}={values}"),
            Operator::DoubleEquals => write!(out, "{key}=={values}"),
            Operator::NotEquals => write!(out, "{key}!={values}"),
            Operator::Exists => out.write_str(key),
            Operator::DoesNotExist => write!(out, "!{key}"),
            Operator::GreaterThan => write!(out, "{key}>{values}"),
            Operator::LessThan => write!(out, "{key}<{values}"),
        }
    }
}

/// A label selector: all requirements must hold. The default selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// Selects every object.
    pub fn everything() -> LabelSelector {
        LabelSelector::default()
    }

    /// Selects no object: what an absent API selector means.
    pub fn nothing() -> LabelSelector {
        LabelSelector { requirements: Vec::new(), nothing: true }
    }

    /// All of the requirements.
    pub fn new(mut requirements: Vec<Requirement>) -> LabelSelector {
        requirements.sort_by(|left, right| left.key.cmp(&right.key));
        LabelSelector { requirements, nothing: false }
    }

    /// From the API form; absent selects nothing, empty selects everything.
    ///
    /// # Errors
    /// For operators other than In, NotIn, Exists, DoesNotExist and malformed keys or values.
    pub fn from_api(selector: Option<&ApiSelector>) -> Result<LabelSelector, SelectorError> {
        let Some(selector) = selector else { return Ok(LabelSelector::nothing()) };
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::new(key, Operator::Equals, vec![value.clone()])?);
        }
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(SelectorError::Operator(other.to_owned())),
            };
            let values = expression.values.clone().unwrap_or_default();
            requirements.push(Requirement::new(&expression.key, operator, values)?);
        }
        Ok(LabelSelector::new(requirements))
    }

    /// Equality with each pair, as service and node selectors mean it. The pairs are taken as valid.
    pub fn from_map<K: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (K, V)>) -> LabelSelector {
        let requirement = |(key, value): (K, V)| Requirement {
            key: key.as_ref().to_owned(),
            operator: Operator::Equals,
            values: vec![value.as_ref().to_owned()],
        };
        LabelSelector::new(pairs.into_iter().map(requirement).collect())
    }

    /// Whether the labels satisfy all requirements.
    pub fn matches(&self, labels: &impl Labels) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(labels))
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// The requirements, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// The only value a label may have to match, if the selector fixes one.
    pub fn exact(&self, key: &str) -> Option<&str> {
        let fixes = |requirement: &&Requirement| {
            requirement.key == key
                && matches!(requirement.operator, Operator::Equals | Operator::DoubleEquals | Operator::In)
                && requirement.values.len() == 1
        };
        self.requirements.iter().find(fixes).map(|requirement| requirement.values[0].as_str())
    }
}

impl FromStr for LabelSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<LabelSelector, SelectorError> {
        label::parse(text).map(LabelSelector::new)
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(out, "{comma}{requirement}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
