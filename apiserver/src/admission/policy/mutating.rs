//! MutatingAdmissionPolicy: mutations of policies are made one after the other, each seeing what those before it did.

use std::{sync::Arc, time::Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use cel_engine::{List, Message, RUNTIME_COST_BUDGET, Type, Value};
use serde_json::{Map, Value as Json};

use super::{
    Definition, Policies, Policy, View, Work, bare,
    binding::Binding,
    list,
    metrics::{self, ErrorType, Wrong},
    text,
};
use crate::{
    admission::{
        Configuration, Parts, Plugin, Request,
        manifests::Kinds,
        webhook::{
            mutating::{decoded, own},
            review,
        },
    },
    apply::{Form, overlay},
    expressions::{self, Evaluator, Expression, Names, Verdict, json_patch_type, object_type},
    object::Object,
    objects::Kind,
    patch::JsonPatch,
    registry::{Resource, catalog::Catalog},
    schema,
    status::{Cause, Details, Reason, Status},
};

pub(in crate::admission) const NAME: &str = "MutatingAdmissionPolicy";

pub(in crate::admission) const POLICIES: Kind =
    Kind { group: super::GROUP, resource: "mutatingadmissionpolicies" };
pub(in crate::admission) const BINDINGS: Kind =
    Kind { group: super::GROUP, resource: "mutatingadmissionpolicybindings" };

/// A policy, compiled.
struct MutatingPolicy {
    definition: Definition,
    mutations: Vec<Mutation>,
    /// `reinvocationPolicy: IfNeeded`.
    if_needed: bool,
}

/// One change.
enum Mutation {
    /// An object with the fields that are to be so.
    Apply(Expression),
    /// Operations.
    Patch(Expression),
}

/// Why a policy made no change.
struct Failure {
    message: String,
    reason: Option<Reason>,
}

impl Failure {
    fn invalid(message: impl Into<String>) -> Self {
        Self { message: message.into(), reason: Some(Reason::Invalid) }
    }
}

impl Policy for MutatingPolicy {
    fn definition(&self) -> &Definition {
        &self.definition
    }
}

impl MutatingPolicy {
    fn of(policy: &Object) -> Self {
        let (mut definition, compiler, names) = Definition::read(policy);
        let names = Names { patches: true, ..names };
        let spec = policy.get("spec").unwrap_or(&Json::Null);
        let source = |mutation: &Json, member: &str| {
            text(mutation.get(member).unwrap_or(&Json::Null), "expression").to_owned()
        };
        let mutation = |mutation: &Json| match text(mutation, "patchType") {
            "JSONPatch" => {
                let types = [Type::list(json_patch_type())];
                Mutation::Patch(compiler.compile(&source(mutation, "jsonPatch"), names, &types))
            }
            _ => Mutation::Apply(compiler.compile(
                &source(mutation, "applyConfiguration"),
                names,
                &[object_type()],
            )),
        };
        let mutations = list(spec, "mutations").map(mutation).collect();
        definition.variables = compiler.into_variables();
        Self { definition, mutations, if_needed: text(spec, "reinvocationPolicy") == "IfNeeded" }
    }
}

struct Mutating {
    policies: Policies<MutatingPolicy>,
    /// Where the schemas of custom objects are found.
    catalog: Arc<ArcSwap<Catalog>>,
}

const KINDS: Kinds =
    Kinds { plugin: NAME, what: "MutatingAdmissionPolicy", binding: Some("MutatingAdmissionPolicyBinding") };

pub(in crate::admission) fn new(
    parts: &Parts,
    configuration: Option<&Configuration>,
) -> Result<Arc<dyn Plugin>, String> {
    let read = |object: &Object| vec![MutatingPolicy::of(object)];
    let policies = Policies::new(parts, configuration, (POLICIES, BINDINGS), KINDS, read)?;
    Ok(Arc::new(Mutating { policies, catalog: parts.catalog.clone() }))
}

/// One evaluation of a policy: with a binding and one of its parameters.
struct Invocation {
    policy: Arc<MutatingPolicy>,
    binding: Arc<Binding>,
    version: String,
    params: Option<Arc<Object>>,
}

#[async_trait]
impl Plugin for Mutating {
    async fn admit(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let active = self.policies.active(request).await?;
        let mut failures = Vec::new();
        let mut invocations = Vec::new();
        for (policy, bindings) in active {
            for work in self.policies.gather(&policy.definition, &bindings, request).await {
                match work {
                    Work::Misconfigured { binding, why } => {
                        let what = if binding.is_some() { "binding" } else { "policy" };
                        let message = format!("failed to configure {what}: {why}");
                        failures.extend(told(&policy, binding.as_deref(), Failure { message, reason: None }));
                    }
                    Work::Evaluate { binding, version, params } => {
                        invocations.extend(params.into_iter().map(|params| Invocation {
                            policy: policy.clone(),
                            binding: binding.clone(),
                            version: version.clone(),
                            params,
                        }));
                    }
                }
            }
        }
        if !invocations.is_empty() {
            request.reinvocation.begin(NAME, request.object.as_deref());
            for invocation in &invocations {
                if let Err(failure) = self.invoke(invocation, request).await? {
                    failures.extend(told(&invocation.policy, Some(&invocation.binding), failure));
                }
            }
            request.reinvocation.end(NAME, request.object.as_deref());
        }
        if failures.is_empty() { Ok(()) } else { Err(refusal(request, failures)) }
    }
}

/// A failure in upstream's words, unless the policy ignores failures.
fn told(policy: &MutatingPolicy, binding: Option<&Binding>, failure: Failure) -> Option<Failure> {
    let Definition { name, ignores_failures, .. } = &policy.definition;
    let message = match binding {
        Some(binding) => {
            format!("policy '{name}' with binding '{}' denied request: {}", binding.name, failure.message)
        }
        None => format!("policy {name:?} denied request: {}", failure.message),
    };
    (!ignores_failures).then_some(Failure { message, ..failure })
}

fn refusal(request: &Request<'_>, failures: Vec<Failure>) -> Status {
    let mut status = request.forbid("admission request denied by policy");
    if let Some(first) = failures.first() {
        status.message.clone_from(&first.message);
        status.reason = first.reason.unwrap_or(status.reason);
    }
    let cause =
        |failure: Failure| Cause { kind: String::new(), message: failure.message, field: String::new() };
    let details = status.details.get_or_insert_with(|| Box::new(Details::default()));
    details.causes.extend(failures.into_iter().map(cause));
    status
}

impl Mutating {
    /// Makes the changes of one policy.
    async fn invoke(
        &self,
        invocation: &Invocation,
        request: &mut Request<'_>,
    ) -> Result<Result<(), Failure>, Status> {
        let policy = &invocation.policy;
        let view = self.policies.view(request).await?;
        match self.judge(invocation, &view, request).await? {
            Verdict::Met => {}
            Verdict::Unmet(_) => return Ok(Ok(())),
            Verdict::Failed(_) if policy.definition.ignores_failures => return Ok(Ok(())),
            Verdict::Failed(why) => return Ok(Err(Failure::invalid(why))),
        }
        let params = invocation
            .params
            .as_deref()
            .map_or_else(String::new, |p| format!("{}/{}", p.namespace(), p.name()));
        let member = format!("{}/{}/{params}", policy.definition.name, invocation.binding.name);
        if !request.reinvocation.calls(NAME, &member) {
            return Ok(Ok(()));
        }
        let before = request.object.as_deref().cloned();
        let mut outcome = Ok(());
        for mutation in &policy.mutations {
            if request.object.is_none() {
                break;
            }
            let begun = Instant::now();
            let made = self.mutate(mutation, invocation, &view, request).await?;
            let error = made.as_ref().err().map_or(ErrorType::None, |wrong| wrong.error);
            metrics::mutated(&policy.definition.name, &invocation.binding.name, error, begun.elapsed());
            outcome = outcome.and(made.map_err(|wrong| Failure::invalid(wrong.message)));
        }
        let changed = before.as_ref() != request.object.as_deref();
        request.reinvocation.called(NAME, &member, changed, policy.if_needed);
        Ok(outcome)
    }

    /// Whether the policy's conditions hold.
    async fn judge(
        &self,
        invocation: &Invocation,
        view: &View,
        request: &Request<'_>,
    ) -> Result<Verdict, Status> {
        let definition = &invocation.policy.definition;
        if definition.conditions.is_empty() {
            return Ok(Verdict::Met);
        }
        let seen = view.afresh(request, &invocation.version).await?;
        let subject = bare(seen.subject(view, invocation.params.as_deref()));
        let evaluator = Evaluator::new(subject, &definition.variables, Some(view.questions.clone()));
        Ok(expressions::judge(&definition.conditions, &evaluator).await)
    }

    /// The kind of an object of the resource written, in the object's version.
    fn kind_of(&self, object: &Object, request: &Request<'_>) -> Option<Arc<Resource>> {
        let (group, version) = object.api_version().split_once('/').unwrap_or(("", object.api_version()));
        let found = self.catalog.load().find(group, version, request.resource.plural).cloned();
        found.filter(|resource| resource.kind == object.kind())
    }

    /// Makes one change.
    async fn mutate(
        &self,
        mutation: &Mutation,
        invocation: &Invocation,
        view: &View,
        request: &mut Request<'_>,
    ) -> Result<Result<(), Wrong>, Status> {
        let seen = view.afresh(request, &invocation.version).await?;
        let subject = seen.subject(view, invocation.params.as_deref());
        let Some(object) = subject.object else { return Ok(Ok(())) };
        let (Mutation::Apply(expression) | Mutation::Patch(expression)) = mutation;
        let variables = &invocation.policy.definition.variables;
        let evaluator = Evaluator::new(subject, variables, Some(view.questions.clone()));
        let mut budget = RUNTIME_COST_BUDGET;
        let value = match evaluator.evaluate(expression, &mut budget).await {
            Ok(Ok(value)) => value,
            Ok(Err(why)) => return Ok(Err(Wrong::evaluating(expression, why))),
            Err(spent) => return Ok(Err(spent.into())),
        };
        let changed = match mutation {
            Mutation::Apply(_) => applied(&value, object, self.kind_of(object, request).as_deref()),
            Mutation::Patch(_) => patched(&value, object),
        };
        drop(value);
        drop(evaluator);
        let changed = match changed {
            Ok(Some(changed)) => changed,
            Ok(None) => return Ok(Ok(())),
            Err(why) => return Ok(Err(Wrong::other(why))),
        };
        let (api_version, kind, is_own) = (seen.shown.api_version, seen.shown.kind, seen.shown.is_own);
        let after = decoded(changed, &api_version, &kind).map_err(|s| Status::internal(s.message))?;
        let (resource, working) = (request.resource, review::working(request));
        if let Some(object) = request.object.as_deref_mut() {
            *object = if is_own { own(after, &api_version, resource, &working).await? } else { after };
        }
        Ok(Ok(()))
    }
}

/// The object with an apply configuration in it.
fn applied(value: &Value<'_>, object: &Object, kind: Option<&Resource>) -> Result<Option<Json>, String> {
    let Some(Json::Object(mut configuration)) = value.to_json() else {
        return Err(format!(
            "unsupported return type from ApplyConfiguration expression: {}",
            value.type_of()
        ));
    };
    configuration.insert("apiVersion".to_owned(), object.api_version().into());
    configuration.insert("kind".to_owned(), object.kind().into());
    let form = match kind.and_then(|kind| kind.strategy.custom()) {
        Some(custom) => custom.form(),
        None => Form::of_object(schema::type_of(object.api_version(), object.kind())),
    };
    let made = overlay(&object.to_value(), &Json::Object(configuration), form);
    made.map(Some).map_err(|why| format!("error applying patch: {why}"))
}

/// The object after the operations; `None` when one that tests says no.
fn patched(value: &Value<'_>, object: &Object) -> Result<Option<Json>, String> {
    let Value::List(operations) = value else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array".to_owned());
    };
    let operations = operations_of(operations)?;
    let mut result = object.to_value();
    for operation in operations {
        let tests = operation.get("op").and_then(Json::as_str) == Some("test");
        let sent = Json::Array(vec![operation]).to_string();
        let (patch, _) =
            JsonPatch::parse(sent.as_bytes()).map_err(|s| format!("JSON Patch: {}", s.message))?;
        match patch.apply(&mut result) {
            Ok(()) => {}
            Err(_) if tests => return Ok(None),
            Err(_) => return Err(format!("JSON Patch: the operation {sent} does not apply")),
        }
    }
    Ok(Some(result))
}

fn operations_of(list: &List<'_>) -> Result<Vec<Json>, String> {
    let operation = |value: Value<'_>| {
        let Value::Object(message) = &value else {
            return Err(format!(
                "type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch, got element of {}",
                value.type_of()
            ));
        };
        operation_of(message)
    };
    list.items().map_err(|e| e.to_string())?.into_iter().map(operation).collect()
}

fn operation_of(message: &Message<'_>) -> Result<Json, String> {
    let mut operation = Map::new();
    for (name, value) in &message.fields {
        let json = value
            .to_json()
            .ok_or("JSONPath valueExpression evaluated to a type that could not marshal to JSON")?;
        if name != "from" || json.as_str().is_some_and(|from| !from.is_empty()) {
            operation.insert(name.clone(), json);
        }
    }
    Ok(Json::Object(operation))
}
