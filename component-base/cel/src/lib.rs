//! The Common Expression Language as Kubernetes speaks it.
//!
//! # How to use it
//!
//! An [`Env`] says what an expression may name; [`Env::compile`] parses, checks types, estimates cost and gives a
//! [`Program`], which is immutable and shared; [`Program::eval`] runs it over an [`Activation`].
//!
//! ```
//! use cel_engine::{Env, Type, Value};
//!
//! let env = Env::new().variable("replicas", Type::Int);
//! let program = env.compile("replicas <= 5").expect("the expression is good");
//! assert_eq!(program.result_type(), &Type::Bool);
//! let done = program.eval(&[("replicas", Value::Int(7))]);
//! assert!(matches!(done.result, Ok(Value::Bool(false))));
//! ```
//!
//! # With a schema
//!
//! [`DeclType::from_schema`] reads a structural or OpenAPI v3 schema (references resolved, JSON as in a definition):
//! types of fields, escaped names ([`escape`]), semantics of lists, bounds of sizes. For a rule of
//! `x-kubernetes-validations` at some place of a schema, with `schema` the schema of that place:
//!
//! ```
//! use std::sync::Arc;
//! use cel_engine::{DeclType, Env, Value};
//!
//! let schema = serde_json::json!({"type": "object", "properties": {"size": {"type": "integer"}}});
//! // The second argument: whether the place is the root of a resource (or an embedded one), which has metadata.
//! let decl = Arc::new(DeclType::from_schema(&schema, false, "self").expect("an object has a type"));
//! let env = Env::new().declared("self", &decl).declared("oldSelf", &decl);
//! let rule = env.compile("self.size >= oldSelf.size").expect("the rule is good");
//! assert!(rule.uses("oldSelf"), "a transition rule");
//! assert!(rule.estimated_cost().max < 100);
//! let (old, new) = (serde_json::json!({"size": 3}), serde_json::json!({"size": 2}));
//! let value = |json| Value::json_as(json, &decl).expect("the object fits its schema");
//! let done = rule.eval(&[("self", value(&new)), ("oldSelf", value(&old))]);
//! assert!(matches!(done.result, Ok(Value::Bool(false))));
//! ```
//!
//! With `optionalOldSelf` the environment declares [`Env::optional`] and the value is `Value::some(..)` or
//! `Value::Optional(None)`.
//!
//! # Admission
//!
//! [`admission::Compiler`] knows the names and types of admission (`object`, `request`, `params`, variables, ...).
//!
//! [`authorization`] knows those of conditions of authorization and of rules for users.
//!
//! # Bounds
//!
//! Sources, nesting, tree size, patterns and texts made at run time are bounded, and an evaluation stops with
//! [`EvalError::CostLimit`] at [`PER_CALL_LIMIT`]; no input makes it panic or run away.

pub mod admission;
mod ast;
pub mod authorization;
mod check;
mod cost;
mod env;
mod eval;
mod lexer;
pub mod library;
mod macros;
mod parser;
mod schema;
mod source;
mod syntax;
mod types;
mod value;

pub use cost::CostRange;
pub use env::{Env, MessageType, Variable};
pub use eval::{
    Activation, Evaluation, MATCH_CONDITIONS_COST_BUDGET, PER_CALL_LIMIT, Program, RUNTIME_COST_BUDGET,
};
pub use schema::{DeclField, DeclKind, DeclType, ListSemantics, RESERVED_WORDS, escape};
pub use source::{CompileError, Issue};
pub use syntax::Syntax;
pub use types::Type;
pub use value::{EvalError, List, MadeMap, Map, Message, Opaque, Text, Value};
