//! OwnerReferencesPermissionEnforcement: who may not delete an object may not give it an owner whose end would be its own,
//! and who may not finalize an owner may not hold up its deletion.

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use serde_json::Value;
use smol_str::SmolStr;

use super::{Operation, Parts, Plugin, Request, items};
use crate::{
    auth::{Attributes, Authorizer},
    object::Object,
    registry::catalog::Catalog,
    status::Status,
};

pub(super) const NAME: &str = "OwnerReferencesPermissionEnforcement";

const REFERENCES: &str = "/metadata/ownerReferences";

struct OwnerReferences {
    authorizer: Arc<dyn Authorizer>,
    catalog: Arc<ArcSwap<Catalog>>,
}

pub(super) fn new(parts: &Parts) -> Arc<dyn Plugin> {
    Arc::new(OwnerReferences { authorizer: parts.authorizer.clone(), catalog: parts.catalog.clone() })
}

fn blocks(reference: &Value) -> bool {
    reference["blockOwnerDeletion"] == true
}

/// References that hold up an owner's deletion and did not before.
fn newly_blocking(new: &Object, old: Option<&Object>) -> Vec<Value> {
    let before = |reference: &Value| {
        old.is_some_and(|old| items(old, REFERENCES).any(|one| one["uid"] == reference["uid"] && blocks(one)))
    };
    items(new, REFERENCES).filter(|one| blocks(one) && !before(one)).cloned().collect()
}

impl OwnerReferences {
    async fn may(&self, wanted: Attributes) -> Result<(), String> {
        self.authorizer.authorize(&wanted).await.allowed().map(drop)
    }

    /// What one must be allowed to hold up an owner's deletion: one question for each resource of its kind.
    fn finalizing(&self, request: &Request<'_>, reference: &Value) -> Vec<Attributes> {
        let text = |field: &str| reference[field].as_str().unwrap_or_default();
        let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
        let catalog = self.catalog.load();
        let of_kind = catalog.iter().filter(|resource| {
            resource.group == group && resource.kind == text("kind") && resource.versions.contains(&version)
        });
        let question = |resource: &Arc<crate::registry::Resource>| Attributes {
            user: request.attributes.user.clone(),
            verb: "update".into(),
            group: group.into(),
            version: version.into(),
            resource: resource.plural.into(),
            subresource: "finalizers".into(),
            name: text("name").into(),
            namespace: match resource.namespaced {
                true => request.attributes.namespace.clone(),
                false => SmolStr::default(),
            },
            is_resource: true,
            ..Attributes::default()
        };
        of_kind.map(question).collect()
    }
}

#[async_trait]
impl Plugin for OwnerReferences {
    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        // The status of a pod keeps its owners, whatever is sent.
        let is_pod_status =
            request.is_any(crate::objects::PODS) && request.attributes.subresource == "status";
        let Some(new) = request.object.as_deref().filter(|_| !is_pod_status) else { return Ok(()) };
        let old = request.old;
        let same = old.map_or(0, |old| items(old, REFERENCES).count()) == items(new, REFERENCES).count()
            && old.is_none_or(|old| items(old, REFERENCES).eq(items(new, REFERENCES)));
        if same {
            return Ok(());
        }
        if request.operation != Operation::Create {
            let delete = Attributes { verb: "delete".into(), ..request.attributes.clone() };
            if let Err(why) = self.may(delete).await {
                return Err(request
                    .forbid(format!("cannot set an ownerRef on a resource you can't delete: {why}, <nil>")));
            }
        }
        let blocking = newly_blocking(new, old);
        let anything = Attributes {
            user: request.attributes.user.clone(),
            verb: "update".into(),
            group: "*".into(),
            version: "*".into(),
            resource: "*".into(),
            subresource: "finalizers".into(),
            name: "*".into(),
            is_resource: true,
            ..Attributes::default()
        };
        if blocking.is_empty() || self.may(anything).await.is_ok() {
            return Ok(());
        }
        for reference in &blocking {
            let questions = self.finalizing(request, reference);
            if questions.is_empty() {
                let (version, kind) = (&reference["apiVersion"], &reference["kind"]);
                return Err(request.forbid(format!(
                    "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {version} Kind {kind}"
                )));
            }
            for question in questions {
                if let Err(why) = self.may(question).await {
                    return Err(request.forbid(format!(
                        "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: {why}, <nil>"
                    )));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_block_anew_when_they_did_not_before() {
        let with = |references: Value| {
            Object::from_value(json!({"metadata": {"ownerReferences": references}})).unwrap()
        };
        let reference = |uid: &str, blocks: bool| json!({"uid": uid, "blockOwnerDeletion": blocks});
        let count = |new: Value, old: Option<Value>| newly_blocking(&with(new), old.map(with).as_ref()).len();
        assert_eq!(count(json!([reference("a", true), reference("b", false)]), None), 1);
        assert_eq!(count(json!([reference("a", true)]), Some(json!([reference("a", true)]))), 0);
        assert_eq!(count(json!([reference("a", true)]), Some(json!([reference("a", false)]))), 1);
    }
}
