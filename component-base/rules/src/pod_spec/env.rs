//! The environment of containers: variables, where they come from, and the downward API they read.
//!
//! Contract: core/v1 `EnvVar`, `EnvFromSource`; env files are KEP-3721.

use crate::{at::At, field::ErrorList, format};

/// Fields of a pod a variable may show.
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Fields of a pod a file may show.
pub(super) const FILE_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Fields of a pod that are known at all.
const KNOWN_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
    "spec.host",
];

/// Resources of a container that are shown.
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

const BYTES: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// The variables of a container.
pub(super) fn check(env: &At<'_>, errors: &mut ErrorList) {
    for variable in env.items() {
        variable.get("name").check_required_format(errors, format::env_name);
        if variable.has("valueFrom") {
            let literal = !variable.text_of("value").is_empty();
            value_from(&variable.get("valueFrom"), literal, errors);
        }
    }
}

fn value_from(from: &At<'_>, literal: bool, errors: &mut ErrorList) {
    let mut sources = 0;
    let mut source = |name: &'static str| {
        let there = from.has(name);
        sources += usize::from(there);
        there.then(|| from.get(name))
    };
    if let Some(field) = source("fieldRef") {
        field_ref(&field, ENV_FIELDS, errors);
    }
    if let Some(field) = source("resourceFieldRef") {
        resource_ref(&field, false, errors);
    }
    for name in ["configMapKeyRef", "secretKeyRef"] {
        if let Some(key) = source(name) {
            key.get("name").check_format(errors, format::dns_subdomain);
            key.get("key").check_required_format(errors, format::config_key);
        }
    }
    if let Some(file) = source("fileKeyRef") {
        file.get("key").check_required_format(errors, format::env_name);
        file.get("volumeName").check_required_format(errors, format::dns_label);
        file.get("path").check_required_format(errors, format::no_backsteps);
    }
    let detail = match sources {
        0 => {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        }
        _ if literal => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    from.invalid_as(errors, "", detail);
}

/// A field of the pod, and which ones may be shown here.
pub(super) fn field_ref(field: &At<'_>, shown: &[&str], errors: &mut ErrorList) {
    if !field.get("apiVersion").check_required(errors) || !field.get("fieldPath").check_required(errors) {
        return;
    }
    let path = field.get("fieldPath");
    let (version, text) = (field.text_of("apiVersion"), path.text());
    let subscript =
        text.strip_suffix("']").and_then(|t| t.split_once("['")).filter(|(map, _)| !map.is_empty());
    let unknown = if version != "v1" {
        Some(format!("unsupported pod version: {version}"))
    } else {
        match subscript {
            Some(("metadata.annotations" | "metadata.labels", _)) => None,
            Some(_) => Some(format!("field label does not support subscript: {text}")),
            None if KNOWN_FIELDS.contains(&text) => None,
            None => Some(format!("field label not supported: {text}")),
        }
    };
    if let Some(why) = unknown {
        return path.invalid(errors, format!("error converting fieldPath: {why}"));
    }
    match subscript {
        Some((map, key)) => {
            let key = if map == "metadata.annotations" { key.to_lowercase() } else { key.to_owned() };
            for detail in format::qualified_name(&key) {
                field.invalid_as(errors, key.as_str(), detail);
            }
        }
        None => {
            // What very old clients call the node.
            let name = if text == "spec.host" { "spec.nodeName" } else { text };
            if !shown.contains(&name) {
                errors.push(crate::field::Error::not_among(path.path(), name, shown));
            }
        }
    }
}

/// A resource of a container; `of_file` when the container has to be named.
pub(super) fn resource_ref(field: &At<'_>, of_file: bool, errors: &mut ErrorList) {
    let resource = field.get("resource");
    let name = resource.text();
    let pages = name.starts_with("limits.hugepages-") || name.starts_with("requests.hugepages-");
    if of_file && field.text_of("containerName").is_empty() {
        field.get("containerName").required(errors, "");
    } else if name.is_empty() {
        resource.required(errors, "");
    } else if !RESOURCES.contains(&name) && !pages {
        resource.not_among(errors, RESOURCES);
    }
    let divisor = field.get("divisor");
    let Some(unit) = divisor.quantity().filter(|unit| !unit.is_zero()).map(|unit| unit.to_string()) else {
        return;
    };
    let what = match name {
        "limits.cpu" | "requests.cpu" => {
            if !["1m", "1"].contains(&unit.as_str()) {
                let detail = "only divisor's values 1m and 1 are supported with the cpu resource";
                divisor.invalid_as(errors, name, detail);
            }
            return;
        }
        "limits.memory" | "requests.memory" => "memory",
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => "local ephemeral storage",
        _ if pages => "hugepages",
        _ => return,
    };
    if !BYTES.contains(&unit.as_str()) {
        let all = BYTES.join(", ");
        let detail = format!("only divisor's values {all} are supported with the {what} resource");
        divisor.invalid_as(errors, name, detail);
    }
}

/// Whole config maps and secrets as variables.
pub(super) fn check_from(from: &At<'_>, errors: &mut ErrorList) {
    for source in from.items() {
        source.get("prefix").check_option_format(errors, format::env_name);
        let mut sources = 0;
        for name in ["configMapRef", "secretRef"] {
            if source.has(name) {
                sources += 1;
                let name = source.get(name).get("name");
                if name.check_required(errors) {
                    for detail in crate::validate::dns_subdomain(name.text(), true) {
                        name.invalid(errors, detail);
                    }
                }
            }
        }
        match sources {
            0 => from.invalid_as(errors, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => from.invalid_as(errors, "", "may not have more than one field specified at a time"),
        }
    }
}
