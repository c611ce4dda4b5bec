//! The cluster zone: what services and endpoints mean as DNS records.

mod answer;
mod index;
mod name;

pub use answer::{Answer, Settings, answer};
pub use index::{Endpoint, EndpointSet, Index, Port, Service, ServiceKind};
pub use name::Labels;

#[cfg(test)]
mod tests;
