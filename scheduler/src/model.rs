//! What the scheduler knows: pods and nodes in the few fields decisions need.

pub mod affinity;
pub mod cluster;
pub mod devices;
pub mod groups;
pub mod migration;
pub mod node;
pub mod pod;
pub mod resources;
pub mod selectors;
pub mod storage;
pub mod tally;
pub mod topology;

pub use affinity::{NodeSelectorTerms, NodeTerm, PodTerm, WeightedPodTerm};
pub use cluster::Cluster;
pub use devices::{DeviceChange, DeviceEvent, Devices};
pub use groups::{GroupInfo, Groups};
pub use node::{ImageState, NodeInfo, Taint, TaintEffect};
pub use pod::{HostPort, PodInfo, SpreadConstraint, Toleration};
pub use resources::Resources;
pub use selectors::{SelectorChange, Selectors};
pub use storage::{ExtendedClaim, Release, Reservation, Storage, StorageChange, StorageEvent};
pub use tally::{NearTally, Places, SpreadTally, TermCounts};
pub use topology::Topology;

/// String labels of an object, in key order.
pub type Labels = std::collections::BTreeMap<String, String>;

/// The well-known node label whose values are unique per node.
pub const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";
/// The zone label.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
