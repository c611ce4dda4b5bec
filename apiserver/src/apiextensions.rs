//! Custom resources without I/O: what a CustomResourceDefinition says, and what its schemas do to objects.
//!
//! ```text
//! definition (CRD as JSON) → Definition → versions, each with a Schema
//!                                              │
//!        prune → drop nulls → defaults → embedded metadata → value and list validation
//! ```
//!
//! | module | upstream's `apiextensions-apiserver/pkg` |
//! |---|---|
//! | [`schema`] | `apiserver/schema` (structural schemas) |
//! | [`structural`] | `apiserver/schema` (validation, completeness) |
//! | [`pruning`] | `apiserver/schema/pruning` |
//! | [`defaulting`] | `apiserver/schema/defaulting` |
//! | [`embedded`] | `apiserver/schema/objectmeta` |
//! | [`value`], [`formats`], [`pattern`] | `apiserver/validation`, `apiserver/schema/listtype` |
//! | [`rules`], [`fieldpath`] | `apiserver/schema/cel` |
//! | [`definition`] | `apis/apiextensions/helpers.go` |
//! | [`conditions`] | `controller/{status,establish,nonstructuralschema,apiapproval}` |
//! | [`jsonpath`] | client-go `util/jsonpath` |
//!
//! Contract: apiextensions.k8s.io/v1; KEP-95 (structural schemas), KEP-1152.

pub mod conditions;
pub mod defaulting;
pub mod definition;
pub mod embedded;
pub mod fieldpath;
pub mod formats;
pub mod jsonpath;
pub mod pattern;
pub mod pruning;
pub mod rules;
pub mod schema;
pub mod structural;
pub mod value;

pub use definition::{Definition, Version};
pub use schema::Schema;
