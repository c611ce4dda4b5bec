//! The environment of a container: expansion of `$(NAME)`, values from config maps, secrets, the pod's own fields
//! and resources, and the variables that describe the namespace's services. Pure over what was fetched.
//!
//! Contract: core/v1 EnvVar and EnvFromSource; `pkg/kubelet/envvars` for the service variables.

pub mod file;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, Pod, Secret, Service};

use crate::{pod, pod::resources};

/// Looks up an object of the pod's namespace that was fetched before; `None` is: there is none.
pub trait Objects {
    /// A config map.
    fn config_map(&self, name: &str) -> Option<&ConfigMap>;
    /// A secret.
    fn secret(&self, name: &str) -> Option<&Secret>;
    /// The text of a file of one of the pod's volumes.
    fn file(&self, volume: &str, path: &str) -> Option<&str>;
}

/// Why an environment cannot be made; shown as `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EnvError {
    /// A required object is missing.
    #[error("{resource} \"{name}\" not found")]
    NotFound {
        /// `configmap` or `secret`.
        resource: &'static str,
        /// Its name.
        name: String,
    },
    /// A required key is missing.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    KeyNotFound {
        /// The key.
        key: String,
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// Namespace of the object.
        namespace: String,
        /// Name of the object.
        name: String,
    },
    /// A file that cannot be read, or is none of variables.
    #[error("couldn't parse env file")]
    File,
    /// A file without a required key.
    #[error("environment variable key {key:?} not found in file {path:?}")]
    NotInFile {
        /// The key.
        key: String,
        /// The file, in its volume.
        path: String,
    },
    /// A field path that does not exist for environments.
    #[error("unsupported fieldPath: {0}")]
    FieldPath(String),
    /// A resource that does not exist for environments.
    #[error("unsupported container resource : {0}")]
    Resource(String),
    /// A container that a resource reference names but the pod lacks.
    #[error("container {0} not found")]
    Container(String),
}

/// What the kubelet knows that field references may ask for.
#[derive(Debug, Clone, Default)]
pub struct NodeFacts {
    /// Name of the node.
    pub name: String,
    /// Its addresses, primary first.
    pub ips: Vec<String>,
    /// Addresses of the pod, primary first.
    pub pod_ips: Vec<String>,
    /// Thousandths of a cpu that pods may use.
    pub allocatable_milli_cpu: i64,
    /// Bytes of memory that pods may use.
    pub allocatable_memory: i64,
    /// Bytes of disk that pods may use.
    pub allocatable_disk: i64,
}

/// The container's environment, in the order of definition with later ones winning.
///
/// # Errors
/// When a required reference cannot be resolved.
pub fn environment(
    pod: &Pod,
    container: &Container,
    objects: &dyn Objects,
    services: &BTreeMap<String, String>,
    node: &NodeFacts,
) -> Result<Vec<(String, String)>, EnvError> {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut result: BTreeMap<String, String> = BTreeMap::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        for (key, value) in from_source(source, objects)? {
            result.insert(format!("{prefix}{key}"), value);
        }
    }
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(value), _) if !value.is_empty() => {
                let lookup = |name: &str| {
                    known.get(name).or_else(|| result.get(name)).or_else(|| services.get(name)).cloned()
                };
                Some(expand(value, &lookup))
            }
            (_, Some(_)) => from_reference(pod, container, var, objects, node)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            known.insert(var.name.clone(), value.clone());
            result.insert(var.name.clone(), value);
        }
    }
    for (name, value) in services {
        result.entry(name.clone()).or_insert_with(|| value.clone());
    }
    Ok(result.into_iter().collect())
}

fn from_source(
    source: &k8s_openapi::api::core::v1::EnvFromSource,
    objects: &dyn Objects,
) -> Result<Vec<(String, String)>, EnvError> {
    if let Some(reference) = &source.config_map_ref {
        return match objects.config_map(&reference.name) {
            Some(map) => Ok(map.data.clone().unwrap_or_default().into_iter().collect()),
            None if reference.optional == Some(true) => Ok(vec![]),
            None => Err(EnvError::NotFound { resource: "configmap", name: reference.name.clone() }),
        };
    }
    if let Some(reference) = &source.secret_ref {
        return match objects.secret(&reference.name) {
            Some(secret) => Ok(secret
                .data
                .iter()
                .flatten()
                .map(|(k, v)| (k.clone(), String::from_utf8_lossy(&v.0).into_owned()))
                .collect()),
            None if reference.optional == Some(true) => Ok(vec![]),
            None => Err(EnvError::NotFound { resource: "secret", name: reference.name.clone() }),
        };
    }
    Ok(vec![])
}

fn from_reference(
    pod: &Pod,
    container: &Container,
    var: &EnvVar,
    objects: &dyn Objects,
    node: &NodeFacts,
) -> Result<Option<String>, EnvError> {
    let Some(from) = &var.value_from else { return Ok(None) };
    if let Some(field) = &from.field_ref {
        return field_value(pod, &field.field_path, node).map(Some);
    }
    if let Some(reference) = &from.resource_field_ref {
        let divisor = reference.divisor.as_ref().map(|q| q.0.as_str());
        let target = reference.container_name.as_deref().filter(|n| !n.is_empty());
        return resource_value(pod, Some(container), target, &reference.resource, divisor, node).map(Some);
    }
    if let Some(reference) = &from.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let Some(map) = objects.config_map(&reference.name) else {
            return missing(optional, "configmap", &reference.name);
        };
        return match map.data.as_ref().and_then(|d| d.get(&reference.key)) {
            Some(value) => Ok(Some(value.clone())),
            None => missing_key(pod, optional, "ConfigMap", &reference.name, &reference.key),
        };
    }
    if let Some(reference) = &from.secret_key_ref {
        let optional = reference.optional == Some(true);
        let Some(secret) = objects.secret(&reference.name) else {
            return missing(optional, "secret", &reference.name);
        };
        return match secret.data.as_ref().and_then(|d| d.get(&reference.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None => missing_key(pod, optional, "Secret", &reference.name, &reference.key),
        };
    }
    if let Some(reference) = &from.file_key_ref {
        let text = objects.file(&reference.volume_name, &reference.path).ok_or(EnvError::File)?;
        let value = file::value(text, &reference.key).map_err(|error| {
            tracing::warn!(pod = pod::display(pod).to_string(), path = reference.path, %error, "no file of variables");
            EnvError::File
        })?;
        return match (value.is_empty(), reference.optional == Some(true)) {
            (false, _) => Ok(Some(value)),
            (true, true) => Ok(None),
            (true, false) => {
                Err(EnvError::NotInFile { key: reference.key.clone(), path: reference.path.clone() })
            }
        };
    }
    Ok(None)
}

fn missing(optional: bool, resource: &'static str, name: &str) -> Result<Option<String>, EnvError> {
    if optional { Ok(None) } else { Err(EnvError::NotFound { resource, name: name.to_owned() }) }
}

fn missing_key(
    pod: &Pod,
    optional: bool,
    kind: &'static str,
    name: &str,
    key: &str,
) -> Result<Option<String>, EnvError> {
    if optional {
        return Ok(None);
    }
    let namespace = pod::namespace(pod).to_owned();
    Err(EnvError::KeyNotFound { key: key.to_owned(), kind, namespace, name: name.to_owned() })
}

/// The value of a field of the pod as environments and downward API volumes see it.
///
/// # Errors
/// When the path is none of the supported ones.
pub fn field_value(pod: &Pod, path: &str, node: &NodeFacts) -> Result<String, EnvError> {
    let meta = &pod.metadata;
    let spec = pod::spec(pod);
    if let Some((list, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let map = match list {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return Err(EnvError::FieldPath(path.to_owned())),
        };
        return Ok(map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => pod::name(pod).to_owned(),
        "metadata.namespace" => pod::namespace(pod).to_owned(),
        "metadata.uid" => pod::uid(pod).to_owned(),
        "metadata.labels" => quoted_map(meta.labels.as_ref()),
        "metadata.annotations" => quoted_map(meta.annotations.as_ref()),
        "spec.nodeName" => node.name.clone(),
        "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => node.ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => node.ips.join(","),
        "status.podIP" => node.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => node.pod_ips.join(","),
        _ => return Err(EnvError::FieldPath(path.to_owned())),
    })
}

fn quoted_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(k, v)| format!("{k}={v:?}")).collect();
    lines.join("\n")
}

/// The value of a resource reference: `limits.cpu` and the like, divided by the divisor and rounded up. A missing
/// limit reads as what the node has to give.
///
/// # Errors
/// When resource or container do not exist.
pub fn resource_value(
    pod: &Pod,
    this: Option<&Container>,
    named: Option<&str>,
    resource: &str,
    divisor: Option<&str>,
    node: &NodeFacts,
) -> Result<String, EnvError> {
    let found = match named {
        Some(name) => {
            Some(pod::container_named(pod, name).ok_or_else(|| EnvError::Container(name.to_owned()))?.1)
        }
        None => this.cloned(),
    };
    let Some(container) = found else { return Err(EnvError::Container(String::new())) };
    let (list, name) = resource.split_once('.').ok_or_else(|| EnvError::Resource(resource.to_owned()))?;
    let known = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !known || !matches!(list, "limits" | "requests") {
        return Err(EnvError::Resource(resource.to_owned()));
    }
    let fallback = match name {
        "cpu" => node.allocatable_milli_cpu,
        "memory" => node.allocatable_memory.saturating_mul(1000),
        "ephemeral-storage" => node.allocatable_disk.saturating_mul(1000),
        _ => 0,
    };
    let milli = match list {
        "limits" => resources::limit(&container, name).unwrap_or(fallback),
        _ => resources::request(&container, name).unwrap_or(0),
    };
    let divisor = divisor.and_then(resources::milli).filter(|d| *d > 0).unwrap_or(1000);
    Ok(milli.div_euclid(divisor).saturating_add(i64::from(milli.rem_euclid(divisor) > 0)).to_string())
}

/// Replaces `$(NAME)` by its value; an unknown name stays as it is and `$$` stands for `$`.
#[must_use]
pub fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// The variables that describe services: those of the pod's namespace when wanted, and in any case the API server's.
#[must_use]
pub fn service_variables<'a>(
    services: impl Iterator<Item = &'a Service>,
    namespace: &str,
    links: bool,
) -> BTreeMap<String, String> {
    let mut vars = BTreeMap::new();
    let mut wanted: Vec<&Service> = services
        .filter(|s| {
            let ns = s.metadata.namespace.as_deref().unwrap_or_default();
            let master = ns == "default" && s.metadata.name.as_deref() == Some("kubernetes");
            master || (links && ns == namespace)
        })
        .collect();
    // The namespace's own services win over the API server's of the same name.
    wanted.sort_by_key(|s| s.metadata.namespace.as_deref() == Some(namespace));
    for service in wanted {
        add_service(service, &mut vars);
    }
    vars
}

fn add_service(service: &Service, vars: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { return };
    let Some(ports) = spec.ports.as_ref().filter(|p| !p.is_empty()) else { return };
    let name = service.metadata.name.as_deref().unwrap_or_default().to_uppercase().replace('-', "_");
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    vars.insert(format!("{name}_SERVICE_HOST"), ip.to_owned());
    vars.insert(format!("{name}_SERVICE_PORT"), ports[0].port.to_string());
    for (i, port) in ports.iter().enumerate() {
        if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            let port_name = port_name.to_uppercase().replace('-', "_");
            vars.insert(format!("{name}_SERVICE_PORT_{port_name}"), port.port.to_string());
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        let prefix = format!("{name}_PORT_{}_{protocol}", port.port);
        if i == 0 {
            vars.insert(format!("{name}_PORT"), url.clone());
        }
        vars.insert(prefix.clone(), url);
        vars.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
        vars.insert(format!("{prefix}_PORT"), port.port.to_string());
        vars.insert(format!("{prefix}_ADDR"), ip.to_owned());
    }
}

#[cfg(test)]
mod tests;
