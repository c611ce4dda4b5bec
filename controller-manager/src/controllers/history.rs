//! Revisions of a template, kept as ControllerRevision objects: what rollbacks return to.
//!
//! Contract: upstream's `pkg/controller/history`. `data` is the patch that brings the owner's template back, as
//! `kubectl rollout undo` applies it. The hash in the name is opaque: an equal revision is found by its data,
//! whoever named it.

use std::{collections::BTreeMap, collections::HashSet, marker::PhantomData, sync::Arc};

use component_base::{
    client,
    hash::fnv32a,
    informer::{Informer, ListWatch},
    meta::{controller_of, new_controller_ref},
    names::safe_encode,
};
use k8s_openapi::{api::apps::v1::ControllerRevision, apimachinery::pkg::runtime::RawExtension};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::{Context, pod_control::Owner};

/// The label that ties pods and revisions.
pub(super) const HASH_LABEL: &str = "controller-revision-hash";
const BY_CONTROLLER: &str = "controller";
/// Tries to find a name that no other template's revision has.
const COLLISIONS: i32 = 16;

/// The revisions of one kind of owners.
#[derive(Clone)]
pub(super) struct History<K> {
    client: Client,
    revisions: Informer<ControllerRevision>,
    owner: PhantomData<fn() -> K>,
}

/// The revision of the template as it is now, and the others, oldest first.
#[derive(Clone, Debug)]
pub(super) struct Revisions {
    /// Of the template as it is now.
    pub(super) update: Arc<ControllerRevision>,
    /// All others, oldest first.
    pub(super) others: Vec<Arc<ControllerRevision>>,
    /// How often a name was taken by another template.
    pub(super) collisions: i32,
}

impl<K: Owner> History<K> {
    pub(super) fn new(ctx: &Context) -> History<K> {
        let revisions: Informer<ControllerRevision> = ctx.informers.get(ListWatch::default());
        revisions.add_index(BY_CONTROLLER, |r| {
            controller_of(&r.metadata).map(|o| o.uid.clone()).into_iter().collect()
        });
        History { client: ctx.client.clone(), revisions, owner: PhantomData }
    }

    /// Returns once the cache is filled.
    pub(super) async fn wait_synced(&self) {
        self.revisions.wait_synced().await;
    }

    /// Finds or makes the revision of `data`. `labels` are the template's; `collisions` is what the status says; `means`
    /// whether the newest revision comes to the same although its data is another.
    pub(super) async fn sync(
        &self,
        owner: &K,
        labels: &BTreeMap<String, String>,
        data: &Value,
        collisions: i32,
        means: &(dyn Fn(&ControllerRevision) -> bool + Sync),
    ) -> Result<Revisions, kube::Error> {
        let uid = owner.meta().uid.as_deref().unwrap_or_default();
        let mut known = self.revisions.store().by_index(BY_CONTROLLER, uid);
        known.sort_by_key(|r| (r.revision, r.metadata.name.clone()));
        let next = known.last().map_or(0, |r| r.revision) + 1;
        let equal = known.iter().rposition(|r| r.data.as_ref().is_some_and(|d| d.0 == *data));
        let latest = known.len().checked_sub(1);
        let equal = equal.or_else(|| latest.filter(|at| means(&known[*at])));
        let (update, collisions) = match equal.map(|at| known.remove(at)) {
            // A template that returns becomes the newest again.
            Some(found) if found.revision + 1 < next => (self.renumber(&found, next).await?, collisions),
            Some(found) => (found, collisions),
            None => self.make(owner, labels, data, next, collisions).await?,
        };
        known.retain(|r| r.metadata.name != update.metadata.name);
        Ok(Revisions { update, others: known, collisions })
    }

    fn api(&self, namespace: Option<&str>) -> Api<ControllerRevision> {
        Api::namespaced(self.client.clone(), namespace.unwrap_or_default())
    }

    async fn renumber(
        &self,
        found: &ControllerRevision,
        revision: i64,
    ) -> Result<Arc<ControllerRevision>, kube::Error> {
        let api = self.api(found.metadata.namespace.as_deref());
        let body = json!({"revision": revision});
        let name = found.metadata.name.as_deref().unwrap_or_default();
        api.patch(name, &PatchParams::default(), &Patch::Merge(body)).await.map(Arc::new)
    }

    async fn make(
        &self,
        owner: &K,
        labels: &BTreeMap<String, String>,
        data: &Value,
        revision: i64,
        collisions: i32,
    ) -> Result<(Arc<ControllerRevision>, i32), kube::Error> {
        let meta = owner.meta();
        let api = self.api(meta.namespace.as_deref());
        let mut failure = None;
        for count in collisions..collisions.saturating_add(COLLISIONS) {
            let new = revision_of(owner, labels, data, revision, count);
            match api.create(&PostParams::default(), &new).await {
                Ok(made) => return Ok((Arc::new(made), count)),
                Err(error) if client::is_already_exists(&error) => {
                    let name = new.metadata.name.as_deref().unwrap_or_default();
                    let there = api.get(name).await?;
                    if there.data.as_ref().is_some_and(|d| d.0 == *data) {
                        return Ok((Arc::new(self.adopt(owner, there).await?), count));
                    }
                    failure = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(failure.unwrap_or_else(|| kube::Error::Service("no name is free for a new revision".into())))
    }

    /// A revision without a controller becomes the owner's.
    async fn adopt(&self, owner: &K, found: ControllerRevision) -> Result<ControllerRevision, kube::Error> {
        if controller_of(&found.metadata).is_some() {
            return Ok(found);
        }
        let mut owners = found.metadata.owner_references.clone().unwrap_or_default();
        owners.push(new_controller_ref(owner));
        let body = json!({"metadata": {"uid": found.metadata.uid, "ownerReferences": owners}});
        let api = self.api(found.metadata.namespace.as_deref());
        let name = found.metadata.name.as_deref().unwrap_or_default();
        api.patch(name, &PatchParams::default(), &Patch::Merge(body)).await
    }

    /// Deletes the oldest revisions no pod is of, so that `limit` of these stay.
    pub(super) async fn truncate(
        &self,
        others: &[Arc<ControllerRevision>],
        live: &HashSet<String>,
        limit: usize,
    ) -> Result<(), kube::Error> {
        for gone in surplus(others, live, limit) {
            let api = self.api(gone.metadata.namespace.as_deref());
            match api
                .delete(gone.metadata.name.as_deref().unwrap_or_default(), &DeleteParams::default())
                .await
            {
                Err(e) if !client::is_not_found(&e) => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The oldest revisions that are neither used by a pod (`live`: names and hashes) nor among the last `limit`.
fn surplus<'r>(
    others: &'r [Arc<ControllerRevision>],
    live: &HashSet<String>,
    limit: usize,
) -> Vec<&'r Arc<ControllerRevision>> {
    let is_live = |r: &ControllerRevision| {
        [r.metadata.name.as_deref(), Some(hash_of(r))].into_iter().flatten().any(|n| live.contains(n))
    };
    let unused: Vec<&Arc<ControllerRevision>> = others.iter().filter(|r| !is_live(r)).collect();
    let count = unused.len().saturating_sub(limit);
    unused.into_iter().take(count).collect()
}

/// The hash in a revision's label.
pub(super) fn hash_of(revision: &ControllerRevision) -> &str {
    component_base::meta::label(&revision.metadata, HASH_LABEL).unwrap_or_default()
}

fn revision_of<K: Owner>(
    owner: &K,
    labels: &BTreeMap<String, String>,
    data: &Value,
    revision: i64,
    collisions: i32,
) -> ControllerRevision {
    let meta = owner.meta();
    let hash = safe_encode(&fnv32a(format!("{data}{collisions}").as_bytes()).to_string());
    let mut out = ControllerRevision { revision, ..ControllerRevision::default() };
    out.data = Some(RawExtension(data.clone()));
    // The suffix fits whatever the owner's name is.
    let stem: String = meta.name.as_deref().unwrap_or_default().chars().take(223).collect();
    out.metadata.name = Some(format!("{stem}-{hash}"));
    out.metadata.namespace.clone_from(&meta.namespace);
    out.metadata.annotations.clone_from(&meta.annotations);
    let mut all = labels.clone();
    all.insert(HASH_LABEL.to_owned(), hash);
    out.metadata.labels = Some(all);
    out.metadata.owner_references = Some(vec![new_controller_ref(owner)]);
    out
}

/// The patch that brings a template back.
pub(super) fn template_patch(template: &impl serde::Serialize) -> Result<Value, kube::Error> {
    let mut template = serde_json::to_value(template).map_err(kube::Error::SerdeError)?;
    if let Some(fields) = template.as_object_mut() {
        fields.insert("$patch".to_owned(), "replace".into());
    }
    Ok(json!({"spec": {"template": template}}))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::DaemonSet;

    use super::*;

    fn revision(name: &str, number: i64) -> Arc<ControllerRevision> {
        let mut out = ControllerRevision { revision: number, ..ControllerRevision::default() };
        out.metadata.name = Some(name.to_owned());
        Arc::new(out)
    }

    #[test]
    fn the_oldest_unused_revisions_are_surplus() {
        let all = [revision("a", 1), revision("b", 2), revision("c", 3), revision("d", 4)];
        let names = |live: &[&str], limit| {
            let live: HashSet<String> = live.iter().map(|n| (*n).to_owned()).collect();
            let gone = surplus(&all, &live, limit);
            gone.iter().map(|r| r.metadata.name.clone().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(names(&[], 10), Vec::<String>::new());
        assert_eq!(names(&[], 1), ["a", "b", "c"]);
        assert_eq!(names(&["a"], 1), ["b", "c"]);
        assert_eq!(names(&["a", "b", "c", "d"], 0), Vec::<String>::new());
    }

    #[test]
    fn names_follow_the_data_and_the_collisions() {
        let owner: DaemonSet =
            serde_json::from_value(json!({"metadata": {"name": "x", "namespace": "d"}})).unwrap();
        let name = |data: Value, n| revision_of(&owner, &BTreeMap::new(), &data, 1, n).metadata.name.unwrap();
        let first = name(json!({"a": 1}), 0);
        assert!(first.starts_with("x-"));
        assert_eq!(first, name(json!({"a": 1}), 0));
        assert_ne!(first, name(json!({"a": 1}), 1));
        assert_ne!(first, name(json!({"a": 2}), 0));
    }

    #[test]
    fn the_patch_replaces_the_template() {
        let patch = template_patch(&json!({"spec": {"containers": []}})).unwrap();
        assert_eq!(patch, json!({"spec": {"template": {"$patch": "replace", "spec": {"containers": []}}}}));
    }
}
