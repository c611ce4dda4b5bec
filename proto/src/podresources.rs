//! Which devices containers were given, as the kubelet tells agents on its node.
//!
//! `v1` is generated from `podresources.proto` beside the crate's manifest, by tonic-prost-build with clients and servers.

#[allow(clippy::all, missing_docs, unreachable_pub, unused_qualifications)]
#[rustfmt::skip]
pub mod v1;
