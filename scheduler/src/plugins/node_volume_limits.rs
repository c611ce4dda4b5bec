//! NodeVolumeLimits: no more volumes of a CSI driver on a node than its CSINode says it can have, and none where a driver
//! that has to be there is missing (`VolumeLimitScaling`, KEP-5030). Volumes of in-tree plugins count for the drivers that
//! do their work now.

use std::collections::{BTreeMap, BTreeSet};

use component_base::{features::Gate, volumes};
use k8s_openapi::api::{core::v1::PersistentVolume, storage::v1::CSINode};

use crate::{
    framework::{ClusterEvent, Filter, Plugin, Prepared, Verdict},
    model::{
        Cluster, NodeInfo, PodInfo, Storage, StorageEvent,
        migration::{self, Handle},
    },
};

const TOO_MANY: &str = "node(s) exceed max volume count";

/// The plugin.
pub struct NodeVolumeLimits;

/// A volume that counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Counted {
    volume: Handle,
    /// It is of an in-tree plugin: it counts on nodes that have drivers at all.
    migrated: bool,
}

struct Limits<'a> {
    storage: &'a Storage,
    /// The pod's volumes.
    wanted: BTreeSet<Counted>,
}

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }

    fn filter<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster) -> Prepared<'a> {
        let storage = &cluster.storage;
        let wanted: BTreeSet<Counted> = volumes_of(pod, storage).collect();
        if wanted.is_empty() {
            Prepared::Skip
        } else {
            Prepared::Filter(Box::new(Limits { storage, wanted }))
        }
    }

    fn wakes(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        let ClusterEvent::StorageChanged(event) = event else {
            return match event {
                ClusterEvent::PodRemoved(gone) => !gone.claims.is_empty() || !gone.inline.is_empty(),
                _ => false,
            };
        };
        match event {
            StorageEvent::Claim { key, new } => *new && pod.has_claim(key),
            StorageEvent::Node { room, .. } => *room,
            StorageEvent::Detached(driver) => {
                pod.claims.iter().any(|used| !used.ephemeral)
                    || pod.inline.iter().any(|volume| volume.driver == *driver)
            }
            _ => false,
        }
    }
}

/// The volumes of a pod that some driver looks after.
fn volumes_of<'a>(pod: &'a PodInfo, storage: &'a Storage) -> impl Iterator<Item = Counted> + 'a {
    let claimed = pod.claims.iter().filter_map(|used| volume_of(&pod.namespace, &used.name, storage));
    claimed.chain(pod.inline.iter().map(|volume| Counted { volume: volume.clone(), migrated: true }))
}

/// The volume of a claim; of one that has none yet, what its class will make.
fn volume_of(namespace: &str, name: &str, storage: &Storage) -> Option<Counted> {
    let claim = storage.claim(namespace, name)?;
    let spec = claim.spec.as_ref()?;
    let bound = spec.volume_name.as_deref().filter(|name| !name.is_empty());
    if let Some(volume) = bound.and_then(|name| storage.volume(name)) {
        let own = named(volume).map(|volume| Counted { volume, migrated: false });
        return own.or_else(|| Handle::of_volume(volume).map(|volume| Counted { volume, migrated: true }));
    }
    let class = storage.class(volumes::class_of_claim(claim)?)?;
    let (driver, migrated) = migration::provisioner(&class.provisioner)?;
    Some(Counted { volume: Handle::new(driver, format!("{driver}-{namespace}/{name}")), migrated })
}

fn named(volume: &PersistentVolume) -> Option<Handle> {
    let source = volume.spec.as_ref()?.csi.as_ref()?;
    Some(Handle::new(&source.driver, &source.volume_handle))
}

impl Limits<'_> {
    /// The first driver of the pod's that has to be on the node and is not.
    fn missing<'s>(&'s self, wanted: &[&'s Handle], drivers: Option<&CSINode>) -> Option<&'s str> {
        if !self.storage.has(Gate::VolumeLimitScaling) {
            return None;
        }
        let must_be = |name: &str| {
            let driver = self.storage.driver(name);
            driver.is_some_and(|driver| driver.spec.prevent_pod_scheduling_if_missing == Some(true))
        };
        let is_there =
            |name: &str| drivers.is_some_and(|node| node.spec.drivers.iter().any(|d| d.name == name));
        wanted.iter().map(|volume| volume.driver.as_str()).find(|name| must_be(name) && !is_there(name))
    }
}

impl Filter for Limits<'_> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        let drivers = self.storage.node(&node.name);
        let counts = |counted: &&Counted| !counted.migrated || drivers.is_some();
        let wanted: Vec<&Handle> = self.wanted.iter().filter(counts).map(|counted| &counted.volume).collect();
        if let Some(driver) = self.missing(&wanted, drivers.map(AsRef::as_ref)) {
            return Verdict::unschedulable(format!("{driver} CSI driver is not installed on the node"));
        }
        let limits: BTreeMap<&str, usize> = drivers
            .into_iter()
            .flat_map(|node| &node.spec.drivers)
            .filter_map(|d| Some((d.name.as_str(), usize::try_from(d.allocatable.as_ref()?.count?).ok()?)))
            .collect();
        if limits.is_empty() {
            return Verdict::Fits;
        }
        let mut there: BTreeSet<Handle> = node
            .pods
            .iter()
            .flat_map(|pod| volumes_of(pod, self.storage))
            .map(|counted| counted.volume)
            .collect();
        let attached = self.storage.attachments(&node.name);
        there.extend(attached.filter_map(|attachment| {
            named(self.storage.volume(attachment.spec.source.persistent_volume_name.as_deref()?)?)
        }));
        let count = |driver: &str| {
            let new =
                wanted.iter().filter(|volume| volume.driver == driver && !there.contains(volume)).count();
            (new, there.iter().filter(|volume| volume.driver == driver).count())
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

    use component_base::{features::Gates, informer::Event, meta::ObjectKey};
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
    fn volumes_of_plugins_count_for_their_successors() {
        let cinder = |name: &str, id: &str| {
            pod(name).set("/spec/volumes", json!([{"name": "v", "cinder": {"volumeID": id}}]))
        };
        let there = vec![cinder("q", "c1").on("a").info()];
        let mut cluster = world(Value::Null, there);
        assert!(fits(&cinder("p", "c2").info(), &cluster), "the driver is not there");
        let drivers =
            json!([{"name": "cinder.csi.openstack.org", "nodeID": "a", "allocatable": {"count": 1}}]);
        let limited = json!({"metadata": {"name": "a"}, "spec": {"drivers": drivers}});
        cluster.storage.take(&StorageChange::Node(added(limited)));
        assert!(fits(&cinder("p", "c1").info(), &cluster), "it is there already");
        assert!(!fits(&cinder("p", "c2").info(), &cluster));
        let class = json!({"metadata": {"name": "old"}, "provisioner": "kubernetes.io/cinder"});
        cluster.storage.take(&StorageChange::Class(added(class)));
        for (name, spec) in [
            ("to-be", json!({"storageClassName": "old"})),
            ("bound", json!({"storageClassName": "old", "volumeName": "v-old"})),
            ("same", json!({"storageClassName": "old", "volumeName": "v-same"})),
        ] {
            let claim = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
            cluster.storage.take(&StorageChange::Claim(added(claim)));
        }
        for (name, id) in [("v-old", "c3"), ("v-same", "c1")] {
            let volume = json!({"metadata": {"name": name}, "spec": {"cinder": {"volumeID": id}}});
            cluster.storage.take(&StorageChange::Volume(added(volume)));
        }
        assert!(!fits(&user("p", &["to-be"]).info(), &cluster));
        assert!(!fits(&user("p", &["bound"]).info(), &cluster));
        assert!(fits(&user("p", &["same"]).info(), &cluster));
    }

    #[test]
    fn a_driver_that_has_to_be_there_keeps_pods_off_nodes_without_it() {
        let driver =
            |must: bool| json!({"metadata": {"name": "d"}, "spec": {"preventPodSchedulingIfMissing": must}});
        let says = |must: bool, on: bool, drivers: Value| {
            let mut cluster = world(Value::Null, vec![]);
            cluster.storage.gate(Gates::default().with(Gate::VolumeLimitScaling, on));
            cluster.storage.take(&StorageChange::Driver(added(driver(must))));
            cluster.storage.take(&StorageChange::Node(added(
                json!({"metadata": {"name": "a"}, "spec": {"drivers": drivers}}),
            )));
            let user = user("p", &["c1"]).info();
            match NodeVolumeLimits.filter(&user, &cluster) {
                Prepared::Filter(f) => f.check(cluster.node("a").unwrap()),
                _ => Verdict::Fits,
            }
        };
        let missing = Verdict::unschedulable("d CSI driver is not installed on the node".to_owned());
        assert_eq!(says(true, true, json!([])), missing);
        assert_eq!(says(true, false, json!([])), Verdict::Fits, "the gate is off");
        assert_eq!(says(false, true, json!([])), Verdict::Fits, "the driver does not ask for it");
        assert_eq!(says(true, true, json!([{"name": "d", "nodeID": "a"}])), Verdict::Fits);
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
        let claim =
            |name: &str| storage(StorageEvent::Claim { key: ObjectKey::new("default", name), new: true });
        let inline =
            pod("i").set("/spec/volumes", json!([{"name": "v", "cinder": {"volumeID": "c"}}])).info();
        let detached = |driver: &str| storage(StorageEvent::Detached(driver.to_owned()));
        assert!(NodeVolumeLimits.wakes(&inline, &detached("cinder.csi.openstack.org")));
        assert!(!NodeVolumeLimits.wakes(&inline, &detached("d")));
        for (event, wakes) in [
            (ClusterEvent::NodeAdded(Arc::new(node("b", "x", json!({})))), false),
            (ClusterEvent::PodRemoved(inline.clone()), true),
            (ClusterEvent::PodRemoved(user("q", &["c2"]).on("a").info()), true),
            (ClusterEvent::PodRemoved(user("q", &[]).on("a").info()), false),
            (claim("c1"), true),
            (claim("c2"), false),
            (storage(StorageEvent::Node { new: false, room: true, migrated: false }), true),
            (storage(StorageEvent::Node { new: false, room: false, migrated: true }), false),
            (storage(StorageEvent::Claim { key: ObjectKey::new("default", "c"), new: false }), false),
            (detached("d"), true),
            (storage(StorageEvent::Volume { new: true, moved: true }), false),
            (storage(StorageEvent::Class { new: true, waits: true }), false),
            (storage(StorageEvent::Capacity { new: true }), false),
            (ClusterEvent::NamespaceChanged, false),
        ] {
            assert_eq!(NodeVolumeLimits.wakes(&waiting, &event), wakes, "{event:?}");
        }
    }
}
