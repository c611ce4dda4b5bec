//! Field selectors: `metadata.name=a,spec.nodeName!=b`, with `\` escaping `\`, `,` and `=` in values.

use std::{fmt, str::FromStr};

/// One term of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    pub field: String,
    /// False for `!=`.
    pub equal: bool,
    pub value: String,
}

/// Why a text is no field selector. Display is upstream's wording.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    Term { selector: String, term: String },
    #[error("invalid field selector: invalid escape sequence: {0}")]
    Escape(String),
    #[error("invalid field selector: unescaped character in value: {}", u32::from(*.0))]
    Unescaped(char),
}

/// A field selector: all terms must hold. The default selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// Equality with one field's value.
    pub fn equal(field: &str, value: &str) -> FieldSelector {
        FieldSelector {
            terms: vec![FieldRequirement { field: field.to_owned(), equal: true, value: value.to_owned() }],
        }
    }

    /// The terms, sorted by their text.
    pub fn terms(&self) -> &[FieldRequirement] {
        &self.terms
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The only value a field may have, if the selector fixes one.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|term| term.equal && term.field == field).map(|term| term.value.as_str())
    }

    /// Whether all terms hold; a field that `get` does not know counts as empty, as upstream's field sets have it.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms.iter().all(|term| (get(&term.field).unwrap_or("") == term.value) == term.equal)
    }
}

impl FromStr for FieldSelector {
    type Err = FieldError;

    fn from_str(text: &str) -> Result<FieldSelector, FieldError> {
        let mut parts = split_terms(text);
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let Some((field, equal, value)) = split_term(part) else {
                return Err(FieldError::Term { selector: text.to_owned(), term: part.to_owned() });
            };
            terms.push(FieldRequirement { field: field.to_owned(), equal, value: unescape(value)? });
        }
        Ok(FieldSelector { terms })
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                terms.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (index, _) in term.char_indices() {
        let (field, rest) = term.split_at(index);
        if let Some(value) = rest.strip_prefix("!=") {
            return Some((field, false, value));
        }
        if let Some(value) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
            return Some((field, true, value));
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, FieldError> {
    let mut plain = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(escaped @ ('\\' | ',' | '=')) => plain.push(escaped),
                Some(other) => return Err(FieldError::Escape(format!("\\{other}"))),
                None => return Err(FieldError::Escape("\\".to_owned())),
            },
            ',' | '=' => return Err(FieldError::Unescaped(character)),
            other => plain.push(other),
        }
    }
    Ok(plain)
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let operator = if term.equal { "=" } else { "!=" };
            write!(out, "{comma}{}{operator}", term.field)?;
            for character in term.value.chars() {
                let escape = if "\\,=".contains(character) { "\\" } else { "" };
                write!(out, "{escape}{character}")?;
            }
        }
        Ok(())
    }
}
