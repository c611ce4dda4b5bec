//! Resources of the group autoscaling, one file each, one line each in [`resources`].

use crate::registry::Resource;

mod horizontalpodautoscalers;

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![horizontalpodautoscalers::resource()]
}
