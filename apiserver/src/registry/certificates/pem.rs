//! PEM as Go reads it, so that what upstream finds in a text is found here too.
//!
//! Contract: Go's `encoding/pem` `Decode`: what stands between blocks is passed over, and so is what only looks like one;
//! lines with a colon before the first empty line, or before the data, are headers (RFC 1421, RFC 7468).

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{GeneralPurpose, GeneralPurposeConfig},
};

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";
const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new());

/// A block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// What it says it is, such as `CERTIFICATE`.
    pub(super) label: String,
    /// Whether there are headers.
    pub(super) has_headers: bool,
    /// The data.
    pub(super) contents: Vec<u8>,
}

/// The blocks of a text, in order.
pub(super) fn blocks(text: &str) -> Vec<Block> {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let (mut found, mut at) = (Vec::new(), 0);
    while at < lines.len() {
        match block(&lines[at..]) {
            Some((block, taken)) => {
                found.push(block);
                at += taken;
            }
            None => at += 1,
        }
    }
    found
}

/// A block that begins with the first line, and the lines it takes.
fn block(lines: &[&str]) -> Option<(Block, usize)> {
    let label = lines.first()?.strip_prefix(BEGIN)?.strip_suffix(DASHES)?;
    let mut data = 1;
    while lines.get(data).is_some_and(|line| line.contains(':')) {
        data += 1;
    }
    let has_headers = data > 1;
    let end = data + lines[data..].iter().position(|line| line.starts_with(END))?;
    if lines[end].strip_prefix(END)?.strip_suffix(DASHES)? != label {
        return None;
    }
    let text: String = lines[data..end].concat();
    let contents = BASE64.decode(text).ok()?;
    Some((Block { label: label.to_owned(), has_headers, contents }, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_among_other_things() {
        let good = |label: &str| format!("-----BEGIN {label}-----\naGVs\nbG8=\n-----END {label}-----\n");
        let block = |label: &str, has_headers| Block {
            label: label.to_owned(),
            has_headers,
            contents: b"hello".to_vec(),
        };
        let headed = "-----BEGIN A-----\nKey: value\nOther: 1\n\naGVsbG8=\n-----END A-----\n";
        for (text, expected) in [
            (String::new(), vec![]),
            ("no block\n".to_owned(), vec![]),
            (good("CERTIFICATE"), vec![block("CERTIFICATE", false)]),
            (
                format!("about it:\n{}# more\n{}", good("A"), good("B")),
                vec![block("A", false), block("B", false)],
            ),
            (headed.to_owned(), vec![block("A", true)]),
            (good("A").replace('\n', "\r\n"), vec![block("A", false)]),
            // What ends as something else, is no base64, or does not end, is passed over.
            (good("A").replace("END A", "END B") + &good("C"), vec![block("C", false)]),
            (good("A").replace("aGVs", "a!Vs") + &good("C"), vec![block("C", false)]),
            ("-----BEGIN A-----\naGVsbG8=\n".to_owned(), vec![]),
            ("-----BEGIN A----\naGVsbG8=\n-----END A-----\n".to_owned(), vec![]),
        ] {
            assert_eq!(blocks(&text), expected, "{text}");
        }
    }
}
