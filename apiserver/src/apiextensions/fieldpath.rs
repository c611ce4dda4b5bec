//! Paths to fields as selectable fields and rules name them: `.spec.size`, `.spec['a.b']`.
//!
//! Contract: upstream's `schema/cel.ValidFieldPath`.

use super::schema::{Additional, Schema};
use crate::field::Path;

/// Where a path leads.
#[derive(Debug)]
pub struct Target<'s> {
    /// The field.
    pub path: Path,
    /// The first name of the path.
    pub root: String,
    /// What it is like.
    pub schema: &'s Schema,
}

/// Follows a path through a schema; keys in brackets are allowed only `with_brackets`.
///
/// # Errors
/// In words, when it is no path or leads nowhere.
pub fn resolve<'s>(path: &str, schema: &'s Schema, with_brackets: bool) -> Result<Target<'s>, String> {
    let mut target = Target { path: Path::root(), root: String::new(), schema };
    let mut tokens = tokens(path).into_iter();
    let end = || "unexpected end of JSON path".to_owned();
    while let Some(token) = tokens.next() {
        let name = match token {
            "[" if !with_brackets => return Err("array notation is not allowed".to_owned()),
            "[" => {
                let quoted = tokens.next().ok_or_else(end)?;
                let inner = quoted.strip_prefix('\'').and_then(|t| t.strip_suffix('\''));
                let inner = inner.ok_or_else(|| format!("expected single quoted string but got {quoted}"))?;
                let name = unescape(inner)?;
                match tokens.next().ok_or_else(end)? {
                    "]" => name,
                    other => return Err(format!("expected ] but got {other}")),
                }
            }
            "." => tokens.next().ok_or_else(end)?.to_owned(),
            other => return Err(format!("expected [ or . but got: {other}")),
        };
        step(&mut target, &name)?;
    }
    Ok(target)
}

fn step(target: &mut Target<'_>, name: &str) -> Result<(), String> {
    let nowhere = || "does not refer to a valid field".to_owned();
    if target.root.is_empty() {
        name.clone_into(&mut target.root);
    }
    if !target.schema.properties.is_empty() {
        target.path = target.path.child(name);
        target.schema = target.schema.properties.get(name).ok_or_else(nowhere)?;
        return Ok(());
    }
    match &target.schema.additional {
        Some(Additional::Schema(below)) => {
            target.path = target.path.key(name);
            target.schema = below;
            Ok(())
        }
        _ => Err(nowhere()),
    }
}

/// Delimiters and what stands between them; quoted texts stay whole.
fn tokens(path: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        let end = if rest.starts_with('\'') {
            let bytes = rest.as_bytes();
            (1..bytes.len())
                .find(|at| bytes[*at] == b'\'' && bytes[at - 1] != b'\\')
                .map_or(rest.len(), |at| at + 1)
        } else {
            match rest.find(['.', '[', ']']) {
                Some(0) => 1,
                Some(at) => at,
                None => rest.len(),
            }
        };
        let (token, after) = rest.split_at(end);
        out.push(token);
        rest = after;
    }
    out
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            out.push(letter);
            continue;
        }
        out.push(match letters.next() {
            Some('a') => '\u{7}',
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('v') => '\u{b}',
            Some(same @ ('\'' | '\\')) => same,
            other => {
                let escaped: String = other.into_iter().collect();
                return Err(format!("invalid string literal: invalid escape char \\{escaped}"));
            }
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_to_fields() {
        let schema = Schema::read(&json!({"properties": {"spec": {"properties": {
            "size": {"type": "string"}, "a.b": {"type": "integer"},
            "map": {"additionalProperties": {"type": "boolean"}}}}}}));
        let cases = [
            (".spec.size", Ok("string")),
            (".spec['a.b']", Ok("integer")),
            (".spec.map.k", Ok("boolean")),
            (".spec.none", Err("does not refer to a valid field")),
            (".spec.size.x", Err("does not refer to a valid field")),
            ("spec", Err("expected [ or . but got: spec")),
            (".spec[0]", Err("expected single quoted string but got 0")),
            (".spec['size'", Err("unexpected end of JSON path")),
            (".", Err("unexpected end of JSON path")),
        ];
        for (path, want) in cases {
            let got = resolve(path, &schema, true).map(|target| target.schema.kind.as_str());
            assert_eq!(got, want.map_err(str::to_owned), "{path}");
        }
        assert_eq!(resolve(".spec['size']", &schema, false).unwrap_err(), "array notation is not allowed");
    }
}
