//! Nodes: drained, tainted and lost.

use tests::{Cluster, runner::Test};

pub(crate) const ALONE: &[Test<Cluster>] = &[];
pub(crate) const SEVERAL: &[Test<Cluster>] = &[];
