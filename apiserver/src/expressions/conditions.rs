//! matchConditions: expressions that all have to hold before a webhook is called or a policy evaluated.
//!
//! Contract: `matchConditions` of admissionregistration.k8s.io/v1: one that is false decides whatever others say; else
//! an error is up to the failure policy.

use cel_engine::{MATCH_CONDITIONS_COST_BUDGET, Type, Value};
use serde_json::Value as Json;

use super::{Compiler, Evaluator, Expression, Names};

/// One condition.
#[derive(Debug)]
pub struct Condition {
    /// Its name.
    pub name: String,
    /// The expression.
    pub expression: Expression,
}

/// What conditions came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All hold.
    Met,
    /// This one does not.
    Unmet(String),
    /// None is false, and these went wrong.
    Failed(String),
}

impl Condition {
    /// The conditions of a `matchConditions` list.
    pub fn all_of(list: Option<&Json>, params: bool) -> Vec<Self> {
        let text = |value: &Json, field: &str| {
            value.get(field).and_then(Json::as_str).unwrap_or_default().to_owned()
        };
        let names = Names { params, authorizer: true, patches: false };
        let one = |condition: &Json| Condition {
            name: text(condition, "name"),
            expression: Compiler::new().compile(&text(condition, "expression"), names, &[Type::Bool]),
        };
        list.and_then(Json::as_array).into_iter().flatten().map(one).collect()
    }
}

/// Evaluates conditions in their order.
pub async fn judge(conditions: &[Condition], evaluator: &Evaluator<'_>) -> Verdict {
    let mut budget = MATCH_CONDITIONS_COST_BUDGET;
    let mut wrong = Vec::new();
    for condition in conditions {
        match evaluator.evaluate(&condition.expression, &mut budget).await {
            Err(spent) => return Verdict::Failed(spent.to_string()),
            Ok(Ok(Value::Bool(true))) => {}
            Ok(Ok(Value::Bool(false))) => return Verdict::Unmet(condition.name.clone()),
            Ok(Ok(other)) => wrong.push(format!("unexpected value of type {}", other.type_of())),
            Ok(Err(why)) => wrong.push(why),
        }
    }
    match wrong.as_slice() {
        [] => Verdict::Met,
        [one] => Verdict::Failed(one.clone()),
        all => Verdict::Failed(format!("[{}]", all.join(", "))),
    }
}
