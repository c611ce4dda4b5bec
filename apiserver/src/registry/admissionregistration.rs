//! Resources of the group admissionregistration.k8s.io, one file each, one line each in [`resources`].

use crate::registry::Resource;

mod defaults;
mod mutatingadmissionpolicies;
mod mutatingadmissionpolicybindings;
mod mutatingwebhookconfigurations;
mod validatingadmissionpolicies;
mod validatingadmissionpolicybindings;
mod validatingwebhookconfigurations;
mod validation;

/// All of them.
pub(super) fn resources() -> Vec<Resource> {
    vec![
        mutatingadmissionpolicies::resource(),
        mutatingadmissionpolicybindings::resource(),
        mutatingwebhookconfigurations::resource(),
        validatingadmissionpolicies::resource(),
        validatingadmissionpolicybindings::resource(),
        validatingwebhookconfigurations::resource(),
    ]
}
