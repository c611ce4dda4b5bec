//! How the API server has connections made by a network proxy ("konnectivity") on its machine.
//!
//! `client` is generated from `konnectivity.proto` beside the crate's manifest, by tonic-prost-build with clients and servers.

#[allow(clippy::all, missing_docs, unreachable_pub, unused_qualifications)]
#[rustfmt::skip]
pub mod client;
