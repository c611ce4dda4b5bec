//! ValidatingAdmissionPolicy: every validation of every policy is evaluated; the first denial is the answer.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use cel_engine::{RUNTIME_COST_BUDGET, Type, Value};
use serde_json::{Value as Json, json};

use super::{
    Definition, Policies, Policy, Work, bare,
    binding::{Action, Binding},
    list,
    metrics::{self, ErrorType, Wrong},
    text,
};
use crate::{
    admission::{Configuration, Parts, Plugin, Request, manifests::Kinds},
    audit,
    expressions::{self, Evaluator, Expression, Names, Questions, Subject, Verdict},
    object::Object,
    objects::Kind,
    status::{Cause, Reason, Status},
};

pub(in crate::admission) const NAME: &str = "ValidatingAdmissionPolicy";

pub(in crate::admission) const POLICIES: Kind =
    Kind { group: super::GROUP, resource: "validatingadmissionpolicies" };
pub(in crate::admission) const BINDINGS: Kind =
    Kind { group: super::GROUP, resource: "validatingadmissionpolicybindings" };

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
#[derive(Debug)]
struct Decision {
    /// Why the write is to be denied, if it is.
    denial: Option<Denial>,
    error: ErrorType,
    elapsed: Duration,
}

/// An audit annotation's value; an error denies.
#[derive(Debug)]
struct Noted {
    key: String,
    value: Result<String, Wrong>,
    elapsed: Duration,
}

/// What one evaluation of a policy came to.
#[derive(Debug, Default)]
struct Outcome {
    decisions: Vec<Decision>,
    annotations: Vec<Noted>,
}

impl Policy for ValidatingPolicy {
    fn definition(&self) -> &Definition {
        &self.definition
    }
}

struct Validating {
    policies: Policies<ValidatingPolicy>,
}

const KINDS: Kinds = Kinds {
    plugin: NAME,
    what: "ValidatingAdmissionPolicy",
    binding: Some("ValidatingAdmissionPolicyBinding"),
};

pub(in crate::admission) fn new(
    parts: &Parts,
    configuration: Option<&Configuration>,
) -> Result<Arc<dyn Plugin>, String> {
    let read = |object: &Object| vec![ValidatingPolicy::of(object)];
    let policies = Policies::new(parts, configuration, (POLICIES, BINDINGS), KINDS, read)?;
    Ok(Arc::new(Validating { policies }))
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
#[derive(Debug)]
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
            let Decision { denial, error, elapsed } = decision;
            let count = |action| metrics::validated(self.policy, &self.binding.name, action, error, elapsed);
            let Some(Denial { message, reason }) = denial else {
                if error != ErrorType::None {
                    count(None);
                }
                continue;
            };
            for action in &self.binding.actions {
                count(Some(*action));
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

    fn annotations(&mut self, annotations: Vec<Noted>, notes: &mut Notes) {
        for Noted { key, value, elapsed } in annotations {
            match value {
                Ok(mut value) => {
                    let cut =
                        (0..=MAX_ANNOTATION.min(value.len())).rev().find(|i| value.is_char_boundary(*i));
                    value.truncate(cut.unwrap_or(0));
                    notes.add(key, value);
                }
                Err(wrong) => {
                    let denied = Some(Action::Deny);
                    metrics::validated(self.policy, &self.binding.name, denied, wrong.error, elapsed);
                    self.deny(&wrong.message, Reason::Invalid);
                }
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
            Verdict::Failed(why) => return self.failed(Wrong::other(why)),
        }
        let decisions = match self.decide(subject, questions).await {
            Ok(decisions) => decisions,
            Err(wrong) => return self.failed(wrong),
        };
        match self.annotate(subject, questions).await {
            Ok(annotations) => Outcome { decisions, annotations },
            Err(wrong) => self.failed(wrong),
        }
    }

    fn error(&self, wrong: Wrong, elapsed: Duration) -> Decision {
        let Wrong { message, error } = wrong;
        let denial = Denial { message, reason: Reason::Invalid };
        Decision { denial: (!self.definition.ignores_failures).then_some(denial), error, elapsed }
    }

    fn failed(&self, wrong: Wrong) -> Outcome {
        Outcome { decisions: vec![self.error(wrong, Duration::ZERO)], annotations: Vec::new() }
    }

    async fn decide(&self, subject: Subject<'_>, questions: &Arc<Questions>) -> Result<Vec<Decision>, Wrong> {
        let variables = &self.definition.variables;
        let evaluator = Evaluator::new(subject, variables, Some(questions.clone()));
        let messages = Evaluator::new(subject, variables, None);
        let mut budget = RUNTIME_COST_BUDGET;
        let mut values = Vec::with_capacity(self.validations.len());
        for validation in &self.validations {
            let begun = Instant::now();
            let value = evaluator.evaluate(&validation.expression, &mut budget).await?;
            values.push((value, begun.elapsed()));
        }
        let mut decisions = Vec::with_capacity(values.len());
        for (validation, (value, elapsed)) in self.validations.iter().zip(values) {
            decisions.push(match value {
                Ok(Value::Bool(true)) => Decision { denial: None, error: ErrorType::None, elapsed },
                Ok(_) => match validation.message(&messages, &mut budget).await {
                    Ok(message) => {
                        let denial = Some(Denial { message, reason: validation.reason });
                        Decision { denial, error: ErrorType::Invalid, elapsed }
                    }
                    Err(wrong) => self.error(wrong, elapsed),
                },
                Err(why) => self.error(Wrong::evaluating(&validation.expression, why), elapsed),
            });
        }
        Ok(decisions)
    }

    async fn annotate(&self, subject: Subject<'_>, questions: &Arc<Questions>) -> Result<Vec<Noted>, Wrong> {
        let evaluator = Evaluator::new(subject, &self.definition.variables, Some(questions.clone()));
        let mut budget = RUNTIME_COST_BUDGET;
        let mut made = Vec::new();
        for annotation in &self.annotations {
            let begun = Instant::now();
            let value = match evaluator.evaluate(&annotation.value, &mut budget).await? {
                Ok(Value::Null) => continue,
                Ok(Value::String(text)) => match text.as_str().trim() {
                    "" => continue,
                    text => Ok(text.to_owned()),
                },
                Ok(other) => Err(Wrong::other(format!(
                    "valueExpression '{}' resulted in unsupported return type: {}. Return type must be either string or null.",
                    annotation.value.source,
                    other.type_of()
                ))),
                Err(_) if self.definition.ignores_failures => continue,
                Err(why) => Err(Wrong::evaluating(&annotation.value, why)),
            };
            made.push(Noted { key: annotation.key.clone(), value, elapsed: begun.elapsed() });
        }
        Ok(made)
    }
}

impl Validation {
    /// What is said of a failure: the evaluated message if it is fit to be one, else the fixed one, else the expression.
    async fn message(&self, evaluator: &Evaluator<'_>, budget: &mut u64) -> Result<String, Wrong> {
        if let Some(expression) = &self.message_expression {
            let value = evaluator.evaluate(expression, budget).await;
            let spent = |e| Wrong {
                message: format!("failed messageExpression: {e}"),
                error: ErrorType::OutOfBudget,
            };
            match value.map_err(spent)? {
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
