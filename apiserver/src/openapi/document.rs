//! A whole document: the operations of some group-versions and the schemas they lead to.

use component_base::{features::Gates, version};
use serde_json::{Value, json};

use super::{Dialect, Part, operations, schemas};
use crate::registry::catalog::Catalog;

/// Describes every operation of these parts.
///
/// Gates say whether CBOR is among their media types, and whether fields list the words they take.
pub(super) fn build(catalog: &Catalog, (dialect, gates): (Dialect, Gates), parts: &[Part]) -> Value {
    let mut found = operations::Found::default();
    for part in parts {
        match part {
            Part::Resources(gv) => operations::describe(catalog, (dialect, gates), gv, &mut found),
            Part::Root(root) => found.root(dialect, root),
        }
    }
    let operations::Found { paths, types, mut custom } = found;
    let mut schemas = schemas::describe((dialect, gates), types);
    schemas.append(&mut custom);
    let info = json!({"title": "Kubernetes", "version": version::GIT_VERSION});
    let bearer =
        json!({"type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer token"});
    match dialect {
        Dialect::V2 => json!({"swagger": "2.0", "info": info, "paths": paths, "definitions": schemas,
            "securityDefinitions": {"BearerToken": bearer}, "security": [{"BearerToken": []}]}),
        Dialect::V3 => json!({"openapi": "3.0.0", "info": info, "paths": paths,
            "components": {"schemas": schemas, "securitySchemes": {"BearerToken": bearer}},
            "security": [{"BearerToken": []}]}),
    }
}
