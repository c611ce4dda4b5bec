//! Expressions of admission, evaluated.
//!
//! ```text
//! spec → Compiler (names, variables) → Expression (a program, or why there is none)
//! request → Subject ─→ Evaluator (variables once each, answers of the authorizer) ─→ outcomes within a budget
//! ```
//! Contract: upstream's `admission/plugin/cel`: budgets and messages.

pub use cel_engine::admission::{Compiler, Expression, Names, Variable, json_patch_type, object_type};

mod conditions;
mod evaluator;
#[cfg(test)]
mod tests;

pub use conditions::{Condition, Verdict, judge};
pub use evaluator::{Evaluator, OutOfBudget, Questions, Subject};
