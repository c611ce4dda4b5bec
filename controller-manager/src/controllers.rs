//! The controllers, one file each, one line each in [`ALL`].

mod deployment;
mod endpointslice;
mod garbage_collector;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod replicaset;
mod root_ca;
mod serviceaccount;

use std::sync::Arc;

use component_base::{
    clock::SharedClock,
    events::Recorder,
    informer::{Event, Informer, Informers, Object},
    meta::{ObjectKey, object_key},
    task::Tasks,
    workqueue::WorkQueue,
};
use ipnet::IpNet;

/// What every controller gets.
#[derive(Clone)]
pub struct Context {
    /// The API server.
    pub client: kube::Client,
    /// Shared caches; started after all controllers have subscribed.
    pub informers: Informers,
    /// The leader's tasks: they end with the leadership.
    pub tasks: Tasks,
    /// Time.
    pub clock: SharedClock,
    /// What flags say.
    pub settings: Arc<Settings>,
}

/// What flags say.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Pods' ranges, for the range allocator; empty when nodes get none.
    pub cluster_cidrs: Vec<IpNet>,
    /// Prefix length of a node's IPv4 range.
    pub node_mask_v4: u8,
    /// Prefix length of a node's IPv6 range.
    pub node_mask_v6: u8,
    /// The CA bundle published to every namespace, PEM.
    pub root_ca: Option<String>,
}

/// One controller.
#[derive(Clone, Copy)]
pub struct Controller {
    /// Upstream's name, for `--controllers`.
    pub name: &'static str,
    /// Subscribes to caches and starts workers; called before the caches start.
    pub start: fn(&Context),
}

/// All controllers.
pub const ALL: &[Controller] = &[
    Controller { name: "serviceaccount-controller", start: serviceaccount::start },
    Controller { name: "root-ca-certificate-publisher-controller", start: root_ca::start },
    Controller { name: "garbage-collector-controller", start: garbage_collector::start },
    Controller { name: "namespace-controller", start: namespace::start },
    Controller { name: "node-ipam-controller", start: node_ipam::start },
    Controller { name: "node-lifecycle-controller", start: node_lifecycle::start },
    Controller { name: "replicaset-controller", start: replicaset::start },
    Controller { name: "deployment-controller", start: deployment::start },
    Controller { name: "endpointslice-controller", start: endpointslice::start },
];

impl Context {
    /// An event recorder for a controller.
    pub fn recorder(&self, controller: &str) -> Recorder {
        Recorder::new(self.client.clone(), self.clock.clone(), controller, "", &self.tasks)
    }
}

/// Queues the key of every object that changes.
pub fn enqueue_changes<K: Object>(informer: &Informer<K>, queue: &WorkQueue<ObjectKey>) {
    let queue = queue.clone();
    informer.on_event(move |event: Event<K>| queue.add(object_key(event.object().as_ref())));
}

/// Whether `--controllers` switches a controller on: named, or not excluded where `*` is.
pub fn is_enabled(name: &str, selection: &[String]) -> bool {
    if selection.iter().any(|s| s == name) {
        return true;
    }
    !selection.iter().any(|s| s.strip_prefix('-') == Some(name)) && selection.iter().any(|s| s == "*")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_controller_is_listed_once() {
        let names: BTreeSet<&str> = ALL.iter().map(|c| c.name).collect();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn the_selection_follows_upstreams_rules() {
        let of = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        assert!(is_enabled("a", &of("*")));
        assert!(!is_enabled("a", &of("*,-a")));
        assert!(is_enabled("a", &of("a")));
        assert!(!is_enabled("b", &of("a")));
    }
}
