//! Flags of upstream's controller manager that ask for what is not here, or need not be asked for.

use component_base::flags::{
    Kind,
    fixed::{Fixed, OVER_LOCALHOST, fixed, is_empty, is_off},
};

const NO_CLOUD: &str = "no cloud is known here: its controllers run in cloud-controller-manager";
const NO_MIGRATION: &str = "controllers that others take over are switched off by --controllers";

pub(super) const FLAGS: &[Fixed] = &[
    OVER_LOCALHOST,
    fixed("profiling", Kind::Bool, "true", "accepted; there is no profiler"),
    fixed("contention-profiling", Kind::Bool, "false", "record waiting for locks, where profiling is on")
        .only(is_off, "waiting for locks is not recorded"),
    fixed(
        "cidr-allocator-type",
        Kind::String,
        "RangeAllocator",
        "who divides the ranges of pods among nodes",
    )
    .only(|value| value == "RangeAllocator", NO_CLOUD),
    fixed("cloud-provider", Kind::String, "", "empty or external")
        .only(|value| matches!(value, "" | "external"), NO_CLOUD),
    fixed("cloud-config", Kind::String, "", "file of the cloud provider").only(is_empty, NO_CLOUD),
    fixed("external-cloud-volume-plugin", Kind::String, "", "cloud whose volumes are handled here")
        .only(is_empty, NO_CLOUD),
    fixed("cluster-name", Kind::String, "kubernetes", "name of the cluster among those of a cloud"),
    fixed("configure-cloud-routes", Kind::Bool, "true", "routes are those of cloud-controller-manager"),
    fixed(
        "route-reconciliation-period",
        Kind::Duration,
        "10s",
        "routes are those of cloud-controller-manager",
    ),
    fixed("concurrent-service-syncs", Kind::Int, "1", "load balancers are those of cloud-controller-manager"),
    fixed(
        "controller-shutdown-timeout",
        Kind::Duration,
        "10s",
        "controllers stop at once: a task ends where it waits",
    ),
    fixed(
        "flex-volume-plugin-dir",
        Kind::String,
        "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/",
        "drivers of flex volumes, which are not asked here",
    ),
    fixed("enable-leader-migration", Kind::Bool, "false", "hand controllers to another daemon in order")
        .only(is_off, NO_MIGRATION),
    fixed("leader-migration-config", Kind::String, "", "file that says which").only(is_empty, NO_MIGRATION),
    fixed("min-resync-period", Kind::Duration, "12h0m0s", "caches are kept by watches alone"),
    fixed(
        "namespace-sync-period",
        Kind::Duration,
        "5m0s",
        "a namespace is looked at for as long as something is left",
    ),
];
