//! ImageLocality: prefers nodes that already have the pod's images.

use std::collections::HashMap;

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

struct Spread<'a> {
    /// Image names, normalised.
    images: Vec<String>,
    /// Number of nodes having each image.
    holders: HashMap<&'a str, i64>,
    total: i64,
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
        let images: Vec<String> = pod.images.iter().map(|i| normalized(i)).collect();
        let mut holders = HashMap::new();
        let mut total = 0;
        for node in cluster.nodes() {
            total += 1;
            for image in &images {
                if let Some((name, _)) = node.images.get_key_value(image) {
                    *holders.entry(name.as_str()).or_insert(0) += 1;
                }
            }
        }
        Some(Box::new(Spread { images, holders, total }))
    }
}

impl Score for Spread<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let sum: i64 = self
            .images
            .iter()
            .filter_map(|image| {
                let holders = *self.holders.get(image.as_str())?;
                let size = node.images.get(image)?.size;
                #[expect(clippy::cast_possible_truncation, reason = "sizes are far below 2^53")]
                Some((size as f64 * (holders as f64 / self.total.max(1) as f64)) as i64)
            })
            .sum();
        let containers = i64::try_from(self.images.len()).unwrap_or(i64::MAX);
        let max = MAX_PER_CONTAINER.saturating_mul(containers.max(1));
        MAX_SCORE * (sum.clamp(MIN, max) - MIN) / (max - MIN)
    }
}

/// An image name as nodes report it: without a tag it means `latest`.
fn normalized(image: &str) -> String {
    let after_slash = image.rfind('/').map_or(0, |at| at + 1);
    if image[after_slash..].contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}
