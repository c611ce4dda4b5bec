//! NodeResourcesFit and NodeResourcesBalancedAllocation: room for the pod's requests.

mod amounts;
mod balanced;
mod fit;

pub use balanced::BalancedAllocation;
pub use fit::Fit;
