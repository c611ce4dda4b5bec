//! ValidatingAdmissionPolicy: every validation of every policy is evaluated; the first denial is the answer.

use std::sync::Arc;

use async_trait::async_trait;
use cel_engine::{RUNTIME_COST_BUDGET, Type, Value};
use serde_json::{Value as Json, json};

use super::{
    Definition, Kept, Policies, Policy, Work, bare,
    binding::{Action, Binding},
    list, metrics, text,
};
use crate::{
    admission::{Parts, Plugin, Request},
    audit,
    expressions::{self, Evaluator, Expression, Names, Questions, Subject, Verdict},
    object::Object,
    objects::Kind,
    status::{Cause, Reason, Status},
};

pub(in crate::admission) const NAME: &str = "ValidatingAdmissionPolicy";

const POLICIES: Kind = Kind { group: super::GROUP, resource: "validatingadmissionpolicies" };
const BINDINGS: Kind = Kind { group: super::GROUP, resource: "validatingadmissionpolicybindings" };

/// Bytes of an evaluated message; a longer one is not used.
const MAX_MESSAGE: usize = 5 * 1024;
/// Bytes of an audit annotation's value; a longer one is cut.
const MAX_ANNOTATION: usize = 10 * 1024;

/// A policy, compiled.
struct ValidatingPolicy {
    definition: Definition,
    validations: Vec<Validation>,
    annotations: Vec<Annotation>,
}

struct Validation {
    expression: Expression,
    message: String,
    message_expression: Option<Expression>,
    reason: Reason,
}

struct Annotation {
    key: String,
    value: Expression,
}

/// What a validation came to.
#[derive(Debug, PartialEq)]
enum Decision {
    Admit,
    Deny { message: String, reason: Reason },
}

/// What one evaluation of a policy came to.
#[derive(Debug, Default)]
struct Outcome {
    decisions: Vec<Decision>,
    /// Annotations by key; an error denies.
    annotations: Vec<(String, Result<String, String>)>,
}

impl Policy for ValidatingPolicy {
    fn definition(&self) -> &Definition {
        &self.definition
    }
}

struct Validating {
    policies: Policies<ValidatingPolicy>,
}

pub(in crate::admission) fn new(parts: &Parts) -> Arc<dyn Plugin> {
    let policies = Kept::new(POLICIES, parts.objects.clone(), |object| vec![ValidatingPolicy::of(object)]);
    Arc::new(Validating { policies: Policies::new(parts, policies, BINDINGS) })
}

#[async_trait]
impl Plugin for Validating {
    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let active = self.policies.active(request).await?;
        if active.is_empty() {
            return Ok(());
        }
        let mut view = None;
        let mut denials = Vec::new();
        for (policy, bindings) in active {
            let mut notes = Notes::default();
            for work in self.policies.gather(&policy.definition, &bindings, request).await {
                let (binding, version, params) = match work {
                    Work::Misconfigured { binding, why } => {
                        denials.extend(misconfigured(&policy.definition, binding.as_deref(), &why));
                        continue;
                    }
                    Work::Evaluate { binding, version, params } => (binding, version, params),
                };
                if view.is_none() {
                    view = Some(self.policies.view(request).await?);
                }
                let Some(view) = &mut view else { continue };
                if let Err(status) = view.at(request, &version).await {
                    let why = format!("failed to convert object version: {}", status.message);
                    denials.extend(misconfigured(&policy.definition, Some(&binding), &why));
                    continue;
                }
                for param in &params {
                    let Some(subject) = view.subject(&version, param.as_deref()) else { continue };
                    let outcome = policy.evaluate(subject, &view.questions).await;
                    let mut report =
                        Report { policy: &policy.definition.name, binding: &binding, denials: &mut denials };
                    report.decisions(outcome.decisions, request.warnings);
                    report.annotations(outcome.annotations, &mut notes);
                }
            }
            notes.publish(&policy.definition.name);
        }
        match denials.into_iter().next() {
            Some(denial) => Err(refusal(request, denial)),
            None => Ok(()),
        }
    }
}

/// Why a write is refused.
struct Denial {
    message: String,
    reason: Reason,
}

/// A denial of a policy that cannot be evaluated, unless it ignores failures.
fn misconfigured(policy: &Definition, binding: Option<&Binding>, why: &str) -> Option<Denial> {
    let name = &policy.name;
    let message = match binding {
        Some(binding) => format!(
            "{NAME} '{name}' with binding '{}' denied request: failed to configure binding: {why}",
            binding.name
        ),
        None => format!("{NAME} '{name}' denied request: failed to configure policy: {why}"),
    };
    (!policy.ignores_failures).then_some(Denial { message, reason: Reason::Invalid })
}

fn refusal(request: &Request<'_>, denial: Denial) -> Status {
    let mut status = request.forbid(&denial.message);
    status.code = match denial.reason {
        Reason::Unauthorized => 401,
        Reason::Forbidden => 403,
        Reason::RequestEntityTooLarge => 413,
        _ => 422,
    };
    status.reason = denial.reason;
    if let Some(details) = &mut status.details {
        details.causes.push(Cause { kind: String::new(), message: denial.message, field: String::new() });
    }
    status
}

/// Audit annotations of a policy: values of all bindings, each once.
#[derive(Default)]
struct Notes(Vec<(String, Vec<String>)>);

impl Notes {
    fn add(&mut self, key: String, value: String) {
        match self.0.iter_mut().find(|(known, _)| *known == key) {
            Some((_, values)) if values.contains(&value) => {}
            Some((_, values)) => values.push(value),
            None => self.0.push((key, vec![value])),
        }
    }

    fn publish(self, policy: &str) {
        for (key, values) in self.0 {
            audit::annotate(&format!("{policy}/{key}"), values.join(", "));
        }
    }
}

/// Does what a binding says with what a policy decided.
struct Report<'r> {
    policy: &'r str,
    binding: &'r Binding,
    denials: &'r mut Vec<Denial>,
}

impl Report<'_> {
    fn decisions(&mut self, decisions: Vec<Decision>, warnings: &mut Vec<String>) {
        for (index, decision) in decisions.into_iter().enumerate() {
            let Decision::Deny { message, reason } = decision else { continue };
            for action in &self.binding.actions {
                metrics::validated(self.policy, &self.binding.name, *action);
                match action {
                    Action::Deny => self.deny(&message, reason),
                    Action::Warn => {
                        let warning = format!(
                            "Validation failed for {NAME} '{}' with binding '{}': {message}",
                            self.policy, self.binding.name
                        );
                        if !warnings.contains(&warning) {
                            warnings.push(warning);
                        }
                    }
                    Action::Audit => self.note(index, &message),
                }
            }
        }
    }

    fn deny(&mut self, message: &str, reason: Reason) {
        let message = format!(
            "{NAME} '{}' with binding '{}' denied request: {message}",
            self.policy, self.binding.name
        );
        self.denials.push(Denial { message, reason });
    }

    fn note(&self, index: usize, message: &str) {
        let actions: Vec<&str> = self.binding.actions.iter().map(|a| a.word()).collect();
        let value = json!([{
            "message": message,
            "policy": self.binding.policy,
            "binding": self.binding.name,
            "expressionIndex": index,
            "validationActions": actions,
        }]);
        audit::annotate("validation.policy.admission.k8s.io/validation_failure", value.to_string());
    }

    fn annotations(&mut self, annotations: Vec<(String, Result<String, String>)>, notes: &mut Notes) {
        for (key, value) in annotations {
            match value {
                Ok(mut value) => {
                    let cut =
                        (0..=MAX_ANNOTATION.min(value.len())).rev().find(|i| value.is_char_boundary(*i));
                    value.truncate(cut.unwrap_or(0));
                    notes.add(key, value);
                }
                Err(why) => self.deny(&why, Reason::Invalid),
            }
        }
    }
}

impl ValidatingPolicy {
    fn of(policy: &Object) -> Self {
        let (mut definition, compiler, names) = Definition::read(policy);
        let plain = Names { authorizer: false, ..names };
        let spec = policy.get("spec").unwrap_or(&Json::Null);
        let validation = |validation: &Json| {
            let message = text(validation, "messageExpression");
            Validation {
                expression: compiler.compile(text(validation, "expression"), names, &[Type::Bool]),
                message: text(validation, "message").trim().to_owned(),
                message_expression: (!message.is_empty())
                    .then(|| compiler.compile(message, plain, &[Type::String])),
                reason: match text(validation, "reason") {
                    "Unauthorized" => Reason::Unauthorized,
                    "Forbidden" => Reason::Forbidden,
                    "RequestEntityTooLarge" => Reason::RequestEntityTooLarge,
                    _ => Reason::Invalid,
                },
            }
        };
        let annotation = |annotation: &Json| Annotation {
            key: text(annotation, "key").to_owned(),
            value: compiler.compile(text(annotation, "valueExpression"), names, &[Type::String, Type::Null]),
        };
        let validations = list(spec, "validations").map(validation).collect();
        let annotations = list(spec, "auditAnnotations").map(annotation).collect();
        definition.variables = compiler.into_variables();
        Self { definition, validations, annotations }
    }

    /// Evaluates everything over one subject.
    async fn evaluate(&self, subject: Subject<'_>, questions: &Arc<Questions>) -> Outcome {
        let variables = &self.definition.variables;
        let conditions = Evaluator::new(bare(subject), variables, Some(questions.clone()));
        match expressions::judge(&self.definition.conditions, &conditions).await {
            Verdict::Met => {}
            Verdict::Unmet(_) => return Outcome::default(),
            // A condition that failed under `Ignore` is one that does not hold.
            Verdict::Failed(_) if self.definition.ignores_failures => return Outcome::default(),
            Verdict::Failed(why) => return self.failed(why),
        }
        let decisions = match self.decide(subject, questions).await {
            Ok(decisions) => decisions,
            Err(why) => return self.failed(why),
        };
        match self.annotate(subject, questions).await {
            Ok(annotations) => Outcome { decisions, annotations },
            Err(why) => self.failed(why),
        }
    }

    fn error(&self, message: String) -> Decision {
        match self.definition.ignores_failures {
            true => Decision::Admit,
            false => Decision::Deny { message, reason: Reason::Invalid },
        }
    }

    fn failed(&self, why: String) -> Outcome {
        Outcome { decisions: vec![self.error(why)], annotations: Vec::new() }
    }

    async fn decide(
        &self,
        subject: Subject<'_>,
        questions: &Arc<Questions>,
    ) -> Result<Vec<Decision>, String> {
        let variables = &self.definition.variables;
        let evaluator = Evaluator::new(subject, variables, Some(questions.clone()));
        let messages = Evaluator::new(subject, variables, None);
        let mut budget = RUNTIME_COST_BUDGET;
        let mut values = Vec::with_capacity(self.validations.len());
        for validation in &self.validations {
            values.push(
                evaluator.evaluate(&validation.expression, &mut budget).await.map_err(|e| e.to_string())?,
            );
        }
        let mut decisions = Vec::with_capacity(values.len());
        for (validation, value) in self.validations.iter().zip(values) {
            decisions.push(match value {
                Ok(Value::Bool(true)) => Decision::Admit,
                Ok(_) => match validation.message(&messages, &mut budget).await {
                    Ok(message) => Decision::Deny { message, reason: validation.reason },
                    Err(why) => self.error(why),
                },
                Err(why) => self.error(why),
            });
        }
        Ok(decisions)
    }

    async fn annotate(
        &self,
        subject: Subject<'_>,
        questions: &Arc<Questions>,
    ) -> Result<Vec<(String, Result<String, String>)>, String> {
        let evaluator = Evaluator::new(subject, &self.definition.variables, Some(questions.clone()));
        let mut budget = RUNTIME_COST_BUDGET;
        let mut made = Vec::new();
        for annotation in &self.annotations {
            let value =
                evaluator.evaluate(&annotation.value, &mut budget).await.map_err(|e| e.to_string())?;
            let value = match value {
                Ok(Value::Null) => continue,
                Ok(Value::String(text)) => match text.as_str().trim() {
                    "" => continue,
                    text => Ok(text.to_owned()),
                },
                Ok(other) => Err(format!(
                    "valueExpression '{}' resulted in unsupported return type: {}. Return type must be either string or null.",
                    annotation.value.source,
                    other.type_of()
                )),
                Err(_) if self.definition.ignores_failures => continue,
                Err(why) => Err(why),
            };
            made.push((annotation.key.clone(), value));
        }
        Ok(made)
    }
}

impl Validation {
    /// What is said of a failure: the evaluated message if it is fit to be one, else the fixed one, else the expression.
    async fn message(&self, evaluator: &Evaluator<'_>, budget: &mut u64) -> Result<String, String> {
        if let Some(expression) = &self.message_expression {
            let value = evaluator.evaluate(expression, budget).await;
            match value.map_err(|e| format!("failed messageExpression: {e}"))? {
                Ok(Value::String(text)) => {
                    let text = text.as_str().trim();
                    if !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n') {
                        return Ok(text.to_owned());
                    }
                }
                Ok(_) => {}
                Err(why) => tracing::debug!(why, "error while evaluating messageExpression"),
            }
        }
        if self.message.is_empty() {
            return Ok(format!("failed expression: {}", self.expression.source.trim()));
        }
        Ok(self.message.clone())
    }
}
