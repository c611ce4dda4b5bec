//! NodeDeclaredFeatures: pods that need what not every node can run only where the node says that it can.
//!
//! Contract: KEP-5328. Which pods need what is in [`PodInfo::features`].

use crate::{
    framework::{ClusterEvent, Filter, Plugin, Prepared, Verdict},
    model::{Cluster, NodeInfo, PodInfo},
};

/// The plugin.
pub struct NodeDeclaredFeatures;

struct Needs<'a>(&'a [&'static str]);

impl Plugin for NodeDeclaredFeatures {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatures"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn filter<'a>(&self, pod: &'a PodInfo, _cluster: &'a Cluster) -> Prepared<'a> {
        match pod.features.as_slice() {
            [] => Prepared::Skip,
            needed => Prepared::Filter(Box::new(Needs(needed))),
        }
    }

    fn wakes(&self, _pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::NodeAdded(_) => true,
            ClusterEvent::PodChanged { old, new } => old.features != new.features,
            ClusterEvent::NodeUpdated { old, new } => old.features != new.features,
            _ => false,
        }
    }
}

impl Filter for Needs<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        let declares = |name: &&str| node.features.iter().any(|declared| declared == name);
        Verdict::fits_or(self.0.iter().all(declares), || {
            Verdict::unresolvable("node(s) didn't match Pod's required features")
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{node, pod};

    const RESTART: &str = "RestartAllContainersOnContainerExits";
    const NETWORK: &str = "UserNamespacesHostNetworkSupport";

    fn verdict(spec: &[(&str, Value)], declared: &[&str]) -> Option<Verdict> {
        let pod = spec.iter().fold(pod("p"), |pod, (path, value)| pod.set(path, value.clone())).info();
        let node = node("n", "z", json!({"status": {"declaredFeatures": declared}}));
        match NodeDeclaredFeatures.filter(&pod, &Cluster::default()) {
            Prepared::Filter(filter) => Some(filter.check(&node)),
            _ => None,
        }
    }

    #[test]
    fn nodes_must_declare_what_the_pod_needs() {
        let rule = |action: &str| json!([{"name": "c", "restartPolicyRules": [{"action": action}]}]);
        let restarts = [("/spec/containers", rule("RestartAllContainers"))];
        let at_first = [("/spec/initContainers", rule("RestartAllContainers"))];
        let network = [("/spec/hostNetwork", json!(true)), ("/spec/hostUsers", json!(false))];
        let both = [restarts[0].clone(), network[0].clone(), network[1].clone()];
        let no = || Some(Verdict::unresolvable("node(s) didn't match Pod's required features"));
        let yes = || Some(Verdict::Fits);
        type Row<'a> = (&'a [(&'a str, Value)], &'a [&'a str], Option<Verdict>);
        let table: [Row<'_>; 10] = [
            (&[], &[], None),
            (&[("/spec/containers", rule("Restart"))], &[], None),
            (&[("/spec/hostNetwork", json!(true))], &[], None),
            (&restarts, &[], no()),
            (&restarts, &[RESTART], yes()),
            (&at_first, &[NETWORK], no()),
            (&network, &[RESTART], no()),
            (&network, &[NETWORK], yes()),
            (&both, &[NETWORK], no()),
            (&both, &[NETWORK, "Another", RESTART], yes()),
        ];
        for (spec, declared, expected) in table {
            assert_eq!(verdict(spec, declared), expected, "{spec:?} on {declared:?}");
        }
    }

    #[test]
    fn only_features_that_change_wake_pods() {
        let with =
            |features: &[&str]| Arc::new(node("n", "z", json!({"status": {"declaredFeatures": features}})));
        let wakes = |old: &[&str], new: &[&str]| {
            let event = ClusterEvent::NodeUpdated { old: with(old), new: with(new) };
            NodeDeclaredFeatures.wakes(&pod("p").info(), &event)
        };
        assert!(wakes(&[], &[NETWORK]) && !wakes(&[NETWORK], &[NETWORK]));
        assert!(NodeDeclaredFeatures.wakes(&pod("p").info(), &ClusterEvent::NodeAdded(with(&[]))));
    }
}
