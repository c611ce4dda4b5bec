//! JSON patches (RFC 6902), with upstream's bound on operations and its answers to patches that do not apply.

use proto::node::Node;
use serde_json::Value;

use super::rejected;
use crate::{schema, status::Status};

/// Operations one patch may have.
const MAX_OPERATIONS: usize = 10_000;
/// Bytes the copies of a patch may have together: those of the largest request.
const MAX_COPIED: usize = 3 * 1024 * 1024;
/// Members an operation may have.
const MEMBERS: [&str; 4] = ["op", "path", "from", "value"];

/// A patch that was read. Whether its operations make sense shows when it is applied, as upstream has it.
#[derive(Debug)]
pub struct JsonPatch(Value);

impl JsonPatch {
    /// Reads a patch and tells members of its operations that are unknown or there twice.
    ///
    /// # Errors
    /// 400 when it is no list of objects, 413 when it has too many.
    pub fn parse(body: &[u8]) -> Result<(Self, Vec<String>), Status> {
        let bad = |why: String| Status::bad_request(format!("error decoding patch: {why}"));
        let node: Node<'_> = serde_json::from_slice(body).map_err(|e| bad(schema::syntax_error(body, &e)))?;
        let Node::Array(operations) = &node else {
            let word = if matches!(node, Node::Object(_)) { "object" } else { "value" };
            return Err(bad(format!(
                "json: cannot unmarshal {word} into Go value of type []handlers.jsonPatchOp"
            )));
        };
        if operations.len() > MAX_OPERATIONS {
            return Err(Status::too_large(format!(
                "Request entity too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                operations.len()
            )));
        }
        let mut complaints = Vec::new();
        for (at, operation) in operations.iter().enumerate() {
            let Node::Object(members) = operation else {
                return Err(bad("json: cannot unmarshal an operation that is no object".to_owned()));
            };
            for (name, _) in members.iter().filter(|(name, _)| !MEMBERS.contains(&&**name)) {
                complaints.push(format!("json patch unknown field {:?}", format!("[{at}].{name}")));
            }
        }
        let duplicates = schema::decode_untyped(&node);
        complaints.extend(duplicates.strict.into_iter().map(|text| format!("json patch {text}")));
        Ok((Self(duplicates.object), complaints))
    }

    /// Applies the operations in order.
    ///
    /// # Errors
    /// 422 when one of them does not apply.
    pub fn apply(&self, value: &mut Value) -> Result<(), Status> {
        let patch: json_patch::Patch = serde_json::from_value(self.0.clone()).map_err(|_| rejected())?;
        let mut copied = 0;
        for operation in &patch.0 {
            // What is copied over and over grows without bound, however short the patch is.
            if let json_patch::PatchOperation::Copy(copy) = operation {
                copied += value.pointer(copy.from.as_str()).map_or(0, size);
                if copied > MAX_COPIED {
                    return Err(rejected());
                }
            }
            json_patch::patch(value, std::slice::from_ref(operation)).map_err(|_| rejected())?;
        }
        Ok(())
    }
}

/// Bytes a value takes at the least when it is written.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|item| 1 + size(item)).sum::<usize>(),
        Value::Object(members) => {
            2 + members.iter().map(|(name, value)| name.len() + 4 + size(value)).sum::<usize>()
        }
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patches_apply_or_are_refused_as_upstream_does() {
        let apply = |patch: Value| {
            let (patch, complaints) = JsonPatch::parse(patch.to_string().as_bytes()).map_err(|s| s.code)?;
            let mut value = json!({"a": 1});
            patch.apply(&mut value).map_err(|s| s.code)?;
            Ok((value, complaints))
        };
        let add = json!([{"op": "add", "path": "/b", "value": 2}]);
        assert_eq!(apply(add), Ok((json!({"a": 1, "b": 2}), vec![])));
        let odd = json!([{"op": "add", "path": "/b", "value": 2, "extra": 1}]);
        let complaint = "json patch unknown field \"[0].extra\"".to_owned();
        assert_eq!(apply(odd), Ok((json!({"a": 1, "b": 2}), vec![complaint])));
        assert_eq!(apply(json!({"op": "add"})), Err(400));
        assert_eq!(apply(json!([{"op": "remove", "path": "/nothing"}])), Err(422));
        assert_eq!(apply(json!([{"op": "test", "path": "/a", "value": 2}])), Err(422));
        assert_eq!(apply(json!([{"op": "jump", "path": "/a"}])), Err(422));
        // Forty doublings would be a million million.
        let doubles: Vec<Value> =
            (0..40).map(|n| json!({"op": "copy", "from": "", "path": format!("/x{n}")})).collect();
        assert_eq!(apply(Value::Array(doubles)), Err(422));
        assert!(apply(json!([{"op": "copy", "from": "/a", "path": "/b"}])).is_ok());
        let many: Vec<Value> = (0..10_001).map(|_| json!({"op": "test", "path": "/a", "value": 1})).collect();
        assert_eq!(apply(Value::Array(many)), Err(413));
    }
}
