//! This node: what the machine has, where it can be reached, and what the API server is told of it.

pub mod addresses;
pub mod machine;
pub mod network;
