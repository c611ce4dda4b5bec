//! Compact JSON of an object: the same bytes as `serde_json` writes, with strings looked at eight bytes at a time.
//! Every write prints its object, most of which is text that needs no escape.

use serde_json::{Map, Value};

/// Appends an object.
pub(super) fn object(members: &Map<String, Value>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (at, (name, value)) in members.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        string(name, out);
        out.push(b':');
        element(value, out);
    }
    out.push(b'}');
}

fn element(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::String(text) => string(text, out),
        Value::Object(members) => object(members, out),
        Value::Array(members) => {
            out.push(b'[');
            for (at, member) in members.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                element(member, out);
            }
            out.push(b']');
        }
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        // Writing to memory does not fail.
        Value::Number(number) => serde_json::to_writer(out, number).unwrap_or_default(),
    }
}

fn string(text: &str, out: &mut Vec<u8>) {
    if !is_plain(text.as_bytes()) {
        // Writing to memory does not fail.
        return serde_json::to_writer(out, text).unwrap_or_default();
    }
    out.reserve(text.len() + 2);
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

/// Whether nothing in a text is to be escaped: no quote, no backslash, no control character.
fn is_plain(text: &[u8]) -> bool {
    let (words, rest) = text.as_chunks();
    words.iter().all(|word| !is_special(u64::from_ne_bytes(*word)))
        && rest.iter().all(|byte| *byte >= b' ' && !matches!(byte, b'"' | b'\\'))
}

/// Whether one of eight bytes is to be escaped.
fn is_special(word: u64) -> bool {
    let all = |byte: u8| u64::from_ne_bytes([byte; 8]);
    // The highest bit of a byte says that it was below the bound; see "Bit Twiddling Hacks", haszero and hasless.
    let below = |word: u64, bound: u8| word.wrapping_sub(all(bound)) & !word & all(0x80);
    below(word, b' ') | below(word ^ all(b'"'), 1) | below(word ^ all(b'\\'), 1) != 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(value: &Value) -> String {
        let mut out = Vec::new();
        element(value, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_byte_is_escaped_in_every_place_as_serde_json_does() {
        for char in (0..0x100_u32).filter_map(char::from_u32) {
            for before in 0..18 {
                let text = format!("{}{char}{}", "x".repeat(before), "y".repeat(9));
                assert_eq!(written(&Value::from(text.as_str())), serde_json::to_string(&text).unwrap());
            }
        }
    }

    proptest! {
        #[test]
        fn objects_are_written_as_serde_json_does(text in "\\PC{0,40}", key in ".{0,20}", number in any::<f64>(), whole in any::<i64>()) {
            let value = serde_json::json!({key: [text, number, whole, null, true, {}, []], "b": {"c": false, "d": u64::MAX}});
            prop_assert_eq!(written(&value), value.to_string());
        }
    }
}
