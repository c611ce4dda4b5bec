//! Questions about permissions: `authorizer.group('apps').resource('deployments').check('create').allowed()`.
//!
//! The library only builds the question; who answers is a [`Checker`]. A checker that must ask elsewhere says
//! `None`, the evaluation ends with [`EvalError::Unanswered`], and the caller evaluates again once it knows.

use std::{any::Any, fmt, sync::Arc};

use super::{Call, Line};
use crate::value::{EvalError, Opaque, Value};

/// The type of the `authorizer` variable.
pub const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
/// The type of the `authorizer.requestResource` variable.
pub const RESOURCE_CHECK: &str = "kubernetes.authorization.ResourceCheck";

pub(super) const FUNCTIONS: &[Line] = &[
    ("authorizer_path", "authorizer :: path(string) -> pathcheck", |c| {
        let path = c.str(1)?;
        if path.trim().is_empty() {
            return Err(EvalError::failed("path must not be empty"));
        }
        step(c, "pathcheck", |q| q.path = Some(path.to_owned()))
    }),
    ("authorizer_group", "authorizer :: group(string) -> groupcheck", |c| {
        let group = c.str(1)?.to_owned();
        step(c, "groupcheck", |q| q.group = group)
    }),
    ("authorizer_serviceaccount", "authorizer :: serviceAccount(string, string) -> authorizer", |c| {
        let (namespace, name) = (c.str(1)?, c.str(2)?);
        if !is_subdomain(name) {
            return Err(EvalError::failed("Invalid service account name"));
        }
        if namespace.len() > 63 || namespace.contains('.') || !is_subdomain(namespace) {
            return Err(EvalError::failed("Invalid service account namespace"));
        }
        step(c, "authorizer", |q| q.service_account = Some((namespace.to_owned(), name.to_owned())))
    }),
    ("groupcheck_resource", "groupcheck :: resource(string) -> resourcecheck", |c| {
        let resource = c.str(1)?;
        if resource.trim().is_empty() {
            return Err(EvalError::failed("resource must not be empty"));
        }
        step(c, "resourcecheck", |q| q.resource = resource.to_owned())
    }),
    ("resourcecheck_subresource", "resourcecheck :: subresource(string) -> resourcecheck", |c| {
        let text = c.str(1)?.to_owned();
        step(c, "resourcecheck", |q| q.subresource = text)
    }),
    ("resourcecheck_namespace", "resourcecheck :: namespace(string) -> resourcecheck", |c| {
        let text = c.str(1)?.to_owned();
        step(c, "resourcecheck", |q| q.namespace = text)
    }),
    ("resourcecheck_name", "resourcecheck :: name(string) -> resourcecheck", |c| {
        let text = c.str(1)?.to_owned();
        step(c, "resourcecheck", |q| q.name = text)
    }),
    ("authorizer_fieldselector", "resourcecheck :: fieldSelector(string) -> resourcecheck", |c| {
        let text = c.str(1)?.to_owned();
        step(c, "resourcecheck", |q| q.field_selector = text)
    }),
    ("authorizer_labelselector", "resourcecheck :: labelSelector(string) -> resourcecheck", |c| {
        let text = c.str(1)?.to_owned();
        step(c, "resourcecheck", |q| q.label_selector = text)
    }),
    ("pathcheck_check", "pathcheck :: check(string) -> decision", check),
    ("resourcecheck_check", "resourcecheck :: check(string) -> decision", check),
    ("decision_errored", "decision :: errored() -> bool", |c| {
        Ok(Value::Bool(c.opaque::<Decided>(0)?.0.error.is_some()))
    }),
    ("decision_error", "decision :: error() -> string", |c| {
        Ok(Value::text(c.opaque::<Decided>(0)?.0.error.as_deref().unwrap_or_default()))
    }),
    ("decision_allowed", "decision :: allowed() -> bool", |c| {
        Ok(Value::Bool(c.opaque::<Decided>(0)?.0.allowed))
    }),
    ("decision_reason", "decision :: reason() -> string", |c| {
        Ok(Value::text(&c.opaque::<Decided>(0)?.0.reason))
    }),
];

/// One question.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Question {
    /// Who, when not the user of the request: namespace and name of a service account.
    pub service_account: Option<(String, String)>,
    /// The path of a question that is not about a resource.
    pub path: Option<String>,
    /// API group.
    pub group: String,
    /// Plural resource.
    pub resource: String,
    /// Subresource, or empty.
    pub subresource: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Name, or empty.
    pub name: String,
    /// Field selector as written.
    pub field_selector: String,
    /// Label selector as written.
    pub label_selector: String,
    /// The verb.
    pub verb: String,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What went wrong in asking.
    pub error: Option<String>,
}

/// Who answers.
pub trait Checker: Send + Sync {
    /// The answer, or `None` when it has to be found out first.
    fn check(&self, question: &Question) -> Option<Answer>;
}

/// The `authorizer` variable.
pub fn authorizer<'a>(checker: Arc<dyn Checker>) -> Value<'a> {
    Value::opaque(Builder { type_name: AUTHORIZER, checker, question: Question::default() })
}

/// The `authorizer.requestResource` variable: a question about the resource of the request.
pub fn resource_check<'a>(checker: Arc<dyn Checker>, question: Question) -> Value<'a> {
    Value::opaque(Builder { type_name: RESOURCE_CHECK, checker, question })
}

/// A question being asked.
struct Builder {
    type_name: &'static str,
    checker: Arc<dyn Checker>,
    question: Question,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(self.type_name).field("question", &self.question).finish()
    }
}

impl Opaque for Builder {
    fn type_name(&self) -> &str {
        self.type_name
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        let other = other.as_any().downcast_ref::<Builder>();
        other.is_some_and(|other| self.type_name == other.type_name && self.question == other.question)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A decision as a value.
#[derive(Debug)]
struct Decided(Answer);

impl Opaque for Decided {
    fn type_name(&self) -> &str {
        "kubernetes.authorization.Decision"
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref::<Decided>().is_some_and(|other| self.0 == other.0)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn step<'a>(
    call: &Call<'_, 'a>,
    next: &str,
    change: impl FnOnce(&mut Question),
) -> Result<Value<'a>, EvalError> {
    let from = call.opaque::<Builder>(0)?;
    let mut question = from.question.clone();
    change(&mut question);
    let known = super::OPAQUE.iter().find(|(short, _)| *short == next);
    let type_name = known.map(|(_, full)| *full).ok_or(EvalError::NoSuchOverload)?;
    Ok(Value::opaque(Builder { type_name, checker: from.checker.clone(), question }))
}

fn check<'a>(call: &Call<'_, 'a>) -> Result<Value<'a>, EvalError> {
    let from = call.opaque::<Builder>(0)?;
    let question = Question { verb: call.str(1)?.to_owned(), ..from.question.clone() };
    match from.checker.check(&question) {
        Some(answer) => Ok(Value::opaque(Decided(answer))),
        None => Err(EvalError::Unanswered(Box::new(question))),
    }
}

fn is_subdomain(text: &str) -> bool {
    let label = |part: &str| {
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = part.as_bytes();
        edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
    };
    text.len() <= 253 && text.split('.').all(label)
}
