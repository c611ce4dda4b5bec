//! `jsonpatch.escapeKey`: a key as a segment of a JSON pointer.

use super::Line;
use crate::value::Value;

pub(super) const FUNCTIONS: &[Line] =
    &[("string_jsonpatch_escapeKey_string", "jsonpatch.escapeKey(string) -> string", |c| {
        Ok(Value::text(c.str(0)?.replace('~', "~0").replace('/', "~1")))
    })];
