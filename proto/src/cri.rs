//! The container runtime interface (CRI), as the kubelet speaks it to containerd and CRI-O.
//!
//! `v1` is generated from `cri.proto` beside the crate's manifest, by tonic-prost-build without servers.

#[allow(clippy::all, missing_docs, unreachable_pub, unused_qualifications)]
#[rustfmt::skip]
pub mod v1;
