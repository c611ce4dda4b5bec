//! Checks of kinds whose rules upstream declares beside their fields: a field is looked at when it has changed.
//!
//! Contract: apimachinery `pkg/api/validate` and the `+k8s:` tags of types (KEP-5073).

use serde_json::Value;

use super::{
    at::{At, Format},
    semantic,
};
use crate::{
    field::{Error, ErrorList},
    validate,
};

/// A field, and what it was if its object is updated.
#[derive(Clone, Copy)]
pub(in crate::registry) struct Declared<'a, 'v> {
    pub(in crate::registry) new: &'a At<'v>,
    pub(in crate::registry) old: Option<&'a At<'v>>,
}

impl<'a, 'v> Declared<'a, 'v> {
    pub(in crate::registry) fn new(new: &'a At<'v>, old: Option<&'a At<'v>>) -> Self {
        Self { new, old }
    }

    /// Whether an update leaves it as it was.
    pub(in crate::registry) fn is_unchanged(&self) -> bool {
        self.old.is_some_and(|old| semantic::same(old.value(), self.new.value()))
    }

    /// A field that has changed may not; tells whether it may be looked at further.
    pub(in crate::registry) fn check_immutable(&self, errors: &mut ErrorList) -> bool {
        if self.old.is_some() {
            self.new.invalid_as(errors, Value::Null, "field is immutable");
        }
        self.old.is_none()
    }

    /// Exactly one of these fields is set.
    pub(in crate::registry) fn check_union(&self, members: &[&str], errors: &mut ErrorList) {
        let same = |old: &At<'_>| members.iter().all(|member| old.has(member) == self.new.has(member));
        if self.old.is_some_and(|old| old.is_set() && same(old)) {
            return;
        }
        let set: Vec<&str> = members.iter().copied().filter(|member| self.new.has(member)).collect();
        let all = members.iter().map(|member| format!("`{member}`")).collect::<Vec<_>>().join(", ");
        match set.as_slice() {
            [_] => {}
            [] => self.new.invalid_as(errors, "", format!("must specify one of: {all}")),
            several => {
                let told = format!("{{{}}}", several.join(", "));
                self.new.invalid_as(errors, told, format!("must specify exactly one of: {all}"));
            }
        }
    }
}

/// Members of a list of maps have a key each.
pub(in crate::registry) fn check_unique(list: &At<'_>, key: &str, errors: &mut ErrorList) {
    let members: Vec<At<'_>> = list.items().collect();
    for (i, member) in members.iter().enumerate() {
        let name = member.text_of(key);
        if members[..i].iter().any(|before| before.text_of(key) == name) {
            member.duplicate(errors);
        }
    }
}

/// A list has no more members; tells whether it may be looked at further.
pub(in crate::registry) fn check_members(list: &At<'_>, max: usize, errors: &mut ErrorList) -> bool {
    list.check_members(errors, max);
    list.len() <= max
}

/// A number between two others.
pub(in crate::registry) fn check_between(number: &At<'_>, least: i64, most: i64, errors: &mut ErrorList) {
    if number.int() > most {
        number.invalid_as(errors, number.int(), format!("must be less than or equal to {most}"));
    }
    if number.int() < least {
        number.invalid_as(errors, number.int(), format!("must be greater than or equal to {least}"));
    }
}

/// A text of a format, where there is one at all.
pub(in crate::registry) fn check_format_if_set(text: &At<'_>, format: Format, errors: &mut ErrorList) {
    if text.is_set() {
        text.check_format(errors, format);
    }
}

/// A subdomain in letters of either case.
pub(in crate::registry) fn caseless_subdomain(text: &str) -> Vec<String> {
    let mut wrong = validate::dns_subdomain(&text.to_lowercase(), false);
    for detail in &mut wrong {
        if detail.starts_with("a lowercase RFC 1123 subdomain") {
            "an RFC 1123 subdomain must consist of alphanumeric characters, '-' or '.', and must start and end with an \
             alphanumeric character (e.g. 'example.com', regex used for validation is \
             '[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?(\\.[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?)*')"
                .clone_into(detail);
        }
    }
    wrong
}

/// The name of a pool of devices: subdomains with slashes between them.
pub(in crate::registry) fn check_pool(pool: &At<'_>, errors: &mut ErrorList) {
    if pool.text().len() > validate::DNS_SUBDOMAIN_MAX {
        errors.push(Error::too_long(pool.path(), validate::DNS_SUBDOMAIN_MAX));
    }
    for (i, part) in pool.text().split('/').enumerate() {
        if part.is_empty() {
            pool.invalid(errors, format!("segment {i}: must not be empty"));
            continue;
        }
        for detail in validate::dns_subdomain(part, false) {
            pool.invalid_as(errors, part, format!("segment {i}: {detail}"));
        }
    }
}
