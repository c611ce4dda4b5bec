//! VolumeZone: volumes that carry labels of a zone or region draw their pods there.

use std::collections::BTreeSet;

use component_base::volumes;

use crate::{
    framework::{ClusterEvent, Filter, Plugin, Prepared, Reason, Verdict},
    model::{Cluster, NodeInfo, PodInfo, StorageEvent},
};

const OLD_ZONE: &str = "failure-domain.beta.kubernetes.io/zone";
const OLD_REGION: &str = "failure-domain.beta.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";
const REGION: &str = "topology.kubernetes.io/region";
const LABELS: &[&str] = &[OLD_ZONE, OLD_REGION, ZONE, REGION];
/// Between the zones of a volume that is in several.
const SEPARATOR: &str = "__";
const WAITS: &str = "WaitForFirstConsumer";
const CONFLICT: &str = "node(s) had no available volume zone";

/// The plugin.
pub struct VolumeZone;

/// The values that labels of the pod's volumes allow, each with its key.
struct Places<'a>(Vec<(&'static str, BTreeSet<&'a str>)>);

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }

    fn filter<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster) -> Prepared<'a> {
        let mut places = Vec::new();
        for used in pod.claims.iter().filter(|used| !used.ephemeral) {
            match places_of(pod, &used.name, cluster) {
                Ok(more) => places.extend(more),
                Err(reason) => return Prepared::Reject(reason),
            }
        }
        if places.is_empty() { Prepared::Skip } else { Prepared::Filter(Box::new(Places(places))) }
    }

    fn wakes(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::NodeAdded(_) => true,
            ClusterEvent::NodeUpdated { old, new } => old.labels != new.labels,
            ClusterEvent::StorageChanged(event) => match event {
                StorageEvent::Claim { key, .. } => pod.has_claim(key),
                StorageEvent::Volume { new, moved } => *new || *moved,
                StorageEvent::Class { new, waits } => *new && *waits,
                _ => false,
            },
            _ => false,
        }
    }
}

/// Where the volume of a claim is; the error says why no node can have it.
fn places_of<'a>(
    pod: &PodInfo,
    name: &str,
    cluster: &'a Cluster,
) -> Result<Vec<(&'static str, BTreeSet<&'a str>)>, Reason> {
    let storage = &cluster.storage;
    let Some(claim) = storage.claim(&pod.namespace, name) else {
        return Err(format!("persistentvolumeclaim {name:?} not found").into());
    };
    let spec = claim.spec.as_ref();
    let volume = spec.and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
    if volume.is_empty() {
        let class = volumes::class_of_claim(claim).unwrap_or_default();
        if class.is_empty() {
            return Err("PersistentVolumeClaim had no pv name and storageClass name".into());
        }
        return match storage.class(class) {
            None => Err(format!("storageclass.storage.k8s.io {class:?} not found").into()),
            // Its volume will be chosen for the node.
            Some(class) if class.volume_binding_mode.as_deref() == Some(WAITS) => Ok(Vec::new()),
            Some(_) => Err("PersistentVolume had no name".into()),
        };
    }
    let Some(found) = storage.volume(volume) else {
        return Err(format!("persistentvolume {volume:?} not found").into());
    };
    let labels = found.metadata.labels.as_ref();
    let values = |key: &&'static str| {
        let values: BTreeSet<&str> = labels?.get(*key)?.split(SEPARATOR).map(str::trim).collect();
        // A label that names no place among others is none.
        (!values.contains("")).then_some((*key, values))
    };
    Ok(LABELS.iter().filter_map(values).collect())
}

impl Filter for Places<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        // Nodes without any such label are in a cluster that has no zones.
        if !LABELS.iter().any(|key| node.labels.contains_key(*key)) {
            return Verdict::Fits;
        }
        let fits = |(key, values): &(&'static str, BTreeSet<&str>)| {
            let newer = match *key {
                OLD_ZONE => ZONE,
                OLD_REGION => REGION,
                key => key,
            };
            let has = node.labels.get(*key).or_else(|| node.labels.get(newer));
            has.is_some_and(|has| values.contains(has.as_str()))
        };
        Verdict::fits_or(self.0.iter().all(fits), || Verdict::unresolvable(CONFLICT))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use component_base::{informer::Event, meta::ObjectKey};
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        model::StorageChange,
        testing::{cluster, node, pod},
    };

    fn world(labels: Value, claim: Value) -> Cluster {
        let bare = json!({"metadata": {"labels": null}});
        let mut out =
            cluster(vec![node("a", "x", json!({})), node("b", "y", json!({})), node("c", "", bare)], vec![]);
        let claim = json!({"metadata": {"name": "c", "namespace": "default"}, "spec": claim});
        let claim = Event::Added { new: Arc::new(serde_json::from_value(claim).unwrap()), initial: true };
        out.storage.take(&StorageChange::Claim(claim));
        let volume = json!({"metadata": {"name": "v", "labels": labels}});
        let volume = Event::Added { new: Arc::new(serde_json::from_value(volume).unwrap()), initial: true };
        out.storage.take(&StorageChange::Volume(volume));
        out
    }

    fn fits(cluster: &Cluster) -> Result<Vec<bool>, String> {
        let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
        let pod = pod("p").set("/spec/volumes", volumes).info();
        match VolumeZone.filter(&pod, cluster) {
            Prepared::Reject(reason) => Err(reason.into_owned()),
            Prepared::Filter(f) => Ok(cluster.nodes().iter().map(|n| f.check(n) == Verdict::Fits).collect()),
            Prepared::Skip | Prepared::Restrict(..) => Ok(vec![]),
        }
    }

    #[test]
    fn a_volume_in_a_zone_draws_its_pod_there() {
        let bound = || json!({"volumeName": "v"});
        let table = [
            (json!({ZONE: "x"}), vec![true, false, true]),
            (json!({ZONE: "x__y"}), vec![true, true, true]),
            (json!({OLD_ZONE: "y"}), vec![false, true, true]),
            (json!({ZONE: "x", REGION: "r"}), vec![false, false, true]),
            (json!({"other": "x"}), vec![]),
            (json!({ZONE: "y__ x"}), vec![true, true, true]),
            // A zone without a name makes the label none.
            (json!({ZONE: "x__"}), vec![]),
            (json!({ZONE: "x__", OLD_ZONE: "x"}), vec![true, false, true]),
        ];
        for (labels, expected) in table {
            assert_eq!(fits(&world(labels.clone(), bound())).unwrap(), expected, "{labels}");
        }
    }

    #[test]
    fn claims_without_a_volume_are_told() {
        let table = [
            (json!({}), "PersistentVolumeClaim had no pv name and storageClass name"),
            (json!({"storageClassName": "s"}), "storageclass.storage.k8s.io \"s\" not found"),
            (json!({"volumeName": "w"}), "persistentvolume \"w\" not found"),
        ];
        for (claim, expected) in table {
            assert_eq!(fits(&world(json!({}), claim)).unwrap_err(), expected);
        }
    }

    #[test]
    fn it_wakes_when_volumes_or_places_change() {
        let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
        let waiting = pod("p").set("/spec/volumes", volumes).info();
        let of = |zone: &str, more: Value| Arc::new(node("a", zone, more));
        let claim = |name: &str| {
            ClusterEvent::StorageChanged(StorageEvent::Claim {
                key: ObjectKey::new("default", name),
                new: false,
            })
        };
        let full = || json!({"status": {"allocatable": {"cpu": "8"}}});
        for (event, wakes) in [
            (ClusterEvent::NodeAdded(of("x", json!({}))), true),
            (ClusterEvent::NodeUpdated { old: of("x", json!({})), new: of("y", json!({})) }, true),
            (ClusterEvent::NodeUpdated { old: of("x", json!({})), new: of("x", full()) }, false),
            (claim("c"), true),
            (claim("other"), false),
            (ClusterEvent::StorageChanged(StorageEvent::Volume { new: true, moved: false }), true),
            (ClusterEvent::StorageChanged(StorageEvent::Volume { new: false, moved: true }), true),
            (ClusterEvent::StorageChanged(StorageEvent::Volume { new: false, moved: false }), false),
            (ClusterEvent::StorageChanged(StorageEvent::Class { new: true, waits: true }), true),
            (ClusterEvent::StorageChanged(StorageEvent::Class { new: true, waits: false }), false),
            (ClusterEvent::StorageChanged(StorageEvent::Class { new: false, waits: true }), false),
            (ClusterEvent::StorageChanged(StorageEvent::Detached("d".into())), false),
            (ClusterEvent::PodRemoved(pod("q").on("a").info()), false),
        ] {
            assert_eq!(VolumeZone.wakes(&waiting, &event), wakes, "{event:?}");
        }
    }
}
