//! PodGroupPodsCount: of the places a group may go to, that is best which takes most of its pods.

use std::sync::Arc;

use crate::{
    framework::{Plugin, normalize_to_max},
    model::{Cluster, PodInfo},
};

/// The plugin.
pub struct PodGroupPodsCount;

impl Plugin for PodGroupPodsCount {
    fn name(&self) -> &'static str {
        "PodGroupPodsCount"
    }

    fn score_domain(&self, pods: &[Arc<PodInfo>], cluster: &Cluster) -> Option<i64> {
        let group = pods.first()?.group_key()?;
        // Those rehearsed count as placed already.
        i64::try_from(cluster.placed_members(&group)).ok()
    }

    fn normalize_domains(&self, mut scores: Vec<i64>) -> Vec<i64> {
        normalize_to_max(&mut scores, false);
        scores
    }
}
