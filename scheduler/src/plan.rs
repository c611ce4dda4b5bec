//! The decision: which node takes a pod, or why none does, and what preemption would do about it.
//!
//! Pure: `schedule` and `preempt` read a snapshot and return; randomness for ties is passed in.

mod preemption;

use std::collections::BTreeMap;

pub use preemption::{Budget, Nominations, Preemption, preempt};

use crate::{
    framework::{Filter, Prepared, Reason, Verdict},
    model::{Cluster, NodeInfo, PodInfo, Reservation},
    plugins::Weighted,
};

/// A node was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// The node's name.
    pub node: String,
    /// Nodes looked at.
    pub evaluated: usize,
    /// Nodes that fit.
    pub feasible: usize,
    /// What must be written before the pod is bound.
    pub reservation: Reservation,
}

/// No node takes the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unschedulable {
    /// Number of nodes there are.
    pub nodes: usize,
    /// Verdict per node that was refused.
    pub verdicts: BTreeMap<String, Verdict>,
    /// Plugins that refused: only events they care about wake the pod.
    pub plugins: Vec<&'static str>,
    /// Refusal of all nodes at once.
    pub rejected: Option<Reason>,
}

/// How many of `nodes` feasible ones are enough before scoring (`percentageOfNodesToScore`, 0 = adaptive).
pub fn nodes_to_find(nodes: usize, percentage: u32) -> usize {
    const MIN: usize = 100;
    if nodes < MIN || percentage >= 100 {
        return nodes;
    }
    let percentage = match percentage {
        0 => (50 - (nodes / 125).min(45)).max(5),
        p => p as usize,
    };
    (nodes * percentage / 100).max(MIN)
}

/// Options of a decision.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// `percentageOfNodesToScore`.
    pub percentage: u32,
    /// Where to begin looking, so that all nodes get their turn.
    pub start: usize,
    /// Picks among equal scores.
    pub tie: u64,
}

/// Picks the node with the highest score among those that fit.
pub fn schedule(
    pod: &PodInfo,
    cluster: &Cluster,
    plugins: &[Weighted],
    nominated: &[(String, std::sync::Arc<PodInfo>)],
    options: Options,
) -> Result<Placement, Unschedulable> {
    let mut failure = Unschedulable { nodes: cluster.nodes().len(), ..Unschedulable::default() };
    if failure.nodes == 0 {
        failure.rejected = None;
        return Err(failure);
    }
    let mut filters = match prepare(pod, cluster, plugins) {
        Ok(prepared) => prepared,
        Err((plugin, reason)) => {
            failure.plugins.push(plugin);
            failure.rejected = Some(reason);
            return Err(failure);
        }
    };
    let all: Vec<&NodeInfo> = cluster.nodes().map(AsRef::as_ref).collect();
    let enough = nodes_to_find(all.len(), options.percentage);
    let mut feasible: Vec<&NodeInfo> = Vec::new();
    let mut evaluated = 0;
    // A pod for which room was made looks at that node first and takes it if it fits.
    let nominee = all.iter().position(|n| !pod.nominated_node.is_empty() && n.name == pod.nominated_node);
    let order = nominee.into_iter().chain((0..all.len()).map(|i| (i + options.start) % all.len()));
    for at in order {
        let node = all[at];
        if let Some((plugin, verdict)) = filters.refuses(node, pod, nominated) {
            if !failure.plugins.contains(&plugin) {
                failure.plugins.push(plugin);
            }
            failure.verdicts.insert(node.name.to_string(), verdict);
            evaluated += 1;
            continue;
        }
        evaluated += 1;
        feasible.push(node);
        if feasible.len() >= enough || Some(at) == nominee {
            break;
        }
    }
    if feasible.is_empty() {
        return Err(failure);
    }
    let node = pick(pod, cluster, plugins, &feasible, options.tie);
    let reservation = reserve(pod, cluster, plugins, node);
    Ok(Placement { node: node.name.to_string(), evaluated, feasible: feasible.len(), reservation })
}

fn reserve(pod: &PodInfo, cluster: &Cluster, plugins: &[Weighted], node: &NodeInfo) -> Reservation {
    let mut out = Reservation::default();
    for Weighted { plugin, .. } in plugins.iter().filter(|w| w.points.reserves) {
        let more = plugin.reserve(pod, cluster, node);
        out.volumes.extend(more.volumes);
        out.claims.extend(more.claims);
        out.awaited.extend(more.awaited);
        out.devices.extend(more.devices);
    }
    out
}

/// The filters of one cycle.
pub(crate) struct Filters<'a> {
    filters: Vec<(&'static str, Box<dyn Filter + 'a>)>,
    /// Nodes some plugin restricted the cycle to, with its name.
    restricted: Option<(&'static str, std::collections::BTreeSet<&'a str>)>,
}

pub(crate) fn prepare<'a>(
    pod: &'a PodInfo,
    cluster: &'a Cluster,
    plugins: &[Weighted],
) -> Result<Filters<'a>, (&'static str, Reason)> {
    let mut out = Filters { filters: Vec::new(), restricted: None };
    for Weighted { plugin, .. } in plugins.iter().filter(|w| w.points.filters) {
        let filter = match plugin.filter(pod, cluster) {
            Prepared::Skip => continue,
            Prepared::Reject(reason) => return Err((plugin.name(), reason)),
            Prepared::Filter(filter) => filter,
            Prepared::Restrict(names, filter) => {
                out.restricted = Some((plugin.name(), names));
                filter
            }
        };
        out.filters.push((plugin.name(), filter));
    }
    Ok(out)
}

impl Filters<'_> {
    /// The first plugin that refuses a node, with its verdict. Pods nominated to the node that are at
    /// least as important count as there; the pod must fit with and without them.
    fn refuses(
        &mut self,
        node: &NodeInfo,
        pod: &PodInfo,
        nominated: &[(String, std::sync::Arc<PodInfo>)],
    ) -> Option<(&'static str, Verdict)> {
        let guests: Vec<&std::sync::Arc<PodInfo>> = nominated
            .iter()
            .filter(|(n, p)| node.name == *n && p.priority >= pod.priority && p.uid != pod.uid)
            .map(|(_, p)| p)
            .collect();
        if !guests.is_empty() {
            let mut full = node.clone();
            for guest in &guests {
                full.add((*guest).clone());
                self.pod_added(guest, node);
            }
            let refusal = self.check(&full);
            for guest in &guests {
                self.pod_removed(guest, node);
            }
            if refusal.is_some() {
                return refusal;
            }
        }
        self.check(node)
    }

    pub(crate) fn check(&self, node: &NodeInfo) -> Option<(&'static str, Verdict)> {
        if let Some((plugin, names)) = &self.restricted
            && !names.contains(node.name.as_str())
        {
            return Some((plugin, Verdict::unresolvable("node(s) didn't satisfy plugin(s) [NodeAffinity]")));
        }
        self.filters.iter().find_map(|(plugin, filter)| match filter.check(node) {
            Verdict::Fits => None,
            verdict => Some((*plugin, verdict)),
        })
    }

    pub(crate) fn pod_added(&mut self, pod: &PodInfo, node: &NodeInfo) {
        for (_, filter) in &mut self.filters {
            filter.pod_added(pod, node);
        }
    }

    pub(crate) fn pod_removed(&mut self, pod: &PodInfo, node: &NodeInfo) {
        for (_, filter) in &mut self.filters {
            filter.pod_removed(pod, node);
        }
    }
}

fn pick<'a>(
    pod: &'a PodInfo,
    cluster: &'a Cluster,
    plugins: &[Weighted],
    nodes: &[&'a NodeInfo],
    tie: u64,
) -> &'a NodeInfo {
    if let [only] = nodes {
        return only;
    }
    let mut totals = vec![0i64; nodes.len()];
    for Weighted { plugin, weight, .. } in plugins.iter().filter(|w| w.weight > 0) {
        let Some(scorer) = plugin.score(pod, cluster, nodes) else { continue };
        let mut scores: Vec<i64> = nodes.iter().map(|n| scorer.score(n)).collect();
        scorer.normalize(nodes, &mut scores);
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += score * weight;
        }
    }
    let best = totals.iter().copied().max().unwrap_or(0);
    let winners: Vec<usize> = (0..nodes.len()).filter(|i| totals[*i] == best).collect();
    let at = usize::try_from(tie).unwrap_or(usize::MAX) % winners.len();
    nodes[winners[at]]
}

impl Unschedulable {
    /// Upstream's message: `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable. …`.
    pub fn message(&self, preemption: &str) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut out = format!("0/{} nodes are available:", self.nodes);
        if let Some(reason) = &self.rejected {
            out.push_str(&format!(" {reason}."));
        } else {
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            for verdict in self.verdicts.values() {
                let (Verdict::Unschedulable(reasons) | Verdict::Unresolvable(reasons)) = verdict else {
                    continue;
                };
                for reason in reasons {
                    *counts.entry(reason).or_insert(0) += 1;
                }
            }
            let mut parts: Vec<String> = counts.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
            parts.sort();
            if !parts.is_empty() {
                out.push_str(&format!(" {}.", parts.join(", ")));
            }
        }
        if !preemption.is_empty() {
            out.push(' ');
            out.push_str(preemption);
        }
        out
    }
}

#[cfg(test)]
mod tests;
