//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy: expressions of the cluster's owner refuse or change writes.
//!
//! ```text
//! policies, bindings ──→ compiled, kept ──gather──→ (policy, binding, version, params)… ──evaluate──→ decisions (pure)
//! ```
//! A policy says what, a binding says where and with which parameters. Contract: admissionregistration.k8s.io/v1;
//! upstream's `plugin/policy`.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use serde::Deserialize;
use serde_json::Value;

use super::{
    Configuration, Parts, Request,
    kept::Kept,
    manifests::Kinds,
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
pub(in crate::admission) mod params;
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
    stored: Bound<P>,
    /// Those of files, which see more.
    files: Option<Bound<P>>,
    objects: Arc<dyn Objects>,
    authorizer: Arc<dyn Authorizer>,
    params: Params,
}

/// Policies and what binds them, of one place.
struct Bound<P> {
    policies: Kept<P>,
    bindings: Kept<Binding>,
}

/// What a configuration says.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct File {
    /// Where policies and bindings stand in files.
    static_manifests_dir: PathBuf,
}

/// What a policy has to do with a write, for one of its bindings.
enum Work {
    /// To be evaluated, once for each of the parameters (`None`: without).
    Evaluate { binding: Arc<Binding>, version: String, params: Vec<Option<Arc<Object>>> },
    /// It cannot be evaluated; what follows is up to the failure policy.
    Misconfigured { binding: Option<Arc<Binding>>, why: String },
}

/// Policies with their bindings.
type Active<P> = Vec<(Arc<P>, Vec<Arc<Binding>>)>;

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

impl<P: Policy> Bound<P> {
    /// Policies that are bound, each with its bindings, in the order of their names.
    async fn all(&self) -> Result<Active<P>, Status> {
        let bindings = self.bindings.all().await?;
        if bindings.is_empty() {
            return Ok(Vec::new());
        }
        let of = |policy: &Arc<P>| -> Vec<Arc<Binding>> {
            bindings.iter().filter(|b| b.policy == policy.definition().name).cloned().collect()
        };
        let policies = self.policies.all().await?;
        let bound = policies.iter().map(|policy| (policy.clone(), of(policy)));
        Ok(bound.filter(|(_, bindings)| !bindings.is_empty()).collect())
    }
}

impl<P: Policy> Policies<P> {
    /// Of `(policies, bindings)`, stored and in the directory that a configuration names.
    ///
    /// # Errors
    /// In words, when the configuration or what is in the directory is of no use.
    fn new(
        parts: &Parts,
        configuration: Option<&Configuration>,
        stored: (Kind, Kind),
        kinds: Kinds,
        read: fn(&Object) -> Vec<P>,
    ) -> Result<Self, String> {
        const VERSIONS: &[&str] = &["apiserver.config.k8s.io/v1"];
        let file = configuration.map(|one| one.decode(VERSIONS, &format!("{}Configuration", kinds.what)));
        let file: File = file.transpose().map_err(|error| error.to_string())?.unwrap_or_default();
        let files = parts.directories.read(kinds, &file.static_manifests_dir, parts.gates)?;
        let of_binding = |object: &Object| vec![Binding::of(object)];
        let files = files.zip(kinds.binding).map(|(files, binding)| Bound {
            policies: Kept::in_files(kinds.what, files.clone(), read),
            bindings: Kept::in_files(binding, files, of_binding),
        });
        let stored = Bound {
            policies: Kept::new(stored.0, parts.objects.clone(), read),
            bindings: Kept::new(stored.1, parts.objects.clone(), of_binding),
        };
        Ok(Self {
            stored,
            files,
            objects: parts.objects.clone(),
            authorizer: parts.authorizer.clone(),
            params: Params::new(parts),
        })
    }

    /// Policies that may have a say in a write; of exempt ones only those of files.
    async fn active(&self, request: &Request<'_>) -> Result<Active<P>, Status> {
        let mut active = match &self.files {
            Some(files) => files.all().await?,
            None => Vec::new(),
        };
        if !webhook::is_exempt(request) {
            active.extend(self.stored.all().await?);
        }
        Ok(active)
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
