//! How many volumes are in use on which node, and how many are and should be attached.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use component_base::{
    meta::ObjectKey,
    metrics::{self, Counts, Stability},
};
use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use prometheus::IntCounterVec;

use super::{Controller, inline, names, plan};
use crate::controllers::{
    attachable::{Attachable, plugin_of},
    volume_protection::claim_name,
};

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
            let used = |claim: &ObjectKey| Some(Attachable::of_volume(volumes.get(claim)?)?.plugin());
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
        let mut add = |plugin: String, state: &str| {
            *out.entry(vec![plugin, state.to_owned()]).or_insert(0) += 1;
        };
        let own = self.volumes.store().list();
        let own = own.iter().filter_map(|volume| Attachable::of_volume(volume));
        let pods = self.pods.store().list();
        let all =
            own.chain(pods.iter().flat_map(|pod| inline(pod))).map(|volume| (volume.unique.clone(), volume));
        for (name, volume) in all.collect::<BTreeMap<String, Attachable>>() {
            for node in self.wanted(&name).keys() {
                if self.node(node).is_some_and(|node| plan::is_managed(&node)) {
                    add(volume.plugin(), "desired_state_of_world");
                }
            }
            let attached = self.attached(&name, &BTreeMap::new());
            for _node in attached.iter().filter(|a| a.by.as_ref().is_none_or(|by| plan::is_attached(by))) {
                add(volume.plugin(), "actual_state_of_world");
            }
        }
        out
    }
}

fn by_claim(volumes: Vec<Arc<PersistentVolume>>) -> BTreeMap<ObjectKey, Arc<PersistentVolume>> {
    volumes.into_iter().filter_map(|volume| Some((names::claim_of(&volume)?, volume))).collect()
}

/// Volumes that pods use, by node and plugin: each as often as a pod names it.
fn uses<'p>(
    pods: impl Iterator<Item = &'p Pod>,
    plugin_of_claim: impl Fn(&ObjectKey) -> Option<String>,
) -> Counts {
    let mut out = Counts::new();
    for pod in pods {
        let Some(spec) = &pod.spec else { continue };
        let node = spec.node_name.clone().unwrap_or_default();
        if node.is_empty() {
            continue;
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for volume in spec.volumes.iter().flatten() {
            let plugin = match (claim_name(pod, volume), &volume.csi) {
                (Some(claim), _) => plugin_of_claim(&ObjectKey::new(namespace, claim)),
                (None, Some(own)) => Some(plugin_of(&own.driver)),
                (None, None) => Attachable::of_inline(volume, namespace).map(|volume| volume.plugin()),
            };
            if let Some(plugin) = plugin {
                *out.entry(vec![node.clone(), plugin]).or_insert(0) += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn volumes_in_use_count_as_often_as_pods_with_a_node_name_them() {
        let pod = |node: &str, volumes: &[Value]| -> Pod {
            let named = volumes.iter().enumerate().map(|(at, volume)| {
                let mut volume = volume.clone();
                volume["name"] = format!("v{at}").into();
                volume
            });
            serde_json::from_value(json!({"metadata": {"namespace": "d", "name": "p"},
                "spec": {"nodeName": node, "containers": [], "volumes": named.collect::<Vec<_>>()}}))
            .unwrap()
        };
        let claim = |name: &str| json!({"persistentVolumeClaim": {"claimName": name}});
        let pods = [
            pod("n1", &[claim("a"), claim("b"), json!({"emptyDir": {}})]),
            pod("n1", &[claim("a"), claim("a")]),
            pod("n2", &[claim("other"), json!({"csi": {"driver": "y"}}), json!({"fc": {"wwids": ["w"]}})]),
            pod("n2", &[json!({"awsElasticBlockStore": {"volumeID": "vol-1"}})]),
            pod("", &[claim("a")]),
        ];
        let plugin_of = |key: &ObjectKey| (&*key.name != "other").then(|| "kubernetes.io/csi:x".to_owned());
        let expected = [
            ("n1", "kubernetes.io/csi:x", 4),
            ("n2", "kubernetes.io/csi:ebs.csi.aws.com", 1),
            ("n2", "kubernetes.io/csi:y", 1),
            ("n2", "kubernetes.io/fc", 1),
        ];
        let expected = expected.map(|(node, plugin, n)| (vec![node.to_owned(), plugin.to_owned()], n));
        assert_eq!(uses(pods.iter(), plugin_of), Counts::from(expected));
    }
}
