//! Drivers of dynamic resources as the kubelet speaks to them.
//!
//! `v1` is generated from `dra.proto` beside the crate's manifest, by tonic-prost-build with clients and servers. Its beta has
//! the same messages under another name of the service.

#[allow(clippy::all, missing_docs, unreachable_pub, unused_qualifications)]
#[rustfmt::skip]
pub mod v1;
