//! Events about pods and the node, with upstream's reasons and words.

use component_base::{
    events::{EventType, Recorder},
    vlog,
};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};

use crate::pod::{self, Role};

/// `Normal` or `Warning`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// All is well.
    Normal,
    /// Somebody may want to look.
    Warning,
}

/// Where events go. Sending never blocks and never fails towards the caller.
pub trait EventSink: Send + Sync {
    /// Sends one event about `about`.
    fn send(&self, about: ObjectReference, severity: Severity, reason: &str, message: &str);
}

/// Events into the log only, for a kubelet without an API server.
#[derive(Debug, Clone, Copy)]
pub struct LogOnly;

impl EventSink for LogOnly {
    fn send(&self, about: ObjectReference, severity: Severity, reason: &str, message: &str) {
        let name = format!(
            "{}/{}",
            about.namespace.as_deref().unwrap_or_default(),
            about.name.as_deref().unwrap_or_default()
        );
        tracing::info!(kind = ?severity, reason, object = %name, message, "event occurred");
    }
}

/// Events in the API server.
#[derive(Debug, Clone)]
pub struct ApiEvents(pub Recorder);

impl EventSink for ApiEvents {
    fn send(&self, about: ObjectReference, severity: Severity, reason: &str, message: &str) {
        vlog!(2, reason, object = about.name.as_deref().unwrap_or_default(), message, "event occurred");
        let kind = match severity {
            Severity::Normal => EventType::Normal,
            Severity::Warning => EventType::Warning,
        };
        // What the kubelet does about the object is what it tells: the reason serves as the action too.
        self.0.event(&about, kind, reason, reason, message, None);
    }
}

/// A reference to a pod.
#[must_use]
pub fn pod_reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(pod::namespace(pod).to_owned()),
        name: Some(pod::name(pod).to_owned()),
        uid: Some(pod::uid(pod).to_owned()),
        resource_version: pod.metadata.resource_version.clone(),
        field_path: None,
    }
}

/// A reference to one container of a pod.
#[must_use]
pub fn container_reference(pod: &Pod, role: Role, name: &str) -> ObjectReference {
    let list = match role {
        Role::Init(_) => "initContainers",
        Role::Regular(_) => "containers",
        Role::Ephemeral(_) => "ephemeralContainers",
    };
    ObjectReference { field_path: Some(format!("spec.{list}{{{name}}}")), ..pod_reference(pod) }
}

/// A reference to this node.
#[must_use]
pub fn node_reference(name: &str) -> ObjectReference {
    ObjectReference {
        kind: Some("Node".into()),
        name: Some(name.to_owned()),
        uid: Some(name.to_owned()),
        ..ObjectReference::default()
    }
}
