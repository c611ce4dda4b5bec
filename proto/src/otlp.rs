//! How daemons tell collectors what they spent their time on.
//!
//! `v1` is generated from `otlp.proto` beside the crate's manifest, by tonic-prost-build with clients and servers.

#[allow(clippy::all, missing_docs, unreachable_pub, unused_qualifications)]
#[rustfmt::skip]
pub mod v1;
