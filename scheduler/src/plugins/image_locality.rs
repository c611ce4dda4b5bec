//! ImageLocality: prefers nodes that already have the pod's images.

use crate::{
    framework::{MAX_SCORE, Plugin, Score},
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

    fn score<'a>(
        &self,
        pod: &'a PodInfo,
        cluster: &'a Cluster,
        _: &[&'a NodeInfo],
    ) -> Option<Box<dyn Score + 'a>> {
        let total = cluster.nodes().len().max(1) as f64;
        let held = |image: &String| {
            let image = normalized(image);
            let holders = cluster.image_holders(&image);
            (holders > 0).then(|| (image, holders as f64 / total))
        };
        let images: Vec<(String, f64)> = pod.images.iter().filter_map(held).collect();
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
