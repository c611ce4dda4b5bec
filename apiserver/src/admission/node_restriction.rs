//! NodeRestriction: a kubelet writes its own node, the pods on it, and nothing that steers work to it.
//!
//! Contract: Kubernetes "NodeRestriction" admission, KEP-279; off unless enabled, as upstream.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use component_base::features::{Gate, Gates};
use serde_json::Value;

use super::{Operation, Parts, Plugin, Request, items, text};
use crate::{
    auth::Authorizer,
    authz::node::{node_of, secrets_and_config_maps},
    object::Object,
    objects::{
        Kind, LEASES, NODES, Objects, PERSISTENT_VOLUME_CLAIMS, POD_CERTIFICATE_REQUESTS, PODS,
        RESOURCE_SLICES, SERVICE_ACCOUNTS,
    },
    status::{Reason, Status},
};

mod audiences;

pub(super) const NAME: &str = "NodeRestriction";

const CSI_NODES: Kind = Kind { group: "storage.k8s.io", resource: "csinodes" };
const CSRS: Kind = Kind { group: "certificates.k8s.io", resource: "certificatesigningrequests" };
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Kubernetes' own labels a kubelet may set on its node.
const KUBELET_LABELS: [&str; 14] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
    "node.kubernetes.io/instance-type",
    "node.kubernetes.io/windows-build",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
/// Label namespaces that are the kubelet's own.
const KUBELET_NAMESPACES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

struct NodeRestriction {
    objects: Arc<dyn Objects>,
    authorizer: Arc<dyn Authorizer>,
    gates: Gates,
}

pub(super) fn new(parts: &Parts) -> Arc<dyn Plugin> {
    let (objects, authorizer) = (parts.objects.clone(), parts.authorizer.clone());
    Arc::new(NodeRestriction { objects, authorizer, gates: parts.gates })
}

#[async_trait]
impl Plugin for NodeRestriction {
    async fn admit(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let Some(node) = node_of(&request.attributes.user).map(str::to_owned) else { return Ok(()) };
        if node.is_empty() {
            let user = &request.attributes.user.name;
            return Err(request.forbid(format!("could not determine node from user {user:?}")));
        }
        let checked = if request.is_any(PODS) {
            self.pod(&node, request).await?
        } else if request.is_any(NODES) {
            own_node(&node, request)
        } else if request.is_any(PERSISTENT_VOLUME_CLAIMS) {
            match request.attributes.subresource.as_str() {
                "status" => claim_status(&node, request),
                _ => Err("may only update PVC status".to_owned()),
            }
        } else if request.is_any(SERVICE_ACCOUNTS) {
            self.token(&node, request).await?
        } else if request.is_any(LEASES) {
            lease(&node, request)
        } else if request.is_any(CSI_NODES) {
            named_as(&node, request, "can only access CSINode with the same name as the requesting node")
        } else if request.is_any(RESOURCE_SLICES) {
            resource_slice(&node, request)
        } else if request.is_any(CSRS) {
            match self.gates.has(Gate::AllowInsecureKubeletCertificateSigningRequests) {
                true => Ok(()),
                false => signing_request(&node, request),
            }
        } else if request.is_any(POD_CERTIFICATE_REQUESTS) {
            self.certificate(&node, request).await?
        } else {
            Ok(())
        };
        checked.map_err(|why| request.forbid(why))
    }
}

/// What a rule says: fine, or why not. The outer error is a failed look-up.
type Checked = Result<(), String>;

impl NodeRestriction {
    async fn pod(&self, node: &str, request: &Request<'_>) -> Result<Checked, Status> {
        let attributes = request.attributes;
        Ok(match (attributes.subresource.as_str(), request.operation) {
            ("", Operation::Create) => return self.mirror_pod(node, request).await,
            ("", Operation::Delete) => {
                let Some(pod) = self.objects.get(PODS, &attributes.namespace, &attributes.name).await? else {
                    return Err(Status::not_found(&PODS.group_name(), &attributes.name));
                };
                own_pod(node, &pod, "delete pods")
            }
            ("", operation) => Err(format!(
                "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
                word(operation)
            )),
            ("status", Operation::Update) => pod_status(node, request),
            ("status", operation) => Err(format!("unexpected operation {:?}", word(operation))),
            ("eviction", Operation::Create) => {
                let name = match attributes.name.as_str() {
                    "" => request.object.as_deref().map_or("", Object::name),
                    name => name,
                };
                let Some(pod) = self.objects.get(PODS, &attributes.namespace, name).await? else {
                    return Err(Status::not_found(&PODS.group_name(), name));
                };
                match own_pod(node, &pod, "") {
                    // Without quotes here.
                    Err(_) => {
                        Err(format!("node {node} can only evict pods with spec.nodeName set to itself"))
                    }
                    own => own,
                }
            }
            ("eviction", operation) => Err(format!("unexpected operation {}", word(operation))),
            (other, _) => {
                Err(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
            }
        })
    }

    /// A node asks for certificates of the pods on it, of those that run now.
    async fn certificate(&self, node: &str, request: &Request<'_>) -> Result<Checked, Status> {
        if !self.gates.has(Gate::PodCertificateRequest) {
            return Ok(Err("PodCertificateRequest feature gate is disabled".to_owned()));
        }
        if request.operation != Operation::Create {
            return Ok(Err(format!("unexpected operation {}", word(request.operation))));
        }
        let subresource = &request.attributes.subresource;
        if !subresource.is_empty() {
            return Ok(Err(format!("unexpected subresource {subresource}")));
        }
        let Some(asked) = request.object.as_deref() else { return Ok(Ok(())) };
        let part = |field: &str| text(asked, &format!("/spec/{field}"));
        if part("nodeName") != node {
            return Ok(Err(format!(
                "PodCertificateRequest.Spec.NodeName={:?}, which is not the requesting node {node:?}",
                part("nodeName")
            )));
        }
        let namespace = request.attributes.namespace.as_str();
        let pod_name = format!("{namespace}/{}", part("podName"));
        let of_pod = format!("PodCertificateRequest for pod {pod_name:?}");
        // What is another one by its uid may be one that this server does not know of yet: asking again may succeed.
        let of_node = self.named(NODES, "", node, &format!("node {node:?}")).await?;
        let (said, is) = (part("nodeUID"), of_node.uid());
        if said != is {
            return Err(stale(format!(
                "{of_pod} names node UID {said:?}, inconsistent with the running node ({is:?})"
            )));
        }
        let pod = self.named(PODS, namespace, part("podName"), &format!("pod {pod_name:?}")).await?;
        let (said, is) = (part("podUID"), pod.uid());
        if said != is {
            return Err(stale(format!(
                "{of_pod} contains pod UID ({said:?}) which differs from running pod {is:?}"
            )));
        }
        if text(&pod, "/spec/nodeName") != node {
            return Ok(Err(format!(
                "pod {pod_name:?} is not running on node {node:?} named in the PodCertificateRequest"
            )));
        }
        if pod.annotation(MIRROR).is_some() {
            return Ok(Err(format!("pod {pod_name:?} is a mirror pod")));
        }
        let (account, own) = (part("serviceAccountName"), text(&pod, "/spec/serviceAccountName"));
        if account != own {
            return Ok(Err(format!(
                "PodCertificateRequest for pod {pod_name:?} contains serviceAccountName ({account:?}) that differs \
                 from running pod ({own:?})"
            )));
        }
        let told = format!("service account \"{namespace}/{account}\"");
        let account = self.named(SERVICE_ACCOUNTS, namespace, account, &told).await?;
        let (said, is) = (part("serviceAccountUID"), account.uid());
        if said != is {
            return Err(stale(format!(
                "{of_pod} names service account UID {said:?}, which differs from the running service account ({is:?})"
            )));
        }
        Ok(Ok(()))
    }

    /// An object that a request for a certificate names.
    async fn named(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        told: &str,
    ) -> Result<Arc<Object>, Status> {
        let found = self.objects.get(kind, namespace, name).await?;
        found.ok_or_else(|| {
            let why = format!("{} {name:?} not found", kind.resource.trim_end_matches('s'));
            stale(format!("while retrieving {told} named in the PodCertificateRequest: {why}"))
        })
    }

    /// A node creates only the mirrors of its static pods, which use nothing of the API.
    async fn mirror_pod(&self, node: &str, request: &Request<'_>) -> Result<Checked, Status> {
        let Some(pod) = request.object.as_deref() else { return Ok(Ok(())) };
        if pod.annotation(MIRROR).is_none() {
            return Ok(Err(format!(
                "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
            )));
        }
        if let Err(why) = own_pod(node, pod, "create pods") {
            return Ok(Err(why));
        }
        let owners: Vec<&Value> = items(pod, "/metadata/ownerReferences").collect();
        let [owner] = owners.as_slice() else {
            let many = if owners.is_empty() { "an owner reference" } else { "a single owner reference" };
            return Ok(Err(format!("node {node:?} can only create pods with {many} set to itself")));
        };
        let field = |name: &str| owner.get(name).and_then(Value::as_str).unwrap_or_default();
        if (field("apiVersion"), field("kind"), field("name")) != ("v1", "Node", node) {
            return Ok(Err(format!(
                "node {node:?} can only create pods with an owner reference set to itself"
            )));
        }
        if owner.get("controller") != Some(&Value::Bool(true)) {
            let why =
                format!("node {node:?} can only create pods with a controller owner reference set to itself");
            return Ok(Err(why));
        }
        if owner.get("blockOwnerDeletion") == Some(&Value::Bool(true)) {
            return Ok(Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference")));
        }
        let Some(own) = self.objects.get(NODES, "", node).await? else {
            return Err(Status::not_found(&NODES.group_name(), node));
        };
        if field("uid") != own.uid() {
            return Ok(Err(format!("node {node} UID mismatch: expected {} got {}", field("uid"), own.uid())));
        }
        Ok(match referenced(pod) {
            Some(what) => Err(format!("node {node:?} can not create pods that reference {what}")),
            None => Ok(()),
        })
    }

    /// Tokens only for pods on the node, bound to them.
    async fn token(&self, node: &str, request: &Request<'_>) -> Result<Checked, Status> {
        if request.attributes.subresource != "token" || request.operation != Operation::Create {
            return Ok(Ok(()));
        }
        let Some(body) = request.object.as_deref() else { return Ok(Ok(())) };
        let reference = |field: &str| text(body, &format!("/spec/boundObjectRef/{field}")).to_owned();
        if (reference("apiVersion").as_str(), reference("kind").as_str()) != ("v1", "Pod")
            || reference("name").is_empty()
        {
            return Ok(Err("node requested token not bound to a pod".to_owned()));
        }
        if reference("uid").is_empty() {
            return Ok(Err("node requested token with a pod binding without a uid".to_owned()));
        }
        let namespace = &request.attributes.namespace;
        let mut pod = self.objects.get(PODS, namespace, &reference("name")).await?;
        if pod.as_ref().is_none_or(|p| text(p, "/spec/nodeName") != node) {
            pod = self.objects.get_latest(PODS, namespace, &reference("name")).await?;
        }
        let Some(pod) = pod else {
            return Err(Status::not_found(&PODS.group_name(), &reference("name")));
        };
        if pod.uid() != reference("uid") {
            return Ok(Err(format!(
                "the UID in the bound object reference ({}) does not match the UID in record. The object might have \
                 been deleted and then recreated",
                reference("uid")
            )));
        }
        if text(&pod, "/spec/nodeName") != node {
            return Ok(Err("node requested token bound to a pod scheduled on a different node".to_owned()));
        }
        if !self.gates.has(Gate::ServiceAccountNodeAudienceRestriction) {
            return Ok(Ok(()));
        }
        Ok(audiences::check(&*self.objects, &*self.authorizer, request.attributes, &pod, body).await)
    }
}

/// An operation, as upstream names it.
fn word(operation: Operation) -> String {
    format!("{operation:?}").to_uppercase()
}

fn own_pod(node: &str, pod: &Object, verb: &str) -> Checked {
    if text(pod, "/spec/nodeName") == node {
        Ok(())
    } else {
        Err(format!("node {node:?} can only {verb} with spec.nodeName set to itself"))
    }
}

fn pod_status(node: &str, request: &Request<'_>) -> Checked {
    let (Some(new), Some(old)) = (request.object.as_deref(), request.old) else { return Ok(()) };
    if text(old, "/spec/nodeName") != node {
        return Err(format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    let labels =
        |o: &Object| o.meta_pairs("labels").map(|(k, v)| (k.to_owned(), v.to_owned())).collect::<Vec<_>>();
    if labels(new) != labels(old) {
        return Err(format!("node {node:?} cannot update labels through pod status"));
    }
    let claims = |pod: &Object| {
        let of = |one: &Value| (one.get("name").cloned(), one.get("resourceClaimName").cloned());
        items(pod, "/status/resourceClaimStatuses").map(of).collect::<Vec<_>>()
    };
    if claims(new) != claims(old) {
        return Err(format!("node {node:?} cannot update resource claim statues"));
    }
    let extended = |pod: &Object| {
        let given = pod.pointer("/status/extendedResourceClaimStatus").filter(|given| !given.is_null())?;
        let mappings = given.get("requestMappings").and_then(Value::as_array).cloned().unwrap_or_default();
        Some((given.get("resourceClaimName").cloned(), mappings))
    };
    if extended(new) != extended(old) {
        return Err(format!("node {node:?} cannot update extended resource claim status"));
    }
    Ok(())
}

/// Nodes tell how large volumes have become, and nothing else.
fn claim_status(node: &str, request: &Request<'_>) -> Checked {
    if request.operation != Operation::Update {
        return Err(format!("unexpected operation {:?}", word(request.operation)));
    }
    let (Some(new), Some(old)) = (request.object.as_deref(), request.old) else { return Ok(()) };
    let rest = |claim: &Object| {
        let mut rest = claim.clone().into_value();
        for (part, fields) in [
            ("metadata", &["resourceVersion", "managedFields"][..]),
            ("status", &["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses"]),
        ] {
            let part = rest.get_mut(part).and_then(Value::as_object_mut);
            if let Some(part) = part {
                part.retain(|field, value| !fields.contains(&field.as_str()) && !is_empty(value));
            }
        }
        rest
    };
    let (new, old) = (rest(new), rest(old));
    let differs =
        |part: &&str| new.get(part).filter(|v| !is_empty(v)) != old.get(part).filter(|v| !is_empty(v));
    match ["metadata", "spec", "status"].iter().find(|part| differs(part)) {
        None => Ok(()),
        Some(part) => Err(format!(
            "node {node:?} is not allowed to update fields other than status.quantity and status.conditions: {part}"
        )),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
        _ => false,
    }
}

/// Volumes of API objects, and what upstream calls these.
const VOLUMES: [(&str, &str); 7] = [
    ("configMap", "configmaps (via configmap volumes)"),
    ("secret", "secrets (via secret volumes)"),
    ("csi", "csidrivers (via CSI volumes)"),
    ("glusterfs", "endpoints (via glusterFS volumes)"),
    ("persistentVolumeClaim", "persistentvolumeclaims"),
    ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
    ("azureFile", "secrets (via azureFile volumes)"),
];
/// The same of sources of projected volumes.
const SOURCES: [(&str, &str); 5] = [
    ("configMap", "configmaps (via projected volumes)"),
    ("secret", "secrets (via projected volumes)"),
    ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
    ("clusterTrustBundle", "clustertrustbundles"),
    ("podCertificate", "podcertificates"),
];

/// The first kind of API object a pod uses.
fn referenced(pod: &Object) -> Option<&'static str> {
    if !text(pod, "/spec/serviceAccountName").is_empty() {
        return Some("serviceaccounts");
    }
    match secrets_and_config_maps(pod) {
        (true, _) => return Some("secrets"),
        (_, true) => return Some("configmaps"),
        _ => {}
    }
    if items(pod, "/spec/resourceClaims").next().is_some() {
        return Some("resourceclaims");
    }
    items(pod, "/spec/volumes").find_map(|volume| {
        let of = |value: &Value, list: &[(&str, &'static str)]| {
            list.iter()
                .find(|(field, _)| value.get(field).is_some_and(|v| !v.is_null()))
                .map(|(_, what)| *what)
        };
        let sources = volume.pointer("/projected/sources").and_then(Value::as_array);
        of(volume, &VOLUMES).or_else(|| sources.into_iter().flatten().find_map(|one| of(one, &SOURCES)))
    })
}

/// What a request for a certificate names is not what this server knows of.
fn stale(why: String) -> Status {
    Status::new(500, Reason::Unknown, why)
}

fn own_node(node: &str, request: &Request<'_>) -> Checked {
    let object = request.object.as_deref();
    let name = match request.attributes.name.as_str() {
        "" => object.map_or("", Object::name),
        name => name,
    };
    if name != node {
        return Err(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    let Some(new) = object else { return Ok(()) };
    let config = new.pointer("/spec/configSource").filter(|v| !v.is_null());
    if request.operation == Operation::Create {
        if config.is_some() {
            return Err(format!("node {node:?} is not allowed to create pods with a non-nil configSource"));
        }
        let forbidden = forbidden_labels(new, None);
        return match forbidden.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "node {node:?} is not allowed to set the following labels: {}",
                forbidden.join(", ")
            )),
        };
    }
    let Some(old) = request.old else { return Ok(()) };
    if config.is_some() && config != old.pointer("/spec/configSource") {
        return Err(format!(
            "node {node:?} is not allowed to update configSource to a new non-nil configSource"
        ));
    }
    let list = |o: &Object, pointer: &str| items(o, pointer).cloned().collect::<Vec<_>>();
    if list(new, "/spec/taints") != list(old, "/spec/taints") {
        return Err(format!("node {node:?} is not allowed to modify taints"));
    }
    if list(new, "/metadata/ownerReferences") != list(old, "/metadata/ownerReferences") {
        return Err(format!("node {node:?} is not allowed to modify ownerReferences"));
    }
    let forbidden = forbidden_labels(new, Some(old));
    match forbidden.is_empty() {
        true => Ok(()),
        false => Err(format!("is not allowed to modify labels: {}", forbidden.join(", "))),
    }
}

/// Changed labels that are not the kubelet's to change.
fn forbidden_labels(new: &Object, old: Option<&Object>) -> Vec<String> {
    let pairs = |o: &Object| {
        o.meta_pairs("labels").map(|(k, v)| (k.to_owned(), v.to_owned())).collect::<BTreeSet<_>>()
    };
    let (new, old) = (pairs(new), old.map(pairs).unwrap_or_default());
    let changed: BTreeSet<&String> = new.symmetric_difference(&old).map(|(k, _)| k).collect();
    changed.into_iter().filter(|label| !may_change(label)).cloned().collect()
}

fn may_change(label: &str) -> bool {
    let Some((namespace, _)) = label.split_once('/') else { return true };
    let within =
        |n: &str| namespace == n || namespace.strip_suffix(n).is_some_and(|rest| rest.ends_with('.'));
    if within("node-restriction.kubernetes.io") {
        return false;
    }
    let kubernetes = within("kubernetes.io") || within("k8s.io");
    !kubernetes || KUBELET_LABELS.contains(&label) || KUBELET_NAMESPACES.iter().any(|n| within(n))
}

fn lease(node: &str, request: &Request<'_>) -> Checked {
    if request.attributes.namespace != "kube-node-lease" {
        return Err("can only access leases in the \"kube-node-lease\" system namespace".to_owned());
    }
    named_as(node, request, "can only access node lease with the same name as the requesting node")
}

fn named_as(node: &str, request: &Request<'_>, why: &str) -> Checked {
    let name = match (request.operation, request.object.as_deref()) {
        (Operation::Create, Some(object)) => object.name(),
        _ => &request.attributes.name,
    };
    if name == node { Ok(()) } else { Err(why.to_owned()) }
}

fn resource_slice(node: &str, request: &Request<'_>) -> Checked {
    let own = |object: Option<&Object>| object.is_none_or(|o| text(o, "/spec/nodeName") == node);
    match request.operation {
        Operation::Create if !own(request.object.as_deref()) => {
            Err("can only create ResourceSlice with the same NodeName as the requesting node".to_owned())
        }
        Operation::Update if !own(request.old) => {
            Err("can only update ResourceSlice with the same NodeName as the requesting node".to_owned())
        }
        Operation::Delete if !own(request.old) => {
            Err("can only delete ResourceSlice with the same NodeName as the requesting node".to_owned())
        }
        _ => Ok(()),
    }
}

/// A node requests kubelet certificates only for itself.
fn signing_request(node: &str, request: &Request<'_>) -> Checked {
    let Some(csr) = request.object.as_deref().filter(|_| request.operation == Operation::Create) else {
        return Ok(());
    };
    let signer = text(csr, "/spec/signerName");
    if !["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"].contains(&signer) {
        return Ok(());
    }
    let subject = super::certificate_subject_restriction::subject(text(csr, "/spec/request"))
        .ok_or_else(|| "unable to parse csr".to_owned())?;
    if subject.common_name == format!("system:node:{node}") {
        Ok(())
    } else {
        Err(format!("can only create a node CSR with CN=system:node:{node}"))
    }
}
