use component_base::meta::ObjectKey;
use serde_json::{Value, json};

use super::*;
use crate::{
    model::StorageChange,
    testing::{cluster, node, pod, scores},
};

fn added<K>(object: Value) -> component_base::informer::Event<K>
where
    K: for<'de> serde::Deserialize<'de>,
{
    component_base::informer::Event::Added {
        new: Arc::new(serde_json::from_value(object).unwrap()),
        initial: true,
    }
}

fn claim(name: &str, class: &str, size: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": {
            "storageClassName": class, "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": size}},
        },
        "status": {"phase": "Pending"},
    })
}

fn volume(name: &str, class: &str, size: &str, host: &str) -> Value {
    let expression = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [host]});
    json!({
        "metadata": {"name": name},
        "spec": {
            "storageClassName": class, "accessModes": ["ReadWriteOnce"], "capacity": {"storage": size},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}},
        },
        "status": {"phase": "Available"},
    })
}

fn class(name: &str, provisioner: &str, mode: &str) -> Value {
    json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode})
}

/// Two nodes, `a` in zone `x` and `b` in zone `y`, with classes `local` (no provisioner), `made` and `now`.
fn world(claims: &[Value], volumes: &[Value]) -> Cluster {
    let mut out = cluster(vec![node("a", "x", json!({})), node("b", "y", json!({}))], vec![]);
    for class in [
        class("local", NO_PROVISIONER, WAITS),
        class("made", "p.io", WAITS),
        class("now", "p.io", "Immediate"),
    ] {
        out.storage.take(&StorageChange::Class(added(class)));
    }
    for claim in claims {
        out.storage.take(&StorageChange::Claim(added(claim.clone())));
    }
    for volume in volumes {
        out.storage.take(&StorageChange::Volume(added(volume.clone())));
    }
    out
}

fn user(claims: &[&str]) -> Arc<PodInfo> {
    let volumes: Vec<Value> = claims
        .iter()
        .map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}))
        .collect();
    pod("p").set("/spec/volumes", json!(volumes)).info()
}

/// What every node says, or why none is asked.
fn verdicts(pod: &PodInfo, cluster: &Cluster) -> Result<Vec<Vec<String>>, String> {
    match VolumeBinding::default().filter(pod, cluster) {
        Prepared::Reject(reason) => Err(reason.into_owned()),
        Prepared::Filter(filter) => Ok(cluster
            .nodes()
            .iter()
            .map(|node| match filter.check(node) {
                Verdict::Fits => vec![],
                Verdict::Failed(reason) => vec![reason.into_owned()],
                Verdict::Unschedulable(reasons) | Verdict::Unresolvable(reasons) => {
                    reasons.into_iter().map(|r| r.into_owned()).collect()
                }
            })
            .collect()),
        Prepared::Skip | Prepared::Restrict(..) => Ok(vec![]),
    }
}

fn reserve(pod: &PodInfo, cluster: &Cluster, node: &str) -> Reservation {
    VolumeBinding::default().reserve(pod, cluster, cluster.node(node).unwrap())
}

fn with(mut object: Value, pointer: &[&str], value: Value) -> Value {
    let mut at = &mut object;
    for part in pointer {
        at = &mut at[*part];
    }
    *at = value;
    object
}

fn bound(claim: Value, volume: &str) -> Value {
    let claim = with(claim, &["spec", "volumeName"], json!(volume));
    with(claim, &["metadata", "annotations"], json!({BIND_COMPLETED: "yes"}))
}

#[test]
fn pods_without_claims_are_no_business_of_this_plugin() {
    assert!(matches!(VolumeBinding::default().filter(&pod("p").info(), &Cluster::default()), Prepared::Skip));
}

#[test]
fn claims_that_no_node_can_help_are_told() {
    let deleted =
        with(claim("c", "local", "1Gi"), &["metadata", "deletionTimestamp"], json!("2026-01-01T00:00:00Z"));
    let lost = with(bound(claim("c", "local", "1Gi"), "v"), &["status", "phase"], json!("Lost"));
    let promised = with(claim("c", "local", "1Gi"), &["spec", "volumeName"], json!("v"));
    let cases = [
        (vec![], "persistentvolumeclaim \"c\" not found"),
        (vec![deleted], "persistentvolumeclaim \"c\" is being deleted"),
        (vec![lost], "persistentvolumeclaim \"c\" bound to non-existent persistentvolume \"v\""),
        (vec![claim("c", "now", "1Gi")], UNBOUND),
        (vec![claim("c", "", "1Gi")], UNBOUND),
        (vec![promised], UNBOUND),
    ];
    for (claims, expected) in cases {
        assert_eq!(verdicts(&user(&["c"]), &world(&claims, &[])).unwrap_err(), expected);
    }
}

#[test]
fn ephemeral_claims_must_be_there_and_be_the_pods_own() {
    let volumes = json!([{"name": "c", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]);
    let user = pod("p").set("/spec/volumes", volumes).info();
    let waiting = "waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-c\"";
    assert_eq!(verdicts(&user, &world(&[], &[])).unwrap_err(), waiting);
    let foreign = claim("p-c", "made", "1Gi");
    let not_owner = "PVC default/p-c was not created for pod default/p (pod is not owner)";
    assert_eq!(verdicts(&user, &world(std::slice::from_ref(&foreign), &[])).unwrap_err(), not_owner);
    let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "uid-p", "controller": true}]);
    let own = with(foreign, &["metadata", "ownerReferences"], owner);
    assert_eq!(verdicts(&user, &world(&[own], &[])).unwrap(), [vec![], Vec::<String>::new()]);
}

#[test]
fn bound_volumes_draw_pods_to_their_nodes() {
    let cluster = world(&[bound(claim("c", "local", "1Gi"), "v")], &[volume("v", "local", "1Gi", "b")]);
    let user = user(&["c"]);
    assert_eq!(verdicts(&user, &cluster).unwrap(), [vec![NODE_CONFLICT.to_owned()], vec![]]);
    assert!(reserve(&user, &cluster, "b").is_empty());
    let without = world(&[bound(claim("c", "local", "1Gi"), "v")], &[]);
    assert_eq!(verdicts(&user, &without).unwrap(), [vec![NO_VOLUME.to_owned()], vec![NO_VOLUME.to_owned()]]);
}

#[test]
fn a_waiting_claim_gets_the_smallest_volume_of_the_node() {
    let volumes = [
        volume("big", "local", "5Gi", "a"),
        volume("fits", "local", "2Gi", "a"),
        volume("small", "local", "500Mi", "a"),
        volume("elsewhere", "local", "1Gi", "b"),
        volume("other-class", "made", "1Gi", "a"),
    ];
    let cluster = world(&[claim("c", "local", "1Gi")], &volumes);
    let user = user(&["c"]);
    assert_eq!(verdicts(&user, &cluster).unwrap(), [vec![], Vec::<String>::new()]);
    let reservation = reserve(&user, &cluster, "a");
    assert_eq!(reservation.awaited.len(), 1);
    let taken = &reservation.volumes[0];
    assert_eq!(taken.metadata.name.as_deref(), Some("fits"));
    let reference = taken.spec.as_ref().unwrap().claim_ref.as_ref().unwrap();
    assert_eq!((reference.name.as_deref(), reference.uid.as_deref()), (Some("c"), Some("uid-c")));
    assert_eq!(annotation(&taken.metadata, volumes::BOUND_BY_CONTROLLER), Some("yes"));
}

#[test]
fn two_claims_get_two_volumes() {
    let claims = [claim("large", "local", "3Gi"), claim("c", "local", "1Gi")];
    let two = [volume("big", "local", "5Gi", "a"), volume("little", "local", "1Gi", "a")];
    let cluster = world(&claims, &two);
    let user = user(&["large", "c"]);
    let none = vec![BIND_CONFLICT.to_owned()];
    assert_eq!(verdicts(&user, &cluster).unwrap(), [vec![], none.clone()]);
    let reservation = reserve(&user, &cluster, "a");
    let names: Vec<&str> = reservation.volumes.iter().filter_map(|v| v.metadata.name.as_deref()).collect();
    assert_eq!(names, ["little", "big"]);
    assert_eq!(verdicts(&user, &world(&claims, &two[..1])).unwrap(), [none.clone(), none]);
}

#[test]
fn a_volume_kept_for_the_claim_is_the_only_one() {
    let reference = json!({"namespace": "default", "name": "c"});
    let kept = with(volume("kept", "local", "5Gi", "b"), &["spec", "claimRef"], reference);
    let cluster = world(&[claim("c", "local", "1Gi")], &[kept, volume("free", "local", "1Gi", "b")]);
    let reservation = reserve(&user(&["c"]), &cluster, "b");
    assert_eq!(reservation.volumes[0].metadata.name.as_deref(), Some("kept"));
    assert_eq!(annotation(&reservation.volumes[0].metadata, volumes::BOUND_BY_CONTROLLER), None);
    let taken = with(
        volume("taken", "local", "1Gi", "a"),
        &["spec", "claimRef"],
        json!({"namespace": "default", "name": "x"}),
    );
    let cluster = world(&[claim("c", "local", "1Gi")], &[taken]);
    assert_eq!(verdicts(&user(&["c"]), &cluster).unwrap(), vec![vec![BIND_CONFLICT.to_owned()]; 2]);
}

#[test]
fn volumes_of_the_wrong_kind_are_not_taken() {
    let right = volume("v", "local", "1Gi", "a");
    let cases = [
        with(right.clone(), &["spec", "volumeMode"], json!("Block")),
        with(right.clone(), &["spec", "accessModes"], json!(["ReadOnlyMany"])),
        with(right.clone(), &["status", "phase"], json!("Released")),
        with(right.clone(), &["metadata", "deletionTimestamp"], json!("2026-01-01T00:00:00Z")),
        with(right.clone(), &["spec", "volumeAttributesClassName"], json!("gold")),
    ];
    for wrong in cases {
        let cluster = world(&[claim("c", "local", "1Gi")], std::slice::from_ref(&wrong));
        assert_eq!(verdicts(&user(&["c"]), &cluster).unwrap()[0], [BIND_CONFLICT], "{wrong}");
    }
    let picky =
        with(claim("c", "local", "1Gi"), &["spec", "selector"], json!({"matchLabels": {"disk": "fast"}}));
    let labelled = with(right.clone(), &["metadata", "labels"], json!({"disk": "fast"}));
    let cluster = world(&[picky], &[right, labelled]);
    assert!(verdicts(&user(&["c"]), &cluster).unwrap()[0].is_empty());
}

#[test]
fn volumes_are_made_where_the_class_allows_and_there_is_room() {
    let mut cluster = world(&[claim("c", "made", "1Gi")], &[]);
    let user = user(&["c"]);
    let reservation = reserve(&user, &cluster, "b");
    assert_eq!(annotation(&reservation.claims[0].metadata, SELECTED_NODE), Some("b"));
    assert_eq!(reservation.awaited.len(), 1);

    let zones = json!([{"matchLabelExpressions": [{"key": "topology.kubernetes.io/zone", "values": ["y"]}]}]);
    let class = with(class("made", "p.io", WAITS), &["allowedTopologies"], zones);
    cluster.storage.take(&StorageChange::Class(added(class)));
    assert_eq!(verdicts(&user, &cluster).unwrap(), [vec![BIND_CONFLICT.to_owned()], vec![]]);

    let driver = json!({"metadata": {"name": "p.io"}, "spec": {"storageCapacity": true}});
    cluster.storage.take(&StorageChange::Driver(added(driver)));
    assert_eq!(verdicts(&user, &cluster).unwrap()[1], [NO_SPACE]);
    let pool = |size: &str, most: Value| {
        json!({
            "metadata": {"name": size, "namespace": "k"}, "storageClassName": "made", "capacity": size,
            "maximumVolumeSize": most, "nodeTopology": {"matchLabels": {"topology.kubernetes.io/zone": "y"}},
        })
    };
    cluster.storage.take(&StorageChange::Capacity(added(pool("512Mi", Value::Null))));
    cluster.storage.take(&StorageChange::Capacity(added(pool("10Gi", json!("512Mi")))));
    assert_eq!(verdicts(&user, &cluster).unwrap()[1], [NO_SPACE]);
    cluster.storage.take(&StorageChange::Capacity(added(pool("2Gi", Value::Null))));
    assert!(verdicts(&user, &cluster).unwrap()[1].is_empty());
}

#[test]
fn a_claim_stays_with_the_node_that_was_selected_for_it() {
    let selected = with(claim("c", "made", "1Gi"), &["metadata", "annotations"], json!({SELECTED_NODE: "b"}));
    let cluster = world(std::slice::from_ref(&selected), &[]);
    let user = user(&["c"]);
    assert_eq!(verdicts(&user, &cluster).unwrap(), [vec![BIND_CONFLICT.to_owned()], vec![]]);
    let reservation = reserve(&user, &cluster, "b");
    assert!(reservation.claims.is_empty() && reservation.awaited.len() == 1);
}

#[test]
fn a_binding_waits_for_its_volumes_and_no_longer_than_there_is_hope() {
    let of = |object: &Value| -> PersistentVolumeClaim { serde_json::from_value(object.clone()).unwrap() };
    let at = |host: &str| Arc::new(serde_json::from_value(volume("v", "made", "1Gi", host)).unwrap());
    let labels = Labels::from([("kubernetes.io/hostname".to_owned(), "b".to_owned())]);
    let made =
        |claim: &Value, volume: Option<&Arc<PersistentVolume>>| is_made(&of(claim), volume, ("b", &labels));
    let asked = |node: &str| {
        with(claim("c", "made", "1Gi"), &["metadata", "annotations"], json!({SELECTED_NODE: node, "a": "b"}))
    };
    let done = || {
        let both = json!({SELECTED_NODE: "b", BIND_COMPLETED: "yes"});
        with(bound(asked("b"), "v"), &["metadata", "annotations"], both)
    };
    let lost = with(asked("b"), &["metadata", "annotations"], json!({"a": "b"}));
    let bare = with(asked("b"), &["metadata", "annotations"], json!(null));
    let named = with(asked("b"), &["spec", "volumeName"], json!("v"));
    for (claim, volume, expected) in [
        (asked("b"), None, Ok(false)),
        (named.clone(), None, Ok(false)),
        (named, Some(at("b")), Ok(false)),
        (done(), Some(at("b")), Ok(true)),
        (done(), None, Ok(false)),
        (
            done(),
            Some(at("a")),
            Err("pv \"v\" node affinity doesn't match node \"b\": no matching NodeSelectorTerms"),
        ),
        (asked("a"), None, Err("provisioning failed for PVC \"c\"")),
        (lost, None, Err("provisioning failed for PVC \"c\"")),
        (bare, None, Err("selectedNode annotation reset for PVC \"c\"")),
    ] {
        assert_eq!(made(&claim, volume.as_ref()), expected.map_err(Reason::from), "{claim}");
    }
    let kept = |host: &str, uid: Option<&str>| {
        let reference = json!({"namespace": "default", "name": "c", "uid": uid});
        let volume = with(volume("v", "local", "1Gi", host), &["spec", "claimRef"], reference);
        Arc::new(serde_json::from_value(volume).unwrap())
    };
    let given = |claim: &Value, volume: Arc<PersistentVolume>| is_given(&of(claim), &volume, ("b", &labels));
    let local = claim("c", "local", "1Gi");
    assert_eq!(given(&local, kept("b", Some("u"))), Ok(false));
    assert_eq!(given(&bound(local.clone(), "v"), kept("b", Some("u"))), Ok(true));
    assert!(given(&local, kept("a", Some("u"))).is_err(), "the node lost its label");
    assert_eq!(given(&local, kept("b", None)), Err("ClaimRef got reset for pv \"v\"".into()));
    assert_eq!(given(&local, at("b")), Err("ClaimRef got reset for pv \"v\"".into()));
}

#[test]
fn what_is_assumed_is_not_given_away_again() {
    let claims = [claim("c", "local", "1Gi"), claim("d", "local", "1Gi")];
    let mut cluster = world(&claims, &[volume("v", "local", "1Gi", "a")]);
    let reservation = reserve(&user(&["c"]), &cluster, "a");
    cluster.storage.assume(&reservation);
    assert_eq!(verdicts(&user(&["d"]), &cluster).unwrap()[0], [BIND_CONFLICT]);
    cluster.storage.forget(&reservation);
    assert!(verdicts(&user(&["d"]), &cluster).unwrap()[0].is_empty());
}

/// With the gate: 100 − use in percent, the mean of the classes.
#[test]
fn nodes_score_by_the_storage_that_would_be_used() {
    let on = Gates::default().with(Gate::StorageCapacityScoring, true);
    let plugin = |args: Value| VolumeBinding::new(&serde_json::from_value(args).unwrap(), on).unwrap();
    let usual = plugin(json!({}));
    let full = plugin(json!({"shape": [{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}]}));
    let of = |plugin: &VolumeBinding, claims: &[&str], world: &Cluster| {
        scores(plugin, &user(claims), world, ["a", "b"])
    };
    let volumes = [
        volume("on-a", "local", "100Gi", "a"),
        volume("on-b", "local", "200Gi", "b"),
        volume("more-a", "local", "200Gi", "a"),
        volume("more-b", "local", "200Gi", "b"),
    ];
    let mut world = world(
        &[
            claim("c", "local", "50Gi"),
            claim("d", "local", "50Gi"),
            claim("e", "made", "50Gi"),
            claim("f", "made", "25Gi"),
        ],
        &volumes,
    );
    let driver = json!({"metadata": {"name": "p.io"}, "spec": {"storageCapacity": true}});
    world.storage.take(&StorageChange::Driver(added(driver)));
    for (zone, size) in [("x", "100Gi"), ("x", "60Gi"), ("y", "500Gi")] {
        let topology = json!({"matchLabels": {"topology.kubernetes.io/zone": zone}});
        let pool = json!({"metadata": {"name": format!("{zone}-{size}"), "namespace": "d"},
            "storageClassName": "made", "nodeTopology": topology, "capacity": size});
        world.storage.take(&StorageChange::Capacity(added(pool)));
    }
    assert_eq!(of(&usual, &["c"], &world), Some([50, 75]));
    assert_eq!(of(&full, &["c"], &world), Some([50, 25]));
    // Two of a class: 100 of 300 on a, 100 of 400 on b.
    assert_eq!(of(&usual, &["c", "d"], &world), Some([67, 75]));
    // A volume that is to be made: the pool with most room counts.
    assert_eq!(of(&usual, &["e"], &world), Some([50, 90]));
    // Two of them are for the same pool.
    assert_eq!(of(&usual, &["e", "f"], &world), Some([25, 85]));
    // Volumes that are there count alone.
    assert_eq!(of(&usual, &["c", "e"], &world), Some([50, 75]));
    assert_eq!(of(&usual, &[], &world), None);
    assert_eq!(of(&VolumeBinding::default(), &["c"], &world), None, "the gate is off");
}

#[test]
fn arguments_are_checked() {
    let on = Gates::default().with(Gate::StorageCapacityScoring, true);
    let shape = json!([{"utilization": 0, "score": 10}, {"utilization": 100, "score": 0}]);
    let wrong = json!([{"utilization": 0, "score": 11}]);
    for (args, gates, good) in [
        (json!({}), Gates::default(), true),
        (json!({"bindTimeoutSeconds": 0}), Gates::default(), true),
        (json!({"bindTimeoutSeconds": -1}), Gates::default(), false),
        (json!({"shape": shape}), Gates::default(), false),
        (json!({"shape": shape}), on, true),
        (json!({"shape": []}), on, true),
        (json!({"shape": wrong}), on, false),
    ] {
        let made = VolumeBinding::new(&serde_json::from_value(args.clone()).unwrap(), gates);
        assert_eq!(made.is_ok(), good, "{args}");
    }
}

#[test]
fn pods_wake_when_storage_may_have_changed_for_them() {
    let pod = user(&["c"]);
    let of_zone = |zone: &str| Arc::new(node("n", zone, json!({})));
    let claim = |name: &str| {
        ClusterEvent::StorageChanged(StorageEvent::Claim { key: ObjectKey::new("default", name), new: false })
    };
    let updated = |old, new| ClusterEvent::NodeUpdated { old: of_zone(old), new: of_zone(new) };
    for (event, wakes) in [
        (claim("c"), true),
        (claim("other"), false),
        (ClusterEvent::StorageChanged(StorageEvent::Volume { new: false, moved: false }), true),
        (ClusterEvent::StorageChanged(StorageEvent::Class { new: false, waits: false }), true),
        (ClusterEvent::StorageChanged(StorageEvent::Capacity { new: false }), true),
        (ClusterEvent::StorageChanged(StorageEvent::Driver), true),
        (ClusterEvent::StorageChanged(StorageEvent::Node { new: true, room: true, migrated: true }), true),
        (ClusterEvent::StorageChanged(StorageEvent::Node { new: false, room: false, migrated: true }), true),
        (ClusterEvent::StorageChanged(StorageEvent::Node { new: false, room: true, migrated: false }), false),
        (ClusterEvent::StorageChanged(StorageEvent::Detached("d".into())), false),
        (ClusterEvent::NodeAdded(of_zone("x")), true),
        (updated("x", "y"), true),
        (updated("x", "x"), false),
    ] {
        assert_eq!(VolumeBinding::default().wakes(&pod, &event), wakes, "{event:?}");
    }
}
