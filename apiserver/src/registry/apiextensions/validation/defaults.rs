//! What is wrong with the defaults of a schema: each has to be a value that the schema takes as it is.

use serde_json::{Map, Value, json};

use crate::{
    apiextensions::{Schema, embedded, pruning, rules::Rules, value},
    field::{Error, ErrorList, Path},
};

/// A step from an embedded object to a default in its metadata.
#[derive(Clone)]
enum Step {
    Key(String),
    Item,
}

/// Errors of the defaults of a readable schema that stands at `path`.
pub(super) fn validate(document: &Value, path: &Path, pruned: bool) -> ErrorList {
    let root = Schema::read(document).as_root();
    let mut walk = Walk { root: &root, steps: Vec::new(), pruned, errors: ErrorList::new() };
    walk.node(&root, document, path, false);
    walk.errors
}

/// Whether no default has unknown fields.
pub(super) fn are_pruned(document: &Value) -> bool {
    !Schema::read(document)
        .any(&|schema| schema.default.as_ref().is_some_and(|default| !is_pruned(default, schema)))
}

fn is_pruned(default: &Value, schema: &Schema) -> bool {
    let mut kept = default.clone();
    pruning::prune_value(&mut kept, schema);
    kept == *default
}

struct Walk<'s> {
    /// The innermost whole object around the node.
    root: &'s Schema,
    /// The way from there.
    steps: Vec<Step>,
    pruned: bool,
    errors: ErrorList,
}

impl<'s> Walk<'s> {
    fn node(&mut self, schema: &'s Schema, document: &Value, path: &Path, in_meta: bool) {
        let outer = (self.root, self.steps.clone());
        let in_meta = in_meta && !schema.embedded;
        if schema.embedded {
            (self.root, self.steps) = (schema, Vec::new());
        }
        if let Some(default) = &schema.default {
            let at = path.child("default");
            if in_meta {
                self.meta_default(default, schema, document, &at);
            } else {
                self.default(default, schema, document, &at);
            }
        }
        if let Some(items) = &schema.items {
            self.steps.push(Step::Item);
            self.node(items, &document["items"], &path.child("items"), in_meta);
            self.steps.pop();
        }
        for (name, below) in &schema.properties {
            let known = schema.embedded && matches!(name.as_str(), "metadata" | "apiVersion" | "kind");
            self.steps.push(Step::Key(name.clone()));
            let node = &document["properties"][name];
            self.node(below, node, &path.child("properties").key(name), in_meta || known);
            self.steps.pop();
        }
        (self.root, self.steps) = outer;
    }

    fn default(&mut self, default: &Value, schema: &Schema, document: &Value, at: &Path) {
        if self.pruned && !is_pruned(default, schema) {
            self.errors.push(Error::invalid(at, default.clone(), "must not have unknown fields"));
        }
        let mut coerced = default.clone();
        if let Err(error) = embedded::coerce(&mut coerced, schema, at) {
            return self.errors.push(error);
        }
        let wrong = embedded::validate_value(default, schema, at);
        if wrong.is_empty() {
            self.value(default, schema, document, at);
        } else {
            self.errors.extend(wrong);
        }
    }

    /// A default is a value as any other, whether it was there before or not.
    fn value(&mut self, default: &Value, schema: &Schema, document: &Value, at: &Path) {
        let mut wrong = value::validate(default, None, schema, &at.to_string());
        if let Some(rules) = Rules::of_value(document).filter(|_| wrong.is_empty()) {
            wrong = rules.validate(default, Some(default), at, false);
            if wrong.is_empty() {
                wrong = rules.validate(default, None, at, false);
            }
        }
        self.errors.extend(wrong);
    }

    /// A default inside of metadata has to make good metadata.
    fn meta_default(&mut self, default: &Value, schema: &Schema, document: &Value, at: &Path) {
        let mut object = default.clone();
        for step in self.steps.iter().rev() {
            object = match step {
                Step::Key(name) => Value::Object(Map::from_iter([(name.clone(), object)])),
                Step::Item => json!([object]),
            };
        }
        for (name, text) in [("kind", "Validation"), ("apiVersion", "validation/v1")] {
            if object.get(name).is_none() {
                object[name] = text.into();
            }
        }
        let invalid = |why: String| {
            Error::invalid(at, default.clone(), format!("must result in valid metadata: {why}"))
        };
        let coerced = embedded::coerce(&mut object, self.root, &Path::root());
        if let Err(error) = coerced {
            return self.errors.push(invalid(error.to_string()));
        }
        let wrong = embedded::validate_value(&object, self.root, &Path::root());
        if let Some(first) = wrong.iter().next() {
            return self.errors.push(invalid(first.to_string()));
        }
        self.value(default, schema, document, at);
    }
}
