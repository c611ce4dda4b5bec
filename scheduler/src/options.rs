//! Flags of upstream's scheduler that ask for what is not here, or need not be asked for.

use component_base::flags::{
    Kind,
    fixed::{Fixed, OVER_LOCALHOST, fixed},
};

pub(crate) const FIXED: &[Fixed] = &[
    OVER_LOCALHOST,
    fixed("profiling", Kind::Bool, "true", "accepted; there is no profiler"),
    fixed("contention-profiling", Kind::Bool, "true", "accepted; there is no profiler"),
];
