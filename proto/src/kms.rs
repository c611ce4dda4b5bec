//! How the API server has seeds sealed by a key management service on its machine.
//!
//! `v2` is generated from `kms.proto` beside the crate's manifest, by tonic-prost-build with clients and servers and ordered
//! maps.

#[allow(clippy::all, missing_docs, unreachable_pub, unused_qualifications)]
#[rustfmt::skip]
pub mod v2;
