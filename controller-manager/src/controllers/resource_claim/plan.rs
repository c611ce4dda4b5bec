//! What a pod's claims need, and what is left of a claim. Pure.

use std::{collections::BTreeMap, sync::Arc};

use component_base::meta::{annotation, has_finalizer, is_deleting, new_controller_ref};
use k8s_openapi::api::{
    core::v1::{Pod, PodResourceClaim},
    resource::v1::{
        ResourceClaim, ResourceClaimConsumerReference, ResourceClaimStatus, ResourceClaimTemplate,
    },
};

use super::{super::pod_disruption::is_finished, Find};

/// What keeps an allocated claim.
pub(super) const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// Which of its pod's claims a claim was made for.
const POD_CLAIM: &str = "resource.kubernetes.io/pod-claim-name";
/// Most consumers of one claim.
const MAX_CONSUMERS: usize = 256;
/// Longest generated name without its random part.
const MAX_BASE: usize = 57;

/// Why a pod cannot have one of its claims.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PodError {
    #[error("resource claim template {name:?}: resourceclaimtemplate.resource.k8s.io {name:?} not found")]
    Template { name: String },
}

/// Which claim an entry of a pod stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Named<'a> {
    /// A claim somebody else makes, or one made for the pod (which then must own it).
    Known { name: &'a str, is_own: bool },
    /// None is needed.
    Unneeded,
    /// None was made yet.
    Missing,
}

/// What a pod needs.
#[derive(Clone, Debug, Default)]
pub(super) struct PodPlan {
    /// Claims to make, with the pod's names for them.
    pub(super) create: Vec<(String, ResourceClaim)>,
    /// The pod's generated claims by its names for them, as its status should show them.
    pub(super) names: BTreeMap<String, Option<String>>,
    /// Whether the status shows others.
    pub(super) is_news: bool,
    /// Claims with the pod among their consumers, where it is not yet.
    pub(super) reserve: Vec<ResourceClaim>,
    /// What stands in the way, with the pod's name for the claim.
    pub(super) failure: Option<(String, PodError)>,
}

/// What has become of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consumer {
    Runs,
    Gone,
}

/// What is left of a claim.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ClaimPlan {
    pub(super) status: Option<ResourceClaimStatus>,
    pub(super) unprotect: bool,
    pub(super) delete: bool,
}

fn entries(pod: &Pod) -> &[PodResourceClaim] {
    pod.spec.as_ref().and_then(|s| s.resource_claims.as_deref()).unwrap_or_default()
}

fn named<'a>(pod: &'a Pod, entry: &'a PodResourceClaim) -> Named<'a> {
    if let Some(name) = &entry.resource_claim_name {
        return Named::Known { name, is_own: false };
    }
    let statuses = pod.status.iter().flat_map(|s| s.resource_claim_statuses.iter().flatten());
    match statuses.into_iter().find(|status| status.name == entry.name).map(|s| &s.resource_claim_name) {
        Some(Some(name)) => Named::Known { name, is_own: true },
        Some(None) => Named::Unneeded,
        None => Named::Missing,
    }
}

/// Names with the pod's namespace in front.
pub(super) fn keys(pod: &Pod, names: Vec<String>) -> Vec<String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    names.into_iter().map(|name| format!("{namespace}/{name}")).collect()
}

/// The claims a pod is known to use.
pub(in crate::controllers) fn claims_of(pod: &Pod) -> Vec<String> {
    let known = |entry| match named(pod, entry) {
        Named::Known { name, .. } => Some(name.to_owned()),
        Named::Unneeded | Named::Missing => None,
    };
    let extended = pod.status.as_ref().and_then(|s| s.extended_resource_claim_status.as_ref());
    let extended = extended.map(|s| s.resource_claim_name.clone());
    entries(pod).iter().filter_map(known).chain(extended).collect()
}

/// The templates a pod uses.
pub(super) fn templates_of(pod: &Pod) -> Vec<String> {
    entries(pod).iter().filter_map(|entry| entry.resource_claim_template_name.clone()).collect()
}

/// Name and uid of the pod a claim was made for.
pub(super) fn owning_pod(claim: &ResourceClaim) -> Option<(&str, &str)> {
    let owners = claim.metadata.owner_references.as_deref().unwrap_or_default();
    let is_pod = |o: &&k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference| {
        o.controller == Some(true) && o.api_version == "v1" && o.kind == "Pod"
    };
    owners.iter().find(is_pod).map(|o| (o.name.as_str(), o.uid.as_str()))
}

/// Whether a pod will not run any more.
pub(super) fn is_done(pod: &Pod) -> bool {
    is_finished(pod) || (is_deleting(&pod.metadata) && node(pod).is_empty())
}

fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// Plans for a pod. `owned` are the claims that were made for it.
pub(super) fn pod(
    pod: &Pod,
    claim: Find<'_, ResourceClaim>,
    template: Find<'_, ResourceClaimTemplate>,
    owned: &[Arc<ResourceClaim>],
) -> PodPlan {
    let mut plan = PodPlan::default();
    if is_deleting(&pod.metadata) || is_finished(pod) {
        return plan;
    }
    for entry in entries(pod) {
        let current = match named(pod, entry) {
            Named::Unneeded => {
                plan.names.insert(entry.name.clone(), None);
                continue;
            }
            Named::Known { name, is_own } => claim(name).filter(|c| !is_own || is_for(pod, c)),
            Named::Missing => None,
        };
        let Some(wanted) = &entry.resource_claim_template_name else {
            plan.reserve.extend(current.and_then(|c| reserved(pod, &c)));
            continue;
        };
        if let Some(current) = current {
            plan.names.insert(entry.name.clone(), current.metadata.name.clone());
            plan.reserve.extend(reserved(pod, &current));
            continue;
        }
        // Made before, but the pod was not told.
        let made = |c: &&Arc<ResourceClaim>| annotation(&c.metadata, POD_CLAIM) == Some(entry.name.as_str());
        if let Some(orphan) = owned.iter().find(made) {
            plan.names.insert(entry.name.clone(), orphan.metadata.name.clone());
            plan.is_news = true;
            continue;
        }
        match template(wanted) {
            Some(template) => {
                plan.create.push((entry.name.clone(), from_template(pod, &entry.name, &template)))
            }
            None => {
                let error = PodError::Template { name: wanted.clone() };
                plan.failure.get_or_insert((entry.name.clone(), error));
            }
        }
    }
    plan
}

fn is_for(pod: &Pod, claim: &ResourceClaim) -> bool {
    owning_pod(claim).is_some_and(|(_, owner)| owner == uid(pod))
}

fn from_template(pod: &Pod, entry: &str, template: &ResourceClaimTemplate) -> ResourceClaim {
    let mut claim = ResourceClaim::default();
    let meta = template.spec.metadata.clone().unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(POD_CLAIM.to_owned(), entry.to_owned());
    claim.metadata.annotations = Some(annotations);
    claim.metadata.labels = meta.labels;
    claim.metadata.generate_name = Some(base(pod.metadata.name.as_deref().unwrap_or_default(), entry));
    claim.metadata.owner_references =
        Some(vec![k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference {
            block_owner_deletion: None,
            ..new_controller_ref(pod)
        }]);
    claim.spec = template.spec.spec.clone();
    claim
}

/// What a claim's name begins with: both names, each cut by its share where they are too long together.
fn base(pod: &str, entry: &str) -> String {
    let whole = format!("{pod}-{entry}-");
    if whole.len() <= MAX_BASE {
        return whole;
    }
    let part = |name: &str| name.chars().take(name.len() * MAX_BASE / whole.len()).collect::<String>();
    format!("{}-{}", part(pod), part(entry))
}

/// The claim with a pod that was placed without the scheduler among its consumers, unless it is, or cannot be.
fn reserved(pod: &Pod, claim: &ResourceClaim) -> Option<ResourceClaim> {
    let status = claim.status.as_ref()?;
    status.allocation.as_ref()?;
    let consumers = status.reserved_for.as_deref().unwrap_or_default();
    if node(pod).is_empty() || consumers.len() >= MAX_CONSUMERS || consumers.iter().any(|c| c.uid == uid(pod))
    {
        return None;
    }
    let mut next = claim.clone();
    next.status.get_or_insert_default().reserved_for.get_or_insert_default().push(
        ResourceClaimConsumerReference {
            api_group: None,
            resource: "pods".into(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: uid(pod).to_owned(),
        },
    );
    Some(next)
}

/// The pods a claim is reserved for.
pub(super) fn consumers(claim: &ResourceClaim) -> impl Iterator<Item = &ResourceClaimConsumerReference> {
    let all = claim.status.iter().flat_map(|s| s.reserved_for.iter().flatten());
    all.filter(|c| c.api_group.as_deref().unwrap_or_default().is_empty() && c.resource == "pods")
}

/// What has become of the consumer with a uid, given the pod that has its name now.
pub(super) fn consumer(pod: Option<&Pod>, wanted: &str) -> Consumer {
    match pod {
        Some(pod) if uid(pod) == wanted && !is_done(pod) => Consumer::Runs,
        _ => Consumer::Gone,
    }
}

/// Plans for a claim whose consumers with the uids `gone` are. `owner` is the pod that has its owner's name.
pub(super) fn claim(claim: &ResourceClaim, gone: &[String], owner: Option<&Pod>) -> ClaimPlan {
    let status = claim.status.clone().unwrap_or_default();
    let all = status.reserved_for.clone().unwrap_or_default();
    let remaining: Vec<_> = all.iter().filter(|c| !gone.contains(&c.uid)).cloned().collect();
    let protected = has_finalizer(&claim.metadata, FINALIZER);
    let mut plan = ClaimPlan::default();
    if remaining.len() < all.len() {
        let mut next = status;
        // The last consumer takes the allocation along.
        if remaining.is_empty() && protected {
            next.allocation = None;
        }
        plan.unprotect = protected && next.allocation.is_none();
        next.reserved_for = Some(remaining.clone());
        plan.status = Some(next);
    } else if protected && is_deleting(&claim.metadata) && remaining.is_empty() {
        if status.allocation.is_some() {
            plan.status = Some(ResourceClaimStatus { allocation: None, ..status });
        }
        plan.unprotect = true;
    }
    let unwanted = |(_, wanted): (&str, &str)| owner.is_some_and(|pod| uid(pod) != wanted || is_done(pod));
    plan.delete =
        remaining.is_empty() && !is_deleting(&claim.metadata) && owning_pod(claim).is_some_and(unwanted);
    plan
}

/// Whether any of a claim's requests wants devices for administration, as metrics say it.
pub(super) fn asks_for_admin_access(claim: &ResourceClaim) -> &'static str {
    let requests = claim.spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten());
    let mut exact = requests.filter_map(|request| request.exactly.as_ref());
    if exact.any(|request| request.admin_access == Some(true)) { "true" } else { "false" }
}

#[cfg(test)]
mod tests;
