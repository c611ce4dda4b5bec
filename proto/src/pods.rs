//! The pods of a node, as the kubelet tells programs on it.
//!
//! `v1alpha1` is generated from `pods.proto` beside the crate's manifest, by tonic-prost-build with clients and servers.

#[allow(clippy::all, missing_docs, unreachable_pub, unused_qualifications)]
#[rustfmt::skip]
pub mod v1alpha1;
