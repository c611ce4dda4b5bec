//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy: expressions of the cluster's owner refuse or change writes.
//!
//! ```text
//! policies, bindings ──→ compiled, kept ──gather──→ (policy, binding, version, params)… ──evaluate──→ decisions (pure)
//! ```
//! A policy says what, a binding says where and with which parameters. Contract: admissionregistration.k8s.io/v1;
//! upstream's `plugin/policy`.

use std::{collections::HashMap, sync::Arc};

use serde_json::Value;

use super::{
    Parts, Request,
    kept::Kept,
    webhook::{
        self, matching,
        review::{self, Shown},
    },
};
use crate::{
    auth::Authorizer,
    expressions::{Compiler, Condition, Names, Questions, Subject, Variable},
    object::Object,
    objects::{Kind, NAMESPACES, Objects},
    status::Status,
};

mod binding;
mod constraints;
mod metrics;
pub(super) mod mutating;
mod params;
#[cfg(test)]
mod tests;
pub(super) mod validating;

use binding::Binding;
use constraints::Constraints;
use params::{ParamKind, Params};

const GROUP: &str = "admissionregistration.k8s.io";

/// What both kinds of policies have.
struct Definition {
    name: String,
    /// What it looks at; `None` when it does not say.
    constraints: Option<Constraints>,
    param_kind: Option<ParamKind>,
    conditions: Vec<Condition>,
    variables: Vec<Variable>,
    /// `failurePolicy: Ignore`.
    ignores_failures: bool,
}

/// A policy of either kind.
trait Policy: Send + Sync {
    fn definition(&self) -> &Definition;
}

/// The policies of a kind with their bindings.
struct Policies<P> {
    policies: Kept<P>,
    bindings: Kept<Binding>,
    objects: Arc<dyn Objects>,
    authorizer: Arc<dyn Authorizer>,
    params: Params,
}

/// What a policy has to do with a write, for one of its bindings.
enum Work {
    /// To be evaluated, once for each of the parameters (`None`: without).
    Evaluate { binding: Arc<Binding>, version: String, params: Vec<Option<Arc<Object>>> },
    /// It cannot be evaluated; what follows is up to the failure policy.
    Misconfigured { binding: Option<Arc<Binding>>, why: String },
}

/// What a write looks like to the policies: once for each version, the namespace once.
struct View {
    versions: HashMap<String, Seen>,
    namespace: Option<Arc<Object>>,
    questions: Arc<Questions>,
}

impl Definition {
    /// Reads a policy's spec; the compiler knows its variables afterwards.
    fn read(policy: &Object) -> (Self, Compiler, Names) {
        let spec = policy.get("spec").unwrap_or(&Value::Null);
        let param_kind = spec.get("paramKind").filter(|k| k.is_object()).map(ParamKind::of);
        let names = Names { params: param_kind.is_some(), authorizer: true, patches: false };
        let mut compiler = Compiler::new();
        for variable in list(spec, "variables") {
            let (name, source) = (text(variable, "name"), text(variable, "expression"));
            if let Err(why) = compiler.add(name, source, names) {
                tracing::warn!(policy = policy.name(), variable = name, why, "a variable does not compile");
            }
        }
        let definition = Self {
            name: policy.name().to_owned(),
            constraints: spec.get("matchConstraints").filter(|c| c.is_object()).map(Constraints::of),
            conditions: Condition::all_of(spec.get("matchConditions"), names.params),
            variables: Vec::new(),
            param_kind,
            ignores_failures: text(spec, "failurePolicy") == "Ignore",
        };
        (definition, compiler, names)
    }
}

impl<P: Policy> Policies<P> {
    fn new(parts: &Parts, policies: Kept<P>, bindings: Kind) -> Self {
        Self {
            policies,
            bindings: Kept::new(bindings, parts.objects.clone(), |object| vec![Binding::of(object)]),
            objects: parts.objects.clone(),
            authorizer: parts.authorizer.clone(),
            params: Params::new(parts),
        }
    }

    /// Policies that are bound, each with its bindings, in the order of their names; none for exempt writes.
    async fn active(&self, request: &Request<'_>) -> Result<Vec<(Arc<P>, Vec<Arc<Binding>>)>, Status> {
        let bindings = self.bindings.all().await?;
        if bindings.is_empty() || webhook::is_exempt(request) {
            return Ok(Vec::new());
        }
        let of = |policy: &Arc<P>| -> Vec<Arc<Binding>> {
            bindings.iter().filter(|b| b.policy == policy.definition().name).cloned().collect()
        };
        let policies = self.policies.all().await?;
        let bound = policies.iter().map(|policy| (policy.clone(), of(policy)));
        Ok(bound.filter(|(_, bindings)| !bindings.is_empty()).collect())
    }

    /// What a policy has to do with a write.
    async fn gather(
        &self,
        policy: &Definition,
        bindings: &[Arc<Binding>],
        request: &Request<'_>,
    ) -> Vec<Work> {
        let wrong = |binding, why: String| Work::Misconfigured { binding, why };
        let Some(constraints) = &policy.constraints else {
            return vec![wrong(None, "policy contained no match constraints, a required field".to_owned())];
        };
        let version = match constraints.takes(request, &*self.objects).await {
            Ok(Some(version)) => version,
            Ok(None) => return Vec::new(),
            Err(status) => return vec![wrong(None, status.message)],
        };
        if let Some(kind) = &policy.param_kind
            && !self.params.knows(kind)
        {
            return vec![wrong(None, format!("failed to find resource referenced by paramKind: '{kind}'"))];
        }
        let mut work = Vec::new();
        for binding in bindings {
            let taken = match &binding.constraints {
                Some(constraints) => constraints.takes(request, &*self.objects).await,
                None => Ok(Some(String::new())),
            };
            match taken {
                Ok(None) => continue,
                Ok(Some(_)) => {}
                Err(status) => {
                    work.push(wrong(Some(binding.clone()), status.message));
                    continue;
                }
            }
            let namespace = matching::namespace(request);
            match self.params.collect(policy.param_kind.as_ref(), binding, namespace).await {
                Ok(params) => {
                    work.push(Work::Evaluate { binding: binding.clone(), version: version.clone(), params });
                }
                Err(why) => work.push(wrong(Some(binding.clone()), why)),
            }
        }
        work
    }

    /// The view of a write before anything was looked at.
    async fn view(&self, request: &Request<'_>) -> Result<View, Status> {
        let namespace = &request.attributes.namespace;
        let namespace = match namespace.is_empty() || request.is_any(NAMESPACES) {
            true => None,
            false => Some(matching::namespace_object(namespace, &*self.objects).await?),
        };
        let questions = Questions::new(self.authorizer.clone(), request.attributes.clone());
        Ok(View { versions: HashMap::new(), namespace, questions: Arc::new(questions) })
    }
}

impl View {
    /// What a write looks like in a version.
    ///
    /// # Errors
    /// When it does not convert.
    async fn at(&mut self, request: &Request<'_>, version: &str) -> Result<(), Status> {
        if !self.versions.contains_key(version) {
            let seen = self.afresh(request, version).await?;
            self.versions.insert(version.to_owned(), seen);
        }
        Ok(())
    }

    /// What expressions look at; the version must have been made.
    fn subject<'v>(&'v self, version: &str, params: Option<&'v Object>) -> Option<Subject<'v>> {
        self.versions.get(version).map(|seen| seen.subject(self, params))
    }
}

/// The objects of a write as they are now, in one version.
struct Seen {
    shown: Shown,
    about: Value,
}

impl View {
    /// What a write looks like now; its object may have changed since it was looked at before.
    ///
    /// # Errors
    /// When it does not convert.
    async fn afresh(&self, request: &Request<'_>, version: &str) -> Result<Seen, Status> {
        let shown = review::show(request, version).await?;
        let about = review::about(request, &shown, version);
        Ok(Seen { shown, about })
    }
}

impl Seen {
    /// What expressions look at.
    fn subject<'v>(&'v self, view: &'v View, params: Option<&'v Object>) -> Subject<'v> {
        Subject {
            object: self.shown.object.as_ref(),
            old: self.shown.old.as_ref(),
            request: &self.about,
            namespace: view.namespace.as_deref(),
            params,
        }
    }
}

/// A subject as conditions see it: without namespace.
fn bare(subject: Subject<'_>) -> Subject<'_> {
    Subject { namespace: None, ..subject }
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn list<'v>(value: &'v Value, field: &str) -> impl Iterator<Item = &'v Value> + use<'v> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}
