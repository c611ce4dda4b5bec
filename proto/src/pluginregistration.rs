//! How plugins make themselves known to the kubelet that finds their sockets.
//!
//! `v1` is generated from `pluginregistration.proto` beside the crate's manifest, by tonic-prost-build with clients and servers.

#[allow(clippy::all, missing_docs, unreachable_pub, unused_qualifications)]
#[rustfmt::skip]
pub mod v1;
