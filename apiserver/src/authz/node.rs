//! The Node authorizer: a kubelet may read what the pods on its node use, and write what is its own.
//!
//! ```text
//! node ← pod → secret, configmap, service account, resource claim
//!         └──→ claim ← volume → secret          node ← volume attachment
//! ```
//!
//! Contract: Kubernetes "Using Node Authorization", KEP-4601; upstream `plugin/pkg/auth/authorizer/node`.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Instant,
};

use async_trait::async_trait;
use component_base::features::{Gate, Gates};
use parking_lot::RwLock;
use serde_json::Value;

use super::{bootstrap, feed::Index, rbac::rule::Rule};
use crate::{
    auth::{Attributes, Authorizer, Decision, User},
    metrics,
    object::Object,
    objects::{Kind, PERSISTENT_VOLUMES, POD_CERTIFICATE_REQUESTS, PODS, Relevant, VOLUME_ATTACHMENTS},
};

/// What the index follows.
const KINDS: [Kind; 3] = [PODS, PERSISTENT_VOLUMES, VOLUME_ATTACHMENTS];

/// What the index follows, with what these gates let nodes do.
pub fn kinds(gates: Gates) -> impl Iterator<Item = Kind> {
    let requests = gates.has(Gate::PodCertificateRequest).then_some(POD_CERTIFICATE_REQUESTS);
    KINDS.into_iter().chain(requests)
}

/// Where a pod says what it uses.
const POD_PARTS: &[&str] = &["/spec", "/status/resourceClaimStatuses", "/status/extendedResourceClaimStatus"];

const MIRROR: &str = "kubernetes.io/config.mirror";

/// What a pod may use besides volumes' volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Used {
    Pod,
    Secret,
    ConfigMap,
    Claim,
    ServiceAccount,
    ResourceClaim,
}

/// A namespaced object something uses.
type Target = (Used, String, String);
type Key = (String, String);

/// The authorizer with its graph.
pub struct NodeAuthorizer {
    rules: Vec<Rule>,
    gates: Gates,
    graph: RwLock<Graph>,
}

#[derive(Default)]
struct Graph {
    /// Pods bound to a node, and what they use.
    pods: HashMap<Key, (String, BTreeSet<Target>)>,
    /// For each target how many pods of each node use it.
    users: HashMap<Target, HashMap<String, usize>>,
    /// Volumes: the claim they are bound to and the secrets they use.
    volumes: HashMap<String, (Key, Vec<Key>)>,
    /// Volumes using a secret.
    secret_volumes: HashMap<Key, HashSet<String>>,
    /// Node of each volume attachment.
    attachments: HashMap<String, String>,
    /// Node of each request for a pod's certificate.
    requests: HashMap<Key, String>,
}

impl NodeAuthorizer {
    /// With what these gates let nodes do.
    pub fn new(gates: Gates) -> Self {
        Self { rules: bootstrap::node_rules(gates), gates, graph: RwLock::default() }
    }
}

/// The node a user is: `Some("")` for a node group member without a node's name.
pub fn node_of(user: &User) -> Option<&str> {
    let name = user.name.strip_prefix("system:node:")?;
    user.in_group("system:nodes").then_some(name)
}

#[async_trait]
impl Authorizer for NodeAuthorizer {
    async fn authorize(&self, attributes: &Attributes) -> Decision {
        let Some(node) = node_of(&attributes.user) else { return Decision::NoOpinion(String::new()) };
        if node.is_empty() {
            return Decision::NoOpinion(format!("unknown node for user {:?}", attributes.user.name));
        }
        match self.decide(node, attributes) {
            Ok(()) => Decision::Allow(String::new()),
            Err(why) => Decision::NoOpinion(why),
        }
    }

    async fn rules(&self, user: &User, _namespace: &str) -> (Vec<Value>, Vec<Value>, bool) {
        (Vec::new(), Vec::new(), node_of(user).is_some())
    }
}

impl NodeAuthorizer {
    fn decide(&self, node: &str, a: &Attributes) -> Result<(), String> {
        if a.is_resource {
            match (a.group.as_str(), a.resource.as_str()) {
                ("", "secrets") => return self.read(node, a, Used::Secret),
                ("", "configmaps") => return self.read(node, a, Used::ConfigMap),
                ("", "persistentvolumeclaims") if a.subresource == "status" => {
                    let why = "can only get/update/patch this type";
                    return verb(a, &["update", "patch"], why).and_then(|()| self.uses(node, a, Used::Claim));
                }
                ("", "persistentvolumeclaims") => return self.get(node, a, Used::Claim),
                ("resource.k8s.io", "resourceclaims") => return self.get(node, a, Used::ResourceClaim),
                ("", "persistentvolumes") => {
                    return self.get_with(node, a, |g| g.reaches_volume(node, &a.name));
                }
                ("storage.k8s.io", "volumeattachments") => {
                    return self.get_with(node, a, |g| {
                        g.attachments.get(a.name.as_str()).is_some_and(|n| n == node)
                    });
                }
                ("", "serviceaccounts") => return self.service_account(node, a),
                ("coordination.k8s.io", "leases") => return lease(node, a),
                ("storage.k8s.io", "csinodes") => return csi_node(node, a),
                ("resource.k8s.io", "resourceslices") => return resource_slice(node, a),
                ("certificates.k8s.io", "podcertificaterequests")
                    if self.gates.has(Gate::PodCertificateRequest) =>
                {
                    return self.certificate(node, a);
                }
                ("", "nodes") => return own_node(node, a),
                ("", "pods") => return self.pod(node, a),
                _ => {}
            }
        }
        if self.rules.iter().any(|rule| rule.allows(a)) { Ok(()) } else { Err(String::new()) }
    }

    fn read(&self, node: &str, a: &Attributes, kind: Used) -> Result<(), String> {
        verb(a, &["get", "list", "watch"], "can only read resources of this type")?;
        if !a.subresource.is_empty() {
            return Err("cannot read subresource".to_owned());
        }
        if a.namespace.is_empty() {
            return Err("can only read namespaced object of this type".to_owned());
        }
        self.uses(node, a, kind)
    }

    fn get(&self, node: &str, a: &Attributes, kind: Used) -> Result<(), String> {
        self.get_with(node, a, |g| g.reaches(node, kind, &a.namespace, &a.name))
    }

    fn get_with(&self, node: &str, a: &Attributes, ok: impl Fn(&Graph) -> bool) -> Result<(), String> {
        verb(a, &["get"], "can only get individual resources of this type")?;
        if !a.subresource.is_empty() {
            return Err("cannot get subresource".to_owned());
        }
        self.related(node, a, ok)
    }

    fn uses(&self, node: &str, a: &Attributes, kind: Used) -> Result<(), String> {
        self.related(node, a, |g| g.reaches(node, kind, &a.namespace, &a.name))
    }

    fn related(&self, node: &str, a: &Attributes, ok: impl Fn(&Graph) -> bool) -> Result<(), String> {
        if a.name.is_empty() {
            return Err("No Object name found".to_owned());
        }
        if ok(&self.graph.read()) {
            Ok(())
        } else {
            Err(format!("no relationship found between node '{node}' and this object"))
        }
    }

    fn service_account(&self, node: &str, a: &Attributes) -> Result<(), String> {
        let reads = self.gates.has(Gate::KubeletServiceAccountTokenForCredentialProviders);
        if reads && a.verb == "get" && a.subresource.is_empty() {
            return self.read(node, a, Used::ServiceAccount);
        }
        if a.verb != "create" || a.name.is_empty() {
            return Err("can only create tokens for individual service accounts".to_owned());
        }
        if a.subresource != "token" {
            return Err("can only create token subresource of serviceaccount".to_owned());
        }
        self.uses(node, a, Used::ServiceAccount)
    }

    fn certificate(&self, node: &str, a: &Attributes) -> Result<(), String> {
        if !a.subresource.is_empty() {
            return Err("nodes may not access the status subresource of PodCertificateRequests".to_owned());
        }
        match a.verb.as_str() {
            // NodeRestriction compares what the object says.
            "create" => Ok(()),
            "get" => self.related(node, a, |g| {
                g.requests.get(&(a.namespace.to_string(), a.name.to_string())).is_some_and(|own| own == node)
            }),
            "list" | "watch" if selects_node(node, a) => Ok(()),
            "list" | "watch" => {
                Err("can only list/watch podcertificaterequests with nodeName field selector".to_owned())
            }
            other => Err(format!("nodes may not {other} podcertificaterequests")),
        }
    }

    fn pod(&self, node: &str, a: &Attributes) -> Result<(), String> {
        match (a.subresource.as_str(), a.verb.as_str()) {
            ("", "get") => self.uses(node, a, Used::Pod),
            ("", "list" | "watch") => {
                if selects_node(node, a) || (!a.name.is_empty() && self.uses(node, a, Used::Pod).is_ok()) {
                    Ok(())
                } else {
                    Err("can only list/watch pods with spec.nodeName field selector".to_owned())
                }
            }
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            _ => Err("can only get, list, watch, create, delete pods, update their status and evict them"
                .to_owned()),
        }
    }
}

/// Whether a request asks for what is of one node.
fn selects_node(node: &str, a: &Attributes) -> bool {
    a.field_selector.has("spec.nodeName", node)
}

fn verb(a: &Attributes, allowed: &[&str], why: &str) -> Result<(), String> {
    if allowed.contains(&a.verb.as_str()) { Ok(()) } else { Err(why.to_owned()) }
}

fn own_node(node: &str, a: &Attributes) -> Result<(), String> {
    match (a.subresource.as_str(), a.verb.as_str()) {
        // NodeRestriction makes sure that it is the own one.
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        ("", "get" | "list" | "watch") if a.name == node => Ok(()),
        ("", "get" | "list" | "watch") if a.name.is_empty() => {
            Err(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("", "get" | "list" | "watch") => {
            Err(format!("node '{node}' cannot read '{}', only its own Node object", a.name))
        }
        _ => Err("can only read, create and update its own Node object".to_owned()),
    }
}

fn lease(node: &str, a: &Attributes) -> Result<(), String> {
    let verbs = ["get", "create", "update", "patch", "delete"];
    verb(a, &verbs, "can only get, create, update, patch, or delete a node lease")?;
    if a.namespace != "kube-node-lease" {
        return Err("can only access leases in the \"kube-node-lease\" system namespace".to_owned());
    }
    if a.verb != "create" && a.name != node {
        return Err("can only access node lease with the same name as the requesting node".to_owned());
    }
    Ok(())
}

fn csi_node(node: &str, a: &Attributes) -> Result<(), String> {
    let verbs = ["get", "create", "update", "patch", "delete"];
    verb(a, &verbs, "can only get, create, update, patch, or delete a CSINode")?;
    if !a.subresource.is_empty() {
        return Err("cannot authorize CSINode subresources".to_owned());
    }
    if a.verb != "create" && a.name != node {
        return Err("can only access CSINode with the same name as the requesting node".to_owned());
    }
    Ok(())
}

fn resource_slice(node: &str, a: &Attributes) -> Result<(), String> {
    if !a.subresource.is_empty() {
        return Err("cannot authorize ResourceSlice subresources".to_owned());
    }
    let selected = selects_node(node, a);
    match a.verb.as_str() {
        // NodeRestriction compares the node's name in the object.
        "get" | "create" | "update" | "patch" | "delete" => Ok(()),
        "list" | "watch" | "deletecollection" if selected => Ok(()),
        _ => Err("can only list/watch/deletecollection resourceslices with spec.nodeName field selector"
            .to_owned()),
    }
}

/// A change of the graph, told when it is done.
struct Told {
    operation: String,
    begun: Instant,
}

impl Told {
    fn new(verb: &str, kind: Kind) -> Self {
        let of = match kind {
            PODS => "Pod",
            PERSISTENT_VOLUMES => "PV",
            POD_CERTIFICATE_REQUESTS => "PodCertificateRequest",
            _ => "VolumeAttachment",
        };
        Self { operation: format!("{verb}{of}"), begun: Instant::now() }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let duration = metrics::NODE_GRAPH.with_label_values(&[self.operation.as_str()]);
        duration.observe(self.begun.elapsed().as_secs_f64());
    }
}

impl Index for NodeAuthorizer {
    fn apply(&self, kind: Kind, object: &Object) {
        let _told = Told::new("Add", kind);
        let mut graph = self.graph.write();
        graph.remove(kind, object.namespace(), object.name());
        match kind {
            PODS => graph.add_pod(object),
            PERSISTENT_VOLUMES => graph.add_volume(object),
            other => {
                let node = object.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
                let (namespace, name, node) =
                    (object.namespace().to_owned(), object.name().to_owned(), node.to_owned());
                if other == POD_CERTIFICATE_REQUESTS {
                    graph.requests.insert((namespace, name), node);
                } else {
                    graph.attachments.insert(name, node);
                }
            }
        }
    }

    fn remove(&self, kind: Kind, namespace: &str, name: &str) {
        let _told = Told::new("Delete", kind);
        self.graph.write().remove(kind, namespace, name);
    }

    /// Most changes of pods are reports of their status.
    fn relevant(&self, kind: Kind) -> Relevant {
        match kind {
            PODS => Relevant { having: Some("spec.nodeName"), parts: POD_PARTS },
            _ => Relevant::default(),
        }
    }
}

impl Graph {
    fn reaches(&self, node: &str, kind: Used, namespace: &str, name: &str) -> bool {
        let target = (kind, namespace.to_owned(), name.to_owned());
        if self.users.get(&target).is_some_and(|nodes| nodes.contains_key(node)) {
            return true;
        }
        kind == Used::Secret
            && self
                .secret_volumes
                .get(&(namespace.to_owned(), name.to_owned()))
                .is_some_and(|volumes| volumes.iter().any(|v| self.reaches_volume(node, v)))
    }

    fn reaches_volume(&self, node: &str, volume: &str) -> bool {
        self.volumes.get(volume).is_some_and(|((ns, name), _)| self.reaches(node, Used::Claim, ns, name))
    }

    fn add_pod(&mut self, pod: &Object) {
        let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default().to_owned();
        if node.is_empty() {
            return;
        }
        let targets = targets(pod);
        for target in &targets {
            *self.users.entry(target.clone()).or_default().entry(node.clone()).or_default() += 1;
        }
        self.pods.insert((pod.namespace().to_owned(), pod.name().to_owned()), (node, targets));
    }

    fn add_volume(&mut self, volume: &Object) {
        let text = |v: Option<&Value>| v.and_then(Value::as_str).unwrap_or_default().to_owned();
        let claim =
            (text(volume.pointer("/spec/claimRef/namespace")), text(volume.pointer("/spec/claimRef/name")));
        let mut secrets = Vec::new();
        let spec = volume.get("spec").and_then(Value::as_object);
        for (field, source) in spec.into_iter().flatten() {
            for (key, reference) in source.as_object().into_iter().flatten() {
                let name = text(reference.get("name"));
                if key.ends_with("ecretRef") && !name.is_empty() {
                    let namespace = match text(reference.get("namespace")) {
                        stated if stated.is_empty() => claim.0.clone(),
                        stated => stated,
                    };
                    secrets.push((namespace, name));
                }
            }
            if field == "azureFile" {
                let name = text(source.get("secretName"));
                let namespace = text(source.get("secretNamespace"));
                let namespace = if namespace.is_empty() { claim.0.clone() } else { namespace };
                secrets.push((namespace, name));
            }
        }
        for secret in &secrets {
            self.secret_volumes.entry(secret.clone()).or_default().insert(volume.name().to_owned());
        }
        self.volumes.insert(volume.name().to_owned(), (claim, secrets));
    }

    fn remove(&mut self, kind: Kind, namespace: &str, name: &str) {
        match kind {
            PODS => {
                let Some((node, targets)) = self.pods.remove(&(namespace.to_owned(), name.to_owned())) else {
                    return;
                };
                for target in targets {
                    let Some(nodes) = self.users.get_mut(&target) else { continue };
                    if let Some(count) = nodes.get_mut(&node) {
                        *count -= 1;
                        if *count == 0 {
                            nodes.remove(&node);
                        }
                    }
                    if nodes.is_empty() {
                        self.users.remove(&target);
                    }
                }
            }
            PERSISTENT_VOLUMES => {
                let Some((_, secrets)) = self.volumes.remove(name) else { return };
                for secret in secrets {
                    if let Some(volumes) = self.secret_volumes.get_mut(&secret) {
                        volumes.remove(name);
                        if volumes.is_empty() {
                            self.secret_volumes.remove(&secret);
                        }
                    }
                }
            }
            POD_CERTIFICATE_REQUESTS => {
                self.requests.remove(&(namespace.to_owned(), name.to_owned()));
            }
            _ => {
                self.attachments.remove(name);
            }
        }
    }
}

/// Everything a pod refers to, itself included. Mirror pods give their node nothing but themselves.
fn targets(pod: &Object) -> BTreeSet<Target> {
    let namespace = pod.namespace();
    let mut found = BTreeSet::new();
    let mut add = |kind: Used, name: Option<&Value>| {
        if let Some(name) = name.and_then(Value::as_str).filter(|n| !n.is_empty()) {
            found.insert((kind, namespace.to_owned(), name.to_owned()));
        }
    };
    add(Used::Pod, Some(&Value::from(pod.name())));
    if pod.annotation(MIRROR).is_some() {
        return found;
    }
    add(Used::ServiceAccount, pod.pointer("/spec/serviceAccountName"));
    spec_targets(pod, &mut add);
    let list = |pointer: &str| pod.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    for claim in list("/spec/resourceClaims") {
        add(Used::ResourceClaim, claim.get("resourceClaimName"));
    }
    for claim in list("/status/resourceClaimStatuses") {
        add(Used::ResourceClaim, claim.get("resourceClaimName"));
    }
    add(Used::ResourceClaim, pod.pointer("/status/extendedResourceClaimStatus/resourceClaimName"));
    found
}

/// Whether a pod's containers and volumes use secrets, and config maps.
pub(crate) fn secrets_and_config_maps(pod: &Object) -> (bool, bool) {
    let (mut secrets, mut maps) = (false, false);
    spec_targets(pod, &mut |kind, name| {
        secrets |= kind == Used::Secret && name.is_some();
        maps |= kind == Used::ConfigMap && name.is_some();
    });
    (secrets, maps)
}

/// What images, containers and volumes use.
fn spec_targets(pod: &Object, add: &mut impl FnMut(Used, Option<&Value>)) {
    let list = |pointer: &str| pod.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    for secret in list("/spec/imagePullSecrets") {
        add(Used::Secret, secret.get("name"));
    }
    let containers = ["containers", "initContainers", "ephemeralContainers"];
    for container in containers.iter().flat_map(|c| list(&format!("/spec/{c}"))) {
        let items = |field: &str| container.get(field).and_then(Value::as_array).into_iter().flatten();
        for from in items("envFrom") {
            add(Used::Secret, from.pointer("/secretRef/name"));
            add(Used::ConfigMap, from.pointer("/configMapRef/name"));
        }
        for env in items("env") {
            add(Used::Secret, env.pointer("/valueFrom/secretKeyRef/name"));
            add(Used::ConfigMap, env.pointer("/valueFrom/configMapKeyRef/name"));
        }
    }
    for volume in list("/spec/volumes") {
        volume_targets(pod.name(), volume, add);
    }
}

fn volume_targets(pod: &str, volume: &Value, add: &mut impl FnMut(Used, Option<&Value>)) {
    add(Used::Claim, volume.pointer("/persistentVolumeClaim/claimName"));
    if volume.get("ephemeral").is_some() {
        let name = volume.get("name").and_then(Value::as_str).unwrap_or_default();
        add(Used::Claim, Some(&Value::from(format!("{pod}-{name}"))));
    }
    add(Used::ConfigMap, volume.pointer("/configMap/name"));
    add(Used::Secret, volume.pointer("/secret/secretName"));
    for source in volume.pointer("/projected/sources").and_then(Value::as_array).into_iter().flatten() {
        add(Used::Secret, source.pointer("/secret/name"));
        add(Used::ConfigMap, source.pointer("/configMap/name"));
    }
    // Network volumes name their secrets in secretRef and the like.
    for (kind, source) in volume.as_object().into_iter().flatten() {
        for (key, reference) in source.as_object().into_iter().flatten() {
            if key.ends_with("ecretRef") {
                add(Used::Secret, reference.get("name"));
            }
        }
        if kind == "azureFile" {
            add(Used::Secret, source.get("secretName"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::auth::Selected;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    fn graph() -> NodeAuthorizer {
        let authorizer = NodeAuthorizer::new(Gates::default().with(Gate::PodCertificateRequest, true));
        authorizer.apply(
            POD_CERTIFICATE_REQUESTS,
            &object(json!({"metadata": {"namespace": "a", "name": "req"}, "spec": {"nodeName": "n1"}})),
        );
        authorizer.apply(
            PODS,
            &object(json!({"metadata": {"namespace": "a", "name": "web"}, "spec": {
            "nodeName": "n1", "serviceAccountName": "app", "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"envFrom": [{"secretRef": {"name": "env"}}],
                "env": [{"valueFrom": {"configMapKeyRef": {"name": "one"}}}]}],
            "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "e", "ephemeral": {}},
                {"name": "p", "projected": {"sources": [{"configMap": {"name": "root-ca"}}]}},
                {"name": "r", "rbd": {"secretRef": {"name": "ceph"}}}]}})),
        );
        authorizer.apply(
            PODS,
            &object(json!({"metadata": {"namespace": "a", "name": "mirror",
            "annotations": {MIRROR: "x"}}, "spec": {"nodeName": "n1", "serviceAccountName": "mirrored"}})),
        );
        authorizer.apply(
            PODS,
            &object(json!({"metadata": {"namespace": "a", "name": "other"},
            "spec": {"nodeName": "n2", "serviceAccountName": "app"}})),
        );
        authorizer.apply(PERSISTENT_VOLUMES, &object(json!({"metadata": {"name": "pv1"}, "spec": {
            "claimRef": {"namespace": "a", "name": "data"}, "csi": {"nodePublishSecretRef": {"namespace": "s", "name": "csi"}}}})));
        authorizer.apply(
            VOLUME_ATTACHMENTS,
            &object(json!({"metadata": {"name": "va"}, "spec": {"nodeName": "n1"}})),
        );
        authorizer
    }

    /// `verb group resource[/subresource] namespace name [fieldSelector]`, `-` for empty.
    async fn ask(authorizer: &NodeAuthorizer, node: &str, words: &str) -> bool {
        let w: Vec<&str> = words.split(' ').map(|w| if w == "-" { "" } else { w }).collect();
        let (resource, subresource) = w[2].split_once('/').unwrap_or((w[2], ""));
        let attributes = Attributes {
            user: Arc::new(User {
                name: format!("system:node:{node}"),
                groups: vec!["system:nodes".to_owned()],
                ..User::default()
            }),
            verb: w[0].into(),
            group: w[1].into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: w[3].into(),
            name: w[4].into(),
            field_selector: Selected::fields(w.get(5).copied().unwrap_or_default()),
            is_resource: true,
            ..Attributes::default()
        };
        matches!(authorizer.authorize(&attributes).await, Decision::Allow(_))
    }

    #[tokio::test]
    async fn a_node_reads_what_its_pods_use() {
        let graph = graph();
        for (words, n1, n2) in [
            ("get - secrets a env", true, false),
            ("get - secrets a pull", true, false),
            ("get - secrets a ceph", true, false),
            ("get - secrets s csi", true, false),
            ("watch - secrets a env", true, false),
            ("list - secrets a -", false, false),
            ("update - secrets a env", false, false),
            ("get - secrets a unused", false, false),
            ("get - configmaps a one", true, false),
            ("get - configmaps a root-ca", true, false),
            ("get - configmaps b one", false, false),
            ("get - persistentvolumeclaims a data", true, false),
            ("get - persistentvolumeclaims a web-e", true, false),
            ("patch - persistentvolumeclaims/status a data", true, false),
            ("get - persistentvolumes - pv1", true, false),
            ("list - persistentvolumes - -", false, false),
            ("get storage.k8s.io volumeattachments - va", true, false),
            ("create - serviceaccounts/token a app", true, true),
            ("create - serviceaccounts/token a mirrored", false, false),
            ("create - serviceaccounts/token a default", false, false),
            ("get - serviceaccounts a app", true, true),
            ("get - pods a web", true, false),
            ("get - pods a mirror", true, false),
            ("list - pods - - spec.nodeName=n1", true, false),
            ("list - pods - -", false, false),
            ("get - nodes - n1", true, false),
            ("list - nodes - -", false, false),
            ("patch - nodes/status - n1", true, true),
            ("delete - nodes - n1", false, false),
            ("update coordination.k8s.io leases kube-node-lease n1", true, false),
            ("create coordination.k8s.io leases kube-node-lease -", true, true),
            ("get coordination.k8s.io leases kube-system n1", false, false),
            ("get storage.k8s.io csinodes - n1", true, false),
            ("list resource.k8s.io resourceslices - - spec.nodeName=n1", true, false),
            ("get certificates.k8s.io podcertificaterequests a req", true, false),
            ("get certificates.k8s.io podcertificaterequests a none", false, false),
            ("list certificates.k8s.io podcertificaterequests - - spec.nodeName=n1", true, false),
            ("create certificates.k8s.io podcertificaterequests a -", true, true),
            ("delete certificates.k8s.io podcertificaterequests a req", false, false),
            ("update certificates.k8s.io podcertificaterequests/status a req", false, false),
            ("list - services - -", true, true),
            ("create - services a x", false, false),
            ("create authentication.k8s.io tokenreviews - -", true, true),
        ] {
            assert_eq!(ask(&graph, "n1", words).await, n1, "n1 {words}");
            assert_eq!(ask(&graph, "n2", words).await, n2, "n2 {words}");
        }
        assert!(!ask(&graph, "", "get - nodes - x").await);
    }

    #[tokio::test]
    async fn a_pod_that_goes_takes_its_edges_along() {
        let graph = graph();
        graph.remove(PODS, "a", "web");
        for words in ["get - secrets a env", "get - secrets s csi", "get - persistentvolumes - pv1"] {
            assert!(!ask(&graph, "n1", words).await, "{words}");
        }
        assert!(ask(&graph, "n2", "create - serviceaccounts/token a app").await);
        let inner = graph.graph.read();
        assert!(inner.users.keys().all(|(_, _, name)| name != "env"), "no edge is left behind");
    }
}
