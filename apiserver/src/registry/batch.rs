//! Resources of the group batch, one file each, one line each in [`resources`].

use crate::registry::Resource;

mod cronjobs;
mod jobs;

#[cfg(test)]
mod tests;

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![cronjobs::resource(), jobs::resource()]
}
