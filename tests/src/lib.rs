//! Conformance-style tests over the wire: a real etcd, the real binaries, a real kubectl.
//!
//! The harness and the tests are still to be written; nothing here counts as tested by them.
