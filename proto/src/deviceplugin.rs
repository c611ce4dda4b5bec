//! Device plugins as the kubelet speaks to them, and their registration with it.
//!
//! `v1beta1` is generated from `deviceplugin.proto` beside the crate's manifest, by tonic-prost-build with clients and servers.

#[allow(clippy::all, missing_docs, unreachable_pub, unused_qualifications)]
#[rustfmt::skip]
pub mod v1beta1;
