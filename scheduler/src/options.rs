//! Flags of upstream's scheduler that ask for what is not here, or need not be asked for.

use component_base::flags::{
    Kind,
    fixed::{Fixed, OVER_LOCALHOST, fixed, is_empty},
};

pub(crate) const FIXED: &[Fixed] = &[
    OVER_LOCALHOST,
    fixed("profiling", Kind::Bool, "true", "accepted; there is no profiler"),
    fixed("contention-profiling", Kind::Bool, "true", "accepted; there is no profiler"),
    fixed("write-config-to", Kind::String, "", "file the configuration is written to instead of running")
        .only(
            is_empty,
            "the configuration is not written out; /configz and /flagz show it while the daemon runs",
        ),
];
