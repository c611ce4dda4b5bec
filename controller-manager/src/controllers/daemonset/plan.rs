//! Which nodes get a daemon's pod, which pods go, and how a new template replaces the old one. Pure.

use std::{collections::BTreeMap, sync::Arc};

use component_base::{
    intstr::{self, Rounding},
    meta::{is_deleting, label},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, DaemonSetStatus},
        core::v1::{
            Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod,
            PodSpec, PodTemplateSpec, Toleration,
        },
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::controllers::{
    history::HASH_LABEL,
    node_fit, pod_control,
    pod_disruption::{is_finished, phase},
    replicaset::{is_available, is_ready},
};

/// Label: the generation of the template a pod is of.
const GENERATION: &str = "pod-template-generation";
/// Most pods created or deleted in one round.
const BURST: usize = 250;

/// Whether a daemon's pod belongs on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fit {
    /// A pod is made where there is none.
    pub(super) should_run: bool,
    /// A pod that is there stays.
    pub(super) may_stay: bool,
}

/// The node an unscheduled or scheduled daemon pod is for.
pub(super) fn node_of(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.as_ref().filter(|n| !n.is_empty()) {
        return Some(node.clone());
    }
    let required = spec
        .affinity
        .as_ref()?
        .node_affinity
        .as_ref()?
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|t| t.match_fields.iter().flatten());
    let name = |r: &&NodeSelectorRequirement| r.key == "metadata.name" && r.operator == "In";
    fields.into_iter().find(name)?.values.as_ref()?.first().cloned()
}

/// What daemon pods put up with beyond what their template says.
fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    const ALWAYS: &[(&str, &str)] = &[
        ("node.kubernetes.io/not-ready", "NoExecute"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ];
    let on_host = spec.host_network == Some(true);
    let network = on_host.then_some(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    let mut all = spec.tolerations.clone().unwrap_or_default();
    for (key, effect) in ALWAYS.iter().copied().chain(network) {
        let added = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !all.contains(&added) {
            all.push(added);
        }
    }
    all
}

/// The nodes there are.
pub(super) struct Nodes {
    pub(super) all: Vec<Arc<Node>>,
    /// Whether tolerations may compare numbers.
    pub(super) compare: bool,
}

impl Nodes {
    fn is_wanted(&self, set: &DaemonSet, node: &Node) -> bool {
        fit(set, node, self.compare).should_run
    }

    fn find(&self, name: &str) -> Option<&Arc<Node>> {
        self.all.iter().find(|node| node.metadata.name.as_deref() == Some(name))
    }
}

/// Whether the set's pod belongs on a node; `compare` says whether tolerations may compare numbers.
pub(super) fn fit(set: &DaemonSet, node: &Node, compare: bool) -> Fit {
    const NONE: Fit = Fit { should_run: false, may_stay: false };
    let Some(spec) = set.spec.as_ref().and_then(|s| s.template.spec.as_ref()) else { return NONE };
    let pinned = spec.node_name.as_deref().unwrap_or_default();
    if (!pinned.is_empty() && Some(pinned) != node.metadata.name.as_deref())
        || !node_fit::is_selected(node, spec)
    {
        return NONE;
    }
    let tolerations = tolerations(spec);
    let repelled = |effects: &[&str]| node_fit::is_repelled(node, &tolerations, effects, compare);
    Fit { should_run: !repelled(&["NoSchedule", "NoExecute"]), may_stay: !repelled(&["NoExecute"]) }
}

/// The pod of a set for one node.
pub(super) fn pod_for(set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let empty = PodTemplateSpec::default();
    let template = set.spec.as_ref().map_or(&empty, |s| &s.template);
    let mut pod = pod_control::from_template(template, set);
    pod_control::label(&mut pod, HASH_LABEL, hash);
    if let Some(generation) = label_generation(set) {
        pod_control::label(&mut pod, GENERATION, generation);
    }
    let spec = pod.spec.get_or_insert_default();
    spec.tolerations = Some(tolerations(spec));
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let of_node: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    let selector = of_node.required_during_scheduling_ignored_during_execution.get_or_insert_default();
    pin(selector, node);
    pod
}

fn label_generation(set: &DaemonSet) -> Option<&str> {
    component_base::meta::annotation(&set.metadata, "deprecated.daemonset.template.generation")
}

/// Makes a selector take one node only, whatever names of nodes it has now.
fn pin(selector: &mut NodeSelector, node: &str) {
    let requirement = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    if selector.node_selector_terms.is_empty() {
        selector.node_selector_terms.push(NodeSelectorTerm::default());
    }
    for term in &mut selector.node_selector_terms {
        term.match_fields = Some(vec![requirement.clone()]);
    }
}

/// What is to be done about pods.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes {
    /// Nodes that need a pod.
    pub(super) create: Vec<String>,
    /// Pods that go.
    pub(super) delete: Vec<Arc<Pod>>,
    /// Pods that ended well though they should not end: they go.
    pub(super) ended: Vec<(String, Arc<Pod>)>,
    /// Pods that failed on their node: they go after a delay that grows.
    pub(super) failed: Vec<(String, Arc<Pod>)>,
}

/// Pods by node.
pub(super) type ByNode = BTreeMap<String, Vec<Arc<Pod>>>;

/// Sorts pods by the node they are for. Those that have ended and are on their way out hold up nobody, however long
/// somebody keeps them.
pub(super) fn by_node(pods: &[Arc<Pod>]) -> ByNode {
    let gone = |pod: &Pod| is_finished(pod) && is_deleting(&pod.metadata);
    pod_control::group_by(pods, |pod| node_of(pod).filter(|_| !gone(pod))).into_iter().collect()
}

/// What brings every node to what it should have, the update of the template aside.
pub(super) fn manage(set: &DaemonSet, nodes: &Nodes, pods: &ByNode, hash: &str, now: Timestamp) -> Changes {
    let mut changes = Changes::default();
    let none = Vec::new();
    for node in &nodes.all {
        let name = node.metadata.name.clone().unwrap_or_default();
        let here = pods.get(&name).unwrap_or(&none);
        let fit = fit(set, node, nodes.compare);
        let ends = |p: &Arc<Pod>| is_deleting(&p.metadata) || is_finished(p);
        if fit.should_run && here.is_empty() {
            changes.create.push(name);
        } else if fit.may_stay {
            // With a surge the next one need not wait for the last one's end.
            if fit.should_run && limits(set, 1).surge > 0 && here.iter().all(ends) {
                changes.create.push(name.clone());
            }
            thin_out(set, &name, here, hash, now, &mut changes);
        } else {
            changes.delete.extend(here.iter().filter(|p| !is_deleting(&p.metadata)).cloned());
        }
    }
    // A pod that waits for a node that is gone would wait for ever.
    for (name, here) in pods.iter().filter(|(name, _)| nodes.find(name).is_none()) {
        tracing::debug!(node = name, "pods of a node that is gone");
        let unplaced = |p: &&Arc<Pod>| {
            p.spec.as_ref().is_none_or(|s| s.node_name.as_deref().unwrap_or_default().is_empty())
        };
        changes.delete.extend(here.iter().filter(unplaced).filter(|p| !is_deleting(&p.metadata)).cloned());
    }
    changes
}

/// One running pod a node, or two while a new one takes over from an old one.
fn thin_out(
    set: &DaemonSet,
    node: &str,
    here: &[Arc<Pod>],
    hash: &str,
    now: Timestamp,
    changes: &mut Changes,
) {
    let mut running = Vec::new();
    for pod in here.iter().filter(|p| !is_deleting(&p.metadata)) {
        match phase(pod) {
            "Failed" => changes.failed.push((node.to_owned(), pod.clone())),
            "Succeeded" => changes.ended.push((node.to_owned(), pod.clone())),
            _ => running.push(pod.clone()),
        }
    }
    running.sort_by_key(|p| (!is_placed(p), age(p), p.metadata.name.clone()));
    if limits(set, 1).surge == 0 {
        changes.delete.extend(running.into_iter().skip(1));
        return;
    }
    let (new, old): (Vec<Arc<Pod>>, Vec<Arc<Pod>>) = running.into_iter().partition(|p| is_new(p, hash));
    let least = min_ready(set);
    if let (Some(oldest_new), Some(oldest_old)) = (new.first(), old.first()) {
        // The old one stays until the new one can take over, unless it serves nobody anyway.
        if is_available(oldest_new, least, now) || !is_ready(oldest_old) {
            changes.delete.push(oldest_old.clone());
        }
    }
    changes.delete.extend(old.into_iter().skip(1).chain(new.into_iter().skip(1)));
}

fn is_placed(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).is_some_and(|node| !node.is_empty())
}

fn age(pod: &Pod) -> i64 {
    pod.metadata.creation_timestamp.as_ref().map_or(i64::MAX, |t| t.0.as_second())
}

/// Whether a pod is of the template as it is now.
pub(super) fn is_new(pod: &Pod, hash: &str) -> bool {
    label(&pod.metadata, HASH_LABEL) == Some(hash)
}

/// The same, for pods that an old controller made as well: they name the template's generation.
fn is_updated(set: &DaemonSet, pod: &Pod, hash: &str) -> bool {
    let generation = label_generation(set).filter(|generation| generation.parse::<i64>().is_ok());
    is_new(pod, hash) || (generation.is_some() && label(&pod.metadata, GENERATION) == generation)
}

fn min_ready(set: &DaemonSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
}

/// How many pods an update may take away or add at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) unavailable: usize,
    pub(super) surge: usize,
}

/// `maxUnavailable` and `maxSurge` of `desired` nodes; one node is always under way.
pub(super) fn limits(set: &DaemonSet, desired: usize) -> Limits {
    let strategy = set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
    let rolling = strategy
        .filter(|s| s.type_.as_deref().unwrap_or("RollingUpdate") == "RollingUpdate")
        .and_then(|s| s.rolling_update.as_ref());
    let total = i64::try_from(desired).unwrap_or(i64::MAX);
    let of = |value: Option<&IntOrString>, fallback: usize| {
        value.map_or(fallback, |v| {
            intstr::scaled(v, total, Rounding::Up).ok().and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
        })
    };
    let surge = of(rolling.and_then(|r| r.max_surge.as_ref()), 0);
    let unavailable = of(rolling.and_then(|r| r.max_unavailable.as_ref()), 1);
    Limits { unavailable: if surge == 0 { unavailable.max(1) } else { unavailable }, surge }
}

/// Whether pods of an older template are replaced without being asked.
pub(super) fn rolls(set: &DaemonSet) -> bool {
    let strategy = set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
    strategy.and_then(|s| s.type_.as_deref()).unwrap_or("RollingUpdate") == "RollingUpdate"
}

/// One node's pod of the new template, and of an old one.
type Pair = (Option<Arc<Pod>>, Option<Arc<Pod>>);

/// A node's pair; `None` when there are several of either.
fn pair(set: &DaemonSet, pods: &[Arc<Pod>], hash: &str) -> Option<Pair> {
    let (mut new, mut old) = (None, None);
    for pod in pods.iter().filter(|p| !is_deleting(&p.metadata)) {
        let slot = if is_updated(set, pod, hash) { &mut new } else { &mut old };
        if slot.replace(pod.clone()).is_some() {
            return None;
        }
    }
    Some((new, old))
}

/// The next step from the old template to the new one.
pub(super) fn roll(set: &DaemonSet, nodes: &Nodes, pods: &ByNode, hash: &str, now: Timestamp) -> Changes {
    let desired = || nodes.all.iter().filter(|node| nodes.is_wanted(set, node));
    let limits = limits(set, desired().count());
    let least = min_ready(set);
    if limits.surge > 0 {
        return surge(set, nodes, pods, hash, limits, now);
    }
    // A node that has no pod yet is without one that serves, too.
    let is_bare =
        |node: &&Arc<Node>| node.metadata.name.as_ref().is_some_and(|name| !pods.contains_key(name));
    let mut unavailable = desired().filter(is_bare).count();
    let (mut dead, mut candidates) = (Vec::new(), Vec::new());
    for here in pods.values() {
        match pair(set, here, hash) {
            Some((None, Some(old))) if !is_available(&old, least, now) => {
                unavailable += 1;
                dead.push(old);
            }
            Some((None, Some(old))) => candidates.push(old),
            Some((Some(new), None)) if is_available(&new, least, now) => {}
            // Whatever else there is, the node is without a pod that serves.
            _ => unavailable += 1,
        }
    }
    // A pod that does not serve costs nothing to replace.
    candidates.truncate(limits.unavailable.saturating_sub(unavailable));
    dead.extend(candidates);
    Changes { delete: dead, ..Changes::default() }
}

/// New pods first, beside the old ones.
fn surge(
    set: &DaemonSet,
    nodes: &Nodes,
    pods: &ByNode,
    hash: &str,
    limits: Limits,
    now: Timestamp,
) -> Changes {
    let least = min_ready(set);
    let runs = |name: &str| nodes.find(name).is_some_and(|node| nodes.is_wanted(set, node));
    let (mut surging, mut old_to_go) = (0, Vec::new());
    let (mut dead, mut candidates) = (Vec::new(), Vec::new());
    let (mut serving, mut misplaced) = (0_usize, Vec::new());
    for (name, here) in pods {
        let pair = pair(set, here, hash);
        let counts = pair.as_ref().and_then(|(new, old)| old.as_ref().or(new.as_ref()));
        serving += usize::from(counts.is_some_and(|pod| is_available(pod, least, now)));
        match pair {
            None => surging += 1,
            Some((None, Some(old))) if !is_available(&old, least, now) => match runs(name) {
                true => dead.push(name.clone()),
                false => old_to_go.push(old),
            },
            Some((None, Some(old))) if !runs(name) => misplaced.push(old),
            Some((None, Some(_))) => candidates.push(name.clone()),
            Some((Some(new), Some(old))) => {
                if is_available(&new, least, now) {
                    old_to_go.push(old);
                } else {
                    surging += 1;
                }
            }
            Some((_, None)) => {}
        }
    }
    candidates.truncate(limits.surge.saturating_sub(surging));
    dead.extend(candidates);
    // What serves where it does not belong goes once as many serve as there are nodes for it.
    let desired = nodes.all.iter().filter(|node| nodes.is_wanted(set, node)).count();
    old_to_go.extend(misplaced.into_iter().take(serving.saturating_sub(desired)));
    Changes { create: dead, delete: old_to_go, ..Changes::default() }
}

impl Changes {
    /// At most as many as one round may make.
    pub(super) fn bounded(mut self) -> Changes {
        self.create.truncate(BURST);
        self.delete.truncate(BURST);
        self
    }
}

/// The status the pods call for. Zeros are written out: a merge patch keeps what it does not name.
pub(super) fn status(
    set: &DaemonSet,
    nodes: &Nodes,
    pods: &ByNode,
    hash: &str,
    collisions: i32,
    now: Timestamp,
) -> DaemonSetStatus {
    let (mut desired, mut current, mut misplaced, mut ready, mut available, mut updated) = (0, 0, 0, 0, 0, 0);
    let none = Vec::new();
    for node in &nodes.all {
        let here = pods.get(node.metadata.name.as_deref().unwrap_or_default()).unwrap_or(&none);
        if !nodes.is_wanted(set, node) {
            misplaced += i32::from(!here.is_empty());
            continue;
        }
        desired += 1;
        if here.is_empty() {
            continue;
        }
        current += 1;
        let mut sorted: Vec<&Arc<Pod>> = here.iter().collect();
        sorted.sort_by_key(|p| (age(p), p.metadata.name.clone()));
        let oldest_ready = sorted.iter().find(|p| is_ready(p));
        if let Some(pod) = oldest_ready {
            ready += 1;
            available += i32::from(is_available(pod, min_ready(set), now));
        }
        updated += i32::from(here.iter().any(|p| is_updated(set, p, hash)));
    }
    DaemonSetStatus {
        desired_number_scheduled: desired,
        current_number_scheduled: current,
        number_misscheduled: misplaced,
        number_ready: ready,
        updated_number_scheduled: Some(updated),
        number_available: Some(available),
        number_unavailable: Some(desired - available),
        observed_generation: set.metadata.generation,
        collision_count: (collisions > 0).then_some(collisions),
        conditions: set.status.as_ref().and_then(|s| s.conditions.clone()),
    }
}

#[cfg(test)]
mod tests;
