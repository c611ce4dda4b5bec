//! ImageLocality: prefers nodes that already have the pod's images.

use crate::{
    framework::{MAX_SCORE, Plugin, Score, Scorer},
    model::{Cluster, NodeInfo, PodInfo},
};

const MB: i64 = 1024 * 1024;
/// Bytes below which images do not count.
const MIN: i64 = 23 * MB;
/// Bytes per container above which more does not count.
const MAX_PER_CONTAINER: i64 = 1000 * MB;

/// The plugin.
pub struct ImageLocality;

struct Spread {
    /// Images that some node has: names, normalised, with the share of nodes that have them.
    images: Vec<(String, f64)>,
    /// Containers of the pod.
    containers: usize,
}

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn score<'a>(&self, pod: &'a PodInfo, cluster: &'a Cluster, _: &[&'a NodeInfo]) -> Scorer<'a> {
        let total = cluster.nodes().len().max(1) as f64;
        let held = |image: &String| {
            let image = normalized(image);
            let holders = cluster.image_holders(&image);
            (holders > 0).then(|| (image, holders as f64 / total))
        };
        let images: Vec<(String, f64)> =
            pod.images.iter().chain(&pod.mounted_images).filter_map(held).collect();
        // What no node has makes none better than another.
        if images.is_empty() { None } else { Some(Box::new(Spread { images, containers: pod.images.len() })) }
    }
}

impl Score for Spread {
    fn score(&self, node: &NodeInfo) -> i64 {
        let sum: i64 = self
            .images
            .iter()
            .filter_map(|(image, share)| {
                let size = node.images.get(image)?.size;
                #[expect(clippy::cast_possible_truncation, reason = "sizes are far below 2^53")]
                Some((size as f64 * share) as i64)
            })
            .sum();
        let containers = i64::try_from(self.containers).unwrap_or(i64::MAX);
        let max = MAX_PER_CONTAINER.saturating_mul(containers.max(1));
        MAX_SCORE * (sum.clamp(MIN, max) - MIN) / (max - MIN)
    }
}

/// An image name as nodes report it: without a tag it means `latest`.
fn normalized(image: &str) -> String {
    let after_slash = image.rfind('/').map_or(0, |at| at + 1);
    if image[after_slash..].contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{cluster, node, pod, scores};

    /// Upstream's own numbers: `size × share of nodes that have it`, from 23 MB to 1000 MB a container.
    #[test]
    fn nodes_score_by_the_share_of_images_they_have() {
        let mega = |n: i64| n * MB;
        let has = |name: &str, images: &[(&str, i64)]| {
            let all = images.iter().map(|(image, size)| json!({"names": [image], "sizeBytes": mega(*size)}));
            node(name, "x", json!({"status": {"images": all.collect::<Vec<_>>()}}))
        };
        let runs = |images: &[&str]| {
            let all = images.iter().map(|image| json!({"name": "c", "image": image}));
            pod("p").set("/spec/containers", json!(all.collect::<Vec<_>>()))
        };
        let world = cluster(
            vec![
                has(
                    "a",
                    &[("gcr.io/40:latest", 40), ("gcr.io/300:latest", 300), ("gcr.io/2000:latest", 2000)],
                ),
                has("b", &[("gcr.io/250:latest", 250), ("gcr.io/10:v1", 10), ("gcr.io/300:latest", 300)]),
            ],
            vec![],
        );
        let mounted = json!([{"name": "v", "image": {"reference": "gcr.io/300"}}]);
        let first = json!([{"name": "i", "image": "gcr.io/2000"}]);
        let table = [
            // A tag that is not named is `latest`; half the nodes have it: 20 MB are below the least, 125 MB are not.
            (runs(&["gcr.io/40", "gcr.io/250"]), Some([0, 100 * (125 - 23) / (2000 - 23)])),
            // All nodes have one, one node the other.
            (
                runs(&["gcr.io/40", "gcr.io/300"]),
                Some([100 * (320 - 23) / (2000 - 23), 100 * (300 - 23) / (2000 - 23)]),
            ),
            // More than counts for one container counts as that.
            (runs(&["gcr.io/2000"]), Some([100, 0])),
            (runs(&["gcr.io/10:v1"]), Some([0, 0])),
            (runs(&["gcr.io/none"]), None),
            // What runs before counts as a container; what is mounted counts by its size alone.
            (runs(&["x"]).set("/spec/initContainers", first), Some([100 * (1000 - 23) / (2000 - 23), 0])),
            (runs(&["x"]).set("/spec/volumes", mounted), Some([100 * (300 - 23) / (1000 - 23); 2])),
        ];
        for (at, (pod, expected)) in table.into_iter().enumerate() {
            assert_eq!(scores(&ImageLocality, &pod.info(), &world, ["a", "b"]), expected, "{at}");
        }
    }

    #[test]
    fn names_are_as_nodes_report_them() {
        for (name, expected) in [
            ("r/a", "r/a:latest"),
            ("r:80/a", "r:80/a:latest"),
            ("r:80/a:v", "r:80/a:v"),
            ("a@sha256:0", "a@sha256:0"),
        ] {
            assert_eq!(normalized(name), expected);
        }
    }
}
