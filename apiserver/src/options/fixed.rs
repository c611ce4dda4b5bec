//! Flags of which not every value can be served: the others are refused by name, never ignored.
//!
//! Contract: upstream's flags of the same names; what each of them would ask for stands in its reason.

use component_base::flags::{
    Flag, Kind, Values,
    fixed::{self, COMMON, Fixed, fixed, is_empty, is_off, is_on},
};

use super::OptionsError;

const FLAGS: &[Fixed] = &[
    fixed("storage-backend", Kind::String, "", "where objects are stored: etcd3")
        .only(|value| matches!(value, "" | "etcd3"), "etcd3 is the only storage backend"),
    // The default is upstream's, so that whoever states it is not refused.
    fixed(
        "storage-media-type",
        Kind::String,
        "application/vnd.kubernetes.protobuf",
        "form objects are stored in; those of upstream's server are read in every form, and written as JSON, which it reads",
    )
    .only(
        |value| matches!(value, "application/vnd.kubernetes.protobuf" | "application/json"),
        "objects are written as JSON only",
    ),
    fixed("watch-cache", Kind::Bool, "true", "serve reads from memory")
        .only(is_on, "all reads are served from the cache; it cannot be switched off"),
    fixed(
        "watch-cache-sizes",
        Kind::Strings,
        "",
        "resource#size pairs; sizes follow the changes there are, so that only whether there is a cache can be said",
    )
    .only(sizes_are_cached, "expected resource[.group]#size with a size above zero: every resource has a cache"),
    fixed("lease-reuse-duration-seconds", Kind::Int, "60", "seconds a lease in etcd is given to objects that expire")
        .only(|value| value == "60", "a lease is reused for 60 seconds, or a twentieth of its life if that is less"),
    fixed("contention-profiling", Kind::Bool, "false", "record waiting for locks, where profiling is on")
        .only(is_off, "waiting for locks is not recorded"),
    fixed("service-account-signing-endpoint", Kind::String, "", "socket of a signer of service account tokens")
        .only(is_empty, "tokens are signed with --service-account-signing-key-file only"),
    fixed(
        "emulation-forward-compatible",
        Kind::Bool,
        "false",
        "serve what came after the emulated version; as that is the server's own, nothing did",
    ),
    fixed(
        "runtime-config-emulation-forward-compatible",
        Kind::Bool,
        "false",
        "let --runtime-config name what came after the emulated version; as that is the server's own, nothing did",
    ),
    fixed("max-connection-bytes-per-sec", Kind::Int, "0", "bytes per second of a client's connection to a kubelet")
        .only(|value| value == "0", "connections are not throttled"),
];

/// Sizes of `--watch-cache-sizes`: `resource[.group]#size` each.
fn sizes_are_cached(value: &str) -> bool {
    value.split(',').filter(|part| !part.is_empty()).all(|part| {
        let size = part.split_once('#').filter(|(resource, _)| !resource.is_empty());
        size.and_then(|(_, size)| size.parse::<u32>().ok()).is_some_and(|size| size > 0)
    })
}

/// The flags.
pub(super) fn flags() -> impl Iterator<Item = Flag> {
    fixed::flags(FLAGS).chain(fixed::flags(COMMON))
}

/// Refuses values that cannot be served.
///
/// # Errors
/// For the first of them.
pub(super) fn check(values: &Values) -> Result<(), OptionsError> {
    let checked = fixed::check(FLAGS, values).and_then(|()| fixed::check(COMMON, values));
    checked.map_err(|refused| super::invalid(refused.name, refused.value, refused.why))
}
