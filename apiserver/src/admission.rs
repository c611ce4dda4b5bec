//! Admission: plugins that change or refuse a write after authorization.
//!
//! One file per plugin under `admission/`, one line in its list, run in upstream's recommended
//! order. Contract: upstream's `admission.Interface` (mutation first, then validation).

use std::{sync::Arc, time::Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use component_base::features::{Gate, Gates};
use serde_json::{Map, Value};

use crate::{
    auth::{Attributes, Authorizer},
    authz::rbac::Rbac,
    object::Object,
    objects::{Kind, Objects},
    registry::{Resource, catalog::Catalog},
    status::{GroupName, Status},
};

mod always;
mod always_pull_images;
mod certificate_approval;
mod certificate_signing;
mod certificate_subject_restriction;
mod cluster_trust_bundle_attest;
pub mod config;
mod default_ingress_class;
mod default_storage_class;
mod default_toleration_seconds;
mod deny_service_external_ips;
mod device_access;
mod event_rate_limit;
mod extended_resource_toleration;
mod image_policy_webhook;
mod job_validation;
mod kept;
mod limit_pod_hard_anti_affinity_topology;
mod limit_ranger;
mod manifests;
mod metrics;
mod namespace_exists;
mod namespace_lifecycle;
mod node_declared_feature_validator;
mod node_restriction;
mod owner_references_permission_enforcement;
mod persistent_volume_claim_resize;
mod pod_group_protection;
mod pod_group_workload_exists;
mod pod_node_selector;
mod pod_resize_validator;
mod pod_security;
mod pod_toleration_restriction;
mod pod_topology_labels;
mod policy;
mod policy_access;
mod priority;
mod rbac_escalation;
mod reinvocation;
mod resource_quota;
mod runtime_class;
mod service_account;
mod storage_object_in_use_protection;
mod taint_nodes_by_condition;
#[cfg(test)]
mod testing;
pub mod webhook;

use config::Configuration;

pub use config::Configurations;
pub use manifests::Directories;
pub use reinvocation::Reinvocation;

/// What plugins are made from.
#[derive(Clone)]
pub struct Parts {
    /// Where plugins look objects up.
    pub objects: Arc<dyn Objects>,
    /// Answers plugins' questions about permissions.
    pub authorizer: Arc<dyn Authorizer>,
    /// The RBAC index, when RBAC is on: guards writes of roles and bindings.
    pub rbac: Option<Arc<Rbac>>,
    /// The kinds that are served: parameters of policies are of any of them.
    pub catalog: Arc<ArcSwap<Catalog>>,
    /// Calls webhooks.
    pub webhooks: Arc<crate::webhook::Clients>,
    /// Seconds that pods tolerate nodes that are not ready, and unreachable ones, where they do not say.
    pub toleration_seconds: (i64, i64),
    /// `--feature-gates`.
    pub gates: Gates,
    /// Where webhooks and policies stand in files.
    pub directories: Directories,
}

/// One line of the plugin list: name, whether it is on by default, the operations it sees, constructor.
type Entry = (&'static str, bool, &'static [Operation], New);

type NewConfigured = fn(&Parts, Option<&Configuration>) -> Result<Arc<dyn Plugin>, String>;

/// How a plugin is made.
#[derive(Clone, Copy)]
enum New {
    Plain(fn(&Parts) -> Arc<dyn Plugin>),
    /// From its part of the configuration file, if there is one.
    Configured(NewConfigured),
}
use New::{Configured, Plain};

const CREATE: &[Operation] = &[Operation::Create];
const UPDATE: &[Operation] = &[Operation::Update];
/// Operations that store an object.
const WRITES: &[Operation] = &[Operation::Create, Operation::Update];
/// Operations that change what is stored.
const CHANGES: &[Operation] = &[Operation::Create, Operation::Update, Operation::Delete];
const ALL: &[Operation] = &[Operation::Create, Operation::Update, Operation::Delete, Operation::Connect];

/// All plugins in upstream's order. Quota comes last so that it charges for the final object.
const PLUGINS: &[Entry] = &[
    (always::ADMIT, false, ALL, Plain(always::admit)),
    (namespace_exists::AUTO_PROVISION, false, CREATE, Plain(namespace_exists::auto_provision)),
    (namespace_lifecycle::NAME, true, CHANGES, Plain(namespace_lifecycle::new)),
    (namespace_exists::NAME, false, CHANGES, Plain(namespace_exists::new)),
    (
        limit_pod_hard_anti_affinity_topology::NAME,
        false,
        WRITES,
        Plain(limit_pod_hard_anti_affinity_topology::new),
    ),
    (limit_ranger::NAME, true, WRITES, Plain(limit_ranger::new)),
    (service_account::NAME, true, CREATE, Plain(service_account::new)),
    (node_restriction::NAME, false, CHANGES, Plain(node_restriction::new)),
    (taint_nodes_by_condition::NAME, true, CREATE, Plain(taint_nodes_by_condition::new)),
    (always_pull_images::NAME, false, WRITES, Plain(always_pull_images::new)),
    (image_policy_webhook::NAME, false, WRITES, Configured(image_policy_webhook::new)),
    (pod_security::NAME, true, WRITES, Configured(pod_security::new)),
    (pod_node_selector::NAME, false, CREATE, Configured(pod_node_selector::new)),
    (priority::NAME, true, WRITES, Plain(priority::new)),
    (default_toleration_seconds::NAME, true, WRITES, Plain(default_toleration_seconds::new)),
    (pod_toleration_restriction::NAME, false, WRITES, Configured(pod_toleration_restriction::new)),
    (event_rate_limit::NAME, false, WRITES, Configured(event_rate_limit::new)),
    (extended_resource_toleration::NAME, false, WRITES, Plain(extended_resource_toleration::new)),
    (default_storage_class::NAME, true, CREATE, Plain(default_storage_class::new)),
    (storage_object_in_use_protection::NAME, true, CREATE, Plain(storage_object_in_use_protection::new)),
    (pod_group_protection::NAME, true, CREATE, Plain(pod_group_protection::new)),
    (
        owner_references_permission_enforcement::NAME,
        false,
        WRITES,
        Plain(owner_references_permission_enforcement::new),
    ),
    (persistent_volume_claim_resize::NAME, true, UPDATE, Plain(persistent_volume_claim_resize::new)),
    (runtime_class::NAME, true, CREATE, Plain(runtime_class::new)),
    (certificate_approval::NAME, true, UPDATE, Plain(certificate_approval::new)),
    (certificate_signing::NAME, true, UPDATE, Plain(certificate_signing::new)),
    (cluster_trust_bundle_attest::NAME, true, WRITES, Plain(cluster_trust_bundle_attest::new)),
    (certificate_subject_restriction::NAME, true, CREATE, Plain(certificate_subject_restriction::new)),
    (default_ingress_class::NAME, true, CREATE, Plain(default_ingress_class::new)),
    (deny_service_external_ips::NAME, false, WRITES, Plain(deny_service_external_ips::new)),
    (pod_topology_labels::NAME, true, CREATE, Plain(pod_topology_labels::new)),
    (pod_group_workload_exists::NAME, true, CREATE, Plain(pod_group_workload_exists::new)),
    (node_declared_feature_validator::NAME, true, UPDATE, Plain(node_declared_feature_validator::new)),
    (job_validation::NAME, true, UPDATE, Plain(job_validation::new)),
    (pod_resize_validator::NAME, true, UPDATE, Plain(pod_resize_validator::new)),
    (policy::mutating::NAME, true, ALL, Configured(policy::mutating::new)),
    (webhook::mutating::NAME, true, ALL, Configured(webhook::mutating::new)),
    (policy::validating::NAME, true, ALL, Configured(policy::validating::new)),
    (webhook::validating::NAME, true, ALL, Configured(webhook::validating::new)),
    (resource_quota::NAME, true, WRITES, Configured(resource_quota::new)),
    (always::DENY, false, ALL, Plain(always::deny)),
];

/// A plugin as it is run.
#[derive(Clone)]
pub struct Enabled {
    name: &'static str,
    operations: &'static [Operation],
    plugin: Arc<dyn Plugin>,
    meters: Arc<metrics::Meters>,
}

/// The enabled plugins in order.
#[derive(Clone)]
pub struct Chain(Vec<Enabled>);

/// Names of all plugins that flags may name.
pub fn names() -> impl Iterator<Item = &'static str> {
    PLUGINS.iter().map(|(name, ..)| *name)
}

/// The chain for `--enable-admission-plugins` and `--disable-admission-plugins`, configured.
///
/// # Errors
/// When a name is of no plugin, or a configuration of no use.
pub fn chain(
    parts: &Parts,
    enable: &[String],
    disable: &[String],
    configurations: &Configurations,
) -> Result<Chain, String> {
    let known = |name: &String| PLUGINS.iter().any(|(n, ..)| n == name);
    if let Some(name) = enable.iter().find(|n| !known(n)) {
        return Err(format!("enable-admission-plugins plugin {name:?} is unknown"));
    }
    if let Some(name) = disable.iter().find(|n| !known(n)) {
        return Err(format!("disable-admission-plugins plugin {name:?} is unknown"));
    }
    if let Some(name) = enable.iter().find(|n| disable.contains(n)) {
        return Err(format!("[{name}] in enable-admission-plugins and disable-admission-plugins overlapped"));
    }
    let on = |name: &str, default: bool| {
        let named = |list: &[String]| list.iter().any(|n| n == name);
        named(enable) || (default && !named(disable))
    };
    let mutates = parts.gates.has(Gate::MutatingAdmissionPolicy);
    let open = |name: &str| mutates || name != policy::mutating::NAME;
    let wanted = PLUGINS.iter().filter(|(name, default, ..)| on(name, *default) && open(name));
    let make = |&(name, _, operations, new): &Entry| -> Result<Enabled, String> {
        let plugin = match new {
            Plain(new) => new(parts),
            Configured(new) => new(parts, configurations.of(name))
                .map_err(|why| format!("couldn't init admission plugin {name:?}: {why}"))?,
        };
        Ok(Enabled { name, operations, plugin, meters: Arc::default() })
    };
    let mut plugins = wanted.map(make).collect::<Result<Vec<Enabled>, String>>()?;
    if let Some(rbac) = &parts.rbac {
        // Not a choice: without it, whoever may write a role may do everything.
        plugins.push(Enabled {
            name: rbac_escalation::NAME,
            operations: WRITES,
            plugin: rbac_escalation::new(rbac.clone(), parts.authorizer.clone()),
            meters: Arc::default(),
        });
    }
    // Nor is this: what a claim may be given depends on its namespace and on who gives it.
    plugins.push(Enabled {
        name: device_access::NAME,
        operations: WRITES,
        plugin: device_access::new(parts),
        meters: Arc::default(),
    });
    // Nor this: a policy reads its parameters for whoever has made it.
    plugins.push(Enabled {
        name: policy_access::NAME,
        operations: WRITES,
        plugin: policy_access::new(parts),
        meters: Arc::default(),
    });
    Ok(Chain(plugins))
}

/// Runs every plugin's mutation; the first refusal ends it. Where a late plugin changed what earlier ones asked to see
/// again, all of them run once more.
///
/// # Errors
/// The first refusal.
pub async fn admit(plugins: &[Enabled], request: &mut Request<'_>) -> Result<(), Status> {
    let turn = Turn::new(request.operation, Step::Admit);
    let outcome = async {
        loop {
            let mut begun = Instant::now();
            for one in turn.of(plugins) {
                let outcome = one.plugin.admit(request).await;
                begun = turn.counted(one, begun, outcome.is_err());
                outcome?;
            }
            if !request.reinvocation.next_round() {
                return Ok(());
            }
        }
    };
    let outcome = outcome.await;
    turn.end(outcome.is_err());
    outcome
}

/// Runs every plugin's validation of the final object.
///
/// # Errors
/// The first refusal.
pub async fn validate(plugins: &[Enabled], request: &mut Request<'_>) -> Result<(), Status> {
    let turn = Turn::new(request.operation, Step::Validate);
    let outcome = async {
        let mut begun = turn.begun;
        for one in turn.of(plugins) {
            let outcome = one.plugin.validate(request).await;
            begun = turn.counted(one, begun, outcome.is_err());
            outcome?;
        }
        Ok(())
    };
    let outcome = outcome.await;
    turn.end(outcome.is_err());
    outcome
}

/// The two passes of a write through the plugins.
#[derive(Clone, Copy, Debug)]
enum Step {
    Admit,
    Validate,
}

/// One pass of a write, and its times.
struct Turn {
    operation: Operation,
    step: Step,
    begun: Instant,
}

impl Turn {
    fn new(operation: Operation, step: Step) -> Self {
        Self { operation, step, begun: Instant::now() }
    }

    /// The plugins that this operation concerns.
    fn of<'p>(&self, plugins: &'p [Enabled]) -> impl Iterator<Item = &'p Enabled> + use<'p> {
        let operation = self.operation;
        plugins.iter().filter(move |one| one.operations.contains(&operation))
    }

    /// Counts a plugin's turn; the next one begins where it ended.
    fn counted(&self, one: &Enabled, begun: Instant, rejected: bool) -> Instant {
        let now = Instant::now();
        one.meters.observe(one.name, (self.operation, self.step), rejected, now - begun);
        now
    }

    fn end(&self, rejected: bool) {
        metrics::step(self.operation, rejected, self.step, self.begun.elapsed());
    }
}

impl Chain {
    /// [`admit`] by these plugins.
    pub async fn admit(&self, request: &mut Request<'_>) -> Result<(), Status> {
        admit(&self.0, request).await
    }

    /// [`validate`] by these plugins.
    pub async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        validate(&self.0, request).await
    }

    /// The enabled plugins, in order.
    pub fn plugins(&self) -> Vec<Enabled> {
        self.0.clone()
    }

    /// Names of the enabled plugins, in order.
    pub fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|one| one.name).collect()
    }
}

/// What the write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A new object, or POST to a subresource.
    Create,
    /// A change.
    Update,
    /// A deletion; `object` is empty, `old` is what goes.
    Delete,
    /// exec, attach, portforward, proxy.
    Connect,
}

/// One write on its way through admission.
pub struct Request<'a> {
    /// Who, what, where. For generateName the name is still empty.
    pub attributes: &'a Attributes,
    /// The resource written.
    pub resource: &'a Arc<Resource>,
    /// Create, update, delete, connect.
    pub operation: Operation,
    /// The new object (for subresources: its body, e.g. Binding, Eviction, Scale); plugins may change it in `admit`.
    pub object: Option<&'a mut Object>,
    /// The stored object, on update and delete.
    pub old: Option<&'a Object>,
    /// The delete, create or update options as sent.
    pub options: &'a Object,
    /// Whether nothing will be stored.
    pub dry_run: bool,
    /// Warnings for the client.
    pub warnings: &'a mut Vec<String>,
    /// Which mutations are to be made again.
    pub reinvocation: Reinvocation,
}

/// One admission plugin, shown the operations its line in the list names. A refusal is `Status::forbidden` unless upstream says otherwise.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// Mutation.
    async fn admit(&self, _request: &mut Request<'_>) -> Result<(), Status> {
        Ok(())
    }
    /// Validation of the final object.
    async fn validate(&self, _request: &mut Request<'_>) -> Result<(), Status> {
        Ok(())
    }
}

impl Request<'_> {
    /// Whether the write is to objects of this kind themselves, not to a subresource.
    pub fn is(&self, kind: Kind) -> bool {
        self.is_any(kind) && self.attributes.subresource.is_empty()
    }

    /// Whether the write is to this kind or one of its subresources.
    pub fn is_any(&self, kind: Kind) -> bool {
        self.resource.group == kind.group && self.resource.plural == kind.resource
    }

    /// 403 naming the object written.
    pub fn forbid(&self, why: impl AsRef<str>) -> Status {
        let named = self.object.as_deref().map_or("", Object::name);
        let name = if self.attributes.name.is_empty() { named } else { &self.attributes.name };
        let resource = GroupName::new(self.resource.group, self.resource.plural);
        Status::forbidden(&resource, name, why.as_ref())
    }

    /// `spec` of the new object, made if missing; `None` when there is no object.
    pub fn spec(&mut self) -> Option<&mut Map<String, Value>> {
        let object = self.object.as_deref_mut()?;
        let spec = object.as_map_mut().entry("spec").or_insert_with(|| Value::Object(Map::new()));
        spec.as_object_mut()
    }
}

/// A string below an object by JSON pointer; empty when missing.
fn text<'a>(object: &'a Object, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The items of a list below an object by JSON pointer.
fn items<'a>(object: &'a Object, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests;
