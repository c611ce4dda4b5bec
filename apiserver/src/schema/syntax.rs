//! What is wrong with a text that is no JSON, in the words of Go's scanner, which clients of upstream's server read.
//!
//! Contract: `encoding/json`'s scanner, as `sigs.k8s.io/json` has it.

const END: &str = "unexpected end of JSON input";
const VALUE: &str = "looking for beginning of value";
const KEY: &str = "looking for beginning of object key string";

/// What the first fault is; nothing where the text is JSON.
pub(super) fn fault(text: &[u8]) -> Option<String> {
    Scan { text, at: 0 }.document().err()
}

struct Scan<'t> {
    text: &'t [u8],
    at: usize,
}

/// What a list or an object goes on with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    List,
    Object,
}

impl Scan<'_> {
    fn document(mut self) -> Result<(), String> {
        let mut open: Vec<Open> = Vec::new();
        loop {
            // A value begins.
            match self.next()? {
                b'{' => {
                    if self.peek()? == b'}' {
                        self.at += 1;
                    } else {
                        self.key()?;
                        open.push(Open::Object);
                        continue;
                    }
                }
                b'[' => {
                    if self.peek()? == b']' {
                        self.at += 1;
                    } else {
                        open.push(Open::List);
                        continue;
                    }
                }
                b'"' => self.string()?,
                b'-' => {
                    let first = self.byte()?;
                    self.number(first)?;
                }
                first @ b'0'..=b'9' => self.number(first)?,
                b't' => self.word("true")?,
                b'f' => self.word("false")?,
                b'n' => self.word("null")?,
                other => return Err(invalid(other, VALUE)),
            }
            // And has ended.
            loop {
                let Some(inner) = open.last() else {
                    return match self.next() {
                        Ok(more) => Err(invalid(more, "after top-level value")),
                        Err(_) => Ok(()),
                    };
                };
                match (inner, self.next()?) {
                    (Open::List, b',') => break,
                    (Open::Object, b',') => {
                        self.key()?;
                        break;
                    }
                    (Open::List, b']') | (Open::Object, b'}') => drop(open.pop()),
                    (Open::List, other) => return Err(invalid(other, "after array element")),
                    (Open::Object, other) => return Err(invalid(other, "after object key:value pair")),
                }
            }
        }
    }

    /// The next byte, whatever it is.
    fn byte(&mut self) -> Result<u8, String> {
        let byte = self.text.get(self.at).copied().ok_or_else(|| END.to_owned())?;
        self.at += 1;
        Ok(byte)
    }

    /// The next byte that is no space, which stays.
    fn peek(&mut self) -> Result<u8, String> {
        let byte = self.next()?;
        self.at -= 1;
        Ok(byte)
    }

    fn next(&mut self) -> Result<u8, String> {
        loop {
            match self.byte()? {
                b' ' | b'\t' | b'\r' | b'\n' => {}
                other => return Ok(other),
            }
        }
    }

    fn key(&mut self) -> Result<(), String> {
        match self.next()? {
            b'"' => self.string()?,
            other => return Err(invalid(other, KEY)),
        }
        match self.next()? {
            b':' => Ok(()),
            other => Err(invalid(other, "after object key")),
        }
    }

    /// What follows the first quote.
    fn string(&mut self) -> Result<(), String> {
        loop {
            match self.byte()? {
                b'"' => return Ok(()),
                b'\\' => match self.byte()? {
                    b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => {}
                    b'u' => {
                        for _ in 0..4 {
                            let digit = self.byte()?;
                            if !digit.is_ascii_hexdigit() {
                                return Err(invalid(digit, "in \\u hexadecimal character escape"));
                            }
                        }
                    }
                    other => return Err(invalid(other, "in string escape code")),
                },
                control @ ..b' ' => return Err(invalid(control, "in string literal")),
                _ => {}
            }
        }
    }

    /// What follows the first byte behind a sign.
    fn number(&mut self, first: u8) -> Result<(), String> {
        match first {
            b'0' => {}
            b'1'..=b'9' => self.digits(),
            other => return Err(invalid(other, "in numeric literal")),
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digit("after decimal point in numeric literal")?;
            self.digits();
        }
        if matches!(self.text.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.text.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digit("in exponent of numeric literal")?;
            self.digits();
        }
        Ok(())
    }

    fn digit(&mut self, place: &str) -> Result<(), String> {
        let byte = self.byte()?;
        if byte.is_ascii_digit() { Ok(()) } else { Err(invalid(byte, place)) }
    }

    fn digits(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
    }

    /// What follows the first letter.
    fn word(&mut self, word: &str) -> Result<(), String> {
        for expected in word.bytes().skip(1) {
            let byte = self.byte()?;
            if byte != expected {
                let place = format!("in literal {word} (expecting '{}')", char::from(expected));
                return Err(invalid(byte, &place));
            }
        }
        Ok(())
    }
}

fn invalid(byte: u8, place: &str) -> String {
    let shown = match byte {
        b'\'' => "\\'".to_owned(),
        b'"' => "\"".to_owned(),
        b'\\' => "\\\\".to_owned(),
        b'\n' => "\\n".to_owned(),
        b'\r' => "\\r".to_owned(),
        b'\t' => "\\t".to_owned(),
        0x07 => "\\a".to_owned(),
        0x08 => "\\b".to_owned(),
        0x0b => "\\v".to_owned(),
        0x0c => "\\f".to_owned(),
        ..b' ' | 0x7f => format!("\\x{byte:02x}"),
        0x80..=0xa0 | 0xad => format!("\\u{:04x}", byte),
        other => char::from(other).to_string(),
    };
    format!("invalid character '{shown}' {place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_as_gos_scanner_does() {
        for good in ["{}", " [1, -0.5e+3, \"a\\u00e9\\n\", true, false, null, {\"a\": [[]]}] \n", "\"\"", "0"]
        {
            assert_eq!(fault(good.as_bytes()), None, "{good}");
        }
        for (text, told) in [
            ("", END),
            ("  ", END),
            ("{\"a\":", END),
            ("\"a", END),
            ("[1", END),
            ("xx", "invalid character 'x' looking for beginning of value"),
            ("'a'", "invalid character '\\'' looking for beginning of value"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("{a:1}", "invalid character 'a' looking for beginning of object key string"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 \"b\"", "invalid character '\"' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("{} {}", "invalid character '{' after top-level value"),
            ("01", "invalid character '1' after top-level value"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1ex", "invalid character 'x' in exponent of numeric literal"),
            ("trux", "invalid character 'x' in literal true (expecting 'e')"),
            ("nul ", "invalid character ' ' in literal null (expecting 'l')"),
            ("\"a\n\"", "invalid character '\\n' in string literal"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("\"\\u12g4\"", "invalid character 'g' in \\u hexadecimal character escape"),
            ("\u{1}", "invalid character '\\x01' looking for beginning of value"),
        ] {
            assert_eq!(fault(text.as_bytes()).as_deref(), Some(told), "{text:?}");
        }
    }
}
