//! Volumes that are to be used again are emptied by a pod, once the claim is gone and no pod uses it. Pure.
//!
//! Contract: upstream's recyclers of host paths and NFS exports, for the reclaim policy `Recycle`: pods named
//! `recycler-for-` and the volume, made of a template whose first volume is the one to be emptied. A pod of that name
//! which was not made by this process proves nothing: anybody may have made it.

use component_base::{meta::is_deleting, quantity::Quantity, volumes::capacity};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        Container, HostPathVolumeSource, NFSVolumeSource, PersistentVolume, Pod, PodSpec, Volume, VolumeMount,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::{controllers::pod_disruption::phase, settings::RecyclerSettings};

/// Names of pods that empty volumes.
const PREFIX: &str = "recycler-for-";
/// Where pods are made whose template does not say.
const NAMESPACE: &str = "default";

/// What is remembered of a volume that is being emptied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// The pod with this uid does it.
    Runs(String),
    /// It is empty.
    Emptied,
    /// It did not work, and is tried again then.
    Rests(Timestamp),
}

/// What comes next for a volume that is to be emptied.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Next {
    /// Nothing; the pod's end or time brings it back.
    Wait,
    /// Nobody can empty it.
    Unable,
    /// Pods still use it.
    InUse(String),
    /// A pod begins.
    Start(Box<Pod>),
    /// A pod that was not made here is in the way.
    Replace,
    /// The pod is done.
    Emptied,
    /// It is free for another claim.
    Release,
    /// The pod has not done it.
    Failed(String),
}

/// What comes next: `users` are pods that use the volume, `pod` is the one of its name.
pub(super) fn next(
    volume: &PersistentVolume,
    settings: &RecyclerSettings,
    users: &[String],
    pod: Option<&Pod>,
    memory: Option<&Memory>,
    now: Timestamp,
) -> Next {
    match memory {
        Some(Memory::Emptied) => return Next::Release,
        Some(Memory::Rests(until)) if now < *until => return Next::Wait,
        _ => {}
    }
    let Some(new) = recycler(volume, settings) else { return Next::Unable };
    let ours = if let Some(Memory::Runs(uid)) = memory { Some(uid) } else { None };
    let Some(pod) = pod else {
        return match ours {
            Some(_) => Next::Failed("recycler pod was deleted".to_owned()),
            None if users.is_empty() => Next::Start(Box::new(new)),
            None => Next::InUse(users.join(",")),
        };
    };
    if ours.is_none() || ours != pod.metadata.uid.as_ref() {
        return if is_deleting(&pod.metadata) { Next::Wait } else { Next::Replace };
    }
    match phase(pod) {
        "Succeeded" => Next::Emptied,
        "Failed" => {
            let said = pod.status.as_ref().and_then(|s| s.message.clone()).filter(|text| !text.is_empty());
            Next::Failed(said.unwrap_or_else(|| "pod failed, pod.Status.Message unknown".to_owned()))
        }
        _ => Next::Wait,
    }
}

/// The volume that a pod by its name empties.
pub(super) fn emptied_by(pod: &Pod) -> Option<&str> {
    pod.metadata.name.as_deref()?.strip_prefix(PREFIX)
}

/// Where the pod of a volume is, and what it is called.
pub(super) fn place(volume: &PersistentVolume, settings: &RecyclerSettings) -> Option<(String, String)> {
    let meta = recycler(volume, settings)?.metadata;
    Some((meta.namespace?, meta.name?))
}

/// The pod that empties a volume.
fn recycler(volume: &PersistentVolume, settings: &RecyclerSettings) -> Option<Pod> {
    let spec = volume.spec.as_ref()?;
    let (limits, host_path, nfs) = match (&spec.host_path, &spec.nfs) {
        (Some(source), _) => {
            (&settings.host_path, Some(HostPathVolumeSource { path: source.path.clone(), type_: None }), None)
        }
        (None, Some(source)) => {
            let nfs =
                NFSVolumeSource { server: source.server.clone(), path: source.path.clone(), read_only: None };
            (&settings.nfs, None, Some(nfs))
        }
        (None, None) => return None,
    };
    let mut pod = limits.template.clone().unwrap_or_else(template);
    pod.metadata.name = Some(format!("{PREFIX}{}", volume.metadata.name.as_deref().unwrap_or_default()));
    pod.metadata.generate_name = None;
    pod.metadata.namespace.get_or_insert_with(|| NAMESPACE.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.active_deadline_seconds = Some(deadline(volume, limits.minimum, limits.increment));
    let first = spec.volumes.as_mut()?.first_mut()?;
    *first = Volume { name: first.name.clone(), host_path, nfs, ..Volume::default() };
    Some(pod)
}

/// So many seconds for each whole GiB, and not fewer than at least.
fn deadline(volume: &PersistentVolume, minimum: i64, increment: i64) -> i64 {
    const GIB: i64 = 1 << 30;
    let size = capacity(volume).map_or(0, Quantity::value);
    (size / GIB).saturating_mul(increment).max(minimum)
}

/// A pod that deletes all there is, and ends well if nothing is left.
fn template() -> Pod {
    let script = "find /scrub -mindepth 1 -delete && test -z \"$(find /scrub -mindepth 1)\"";
    let mount =
        VolumeMount { name: "vol".to_owned(), mount_path: "/scrub".to_owned(), ..VolumeMount::default() };
    let container = Container {
        name: "pv-recycler".to_owned(),
        image: Some("registry.k8s.io/build-image/debian-base:bookworm-v1.0.6".to_owned()),
        command: Some(vec!["/bin/sh".to_owned()]),
        args: Some(vec!["-c".to_owned(), script.to_owned()]),
        volume_mounts: Some(vec![mount]),
        ..Container::default()
    };
    Pod {
        metadata: ObjectMeta::default(),
        spec: Some(PodSpec {
            restart_policy: Some("Never".to_owned()),
            volumes: Some(vec![Volume { name: "vol".to_owned(), ..Volume::default() }]),
            containers: vec![container],
            ..PodSpec::default()
        }),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::settings::RecyclerLimits;

    fn settings() -> RecyclerSettings {
        let limits = |minimum| RecyclerLimits { template: None, minimum, increment: 30 };
        RecyclerSettings { host_path: limits(60), nfs: limits(300) }
    }

    fn volume(source: Value, size: &str) -> PersistentVolume {
        let mut spec = source;
        spec["capacity"] = json!({"storage": size});
        serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": spec})).unwrap()
    }

    fn here() -> PersistentVolume {
        volume(json!({"hostPath": {"path": "/data", "type": "Directory"}}), "1Gi")
    }

    fn pod(uid: &str, status: Value) -> Pod {
        let metadata = json!({"name": "recycler-for-v", "namespace": "default", "uid": uid});
        serde_json::from_value(json!({"metadata": metadata, "status": status})).unwrap()
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn the_pod_has_the_volume_and_time_for_its_size() {
        let nfs = json!({"nfs": {"server": "s", "path": "/x", "readOnly": true}});
        for (source, size, seconds, expected) in [
            (
                json!({"hostPath": {"path": "/data", "type": "Directory"}}),
                "1Gi",
                60,
                json!({"hostPath": {"path": "/data"}}),
            ),
            (json!({"hostPath": {"path": "/data"}}), "5.9Gi", 150, json!({"hostPath": {"path": "/data"}})),
            (nfs.clone(), "10Gi", 300, json!({"nfs": {"server": "s", "path": "/x"}})),
            (nfs, "11Gi", 330, json!({"nfs": {"server": "s", "path": "/x"}})),
        ] {
            let pod = recycler(&volume(source, size), &settings()).unwrap();
            let spec = pod.spec.unwrap();
            assert_eq!(spec.active_deadline_seconds, Some(seconds), "{size}");
            let mut shown = serde_json::to_value(&spec.volumes.unwrap()[0]).unwrap();
            shown.as_object_mut().unwrap().remove("name");
            assert_eq!(shown, expected);
            assert_eq!(pod.metadata.name.as_deref(), Some("recycler-for-v"));
            assert_eq!(pod.metadata.namespace.as_deref(), Some("default"));
        }
        assert_eq!(recycler(&volume(json!({"local": {"path": "/x"}}), "1Gi"), &settings()), None);
    }

    #[test]
    fn a_template_says_the_rest() {
        let template = json!({"metadata": {"generateName": "x-", "namespace": "ns", "labels": {"a": "b"}},
            "spec": {"containers": [], "volumes": [{"name": "first", "emptyDir": {}}, {"name": "second", "emptyDir": {}}]}});
        let mut settings = settings();
        settings.host_path.template = Some(serde_json::from_value(template).unwrap());
        let pod = recycler(&here(), &settings).unwrap();
        assert_eq!(place(&here(), &settings), Some(("ns".into(), "recycler-for-v".into())));
        assert!(pod.metadata.generate_name.is_none() && pod.metadata.labels.is_some());
        let volumes = pod.spec.unwrap().volumes.unwrap();
        assert!(volumes[0].host_path.is_some() && volumes[0].empty_dir.is_none());
        assert!(volumes[1].host_path.is_none() && volumes[1].empty_dir.is_some());
    }

    #[test]
    fn only_the_pod_that_was_made_here_counts() {
        let failed = |why: &str| Next::Failed(why.to_owned());
        let (mine, other) = (Memory::Runs("1".into()), Memory::Runs("2".into()));
        let phase = |phase: &str| Some(pod("1", json!({"phase": phase})));
        let mut going = pod("1", json!({"phase": "Succeeded"}));
        going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        let told = Some(pod("1", json!({"phase": "Failed", "message": "deadline"})));
        for (pod, memory, expected) in [
            (phase("Pending"), Some(&mine), Next::Wait),
            (phase("Running"), Some(&mine), Next::Wait),
            (phase("Succeeded"), Some(&mine), Next::Emptied),
            (Some(going.clone()), Some(&mine), Next::Emptied),
            (phase("Failed"), Some(&mine), failed("pod failed, pod.Status.Message unknown")),
            (told, Some(&mine), failed("deadline")),
            (None, Some(&mine), failed("recycler pod was deleted")),
            (phase("Succeeded"), Some(&other), Next::Replace),
            (phase("Succeeded"), None, Next::Replace),
            (Some(going), None, Next::Wait),
            (None, Some(&Memory::Emptied), Next::Release),
            (phase("Failed"), Some(&Memory::Emptied), Next::Release),
            (None, Some(&Memory::Rests(now() + jiff::SignedDuration::from_secs(1))), Next::Wait),
            (phase("Failed"), Some(&Memory::Rests(now())), Next::Replace),
        ] {
            let found = next(&here(), &settings(), &[], pod.as_ref(), memory, now());
            assert_eq!(found, expected, "{pod:?} {memory:?}");
        }
    }

    #[test]
    fn a_pod_begins_when_nobody_uses_the_volume() {
        let found = |volume: &PersistentVolume, users: &[&str], memory: Option<&Memory>| {
            let users: Vec<String> = users.iter().map(|user| (*user).to_owned()).collect();
            next(volume, &settings(), &users, None, memory, now())
        };
        let starts = |next: Next| matches!(next, Next::Start(_));
        assert!(starts(found(&here(), &[], None)));
        assert!(starts(found(&here(), &[], Some(&Memory::Rests(now())))));
        assert_eq!(found(&here(), &["d/a", "d/b"], None), Next::InUse("d/a,d/b".into()));
        let local = volume(json!({"local": {"path": "/x"}}), "1Gi");
        assert_eq!(found(&local, &[], None), Next::Unable);
        assert_eq!(emptied_by(&pod("1", json!({}))), Some("v"));
    }
}
