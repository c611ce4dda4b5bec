//! How many volumes and claims there are, and how many of them are bound.

use std::sync::LazyLock;

use component_base::{
    informer::Informer,
    metrics::{self, Counts, Stability},
    volumes::class_of_claim,
};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use prometheus::IntCounter;

/// Counts of volumes as upstream's labels tell them apart.
#[derive(Debug, Default, PartialEq)]
struct VolumeCounts {
    /// By plugin and mode.
    all: Counts,
    /// By class.
    bound: Counts,
    unbound: Counts,
}

/// Serves the counts, made from the caches whenever they are read.
pub(super) fn register(volumes: &Informer<PersistentVolume>, claims: &Informer<PersistentVolumeClaim>) {
    type Pick = fn(VolumeCounts) -> Counts;
    let of_volumes: [(&str, &str, &[&str], Pick); 3] = [
        (
            "pv_collector_total_pv_count",
            "Gauge measuring total number of persistent volumes",
            &["plugin_name", "volume_mode"],
            |counts| counts.all,
        ),
        (
            "pv_collector_bound_pv_count",
            "Gauge measuring number of persistent volume currently bound",
            &["storage_class"],
            |counts| counts.bound,
        ),
        (
            "pv_collector_unbound_pv_count",
            "Gauge measuring number of persistent volume currently unbound",
            &["storage_class"],
            |counts| counts.unbound,
        ),
    ];
    for (name, help, labels, pick) in of_volumes {
        let volumes = volumes.clone();
        metrics::counted(name, help, Stability::Alpha, labels, move || {
            pick(count_volumes(volumes.store().list().iter().map(AsRef::as_ref)))
        });
    }
    for (name, help, bound) in [
        (
            "pv_collector_bound_pvc_count",
            "Gauge measuring number of persistent volume claim currently bound",
            true,
        ),
        (
            "pv_collector_unbound_pvc_count",
            "Gauge measuring number of persistent volume claim currently unbound",
            false,
        ),
    ] {
        let (claims, labels) = (claims.clone(), &["namespace", "storage_class", "volume_attributes_class"]);
        metrics::counted(name, help, Stability::Alpha, labels, move || {
            count_claims(claims.store().list().iter().map(AsRef::as_ref), bound)
        });
    }
    LazyLock::force(&RETROACTIVE);
}

fn count_volumes<'v>(volumes: impl Iterator<Item = &'v PersistentVolume>) -> VolumeCounts {
    let mut out = VolumeCounts::default();
    for volume in volumes {
        let spec = volume.spec.as_ref();
        let mode = spec.and_then(|s| s.volume_mode.clone()).unwrap_or_else(|| "Filesystem".to_owned());
        *out.all.entry(vec![plugin(volume), mode]).or_insert(0) += 1;
        let class = spec.and_then(|s| s.storage_class_name.clone()).unwrap_or_default();
        let is_bound = volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
        let counts = if is_bound { &mut out.bound } else { &mut out.unbound };
        *counts.entry(vec![class]).or_insert(0) += 1;
    }
    out
}

fn count_claims<'c>(claims: impl Iterator<Item = &'c PersistentVolumeClaim>, bound: bool) -> Counts {
    let mut out = Counts::new();
    let is_bound = |claim: &PersistentVolumeClaim| {
        claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound")
    };
    for claim in claims.filter(|claim| is_bound(claim) == bound) {
        let attributes = claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.clone());
        let labels = vec![
            claim.metadata.namespace.clone().unwrap_or_default(),
            class_of_claim(claim).unwrap_or_default().to_owned(),
            attributes.unwrap_or_default(),
        ];
        *out.entry(labels).or_insert(0) += 1;
    }
    out
}

/// What upstream calls the plugin of a volume; only those it has in this daemon have a name.
fn plugin(volume: &PersistentVolume) -> String {
    let Some(spec) = &volume.spec else { return "N/A".to_owned() };
    if let Some(csi) = &spec.csi {
        return format!("kubernetes.io/csi:{}", csi.driver);
    }
    let known = [
        (spec.host_path.is_some(), "kubernetes.io/host-path"),
        (spec.nfs.is_some(), "kubernetes.io/nfs"),
        (spec.local.is_some(), "kubernetes.io/local-volume"),
        (spec.portworx_volume.is_some(), "kubernetes.io/portworx-volume"),
    ];
    known.iter().find(|(is, _)| *is).map_or("N/A", |(_, name)| name).to_owned()
}

/// Claims that were given the default class after they were made: how many, and how many of those failed.
static RETROACTIVE: LazyLock<[IntCounter; 2]> = LazyLock::new(|| {
    [
        metrics::counter(
            "retroactive_storageclass_total",
            "Total number of retroactive StorageClass assignments to persistent volume claim",
            Stability::Alpha,
        ),
        metrics::counter(
            "retroactive_storageclass_errors_total",
            "Total number of failed retroactive StorageClass assignments to persistent volume claim",
            Stability::Alpha,
        ),
    ]
});

/// Counts the write of a claim if it is the one that gives it a class.
pub(super) fn written(before: &PersistentVolumeClaim, next: &PersistentVolumeClaim, succeeded: bool) {
    let class =
        |claim: &PersistentVolumeClaim| claim.spec.as_ref().and_then(|s| s.storage_class_name.clone());
    if class(before) != class(next) {
        let [total, errors] = &*RETROACTIVE;
        total.inc();
        errors.inc_by((!succeeded).into());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn volume(source: Value, class: &str, phase: &str) -> PersistentVolume {
        let mut spec = json!({"storageClassName": class});
        if let Value::Object(source) = source {
            spec.as_object_mut().unwrap().extend(source);
        }
        serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": spec, "status": {"phase": phase}}))
            .unwrap()
    }

    fn claim(class: Option<&str>, phase: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": {"namespace": "d", "name": "c"}, "spec": {"storageClassName": class},
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    fn counts(all: &[(&[&str], i64)]) -> Counts {
        all.iter().map(|(labels, n)| (labels.iter().map(|l| (*l).to_owned()).collect(), *n)).collect()
    }

    #[test]
    fn volumes_count_by_plugin_mode_class_and_phase() {
        let csi = json!({"csi": {"driver": "d.io", "volumeHandle": "h"}});
        let all = [
            volume(csi.clone(), "fast", "Bound"),
            volume(csi, "fast", "Released"),
            volume(json!({"hostPath": {"path": "/"}, "volumeMode": "Block"}), "", "Bound"),
            volume(json!({"iscsi": {"iqn": "i", "lun": 0, "targetPortal": "t"}}), "", "Available"),
        ];
        let expected = VolumeCounts {
            all: counts(&[
                (&["kubernetes.io/csi:d.io", "Filesystem"], 2),
                (&["kubernetes.io/host-path", "Block"], 1),
                (&["N/A", "Filesystem"], 1),
            ]),
            bound: counts(&[(&["fast"], 1), (&[""], 1)]),
            unbound: counts(&[(&["fast"], 1), (&[""], 1)]),
        };
        assert_eq!(count_volumes(all.iter()), expected);
    }

    #[test]
    fn claims_count_by_namespace_and_classes() {
        let all = [claim(Some("fast"), "Bound"), claim(Some("fast"), "Bound"), claim(None, "Pending")];
        assert_eq!(count_claims(all.iter(), true), counts(&[(&["d", "fast", ""], 2)]));
        assert_eq!(count_claims(all.iter(), false), counts(&[(&["d", "", ""], 1)]));
    }

    #[test]
    fn only_writes_that_give_a_class_count_as_retroactive() {
        let told = || RETROACTIVE.each_ref().map(IntCounter::get);
        let before = told();
        written(&claim(None, ""), &claim(None, "Bound"), true);
        written(&claim(None, ""), &claim(Some("a"), ""), true);
        written(&claim(None, ""), &claim(Some("a"), ""), false);
        assert_eq!(told(), [before[0] + 2, before[1] + 1]);
    }
}
