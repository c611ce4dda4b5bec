//! The guard of claims on devices: who may have administrative access to them, who may allocate them, and which
//! drivers may tell of them. Run after all plugins, so that it sees the final object.
//!
//! Contract: resource.k8s.io/v1 `DeviceRequest.adminAccess`; KEP-5018 (admin access) and the permissions on
//! `resourceclaims/binding` and `resourceclaims/driver` that changes of a claim's status need.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use async_trait::async_trait;
use component_base::features::Gate;
use serde_json::Value;
use smol_str::SmolStr;

use super::{Operation, Parts, Plugin, Request, items};
use crate::{
    auth::{Attributes, Authorizer, User},
    authz,
    field::{Error, ErrorList, Path},
    object::Object,
    objects::{Kind, NAMESPACES, Objects, RESOURCE_CLAIMS},
    status::{GroupName, Status},
};

pub(super) const NAME: &str = "DeviceAccess";

const TEMPLATES: Kind = Kind { group: "resource.k8s.io", resource: "resourceclaimtemplates" };
/// The label of namespaces whose claims may ask for administrative access.
const ADMIN_LABEL: &str = "resource.kubernetes.io/admin-access";
/// Where a service account's token says which node its pod is on.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// Prefixes of the verb on a driver: for claims of the asker's own node, and for any.
const OWN_NODE: &str = "associated-node:";
const ANY_NODE: &str = "arbitrary-node:";

struct DeviceAccess {
    objects: Arc<dyn Objects>,
    authorizer: Arc<dyn Authorizer>,
    /// Changes of a claim's status need permissions of their own.
    granular: bool,
}

pub(super) fn new(parts: &Parts) -> Arc<dyn Plugin> {
    let (objects, authorizer) = (parts.objects.clone(), parts.authorizer.clone());
    let granular = parts.gates.has(Gate::DRAResourceClaimGranularStatusAuthorization);
    Arc::new(DeviceAccess { objects, authorizer, granular })
}

#[async_trait]
impl Plugin for DeviceAccess {
    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let Some(object) = request.object.as_deref() else { return Ok(()) };
        let attributes = request.attributes;
        let mut errors = ErrorList::new();
        match (request.operation, attributes.subresource.as_str()) {
            (Operation::Create, "") if request.is_any(RESOURCE_CLAIMS) => {
                self.requests(object, "/spec/devices/requests", attributes, &mut errors).await;
            }
            (Operation::Create, "") if request.is_any(TEMPLATES) => {
                self.requests(object, "/spec/spec/devices/requests", attributes, &mut errors).await;
            }
            (Operation::Update, "status") if request.is_any(RESOURCE_CLAIMS) => {
                if let Some(old) = request.old {
                    self.status(object, old, attributes, &mut errors).await;
                }
            }
            _ => {}
        }
        if errors.is_empty() {
            return Ok(());
        }
        let kind = GroupName::new(request.resource.group, request.resource.kind);
        Err(Status::invalid(&kind, object.name(), &errors))
    }
}

impl DeviceAccess {
    /// Requests of a new claim, or of the claims a template makes.
    async fn requests(&self, object: &Object, at: &str, attributes: &Attributes, errors: &mut ErrorList) {
        let asks = |request: &Value| request.pointer("/exactly/adminAccess") == Some(&Value::Bool(true));
        if let Some(i) = items(object, at).position(asks) {
            let requests = Path::new("spec").child("devices").child("requests");
            self.admin(&requests.index(i).child("adminAccess"), attributes, errors).await;
        }
    }

    async fn status(&self, new: &Object, old: &Object, attributes: &Attributes, errors: &mut ErrorList) {
        if granted(old).is_none()
            && let Some(i) = granted(new)
        {
            let results = Path::new("status").child("allocation").child("devices").child("results");
            self.admin(&results.index(i).child("adminAccess"), attributes, errors).await;
        }
        if !self.granular {
            return;
        }
        self.binding(new, old, attributes, errors).await;
        if part(new, "allocation").is_some() {
            self.drivers(new, old, attributes, errors).await;
        }
    }

    /// The namespace lets its claims have administrative access.
    async fn admin(&self, path: &Path, attributes: &Attributes, errors: &mut ErrorList) {
        let why = match self.objects.get_latest(NAMESPACES, "", &attributes.namespace).await {
            Ok(Some(namespace)) if labelled(&namespace) => return,
            Ok(Some(_)) => {
                let why = format!(
                    "admin access to devices requires the `{ADMIN_LABEL}: true` label on the containing namespace"
                );
                return errors.push(Error::forbidden(path, why));
            }
            Ok(None) => Status::not_found(&NAMESPACES.group_name(), &attributes.namespace),
            Err(status) => status,
        };
        let why = format!("could not retrieve namespace to verify admin access: {}", why.message);
        errors.push(Error::internal(path, why));
    }

    /// Who gives devices to a claim, or the claim to pods, may bind claims.
    async fn binding(&self, new: &Object, old: &Object, attributes: &Attributes, errors: &mut ErrorList) {
        if ["allocation", "reservedFor"].iter().all(|field| part(new, field) == part(old, field)) {
            return;
        }
        let asked = Attributes {
            subresource: "binding".into(),
            namespace: SmolStr::default(),
            name: SmolStr::default(),
            ..attributes.clone()
        };
        if let Err(why) = self.allowed(&asked).await {
            let verb = &attributes.verb;
            let path = Path::new("status").child("allocation");
            errors.push(Error::forbidden(
                &path,
                format!(
                    "changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", \
                     verb=\"{verb}\" permission: {why}"
                ),
            ));
        }
    }

    /// Who tells of a driver's devices may speak for the driver: on this claim's node, or on all.
    async fn drivers(&self, new: &Object, old: &Object, attributes: &Attributes, errors: &mut ErrorList) {
        let prefixes: &[&str] =
            if is_on_node_of(&attributes.user, new) { &[OWN_NODE, ANY_NODE] } else { &[ANY_NODE] };
        let verbs: Vec<String> =
            prefixes.iter().map(|prefix| format!("{prefix}{}", attributes.verb)).collect();
        for driver in told_of(new, old) {
            if let Err(why) = self.speaks_for(&driver, &verbs, attributes).await {
                let path = Path::new("status").child("devices");
                errors.push(Error::forbidden(
                    &path,
                    format!(
                        "changing status.devices requires resource=\"resourceclaims/driver\", verb=\"[{}]\" \
                         permission: {why}",
                        verbs.join(" ")
                    ),
                ));
            }
        }
    }

    /// One of the verbs is enough; the first refusal is told.
    async fn speaks_for(
        &self,
        driver: &str,
        verbs: &[String],
        attributes: &Attributes,
    ) -> Result<(), String> {
        let mut first = Ok(());
        for verb in verbs {
            let asked = Attributes {
                verb: verb.as_str().into(),
                subresource: "driver".into(),
                name: driver.into(),
                ..attributes.clone()
            };
            match self.allowed(&asked).await {
                Ok(()) => return Ok(()),
                Err(why) if first.is_ok() => first = Err(why),
                Err(_) => {}
            }
        }
        first
    }

    async fn allowed(&self, asked: &Attributes) -> Result<(), String> {
        let Err(reason) = self.authorizer.authorize(asked).await.allowed() else { return Ok(()) };
        let resource = GroupName::new(asked.group.as_str(), asked.resource.as_str());
        Err(Status::forbidden(&resource, &asked.name, &authz::forbidden_message(asked, &reason)).message)
    }
}

/// Whether claims of a namespace may have administrative access.
fn labelled(namespace: &Object) -> bool {
    let labels = namespace.metadata().and_then(|metadata| metadata.get("labels"));
    labels.and_then(|labels| labels.get(ADMIN_LABEL)).and_then(Value::as_str) == Some("true")
}

/// A part of the status that says something.
fn part<'o>(claim: &'o Object, field: &str) -> Option<&'o Value> {
    let part = claim.get("status").and_then(|status| status.get(field));
    part.filter(|part| !part.is_null() && part.as_array().is_none_or(|list| !list.is_empty()))
}

/// Which result of an allocation gives administrative access.
fn granted(claim: &Object) -> Option<usize> {
    let mut results = items(claim, "/status/allocation/devices/results");
    results.position(|result| result.get("adminAccess") == Some(&Value::Bool(true)))
}

/// Drivers whose devices are told of otherwise than before.
fn told_of(new: &Object, old: &Object) -> BTreeSet<String> {
    let text = |device: &Value, field: &str| {
        device.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let devices = |claim: &Object| -> BTreeMap<[String; 4], Value> {
        let all = items(claim, "/status/devices");
        all.map(|d| (["driver", "pool", "device", "shareID"].map(|f| text(d, f)), d.clone())).collect()
    };
    let (now, before) = (devices(new), devices(old));
    let changed = now.iter().filter(|(key, device)| before.get(*key) != Some(*device));
    let gone = before.iter().filter(|(key, _)| !now.contains_key(*key));
    changed.chain(gone).map(|([driver, ..], _)| driver.clone()).collect()
}

/// Whether a service account's pod runs on the one node a claim's devices are on.
fn is_on_node_of(user: &User, claim: &Object) -> bool {
    let own = user.extra.get(NODE_NAME).map(Vec::as_slice);
    let (true, Some([own])) = (user.name.starts_with("system:serviceaccount:"), own) else { return false };
    let terms: Vec<&Value> = items(claim, "/status/allocation/nodeSelector/nodeSelectorTerms").collect();
    let [term] = terms.as_slice() else { return false };
    let list = |field: &str| term.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let ([], [by_name]) = (list("matchExpressions"), list("matchFields")) else { return false };
    let is = |field: &str, text: &str| by_name.get(field).and_then(Value::as_str) == Some(text);
    is("key", "metadata.name")
        && is("operator", "In")
        && by_name.get("values").and_then(Value::as_array).is_some_and(|values| *values == [own.as_str()])
}

#[cfg(test)]
mod tests;
