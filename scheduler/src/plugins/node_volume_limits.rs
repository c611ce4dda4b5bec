//! NodeVolumeLimits: no more volumes of a CSI driver on a node than its CSINode says it can have.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::PersistentVolume;

use crate::{
    framework::{ClusterEvent, Filter, Plugin, Prepared, Verdict},
    model::{Cluster, NodeInfo, PodInfo, Storage, StorageEvent},
};

const TOO_MANY: &str = "node(s) exceed max volume count";

/// The plugin.
pub struct NodeVolumeLimits;

/// A volume: its driver and the driver's name for it.
type Volume = (String, String);

struct Limits<'a> {
    storage: &'a Storage,
    /// The pod's volumes.
    wanted: BTreeSet<Volume>,
}

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }

    fn filter<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster) -> Prepared<'a> {
        let storage = &cluster.storage;
        let wanted: BTreeSet<Volume> = volumes_of(pod, storage).collect();
        if wanted.is_empty() {
            Prepared::Skip
        } else {
            Prepared::Filter(Box::new(Limits { storage, wanted }))
        }
    }

    fn wakes(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::NodeAdded(_) => true,
            ClusterEvent::PodRemoved(gone) => !gone.claims.is_empty(),
            ClusterEvent::StorageChanged(StorageEvent::Claim(key)) => pod.has_claim(key),
            ClusterEvent::StorageChanged(event) => {
                matches!(event, StorageEvent::Node | StorageEvent::Detached | StorageEvent::Volume)
            }
            _ => false,
        }
    }
}

/// The volumes of a pod that some driver makes.
fn volumes_of<'a>(pod: &'a PodInfo, storage: &'a Storage) -> impl Iterator<Item = Volume> + 'a {
    pod.claims.iter().filter_map(|used| volume_of(&pod.namespace, &used.name, storage))
}

/// The volume of a claim; of one that has none yet, what its class will make.
fn volume_of(namespace: &str, name: &str, storage: &Storage) -> Option<Volume> {
    let spec = storage.claim(namespace, name)?.spec.as_ref()?;
    let bound = spec.volume_name.as_deref().filter(|name| !name.is_empty());
    if let Some(volume) = bound.and_then(|name| storage.volume(name)) {
        return named(volume);
    }
    let provisioner = &storage.class(spec.storage_class_name.as_deref()?)?.provisioner;
    Some((provisioner.clone(), format!("{provisioner}-{namespace}/{name}")))
}

fn named(volume: &PersistentVolume) -> Option<Volume> {
    let source = volume.spec.as_ref()?.csi.as_ref()?;
    Some((source.driver.clone(), source.volume_handle.clone()))
}

impl Filter for Limits<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        let drivers = self.storage.node(&node.name).into_iter().flat_map(|n| &n.spec.drivers);
        let limits: BTreeMap<&str, usize> = drivers
            .filter_map(|d| Some((d.name.as_str(), usize::try_from(d.allocatable.as_ref()?.count?).ok()?)))
            .collect();
        if limits.is_empty() {
            return Verdict::Fits;
        }
        let mut there: BTreeSet<Volume> =
            node.pods.iter().flat_map(|pod| volumes_of(pod, self.storage)).collect();
        let attached = self.storage.attachments(&node.name);
        there.extend(attached.filter_map(|attachment| {
            named(self.storage.volume(attachment.spec.source.persistent_volume_name.as_deref()?)?)
        }));
        let count = |driver: &str| {
            let new = self.wanted.difference(&there).filter(|(d, _)| d == driver).count();
            (new, there.iter().filter(|(d, _)| d == driver).count())
        };
        let fits = limits.iter().all(|(driver, limit)| {
            let (new, old) = count(driver);
            new == 0 || old + new <= *limit
        });
        Verdict::fits_or(fits, || Verdict::unschedulable(TOO_MANY))
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

    fn added<K: for<'de> serde::Deserialize<'de>>(object: Value) -> Event<K> {
        Event::Added { new: Arc::new(serde_json::from_value(object).unwrap()), initial: true }
    }

    fn user(name: &str, claims: &[&str]) -> crate::testing::Pod {
        let volume = |c: &&str| json!({"name": c, "persistentVolumeClaim": {"claimName": c}});
        pod(name).set("/spec/volumes", json!(claims.iter().map(volume).collect::<Vec<_>>()))
    }

    /// Claims `c1` to `c4` are bound to volumes of driver `d`, `new` waits for one, `nfs` has another kind.
    fn world(limit: Value, pods: Vec<Arc<PodInfo>>) -> Cluster {
        let mut out = cluster(vec![node("a", "x", json!({}))], pods);
        let class = json!({"metadata": {"name": "s"}, "provisioner": "d"});
        out.storage.take(&StorageChange::Class(added(class)));
        for name in ["c1", "c2", "c3", "c4", "new", "nfs"] {
            let volume = if name == "new" { String::new() } else { format!("v-{name}") };
            let claim = json!({
                "metadata": {"name": name, "namespace": "default"},
                "spec": {"volumeName": volume, "storageClassName": "s"},
            });
            out.storage.take(&StorageChange::Claim(added(claim)));
            let source = match name {
                "nfs" => json!({"nfs": {"path": "/", "server": "s"}}),
                name => json!({"csi": {"driver": "d", "volumeHandle": name}}),
            };
            out.storage
                .take(&StorageChange::Volume(added(json!({"metadata": {"name": volume}, "spec": source}))));
        }
        let drivers = json!([{"name": "d", "nodeID": "a", "allocatable": {"count": limit}}]);
        out.storage.take(&StorageChange::Node(added(
            json!({"metadata": {"name": "a"}, "spec": {"drivers": drivers}}),
        )));
        out
    }

    fn fits(pod: &PodInfo, cluster: &Cluster) -> bool {
        match NodeVolumeLimits.filter(pod, cluster) {
            Prepared::Filter(f) => f.check(cluster.node("a").unwrap()) == Verdict::Fits,
            _ => true,
        }
    }

    #[test]
    fn volumes_are_counted_once_each() {
        let there =
            || vec![user("q", &["c1", "nfs"]).on("a").info(), user("r", &["c1", "c2"]).on("a").info()];
        let table = [
            (json!(2), &["c1"][..], true),
            (json!(2), &["c3"], false),
            (json!(2), &["new"], false),
            (json!(2), &["nfs"], true),
            (json!(3), &["c3"], true),
            (json!(3), &["new"], true),
            (json!(3), &["c3", "c4"], false),
            (json!(3), &["c3", "new"], false),
            (Value::Null, &["c3", "c4"], true),
        ];
        for (limit, claims, expected) in table {
            let cluster = world(limit.clone(), there());
            assert_eq!(fits(&user("p", claims).info(), &cluster), expected, "{claims:?} of {limit}");
        }
    }

    #[test]
    fn what_is_still_attached_counts() {
        let mut cluster = world(json!(1), vec![]);
        let attach = |volume: &str| {
            json!({
                "metadata": {"name": volume},
                "spec": {"attacher": "d", "nodeName": "a", "source": {"persistentVolumeName": volume}},
            })
        };
        cluster.storage.take(&StorageChange::Attachment(added(attach("v-c1"))));
        assert!(fits(&user("p", &["c1"]).info(), &cluster));
        assert!(!fits(&user("p", &["c2"]).info(), &cluster));
    }

    #[test]
    fn claims_that_are_missing_are_for_others_to_tell() {
        let user = user("p", &["gone"]).info();
        assert!(matches!(NodeVolumeLimits.filter(&user, &world(json!(1), vec![])), Prepared::Skip));
    }

    #[test]
    fn it_wakes_when_a_node_may_have_room_for_volumes() {
        let waiting = user("p", &["c1"]).info();
        let storage = ClusterEvent::StorageChanged;
        let claim = |name: &str| storage(StorageEvent::Claim(ObjectKey::new("default", name)));
        for (event, wakes) in [
            (ClusterEvent::NodeAdded(Arc::new(node("b", "x", json!({})))), true),
            (ClusterEvent::PodRemoved(user("q", &["c2"]).on("a").info()), true),
            (ClusterEvent::PodRemoved(user("q", &[]).on("a").info()), false),
            (claim("c1"), true),
            (claim("c2"), false),
            (storage(StorageEvent::Node), true),
            (storage(StorageEvent::Detached), true),
            (storage(StorageEvent::Class), false),
            (storage(StorageEvent::Capacity), false),
            (ClusterEvent::PodChanged, false),
        ] {
            assert_eq!(NodeVolumeLimits.wakes(&waiting, &event), wakes, "{event:?}");
        }
    }
}
