//! Data under keys, as config maps and secrets hold it.
//!
//! Contract: core/v1 `ConfigMap` and `Secret`; immutable ones are KEP-1412.

use super::{at::At, format};
use crate::{field::ErrorList, object::Object};

/// Bytes all values may have together.
pub(in crate::registry) const MAX: usize = 1024 * 1024;

/// The key of a value.
pub(in crate::registry) fn check_key(key: &str, value: &At<'_>, errors: &mut ErrorList) {
    for detail in format::config_key(key) {
        value.invalid_as(errors, key, detail);
    }
}

/// Bytes behind values in base64.
pub(in crate::registry) fn size(values: &At<'_>) -> usize {
    let bytes = |text: &str| {
        text.len() / 4 * 3 - text.bytes().rev().take_while(|b| *b == b'=').count().min(text.len() / 4 * 3)
    };
    values.entries().map(|(_, value)| bytes(value.text())).sum()
}

/// What was declared immutable stays so, as do these fields.
pub(in crate::registry) fn check_immutable(
    new: &Object,
    old: &Object,
    fields: &[&str],
    errors: &mut ErrorList,
) {
    if !At::field(old, "immutable").is_true() {
        return;
    }
    const DETAIL: &str = "field is immutable when `immutable` is set";
    let immutable = At::field(new, "immutable");
    if !immutable.is_true() {
        immutable.forbidden(errors, DETAIL);
    }
    for field in fields {
        let (new, old) = (At::field(new, field), At::field(old, field));
        if new.value() != old.value() && !(new.is_empty() && old.is_empty()) {
            new.forbidden(errors, DETAIL);
        }
    }
}
