//! NodeResourcesBalancedAllocation: prefers nodes whose use of resources becomes more even.

use super::amounts::{self, Amount, Amounts};
use crate::{
    config::args::{ArgsError, NodeResourcesBalancedAllocationArgs},
    framework::{MAX_SCORE, Plugin, Score, Scorer},
    model::{Cluster, NodeInfo, PodInfo},
};

/// The plugin.
pub struct BalancedAllocation {
    /// Resources that are to be even; weights are of no use here.
    resources: Vec<(String, i64)>,
}

struct Balance<'a>(Amounts<'a>);

impl BalancedAllocation {
    /// The plugin with its arguments.
    ///
    /// # Errors
    /// When a resource is named twice or has a weight.
    pub fn new(args: NodeResourcesBalancedAllocationArgs) -> Result<Self, ArgsError> {
        let mut resources: Vec<(String, i64)> = Vec::new();
        for (at, resource) in args.resources.into_iter().enumerate() {
            let refuse =
                |field: &str, why: String| Err(ArgsError::Item(format!("resources[{at}].{field}"), why));
            if resource.weight() != 1 {
                return refuse("weight", "must be 1".to_owned());
            }
            if resources.iter().any(|(name, _)| *name == resource.name) {
                return refuse("name", format!("Duplicate value: {:?}", resource.name));
            }
            resources.push((resource.name, 1));
        }
        if resources.is_empty() {
            resources = vec![("cpu".into(), 1), ("memory".into(), 1)];
        }
        Ok(Self { resources })
    }
}

impl Plugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn is_local(&self) -> bool {
        amounts::are_of_nodes(&self.resources)
    }

    fn score<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster, _: &[&'a NodeInfo]) -> Scorer<'a> {
        if self.resources.iter().all(|(name, _)| pod.requests.get(name) == 0) {
            return None;
        }
        Some(Box::new(Balance(Amounts::new(&self.resources, &pod.requests, cluster))))
    }
}

impl Score for Balance<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let all: Vec<Amount> = self.0.on(node, &node.requested).collect();
        let with = evenness(all.iter().map(|a| (a.used + a.asked, a.have)));
        let without = evenness(all.iter().map(|a| (a.used, a.have)));
        MAX_SCORE / 2 + (MAX_SCORE / 2 + with - without) / 2
    }
}

/// 100 × (1 − standard deviation of the used fractions).
#[expect(clippy::cast_possible_truncation, reason = "the value lies between 50 and 100")]
fn evenness(amounts: impl Iterator<Item = (i64, i64)>) -> i64 {
    let fractions: Vec<f64> = amounts.map(|(used, have)| (used as f64 / have as f64).min(1.0)).collect();
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Pod, cluster, node, pod, scores};

    fn plugin(resources: Value) -> BalancedAllocation {
        make(resources).unwrap()
    }

    fn make(resources: Value) -> Result<BalancedAllocation, String> {
        BalancedAllocation::new(serde_json::from_value(json!({"resources": resources})).unwrap())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn resources_have_no_weights_and_are_named_once() {
        let told = |resources: Value| make(resources).err();
        assert_eq!(
            told(json!([{"name": "cpu"}, {"name": "memory", "weight": 1}, {"name": "x", "weight": 0}])),
            None
        );
        assert_eq!(
            told(json!([{"name": "cpu"}, {"name": "memory", "weight": 2}])).as_deref(),
            Some("resources[1].weight: must be 1")
        );
        assert_eq!(
            told(json!([{"name": "cpu"}, {"name": "cpu"}])).as_deref(),
            Some("resources[1].name: Duplicate value: \"cpu\"")
        );
    }

    fn asks(name: &str, requests: Value) -> Pod {
        pod(name).set("/spec/containers/0/resources", json!({"requests": requests}))
    }

    /// 50 + (50 + after − before) / 2, of 100 × (1 − standard deviation of the used fractions).
    #[test]
    fn nodes_score_by_how_even_they_become() {
        // Nodes of 4 cores and 8 Gi: a is half full of memory, b of cores, c of neither.
        let pods = vec![
            asks("x", json!({"memory": "4Gi"})).on("a").info(),
            asks("y", json!({"cpu": "2"})).on("b").info(),
        ];
        let world = cluster(["a", "b", "c"].map(|name| node(name, "x", json!({}))).into(), pods);
        let of = |requests: Value| {
            scores(&plugin(json!([])), &asks("p", requests).info(), &world, ["a", "b", "c"])
        };
        // Cores go best where memory is used: a from 75 to 100, b from 75 to 50, c from 100 to 75.
        assert_eq!(of(json!({"cpu": "2"})), Some([87, 62, 62]));
        assert_eq!(of(json!({"memory": "4Gi"})), Some([62, 87, 62]));
        assert_eq!(of(json!({"cpu": "1", "memory": "2Gi"})), Some([75, 75, 75]));
        // More than there is counts as all of it.
        assert_eq!(of(json!({"cpu": "40", "memory": "80Gi"})), Some([87, 87, 75]));
        assert_eq!(of(json!({})), None, "who asks for nothing is kept from nobody");
    }

    #[test]
    fn resources_that_a_pod_does_not_ask_for_are_no_part_of_it() {
        let gpu = json!({"status": {"allocatable": {"d.io/gpu": "4"}}});
        let taken = asks("x", json!({"d.io/gpu": "2"})).on("a").info();
        let world = cluster(vec![node("a", "x", gpu), node("b", "x", json!({}))], vec![taken]);
        let three = plugin(json!([{"name": "cpu"}, {"name": "memory"}, {"name": "d.io/gpu"}]));
        let of = |requests: Value| scores(&three, &asks("p", requests).info(), &world, ["a", "b"]);
        assert_eq!(of(json!({"cpu": "2"})), Some([62, 62]), "two resources, whatever is used of the third");
        // a: fractions 0, 0, 1/2 and then 1/2, 1/2, 3/4 deviate by 0.2357 and 0.1179: 76 and 88. b has no third.
        assert_eq!(of(json!({"cpu": "2", "memory": "4Gi", "d.io/gpu": "1"})), Some([81, 75]));
    }
}
