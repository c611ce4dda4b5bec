//! What services and controllers select pods by: pods that are selected alike are spread where nobody says otherwise.
//!
//! Of these objects the selectors alone are kept.

use std::{
    collections::{BTreeMap, HashMap},
    marker::PhantomData,
    sync::Arc,
};

use component_base::{
    informer::{Digest, Event, Kept, Object},
    meta::{ObjectKey, object_key},
    selector::{LabelSelector, Requirement},
};
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, StatefulSet},
        core::v1::{ReplicationController, Service},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};

use super::PodInfo;

/// The kinds that select pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Selecting {
    /// Selects by labels.
    Service,
    /// Selects by labels, and owns.
    ReplicationController,
    /// Selects by requirements, and owns.
    ReplicaSet,
    /// Selects by requirements, and owns.
    StatefulSet,
}

/// A kind that selects pods.
pub trait Selects: Object {
    /// Which it is.
    const KIND: Selecting;

    /// What an object selects; nothing where it does not say.
    fn selector(&self) -> Option<LabelSelector>;
}

/// All selectors there are.
#[derive(Clone, Debug, Default)]
pub struct Selectors {
    /// By namespace and name.
    services: HashMap<Arc<str>, BTreeMap<Arc<str>, Arc<LabelSelector>>>,
    owners: HashMap<(Selecting, ObjectKey), Arc<LabelSelector>>,
}

/// What an object selects from now on.
#[derive(Clone, Debug)]
pub struct SelectorChange {
    kind: Selecting,
    key: ObjectKey,
    selector: Option<Arc<LabelSelector>>,
}

/// What is kept of an object.
#[derive(Debug)]
pub struct SelectorOf<K> {
    selector: Option<Arc<LabelSelector>>,
    of: PhantomData<fn() -> K>,
}

impl<K: Selects> Digest for SelectorOf<K> {
    type Of = K;

    fn of(object: K) -> Self {
        Self { selector: object.selector().map(Arc::new), of: PhantomData }
    }
}

impl Selecting {
    /// The kind of an owner, if it is one of these.
    pub fn of_owner(owner: &OwnerReference) -> Option<Self> {
        match (owner.api_version.as_str(), owner.kind.as_str()) {
            ("v1", "ReplicationController") => Some(Self::ReplicationController),
            ("apps/v1", "ReplicaSet") => Some(Self::ReplicaSet),
            ("apps/v1", "StatefulSet") => Some(Self::StatefulSet),
            _ => None,
        }
    }
}

impl SelectorChange {
    /// What an event means.
    pub fn new<K: Selects>(event: &Event<Kept<SelectorOf<K>>>) -> Self {
        let selector = match event {
            Event::Deleted { .. } => None,
            Event::Added { new, .. } | Event::Updated { new, .. } => new.selector.clone(),
        };
        Self { kind: K::KIND, key: event.object().key.clone(), selector }
    }

    /// What an object selects.
    pub fn of<K: Selects>(object: &K) -> Self {
        let key = object_key(object);
        Self { kind: K::KIND, key, selector: object.selector().map(Arc::new) }
    }
}

impl Selectors {
    /// Takes a change in.
    pub fn take(&mut self, change: SelectorChange) {
        let SelectorChange { kind, key, selector } = change;
        match (kind, selector) {
            (Selecting::Service, Some(selector)) => {
                self.services.entry(key.namespace).or_default().insert(key.name, selector);
            }
            (Selecting::Service, None) => {
                if let Some(services) = self.services.get_mut(&key.namespace) {
                    services.remove(&key.name);
                    if services.is_empty() {
                        self.services.remove(&key.namespace);
                    }
                }
            }
            (_, Some(selector)) => drop(self.owners.insert((kind, key), selector)),
            (_, None) => drop(self.owners.remove(&(kind, key))),
        }
    }

    /// What the services that select a pod and its owner select, all together; nothing where there are none.
    pub fn of_pod(&self, pod: &PodInfo) -> Option<LabelSelector> {
        let services = self.services.get(pod.namespace.as_str()).into_iter().flat_map(BTreeMap::values);
        let services = services.filter(|selector| selector.matches(&pod.labels));
        let owner = pod.owner.as_ref().and_then(|(kind, name)| {
            self.owners.get(&(*kind, ObjectKey::new(pod.namespace.as_str(), name.as_str())))
        });
        let mut all: Vec<Requirement> =
            services.chain(owner).flat_map(|selector| selector.requirements()).cloned().collect();
        all.sort_by(|a, b| a.key().cmp(b.key()).then_with(|| a.values().cmp(b.values())));
        all.dedup();
        (!all.is_empty()).then(|| LabelSelector::new(all))
    }
}

fn of_map(labels: Option<&BTreeMap<String, String>>) -> Option<LabelSelector> {
    labels.filter(|labels| !labels.is_empty()).map(LabelSelector::from_map)
}

impl Selects for Service {
    const KIND: Selecting = Selecting::Service;

    fn selector(&self) -> Option<LabelSelector> {
        of_map(self.spec.as_ref()?.selector.as_ref())
    }
}

impl Selects for ReplicationController {
    const KIND: Selecting = Selecting::ReplicationController;

    fn selector(&self) -> Option<LabelSelector> {
        of_map(self.spec.as_ref()?.selector.as_ref())
    }
}

impl Selects for ReplicaSet {
    const KIND: Selecting = Selecting::ReplicaSet;

    fn selector(&self) -> Option<LabelSelector> {
        LabelSelector::from_api(Some(&self.spec.as_ref()?.selector)).ok()
    }
}

impl Selects for StatefulSet {
    const KIND: Selecting = Selecting::StatefulSet;

    fn selector(&self) -> Option<LabelSelector> {
        LabelSelector::from_api(Some(&self.spec.as_ref()?.selector)).ok()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::pod;

    fn made<K: Selects>(name: &str, selector: Value) -> SelectorChange {
        let meta = json!({"name": name, "namespace": "default"});
        let spec = json!({"selector": selector, "serviceName": "", "template": {}, "replicas": 1});
        let object: K = serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap();
        SelectorChange::of(&object)
    }

    fn owned(version: &str, kind: &str, name: &str) -> Arc<PodInfo> {
        let owner =
            json!({"apiVersion": version, "kind": kind, "name": name, "uid": "u", "controller": true});
        let pod = pod("p").label("app", "web").label("statefulset.kubernetes.io~1pod-name", "p");
        pod.set("/metadata/ownerReferences", json!([owner])).info()
    }

    #[test]
    fn services_and_the_owner_select_together() {
        let mut all = Selectors::default();
        let web = json!({"matchLabels": {"app": "web"}});
        let tier = json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]});
        for change in [
            made::<Service>("web", json!({"app": "web"})),
            made::<Service>("other", json!({"app": "other"})),
            made::<Service>("none", json!(null)),
            made::<ReplicaSet>("rs", web.clone()),
            made::<StatefulSet>("ss", tier),
            made::<ReplicationController>("rc", json!({"version": "1"})),
        ] {
            all.take(change);
        }
        let text = |all: &Selectors, pod: &PodInfo| all.of_pod(pod).map(|selector| selector.to_string());
        for (version, kind, name, expected) in [
            ("apps/v1", "ReplicaSet", "rs", "app=web"),
            ("apps/v1", "ReplicaSet", "gone", "app=web"),
            ("apps/v1", "StatefulSet", "ss", "app=web,!tier"),
            ("v1", "ReplicationController", "rc", "app=web,version=1"),
            ("apps/v1", "ReplicationController", "rc", "app=web"),
            ("batch/v1", "Job", "rs", "app=web"),
        ] {
            let found = text(&all, &owned(version, kind, name));
            assert_eq!(found.as_deref(), Some(expected), "{version} {kind} {name}");
        }
        all.take(SelectorChange { selector: None, ..made::<Service>("web", json!({"app": "web"})) });
        assert_eq!(text(&all, &owned("batch/v1", "Job", "j")), None);
        assert_eq!(text(&all, &owned("apps/v1", "ReplicaSet", "rs")).as_deref(), Some("app=web"));
        all.take(SelectorChange { selector: None, ..made::<ReplicaSet>("rs", web) });
        assert_eq!(text(&all, &owned("apps/v1", "ReplicaSet", "rs")), None);
    }
}
