//! How much quota an object uses: pods, services and claims by their content, everything by count.

use component_base::quantity::{Format, Quantity};
use serde_json::Value;

use super::{
    super::{items, pod_amounts, quantity, text},
    Amounts,
};
use crate::{object::Object, registry::Resource};

/// Kinds that are also counted under their plain name.
const COUNTED: [&str; 7] = [
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];

/// What the object uses, by quota resource name.
pub(super) fn of(resource: &Resource, object: &Object) -> Amounts {
    let mut used = Amounts::new();
    let one = Quantity::new(1, Format::DecimalSI);
    let counted = match resource.group {
        "" => format!("count/{}", resource.plural),
        group => format!("count/{}.{group}", resource.plural),
    };
    used.insert(counted, one);
    if resource.group.is_empty() {
        match resource.plural {
            // A pod that is over uses nothing but its object.
            "pods" if matches!(text(object, "/status/phase"), "Succeeded" | "Failed") => return used,
            "pods" => pod(object, &mut used),
            "services" => service(object, &mut used),
            "persistentvolumeclaims" => claim(object, &mut used),
            _ => {}
        }
        if COUNTED.contains(&resource.plural) {
            used.insert(resource.plural.to_owned(), one);
        }
    }
    used
}

/// Requests and limits a quota needs stated and containers do not state: `cpu for: a,b`.
pub(super) fn missing(pod: &Object, hard: &Amounts) -> Vec<String> {
    let mut missing = Vec::new();
    for name in hard.keys() {
        let (field, resource) = match name.as_str() {
            "cpu" | "memory" => ("requests", name.as_str()),
            other => match other.split_once('.') {
                Some(("requests", r @ ("cpu" | "memory"))) => ("requests", r),
                Some(("limits", r @ ("cpu" | "memory"))) => ("limits", r),
                _ => continue,
            },
        };
        let lists = ["/spec/initContainers", "/spec/containers"];
        let containers = lists.iter().flat_map(|list| items(pod, list));
        let mut lacking: Vec<&str> = containers
            .filter(|c| c.pointer(&format!("/resources/{field}/{resource}")).is_none())
            .filter_map(|c| c.get("name").and_then(Value::as_str))
            .collect();
        if !lacking.is_empty() && pod.pointer(&format!("/spec/resources/{field}/{resource}")).is_none() {
            lacking.sort_unstable();
            missing.push(format!("{name} for: {}", lacking.join(",")));
        }
    }
    missing
}

fn pod(object: &Object, used: &mut Amounts) {
    let (requests, limits) = pod_amounts(object);
    for (name, amount) in requests {
        match name.as_str() {
            "cpu" | "memory" | "ephemeral-storage" => {
                used.insert(name.clone(), amount);
                used.insert(format!("requests.{name}"), amount);
            }
            _ if name.starts_with("hugepages-") => {
                used.insert(name.clone(), amount);
                used.insert(format!("requests.{name}"), amount);
            }
            // Extended resources are named domain/name.
            _ if name.contains('/') => {
                used.insert(format!("requests.{name}"), amount);
            }
            _ => {}
        }
    }
    for (name, amount) in limits {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            used.insert(format!("limits.{name}"), amount);
        }
    }
}

fn service(object: &Object, used: &mut Amounts) {
    let ports = items(object, "/spec/ports");
    let kind = text(object, "/spec/type");
    if kind == "LoadBalancer" {
        used.insert("services.loadbalancers".to_owned(), Quantity::new(1, Format::DecimalSI));
    }
    let declined = object.pointer("/spec/allocateLoadBalancerNodePorts") == Some(&Value::Bool(false));
    let count = match kind {
        "NodePort" => ports.count(),
        "LoadBalancer" if declined => ports.filter(|p| p.get("nodePort").is_some_and(|n| *n != 0)).count(),
        "LoadBalancer" => ports.count(),
        _ => return,
    };
    used.insert(
        "services.nodeports".to_owned(),
        Quantity::new(i64::try_from(count).unwrap_or(i64::MAX), Format::DecimalSI),
    );
}

fn claim(object: &Object, used: &mut Amounts) {
    let requested = object.pointer("/spec/resources/requests/storage").and_then(quantity);
    let class = match text(object, "/spec/storageClassName") {
        "" => object.annotation("volume.beta.kubernetes.io/storage-class").unwrap_or_default(),
        class => class,
    };
    if !class.is_empty() {
        let prefix = format!("{class}.storageclass.storage.k8s.io");
        used.insert(format!("{prefix}/persistentvolumeclaims"), Quantity::new(1, Format::DecimalSI));
        if let Some(size) = requested {
            used.insert(format!("{prefix}/requests.storage"), size);
        }
    }
    if let Some(size) = requested {
        used.insert("requests.storage".to_owned(), size);
    }
}
