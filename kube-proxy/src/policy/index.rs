//! The model, kept up to date object by object, with the word whether a change matters.

use std::sync::Arc;

use component_base::informer::Event;
use k8s_openapi::{api::networking::v1::NetworkPolicy, apimachinery::pkg::apis::meta::v1::ObjectMeta};

use super::{Pod, Policies, Policy};
use crate::objects;

/// The model as the informers fill it.
#[derive(Debug)]
pub struct Index {
    node: String,
    model: Policies,
}

// === impl Index ===

impl Index {
    /// An empty index, as seen from node `node`.
    pub fn new(node: &str) -> Self {
        Self { node: node.to_owned(), model: Policies::default() }
    }

    /// The model as it is now.
    pub fn model(&self) -> &Policies {
        &self.model
    }

    /// Takes in a change of a pod; whether the plan may be another one now.
    pub fn pod(&mut self, event: &Event<objects::Pod>) -> bool {
        let (key, gone) = (key(&event.object().metadata), matches!(event, Event::Deleted { .. }));
        let now = if gone { None } else { Pod::of(event.object(), &self.node) };
        let changed = self.model.pods.get(&key).map(|pod| &**pod) != now.as_ref();
        match now {
            Some(pod) if changed => drop(self.model.pods.insert(key, Arc::new(pod))),
            Some(_) => {}
            None => drop(self.model.pods.remove(&key)),
        }
        changed && !self.model.policies.is_empty()
    }

    /// Takes in a change of a namespace.
    pub fn namespace(&mut self, event: &Event<objects::Namespace>) -> bool {
        let metadata = &event.object().metadata;
        let name = metadata.name.clone().unwrap_or_default();
        let labels = metadata.labels.clone().unwrap_or_default();
        let changed = match event {
            Event::Deleted { .. } => self.model.namespaces.remove(&name).is_some(),
            _ => self.model.namespaces.insert(name, labels.clone()) != Some(labels),
        };
        changed && !self.model.policies.is_empty()
    }

    /// Takes in a change of a policy.
    pub fn policy(&mut self, event: &Event<NetworkPolicy>) -> bool {
        let (policy, key) = (Arc::new(Policy::of(event.object())), key(&event.object().metadata));
        match event {
            Event::Deleted { .. } => self.model.policies.remove(&key).is_some(),
            _ => self.model.policies.insert(key, policy.clone()) != Some(policy),
        }
    }
}

fn key(metadata: &ObjectMeta) -> (String, String) {
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}
