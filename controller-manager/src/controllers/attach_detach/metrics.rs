//! How many volumes are in use on which node, and how many are and should be attached.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};

use component_base::{
    meta::ObjectKey,
    metrics::{self, Counts, Stability},
};
use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use prometheus::IntCounterVec;

use super::{Controller, names, plan};
use crate::controllers::volume_protection::claims_of;

/// Detachments that did not wait for the node.
pub(super) static FORCED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counter_vec(
        "attach_detach_controller_attachdetach_controller_forced_detaches",
        "Number of times the A/D Controller performed a forced detach",
        Stability::Alpha,
        &["reason"],
    )
});

/// Serves the counts, made from the caches whenever they are read.
pub(super) fn register(controller: &Controller) {
    let in_use = controller.clone();
    metrics::counted(
        "storage_count_attachable_volumes_in_use",
        "Measure number of volumes in use",
        Stability::Alpha,
        &["node", "volume_plugin"],
        move || {
            let volumes = by_claim(in_use.volumes.store().list());
            let used = |claim: &ObjectKey| volumes.get(claim).and_then(|volume| plugin(volume));
            uses(in_use.pods.store().list().iter().map(AsRef::as_ref), used)
        },
    );
    let attached = controller.clone();
    metrics::counted(
        "attachdetach_controller_total_volumes",
        "Number of volumes in A/D Controller",
        Stability::Alpha,
        &["plugin_name", "state"],
        move || attached.attached_and_wanted(),
    );
}

impl Controller {
    fn attached_and_wanted(&self) -> Counts {
        let mut out = Counts::new();
        let mut add = |plugin: Option<String>, state: &str| {
            if let Some(plugin) = plugin {
                *out.entry(vec![plugin, state.to_owned()]).or_insert(0) += 1;
            }
        };
        for volume in self.volumes.store().list() {
            for _node in self.wanted(Some(&volume)).keys() {
                add(plugin(&volume), "desired_state_of_world");
            }
        }
        for attachment in self.attachments.store().list() {
            let name = names::volume_of(&attachment).unwrap_or_default();
            let volume = self.volumes.store().get(&ObjectKey::cluster(name));
            if plan::is_attached(&attachment) {
                add(volume.and_then(|volume| plugin(&volume)), "actual_state_of_world");
            }
        }
        out
    }
}

fn by_claim(volumes: Vec<Arc<PersistentVolume>>) -> BTreeMap<ObjectKey, Arc<PersistentVolume>> {
    volumes.into_iter().filter_map(|volume| Some((names::claim_of(&volume)?, volume))).collect()
}

/// What upstream calls the plugin of a volume that somebody attaches.
fn plugin(volume: &PersistentVolume) -> Option<String> {
    names::driver(volume).map(|driver| format!("kubernetes.io/csi:{driver}"))
}

/// Volumes that pods use, by node and plugin.
fn uses<'p>(pods: impl Iterator<Item = &'p Pod>, plugin_of: impl Fn(&ObjectKey) -> Option<String>) -> Counts {
    let mut out = Counts::new();
    for pod in pods {
        let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
        if node.is_empty() {
            continue;
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let claims: BTreeSet<String> = claims_of(pod).into_iter().map(|name| name.to_string()).collect();
        for claim in claims {
            if let Some(plugin) = plugin_of(&ObjectKey::new(namespace, claim)) {
                *out.entry(vec![node.clone(), plugin]).or_insert(0) += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn volumes_in_use_count_once_for_each_pod_that_has_a_node() {
        let pod = |node: &str, claims: &[&str]| -> Pod {
            let volumes: Vec<_> = claims
                .iter()
                .map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}))
                .collect();
            serde_json::from_value(json!({"metadata": {"namespace": "d", "name": "p"},
                "spec": {"nodeName": node, "containers": [], "volumes": volumes}}))
            .unwrap()
        };
        let pods = [pod("n1", &["a", "b"]), pod("n1", &["a"]), pod("n2", &["other"]), pod("", &["a"])];
        let plugin_of = |key: &ObjectKey| (&*key.name != "other").then(|| "kubernetes.io/csi:x".to_owned());
        let expected = Counts::from([(vec!["n1".to_owned(), "kubernetes.io/csi:x".to_owned()], 3)]);
        assert_eq!(uses(pods.iter(), plugin_of), expected);
    }
}
