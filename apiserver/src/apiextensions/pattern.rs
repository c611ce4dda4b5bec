//! Regular expressions of schemas: Go's syntax, put into that of the `regex` crate.
//!
//! Contract: RE2 as Go has it. Classes such as `\d` are ASCII, brackets know no set operations, a repetition goes to
//! 1,000 at most, `\Q…\E` quotes.

use std::{fmt, sync::Arc};

use regex::{Regex, RegexBuilder};

/// Largest compiled pattern, in bytes.
const MAX_SIZE: usize = 4 * 1024 * 1024;
/// Largest number in a repetition.
const MAX_REPEAT: u32 = 1000;

/// A pattern with what it compiled to.
#[derive(Clone, Default)]
pub struct Pattern {
    text: String,
    compiled: Option<Arc<Result<Regex, String>>>,
}

impl Pattern {
    /// Compiles a pattern; an empty one is none.
    pub fn new(text: &str) -> Self {
        let compiled = (!text.is_empty()).then(|| Arc::new(compile(text)));
        Self { text: text.to_owned(), compiled }
    }

    /// The pattern as it was sent.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the pattern is in a text; `None` when there is no pattern.
    ///
    /// # Errors
    /// Why the pattern is none.
    pub fn is_match(&self, text: &str) -> Option<Result<bool, &str>> {
        let compiled = self.compiled.as_deref()?;
        Some(match compiled {
            Ok(regex) => Ok(regex.is_match(text)),
            Err(why) => Err(why),
        })
    }

    /// Why the pattern is none.
    pub fn error(&self) -> Option<&str> {
        self.compiled.as_deref()?.as_ref().err().map(String::as_str)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

fn compile(text: &str) -> Result<Regex, String> {
    let translated = Translation::of(text)?;
    let built = RegexBuilder::new(&translated).size_limit(MAX_SIZE).dfa_size_limit(MAX_SIZE).build();
    built.map_err(|_| format!("error parsing regexp: `{text}`"))
}

struct Translation<'t> {
    rest: std::iter::Peekable<std::str::Chars<'t>>,
    out: String,
}

impl Translation<'_> {
    fn of(text: &str) -> Result<String, String> {
        let mut walk = Translation { rest: text.chars().peekable(), out: String::with_capacity(text.len()) };
        while let Some(next) = walk.rest.next() {
            match next {
                '\\' => walk.escape(false)?,
                '[' => walk.class()?,
                '{' => walk.repetition()?,
                other => walk.out.push(other),
            }
        }
        Ok(walk.out)
    }

    fn escape(&mut self, in_class: bool) -> Result<(), String> {
        let Some(next) = self.rest.next() else {
            return Err("error parsing regexp: trailing backslash at end of expression: ``".to_owned());
        };
        match (next, in_class) {
            ('d', true) => self.out.push_str("0-9"),
            ('w', true) => self.out.push_str("0-9A-Za-z_"),
            ('s', true) => self.out.push_str("\\t\\n\\x0c\\r "),
            ('d', false) => self.out.push_str("[0-9]"),
            ('w', false) => self.out.push_str("[0-9A-Za-z_]"),
            ('s', false) => self.out.push_str("[\\t\\n\\x0c\\r ]"),
            ('D', _) => self.out.push_str("[^0-9]"),
            ('W', _) => self.out.push_str("[^0-9A-Za-z_]"),
            ('S', _) => self.out.push_str("[^\\t\\n\\x0c\\r ]"),
            ('b', false) => self.out.push_str("(?-u:\\b)"),
            ('B', false) => self.out.push_str("(?-u:\\B)"),
            ('Q', false) => self.quote(),
            ('C', _) => return Err("error parsing regexp: invalid escape sequence: `\\C`".to_owned()),
            ('0'..='7', _) => self.octal(next),
            (other, _) => {
                self.out.push('\\');
                self.out.push(other);
            }
        }
        Ok(())
    }

    fn quote(&mut self) {
        let mut quoted = String::new();
        while let Some(next) = self.rest.next() {
            if next == '\\' && self.rest.peek() == Some(&'E') {
                self.rest.next();
                break;
            }
            quoted.push(next);
        }
        self.out.push_str(&regex::escape(&quoted));
    }

    fn octal(&mut self, first: char) {
        let mut value = first.to_digit(8).unwrap_or(0);
        for _ in 0..2 {
            let Some(digit) = self.rest.peek().and_then(|c| c.to_digit(8)) else { break };
            value = value * 8 + digit;
            self.rest.next();
        }
        self.out.push_str(&format!("\\x{{{value:x}}}"));
    }

    fn class(&mut self) -> Result<(), String> {
        self.out.push('[');
        if self.rest.peek() == Some(&'^') {
            self.rest.next();
            self.out.push('^');
        }
        let mut first = true;
        while let Some(next) = self.rest.next() {
            match next {
                ']' if first => self.out.push_str("\\]"),
                ']' => {
                    self.out.push(']');
                    return Ok(());
                }
                '\\' => self.escape(true)?,
                '[' if self.rest.peek() == Some(&':') => self.out.push('['),
                // Go has no set operations: these are letters like others.
                '[' | '&' | '~' => {
                    self.out.push('\\');
                    self.out.push(next);
                }
                ':' if self.out.ends_with('[') => self.posix(),
                '-' if self.out.ends_with('-') || self.rest.peek() == Some(&'-') => self.out.push_str("\\-"),
                other => self.out.push(other),
            }
            first = false;
        }
        Err("error parsing regexp: missing closing ]".to_owned())
    }

    /// `[:alpha:]`, of which the opening is written.
    fn posix(&mut self) {
        self.out.push(':');
        for next in self.rest.by_ref() {
            self.out.push(next);
            if next == ']' {
                return;
            }
        }
    }

    /// `{n}`, `{n,}`, `{n,m}`; anything else in braces is text.
    fn repetition(&mut self) -> Result<(), String> {
        let ahead: String = self.rest.clone().take_while(|c| *c != '}').collect();
        let closed = self.rest.clone().nth(ahead.chars().count()) == Some('}');
        let parts: Vec<&str> = ahead.split(',').collect();
        let digits = |s: &&str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        let is_repetition = closed
            && parts.len() <= 2
            && digits(&parts[0])
            && parts.get(1).is_none_or(|p| p.is_empty() || digits(p));
        if !is_repetition {
            self.out.push_str("\\{");
            return Ok(());
        }
        let large = |p: &&str| p.parse::<u32>().map_or(!p.is_empty(), |n| n > MAX_REPEAT);
        if parts.iter().any(large) {
            return Err(format!("error parsing regexp: invalid repeat count: `{{{ahead}}}`"));
        }
        self.out.push('{');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Pattern::new(pattern).is_match(text).unwrap().unwrap()
    }

    #[test]
    fn patterns_mean_what_they_mean_in_go() {
        for (pattern, text, want) in [
            ("^a+$", "aaa", true),
            ("b", "abc", true),
            ("^\\d+$", "12", true),
            ("^\\d+$", "\u{0661}", false),
            ("^[\\w.]+$", "a_1.b", true),
            ("^[^\\s]+$", "a b", false),
            ("^\\Qa.b\\E$", "a.b", true),
            ("^\\Qa.b\\E$", "axb", false),
            ("^[a&&b]$", "&", true),
            ("^[[a]$", "[", true),
            ("^[]a]$", "]", true),
            ("^\\101$", "A", true),
            ("^[[:alpha:]]+$", "ab", true),
            ("^a{2,3}$", "aa", true),
            ("^a{x$", "a{x", true),
            ("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "a-b", true),
            ("^[+--]$", "+", true),
        ] {
            assert_eq!(matches(pattern, text), want, "{pattern} {text}");
        }
        for wrong in ["(", "[a", "a{1001}", "\\C", "a\\"] {
            assert!(Pattern::new(wrong).error().is_some(), "{wrong}");
        }
        assert!(Pattern::new("").is_match("x").is_none());
    }
}
