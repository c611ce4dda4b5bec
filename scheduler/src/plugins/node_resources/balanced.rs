//! NodeResourcesBalancedAllocation: prefers nodes whose use of resources becomes more even.

use crate::{
    config::args::NodeResourcesBalancedAllocationArgs,
    framework::{MAX_SCORE, Plugin, Score},
    model::{Cluster, NodeInfo, PodInfo, Resources},
};

/// The plugin.
pub struct BalancedAllocation {
    resources: Vec<String>,
}

struct Balance<'a> {
    requests: &'a Resources,
    resources: Vec<String>,
}

impl BalancedAllocation {
    /// The plugin with its arguments.
    pub fn new(args: NodeResourcesBalancedAllocationArgs) -> Self {
        let mut resources: Vec<String> = args.resources.into_iter().map(|r| r.name).collect();
        if resources.is_empty() {
            resources = vec!["cpu".into(), "memory".into()];
        }
        Self { resources }
    }
}

impl Plugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn is_local(&self) -> bool {
        true
    }

    fn score<'a>(&self, pod: &'a PodInfo, _: &'a Cluster, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        if self.resources.iter().all(|name| pod.requests.get(name) == 0) {
            return None;
        }
        Some(Box::new(Balance { requests: &pod.requests, resources: self.resources.clone() }))
    }
}

impl Score for Balance<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let (have, used) = (&node.allocatable, &node.requested);
        let of = |more: bool| -> Vec<(i64, i64)> {
            let amount = |name: &String| {
                let new = if more { self.requests.get(name) } else { 0 };
                (used.get(name) + new, have.get(name))
            };
            self.resources.iter().map(amount).collect()
        };
        let (with, without) = (evenness(&of(true)), evenness(&of(false)));
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
        [] | [_] => 0.0,
        many => {
            let count = many.len() as f64;
            let mean = many.iter().sum::<f64>() / count;
            (many.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count).sqrt()
        }
    };
    ((1.0 - deviation) * MAX_SCORE as f64) as i64
}
