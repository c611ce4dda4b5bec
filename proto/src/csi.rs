//! The container storage interface (CSI), as the kubelet speaks it to drivers on its node.
//!
//! `v1` is generated from `csi.proto` beside the crate's manifest, by tonic-prost-build with clients and servers.

#[allow(clippy::all, missing_docs, unreachable_pub, unused_qualifications)]
#[rustfmt::skip]
pub mod v1;
