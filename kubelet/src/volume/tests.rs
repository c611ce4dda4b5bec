//! The atomic writer, sub-paths and host paths, on a real file system.

use super::{atomic::*, *};

fn file(text: &str) -> Projection {
    Projection { data: text.as_bytes().to_vec(), mode: 0o644, owner: None }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

#[test]
fn every_plugin_has_its_own_name() {
    let mut names: Vec<_> = PLUGINS.iter().map(|p| p.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), PLUGINS.len());
}

#[test]
fn events_tell_which_step_failed_for_which_volume() {
    let csi = |call| VolumeError::Csi { driver: "d".into(), call, message: "rpc error: no".into() };
    let of = |source| VolumeError::Persistent { name: "pv-1".into(), source: Box::new(source) };
    let exhausted = || VolumeError::Exhausted { name: "n".into(), why: "full".into() };
    let device = BTreeSet::from(["v".to_owned()]);
    let none = BTreeSet::new();
    for (error, devices, expected) in [
        (
            csi("NodePublishVolume"),
            &none,
            Some(("FailedMount", "MountVolume.SetUp failed for volume \"v\" : rpc error: no")),
        ),
        (
            of(csi("NodeStageVolume")),
            &none,
            Some(("FailedMount", "MountVolume.MountDevice failed for volume \"pv-1\" : rpc error: no")),
        ),
        (
            of(csi("NodeStageVolume")),
            &device,
            Some(("FailedMapVolume", "MapVolume.SetUpDevice failed for volume \"pv-1\" : rpc error: no")),
        ),
        (
            of(csi("NodePublishVolume")),
            &device,
            Some(("FailedMapVolume", "MapVolume.MapPodDevice failed for volume \"pv-1\" : rpc error: no")),
        ),
        (of(VolumeError::NotAttached { name: "n".into(), why: "not yet attached".into() }), &none, None),
        (of(exhausted()), &none, None),
    ] {
        let told = error.event("v", devices);
        assert_eq!(told.as_ref().map(|(reason, message)| (*reason, message.as_str())), expected);
    }
    assert_eq!(of(exhausted()).exhausted(), Some("full"));
    assert_eq!(csi("NodeStageVolume").exhausted(), None);
}

#[test]
fn content_is_swapped_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let first = Payload::from([("a".into(), file("1")), ("d/b".into(), file("2"))]);
    assert!(write(dir.path(), &first, None, at(0)).unwrap());
    assert!(!write(dir.path(), &first, None, at(1)).unwrap());
    let before = std::fs::read_link(dir.path().join("..data")).unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("d/b")).unwrap(), "2");
    let second = Payload::from([("a".into(), file("3"))]);
    assert!(write(dir.path(), &second, None, at(2)).unwrap());
    assert_ne!(std::fs::read_link(dir.path().join("..data")).unwrap(), before);
    assert_eq!(std::fs::read_to_string(dir.path().join("a")).unwrap(), "3");
    assert!(!dir.path().join("d").exists());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
}

#[test]
fn places_of_other_mounts_stay() {
    let dir = tempfile::tempdir().unwrap();
    let payload = |name: &str| Payload::from([(name.to_owned(), file("1"))]);
    write(dir.path(), &payload("a"), None, at(0)).unwrap();
    std::fs::create_dir(dir.path().join("place")).unwrap();
    write(dir.path(), &payload("b"), None, at(1)).unwrap();
    let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names.len(), 4);
    assert_eq!(names[2..], ["b", "place"]);
}

#[test]
fn a_crash_before_the_swap_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("..2020_01_01_00_00_00.1")).unwrap();
    std::os::unix::fs::symlink("nowhere", dir.path().join("..data_tmp")).unwrap();
    let payload = Payload::from([("a".into(), file("1"))]);
    assert!(write(dir.path(), &payload, None, at(0)).unwrap());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
}

#[test]
fn paths_stay_within_the_volume() {
    for bad in ["", "/a", "../a", "a/../../b", "..a"] {
        assert!(check_path(bad).is_err(), "{bad}");
    }
    for good in ["a", "a/b", "a..b", ".a"] {
        assert!(check_path(good).is_ok(), "{good}");
    }
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
    for bad in ["out/passwd", "../x", "/etc"] {
        assert!(subpath::bind(dir.path(), bad, &dir.path().join("target")).is_err(), "{bad}");
    }
}

#[test]
fn parts_of_volumes_are_named_by_what_is_known() {
    let env = [("A", "a"), ("DOTS", ".."), ("ROOT", "/a"), ("NONE", "")];
    let env = env.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let of = |path: &str, text: &str| {
        let said = |text: &str| Some(text.to_owned());
        let mount = VolumeMount { sub_path: said(path), sub_path_expr: said(text), ..VolumeMount::default() };
        sub_path(&mount, &env).map_err(|error| error.to_string())
    };
    for (path, text, expected) in [
        ("", "", Ok(None)),
        ("x/y", "", Ok(Some("x/y"))),
        ("$(A)", "", Ok(Some("$(A)"))),
        ("", "x/$(A)/$$(B)", Ok(Some("x/a/$(B)"))),
        ("", "$(C)/$(NONE)/$(B)", Err("missing value for B, C, NONE")),
        ("/x", "", Err("error SubPath `/x` must not be an absolute path")),
        ("", "$(ROOT)", Err("error SubPath `/a` must not be an absolute path")),
        ("a/..b", "", Ok(Some("a/..b"))),
        ("", "a/$(DOTS)/b", Err("unable to provision SubPath `a/../b`: must not contain '..'")),
    ] {
        let expected = expected.map(|path: Option<&str>| path.map(str::to_owned)).map_err(str::to_owned);
        assert_eq!(of(path, text), expected, "{path:?} {text:?}");
    }
}

#[test]
fn what_a_container_cannot_mount_is_told_without_the_nodes_paths() {
    let dir = tempfile::tempdir().unwrap();
    let mut container = crate::testing::container("c");
    let mount = serde_json::json!([{ "name": "v", "mountPath": "/v", "subPath": "out/x" }]);
    container.volume_mounts = serde_json::from_value(mount).unwrap();
    std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
    let (pod_dir, images) = (dir.path().join("pod"), BTreeMap::new());
    let told = |mounted: &BTreeMap<String, Mounted>| {
        let sources = Sources { mounted, images: &images, env: &[], pod_dir: &pod_dir, recursive: false };
        container_mounts(&container, &sources).unwrap_err().to_string()
    };
    assert_eq!(told(&BTreeMap::new()), "cannot find volume \"v\" to mount into container \"c\"");
    let there = Mounted { path: dir.path().to_owned(), read_only: false };
    let text = "failed to prepare subPath for volumeMount \"v\" of container \"c\"";
    assert_eq!(told(&BTreeMap::from([("v".to_owned(), there)])), text);
}

#[test]
fn host_paths_are_checked_by_type() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    host_path::check(&path("made"), "DirectoryOrCreate").unwrap();
    host_path::check(&path("file"), "FileOrCreate").unwrap();
    host_path::check(&path("made"), "Directory").unwrap();
    host_path::check(&path("file"), "File").unwrap();
    host_path::check(&path("later"), "").unwrap();
    for (name, kind) in [("file", "Directory"), ("made", "File"), ("none", "Directory"), ("file", "Socket")] {
        assert!(host_path::check(&path(name), kind).is_err(), "{name} {kind}");
    }
}

#[test]
fn block_volumes_are_devices_of_their_containers() {
    let mut container = crate::testing::container("c");
    container.volume_devices = serde_json::from_value(serde_json::json!([
        { "name": "disk", "devicePath": "/dev/xvda" }, { "name": "fixed", "devicePath": "/dev/xvdb" },
    ]))
    .unwrap();
    let one = |path: &str, read_only| Mounted { path: path.into(), read_only };
    let mut mounted =
        BTreeMap::from([("disk".to_owned(), one("/a", false)), ("fixed".to_owned(), one("/b", true))]);
    let made = container_devices(&container, &mounted).unwrap();
    let texts: Vec<String> = made.iter().map(|(to, from, how)| format!("{to} {from} {how}")).collect();
    assert_eq!(texts, ["/dev/xvda /a mrw", "/dev/xvdb /b r"]);
    mounted.remove("disk");
    assert!(container_devices(&container, &mounted).is_err());
}

#[test]
fn metrics_name_the_drivers_of_volumes() {
    let folder = tempfile::tempdir().unwrap();
    let of_claim = folder.path().join("volumes/kubernetes.io~csi/pv1");
    std::fs::create_dir_all(&of_claim).unwrap();
    let record = record::Record {
        driver_name: "d.example".into(),
        pod_volume: "data".into(),
        ..record::Record::default()
    };
    record.write(&of_claim).unwrap();
    let volume = |json: serde_json::Value| -> Volume { serde_json::from_value(json).unwrap() };
    let claimed =
        |name: &str| volume(serde_json::json!({"name": name, "persistentVolumeClaim": {"claimName": "c"}}));
    let inline = volume(serde_json::json!({"name": "i", "csi": {"driver": "e.example"}}));
    let plain = volume(serde_json::json!({"name": "data", "emptyDir": {}}));
    for (volume, plugin, expected) in [
        (claimed("data"), "claim", "kubernetes.io/csi:d.example"),
        (claimed("other"), "claim", "kubernetes.io/claim"),
        (inline, "csi", "kubernetes.io/csi:e.example"),
        (plain, "empty-dir", "kubernetes.io/empty-dir"),
    ] {
        assert_eq!(label(folder.path(), &volume, plugin), expected);
    }
}
