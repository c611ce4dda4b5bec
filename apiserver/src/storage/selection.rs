//! Selection of objects by labels and fields, on the facts kept beside the bytes.
//!
//! Contract: label and field selectors of the API; requirements are joined by AND.

use super::{Entry, shard::Shard};

/// What a list or watch is limited to. Empty selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// All must hold.
    pub labels: Vec<LabelRequirement>,
    /// All must hold.
    pub fields: Vec<FieldRequirement>,
    /// The part of all objects it is about.
    pub shard: Option<Shard>,
}

/// One label requirement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelRequirement {
    /// Label key.
    pub key: String,
    /// Operator.
    pub operator: LabelOperator,
    /// Values of `In` and `NotIn`, the one bound of `GreaterThan` and `LessThan`.
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelOperator {
    /// The label has one of the values.
    In,
    /// The label is missing or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is missing.
    DoesNotExist,
    /// The label is an integer above the bound.
    GreaterThan,
    /// The label is an integer below the bound.
    LessThan,
}

/// One field requirement: `field=value`, or `field!=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    /// Field name: `metadata.name`, `metadata.namespace` or one of the resource's.
    pub field: String,
    /// Value.
    pub value: String,
    /// Whether the value must differ.
    pub negate: bool,
}

// === impl Selection ===

impl Selection {
    /// Whether no object is left out for its labels or fields.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether an entry belongs to another part of all objects.
    pub fn is_elsewhere(&self, entry: &Entry) -> bool {
        self.shard.as_ref().is_some_and(|shard| !shard.has(entry))
    }

    /// The value `field` must equal, if the selection says so.
    pub fn required_field(&self, field: &str) -> Option<&str> {
        self.fields.iter().find(|f| f.field == field && !f.negate).map(|f| f.value.as_str())
    }

    /// Whether an entry is selected.
    pub fn matches(&self, entry: &Entry) -> bool {
        self.fields.iter().all(|f| (entry.field(&f.field) == f.value) != f.negate)
            && self.labels.iter().all(|l| l.matches(entry.label(&l.key)))
            && !self.is_elsewhere(entry)
    }
}

// === impl LabelRequirement ===

impl LabelRequirement {
    /// Whether a label with this value (or none) fulfils the requirement.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let compare = |holds: fn(i64, i64) -> bool| {
            let bound = self.values.first().and_then(|b| b.parse().ok());
            value.and_then(|v| v.parse().ok()).zip(bound).is_some_and(|(v, b)| holds(v, b))
        };
        match self.operator {
            LabelOperator::In => value.is_some_and(|v| self.values.iter().any(|x| x == v)),
            LabelOperator::NotIn => value.is_none_or(|v| self.values.iter().all(|x| x != v)),
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
            LabelOperator::GreaterThan => compare(|v, b| v > b),
            LabelOperator::LessThan => compare(|v, b| v < b),
        }
    }
}
