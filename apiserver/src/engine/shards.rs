//! `shardSelector`: the syntax of CEL, read but never evaluated.
//!
//! Contract: KEP-5866; upstream's `apiserver/pkg/sharding`, whose words these are.

use cel_engine::Syntax;

use crate::storage::shard::{END, Shard, ShardKey};

/// One `shardRange(..)`.
struct Part {
    path: String,
    start: u128,
    end: u128,
}

/// Reads a selector: `shardRange(path, start, end)`, or several joined by `||`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(text: &str) -> Result<Shard, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("empty shard selector is not allowed; omit the parameter for unfiltered lists".to_owned());
    }
    let syntax = Syntax::parse(text).map_err(|issue| format!("CEL parse error: {}", issue.message))?;
    let mut parts = Vec::new();
    walk(&syntax, &mut parts)?;
    let first = parts.first().map(|part| part.path.clone()).unwrap_or_default();
    if let Some(other) = parts.iter().find(|part| part.path != first) {
        return Err(format!("all shard ranges must use the same field, got {first:?} and {:?}", other.path));
    }
    let key = if first == ShardKey::Namespace.path() { ShardKey::Namespace } else { ShardKey::Uid };
    Ok(Shard { key, ranges: parts.into_iter().map(|part| part.start..part.end).collect() })
}

fn walk(syntax: &Syntax, parts: &mut Vec<Part>) -> Result<(), String> {
    let Syntax::Call { function, args } = syntax else {
        let kind = syntax.kind();
        return Err(format!("unexpected expression kind {kind}; expected shardRange() call or || operator"));
    };
    match function.as_str() {
        "_||_" => args.iter().try_for_each(|arg| walk(arg, parts)),
        "shardRange" => {
            parts.push(part(args)?);
            Ok(())
        }
        other => Err(format!("unsupported function {other:?}; only shardRange() and || are allowed")),
    }
}

fn part(args: &[Syntax]) -> Result<Part, String> {
    let [path, start, end] = args else {
        return Err(format!("shardRange() requires exactly 3 arguments, got {}", args.len()));
    };
    let path = path_of(path).map_err(|why| format!("shardRange() first argument: {why}"))?;
    if ![ShardKey::Uid.path(), ShardKey::Namespace.path()].contains(&path.as_str()) {
        return Err(format!(
            "unsupported field path {path:?}; supported: {}, {}",
            ShardKey::Uid.path(),
            ShardKey::Namespace.path()
        ));
    }
    let ((start, start_text), (end, end_text)) = (bound(start, "hexStart")?, bound(end, "hexEnd")?);
    if start >= end {
        return Err(format!("shard range start {start_text} must be less than end {end_text}"));
    }
    Ok(Part { path, start, end })
}

fn path_of(syntax: &Syntax) -> Result<String, String> {
    match syntax {
        Syntax::Ident(name) => Ok(name.clone()),
        Syntax::Select(operand, field) => Ok(format!("{}.{field}", path_of(operand)?)),
        other => Err(format!(
            "expected field path (e.g. object.metadata.uid), got expression kind {}",
            other.kind()
        )),
    }
}

/// A bound, and as it was written.
fn bound<'s>(syntax: &'s Syntax, name: &str) -> Result<(u128, &'s str), String> {
    let text = match syntax {
        Syntax::Text(text) => text.as_str(),
        Syntax::Constant(other) => return Err(format!("{name} must be a string literal, got {other}")),
        other => {
            let kind = other.kind();
            return Err(format!("{name} must be a string literal (e.g. '0xff'), got expression kind {kind}"));
        }
    };
    let Some(hex) = text.strip_prefix("0x") else {
        return Err(format!("{name} must have '0x' prefix, got {text:?}"));
    };
    if hex.is_empty() {
        return Err(format!("{name}: hex value is required after '0x'"));
    }
    if hex.len() > 17 {
        return Err(format!("{name}: hex value too long ({} chars, max 17): {hex:?}", hex.len()));
    }
    if let Some(wrong) = hex.chars().find(|c| !matches!(c, '0'..='9' | 'a'..='f')) {
        return Err(format!("{name}: invalid hex character {:?} in {text:?}", wrong.to_string()));
    }
    // At most 17 digits, all of them hexadecimal.
    let value = u128::from_str_radix(hex, 16).unwrap_or(END);
    match hex.len() {
        16 => Ok((value, text)),
        17 if value == END => Ok((value, text)),
        17 => Err(format!("{name}: 17-digit hex value must be '0x10000000000000000' (2^64), got {text:?}")),
        _ => Err(format!(
            "{name} must be a 0x-prefixed 16-digit hex value, got {text:?} (did you mean {:?}?)",
            format!("0x{hex:0>16}")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "object.metadata.uid";

    fn range(start: &str, end: &str) -> String {
        format!("shardRange({UID}, '{start}', '{end}')")
    }

    #[test]
    fn ranges_are_joined() {
        let (low, middle, high) = ("0x0000000000000000", "0x8000000000000000", "0x10000000000000000");
        let whole = format!("{} || {}", range(low, middle), range(middle, high));
        let shard = parse(&whole).unwrap();
        assert_eq!((shard.key, shard.ranges.len()), (ShardKey::Uid, 2));
        assert_eq!(shard.to_string(), whole);
        // However it is written, its form is one.
        let other = format!("  (shardRange( {UID},\"{low}\",'{middle}')||{} ) ", range(middle, high));
        assert_eq!(parse(&other).unwrap(), shard);
        let by_namespace =
            "shardRange(object.metadata.namespace, '0x00000000000000aa', '0x00000000000000ff')";
        let shard = parse(by_namespace).unwrap();
        assert_eq!((shard.key, shard.to_string().as_str()), (ShardKey::Namespace, by_namespace));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let ok = "0x0000000000000000";
        for (text, why) in [
            (" ".to_owned(), "empty shard selector is not allowed"),
            ("shardRange(".to_owned(), "CEL parse error: Syntax error"),
            ("true".to_owned(), "unexpected expression kind 5; expected shardRange() call or || operator"),
            ("a && b".to_owned(), "unsupported function \"_&&_\"; only shardRange() and || are allowed"),
            (format!("{} || f()", range(ok, "0x00000000000000ff")), "unsupported function \"f\""),
            (format!("shardRange({UID}, '{ok}')"), "shardRange() requires exactly 3 arguments, got 2"),
            (
                format!("shardRange(object.metadata.name, '{ok}', '{ok}')"),
                "unsupported field path \"object.metadata.name\"; supported: object.metadata.uid, object.metadata.namespace",
            ),
            (
                format!("shardRange('x', '{ok}', '{ok}')"),
                "shardRange() first argument: expected field path (e.g. object.metadata.uid), got expression kind 5",
            ),
            (format!("shardRange({UID}, 1, '{ok}')"), "hexStart must be a string literal, got int64"),
            (
                format!("shardRange({UID}, '{ok}', x)"),
                "hexEnd must be a string literal (e.g. '0xff'), got expression kind 3",
            ),
            (range("0000000000000000", ok), "hexStart must have '0x' prefix, got \"0000000000000000\""),
            (range(ok, "0x"), "hexEnd: hex value is required after '0x'"),
            (
                range(ok, "0x100000000000000000"),
                "hexEnd: hex value too long (18 chars, max 17): \"100000000000000000\"",
            ),
            (
                range(ok, "0x00000000000000FF"),
                "hexEnd: invalid hex character \"F\" in \"0x00000000000000FF\"",
            ),
            (
                range(ok, "0x10000000000000001"),
                "hexEnd: 17-digit hex value must be '0x10000000000000000' (2^64), got \"0x10000000000000001\"",
            ),
            (
                range(ok, "0xff"),
                "hexEnd must be a 0x-prefixed 16-digit hex value, got \"0xff\" (did you mean \"0x00000000000000ff\"?)",
            ),
            (range(ok, ok), "shard range start 0x0000000000000000 must be less than end 0x0000000000000000"),
            (
                format!(
                    "{} || shardRange(object.metadata.namespace, '{ok}', '0x10000000000000000')",
                    range(ok, "0x00000000000000ff")
                ),
                "all shard ranges must use the same field, got \"object.metadata.uid\" and \"object.metadata.namespace\"",
            ),
        ] {
            let told = parse(&text).unwrap_err();
            assert!(told.starts_with(why), "{text}: {told}");
        }
    }
}
