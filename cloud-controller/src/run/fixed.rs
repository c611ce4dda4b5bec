//! Flags of which one value, or none, makes a difference.

use component_base::flags::{
    Kind,
    fixed::{Fixed, fixed, is_empty, is_off},
};

const NO_MIGRATION: &str = "controllers are not handed from one daemon to another";
const NO_WEBHOOKS: &str = "the provider has no admission webhooks";

pub(super) const FLAGS: &[Fixed] = &[
    fixed("profiling", Kind::Bool, "true", "accepted; there is no profiler"),
    fixed("contention-profiling", Kind::Bool, "false", "record waiting for locks, where profiling is on")
        .only(is_off, "there is no profiler"),
    fixed(
        "allocate-node-cidrs",
        Kind::Bool,
        "false",
        "accepted; kube-controller-manager hands out ranges of pods",
    ),
    fixed(
        "cidr-allocator-type",
        Kind::String,
        "RangeAllocator",
        "accepted; kube-controller-manager hands out ranges of pods",
    ),
    fixed("allow-untagged-cloud", Kind::Bool, "false", "accepted; machines are not found by tags"),
    fixed(
        "cluster-name",
        Kind::String,
        "kubernetes",
        "name of the cluster among those of a cloud; there is one here",
    ),
    fixed(
        "concurrent-service-syncs",
        Kind::Int,
        "1",
        "load balancers share addresses: one look decides on all",
    ),
    fixed("route-reconciliation-period", Kind::Duration, "10s", "routes are looked at after every change"),
    fixed("controller-start-interval", Kind::Duration, "0s", "controllers start at once"),
    fixed(
        "concurrent-node-status-updates",
        Kind::Int,
        "1",
        "addresses of nodes are looked at one after another",
    ),
    fixed("node-sync-period", Kind::Duration, "0s", "accepted; it has had no meaning for long"),
    fixed("min-resync-period", Kind::Duration, "12h0m0s", "caches are kept by watches alone"),
    fixed(
        "use-service-account-credentials",
        Kind::Bool,
        "false",
        "each controller by a service account of its own",
    )
    .only(is_off, "all controllers are the user of the kubeconfig"),
    fixed("enable-leader-migration", Kind::Bool, "false", "hand controllers to another daemon in order")
        .only(is_off, NO_MIGRATION),
    fixed("leader-migration-config", Kind::String, "", "file that says which").only(is_empty, NO_MIGRATION),
    fixed("webhooks", Kind::Strings, "", "webhooks to serve").only(is_empty, NO_WEBHOOKS),
];
