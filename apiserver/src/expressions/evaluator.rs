//! Evaluating the expressions of one policy or webhook for one request.
//!
//! An authorizer may have to ask elsewhere, an evaluation may not wait: it ends with the question, which is asked, and
//! begins anew with the answer. A question costs so much that this happens a few times at most.

use std::{collections::HashMap, sync::Arc};

use cel_engine::{
    Activation, EvalError, Evaluation, Map, PER_CALL_LIMIT, Program, Value,
    admission::{NAMESPACE, REQUEST},
    library::authorizer::{self, Answer, Checker, Question},
};
use parking_lot::Mutex;
use serde_json::Value as Json;

use super::{Expression, Variable};
use crate::{
    auth::{Attributes, Authorizer, Decision, Selected, User},
    object::Object,
};

/// What expressions look at.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// `object`; null when there is none.
    pub object: Option<&'a Object>,
    /// `oldObject`.
    pub old: Option<&'a Object>,
    /// `request`.
    pub request: &'a Json,
    /// `namespaceObject`.
    pub namespace: Option<&'a Object>,
    /// `params`.
    pub params: Option<&'a Object>,
}

/// The budget is spent: no further expression is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("validation failed due to running out of cost budget, no further validation rules will be run")]
pub struct OutOfBudget;

/// Questions of expressions to the authorizer about the user of a request, each asked once.
pub struct Questions {
    authorizer: Arc<dyn Authorizer>,
    attributes: Attributes,
    answers: Mutex<HashMap<Question, Answer>>,
}

impl Questions {
    /// About the user and the resource of a request.
    pub fn new(authorizer: Arc<dyn Authorizer>, attributes: Attributes) -> Self {
        Self { authorizer, attributes, answers: Mutex::default() }
    }

    async fn ask(&self, question: Question) {
        let decision = self.authorizer.authorize(&self.asked(&question)).await;
        let error = match &decision {
            Decision::Failed { error, .. } => Some(error.clone()),
            _ => None,
        };
        let (allowed, reason) = match decision.allowed() {
            Ok(reason) => (true, reason),
            Err(reason) => (false, reason),
        };
        self.answers.lock().insert(question, Answer { allowed, reason, error });
    }

    fn asked(&self, question: &Question) -> Attributes {
        let user = match &question.service_account {
            None => self.attributes.user.clone(),
            Some((namespace, name)) => Arc::new(User {
                name: format!("system:serviceaccount:{namespace}:{name}"),
                groups: vec![
                    "system:serviceaccounts".to_owned(),
                    format!("system:serviceaccounts:{namespace}"),
                    "system:authenticated".to_owned(),
                ],
                ..User::default()
            }),
        };
        Attributes {
            user,
            verb: question.verb.as_str().into(),
            namespace: question.namespace.as_str().into(),
            group: question.group.as_str().into(),
            version: "*".into(),
            resource: question.resource.as_str().into(),
            subresource: question.subresource.as_str().into(),
            name: question.name.as_str().into(),
            is_resource: question.path.is_none(),
            path: question.path.clone().unwrap_or_default(),
            field_selector: Selected::fields(&question.field_selector),
            label_selector: Selected::labels(&question.label_selector),
        }
    }

    /// The question about the request's own resource, still without a verb.
    fn of_request(&self) -> Question {
        let a = &self.attributes;
        Question {
            group: a.group.to_string(),
            resource: a.resource.to_string(),
            subresource: a.subresource.to_string(),
            namespace: a.namespace.to_string(),
            name: a.name.to_string(),
            ..Question::default()
        }
    }
}

impl Checker for Questions {
    fn check(&self, question: &Question) -> Option<Answer> {
        self.answers.lock().get(question).cloned()
    }
}

/// Evaluates over one subject.
pub struct Evaluator<'a> {
    subject: Subject<'a>,
    variables: &'a [Variable],
    questions: Option<Arc<Questions>>,
    known: Mutex<HashMap<&'a str, Result<Value<'a>, EvalError>>>,
    /// What variables cost since the last expression began.
    spent: Mutex<u64>,
}

impl<'a> Evaluator<'a> {
    /// Over a subject, with a policy's variables.
    pub fn new(subject: Subject<'a>, variables: &'a [Variable], questions: Option<Arc<Questions>>) -> Self {
        Self { subject, variables, questions, known: Mutex::default(), spent: Mutex::default() }
    }

    /// The value of an expression, or what went wrong in it; takes its cost from the budget.
    ///
    /// # Errors
    /// When the budget does not suffice.
    pub async fn evaluate(
        &self,
        expression: &Expression,
        budget: &mut u64,
    ) -> Result<Result<Value<'a>, String>, OutOfBudget> {
        let program = match &expression.program {
            Ok(program) => program,
            Err(why) => return Ok(Err(format!("compilation error: {why}"))),
        };
        let Evaluation { result, cost } = self.run(program).await;
        let total = cost.saturating_add(std::mem::take(&mut *self.spent.lock()));
        *budget = budget.checked_sub(total).ok_or(OutOfBudget)?;
        Ok(result.map_err(|e| format!("expression '{}' resulted in error: {e}", expression.source)))
    }

    /// Evaluates until no question is open.
    async fn run(&self, program: &Program) -> Evaluation<'a> {
        loop {
            let spent_before = *self.spent.lock();
            let evaluation = program.eval(self);
            let question = match (&evaluation.result, &self.questions) {
                (Err(EvalError::Unanswered(question)), Some(_)) => (**question).clone(),
                _ => return evaluation,
            };
            // What was spent up to the question is spent again.
            *self.spent.lock() = spent_before;
            if let Some(questions) = &self.questions {
                questions.ask(question).await;
            }
        }
    }

    fn compute(&self, variable: &'a Variable) -> Result<Value<'a>, EvalError> {
        let name = &variable.name;
        let program = match &variable.expression.program {
            Ok(program) => program,
            Err(why) => {
                return Err(EvalError::failed(format!(
                    "composited variable {name:?} fails to compile: {why}"
                )));
            }
        };
        let Evaluation { result, cost } = program.eval_within(self, PER_CALL_LIMIT);
        let mut spent = self.spent.lock();
        *spent = spent.saturating_add(cost);
        drop(spent);
        result.map_err(|error| match error {
            EvalError::Unanswered(_) => error,
            error => EvalError::failed(format!("composited variable {name:?} fails to evaluate: {error}")),
        })
    }
}

fn object(object: Option<&Object>) -> Value<'_> {
    object.map_or(Value::Null, |object| Value::Map(Map::Json(object.as_map(), None)))
}

impl<'a> Activation<'a> for Evaluator<'a> {
    fn variable(&self, name: &str) -> Option<Result<Value<'a>, EvalError>> {
        let questions = |make: fn(&Arc<Questions>) -> Value<'a>| self.questions.as_ref().map(make).map(Ok);
        match name {
            "object" => Some(Ok(object(self.subject.object))),
            "oldObject" => Some(Ok(object(self.subject.old))),
            "params" => Some(Ok(object(self.subject.params))),
            "request" => Some(Value::json_as(self.subject.request, &REQUEST)),
            "namespaceObject" => Some(Ok(match self.subject.namespace {
                Some(namespace) => Value::Map(Map::Json(namespace.as_map(), Some(NAMESPACE.clone()))),
                None => Value::Null,
            })),
            "authorizer" => questions(|q| authorizer::authorizer(q.clone())),
            "authorizer.requestResource" => {
                questions(|q| authorizer::resource_check(q.clone(), q.of_request()))
            }
            _ => None,
        }
    }

    fn field(&self, variable: &str, field: &str) -> Option<Result<Value<'a>, EvalError>> {
        if variable != "variables" {
            return None;
        }
        let variable = self.variables.iter().rev().find(|v| v.name == field)?;
        if let Some(known) = self.known.lock().get(variable.name.as_str()) {
            return Some(known.clone());
        }
        let value = self.compute(variable);
        if !matches!(value, Err(EvalError::Unanswered(_))) {
            self.known.lock().insert(&variable.name, value.clone());
        }
        Some(value)
    }
}
