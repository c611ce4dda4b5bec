//! What the claims of a pod or a group of pods need, and what is left of a claim. Pure.

use std::{collections::BTreeMap, sync::Arc};

use component_base::meta::{annotation, controller_of, has_finalizer, is_deleting, new_controller_ref};
use k8s_openapi::{
    Resource as _,
    api::{
        core::v1::{Pod, PodResourceClaim},
        resource::v1::{
            ResourceClaim, ResourceClaimConsumerReference, ResourceClaimStatus, ResourceClaimTemplate,
        },
        scheduling::v1alpha2::{PodGroup, PodGroupResourceClaim},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::Resource;

use super::{super::pod_disruption::is_finished, Find};

/// What keeps an allocated claim.
pub(super) const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// Groups of pods, as consumers have them.
const GROUPS: &str = "podgroups";
/// Which of its pod's claims a claim was made for.
const POD_CLAIM: &str = "resource.kubernetes.io/pod-claim-name";
/// Most consumers of one claim.
const MAX_CONSUMERS: usize = 256;
/// Longest generated name without its random part.
const MAX_BASE: usize = 57;

/// Why a pod or a group cannot have one of its claims.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AskError {
    #[error("resource claim template {name:?}: resourceclaimtemplate.resource.k8s.io {name:?} not found")]
    Template { name: String },
    #[error("template includes a prioritized list of subrequests, but the feature is disabled")]
    PrioritizedList,
}

/// Which claim an entry stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Named<'a> {
    /// A claim somebody else makes, or one made for who asks (who then must own it).
    Known { name: &'a str, is_own: bool },
    /// None is needed.
    Unneeded,
    /// None was made yet.
    Missing,
}

/// What a pod or a group needs.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    /// Claims to make, with its names for them.
    pub(super) create: Vec<(String, ResourceClaim)>,
    /// Its generated claims by its names for them, as its status should show them.
    pub(super) names: BTreeMap<String, Option<String>>,
    /// Whether the status shows others.
    pub(super) is_news: bool,
    /// Claims with it among their consumers, where it is not yet.
    pub(super) reserve: Vec<ResourceClaim>,
    /// What stands in the way, with its name for the claim.
    pub(super) failure: Option<(String, AskError)>,
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

/// Who asks for claims: a pod for itself, or a group for all of its pods.
#[derive(Clone, Debug)]
pub(super) struct Asker<'a> {
    meta: &'a ObjectMeta,
    /// What its own claims say of it.
    owner: OwnerReference,
    /// What is said of it in claims that it uses.
    consumer: ResourceClaimConsumerReference,
    entries: Vec<Entry<'a>>,
    /// The names of claims that were made for it, by its names for them.
    told: Vec<(&'a str, Option<&'a str>)>,
    /// Whether it has a node, so that its claims must be reserved.
    is_placed: bool,
    /// Whether it needs nothing any more.
    is_past: bool,
}

/// A claim that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry<'a> {
    name: &'a str,
    claim: Option<&'a str>,
    template: Option<&'a str>,
}

impl<'a> Asker<'a> {
    pub(super) fn pod(pod: &'a Pod) -> Self {
        let entry = |entry: &'a PodResourceClaim| Entry {
            name: &entry.name,
            claim: entry.resource_claim_name.as_deref(),
            template: entry.resource_claim_template_name.as_deref(),
        };
        let told = pod.status.iter().flat_map(|s| s.resource_claim_statuses.iter().flatten());
        let told = told.map(|told| (told.name.as_str(), told.resource_claim_name.as_deref()));
        Self {
            meta: &pod.metadata,
            owner: owner(pod),
            consumer: consumer_reference(None, "pods", &pod.metadata),
            entries: entries(pod).iter().map(entry).collect(),
            told: told.collect(),
            is_placed: !node(pod).is_empty(),
            is_past: is_deleting(&pod.metadata) || is_finished(pod),
        }
    }

    pub(super) fn group(group: &'a PodGroup) -> Self {
        let entry = |entry: &'a PodGroupResourceClaim| Entry {
            name: &entry.name,
            claim: entry.resource_claim_name.as_deref(),
            template: entry.resource_claim_template_name.as_deref(),
        };
        let told = group.status.iter().flat_map(|s| s.resource_claim_statuses.iter().flatten());
        let told = told.map(|told| (told.name.as_str(), told.resource_claim_name.as_deref()));
        Self {
            meta: &group.metadata,
            owner: owner(group),
            consumer: consumer_reference(Some(PodGroup::GROUP), GROUPS, &group.metadata),
            entries: group.spec.resource_claims.iter().flatten().map(entry).collect(),
            told: told.collect(),
            is_placed: false,
            is_past: is_deleting(&group.metadata),
        }
    }

    fn name(&self) -> &str {
        self.meta.name.as_deref().unwrap_or_default()
    }

    fn uid(&self) -> &str {
        self.meta.uid.as_deref().unwrap_or_default()
    }

    fn named(&self, entry: &Entry<'a>) -> Named<'a> {
        if let Some(name) = entry.claim {
            return Named::Known { name, is_own: false };
        }
        match self.told.iter().find(|(name, _)| *name == entry.name) {
            Some((_, Some(name))) => Named::Known { name, is_own: true },
            Some((_, None)) => Named::Unneeded,
            None => Named::Missing,
        }
    }

    /// Whether a claim was made for it.
    fn owns(&self, claim: &ResourceClaim) -> bool {
        controller_of(&claim.metadata)
            .is_some_and(|owner| owner.kind == self.owner.kind && owner.uid == self.uid())
    }

    /// Whether a claim is reserved for it.
    fn has(&self, claim: &ResourceClaim) -> bool {
        let mut all = claim.status.iter().flat_map(|s| s.reserved_for.iter().flatten());
        all.any(|consumer| consumer.uid == self.uid())
    }

    /// The claims that it is known to use.
    pub(super) fn claims(&self) -> Vec<String> {
        let known = |entry: &Entry<'a>| match self.named(entry) {
            Named::Known { name, .. } => Some(name.to_owned()),
            Named::Unneeded | Named::Missing => None,
        };
        self.entries.iter().filter_map(known).collect()
    }

    /// The templates that it uses.
    pub(super) fn templates(&self) -> Vec<String> {
        self.entries.iter().filter_map(|entry| entry.template.map(str::to_owned)).collect()
    }

    /// Names with its namespace in front.
    pub(super) fn keys(&self, names: Vec<String>) -> Vec<String> {
        let namespace = self.meta.namespace.as_deref().unwrap_or_default();
        names.into_iter().map(|name| format!("{namespace}/{name}")).collect()
    }
}

fn owner<K: Resource<DynamicType = ()>>(object: &K) -> OwnerReference {
    OwnerReference { block_owner_deletion: None, ..new_controller_ref(object) }
}

fn consumer_reference(
    group: Option<&str>,
    resource: &str,
    meta: &ObjectMeta,
) -> ResourceClaimConsumerReference {
    ResourceClaimConsumerReference {
        api_group: group.map(str::to_owned),
        resource: resource.to_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    }
}

fn entries(pod: &Pod) -> &[PodResourceClaim] {
    pod.spec.as_ref().and_then(|s| s.resource_claims.as_deref()).unwrap_or_default()
}

/// The claims a pod is known to use.
pub(in crate::controllers) fn claims_of(pod: &Pod) -> Vec<String> {
    let mut out = Asker::pod(pod).claims();
    let extended = pod.status.as_ref().and_then(|s| s.extended_resource_claim_status.as_ref());
    out.extend(extended.map(|s| s.resource_claim_name.clone()));
    out
}

/// Name and uid of the pod a claim was made for.
pub(super) fn owning_pod(claim: &ResourceClaim) -> Option<(&str, &str)> {
    let owners = claim.metadata.owner_references.as_deref().unwrap_or_default();
    let is_pod = |o: &&OwnerReference| o.controller == Some(true) && o.api_version == "v1" && o.kind == "Pod";
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

/// Plans for a pod or a group. `group` is that of a pod: what both ask for in the same words is the group's. `owned` has the
/// claims that were made for whoever has a uid; `lists` is whether a request may be a list (`DRAPrioritizedList`).
pub(super) fn asked(
    asker: &Asker<'_>,
    group: Option<&Asker<'_>>,
    claim: Find<'_, ResourceClaim>,
    template: Find<'_, ResourceClaimTemplate>,
    owned: &dyn Fn(&str) -> Vec<Arc<ResourceClaim>>,
    lists: bool,
) -> Plan {
    let mut plan = Plan::default();
    if asker.is_past {
        return plan;
    }
    for entry in &asker.entries {
        let shared = group.filter(|group| group.entries.contains(entry));
        let is_for = |c: &ResourceClaim| asker.owns(c) || group.is_some_and(|group| group.owns(c));
        let current = match asker.named(entry) {
            Named::Unneeded => {
                plan.names.insert(entry.name.to_owned(), None);
                continue;
            }
            Named::Known { name, is_own } => claim(name).filter(|c| !is_own || is_for(c)),
            Named::Missing => None,
        };
        let reserved = |current: &ResourceClaim| {
            let has = asker.has(current) || group.is_some_and(|group| group.has(current));
            let reserves = asker.is_placed && !has;
            reserves.then(|| reserved(current, &shared.unwrap_or(asker).consumer)).flatten()
        };
        let Some(wanted) = entry.template else {
            plan.reserve.extend(current.and_then(|c| reserved(&c)));
            continue;
        };
        if let Some(current) = current {
            plan.names.insert(entry.name.to_owned(), current.metadata.name.clone());
            plan.reserve.extend(reserved(&current));
            continue;
        }
        // Made before, but the pod was not told.
        let made = |c: &&Arc<ResourceClaim>| annotation(&c.metadata, POD_CLAIM) == Some(entry.name);
        if let Some(orphan) = owned(shared.unwrap_or(asker).uid()).iter().find(made) {
            plan.names.insert(entry.name.to_owned(), orphan.metadata.name.clone());
            plan.is_news = true;
            continue;
        }
        // It is made for the group, which tells its pods by a change of its own.
        if shared.is_some() {
            continue;
        }
        match template(wanted) {
            Some(template) if !lists && has_list(&template) => {
                plan.failure.get_or_insert((entry.name.to_owned(), AskError::PrioritizedList));
            }
            Some(template) => {
                plan.create.push((entry.name.to_owned(), from_template(asker, entry.name, &template)));
            }
            None => {
                let error = AskError::Template { name: wanted.to_owned() };
                plan.failure.get_or_insert((entry.name.to_owned(), error));
            }
        }
    }
    plan
}

/// Whether a request of a template is a list of which the first that can be had is taken.
fn has_list(template: &ResourceClaimTemplate) -> bool {
    let requests = template.spec.spec.devices.as_ref().and_then(|d| d.requests.as_ref());
    requests.into_iter().flatten().any(|r| r.first_available.as_ref().is_some_and(|list| !list.is_empty()))
}

fn from_template(asker: &Asker<'_>, entry: &str, template: &ResourceClaimTemplate) -> ResourceClaim {
    let mut claim = ResourceClaim::default();
    let meta = template.spec.metadata.clone().unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(POD_CLAIM.to_owned(), entry.to_owned());
    claim.metadata.annotations = Some(annotations);
    claim.metadata.labels = meta.labels;
    claim.metadata.generate_name = Some(base(asker.name(), entry));
    claim.metadata.owner_references = Some(vec![asker.owner.clone()]);
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

/// An allocated claim with another consumer, whom the scheduler has not written there, unless it cannot have more.
fn reserved(claim: &ResourceClaim, consumer: &ResourceClaimConsumerReference) -> Option<ResourceClaim> {
    let status = claim.status.as_ref()?;
    status.allocation.as_ref()?;
    if status.reserved_for.as_ref().is_some_and(|all| all.len() >= MAX_CONSUMERS) {
        return None;
    }
    let mut next = claim.clone();
    next.status.get_or_insert_default().reserved_for.get_or_insert_default().push(consumer.clone());
    Some(next)
}

/// The pods a claim is reserved for.
pub(super) fn consumers(claim: &ResourceClaim) -> impl Iterator<Item = &ResourceClaimConsumerReference> {
    let all = claim.status.iter().flat_map(|s| s.reserved_for.iter().flatten());
    all.filter(|c| c.api_group.as_deref().unwrap_or_default().is_empty() && c.resource == "pods")
}

/// The groups of pods a claim is reserved for.
pub(super) fn consuming_groups(
    claim: &ResourceClaim,
) -> impl Iterator<Item = &ResourceClaimConsumerReference> {
    let all = claim.status.iter().flat_map(|s| s.reserved_for.iter().flatten());
    all.filter(|c| c.api_group.as_deref() == Some(PodGroup::GROUP) && c.resource == GROUPS)
}

/// What has become of a group with a uid, given the one that has its name now.
pub(super) fn consuming_group(group: Option<&PodGroup>, wanted: &str) -> Consumer {
    match group {
        Some(group) if group.metadata.uid.as_deref() == Some(wanted) => Consumer::Runs,
        _ => Consumer::Gone,
    }
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
