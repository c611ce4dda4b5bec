//! What drivers of dynamic resources tell of their devices' health, as the kubelet hears it.
//!
//! `v1alpha1` is generated from `drahealth.proto` beside the crate's manifest, by tonic-prost-build with clients and servers.

#[allow(clippy::all, missing_docs, unreachable_pub, unused_qualifications)]
#[rustfmt::skip]
pub mod v1alpha1;
