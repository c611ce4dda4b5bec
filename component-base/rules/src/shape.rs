//! How a structure is shown where a message has one: upstream prints what it holds in memory, not what was sent.
//!
//! Contract: `field.Error.ErrorBody`, which encodes the value as JSON. Types of the API's versions have the API's names and
//! leave out what is empty; those upstream works with inside have the names and the order of their fields in Go, and show
//! all of them.

use serde_json::Value;

/// A structure: its fields in order.
#[derive(Debug, PartialEq, Eq)]
pub struct Struct(&'static [Field]);

#[derive(Debug, PartialEq, Eq)]
struct Field {
    shown: &'static str,
    /// As the API calls it.
    name: &'static str,
    /// What stands where it says nothing; a field without one is left out then.
    empty: Option<&'static str>,
    /// What it, or each member of it, is.
    of: Option<&'static Struct>,
}

const fn inside(shown: &'static str, name: &'static str, empty: &'static str) -> Field {
    Field { shown, name, empty: Some(empty), of: None }
}

const fn outside(name: &'static str) -> Field {
    Field { shown: name, name, empty: None, of: None }
}

impl Field {
    const fn of(self, of: &'static Struct) -> Self {
        Self { of: Some(of), ..self }
    }
}

/// meta/v1 `LabelSelector`.
pub static LABEL_SELECTOR: Struct = Struct(&[outside("matchLabels"), outside("matchExpressions")]);
/// meta/v1 `OwnerReference`.
pub static OWNER_REFERENCE: Struct = Struct(&[
    inside("apiVersion", "apiVersion", "\"\""),
    inside("kind", "kind", "\"\""),
    inside("name", "name", "\"\""),
    inside("uid", "uid", "\"\""),
    outside("controller"),
    outside("blockOwnerDeletion"),
]);
/// meta/v1 `ObjectMeta`.
pub static OBJECT_META: Struct = Struct(&[
    outside("name"),
    outside("generateName"),
    outside("namespace"),
    outside("selfLink"),
    outside("uid"),
    outside("resourceVersion"),
    outside("generation"),
    outside("creationTimestamp"),
    outside("deletionTimestamp"),
    outside("deletionGracePeriodSeconds"),
    outside("labels"),
    outside("annotations"),
    outside("ownerReferences").of(&OWNER_REFERENCE),
    outside("finalizers"),
    outside("managedFields"),
]);
/// Of reviews of access.
pub static NON_RESOURCE_ATTRIBUTES: Struct =
    Struct(&[inside("Path", "path", "\"\""), inside("Verb", "verb", "\"\"")]);
/// Of bindings of roles.
pub static ROLE_REF: Struct = Struct(&[
    inside("APIGroup", "apiGroup", "\"\""),
    inside("Kind", "kind", "\"\""),
    inside("Name", "name", "\"\""),
]);
/// A port of a service.
pub static SERVICE_PORT: Struct = Struct(&[
    inside("Name", "name", "\"\""),
    inside("Protocol", "protocol", "\"\""),
    inside("AppProtocol", "appProtocol", "null"),
    inside("Port", "port", "0"),
    inside("TargetPort", "targetPort", "0"),
    inside("NodePort", "nodePort", "0"),
]);
/// A taint of a node.
pub static TAINT: Struct = Struct(&[
    inside("Key", "key", "\"\""),
    inside("Value", "value", "\"\""),
    inside("Effect", "effect", "\"\""),
    inside("TimeAdded", "timeAdded", "null"),
]);
/// A claim of a pod on devices.
pub static POD_RESOURCE_CLAIM: Struct = Struct(&[
    inside("Name", "name", "\"\""),
    inside("ResourceClaimName", "resourceClaimName", "null"),
    inside("ResourceClaimTemplateName", "resourceClaimTemplateName", "null"),
]);
/// An address of a pod or of its node.
pub static IP: Struct = Struct(&[inside("IP", "ip", "\"\"")]);
/// Spec of a budget for disruptions.
pub static POD_DISRUPTION_BUDGET_SPEC: Struct = Struct(&[
    inside("MinAvailable", "minAvailable", "null"),
    inside("Selector", "selector", "null").of(&LABEL_SELECTOR),
    inside("MaxUnavailable", "maxUnavailable", "null"),
    inside("UnhealthyPodEvictionPolicy", "unhealthyPodEvictionPolicy", "null"),
]);
static NODE_SELECTOR_REQUIREMENT: Struct = Struct(&[
    inside("Key", "key", "\"\""),
    inside("Operator", "operator", "\"\""),
    inside("Values", "values", "null"),
]);
/// A term of a selector of nodes.
pub static NODE_SELECTOR_TERM: Struct = Struct(&[
    inside("MatchExpressions", "matchExpressions", "null").of(&NODE_SELECTOR_REQUIREMENT),
    inside("MatchFields", "matchFields", "null").of(&NODE_SELECTOR_REQUIREMENT),
]);
static NODE_SELECTOR: Struct =
    Struct(&[inside("NodeSelectorTerms", "nodeSelectorTerms", "null").of(&NODE_SELECTOR_TERM)]);
/// Which nodes reach a volume.
pub static VOLUME_NODE_AFFINITY: Struct =
    Struct(&[inside("Required", "required", "null").of(&NODE_SELECTOR)]);
static SCOPE_REQUIREMENT: Struct = Struct(&[
    inside("ScopeName", "scopeName", "\"\""),
    inside("Operator", "operator", "\"\""),
    inside("Values", "values", "null"),
]);
/// What a quota is about.
pub static SCOPE_SELECTOR: Struct =
    Struct(&[inside("MatchExpressions", "matchExpressions", "null").of(&SCOPE_REQUIREMENT)]);
/// Pods that ended and are not counted yet.
pub static UNCOUNTED_TERMINATED_PODS: Struct =
    Struct(&[inside("Succeeded", "succeeded", "null"), inside("Failed", "failed", "null")]);
/// A rule of a schema.
pub static VALIDATION_RULE: Struct = Struct(&[
    inside("Rule", "rule", "\"\""),
    inside("Message", "message", "\"\""),
    inside("MessageExpression", "messageExpression", "\"\""),
    inside("Reason", "reason", "null"),
    inside("FieldPath", "fieldPath", "\"\""),
    inside("OptionalOldSelf", "optionalOldSelf", "null"),
]);
static CAPABILITIES: Struct = Struct(&[inside("Add", "add", "null"), inside("Drop", "drop", "null")]);
static SE_LINUX: Struct = Struct(&[
    inside("User", "user", "\"\""),
    inside("Role", "role", "\"\""),
    inside("Type", "type", "\"\""),
    inside("Level", "level", "\"\""),
]);
static PROFILE: Struct =
    Struct(&[inside("Type", "type", "\"\""), inside("LocalhostProfile", "localhostProfile", "null")]);
static WINDOWS: Struct = Struct(&[
    inside("GMSACredentialSpecName", "gmsaCredentialSpecName", "null"),
    inside("GMSACredentialSpec", "gmsaCredentialSpec", "null"),
    inside("RunAsUserName", "runAsUserName", "null"),
    inside("HostProcess", "hostProcess", "null"),
]);
/// The security context of a container.
pub static SECURITY_CONTEXT: Struct = Struct(&[
    inside("Capabilities", "capabilities", "null").of(&CAPABILITIES),
    inside("Privileged", "privileged", "null"),
    inside("SELinuxOptions", "seLinuxOptions", "null").of(&SE_LINUX),
    inside("WindowsOptions", "windowsOptions", "null").of(&WINDOWS),
    inside("RunAsUser", "runAsUser", "null"),
    inside("RunAsGroup", "runAsGroup", "null"),
    inside("RunAsNonRoot", "runAsNonRoot", "null"),
    inside("ReadOnlyRootFilesystem", "readOnlyRootFilesystem", "null"),
    inside("AllowPrivilegeEscalation", "allowPrivilegeEscalation", "null"),
    inside("ProcMount", "procMount", "null"),
    inside("SeccompProfile", "seccompProfile", "null").of(&PROFILE),
    inside("AppArmorProfile", "appArmorProfile", "null").of(&PROFILE),
]);

impl Struct {
    /// Writes a value, or each member of a list, as this structure.
    pub(crate) fn show(&self, value: &Value, out: &mut String) {
        match value {
            Value::Object(fields) => {
                out.push('{');
                let shown = self.0.iter().filter_map(|field| {
                    let value = fields.get(field.name).filter(|value| !value.is_null());
                    (value.is_some() || field.empty.is_some()).then_some((field, value))
                });
                for (i, (field, value)) in shown.enumerate() {
                    out.push_str(if i == 0 { "\"" } else { ",\"" });
                    out.push_str(field.shown);
                    out.push_str("\":");
                    match (value, field.of) {
                        (None, _) => out.push_str(field.empty.unwrap_or("null")),
                        (Some(value), Some(of)) => of.show(value, out),
                        (Some(value), None) => out.push_str(&value.to_string()),
                    }
                }
                out.push('}');
            }
            Value::Array(members) => {
                out.push('[');
                for (i, member) in members.iter().enumerate() {
                    out.push_str(if i == 0 { "" } else { "," });
                    self.show(member, out);
                }
                out.push(']');
            }
            other => out.push_str(&other.to_string()),
        }
    }
}
