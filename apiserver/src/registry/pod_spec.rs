//! The spec of pods: its rules are those of all who take in pods, its warnings are the API server's own.

mod warnings;

pub(crate) use api_rules::pod_spec::{HOST_PATHS, SIGNALS};
pub(super) use api_rules::pod_spec::{
    MIRROR, breaks_selectors, check_annotation_change, check_comparing, check_effect, check_new_pod,
    check_node_selector, check_pod, check_signer, check_template, check_tolerations, compares, containers,
    fill, fill_pod, fill_source, sources,
};

pub(super) use self::warnings::{
    of_balancer as warnings_of_balancer, of_cidr as warnings_of_cidr, of_claim as warnings_of_claim,
    of_ip as warnings_of_ip, of_node_label as warnings_of_node_label, of_node_term as warnings_of_node_term,
    of_pod as warnings_of_pod, of_template as warnings_of_template,
};
