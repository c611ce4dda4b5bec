use serde_json::{Value, json};

use super::*;

/// Merges `more` into `value`, member by member.
fn merge(value: &mut Value, more: Value) {
    match (value, more) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, field) in from {
                merge(into.entry(key).or_insert(Value::Null), field);
            }
        }
        (into, from) => *into = from,
    }
}

fn pv(name: &str, size: &str, more: Value) -> Arc<PersistentVolume> {
    let mut value = json!({
        "metadata": {"name": name, "resourceVersion": "1"},
        "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"]},
        "status": {"phase": "Available"},
    });
    merge(&mut value, more);
    Arc::new(serde_json::from_value(value).unwrap())
}

fn pvc(more: Value) -> PersistentVolumeClaim {
    let mut value = json!({
        "metadata": {"name": "c", "namespace": "n", "uid": "u", "resourceVersion": "1"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "",
            "resources": {"requests": {"storage": "2Gi"}}},
        "status": {"phase": "Pending"},
    });
    merge(&mut value, more);
    serde_json::from_value(value).unwrap()
}

fn class(name: &str, more: Value) -> Arc<StorageClass> {
    let mut value = json!({"metadata": {"name": name}, "provisioner": "example.com/p"});
    merge(&mut value, more);
    Arc::new(serde_json::from_value(value).unwrap())
}

/// The step for a claim where provisioners are called.
fn next_for(
    claim_: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    all: &[Arc<StorageClass>],
) -> Told<ClaimStep> {
    claim(claim_, volumes, Classes { all, provision: true, host_paths: false })
}

fn chosen(claim_: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>]) -> Option<String> {
    match next_for(claim_, volumes, &[]).0 {
        ClaimStep::Reserve(volume) => volume.metadata.name,
        _ => None,
    }
}

/// Applies steps of claim and volume until nothing is left to do; the claim's events.
fn settle(claim_: &mut PersistentVolumeClaim, volume_: &mut Arc<PersistentVolume>) -> usize {
    for writes in 0..10 {
        match next_for(claim_, std::slice::from_ref(volume_), &[]).0 {
            ClaimStep::Make(_) => panic!("nothing is made here"),
            ClaimStep::Settled => return writes,
            ClaimStep::Reserve(next) => *volume_ = Arc::new(*next),
            ClaimStep::VolumeBound(_) => {
                Arc::make_mut(volume_).status.get_or_insert_default().phase = Some("Bound".into());
            }
            ClaimStep::Write(next) | ClaimStep::Status(next) => *claim_ = *next,
        }
    }
    panic!("binding does not come to an end");
}

#[test]
fn the_smallest_volume_that_fits_is_taken() {
    let volumes = [
        pv("small", "1Gi", json!({})),
        pv("large", "9Gi", json!({})),
        pv("right", "3Gi", json!({})),
        pv("taken", "2Gi", json!({"spec": {"claimRef": {"namespace": "n", "name": "other", "uid": "x"}}})),
        pv("going", "2Gi", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
        pv("released", "2Gi", json!({"status": {"phase": "Released"}})),
        pv("block", "2Gi", json!({"spec": {"volumeMode": "Block"}})),
        pv("classed", "2Gi", json!({"spec": {"storageClassName": "fast"}})),
        pv("many", "2Gi", json!({"spec": {"accessModes": ["ReadWriteOnce", "ReadWriteMany"]}})),
        pv("other-mode", "2Gi", json!({"spec": {"accessModes": ["ReadOnlyMany"]}})),
    ];
    assert_eq!(chosen(&pvc(json!({})), &volumes).as_deref(), Some("right"));
    let fast = pvc(json!({"spec": {"storageClassName": "fast"}}));
    assert_eq!(chosen(&fast, &volumes).as_deref(), Some("classed"));
    let many = pvc(json!({"spec": {"accessModes": ["ReadWriteMany"]}}));
    assert_eq!(chosen(&many, &volumes).as_deref(), Some("many"));
    let block = pvc(json!({"spec": {"volumeMode": "Block"}}));
    assert_eq!(chosen(&block, &volumes).as_deref(), Some("block"));
    let selecting = pvc(json!({"spec": {"selector": {"matchLabels": {"a": "b"}}}}));
    assert_eq!(chosen(&selecting, &volumes), None);
    let labelled = [pv("l", "5Gi", json!({"metadata": {"labels": {"a": "b"}}}))];
    assert_eq!(chosen(&selecting, &labelled).as_deref(), Some("l"));
}

#[test]
fn a_volume_reserved_for_the_claim_comes_first() {
    let volumes = [
        pv("right", "2Gi", json!({})),
        pv("mine", "50Gi", json!({"spec": {"claimRef": {"namespace": "n", "name": "c"}}})),
    ];
    assert_eq!(chosen(&pvc(json!({})), &volumes).as_deref(), Some("mine"));
}

#[test]
fn binding_writes_volume_then_claim_and_ends() {
    let (mut claim_, mut volume_) = (pvc(json!({})), pv("v", "3Gi", json!({})));
    assert_eq!(settle(&mut claim_, &mut volume_), 4);
    assert_eq!(annotation(&volume_.metadata, BOUND_BY_CONTROLLER), Some("yes"));
    assert_eq!(annotation(&claim_.metadata, BIND_COMPLETED), Some("yes"));
    let status = claim_.status.clone().unwrap();
    assert_eq!(
        (status.phase.as_deref(), status.capacity.unwrap()["storage"].0.as_str()),
        (Some("Bound"), "3Gi")
    );
    assert_eq!(volume(&volume_, Some(&claim_)).0, VolumeStep::Settled);
    assert_eq!(settle(&mut claim_, &mut volume_), 0);
}

#[test]
fn what_a_user_has_reserved_is_not_marked_as_ours() {
    let mut claim_ = pvc(json!({}));
    let mut volume_ = pv("v", "3Gi", json!({"spec": {"claimRef": {"namespace": "n", "name": "c"}}}));
    settle(&mut claim_, &mut volume_);
    assert_eq!(annotation(&volume_.metadata, BOUND_BY_CONTROLLER), None);
    assert!(is_claimed_by(&volume_, &claim_));
}

#[test]
fn a_volume_asked_for_by_name_must_fit() {
    let ask =
        |volume: Arc<PersistentVolume>| next_for(&pvc(json!({"spec": {"volumeName": "v"}})), &[volume], &[]);
    assert!(matches!(ask(pv("v", "3Gi", json!({}))).0, ClaimStep::Reserve(_)));
    let cases = [
        (pv("v", "1Gi", json!({})), "requested PV is too small"),
        (pv("v", "3Gi", json!({"spec": {"storageClassName": "x"}})), "storageClassName does not match"),
        (pv("v", "3Gi", json!({"spec": {"volumeMode": "Block"}})), "incompatible volumeMode"),
        (pv("v", "3Gi", json!({"spec": {"accessModes": []}})), "incompatible accessMode"),
    ];
    for (volume, why) in cases {
        let tell = ask(volume).1.unwrap();
        assert_eq!(tell.note, format!("Cannot bind to requested volume \"v\": {why}"));
    }
    let foreign =
        pv("v", "3Gi", json!({"spec": {"claimRef": {"namespace": "n", "name": "other", "uid": "x"}}}));
    assert_eq!(ask(foreign).1.unwrap().reason, "FailedBinding");
    assert_eq!(ask(pv("other", "3Gi", json!({}))), (ClaimStep::Settled, None));
}

#[test]
fn claims_without_a_volume_wait_or_call_a_provisioner() {
    let reason = |claim_: &PersistentVolumeClaim, classes: &[Arc<StorageClass>]| {
        next_for(claim_, &[], classes).1.map(|t| t.reason)
    };
    assert_eq!(reason(&pvc(json!({})), &[]), Some("FailedBinding"));
    let fast = pvc(json!({"spec": {"storageClassName": "fast"}}));
    assert_eq!(reason(&fast, &[]), Some("ProvisioningFailed"));
    let late = class("fast", json!({"volumeBindingMode": "WaitForFirstConsumer"}));
    assert_eq!(reason(&fast, std::slice::from_ref(&late)), Some("WaitForFirstConsumer"));
    let (step, _) = next_for(&fast, &[], &[class("fast", json!({}))]);
    let ClaimStep::Write(called) = step else { panic!("{step:?}") };
    assert_eq!(annotation(&called.metadata, PROVISIONER), Some("example.com/p"));
    assert_eq!(reason(&called, &[class("fast", json!({}))]), Some("ExternalProvisioning"));
    let chosen =
        pvc(json!({"metadata": {"annotations": {SELECTED_NODE: "a"}}, "spec": {"storageClassName": "fast"}}));
    assert!(matches!(next_for(&chosen, &[], &[late]).0, ClaimStep::Write(_)));
    let local = class("fast", json!({"provisioner": "kubernetes.io/no-provisioner"}));
    assert_eq!(reason(&fast, &[local]), Some("ProvisioningFailed"));
    let old = class("fast", json!({"provisioner": "kubernetes.io/aws-ebs"}));
    let ClaimStep::Write(called) = next_for(&fast, &[], &[old]).0 else { panic!("nobody is called") };
    assert_eq!(annotation(&called.metadata, PROVISIONER), Some("ebs.csi.aws.com"));
}

#[test]
fn claims_say_which_pods_they_wait_for() {
    let late = class("fast", json!({"volumeBindingMode": "WaitForFirstConsumer"}));
    let fast = pvc(json!({"spec": {"storageClassName": "fast"}}));
    let told = |pods: &[&str]| {
        let tell = next_for(&fast, &[], std::slice::from_ref(&late)).1.unwrap();
        let told = waiting(tell, &pods.iter().map(|pod| (*pod).to_owned()).collect::<Vec<_>>());
        (told.reason, told.note)
    };
    let first = "waiting for first consumer to be created before binding".to_owned();
    assert_eq!(told(&[]), ("WaitForFirstConsumer", first));
    assert_eq!(told(&["a"]), ("WaitForPodScheduled", "waiting for pod a to be scheduled".to_owned()));
    assert_eq!(told(&["a", "b"]), ("WaitForPodScheduled", "waiting for pods a,b to be scheduled".to_owned()));
    let other = next_for(&pvc(json!({})), &[], &[]).1.unwrap();
    assert_eq!(waiting(other.clone(), &["a".to_owned()]), other);
}

#[test]
fn a_claim_that_says_nothing_gets_the_youngest_default_class() {
    let default = |name: &str, made: &str| {
        class(name, json!({"metadata": {"annotations": {DEFAULT_CLASS: "true"}, "creationTimestamp": made}}))
    };
    let mut claim_ = pvc(json!({}));
    claim_.spec.as_mut().unwrap().storage_class_name = None;
    let classes = [
        default("old", "2026-01-01T00:00:00Z"),
        default("new", "2026-01-02T00:00:00Z"),
        class("x", json!({})),
    ];
    let ClaimStep::Write(next) = next_for(&claim_, &[], &classes).0 else { panic!("no class") };
    assert_eq!(next.spec.unwrap().storage_class_name.as_deref(), Some("new"));
}

#[test]
fn a_lost_volume_is_told_once() {
    let done = json!({"metadata": {"annotations": {BIND_COMPLETED: "yes"}}, "spec": {"volumeName": "v"}});
    let (step, tell) = next_for(&pvc(done.clone()), &[], &[]);
    assert_eq!(tell.unwrap().reason, "ClaimLost");
    let ClaimStep::Status(lost) = step else { panic!("{step:?}") };
    assert_eq!(next_for(&lost, &[], &[]), (ClaimStep::Settled, None));
    let foreign = pv("v", "3Gi", json!({"spec": {"claimRef": {"namespace": "n", "name": "c", "uid": "x"}}}));
    assert_eq!(next_for(&pvc(done), &[foreign], &[]).1.unwrap().reason, "ClaimMisbound");
}

#[test]
fn volumes_follow_their_claims() {
    let of = |more: Value| {
        let mut value = json!({"spec": {"claimRef": {"namespace": "n", "name": "c", "uid": "u"}}, "status": {"phase": "Bound"}});
        merge(&mut value, more);
        pv("v", "3Gi", value)
    };
    assert_eq!(
        volume(&pv("v", "1Gi", json!({"status": {"phase": ""}})), None).0,
        VolumeStep::Phase("Available", None)
    );
    assert_eq!(volume(&of(json!({})), None).0, VolumeStep::Phase("Released", None));
    let released = |policy: &str, more: Value| {
        let mut value =
            json!({"spec": {"persistentVolumeReclaimPolicy": policy}, "status": {"phase": "Released"}});
        merge(&mut value, more);
        volume(&of(value), None)
    };
    assert_eq!(released("Retain", json!({})), (VolumeStep::Settled, None));
    assert_eq!(released("Recycle", json!({})), (VolumeStep::Recycle, None));
    assert_eq!(released("Recycle", json!({"status": {"phase": "Failed"}})), (VolumeStep::Recycle, None));
    let migrated = json!({"metadata": {"annotations": {MIGRATED_TO: "d.io"}}});
    assert_eq!(released("Recycle", migrated), (VolumeStep::Settled, None), "it is the driver's");
    assert_eq!(released("Delete", json!({})).1.unwrap().reason, "VolumeFailedDelete");
    let dynamic = json!({"metadata": {"annotations": {PROVISIONED_BY: "example.com/p"}}});
    assert_eq!(released("Delete", dynamic), (VolumeStep::Settled, None));
    assert_eq!(released("Delete", json!({"status": {"phase": "Failed"}})), (VolumeStep::Settled, None));
    let elsewhere = pvc(json!({"spec": {"volumeName": "other"}}));
    let VolumeStep::Write(freed) = volume(&of(json!({})), Some(&elsewhere)).0 else { panic!("kept") };
    assert_eq!(freed.spec.unwrap().claim_ref.unwrap().uid, None);
    let ours = json!({"metadata": {"annotations": {BOUND_BY_CONTROLLER: "yes"}}});
    let VolumeStep::Write(freed) = volume(&of(ours), Some(&elsewhere)).0 else { panic!("kept") };
    assert_eq!(freed.spec.unwrap().claim_ref, None);
    let waiting = pvc(json!({}));
    assert_eq!(volume(&of(json!({})), Some(&waiting)).0, VolumeStep::Claim(ObjectKey::new("n", "c")));
    let block = of(json!({"spec": {"volumeMode": "Block"}}));
    let tell = volume(&block, Some(&waiting)).1.unwrap();
    let why = "due to incompatible volumeMode.";
    assert_eq!(
        tell.note,
        format!("Cannot bind PersistentVolume to requested PersistentVolumeClaim \"c\" {why}")
    );
    assert_eq!(
        tell.to_claim,
        Some(format!("Cannot bind PersistentVolume \"v\" to requested PersistentVolumeClaim {why}"))
    );
}

#[test]
fn drivers_that_do_the_work_of_plugins_are_named() {
    const IN_TREE: &str = "kubernetes.io/gce-pd";
    let of_claim = |annotations: Value| {
        let claim_ = pvc(json!({"metadata": {"annotations": annotations}}));
        match next_for(&claim_, &[], &[]).0 {
            ClaimStep::Write(next) => annotation(&next.metadata, MIGRATED_TO).unwrap_or("none").to_owned(),
            _ => "as it is".to_owned(),
        }
    };
    let driver = "pd.csi.storage.gke.io";
    assert_eq!(of_claim(json!({PROVISIONER: IN_TREE})), driver);
    assert_eq!(of_claim(json!({OLD_PROVISIONER: IN_TREE, MIGRATED_TO: "other"})), driver);
    assert_eq!(of_claim(json!({PROVISIONER: IN_TREE, MIGRATED_TO: driver})), "as it is");
    assert_eq!(of_claim(json!({PROVISIONER: driver, MIGRATED_TO: driver})), "none");
    assert_eq!(of_claim(json!({PROVISIONER: driver})), "as it is");
    assert_eq!(of_claim(json!({MIGRATED_TO: driver})), "as it is", "nobody says who made it");
}

#[test]
fn volumes_are_held_by_who_deletes_them() {
    let held_by = |by: &str, policy: &str, finalizers: &[&str]| -> Option<Vec<String>> {
        let mut annotations = json!({PROVISIONED_BY: by});
        if let Some(driver) = successor(by) {
            annotations[MIGRATED_TO] = driver.into();
        }
        let more = json!({"metadata": {"annotations": annotations, "finalizers": finalizers},
            "spec": {"persistentVolumeReclaimPolicy": policy}});
        let volume_ = pv("v", "1Gi", more);
        match volume(&volume_, None).0 {
            VolumeStep::Write(next) => next.metadata.finalizers,
            _ => None,
        }
    };
    let some = |all: &[&str]| Some(all.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>());
    assert_eq!(held_by("kubernetes.io/gce-pd", "Delete", &[BY_PLUGIN, "x"]), some(&["x"]));
    assert_eq!(held_by("kubernetes.io/gce-pd", "Delete", &[BY_DRIVER]), None);
    assert_eq!(held_by("kubernetes.io/host-path", "Delete", &["x", BY_DRIVER]), some(&["x", BY_PLUGIN]));
    assert_eq!(held_by("kubernetes.io/host-path", "Delete", &[BY_PLUGIN]), None);
    assert_eq!(held_by("kubernetes.io/host-path", "Retain", &[BY_PLUGIN]), some(&[]));
    assert_eq!(held_by("example.com/p", "Delete", &[BY_DRIVER]), None);
    let unknown = pv("v", "1Gi", json!({"metadata": {"finalizers": [BY_PLUGIN]}}));
    assert_eq!(
        volume(&unknown, None).0,
        VolumeStep::Settled,
        "of a volume nobody made here nothing is known"
    );
}

#[test]
fn what_a_claim_has_is_said_when_it_is_bound_and_by_others_afterwards() {
    let volume_ = pv(
        "v",
        "8Gi",
        json!({"metadata": {"annotations": {BEFORE_RESIZE: "5Gi"}},
        "spec": {"volumeAttributesClassName": "gold"}}),
    );
    let shown = |claim_: &PersistentVolumeClaim| match status(claim_, "Bound", Some(&volume_)) {
        ClaimStep::Status(next) => {
            let status = next.status.unwrap();
            let size = status.capacity.unwrap()["storage"].0.clone();
            Some((size, status.current_volume_attributes_class_name))
        }
        _ => None,
    };
    assert_eq!(shown(&pvc(json!({}))), Some(("5Gi".into(), Some("gold".into()))));
    let lost = pvc(json!({"status": {"phase": "Lost"}}));
    assert_eq!(shown(&lost), Some(("5Gi".into(), None)));
    let bound = pvc(json!({"status": {"phase": "Bound", "accessModes": ["ReadWriteOnce"],
        "capacity": {"storage": "6Gi"}, "currentVolumeAttributesClassName": "silver"}}));
    assert_eq!(shown(&bound), None);
}

#[test]
fn nobody_is_called_where_provisioning_is_off() {
    let fast = pvc(json!({"spec": {"storageClassName": "fast"}}));
    let all = [class("fast", json!({}))];
    let known = Classes { all: &all, provision: false, host_paths: true };
    let off = |volumes: &[Arc<PersistentVolume>]| claim(&fast, volumes, known);
    assert_eq!(off(&[]), (ClaimStep::Settled, None));
    let volume_ = pv("v", "3Gi", json!({"spec": {"storageClassName": "fast"}}));
    assert!(matches!(off(&[volume_]).0, ClaimStep::Reserve(_)));
}

#[test]
fn drivers_delete_their_volumes_whoever_made_them() {
    let told = |more: Value| {
        let mut value = json!({"spec": {"persistentVolumeReclaimPolicy": "Delete",
            "claimRef": {"namespace": "n", "name": "c", "uid": "u"}}, "status": {"phase": "Released"}});
        merge(&mut value, more);
        volume(&pv("v", "1Gi", value), None).1.map(|tell| tell.note)
    };
    let csi = json!({"spec": {"csi": {"driver": "d", "volumeHandle": "h"}}});
    assert_eq!(told(csi), None, "made by hand");
    assert_eq!(told(json!({"metadata": {"annotations": {PROVISIONED_BY: "d"}}})), None);
    let migrated = json!({PROVISIONED_BY: "kubernetes.io/gce-pd", MIGRATED_TO: "pd.csi.storage.gke.io"});
    assert_eq!(told(json!({"metadata": {"annotations": migrated}})), None);
    let plugin = json!({"metadata": {"annotations": {PROVISIONED_BY: "kubernetes.io/gone"}, "finalizers": [BY_PLUGIN]}});
    assert_eq!(told(plugin).as_deref(), Some("no volume plugin matched name: kubernetes.io/gone"));
    assert_eq!(
        told(json!({"spec": {"nfs": {"server": "s", "path": "/"}}})).as_deref(),
        Some("error getting deleter volume plugin for volume \"v\": no deletable volume plugin matched")
    );
}

#[test]
fn host_paths_are_deleted_here_where_they_may_be_lost() {
    let step = |path: &str, more: Value| {
        let mut value = json!({"spec": {"persistentVolumeReclaimPolicy": "Delete", "hostPath": {"path": path},
            "claimRef": {"namespace": "n", "name": "c", "uid": "u"}}, "status": {"phase": "Released"}});
        merge(&mut value, more);
        volume(&pv("v", "1Gi", value), None)
    };
    let gone = |path: &str| (VolumeStep::Delete(path.to_owned()), None);
    assert_eq!(step("/tmp/a", json!({})), gone("/tmp/a"));
    assert_eq!(step("/tmp/a", json!({"status": {"phase": "Failed"}})), gone("/tmp/a"), "it is tried again");
    let told = step("/data", json!({})).1.map(|tell| format!("{} {}", tell.reason, tell.note));
    let refusal = "VolumeFailedDelete host_path deleter only supports /tmp/.+ but received provided /data";
    assert_eq!(told.as_deref(), Some(refusal));
    let deleted = |finalizers: &[&str]| json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": finalizers}});
    assert_eq!(step("/tmp/a", deleted(&["kubernetes.io/pv-protection"])), (VolumeStep::Settled, None));
    let made = json!({"metadata": {"annotations": {PROVISIONED_BY: host_path::PLUGIN}}});
    let mut going = made.clone();
    merge(&mut going, deleted(&[BY_PLUGIN]));
    assert_eq!(step("/tmp/a", going), gone("/tmp/a"));
    let mut held = made;
    merge(&mut held, json!({"metadata": {"finalizers": [BY_PLUGIN]}}));
    assert_eq!(step("/tmp/a", held), gone("/tmp/a"));
    let local = json!({"spec": {"hostPath": null, "local": {"path": "/x"}}});
    assert_eq!(
        step("", local).1.unwrap().note,
        "error getting deleter volume plugin for volume \"v\": no volume plugin matched"
    );
}

#[test]
fn host_paths_are_made_where_that_is_asked_for() {
    let step = |of_claim: Value, of_class: Value, volumes: &[Arc<PersistentVolume>], host_paths: bool| {
        let mut value = json!({"metadata": {"annotations": {PROVISIONER: host_path::PLUGIN}},
            "spec": {"storageClassName": "paths"}});
        merge(&mut value, of_claim);
        let mut kind = json!({"provisioner": host_path::PLUGIN});
        merge(&mut kind, of_class);
        let all = [class("paths", kind)];
        let (step, tell) = claim(&pvc(value), volumes, Classes { all: &all, provision: true, host_paths });
        match step {
            ClaimStep::Make(made) => made.metadata.name.unwrap_or_default(),
            ClaimStep::Write(_) => "says who makes it".to_owned(),
            _ => tell.map_or_else(String::new, |tell| format!("{}: {}", tell.reason, tell.note)),
        }
    };
    let none = || json!({});
    assert_eq!(step(none(), none(), &[], true), "pvc-u");
    let there = pv("pvc-u", "1Gi", json!({"spec": {"storageClassName": "other"}}));
    assert_eq!(step(none(), none(), &[there], true), "", "it is on its way");
    let fresh = json!({"metadata": {"annotations": {PROVISIONER: "another"}}});
    assert_eq!(step(fresh, none(), &[], true), "says who makes it");
    let why = |what: &str| format!("ProvisioningFailed: {what}");
    let off =
        "Failed to create provisioner: Provisioning in volume plugin \"kubernetes.io/host-path\" is disabled";
    assert_eq!(step(none(), none(), &[], false), why(off));
    let block = "Failed to provision volume with StorageClass \"paths\": kubernetes.io/host-path does not support \
                 block volume provisioning";
    assert_eq!(step(json!({"spec": {"volumeMode": "Block"}}), none(), &[], true), why(block));
    let options = "Mount options are not supported by the provisioner but StorageClass \"paths\" has mount options \
                   [ro soft]";
    assert_eq!(step(none(), json!({"mountOptions": ["ro", "soft"]}), &[], true), why(options));
    let data = json!({"spec": {"dataSource": {"kind": "PersistentVolumeClaim", "name": "x"}}});
    let plugin = "plugin \"kubernetes.io/host-path\" is not a CSI plugin. Only CSI plugin can provision a claim \
                  with a datasource";
    assert_eq!(step(data, none(), &[], true), why(plugin));
}
