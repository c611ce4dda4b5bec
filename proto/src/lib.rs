//! Wire formats only: what the daemons speak to others, and no behaviour.

pub mod codec;
pub mod cri;
pub mod node;
pub mod table;
