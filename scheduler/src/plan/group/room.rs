//! Room for a whole group (KEP-5710): which pods anywhere in the cluster would have to go so that the group fits.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use super::{Rehearsal, Rules, Standing, rehearse};
use crate::{
    model::{Cluster, GroupInfo, PodInfo},
    plan::{Budget, Memo, preemption::forbidden},
};

/// Pods that go or stay together.
struct Unit {
    pods: Vec<Arc<PodInfo>>,
    priority: i32,
}

impl Unit {
    /// More important first: priority, groups before pods, larger groups, longer running.
    fn importance(&self) -> (Reverse<i32>, bool, Reverse<usize>, i64) {
        let is_single = self.pods.iter().all(|pod| pod.group.is_none());
        let started = self.pods.iter().map(|pod| pod.started).min().unwrap_or(i64::MAX);
        let size = if is_single { 0 } else { self.pods.len() };
        (Reverse(self.priority), is_single, Reverse(size), started)
    }
}

/// The least important pods whose going makes the group fit, most important first.
///
/// # Errors
/// When no room can be made: why, as it joins the group's message.
pub fn room_for(
    group: &GroupInfo,
    pods: &[Arc<PodInfo>],
    cluster: Cluster,
    rules: Rules<'_>,
    budgets: &[Budget],
) -> Result<Vec<Arc<PodInfo>>, String> {
    if !pods.iter().all(|pod| pod.may_preempt) {
        return Err("not eligible due to preemptionPolicy=Never.".to_owned());
    }
    let rules = Rules { room: Err(""), ..rules };
    let mut units: Vec<Unit> = units(&cluster).filter(|unit| unit.priority < group.priority).collect();
    if units.is_empty() {
        return Err("No preemption victims found for incoming preemptor".to_owned());
    }
    let mut stage = Stage { cluster, memo: Memo::default() };
    units.iter().for_each(|unit| stage.without(unit));
    if !stage.fits(pods, rules) {
        return Err(super::UNSCHEDULABLE.to_owned());
    }
    units.sort_by_key(Unit::importance);
    let forbidden = forbidden(units.iter().map(|unit| unit.pods.as_slice()), budgets);
    // The important ones get their place back first, and before them those whose budget forbids their going.
    let (first, second): (Vec<_>, Vec<_>) =
        units.into_iter().zip(forbidden).partition(|(_, forbidden)| *forbidden);
    let mut victims: Vec<Unit> = Vec::new();
    for (unit, _) in first.into_iter().chain(second) {
        unit.pods.iter().for_each(|pod| stage.cluster.place(pod.clone()));
        if !stage.fits(pods, rules) {
            stage.without(&unit);
            victims.push(unit);
        }
    }
    victims.sort_by_key(Unit::importance);
    Ok(victims.into_iter().flat_map(|unit| unit.pods).collect())
}

/// A cluster that a group is tried on again and again.
struct Stage {
    cluster: Cluster,
    memo: Memo,
}

impl Stage {
    fn without(&mut self, unit: &Unit) {
        for pod in &unit.pods {
            self.cluster.displace(&pod.uid);
        }
    }

    fn fits(&mut self, pods: &[Arc<PodInfo>], rules: Rules<'_>) -> bool {
        let mut begin = Rehearsal::new(std::mem::take(&mut self.cluster));
        begin.memo = std::mem::take(&mut self.memo);
        let done = rehearse(begin, pods, rules);
        let fits = done.standing() == Standing::Fits;
        (self.cluster, self.memo) = done.undo();
        fits
    }
}

/// All pods that have a node, those together that end together.
fn units(cluster: &Cluster) -> impl Iterator<Item = Unit> {
    let mut groups: BTreeMap<String, Unit> = BTreeMap::new();
    let mut singles = Vec::new();
    for pod in cluster.nodes().iter().flat_map(|node| &node.pods) {
        let group = pod.group_key().and_then(|key| cluster.groups.get(&key)).filter(|g| g.ends_as_one);
        match group {
            Some(group) => groups
                .entry(group.uid.clone())
                .or_insert_with(|| Unit { pods: Vec::new(), priority: group.priority })
                .pods
                .push(pod.clone()),
            None => singles.push(Unit { pods: vec![pod.clone()], priority: pod.priority }),
        }
    }
    groups.into_values().chain(singles)
}
