//! Reading an object with its paths: what validation of kinds is written in.
//!
//! Nothing here fails on a missing field or one of another type: such a field reads as empty.

use std::{cell::OnceCell, rc::Rc};

use component_base::quantity::Quantity;
use jiff::Timestamp;
use serde_json::Value;

use super::format;
use crate::{
    Fields,
    field::{Error, ErrorList, Path},
    shape::Struct,
};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct At<'v> {
    value: &'v Value,
    trail: Trail<'v>,
    /// The trail in words, made when somebody asks: validation looks at hundreds of fields and tells of few.
    path: OnceCell<Path>,
}

/// How a value was reached.
#[derive(Clone, Debug)]
struct Trail<'v> {
    /// What the steps begin at; nothing at the object itself.
    base: Option<Rc<Path>>,
    steps: [Step<'v>; STEPS],
    /// Steps taken.
    taken: usize,
}

/// Steps kept before they become a path of their own.
const STEPS: usize = 6;

#[derive(Clone, Copy, Debug)]
enum Step<'v> {
    Field(&'v str),
    Index(usize),
    Key(&'v str),
}

impl<'v> Trail<'v> {
    fn from(base: Option<Rc<Path>>) -> Self {
        Self { base, steps: [Step::Index(0); STEPS], taken: 0 }
    }

    fn then(&self, step: Step<'v>) -> Self {
        let full = self.taken == STEPS;
        let mut more = if full { Self::from(Some(Rc::new(self.path()))) } else { self.clone() };
        more.steps[more.taken] = step;
        more.taken += 1;
        more
    }

    fn path(&self) -> Path {
        let base = self.base.as_deref().cloned().unwrap_or_default();
        self.steps[..self.taken].iter().fold(base, |path, step| match step {
            Step::Field(name) => path.child(name),
            Step::Index(i) => path.index(*i),
            Step::Key(key) => path.key(key),
        })
    }
}

/// A format: what is wrong with a text.
pub type Format = fn(&str) -> Vec<String>;

static NULL: Value = Value::Null;
static EMPTY: Value = Value::String(String::new());

impl<'v> At<'v> {
    /// A value at a path of its own.
    pub fn new(value: &'v Value, path: Path) -> Self {
        Self { value, trail: Trail::from(Some(Rc::new(path))), path: OnceCell::new() }
    }

    /// A top-level field of an object.
    pub fn field(object: &'v (impl Fields + ?Sized), name: &'v str) -> Self {
        let trail = Trail::from(None).then(Step::Field(name));
        Self { value: object.top(name).unwrap_or(&NULL), trail, path: OnceCell::new() }
    }

    /// The spec of an object.
    pub fn spec(object: &'v (impl Fields + ?Sized)) -> Self {
        Self::field(object, "spec")
    }

    /// The status of an object.
    pub fn status(object: &'v (impl Fields + ?Sized)) -> Self {
        Self::field(object, "status")
    }

    /// A field of this value.
    pub fn get(&self, name: &'v str) -> Self {
        self.below(self.value.get(name).unwrap_or(&NULL), Step::Field(name))
    }

    fn below(&self, value: &'v Value, step: Step<'v>) -> Self {
        Self { value, trail: self.trail.then(step), path: OnceCell::new() }
    }

    /// The same value, told of as another field of where it stands.
    pub fn named(&self, path: Path) -> Self {
        Self::new(self.value, path)
    }

    /// The members of a list.
    pub fn items(&self) -> impl Iterator<Item = At<'v>> + use<'v> {
        let whole = self.clone();
        let list = self.value.as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().enumerate().map(move |(i, value)| whole.below(value, Step::Index(i)))
    }

    /// The entries of a map; their path is the map's with the key in brackets.
    pub fn entries(&self) -> impl Iterator<Item = (&'v str, At<'v>)> + use<'v> {
        let whole = self.clone();
        let entries = self.value.as_object().into_iter().flatten();
        entries.map(move |(key, value)| (key.as_str(), whole.below(value, Step::Key(key))))
    }

    /// The value as it is.
    pub fn value(&self) -> &'v Value {
        self.value
    }

    /// Where it stands.
    pub fn path(&self) -> &Path {
        self.path.get_or_init(|| self.trail.path())
    }

    /// Whether it is there.
    pub fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// Whether it is missing, or an empty text, list or map.
    pub fn is_empty(&self) -> bool {
        match self.value {
            Value::Null => true,
            Value::String(s) => s.is_empty(),
            _ => self.value.is_array() && self.len() == 0 || self.value.is_object() && self.len() == 0,
        }
    }

    /// Members of a list or map.
    pub fn len(&self) -> usize {
        match self.value {
            Value::Array(list) => list.len(),
            Value::Object(map) => map.len(),
            _ => 0,
        }
    }

    /// The text; empty when there is none.
    pub fn text(&self) -> &'v str {
        self.value.as_str().unwrap_or_default()
    }

    /// The whole number, if there is one.
    pub fn number(&self) -> Option<i64> {
        self.value.as_i64()
    }

    /// The whole number; 0 when there is none.
    pub fn int(&self) -> i64 {
        self.number().unwrap_or(0)
    }

    /// The time, if it is one.
    pub fn time(&self) -> Option<Timestamp> {
        self.text().parse().ok()
    }

    /// The amount, if it is one.
    pub fn quantity(&self) -> Option<Quantity> {
        match self.value {
            Value::String(text) => text.parse().ok(),
            Value::Number(number) => number.to_string().parse().ok(),
            _ => None,
        }
    }

    /// Whether a field of this value is there.
    pub fn has(&self, name: &str) -> bool {
        self.value.get(name).is_some_and(|value| !value.is_null())
    }

    /// The text of a field of this value; empty when there is none.
    pub fn text_of(&self, name: &str) -> &'v str {
        self.value.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether it is true.
    pub fn is_true(&self) -> bool {
        *self.value == Value::Bool(true)
    }

    /// Whether it is there and false.
    pub fn is_false(&self) -> bool {
        *self.value == Value::Bool(false)
    }

    // What is wrong with it.

    /// The field is malformed or out of range, told with another value than what it holds.
    pub fn invalid_as(&self, errors: &mut ErrorList, value: impl Into<Value>, detail: impl Into<String>) {
        errors.push(Error::invalid(self.path(), value, detail));
    }

    /// The value is malformed or out of range.
    pub fn invalid(&self, errors: &mut ErrorList, detail: impl Into<String>) {
        errors.push(Error::invalid(self.path(), self.value.clone(), detail));
    }

    /// As `invalid`, with the value shown as a structure.
    pub fn invalid_go(&self, errors: &mut ErrorList, shape: &'static Struct, detail: impl Into<String>) {
        errors.push(Error::invalid(self.path(), self.value.clone(), detail).shown_as(shape));
    }

    /// As `invalid`, without showing the value.
    pub fn invalid_omitted(&self, errors: &mut ErrorList, detail: impl Into<String>) {
        errors.push(Error { bad: None, ..Error::invalid(self.path(), Value::Null, detail) });
    }

    /// The value is needed.
    pub fn required(&self, errors: &mut ErrorList, detail: impl Into<String>) {
        errors.push(Error::required(self.path(), detail));
    }

    /// The value may not be set.
    pub fn forbidden(&self, errors: &mut ErrorList, detail: impl Into<String>) {
        errors.push(Error::forbidden(self.path(), detail));
    }

    /// The value stands twice.
    pub fn duplicate(&self, errors: &mut ErrorList) {
        errors.push(Error::duplicate(self.path(), self.value.clone()));
    }

    /// The value names something that is not there.
    pub fn not_found(&self, errors: &mut ErrorList) {
        errors.push(Error::not_found(self.path(), self.text()));
    }

    /// The value is none of these, told in this order.
    pub fn not_among(&self, errors: &mut ErrorList, supported: &[&str]) {
        errors.push(Error::not_among(self.path(), self.text(), supported));
    }

    /// The text is one of these, told in this order; an empty one is missing.
    pub fn check_among(&self, errors: &mut ErrorList, supported: &[&str]) {
        if self.is_empty() {
            self.required(errors, "");
        } else if !supported.contains(&self.text()) {
            self.not_among(errors, supported);
        }
    }

    /// The value is none of these.
    pub fn not_supported(&self, errors: &mut ErrorList, supported: &[&str]) {
        errors.push(Error::not_supported(self.path(), self.value.clone(), supported));
    }

    // Checks.

    /// The value is there and not empty.
    pub fn check_required(&self, errors: &mut ErrorList) -> bool {
        if self.is_empty() {
            self.required(errors, "");
        }
        !self.is_empty()
    }

    /// The value is there.
    pub fn check_there(&self, errors: &mut ErrorList) -> bool {
        if !self.is_set() {
            self.required(errors, "");
        }
        self.is_set()
    }

    /// A text has at most so many bytes.
    pub fn check_length(&self, errors: &mut ErrorList, max: usize) {
        if self.text().len() > max {
            errors.push(Error::too_long(self.path(), max));
        }
    }

    /// A list has at most so many members.
    pub fn check_members(&self, errors: &mut ErrorList, max: usize) {
        if self.len() > max {
            errors.push(Error::too_many(self.path(), self.len(), max));
        }
    }

    /// A number is not negative.
    pub fn check_non_negative(&self, errors: &mut ErrorList) {
        if self.int() < 0 {
            self.invalid(errors, "must be greater than or equal to 0");
        }
    }

    /// Numbers in these fields are not negative.
    pub fn check_counts(&self, fields: &[&str], errors: &mut ErrorList) {
        fields.iter().for_each(|field| self.get(field).check_non_negative(errors));
    }

    /// These fields are not greater than another one.
    pub fn check_at_most(&self, fields: &[&str], limit: &str, detail: &str, errors: &mut ErrorList) {
        let limit = self.get(limit).int();
        for field in fields.iter().map(|field| self.get(field)).filter(|field| field.int() > limit) {
            field.invalid(errors, detail);
        }
    }

    /// The text has a format.
    pub fn check_format(&self, errors: &mut ErrorList, format: Format) {
        format(self.text()).into_iter().for_each(|detail| self.invalid_as(errors, self.text(), detail));
    }

    /// The text is one of these; an empty one is missing.
    pub fn check_one_of(&self, errors: &mut ErrorList, supported: &[&str]) -> bool {
        if self.is_empty() {
            self.required(errors, "");
        } else if !supported.contains(&self.text()) {
            self.not_supported(errors, supported);
        } else {
            return true;
        }
        false
    }

    /// The text is one of these, if it is set at all.
    pub fn check_option_of(&self, errors: &mut ErrorList, supported: &[&str]) {
        if self.is_set() && !supported.contains(&self.text()) {
            self.not_supported(errors, supported);
        }
    }

    /// The text is one of these, an empty one is not.
    pub fn check_is_one_of(&self, errors: &mut ErrorList, supported: &[&str]) {
        if !supported.contains(&self.text()) {
            errors.push(Error::not_supported(self.path(), self.text(), supported));
        }
    }

    /// The text is there and has a format.
    pub fn check_required_format(&self, errors: &mut ErrorList, format: Format) {
        if self.check_required(errors) {
            self.check_format(errors, format);
        }
    }

    /// The text has a format, if it is not empty.
    pub fn check_option_format(&self, errors: &mut ErrorList, format: Format) {
        if !self.is_empty() {
            self.check_format(errors, format);
        }
    }

    /// A number is above zero.
    pub fn check_positive(&self, errors: &mut ErrorList) {
        if self.int() <= 0 {
            self.invalid_as(errors, self.int(), "must be greater than zero");
        }
    }

    /// The number of a port.
    pub fn check_port(&self, errors: &mut ErrorList) {
        self.check_range(errors, 1, 65_535);
    }

    /// The number or the name of a port.
    pub fn check_port_or_name(&self, errors: &mut ErrorList) {
        if self.value.is_string() {
            self.check_format(errors, format::port_name);
        } else {
            self.check_port(errors);
        }
    }

    /// A number stands in a range.
    pub fn check_range(&self, errors: &mut ErrorList, from: i64, to: i64) {
        if !(from..=to).contains(&self.int()) {
            self.invalid_as(errors, self.int(), format!("must be between {from} and {to}, inclusive"));
        }
    }

    /// A name that stands for itself in a path.
    pub fn check_path_name(&self, errors: &mut ErrorList) {
        if self.check_required(errors) {
            self.check_format(errors, format::path_segment);
        }
    }

    /// The value is what it was.
    pub fn check_unchanged(&self, old: &At<'_>, errors: &mut ErrorList) -> bool {
        let same = self.value == old.value || self.is_empty() && old.is_empty();
        if !same {
            // A text that was taken away is an empty one.
            let told = if self.value.is_null() && old.value.is_string() { &EMPTY } else { self.value };
            self.invalid_as(errors, told.clone(), "field is immutable");
        }
        same
    }

    /// A number or text is a count or a share.
    pub fn check_count_or_percent(&self, errors: &mut ErrorList) {
        match self.value {
            Value::String(text) => {
                format::percent(text).into_iter().for_each(|detail| self.invalid(errors, detail));
            }
            Value::Number(_) => self.check_non_negative(errors),
            _ => {}
        }
    }

    /// A share is of the whole at most.
    pub fn check_at_most_whole(&self, errors: &mut ErrorList) {
        if self.percent().is_some_and(|percent| percent > 100) {
            self.invalid(errors, "must not be greater than 100%");
        }
    }

    /// The number before a percent sign.
    pub fn percent(&self) -> Option<i64> {
        let digits = self.value.as_str()?.strip_suffix('%')?;
        let digits = (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then_some(digits)?;
        Some(digits.parse().unwrap_or(i64::MAX))
    }

    /// The number, or the one before a percent sign or in a text; 0 for anything else.
    pub fn count_or_percent(&self) -> i64 {
        let written = || self.text().parse().unwrap_or_else(|_| self.int());
        self.percent().unwrap_or_else(written)
    }

    /// A map of labels.
    pub fn check_labels(&self, errors: &mut ErrorList) {
        for (key, value) in self.value.as_object().into_iter().flatten() {
            for detail in format::qualified_name(key) {
                errors.push(Error::invalid(self.path(), key.as_str(), detail));
            }
            for detail in format::label_value(value.as_str().unwrap_or_default()) {
                errors.push(Error::invalid(self.path(), value.clone(), detail));
            }
        }
    }

    /// A label selector.
    pub fn check_selector(&self, errors: &mut ErrorList) {
        self.check_selector_after(false, errors);
    }

    /// A label selector that takes the place of another one. Where that was `broken`, expressions may compare with
    /// what no label can be.
    pub fn check_selector_after(&self, broken: bool, errors: &mut ErrorList) {
        self.get("matchLabels").check_labels(errors);
        for term in self.get("matchExpressions").items() {
            let (operator, values) = (term.get("operator"), term.get("values"));
            match operator.text() {
                "In" | "NotIn" if values.is_empty() => {
                    values.required(errors, "must be specified when `operator` is 'In' or 'NotIn'");
                }
                "Exists" | "DoesNotExist" if !values.is_empty() => values
                    .forbidden(errors, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
                "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
                _ => operator.invalid(errors, "not a valid selector operator"),
            }
            term.get("key").check_format(errors, format::qualified_name);
            if !broken {
                values.items().for_each(|value| value.check_format(errors, format::label_value));
            }
        }
    }

    /// Whether the values of a label selector's expressions are those that labels can have.
    pub fn selects_by_labels(&self) -> bool {
        let mut values = self.get("matchExpressions").items().flat_map(|term| term.get("values").items());
        values.all(|value| format::label_value(value.text()).is_empty())
    }

    /// Whether a label selector is a good one.
    pub fn selects(&self) -> bool {
        let mut errors = ErrorList::new();
        self.check_selector(&mut errors);
        errors.is_empty()
    }

    /// Whether a selector says nothing, and so selects all.
    pub fn selects_all(&self) -> bool {
        self.get("matchLabels").len() + self.get("matchExpressions").len() == 0
    }

    /// Whether a label selector matches labels.
    pub fn matches(&self, labels: &At<'_>) -> bool {
        let label = |key: &str| labels.value.get(key).and_then(Value::as_str);
        let pairs = self.get("matchLabels").entries().all(|(key, value)| label(key) == Some(value.text()));
        pairs
            && self.get("matchExpressions").items().all(|term| {
                let found = label(term.get("key").text());
                let among = found.is_some_and(|l| term.get("values").items().any(|v| v.text() == l));
                match term.get("operator").text() {
                    "In" => among,
                    "NotIn" => !among,
                    "Exists" => found.is_some(),
                    "DoesNotExist" => found.is_none(),
                    _ => false,
                }
            })
    }
}
