//! The model, kept up to date object by object, with the word whether a change matters.

use std::{collections::BTreeSet, sync::Arc};

use component_base::informer::Event;
use k8s_openapi::{api::networking::v1::NetworkPolicy, apimachinery::pkg::apis::meta::v1::ObjectMeta};

use super::{Pod, Policies, Policy, PolicyName};
use crate::objects;

/// The model as the informers fill it.
#[derive(Debug)]
pub struct Index {
    node: String,
    model: Policies,
    /// Policies whose plan may be another one since it was last asked.
    concerned: BTreeSet<PolicyName>,
}

// === impl Index ===

impl Index {
    /// An empty index, as seen from node `node`.
    pub fn new(node: &str) -> Self {
        Self { node: node.to_owned(), model: Policies::default(), concerned: BTreeSet::new() }
    }

    /// The model as it is now.
    pub fn model(&self) -> &Policies {
        &self.model
    }

    /// The policies concerned by what was taken in since the last time.
    pub fn take_concerned(&mut self) -> BTreeSet<PolicyName> {
        std::mem::take(&mut self.concerned)
    }

    /// Takes in a change of a pod; whether the plan may be another one now.
    pub fn pod(&mut self, event: &Event<objects::Pod>) -> bool {
        let (key, gone) = (key(&event.object().metadata), matches!(event, Event::Deleted { .. }));
        let now = if gone { None } else { Pod::of(event.object(), &self.node).map(Arc::new) };
        let old = self.model.pods.get(&key).cloned();
        if old == now {
            return false;
        }
        let mut matters = false;
        for ((own, name), policy) in &self.model.policies {
            let concerns = |pod: &Arc<Pod>| policy.concerns(own, &self.model.namespaces, &key.0, pod);
            if old.iter().chain(&now).any(concerns) {
                self.concerned.insert((own.clone(), name.clone()));
                matters = true;
            }
        }
        match now {
            Some(pod) => drop(self.model.pods.insert(key, pod)),
            None => drop(self.model.pods.remove(&key)),
        }
        matters
    }

    /// Takes in a change of a namespace; whether the plan may be another one now.
    pub fn namespace(&mut self, event: &Event<objects::Namespace>) -> bool {
        let metadata = &event.object().metadata;
        let name = metadata.name.clone().unwrap_or_default();
        let now = match event {
            Event::Deleted { .. } => None,
            _ => Some(metadata.labels.clone().unwrap_or_default()),
        };
        let old = match now.clone() {
            Some(labels) => self.model.namespaces.insert(name, labels),
            None => self.model.namespaces.remove(&name),
        };
        if old == now {
            return false;
        }
        let concerns =
            |policy: &Policy| old.iter().chain(&now).any(|labels| policy.concerns_namespace(labels));
        let all = self.model.policies.iter().filter(|(_, policy)| concerns(policy));
        let concerned: Vec<PolicyName> = all.map(|(key, _)| key.clone()).collect();
        let matters = !concerned.is_empty();
        self.concerned.extend(concerned);
        matters
    }

    /// Takes in a change of a policy; whether the plan may be another one now.
    pub fn policy(&mut self, event: &Event<NetworkPolicy>) -> bool {
        let (policy, key) = (Arc::new(Policy::of(event.object())), key(&event.object().metadata));
        let changed = match event {
            Event::Deleted { .. } => self.model.policies.remove(&key).is_some(),
            _ => self.model.policies.insert(key.clone(), policy.clone()) != Some(policy),
        };
        if changed {
            self.concerned.insert(key);
        }
        changed
    }
}

fn key(metadata: &ObjectMeta) -> (String, String) {
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}
