//! The decision: which node takes a pod, or why none does, and what preemption would do about it.
//!
//! Pure: `schedule` and `preempt` read a snapshot and return; randomness for ties is passed in.

pub mod group;
mod memo;
mod preemption;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use smol_str::SmolStr;

use self::memo::Class;
pub use self::memo::Memo;
pub use preemption::{Budget, Candidate, Means, Nominations, Preemption, best, candidates, preempt};

use crate::{
    framework::{Filter, Prepared, Reason, Verdict},
    metrics::Status,
    model::{Cluster, NodeInfo, PodInfo, Release, Reservation},
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
    pub verdicts: BTreeMap<SmolStr, Verdict>,
    /// Plugins that refused: only events they care about wake the pod.
    pub plugins: Vec<&'static str>,
    /// Refusal of all nodes at once.
    pub rejected: Option<Reason>,
    /// What kept a plugin from telling: there is no decision then.
    pub failed: Option<FilterError>,
}

/// A plugin could not tell whether a node does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("running {plugin:?} filter plugin: {reason}")]
pub struct FilterError {
    /// The plugin.
    pub plugin: &'static str,
    /// Why.
    pub reason: Reason,
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

/// Who times the parts of a decision. It changes none.
pub trait Stopwatch: std::fmt::Debug + Sync {
    /// A part begins now; not needed where it begins when the last one ends.
    fn begin(&self);
    /// All plugins have run at an extension point.
    fn end(&self, point: &'static str, status: Status);
}

/// Options of a decision.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// `percentageOfNodesToScore`.
    pub percentage: u32,
    /// Where to begin looking, so that all nodes get their turn.
    pub start: usize,
    /// Picks among equal scores.
    pub tie: u64,
    /// Whether nobody scores nodes.
    pub any: bool,
    /// Who times it.
    pub stopwatch: Option<&'a dyn Stopwatch>,
}

impl Options<'_> {
    fn begin(&self) {
        self.stopwatch.into_iter().for_each(|watch| watch.begin());
    }

    fn end(&self, point: &'static str, status: Status) {
        self.stopwatch.into_iter().for_each(|watch| watch.end(point, status));
    }
}

/// Picks the node with the highest score among those that fit. `memo` must be of these plugins and this cluster alone.
pub fn schedule(
    pod: &PodInfo,
    cluster: &Cluster,
    plugins: &[Weighted],
    nominated: &[(String, Arc<PodInfo>)],
    options: Options<'_>,
    memo: &mut Memo,
) -> Result<Placement, Unschedulable> {
    let mut failure = Unschedulable { nodes: cluster.nodes().len(), ..Unschedulable::default() };
    if failure.nodes == 0 {
        return Err(failure);
    }
    let mut filters = match begin(pod, cluster, plugins, options) {
        Ok(prepared) => prepared,
        Err((plugin, reason)) => {
            failure.plugins.push(plugin);
            failure.rejected = Some(reason);
            return Err(failure);
        }
    };
    let guests = guests(pod, nominated);
    let options = Options { any: plugins.iter().all(|w| w.weight == 0), ..options };
    // A pod that may go to a few named nodes has nothing in common with others.
    let mut known = filters.restricted.is_none().then(|| memo.of(pod, cluster, plugins));
    let found = match filters.find(pod, cluster, &guests, options, known.as_deref_mut()) {
        Ok(found) => found,
        Err(error) => {
            options.end("Filter", Status::Error);
            return Err(Unschedulable { failed: Some(error), ..failure });
        }
    };
    if found.nodes.is_empty() {
        filters.explain(cluster, &guests, &mut failure);
    }
    options.end("Filter", Status::Success);
    match found.nodes.is_empty() {
        true => Err(failure),
        false => Ok(place(pod, cluster, plugins, &found, options, known, &HashMap::new())),
    }
}

/// Prepares the filters as the first step of a decision.
fn begin<'a>(
    pod: &'a PodInfo,
    cluster: &'a Cluster,
    plugins: &[Weighted],
    options: Options<'_>,
) -> Result<Filters<'a>, (&'static str, Reason)> {
    options.begin();
    let prepared = prepare(pod, cluster, plugins);
    options.end("PreFilter", if prepared.is_ok() { Status::Success } else { Status::Unresolvable });
    prepared
}

/// Nodes that fit, at least as many as are wanted if there are so many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Their positions.
    nodes: Vec<usize>,
    /// How many were looked at.
    evaluated: usize,
}

impl Found {
    /// Their names.
    pub fn names<'c>(&self, cluster: &'c Cluster) -> Vec<&'c SmolStr> {
        self.nodes.iter().map(|at| &cluster.nodes()[*at].name).collect()
    }
}

/// The first half of [`schedule`], for those who have a say between the halves: which nodes fit.
pub fn search(
    pod: &PodInfo,
    cluster: &Cluster,
    plugins: &[Weighted],
    nominated: &[(String, Arc<PodInfo>)],
    options: Options<'_>,
) -> Result<Found, Unschedulable> {
    let found = match begin(pod, cluster, plugins, options) {
        Ok(mut filters) => {
            let found = filters.find(pod, cluster, &guests(pod, nominated), options, None);
            options.end("Filter", Status::of(found.is_ok()));
            found
        }
        Err(_) => Ok(Found::default()),
    };
    match found {
        Ok(found) if !found.nodes.is_empty() => Ok(found),
        Ok(_) => Err(refusals(pod, cluster, plugins, nominated)),
        Err(error) => Err(Unschedulable { failed: Some(error), ..Unschedulable::default() }),
    }
}

/// The second half: the node with the highest score among those found that are `kept`, where others add `scores`.
/// There is none when none is kept.
pub fn choose(
    pod: &PodInfo,
    cluster: &Cluster,
    plugins: &[Weighted],
    mut found: Found,
    kept: &BTreeSet<&str>,
    scores: &HashMap<SmolStr, i64>,
    options: Options<'_>,
) -> Option<Placement> {
    options.begin();
    found.nodes.retain(|at| kept.contains(cluster.nodes()[*at].name.as_str()));
    let some = !found.nodes.is_empty();
    some.then(|| place(pod, cluster, plugins, &found, options, None, scores))
}

/// Why the nodes that do not fit do not.
pub fn refusals(
    pod: &PodInfo,
    cluster: &Cluster,
    plugins: &[Weighted],
    nominated: &[(String, Arc<PodInfo>)],
) -> Unschedulable {
    let mut failure = Unschedulable { nodes: cluster.nodes().len(), ..Unschedulable::default() };
    if failure.nodes == 0 {
        return failure;
    }
    match prepare(pod, cluster, plugins) {
        Ok(mut filters) => filters.explain(cluster, &guests(pod, nominated), &mut failure),
        Err((plugin, reason)) => {
            failure.plugins.push(plugin);
            failure.rejected = Some(reason);
        }
    }
    failure
}

/// Decides for the best of the nodes found.
fn place(
    pod: &PodInfo,
    cluster: &Cluster,
    plugins: &[Weighted],
    found: &Found,
    options: Options<'_>,
    known: Option<&mut Class>,
    more: &HashMap<SmolStr, i64>,
) -> Placement {
    let node = &cluster.nodes()[pick(pod, cluster, plugins, &found.nodes, options, known, more)];
    let reservation = reserve(pod, cluster, plugins, node);
    options.end("Reserve", Status::Success);
    let (evaluated, feasible) = (found.evaluated, found.nodes.len());
    Placement { node: node.name.to_string(), evaluated, feasible, reservation }
}

/// Pods nominated to nodes that count as there for this one, by node.
type Guests<'a> = HashMap<&'a str, Vec<&'a Arc<PodInfo>>>;

fn guests<'a>(pod: &PodInfo, nominated: &'a [(String, Arc<PodInfo>)]) -> Guests<'a> {
    let mut out = Guests::new();
    for (node, guest) in nominated.iter().filter(|(_, p)| p.priority >= pod.priority && p.uid != pod.uid) {
        out.entry(node.as_str()).or_default().push(guest);
    }
    out
}

fn reserve(pod: &PodInfo, cluster: &Cluster, plugins: &[Weighted], node: &NodeInfo) -> Reservation {
    let mut out = Reservation::default();
    for Weighted { plugin, .. } in plugins.iter().filter(|w| w.points.reserves) {
        let more = plugin.reserve(pod, cluster, node);
        out.volumes.extend(more.volumes);
        out.claims.extend(more.claims);
        out.awaited.extend(more.awaited);
        out.devices.extend(more.devices);
        out.extended = more.extended.or(out.extended);
        out.of_node.extend(more.of_node);
    }
    out
}

/// What comes of it that no node takes a pod, before others are evicted for it.
#[derive(Debug, Default)]
pub struct LetGo {
    /// What is given back.
    pub claim: Option<Release>,
    /// What joins the pod's message.
    pub note: &'static str,
    /// What comes next.
    pub next: Next,
}

/// What comes of a pod after that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Next {
    /// Others may have to go for it.
    #[default]
    MakeRoom,
    /// Nothing: it keeps room that was made for it before.
    Wait,
    /// It does not keep that either.
    GiveUp,
}

/// Said by a plugin whose turn had not come when another one refused the pod whatever the node: it knows nothing of it.
const NOT_ASKED: &str = "not found";

/// What plugins let go of.
pub fn let_go(pod: &PodInfo, cluster: &Cluster, plugins: &[Weighted], failure: &Unschedulable) -> LetGo {
    if failure.nodes == 0 {
        return LetGo { next: Next::GiveUp, ..LetGo::default() };
    }
    let of = |name: &str| plugins.iter().find(|w| w.plugin.name() == name).map(|w| w.turns.prepares);
    let rejected = failure.rejected.as_ref().and_then(|_| of(failure.plugins.first()?));
    let mut out = LetGo::default();
    for w in plugins.iter().filter(|w| w.points.lets_go) {
        let Some(note) = w.plugin.kept(pod, cluster) else { continue };
        if rejected.is_some_and(|turn| turn < w.turns.prepares) {
            return LetGo { claim: None, note: NOT_ASKED, next: Next::Wait };
        }
        let refused = failure.plugins.contains(&w.plugin.name());
        out.note = note;
        // Others are asked to go all the same: it is not known yet whether that is enough.
        if let Some(claim) = refused.then(|| w.plugin.release(pod, cluster)).flatten() {
            return LetGo { note: claim.done(), claim: Some(claim), next: Next::MakeRoom };
        }
    }
    out
}

/// The filters of one cycle.
pub(crate) struct Filters<'a> {
    filters: Vec<Ready<'a>>,
    /// Nodes some plugin restricted the cycle to, with its name.
    restricted: Option<(&'static str, BTreeSet<&'a str>)>,
}

struct Ready<'a> {
    plugin: &'static str,
    is_local: bool,
    filter: Box<dyn Filter + 'a>,
}

pub(crate) fn prepare<'a>(
    pod: &'a PodInfo,
    cluster: &'a Cluster,
    plugins: &[Weighted],
) -> Result<Filters<'a>, (&'static str, Reason)> {
    let mut out = Filters { filters: Vec::new(), restricted: None };
    let mut rejected: Option<(usize, (&'static str, Reason))> = None;
    for Weighted { plugin, turns, .. } in plugins.iter().filter(|w| w.points.filters) {
        // Whose turn comes after that of one that rejects the pod is not asked.
        if rejected.as_ref().is_some_and(|(turn, _)| *turn <= turns.prepares) {
            continue;
        }
        let filter = match plugin.filter(pod, cluster) {
            Prepared::Skip => continue,
            Prepared::Reject(reason) => {
                rejected = Some((turns.prepares, (plugin.name(), reason)));
                continue;
            }
            Prepared::Filter(filter) => filter,
            Prepared::Restrict(names, filter) => {
                out.restricted = Some((plugin.name(), names));
                filter
            }
        };
        out.filters.push(Ready { plugin: plugin.name(), is_local: plugin.is_local(), filter });
    }
    rejected.map_or(Ok(out), |(_, rejected)| Err(rejected))
}

impl Ready<'_> {
    fn refusal(&self, node: &NodeInfo) -> Option<(&'static str, Verdict)> {
        match self.filter.check(node) {
            Verdict::Fits => None,
            verdict => Some((self.plugin, verdict)),
        }
    }
}

impl Filters<'_> {
    /// Looks for nodes that fit.
    fn find(
        &mut self,
        pod: &PodInfo,
        cluster: &Cluster,
        guests: &Guests<'_>,
        options: Options<'_>,
        mut known: Option<&mut Class>,
    ) -> Result<Found, FilterError> {
        let all = cluster.nodes();
        // Where nobody says which is best, one is as good as any.
        let enough = if options.any { 1 } else { nodes_to_find(all.len(), options.percentage) };
        let mut found = Found::default();
        // A pod for which room was made looks at that node first and takes it if it fits; a node that is gone is none.
        let nominee = cluster.position(&pod.nominated_node).ok();
        let named =
            self.restricted.as_ref().map(|(_, names)| names.iter().filter_map(|n| cluster.position(n).ok()));
        let named: Option<Vec<usize>> = named.map(Iterator::collect);
        let count = named.as_ref().map_or(all.len(), Vec::len);
        let turns = cluster.turns();
        let turn = |i: usize| match &named {
            Some(positions) => positions[i],
            None => turns[(i + options.start) % turns.len()],
        };
        for at in nominee.into_iter().chain((0..count).map(turn)) {
            found.evaluated += 1;
            if self.refuses(at, cluster, guests, known.as_deref_mut())? {
                continue;
            }
            found.nodes.push(at);
            if found.nodes.len() >= enough || Some(at) == nominee {
                break;
            }
        }
        Ok(found)
    }

    /// Whether a node is refused; see [`Filters::refusal`].
    fn refuses(
        &mut self,
        at: usize,
        cluster: &Cluster,
        guests: &Guests<'_>,
        known: Option<&mut Class>,
    ) -> Result<bool, FilterError> {
        let node = &cluster.nodes()[at];
        let refusal = match known.filter(|_| guests.is_empty() || !guests.contains_key(node.name.as_str())) {
            None => self.refusal(node, guests),
            Some(known) => {
                let fits = |ready: &Ready<'_>| ready.filter.check(node) == Verdict::Fits;
                let local = || self.filters.iter().filter(|f| f.is_local).all(fits);
                if !known.fits(at, cluster, local) {
                    return Ok(true);
                }
                self.filters.iter().filter(|f| !f.is_local).find_map(|ready| ready.refusal(node))
            }
        };
        match refusal {
            Some((plugin, Verdict::Failed(reason))) => Err(FilterError { plugin, reason }),
            refusal => Ok(refusal.is_some()),
        }
    }

    /// The first plugin that refuses a node, with its verdict. Pods nominated to the node that are at
    /// least as important count as there; the pod must fit with and without them.
    fn refusal(&mut self, node: &NodeInfo, guests: &Guests<'_>) -> Option<(&'static str, Verdict)> {
        if let Some(guests) = guests.get(node.name.as_str()) {
            let mut full = node.clone();
            for guest in guests {
                full.add((*guest).clone());
                self.pod_added(guest, node);
            }
            let refusal = self.check(&full);
            for guest in guests {
                self.pod_removed(guest, node);
            }
            if refusal.is_some() {
                return refusal;
            }
        }
        self.check(node)
    }

    /// Says of every node why it was refused.
    fn explain(&mut self, cluster: &Cluster, guests: &Guests<'_>, failure: &mut Unschedulable) {
        for node in cluster.nodes() {
            let Some((plugin, verdict)) = self.refusal(node, guests) else { continue };
            if !failure.plugins.contains(&plugin) {
                failure.plugins.push(plugin);
            }
            failure.verdicts.insert(node.name.clone(), verdict);
        }
    }

    pub(crate) fn check(&self, node: &NodeInfo) -> Option<(&'static str, Verdict)> {
        if let Some((plugin, names)) = &self.restricted
            && !names.contains(node.name.as_str())
        {
            return Some((plugin, Verdict::unresolvable("node(s) didn't satisfy plugin(s) [NodeAffinity]")));
        }
        self.filters.iter().find_map(|ready| ready.refusal(node))
    }

    pub(crate) fn pod_added(&mut self, pod: &PodInfo, node: &NodeInfo) {
        for ready in &mut self.filters {
            ready.filter.pod_added(pod, node);
        }
    }

    pub(crate) fn pod_removed(&mut self, pod: &PodInfo, node: &NodeInfo) {
        for ready in &mut self.filters {
            ready.filter.pod_removed(pod, node);
        }
    }
}

/// The best of the nodes at these positions; `more` is added to their scores.
fn pick<'p>(
    pod: &PodInfo,
    cluster: &Cluster,
    plugins: &'p [Weighted],
    feasible: &[usize],
    options: Options<'_>,
    mut known: Option<&mut Class>,
    more: &HashMap<SmolStr, i64>,
) -> usize {
    if let [only] = feasible {
        return *only;
    }
    let nodes: Vec<&NodeInfo> = feasible.iter().map(|at| cluster.nodes()[*at].as_ref()).collect();
    let mut totals: Vec<i64> = nodes.iter().map(|n| more.get(&n.name).copied().unwrap_or(0)).collect();
    let mut scores = Vec::with_capacity(nodes.len());
    let scoring = plugins.iter().enumerate().filter(|(_, w)| w.weight > 0);
    let prepare = |(number, weighted): (usize, &'p Weighted)| {
        Some((number, weighted, weighted.plugin.score(pod, cluster, &nodes)?))
    };
    let scorers: Vec<_> = scoring.filter_map(prepare).collect();
    options.end("PreScore", Status::Success);
    for (number, Weighted { plugin, weight, .. }, scorer) in scorers {
        scores.clear();
        match known.as_deref_mut().filter(|_| plugin.is_local()) {
            Some(known) => {
                let of = |(at, node): (&usize, &&NodeInfo)| {
                    known.score(number, *at, cluster, || scorer.score(node))
                };
                scores.extend(feasible.iter().zip(&nodes).map(of));
            }
            None => scores.extend(nodes.iter().map(|node| scorer.score(node))),
        }
        scorer.normalize(&nodes, &mut scores);
        for (total, score) in totals.iter_mut().zip(&scores) {
            *total += score * weight;
        }
    }
    let best = totals.iter().copied().max().unwrap_or(0);
    let winners: Vec<usize> = (0..nodes.len()).filter(|i| totals[*i] == best).collect();
    options.end("Score", Status::Success);
    feasible[winners[usize::try_from(options.tie).unwrap_or(usize::MAX) % winners.len()]]
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
