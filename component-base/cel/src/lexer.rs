//! Tokens of the language, and the escapes inside its literals.
//!
//! Contract: the lexis of the CEL language definition.

use crate::{ast::Literal, source::Issue};

/// One token and where it starts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    /// Byte offset in the source.
    pub(crate) offset: usize,
    /// What it is.
    pub(crate) kind: TokenKind,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TokenKind {
    /// A number, string or byte string.
    Literal(Literal),
    /// `9223372036854775808`, an integer only with a minus sign before it.
    SmallestIntMagnitude,
    /// A name or keyword.
    Ident(String),
    /// An operator or bracket.
    Punct(&'static str),
    /// After the last token.
    End,
}

/// Longest first, so that `<=` is not read as `<`.
const PUNCTUATION: &[&str] = &[
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "(", ")", "[", "]", "{", "}", ".", ",", "-", "!", "?", ":",
    "+", "*", "/", "%",
];

/// Splits a source into tokens.
pub(crate) fn tokens(source: &str) -> Result<Vec<Token>, Issue> {
    let mut lexer = Lexer { source, at: 0 };
    let mut found = Vec::new();
    loop {
        lexer.skip_blank();
        let offset = lexer.at;
        let kind = lexer.next()?;
        let end = kind == TokenKind::End;
        found.push(Token { offset, kind });
        if end {
            return Ok(found);
        }
    }
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.source[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn issue(&self, offset: usize, message: impl Into<String>) -> Issue {
        Issue { offset, message: format!("Syntax error: {}", message.into()) }
    }

    fn skip_blank(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches([' ', '\t', '\n', '\r', '\u{c}']);
            let skipped = rest.len() - trimmed.len();
            let comment =
                if trimmed.starts_with("//") { trimmed.find('\n').unwrap_or(trimmed.len()) } else { 0 };
            if skipped + comment == 0 {
                return;
            }
            self.at += skipped + comment;
        }
    }

    fn next(&mut self) -> Result<TokenKind, Issue> {
        let Some(first) = self.peek() else { return Ok(TokenKind::End) };
        if let Some(prefix) = self.string_prefix() {
            return self.string(prefix);
        }
        if first.is_ascii_digit()
            || (first == '.' && self.rest()[1..].starts_with(|c: char| c.is_ascii_digit()))
        {
            return self.number();
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let rest = self.rest();
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            let name = rest[..end].to_owned();
            self.at += end;
            return Ok(TokenKind::Ident(name));
        }
        let punct = PUNCTUATION.iter().find(|p| self.rest().starts_with(**p));
        let punct =
            punct.ok_or_else(|| self.issue(self.at, format!("token recognition error at: '{first}'")))?;
        self.at += punct.len();
        Ok(TokenKind::Punct(punct))
    }

    /// The letters before a quote, when a string starts here.
    fn string_prefix(&self) -> Option<&'static str> {
        ["", "r", "R", "b", "B", "br", "bR", "Br", "BR", "rb", "rB", "Rb", "RB"]
            .into_iter()
            .find(|p| self.rest().strip_prefix(p).is_some_and(|r| r.starts_with(['"', '\''])))
    }

    fn string(&mut self, prefix: &str) -> Result<TokenKind, Issue> {
        let start = self.at;
        self.at += prefix.len();
        let raw = prefix.contains(['r', 'R']);
        let bytes = prefix.contains(['b', 'B']);
        let quote =
            ["\"\"\"", "'''", "\"", "'"].into_iter().find(|q| self.rest().starts_with(q)).unwrap_or("'");
        self.at += quote.len();
        let body_start = self.at;
        loop {
            let rest = self.rest();
            if rest.starts_with(quote) {
                break;
            }
            match rest.chars().next() {
                None => {
                    return Err(
                        self.issue(start, format!("token recognition error at: '{}'", &self.source[start..]))
                    );
                }
                Some('\n' | '\r') if quote.len() == 1 => {
                    return Err(self.issue(
                        start,
                        format!("token recognition error at: '{}'", &self.source[start..self.at]),
                    ));
                }
                Some('\\') if !raw => {
                    self.at += 1;
                    self.at += self.peek().map_or(0, char::len_utf8);
                }
                Some(c) => self.at += c.len_utf8(),
            }
        }
        let body = &self.source[body_start..self.at];
        self.at += quote.len();
        let text = if raw {
            body.as_bytes().to_vec()
        } else {
            unescape(body, bytes).map_err(|m| Issue { offset: start, message: m })?
        };
        if bytes {
            return Ok(TokenKind::Literal(Literal::Bytes(text)));
        }
        let text = String::from_utf8(text)
            .map_err(|_| Issue { offset: start, message: "invalid string literal".to_owned() })?;
        Ok(TokenKind::Literal(Literal::String(text)))
    }

    fn number(&mut self) -> Result<TokenKind, Issue> {
        let start = self.at;
        let rest = self.rest().to_owned();
        let hex = rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X"));
        let hex = hex.filter(|h| h.starts_with(|c: char| c.is_ascii_hexdigit()));
        let digits_end = |s: &str, ok: fn(&char) -> bool| s.find(|c: char| !ok(&c)).unwrap_or(s.len());
        let (text, radix, mut length) = match hex {
            Some(hex) => {
                let end = digits_end(hex, char::is_ascii_hexdigit);
                (hex[..end].to_owned(), 16, end + 2)
            }
            None => {
                let end = digits_end(&rest, char::is_ascii_digit);
                (rest[..end].to_owned(), 10, end)
            }
        };
        if radix == 10
            && let Some(end) = float_end(&rest, length)
        {
            self.at += end;
            let value: f64 = rest[..end]
                .parse()
                .map_err(|_| Issue { offset: start, message: "invalid double literal".to_owned() })?;
            return Ok(TokenKind::Literal(Literal::Double(value)));
        }
        let unsigned = rest[length..].starts_with(['u', 'U']);
        length += usize::from(unsigned);
        self.at += length;
        let value = u64::from_str_radix(&text, radix);
        let invalid = |what: &str| Issue { offset: start, message: format!("invalid {what} literal") };
        if unsigned {
            return Ok(TokenKind::Literal(Literal::Uint(value.map_err(|_| invalid("uint"))?)));
        }
        let value = value.map_err(|_| invalid("int"))?;
        match i64::try_from(value) {
            Ok(value) => Ok(TokenKind::Literal(Literal::Int(value))),
            Err(_) if value == 1 << 63 => Ok(TokenKind::SmallestIntMagnitude),
            Err(_) => Err(invalid("int")),
        }
    }
}

/// Where a decimal number that is a double ends; `None` for an integer.
fn float_end(text: &str, digits: usize) -> Option<usize> {
    let run = |from: usize| text[from..].bytes().take_while(u8::is_ascii_digit).count();
    let mut end = digits;
    let mut float = false;
    if text[end..].starts_with('.') && run(end + 1) > 0 {
        end += 1 + run(end + 1);
        float = true;
    }
    if text[end..].starts_with(['e', 'E']) {
        let sign = usize::from(text[end + 1..].starts_with(['+', '-']));
        let exponent = run(end + 1 + sign);
        if exponent > 0 {
            end += 1 + sign + exponent;
            float = true;
        }
    }
    float.then_some(end)
}

/// Resolves escapes; in byte strings `\x` and octal escapes are single bytes.
fn unescape(body: &str, bytes: bool) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(body.len());
    let mut chars = body.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let escape = chars.next().ok_or("unable to unescape string, found '\\' as last character")?;
        let simple = match escape {
            'a' => Some(7),
            'b' => Some(8),
            'f' => Some(12),
            'n' => Some(b'\n'),
            'r' => Some(b'\r'),
            't' => Some(b'\t'),
            'v' => Some(11),
            '\\' | '\'' | '"' | '`' | '?' => u8::try_from(escape).ok(),
            _ => None,
        };
        if let Some(byte) = simple {
            out.push(byte);
            continue;
        }
        let (radix, length, lead) = match escape {
            'x' | 'X' => (16, 2, None),
            'u' if !bytes => (16, 4, None),
            'U' if !bytes => (16, 8, None),
            '0'..='3' => (8, 3, Some(escape)),
            _ => return Err(format!("unable to unescape string: \\{escape}")),
        };
        let mut digits: String = lead.into_iter().collect();
        while digits.len() < length {
            digits.push(chars.next().ok_or("unable to unescape string")?);
        }
        let code = u32::from_str_radix(&digits, radix).map_err(|_| "unable to unescape string")?;
        if bytes {
            out.push(u8::try_from(code).map_err(|_| "unable to unescape string")?);
            continue;
        }
        let c = char::from_u32(code).ok_or("invalid unicode code point")?;
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Ok(out)
}
