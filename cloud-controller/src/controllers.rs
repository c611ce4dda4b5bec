//! The controllers, one file each: a pure plan, and an act that carries it out.

pub mod route;
pub mod service;
