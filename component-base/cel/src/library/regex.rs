//! Regular expressions in Go's syntax: `matches`, `find`, `findAll`.
//!
//! Contract: RE2 as Go's `regexp` parses it. The pattern is rewritten to the `regex-syntax` dialect where the two
//! differ (ASCII classes, `\Q..\E`, octal escapes, set operators, repetition limit) and compiled under a size limit.

use std::sync::Arc;

use regex_automata::meta::Regex;

use super::{Call, Line};
use crate::value::{EvalError, Value};

pub(super) const FUNCTIONS: &[Line] = &[
    ("string_find_string", "string :: find(string) -> string", |c| {
        let (text, regex) = (c.str(0)?, compiled(c, 1)?);
        Ok(Value::text(regex.find(text).map_or("", |m| &text[m.range()])))
    }),
    ("string_find_all_string", "string :: findAll(string) -> list<string>", |c| find_all(c, -1)),
    ("string_find_all_string_int", "string :: findAll(string, int) -> list<string>", |c| {
        find_all(c, c.int(2)?)
    }),
];

/// Bytes a compiled pattern may take.
const SIZE_LIMIT: usize = 4 * 1024 * 1024;
/// Go's limit of a repetition count.
const MAX_REPEAT: u32 = 1000;

fn find_all<'a>(call: &Call<'_, 'a>, limit: i64) -> Result<Value<'a>, EvalError> {
    let (text, regex) = (call.str(0)?, compiled(call, 1)?);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let found = regex.find_iter(text).take(limit).map(|m| Value::text(&text[m.range()]));
    Ok(Value::list(found.collect()))
}

/// The pattern of a call, compiled once where it is a literal.
pub(super) fn compiled(call: &Call<'_, '_>, pattern: usize) -> Result<Arc<Regex>, EvalError> {
    let text = call.str(pattern)?;
    let made = if call.site.constant_pattern {
        call.site.regex.get_or_init(|| compile(text)).clone()
    } else {
        compile(text)
    };
    made.map_err(EvalError::failed)
}

/// Compiles a pattern; the error reads as Go's.
pub(crate) fn compile(pattern: &str) -> Result<Arc<Regex>, String> {
    let rewritten = Rewriter { rest: pattern.chars().collect(), at: 0, out: String::new() }
        .run()
        .map_err(|why| format!("error parsing regexp: {why}"))?;
    let config = Regex::config().nfa_size_limit(Some(SIZE_LIMIT)).onepass(false);
    Regex::builder()
        .configure(config)
        .syntax(regex_automata::util::syntax::Config::new().nest_limit(250))
        .build(&rewritten)
        .map(Arc::new)
        .map_err(|e| match e.syntax_error() {
            Some(regex_syntax::Error::Parse(e)) => {
                format!("error parsing regexp: {}: `{pattern}`", e.kind().to_string().trim())
            }
            _ => format!("error parsing regexp: expression too large: `{pattern}`"),
        })
}

/// One pass over a pattern.
struct Rewriter {
    rest: Vec<char>,
    at: usize,
    out: String,
}

impl Rewriter {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.rest.get(self.at + ahead).copied()
    }

    fn run(mut self) -> Result<String, String> {
        // Whether the last thing was a repetition, which must not be repeated again.
        let mut repeated = false;
        while let Some(c) = self.peek(0) {
            match c {
                '\\' => {
                    self.escape(false)?;
                    repeated = false;
                }
                '[' => {
                    self.class()?;
                    repeated = false;
                }
                '(' => {
                    self.group()?;
                    repeated = false;
                }
                '*' | '+' | '?' => {
                    if repeated {
                        return Err(format!("invalid nested repetition operator: `{c}`"));
                    }
                    self.out.push(c);
                    self.at += 1;
                    self.lazy();
                    repeated = true;
                }
                '{' => repeated = self.repetition(repeated)?,
                '}' => {
                    self.out.push_str("\\}");
                    self.at += 1;
                    repeated = false;
                }
                c => {
                    self.out.push(c);
                    self.at += 1;
                    repeated = false;
                }
            }
        }
        Ok(self.out)
    }

    fn lazy(&mut self) {
        if self.peek(0) == Some('?') {
            self.out.push('?');
            self.at += 1;
        }
    }

    /// `{n}`, `{n,}`, `{n,m}`; any other brace is itself.
    fn repetition(&mut self, repeated: bool) -> Result<bool, String> {
        let close = self.rest[self.at..].iter().position(|c| *c == '}');
        let body: Option<String> = close.map(|end| self.rest[self.at + 1..self.at + end].iter().collect());
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        let counts = body.as_deref().and_then(|body| match body.split_once(',') {
            Some((min, max)) if digits(min) && (max.is_empty() || digits(max)) => Some((min, Some(max))),
            None if digits(body) => Some((body, None)),
            _ => None,
        });
        let Some((min, max)) = counts else {
            self.out.push_str("\\{");
            self.at += 1;
            return Ok(false);
        };
        let shown = format!("{{{}}}", body.as_deref().unwrap_or_default());
        let count = |s: &str| s.parse::<u32>().ok().filter(|n| *n <= MAX_REPEAT);
        let min = count(min).ok_or_else(|| format!("invalid repeat count: `{shown}`"))?;
        if let Some(max) = max.filter(|m| !m.is_empty()) {
            count(max).filter(|max| *max >= min).ok_or_else(|| format!("invalid repeat count: `{shown}`"))?;
        }
        if repeated {
            return Err(format!("invalid nested repetition operator: `{shown}`"));
        }
        self.out.push_str(&shown);
        self.at += shown.chars().count();
        self.lazy();
        Ok(true)
    }

    /// `(?...`: only the flags Go knows.
    fn group(&mut self) -> Result<(), String> {
        self.out.push('(');
        self.at += 1;
        if self.peek(0) != Some('?') {
            return Ok(());
        }
        if self.peek(1) == Some('P') || self.peek(1) == Some('<') {
            if self.peek(1) == Some('<') && matches!(self.peek(2), Some('=' | '!')) {
                return Err("invalid or unsupported Perl syntax: `(?<`".to_owned());
            }
            return Ok(());
        }
        let flags: String = self.rest[self.at + 1..].iter().take_while(|c| !matches!(c, ':' | ')')).collect();
        if !flags.chars().all(|c| "imsU-".contains(c)) {
            let shown: String = flags.chars().take(1).collect();
            return Err(format!("invalid or unsupported Perl syntax: `(?{shown}`"));
        }
        Ok(())
    }

    /// An escape, outside or inside of a class.
    fn escape(&mut self, class: bool) -> Result<(), String> {
        let Some(c) = self.peek(1) else {
            return Err("trailing backslash at end of expression: ``".to_owned());
        };
        self.at += 2;
        let ascii = match c {
            'd' => Some("0-9"),
            'w' => Some("0-9A-Za-z_"),
            's' => Some("\\t\\n\\x0C\\r "),
            _ => None,
        };
        let negated = match c {
            'D' => Some("0-9"),
            'W' => Some("0-9A-Za-z_"),
            'S' => Some("\\t\\n\\x0C\\r "),
            _ => None,
        };
        match (c, ascii, negated) {
            (_, Some(set), _) if class => self.out.push_str(set),
            (_, Some(set), _) => self.out.push_str(&format!("[{set}]")),
            (_, _, Some(set)) => self.out.push_str(&format!("[^{set}]")),
            ('b', ..) if !class => self.out.push_str("(?-u:\\b)"),
            ('A' | 'z' | 'B', ..) if !class => self.out.extend(['\\', c]),
            ('Q', ..) if !class => {
                while let Some(c) = self.peek(0) {
                    if c == '\\' && self.peek(1) == Some('E') {
                        self.at += 2;
                        break;
                    }
                    self.literal(c);
                    self.at += 1;
                }
            }
            ('0'..='7', ..) => {
                let mut code = c.to_digit(8).unwrap_or(0);
                if c != '0' && !self.peek(0).is_some_and(|n| n.is_digit(8)) {
                    return Err(format!("invalid escape sequence: `\\{c}`"));
                }
                for _ in 0..2 {
                    let Some(digit) = self.peek(0).and_then(|c| c.to_digit(8)) else { break };
                    code = code * 8 + digit;
                    self.at += 1;
                }
                self.out.push_str(&format!("\\x{{{code:X}}}"));
            }
            ('a' | 'f' | 't' | 'n' | 'r' | 'v' | 'x' | 'p' | 'P', ..) => {
                self.out.extend(['\\', c]);
                // The braces of `\x{1F600}` and `\p{Greek}` belong to the escape.
                if matches!(c, 'x' | 'p' | 'P') && self.peek(0) == Some('{') {
                    while let Some(c) = self.peek(0) {
                        self.out.push(c);
                        self.at += 1;
                        if c == '}' {
                            break;
                        }
                    }
                }
            }
            (c, ..) if c.is_ascii_punctuation() => self.literal(c),
            (c, ..) => return Err(format!("invalid escape sequence: `\\{c}`")),
        }
        Ok(())
    }

    fn literal(&mut self, c: char) {
        if c.is_ascii_punctuation() {
            self.out.push('\\');
        }
        self.out.push(c);
    }

    /// A bracketed class, in which `&&`, `--`, `~~` and `[` are themselves.
    fn class(&mut self) -> Result<(), String> {
        let start = self.at;
        self.out.push('[');
        self.at += 1;
        if self.peek(0) == Some('^') {
            self.out.push('^');
            self.at += 1;
        }
        let mut first = true;
        loop {
            match self.peek(0) {
                None => {
                    let shown: String = self.rest[start..].iter().collect();
                    return Err(format!("missing closing ]: `{shown}`"));
                }
                Some(']') if !first => break,
                Some('\\') => self.escape(true)?,
                Some('[') if self.peek(1) == Some(':') => self.posix()?,
                Some('-') => {
                    // A range's dash stays one; at an edge it is itself.
                    let edge = first || self.peek(1) == Some(']');
                    self.out.push_str(if edge { "\\-" } else { "-" });
                    self.at += 1;
                }
                Some(c) => {
                    self.literal(c);
                    self.at += 1;
                }
            }
            first = false;
        }
        self.out.push(']');
        self.at += 1;
        Ok(())
    }

    /// `[:alpha:]` inside of a class.
    fn posix(&mut self) -> Result<(), String> {
        let rest: String = self.rest[self.at..].iter().take(16).collect();
        match rest.find(":]") {
            Some(end) => {
                let name = &rest[..end + 2];
                self.out.push_str(name);
                self.at += name.chars().count();
                Ok(())
            }
            None => {
                self.out.push_str("\\[");
                self.at += 1;
                Ok(())
            }
        }
    }
}
