//! VolumeRestrictions: disks that only one pod of a node may have, and claims that only one pod of the cluster may.
//!
//! Contract: KEP-2485 (ReadWriteOncePod); the in-tree disks' own rules for sharing.

use std::collections::BTreeSet;

use component_base::meta::ObjectKey;

use crate::{
    framework::{ClusterEvent, Filter, Plugin, Prepared, Verdict},
    model::{Cluster, NodeInfo, PodInfo, StorageEvent},
};

const DISK: &str = "node(s) had no available disk";
const IN_USE: &str = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod";
const ONE_POD: &str = "ReadWriteOncePod";

/// The plugin.
pub struct VolumeRestrictions;

struct Conflicts<'a> {
    pod: &'a PodInfo,
    /// Claims of the pod that only one pod may use.
    exclusive: BTreeSet<&'a str>,
    /// How often other pods use them.
    uses: usize,
}

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn filter<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster) -> Prepared<'a> {
        let mut exclusive = BTreeSet::new();
        // A claim that is made for the pod is nobody else's.
        for used in pod.claims.iter().filter(|used| !used.ephemeral) {
            let name = used.name.as_str();
            let Some(claim) = cluster.storage.claim(&pod.namespace, name) else {
                return Prepared::Reject(format!("persistentvolumeclaim {name:?} not found").into());
            };
            if claim.spec.iter().flat_map(|s| s.access_modes.iter().flatten()).any(|mode| mode == ONE_POD) {
                exclusive.insert(name);
            }
        }
        if exclusive.is_empty() && pod.disks.is_empty() {
            return Prepared::Skip;
        }
        let mut out = Conflicts { pod, exclusive, uses: 0 };
        if !out.exclusive.is_empty() {
            let pods = cluster.nodes().iter().flat_map(|node| &node.pods);
            out.uses = pods.map(|other| out.uses_of(other)).sum();
        }
        Prepared::Filter(Box::new(out))
    }

    fn wakes(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::NodeAdded(_) => true,
            ClusterEvent::PodRemoved(gone) => {
                let shares = |key: &ObjectKey| gone.has_claim(key);
                conflicts(pod, gone)
                    || pod
                        .claims
                        .iter()
                        .any(|c| shares(&ObjectKey::new(pod.namespace.as_str(), c.name.as_str())))
            }
            ClusterEvent::StorageChanged(StorageEvent::Claim { key, new }) => *new && pod.has_claim(key),
            _ => false,
        }
    }
}

impl Conflicts<'_> {
    fn uses_of(&self, other: &PodInfo) -> usize {
        if other.namespace != self.pod.namespace || other.uid == self.pod.uid {
            return 0;
        }
        other.claims.iter().filter(|used| self.exclusive.contains(used.name.as_str())).count()
    }
}

impl Filter for Conflicts<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        if node.pods.iter().any(|other| conflicts(self.pod, other)) {
            return Verdict::unschedulable(DISK);
        }
        Verdict::fits_or(self.uses == 0, || Verdict::unschedulable(IN_USE))
    }

    fn pod_added(&mut self, pod: &PodInfo, _node: &NodeInfo) {
        self.uses += self.uses_of(pod);
    }

    fn pod_removed(&mut self, pod: &PodInfo, _node: &NodeInfo) {
        self.uses = self.uses.saturating_sub(self.uses_of(pod));
    }
}

/// Whether two pods have a disk in common that they cannot share.
fn conflicts(one: &PodInfo, other: &PodInfo) -> bool {
    one.disks.iter().any(|a| other.disks.iter().any(|b| a.excludes(b)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use component_base::informer::Event;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        model::StorageChange,
        testing::{Pod, cluster, node, pod},
    };

    fn with(pod: Pod, volume: Value) -> Pod {
        let mut volume = volume;
        volume["name"] = json!("v");
        pod.set("/spec/volumes", json!([volume]))
    }

    fn verdicts(pod: &PodInfo, cluster: &Cluster) -> Vec<bool> {
        match VolumeRestrictions.filter(pod, cluster) {
            Prepared::Filter(f) => cluster.nodes().iter().map(|n| f.check(n) == Verdict::Fits).collect(),
            _ => vec![],
        }
    }

    #[test]
    fn disks_are_shared_by_their_rules() {
        let gce = |read_only: bool| json!({"gcePersistentDisk": {"pdName": "d", "readOnly": read_only}});
        let ebs = |read_only: bool| json!({"awsElasticBlockStore": {"volumeID": "d", "readOnly": read_only}});
        let rbd = |monitors: &[&str], read_only: bool| json!({"rbd": {"monitors": monitors, "pool": "p", "image": "i", "readOnly": read_only}});
        let iscsi = |iqn: &str, read_only: bool| json!({"iscsi": {"targetPortal": "t", "iqn": iqn, "lun": 0, "readOnly": read_only}});
        let table = [
            (gce(false), gce(false), false),
            (gce(true), gce(false), false),
            (gce(true), gce(true), true),
            (ebs(true), ebs(true), false),
            (gce(false), ebs(false), true),
            (rbd(&["a", "b"], false), rbd(&["b", "c"], true), false),
            (rbd(&["a", "b"], true), rbd(&["b", "c"], true), true),
            (rbd(&["a"], false), rbd(&["b"], false), true),
            (iscsi("x", false), iscsi("x", false), false),
            (iscsi("x", true), iscsi("x", true), true),
            (iscsi("x", false), iscsi("y", false), true),
        ];
        for (mine, theirs, fits) in table {
            let there = with(pod("there").on("a"), theirs.clone()).info();
            let cluster = cluster(vec![node("a", "x", json!({})), node("b", "x", json!({}))], vec![there]);
            let verdicts = verdicts(&with(pod("p"), mine.clone()).info(), &cluster);
            assert_eq!(verdicts, [fits, true], "{mine} beside {theirs}");
        }
    }

    #[test]
    fn a_claim_for_one_pod_excludes_all_others_until_that_one_goes() {
        let uses = || json!({"persistentVolumeClaim": {"claimName": "c"}});
        let there = with(pod("there").on("a"), uses()).info();
        let nodes = vec![node("a", "x", json!({})), node("b", "x", json!({}))];
        let mut cluster = cluster(nodes, vec![there.clone()]);
        let mut set = |mode: &str| {
            let claim =
                json!({"metadata": {"name": "c", "namespace": "default"}, "spec": {"accessModes": [mode]}});
            let new = Arc::new(serde_json::from_value(claim).unwrap());
            cluster.storage.take(&StorageChange::Claim(Event::Added { new, initial: true }));
        };
        set("ReadWriteOnce");
        set(ONE_POD);
        let user = with(pod("p"), uses()).info();
        assert_eq!(verdicts(&user, &cluster), [false, false]);
        let Prepared::Filter(mut filter) = VolumeRestrictions.filter(&user, &cluster) else { panic!() };
        let node = cluster.node("a").unwrap();
        filter.pod_removed(&there, node);
        assert_eq!(filter.check(cluster.node("b").unwrap()), Verdict::Fits);
        filter.pod_added(&there, node);
        assert_eq!(filter.check(cluster.node("b").unwrap()), Verdict::unschedulable(IN_USE));
        assert!(VolumeRestrictions.wakes(&user, &ClusterEvent::PodRemoved(there)));
        assert!(!VolumeRestrictions.wakes(&user, &ClusterEvent::PodRemoved(pod("q").info())));
    }

    #[test]
    fn claims_that_are_missing_are_told() {
        let user = with(pod("p"), json!({"persistentVolumeClaim": {"claimName": "c"}})).info();
        let Prepared::Reject(reason) = VolumeRestrictions.filter(&user, &Cluster::default()) else {
            panic!()
        };
        assert_eq!(reason, "persistentvolumeclaim \"c\" not found");
    }
}
