//! Whose an object is: owners adopt what they select and nobody owns, and let go what they no longer select.
//!
//! Contract: upstream's `pkg/controller/controller_ref_manager.go`: an owner that is being deleted adopts nothing, and
//! before the first adoption the server is asked whether the owner still is the one that was cached. An owner that
//! holds its objects by a finalizer gives it to what it adopts and takes it from what it lets go, in the same write:
//! nobody else would take it away.

use std::sync::Arc;

use component_base::{
    client,
    informer::Object,
    meta::{controller_of, has_finalizer, is_controlled_by, new_controller_ref},
    selector::LabelSelector,
};
use k8s_openapi::{
    NamespaceResourceScope,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use super::pod_control::Owner;

/// A kind that lives in namespaces and may be owned.
pub(super) trait Owned:
    Object + Clone + std::fmt::Debug + kube::Resource<Scope = NamespaceResourceScope>
{
}

impl<K: Object + Clone + std::fmt::Debug + kube::Resource<Scope = NamespaceResourceScope>> Owned for K {}

/// What an owner's claim comes to.
#[derive(Debug)]
struct Claims<K> {
    /// The owner's, and still selected.
    kept: Vec<Arc<K>>,
    /// The owner's, but no longer selected.
    released: Vec<Arc<K>>,
    /// Nobody's, and selected.
    adopted: Vec<Arc<K>>,
}

/// Sorts `candidates`: those the owner has and those nobody has. `adoptable` has a say in what is taken.
fn claims<O: Owner, K: Owned>(
    owner: &O,
    selector: &LabelSelector,
    candidates: Vec<Arc<K>>,
    adoptable: impl Fn(&K) -> bool,
) -> Claims<K> {
    let mut out = Claims { kept: Vec::new(), released: Vec::new(), adopted: Vec::new() };
    let ending = owner.meta().deletion_timestamp.is_some();
    for object in candidates {
        let meta = object.meta();
        let selected = selector.matches(&meta.labels);
        let leaving = meta.deletion_timestamp.is_some();
        if is_controlled_by(meta, owner.meta()) {
            // A selector that takes everything tells nothing apart: what the owner made stays with it.
            match selected || selector.is_everything() {
                true => out.kept.push(object),
                false if ending => {}
                false => out.released.push(object),
            }
        } else if controller_of(meta).is_none()
            && selected
            && !selector.is_everything()
            && !leaving
            && !ending
            && adoptable(&object)
        {
            out.adopted.push(object);
        }
    }
    out
}

/// The owner's objects among `candidates`, once orphans it selects are adopted and those it no longer selects are let
/// go. Those an owner has carry `finalizer`, where it holds them by one.
pub(super) async fn claim<O: Owner, K: Owned>(
    client: &Client,
    owner: &O,
    finalizer: Option<&str>,
    selector: &LabelSelector,
    candidates: Vec<Arc<K>>,
    adoptable: impl Fn(&K) -> bool,
) -> Result<Vec<Arc<K>>, kube::Error> {
    let claims = claims(owner, selector, candidates, adoptable);
    let meta = owner.meta();
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    for object in claims.released {
        let mut owners = object.meta().owner_references.clone().unwrap_or_default();
        owners.retain(|o| Some(&o.uid) != meta.uid.as_ref());
        patch(&api, object.as_ref(), change(object.meta(), &owners, finalizer, false)).await?;
    }
    let mut kept = claims.kept;
    if !claims.adopted.is_empty() && is_current(client, owner).await? {
        for object in claims.adopted {
            let mut owners = object.meta().owner_references.clone().unwrap_or_default();
            owners.push(new_controller_ref(owner));
            if patch(&api, object.as_ref(), change(object.meta(), &owners, finalizer, true)).await? {
                kept.push(object);
            }
        }
    }
    Ok(kept)
}

/// Whether the server still has this very owner, not being deleted.
async fn is_current<O: Owner>(client: &Client, owner: &O) -> Result<bool, kube::Error> {
    let meta = owner.meta();
    let api: Api<O> = Api::namespaced(client.clone(), meta.namespace.as_deref().unwrap_or_default());
    let fresh = api.get_metadata_opt(meta.name.as_deref().unwrap_or_default()).await?;
    Ok(fresh.is_some_and(|f| f.metadata.uid == meta.uid && f.metadata.deletion_timestamp.is_none()))
}

/// The patch that gives an object these owners, and with them `finalizer`, or takes that away.
fn change(meta: &ObjectMeta, owners: &[OwnerReference], finalizer: Option<&str>, held: bool) -> Value {
    let mut change = json!({"uid": meta.uid, "ownerReferences": owners});
    if let Some(finalizer) = finalizer.filter(|f| held || has_finalizer(meta, f)) {
        let others = meta.finalizers.iter().flatten().map(String::as_str).filter(|f| *f != finalizer);
        let finalizers: Vec<&str> = others.chain(held.then_some(finalizer)).collect();
        change["finalizers"] = json!(finalizers);
        // The whole list is written: what somebody adds or takes meanwhile must not be undone.
        change["resourceVersion"] = json!(meta.resource_version);
    }
    json!({"metadata": change})
}

/// Patches an object; returns whether it is still there.
async fn patch<K: Owned>(api: &Api<K>, object: &K, body: Value) -> Result<bool, kube::Error> {
    let name = object.meta().name.as_deref().unwrap_or_default();
    match api.patch(name, &PatchParams::default(), &Patch::Merge(body)).await {
        Ok(_) => Ok(true),
        Err(error) if client::is_not_found(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};

    fn names(list: &[Arc<Pod>]) -> Vec<&str> {
        list.iter().map(|p| p.metadata.name.as_deref().unwrap()).collect()
    }

    #[test]
    fn what_is_selected_is_kept_or_adopted_and_the_rest_let_go() {
        let owner = |uid: &str| json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "o", "uid": uid, "controller": true}]);
        let pod = |name: &str, app: &str, owners: Value, leaving: bool| -> Arc<Pod> {
            let at = leaving.then_some("2026-01-01T00:00:00Z");
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": name, "labels": {"app": app},
                "ownerReferences": owners, "deletionTimestamp": at}}))
                .unwrap(),
            )
        };
        let all = || {
            vec![
                pod("mine", "web", owner("me"), false),
                pod("strayed", "db", owner("me"), false),
                pod("strayed-leaving", "db", owner("me"), true),
                pod("mine-leaving", "web", owner("me"), true),
                pod("orphan", "web", json!([]), false),
                pod("orphan-leaving", "web", json!([]), true),
                pod("orphan-picky", "web", json!([]), false),
                pod("other-orphan", "db", json!([]), false),
                pod("foreign", "web", owner("you"), false),
            ]
        };
        let set = |deleted: Value| -> ReplicaSet {
            serde_json::from_value(
                json!({"metadata": {"name": "o", "uid": "me", "deletionTimestamp": deleted}}),
            )
            .unwrap()
        };
        let selector = LabelSelector::from_map(&std::collections::BTreeMap::from([(
            "app".to_owned(),
            "web".to_owned(),
        )]));
        let picky = |p: &Pod| p.metadata.name.as_deref() != Some("orphan-picky");
        let got = claims(&set(Value::Null), &selector, all(), picky);
        assert_eq!(names(&got.kept), ["mine", "mine-leaving"]);
        assert_eq!(names(&got.released), ["strayed", "strayed-leaving"]);
        assert_eq!(names(&got.adopted), ["orphan"]);
        let ending = claims(&set(json!("2026-01-01T00:00:00Z")), &selector, all(), picky);
        assert_eq!((names(&ending.kept).len(), ending.released.len(), ending.adopted.len()), (2, 0, 0));
        let everything = LabelSelector::from_map(&std::collections::BTreeMap::<String, String>::new());
        let got = claims(&set(Value::Null), &everything, all(), picky);
        assert_eq!((got.kept.len(), got.released.len(), got.adopted.len()), (4, 0, 0));
    }

    #[test]
    fn what_holds_an_object_comes_and_goes_with_its_owner() {
        let meta = |finalizers: Value| -> ObjectMeta {
            serde_json::from_value(json!({"uid": "u", "resourceVersion": "7", "finalizers": finalizers}))
                .unwrap()
        };
        let (held, free) = (meta(json!(["other", "mine"])), meta(json!(["other"])));
        let written = |meta: &ObjectMeta, stays| {
            let change = change(meta, &[], Some("mine"), stays);
            (change["metadata"]["finalizers"].clone(), change["metadata"]["resourceVersion"].clone())
        };
        assert_eq!(written(&held, false), (json!(["other"]), json!("7")));
        assert_eq!(written(&free, true), (json!(["other", "mine"]), json!("7")));
        // Seen with it, it may have lost it since.
        assert_eq!(written(&held, true), (json!(["other", "mine"]), json!("7")));
        // Nothing but the owners is written where there is nothing to take, or the owner holds by nothing.
        let owners = json!({"metadata": {"uid": "u", "ownerReferences": []}});
        assert_eq!(change(&free, &[], Some("mine"), false), owners);
        assert_eq!(change(&held, &[], None, false), owners);
    }
}
