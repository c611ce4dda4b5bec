//! How daemons tell collectors what they spent their time on.
//!
//! `v1` is written by hand after `otlp.proto` beside the crate's manifest, in the form that tonic-prost-build with clients
//! and servers would give it, and may be replaced by what that makes.

#[allow(clippy::all, missing_docs, unreachable_pub, unused_qualifications)]
#[rustfmt::skip]
pub mod v1;
