//! Every verb of kubectl, as a user types it: what it prints, what it changes and how it refuses.

pub(crate) mod access;
pub(crate) mod containers;
pub(crate) mod reading;
pub(crate) mod removal;
pub(crate) mod workloads;
pub(crate) mod writing;
