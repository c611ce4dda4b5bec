//! Drivers of dynamic resources as the kubelet speaks to them.
//!
//! `v1` is generated from `dra.proto` beside the crate's manifest, by tonic-prost-build with a server. There is no client: the
//! beta has the same messages under another name of the service, so that the kubelet calls both by their paths.

#[allow(clippy::all, missing_docs, unreachable_pub, unused_qualifications)]
#[rustfmt::skip]
pub mod v1;
