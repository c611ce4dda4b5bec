//! Claims that ask for more than their volume has are handed to who can enlarge it.
//!
//! Contract: upstream's `persistentvolume-expander-controller`. No plugin of this process enlarges volumes: external
//! resizers of CSI drivers do, and the volumes of former in-tree drivers are announced to theirs by the annotation
//! `volume.kubernetes.io/storage-resizer`.

use component_base::{
    client,
    events::{EventType, Recorder, reference},
    informer::{Event, Informer, ListWatch},
    meta::{ObjectKey, annotation, object_key},
    migration::successor_of,
    quantity::Quantity,
    volumes::asked,
    workqueue::{Outcome, WorkQueue, run_workers},
};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::Context;

const RESIZER: &str = "volume.kubernetes.io/storage-resizer";
/// What a volume had before a node was asked to enlarge its file system.
const BEFORE: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";
const WORKERS: usize = 10;
const REASON: &str = "ExternalExpanding";

/// Why a claim could not be handed on.
#[derive(Debug, thiserror::Error)]
enum ExpandError {
    #[error("the API server")]
    Api(#[from] kube::Error),
    #[error("volume {0:?} is not bound to the claim")]
    NotBound(String),
}

/// Who enlarges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hand {
    /// Nothing is to be enlarged.
    Nobody,
    /// Whoever looks after volumes of this kind.
    External,
    /// The CSI driver that has taken over from an in-tree plugin: names of the plugin and the driver.
    Successor(&'static str, &'static str),
}

pub(super) fn start(ctx: &Context) {
    let claims: Informer<PersistentVolumeClaim> = ctx.informers.get(ListWatch::default());
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("volume_expand");
    let of_claim = queue.clone();
    claims.on_event(move |event| {
        if matters(&event) {
            of_claim.add(object_key(event.object().as_ref()));
        }
    });
    let (client, recorder) = (ctx.client.clone(), ctx.recorder("volume_expand"));
    run_workers(&ctx.tasks, &queue, WORKERS, move |key| {
        let (claims, client, recorder) = (claims.clone(), client.clone(), recorder.clone());
        async move { sync(&claims, client, &recorder, &key).await }
    });
}

/// Whether a bound claim is new, asks for more, or has got more.
fn matters(event: &Event<PersistentVolumeClaim>) -> bool {
    let bound =
        |c: &PersistentVolumeClaim| c.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    match event {
        Event::Added { new, .. } => bound(new),
        Event::Updated { old, new } => bound(new) && (asked(new) > asked(old) || given(new) > given(old)),
        Event::Deleted { .. } => false,
    }
}

async fn sync(
    claims: &Informer<PersistentVolumeClaim>,
    client: Client,
    recorder: &Recorder,
    key: &ObjectKey,
) -> Result<Outcome, ExpandError> {
    let Some(claim) = claims.store().get(key) else { return Ok(Outcome::Done) };
    let name = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
    let volume = Api::<PersistentVolume>::all(client.clone()).get(name).await?;
    if !is_bound_to(&volume, &claim) {
        return Err(ExpandError::NotBound(name.to_owned()));
    }
    let tell = |note: String| {
        recorder.event(&reference(claim.as_ref()), EventType::Normal, REASON, REASON, note, None);
    };
    match plan(&claim, &volume) {
        Hand::Nobody => {}
        Hand::External => tell("waiting for an external controller to expand this PVC".into()),
        Hand::Successor(plugin, driver) => {
            tell(format!(
                "CSI migration enabled for {plugin}; waiting for external resizer to expand the pvc"
            ));
            announce(&client, &claim, key, driver).await?;
        }
    }
    Ok(Outcome::Done)
}

async fn announce(
    client: &Client,
    claim: &PersistentVolumeClaim,
    key: &ObjectKey,
    driver: &str,
) -> Result<(), kube::Error> {
    if annotation(&claim.metadata, RESIZER) == Some(driver) {
        return Ok(());
    }
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &key.namespace);
    let body = json!({"metadata": {"uid": claim.metadata.uid, "annotations": {RESIZER: driver}}});
    match api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(&body)).await {
        Err(e) if !client::is_not_found(&e) => Err(e),
        _ => Ok(()),
    }
}

fn given(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    Quantity::from_api(claim.status.as_ref()?.capacity.as_ref()?.get("storage")?)
}

fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    reference.is_some_and(|r| r.namespace == claim.metadata.namespace && r.uid == claim.metadata.uid)
}

/// Who has to enlarge the claim's volume.
fn plan(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Hand {
    if asked(claim) <= given(claim) && annotation(&volume.metadata, BEFORE).is_none() {
        return Hand::Nobody;
    }
    let successor = volume.spec.as_ref().and_then(successor_of);
    successor.map_or(Hand::External, |(plugin, driver)| Hand::Successor(plugin, driver))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::Value;

    use super::*;

    fn claim(phase: &str, asked: &str, given: &str) -> PersistentVolumeClaim {
        serde_json::from_value(json!({
            "metadata": {"name": "c", "namespace": "d", "uid": "u"},
            "spec": {"resources": {"requests": {"storage": asked}}, "volumeName": "v"},
            "status": {"phase": phase, "capacity": {"storage": given}},
        }))
        .unwrap()
    }

    fn volume(annotations: Value, mut spec: Value) -> PersistentVolume {
        spec["claimRef"] = json!({"namespace": "d", "name": "c", "uid": "u"});
        serde_json::from_value(json!({"metadata": {"annotations": annotations}, "spec": spec})).unwrap()
    }

    #[test]
    fn who_enlarges_depends_on_the_volume() {
        let csi = json!({"csi": {"driver": "x", "volumeHandle": "h"}});
        let disk = json!({"gcePersistentDisk": {"pdName": "d"}});
        let table = [
            ("1Gi", "1Gi", json!({}), csi.clone(), Hand::Nobody),
            ("1Gi", "2Gi", json!({}), csi.clone(), Hand::Nobody),
            ("2Gi", "1Gi", json!({}), csi.clone(), Hand::External),
            ("1Gi", "1Gi", json!({BEFORE: "1Gi"}), csi, Hand::External),
            ("2Gi", "1Gi", json!({}), disk, Hand::Successor("kubernetes.io/gce-pd", "pd.csi.storage.gke.io")),
            ("1025Mi", "1Gi", json!({}), json!({"nfs": {"path": "/", "server": "s"}}), Hand::External),
        ];
        for (asked, given, annotations, spec, expected) in table {
            let (claim, volume) = (claim("Bound", asked, given), volume(annotations, spec));
            assert!(is_bound_to(&volume, &claim));
            assert_eq!(plan(&claim, &volume), expected, "{asked} of {given}");
        }
    }

    #[test]
    fn only_bound_claims_that_grow_matter() {
        let added = |c: PersistentVolumeClaim| Event::Added { new: Arc::new(c), initial: false };
        let updated = |old, new| Event::Updated { old: Arc::new(old), new: Arc::new(new) };
        assert!(matters(&added(claim("Bound", "1Gi", "1Gi"))));
        assert!(!matters(&added(claim("Pending", "1Gi", "1Gi"))));
        assert!(matters(&updated(claim("Bound", "1Gi", "1Gi"), claim("Bound", "2Gi", "1Gi"))));
        assert!(matters(&updated(claim("Bound", "2Gi", "1Gi"), claim("Bound", "2Gi", "2Gi"))));
        assert!(!matters(&updated(claim("Bound", "2Gi", "2Gi"), claim("Bound", "2Gi", "2Gi"))));
        assert!(!matters(&updated(claim("Bound", "2Gi", "2Gi"), claim("Lost", "3Gi", "2Gi"))));
    }

    #[test]
    fn a_volume_of_another_claim_is_none() {
        let mut other = claim("Bound", "2Gi", "1Gi");
        other.metadata.uid = Some("w".into());
        assert!(!is_bound_to(&volume(json!({}), json!({})), &other));
    }
}
