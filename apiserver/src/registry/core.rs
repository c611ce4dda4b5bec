//! Resources of the core group, one file each, one line each in [`resources`].

use crate::registry::Resource;

mod bindings;
mod componentstatuses;
mod configmaps;
mod endpoints;
mod events;
mod limitranges;
mod namespaces;
mod nodes;
mod persistentvolumeclaims;
mod persistentvolumes;
mod pods;
mod podtemplates;
mod replicationcontrollers;
mod resourcequotas;
mod secrets;
mod serviceaccounts;
mod services;
#[cfg(test)]
mod tests;

pub(super) use self::persistentvolumes::check_inline_volume;
pub(crate) use self::{pods::qos_class, services::check_stated_families};

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![
        bindings::resource(),
        componentstatuses::resource(),
        configmaps::resource(),
        endpoints::resource(),
        events::resource(),
        limitranges::resource(),
        namespaces::resource(),
        nodes::resource(),
        persistentvolumeclaims::resource(),
        persistentvolumes::resource(),
        pods::resource(),
        podtemplates::resource(),
        replicationcontrollers::resource(),
        resourcequotas::resource(),
        secrets::resource(),
        serviceaccounts::resource(),
        services::resource(),
    ]
}
