//! The controllers, one file each: a pure plan, and an act that carries it out.

pub mod names;
pub mod node;
pub mod node_lifecycle;
pub mod route;
pub mod service;
