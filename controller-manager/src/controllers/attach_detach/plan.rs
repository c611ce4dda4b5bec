//! What is to be attached and detached for one volume. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use component_base::{events::EventType, meta::annotation};
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::VolumeAttachment,
};

use super::names;
use crate::controllers::attachable::Attachable;

/// How long a node may keep a volume mounted that nobody wants there any more, before it counts as lost with the node.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(6 * 60);
const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// What is known around one volume.
#[derive(Debug)]
pub(super) struct View<'a> {
    /// Its unique name; of one that is gone the name its object had.
    pub(super) volume: &'a str,
    /// Where it is attached, whoever attached it.
    pub(super) attached: &'a [Attached],
    /// The nodes concerned, those there are.
    pub(super) nodes: BTreeMap<&'a str, Arc<Node>>,
    /// Where it must be attached.
    pub(super) wanted: &'a BTreeMap<String, Wanted>,
    /// Whether a volume is taken from a sick node that does not let it go in time.
    pub(super) force: bool,
}

/// A node a volume is attached to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Attached {
    /// The node.
    pub(super) node: String,
    /// What says so to the driver; without a driver the node's status alone does.
    pub(super) by: Option<Arc<VolumeAttachment>>,
}

/// A volume as it is wanted on a node.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    /// The volume as it is described there.
    pub(super) volume: Attachable,
    /// The pods that use it.
    pub(super) pods: Vec<Arc<Pod>>,
}

/// What must be remembered about one volume between two looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Since when it is to be detached, by node.
    since: BTreeMap<String, Timestamp>,
    /// The nodes whose pods were told that it is attached elsewhere.
    told: BTreeSet<String>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Attach to a node.
    Attach(String),
    /// Tell a pod why not.
    Refuse(Arc<Pod>, String),
    /// Detach; by force for a reason, without asking the node.
    Detach { from: Attached, force: Option<&'static str> },
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.since.is_empty() && self.told.is_empty()
    }
}

/// The steps for a volume, and when to look again whatever happens.
pub(super) fn plan(view: &View<'_>, waiting: &mut Waiting, now: Timestamp) -> (Vec<Step>, Option<Duration>) {
    let (mut steps, mut again) = (Vec::new(), None::<Duration>);
    waiting.since.retain(|node, _| view.attached.iter().any(|a| a.node == *node));
    let is_ours = |a: &&Attached| a.by.as_ref().is_none_or(|by| names::is_ours(view.volume, by));
    for attached in view.attached.iter().filter(is_ours) {
        if view.wanted.contains_key(&attached.node) {
            waiting.since.remove(&attached.node);
            continue;
        }
        let since = *waiting.since.entry(attached.node.clone()).or_insert(now);
        match detach(view, attached, since, now) {
            Ok(force) => steps.push(Step::Detach { from: attached.clone(), force }),
            Err(later) => again = [again, later].into_iter().flatten().min(),
        }
    }
    let mut refused = BTreeSet::new();
    let mut taken: Option<String> = None;
    for (node, wanted) in view.wanted {
        let managed = view.nodes.get(node.as_str()).is_some_and(|node| is_managed(node));
        if !managed || view.attached.iter().any(|a| a.node == *node) {
            continue;
        }
        let attached = view.attached.iter().map(|a| a.node.as_str());
        let others: BTreeSet<&str> = attached.filter(|n| n != node).chain(taken.as_deref()).collect();
        if is_exclusive(&wanted.volume) && !others.is_empty() {
            refused.insert(node.clone());
            if !waiting.told.contains(node) {
                let told = |pod: &Arc<Pod>| {
                    Step::Refuse(pod.clone(), refusal(view, &wanted.volume.name, pod, &others))
                };
                steps.extend(wanted.pods.iter().map(told));
            }
            continue;
        }
        taken = Some(node.clone());
        steps.push(Step::Attach(node.clone()));
    }
    waiting.told = refused;
    (steps, again)
}

/// Whether an attachment that nobody wants may go, by force where there is a reason for it; else how long to wait.
fn detach(
    view: &View<'_>,
    attached: &Attached,
    since: Timestamp,
    now: Timestamp,
) -> Result<Option<&'static str>, Option<Duration>> {
    let node = view.nodes.get(attached.node.as_str());
    // A node that is gone may still run what it ran.
    let mounted = node.is_none_or(|node| is_mounted(node, view.volume, attached));
    let healthy = node.is_some_and(|node| is_ready(node));
    if node.is_some_and(|node| is_out_of_service(node)) {
        return Ok(Some("out-of-service"));
    }
    let waited = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    let expired = view.force && waited > MAX_WAIT;
    match (mounted, healthy) {
        (false, _) => Ok(expired.then_some("timeout")),
        (true, false) if expired => Ok(Some("timeout")),
        (true, false) if view.force => Err(Some(MAX_WAIT.saturating_sub(waited) + Duration::from_secs(1))),
        // Its status tells when it has let go.
        (true, _) => Err(None),
    }
}

/// Why a pod cannot have a volume that another node has for itself. Names of pods are for their namespace alone.
fn refusal(view: &View<'_>, volume: &str, pod: &Pod, others: &BTreeSet<&str>) -> String {
    let users = others.iter().filter_map(|node| view.wanted.get(*node)).flat_map(|wanted| &wanted.pods);
    let (near, far): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) =
        users.partition(|user| user.metadata.namespace == pod.metadata.namespace);
    let names: Vec<&str> = near.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect();
    let why = match (names.is_empty(), far.len()) {
        (true, 0) => {
            "Volume is already exclusively attached to one node and can't be attached to another".to_owned()
        }
        (true, n) => format!("Volume is already used by {n} pod(s) in different namespaces"),
        (false, 0) => format!("Volume is already used by pod(s) {}", names.join(", ")),
        (false, n) => {
            let names = names.join(", ");
            format!("Volume is already used by pod(s) {names} and {n} pod(s) in different namespaces")
        }
    };
    message("Multi-Attach error", volume, &why)
}

/// A message about a volume by the name it has in messages, in the form clients know.
pub(super) fn message(what: &str, volume: &str, more: &str) -> String {
    format!("{what} for volume {volume:?} {more}")
}

/// What pods hear of a volume that is attached.
pub(super) fn success(volume: &str) -> (EventType, &'static str, String) {
    (EventType::Normal, "SuccessfulAttachVolume", message("AttachVolume.Attach succeeded", volume, ""))
}

/// What the driver has made of an attachment, if that is news to the pods that wait for the volume.
pub(super) fn outcome(
    old: &VolumeAttachment,
    new: &VolumeAttachment,
    volume: &str,
) -> Option<(EventType, &'static str, String)> {
    if is_attached(new) && !is_attached(old) {
        return Some(success(volume));
    }
    let error = |a: &VolumeAttachment| a.status.as_ref().and_then(|s| s.attach_error.clone());
    let failed =
        error(new).filter(|_| error(new) != error(old) && new.metadata.deletion_timestamp.is_none())?;
    let why = format!(": {}", failed.message.unwrap_or_default());
    Some((EventType::Warning, "FailedAttachVolume", message("AttachVolume.Attach failed", volume, &why)))
}

/// Whether the driver says that it is attached, and nobody takes it back.
pub(super) fn is_attached(attachment: &VolumeAttachment) -> bool {
    attachment.metadata.deletion_timestamp.is_none() && attachment.status.as_ref().is_some_and(|s| s.attached)
}

/// Whether a claim and a volume are bound to each other.
pub(super) fn is_bound(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let uid = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()?.uid.as_deref());
    claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound")
        && claim.spec.as_ref().and_then(|s| s.volume_name.as_ref()) == volume.metadata.name.as_ref()
        && uid.is_some()
        && uid == claim.metadata.uid.as_deref()
}

/// Whether only one node may have it.
fn is_exclusive(volume: &Attachable) -> bool {
    let is_shared = |mode: &String| mode == "ReadWriteMany" || mode == "ReadOnlyMany";
    !volume.modes.is_empty() && !volume.modes.iter().any(is_shared)
}

/// Whether the node leaves attaching to this controller.
pub(super) fn is_managed(node: &Node) -> bool {
    annotation(&node.metadata, MANAGED).is_some()
}

/// Whether the node says that it uses the volume.
pub(super) fn is_mounted(node: &Node, volume: &str, of: &Attached) -> bool {
    let gone = || of.by.as_ref().and_then(|by| names::reported(by, node));
    let name = if volume.contains('/') { Some(volume) } else { gone() };
    name.is_some_and(|name| names::used(node).any(|used| used == name))
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn is_out_of_service(node: &Node) -> bool {
    node.spec.iter().flat_map(|s| s.taints.iter().flatten()).any(|taint| taint.key == OUT_OF_SERVICE)
}

/// What of a node has a say here: whether it is managed, ready and in service, and what it uses and reports.
pub(super) fn what_matters(node: &Node) -> (bool, bool, bool, Vec<&str>, Vec<&str>) {
    (
        is_managed(node),
        is_ready(node),
        is_out_of_service(node),
        names::used(node).collect(),
        names::reports(node).collect(),
    )
}

#[cfg(test)]
mod tests;
