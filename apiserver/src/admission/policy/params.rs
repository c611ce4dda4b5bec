//! Parameters: objects of any served kind that a policy's expressions see as `params`.

use std::{collections::BTreeMap, fmt, sync::Arc};

use arc_swap::ArcSwap;
use serde_json::Value;

use super::{binding::Binding, text};
use crate::{
    admission::Parts,
    object::Object,
    objects::{Kind, Objects},
    registry::{Resource, catalog::Catalog},
    status::Status,
};

/// `paramKind`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::admission) struct ParamKind {
    pub(in crate::admission) api_version: String,
    pub(in crate::admission) kind: String,
}

impl ParamKind {
    pub(in crate::admission) fn of(value: &Value) -> Self {
        Self { api_version: text(value, "apiVersion").to_owned(), kind: text(value, "kind").to_owned() }
    }

    /// `None` for an apiVersion that is none.
    pub(in crate::admission) fn group_version(&self) -> Option<(&str, &str)> {
        let (group, version) = self.api_version.split_once('/').unwrap_or(("", &self.api_version));
        (!version.contains('/')).then_some((group, version))
    }
}

impl fmt::Display for ParamKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "&ParamKind{{Kind:{},APIVersion:{},}}", self.kind, self.api_version)
    }
}

/// Finds parameters.
pub(in crate::admission) struct Params {
    objects: Arc<dyn Objects>,
    catalog: Arc<ArcSwap<Catalog>>,
}

impl Params {
    pub(in crate::admission) fn new(parts: &Parts) -> Self {
        Self { objects: parts.objects.clone(), catalog: parts.catalog.clone() }
    }

    /// Whether the kind is served.
    pub(super) fn knows(&self, kind: &ParamKind) -> bool {
        self.resource(kind).is_some()
    }

    /// The resource whose objects are of the kind, where it is served.
    pub(in crate::admission) fn resource(&self, kind: &ParamKind) -> Option<Arc<Resource>> {
        let (group, version) = kind.group_version()?;
        let catalog = self.catalog.load();
        let mut all = catalog.iter().filter(|r| r.group == group && r.kind == kind.kind);
        all.find(|r| r.versions.contains(&version)).cloned()
    }

    /// The parameters a binding means for a write to a namespace; one `None` where the policy takes none.
    ///
    /// # Errors
    /// Why the binding cannot be evaluated.
    pub(super) async fn collect(
        &self,
        kind: Option<&ParamKind>,
        binding: &Binding,
        namespace: &str,
    ) -> Result<Vec<Option<Arc<Object>>>, String> {
        let (Some(kind), Some(wanted)) = (kind, &binding.params) else { return Ok(vec![None]) };
        let resource = self.resource(kind).ok_or_else(|| format!("paramKind kind `{kind}` not known"))?;
        let namespace = match (resource.namespaced, wanted.namespace.as_str()) {
            (false, "") => "",
            (false, _) => {
                return Err(
                    "paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned()
                );
            }
            (true, "") if namespace.is_empty() => {
                return Err(
                    "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
                        .to_owned(),
                );
            }
            (true, "") => namespace,
            (true, named) => named,
        };
        let stored = Kind { group: resource.stored_group(), resource: resource.plural };
        let found: Vec<Arc<Object>> = match (&wanted.selector, wanted.name.as_str()) {
            (None, "") => return Err("one of name or selector must be provided".to_owned()),
            (Some(_), name) if !name.is_empty() => {
                return Err("paramRef.name and paramRef.selector are mutually exclusive".to_owned());
            }
            (None, name) => {
                let one = self.objects.get(stored, namespace, name).await;
                one.map_err(|e: Status| e.message)?.into_iter().collect()
            }
            (Some(selector), _) => {
                let selector = selector.as_ref().map_err(Clone::clone)?;
                let scope = resource.namespaced.then_some(namespace);
                let all = self.objects.list(stored, scope).await.map_err(|e| e.message)?;
                all.into_iter().filter(|object| selector.matches(&labels(object))).collect()
            }
        };
        if found.is_empty() && wanted.required {
            return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
        }
        let mut params = Vec::with_capacity(found.len());
        for object in found {
            params.push(Some(converted(object, &resource, kind).await.map_err(|e| e.message)?));
        }
        Ok(params)
    }
}

fn labels(object: &Object) -> BTreeMap<&str, &str> {
    object.meta_pairs("labels").collect()
}

/// A parameter in the version the policy names.
async fn converted(
    object: Arc<Object>,
    resource: &Resource,
    kind: &ParamKind,
) -> Result<Arc<Object>, Status> {
    if let Some(custom) = resource.strategy.custom() {
        let mut all = custom.restored(vec![object.as_ref().clone()]).await?;
        return Ok(all.pop().map_or(object, Arc::new));
    }
    if object.api_version() == kind.api_version && object.kind() == kind.kind {
        return Ok(object);
    }
    let mut other = object.as_ref().clone();
    resource.convert(&mut other, &resource.stored_api_version(), &kind.api_version)?;
    other.set("kind", kind.kind.as_str());
    Ok(Arc::new(other))
}
