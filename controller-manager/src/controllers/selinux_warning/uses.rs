//! What a pod's containers have its volumes labelled with. Pure.

use std::collections::{BTreeMap, BTreeSet};

use component_base::{meta::ObjectKey, volumes::is_reserved_for};
use k8s_openapi::api::core::v1::{
    Container, PersistentVolume, PersistentVolumeClaim, Pod, PodSpec, SELinuxOptions, Volume, VolumeMount,
};

use super::conflicts::{Policy, Use};
use crate::controllers::attachable::Attachable;

/// Where a volume comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Not known yet: its claim is not bound.
    Unknown,
    /// It is the pod's alone, or is never mounted with a label.
    Unlabelled,
    /// The name of a volume that is mounted with a label.
    Labelled(String),
}

/// What was found out about a pod.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Its uses of volumes that are mounted with labels.
    pub(super) uses: BTreeMap<String, Use>,
    /// Volumes, as the pod calls them, that its containers want with several labels.
    pub(super) mixed: Vec<String>,
}

/// What a pod uses.
pub(super) fn find(pod: &Pod, source: impl Fn(&Volume) -> Source) -> Found {
    let mut out = Found::default();
    let Some(spec) = &pod.spec else { return out };
    let labels = labels(spec);
    let security = spec.security_context.as_ref();
    let recursive = security.and_then(|s| s.se_linux_change_policy.as_deref()) == Some("Recursive");
    for volume in spec.volumes.iter().flatten() {
        let Some(wanted) = labels.get(volume.name.as_str()) else { continue };
        let source = source(volume);
        if source == Source::Unknown {
            continue;
        }
        if wanted.len() > 1 {
            out.mixed.push(volume.name.clone());
            continue;
        }
        let Source::Labelled(name) = source else { continue };
        let label = wanted.first().filter(|_| !recursive).cloned().unwrap_or_default();
        let policy = if label.is_empty() { Policy::Recursive } else { Policy::MountOption };
        out.uses.insert(name, Use { label, policy });
    }
    out
}

/// The labels that containers want for each volume that is mounted. A container's options count as a whole instead of
/// the pod's; one without any wants nothing.
fn labels(spec: &PodSpec) -> BTreeMap<&str, BTreeSet<String>> {
    let of_pod = spec.security_context.as_ref().and_then(|s| s.se_linux_options.as_ref());
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let containers = containers.map(|c: &Container| (&c.security_context, &c.volume_mounts));
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let all = containers.chain(ephemeral.map(|c| (&c.security_context, &c.volume_mounts)));
    let mut out: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (security, mounts) in all {
        let options = security.as_ref().and_then(|s| s.se_linux_options.as_ref()).or(of_pod);
        for VolumeMount { name, .. } in mounts.iter().flatten() {
            out.entry(name).or_default().extend(options.map(label));
        }
    }
    out
}

/// The label as far as it is given: what nodes fill in is theirs to know.
fn label(options: &SELinuxOptions) -> String {
    let parts = [&options.user, &options.role, &options.type_, &options.level];
    let parts = parts.map(|part| part.as_deref().unwrap_or_default());
    if parts.iter().all(|part| part.is_empty()) { String::new() } else { parts.join(":") }
}

/// The claim a volume is bound to, with its uid.
pub(super) fn claim_of(volume: &PersistentVolume) -> Option<(ObjectKey, String)> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    let uid = reference.uid.clone().filter(|uid| !uid.is_empty())?;
    Some((ObjectKey::new(reference.namespace.as_deref()?, reference.name.as_deref()?), uid))
}

/// Whether both say that they belong together.
pub(super) fn is_bound(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_of(volume).is_some() && is_reserved_for(volume, claim)
}

/// A volume as it is mounted; `mounts` says whether a driver takes a label when it mounts.
pub(super) fn mounted(volume: Option<Attachable>, mounts: impl Fn(&str) -> bool) -> Source {
    match volume {
        Some(volume) if volume.driver.as_ref().is_none_or(|driver| mounts(&driver.name)) => {
            Source::Labelled(volume.unique)
        }
        _ => Source::Unlabelled,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn options(level: &str) -> Value {
        json!({"seLinuxOptions": {"level": level}})
    }

    /// A pod whose containers, each with these options, mount the volume `v`.
    fn pod(security: Value, containers: &[Value]) -> Pod {
        let container = |options: &Value| json!({"name": "c", "securityContext": options, "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
        let containers: Vec<Value> = containers.iter().map(container).collect();
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"securityContext": security,
            "initContainers": containers[1..], "containers": containers[..1], "volumes": [{"name": "v"}, {"name": "w"}]}}))
        .unwrap()
    }

    fn found(pod: &Pod) -> Found {
        find(pod, |volume| Source::Labelled(format!("source of {}", volume.name)))
    }

    fn one(label: &str, policy: Policy) -> Found {
        let one = Use { label: label.into(), policy };
        Found { uses: BTreeMap::from([("source of v".into(), one)]), mixed: Vec::new() }
    }

    #[test]
    fn the_containers_options_count_instead_of_the_pods() {
        let none = || Value::Null;
        assert_eq!(found(&pod(options("s0"), &[none()])), one(":::s0", Policy::MountOption));
        assert_eq!(found(&pod(options("s0"), &[options("s1")])), one(":::s1", Policy::MountOption));
        assert_eq!(found(&pod(none(), &[none()])), one("", Policy::Recursive));
        // One without options wants nothing, so that there is one label.
        assert_eq!(found(&pod(none(), &[none(), options("s1")])), one(":::s1", Policy::MountOption));
    }

    #[test]
    fn a_pod_may_have_files_labelled_one_by_one() {
        let mut security = options("s0");
        security["seLinuxChangePolicy"] = "Recursive".into();
        assert_eq!(found(&pod(security.clone(), &[Value::Null])), one("", Policy::Recursive));
        security["seLinuxChangePolicy"] = "MountOption".into();
        assert_eq!(found(&pod(security, &[Value::Null])), one(":::s0", Policy::MountOption));
    }

    #[test]
    fn several_labels_for_one_volume_are_told() {
        let mixed = pod(Value::Null, &[options("s0"), options("s1")]);
        assert_eq!(found(&mixed), Found { uses: BTreeMap::new(), mixed: vec!["v".into()] });
        assert_eq!(find(&mixed, |_| Source::Unlabelled).mixed, ["v"]);
        assert_eq!(find(&mixed, |_| Source::Unknown), Found::default());
        let same = pod(Value::Null, &[options("s0"), options("s0")]);
        assert_eq!(found(&same), one(":::s0", Policy::MountOption));
    }

    #[test]
    fn what_is_not_mounted_or_not_labelled_is_no_use() {
        assert_eq!(find(&pod(options("s0"), &[Value::Null]), |_| Source::Unlabelled), Found::default());
        assert_eq!(found(&Pod::default()), Found::default());
    }

    #[test]
    fn labels_say_what_is_given() {
        let of = |options: Value| label(&serde_json::from_value(options).unwrap());
        assert_eq!(of(json!({"user": "u", "role": "r", "type": "t", "level": "s0:c0,c1"})), "u:r:t:s0:c0,c1");
        assert_eq!(of(json!({"type": "t", "level": "s0"})), "::t:s0");
        assert_eq!(of(json!({})), "");
    }

    #[test]
    fn drivers_say_whether_they_take_labels() {
        let mounted = |spec: Value| {
            let volume = json!({"metadata": {"name": "pv"}, "spec": spec});
            let volume = serde_json::from_value(volume).unwrap();
            mounted(Attachable::of_volume(&volume), |driver| driver != "plain.io")
        };
        let csi = |driver: &str| json!({"csi": {"driver": driver, "volumeHandle": "h"}});
        assert_eq!(mounted(csi("d.io")), Source::Labelled("kubernetes.io/csi/d.io^h".into()));
        assert_eq!(mounted(csi("plain.io")), Source::Unlabelled);
        assert_eq!(mounted(json!({"hostPath": {"path": "/x"}})), Source::Unlabelled);
        assert_eq!(mounted(json!({"fc": {"wwids": ["w"]}})), Source::Labelled("kubernetes.io/fc/[w]".into()));
    }

    #[test]
    fn volumes_and_claims_must_say_that_they_belong_together() {
        let claim: PersistentVolumeClaim =
            serde_json::from_value(json!({"metadata": {"namespace": "d", "name": "c", "uid": "1"}})).unwrap();
        let volume = |reference: Value| -> PersistentVolume {
            serde_json::from_value(json!({"spec": {"claimRef": reference}})).unwrap()
        };
        let reference = |uid: &str| json!({"namespace": "d", "name": "c", "uid": uid});
        assert!(is_bound(&volume(reference("1")), &claim));
        assert!(!is_bound(&volume(reference("2")), &claim) && !is_bound(&volume(reference("")), &claim));
        assert!(!is_bound(&volume(Value::Null), &claim));
    }
}
