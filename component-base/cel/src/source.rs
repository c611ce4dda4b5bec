//! Positions in the source and error messages that show them.
//!
//! Contract: the display form of upstream's compiler issues, which users and tests see verbatim.

use std::fmt;

/// One thing that is wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// Byte offset in the source.
    pub offset: usize,
    /// What is wrong.
    pub message: String,
}

/// Why an expression does not compile; displays with the source's lines.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct CompileError {
    source_text: String,
    /// Everything found, in order of position.
    pub issues: Vec<Issue>,
}

impl CompileError {
    /// Puts issues in order of position.
    pub(crate) fn new(source: &str, mut issues: Vec<Issue>) -> Self {
        issues.sort_by_key(|i| i.offset);
        issues.dedup();
        Self { source_text: source.to_owned(), issues }
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, issue) in self.issues.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            show(f, &self.source_text, issue)?;
        }
        Ok(())
    }
}

/// `ERROR: <input>:1:5: message` and the line with a caret below the place.
fn show(f: &mut fmt::Formatter<'_>, source: &str, issue: &Issue) -> fmt::Result {
    let offset =
        (0..=issue.offset.min(source.len())).rev().find(|o| source.is_char_boundary(*o)).unwrap_or(0);
    let before = &source[..offset];
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |i| i + 1);
    let lead = &before[start..];
    let text = source[start..].split('\n').next().unwrap_or_default();
    write!(f, "ERROR: <input>:{line}:{}: {}", lead.chars().count() + 1, issue.message)?;
    write!(f, "\n | {}\n | ", text.replace('\t', " "))?;
    for c in lead.chars() {
        f.write_str(if c.len_utf8() > 1 { "．" } else { "." })?;
    }
    let wide = source[offset..].chars().next().is_some_and(|c| c.len_utf8() > 1);
    f.write_str(if wide { "＾" } else { "^" })
}
