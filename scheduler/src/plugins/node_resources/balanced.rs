//! NodeResourcesBalancedAllocation: prefers nodes whose CPU and memory use become more even.

use crate::{
    framework::{MAX_SCORE, Plugin, Score},
    model::{Cluster, NodeInfo, PodInfo, Resources},
};

/// The plugin.
pub struct BalancedAllocation;

struct Balance<'a>(&'a Resources);

impl Plugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn score<'a>(&self, pod: &'a PodInfo, _: &'a Cluster, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        let best_effort = pod.requests.milli_cpu == 0 && pod.requests.memory == 0;
        if best_effort { None } else { Some(Box::new(Balance(&pod.requests))) }
    }
}

impl Score for Balance<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let (have, used) = (&node.allocatable, &node.requested);
        let with = evenness(&[
            (used.milli_cpu + self.0.milli_cpu, have.milli_cpu),
            (used.memory + self.0.memory, have.memory),
        ]);
        let without = evenness(&[(used.milli_cpu, have.milli_cpu), (used.memory, have.memory)]);
        MAX_SCORE / 2 + (MAX_SCORE / 2 + with - without) / 2
    }
}

/// 100 × (1 − standard deviation of the used fractions); resources a node does not have are left out.
#[expect(clippy::cast_possible_truncation, reason = "the value lies between 50 and 100")]
fn evenness(amounts: &[(i64, i64)]) -> i64 {
    let fractions: Vec<f64> = amounts
        .iter()
        .filter(|(_, have)| *have != 0)
        .map(|(used, have)| (*used as f64 / *have as f64).min(1.0))
        .collect();
    let deviation = match fractions.as_slice() {
        [a, b] => ((a - b) / 2.0).abs(),
        _ => 0.0,
    };
    ((1.0 - deviation) * MAX_SCORE as f64) as i64
}
