//! Every verb of kubectl, once, as a user types it.

use tests::{Cluster, runner::Test};

pub(crate) const TESTS: &[Test<Cluster>] = &[];
