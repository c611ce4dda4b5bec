//! `services`.

mod transition;
mod validation;

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{
    field::ErrorList,
    object::Object,
    registry::{
        Column, Resource, SelectableField, StrategyContext, Subresource,
        kit::{self, Plain, Rules, column, items, pairs, text},
        pod_spec,
    },
    table, validate,
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Type", "string"),
    column("Cluster-IP", "string"),
    column("External-IP", "string"),
    column("Port(s)", "string"),
    column("Age", "string"),
    column("Selector", "string").wide(),
];

pub(crate) use validation::check_stated_families;

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["svc"],
        categories: &["all"],
        subresources: &[
            Subresource::Action {
                name: "proxy",
                kind: ("", "", "ServiceProxyOptions"),
                verbs: &["create", "delete", "get", "patch", "update"],
            },
            Subresource::Status,
        ],
        storage_prefix: "services/specs",
        selectable: const {
            &[
                SelectableField::at("spec.clusterIP", "/spec/clusterIP"),
                SelectableField::at("spec.type", "/spec/type"),
            ]
        },
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            name: validate::dns_label,
            default,
            create_on_update: true,
            settle,
            validate_new: |new, errors| validation::check(new, None, errors),
            validate_change,
            validate_status: validation::check_status,
            warnings: |new, _| validation::warnings(new),
            status_warnings: pod_spec::warnings_of_balancer,
            row: Some(row),
            ..Rules::new(Plain { status: true, generation: false, cells: &[] })
        }),
        returns_deleted: true,
        ..Resource::of("", "Service", "services", "service")
    }
}

/// What a service means where it does not say.
fn fill(spec: &mut Map<String, Value>) {
    let or = |fields: &mut Map<String, Value>, field: &str, value: Value| {
        let missing = fields.get(field).is_none_or(|there| there.is_null() || there == "" || there == 0);
        if missing && !value.is_null() {
            fields.insert(field.to_owned(), value);
        }
    };
    or(spec, "sessionAffinity", "None".into());
    or(spec, "type", "ClusterIP".into());
    match spec.get("sessionAffinity").and_then(Value::as_str) {
        Some("None") => drop(spec.remove("sessionAffinityConfig")),
        Some("ClientIP") => {
            let timeout =
                spec.get("sessionAffinityConfig").and_then(|c| c.pointer("/clientIP/timeoutSeconds"));
            if timeout.is_none_or(Value::is_null) {
                let whole = json!({"clientIP": {"timeoutSeconds": 10_800}});
                spec.insert("sessionAffinityConfig".to_owned(), whole);
            }
        }
        _ => {}
    }
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(port) = port.as_object_mut() else { continue };
        or(port, "protocol", "TCP".into());
        let number = port.get("port").cloned().unwrap_or_default();
        or(port, "targetPort", number);
    }
    let kind = spec.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        kit::fill::absent(spec, "internalTrafficPolicy", "Cluster");
    }
    let addressed = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|ips| !ips.is_empty());
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") || kind == "ClusterIP" && addressed {
        or(spec, "externalTrafficPolicy", "Cluster".into());
    }
    if kind == "LoadBalancer" {
        or(spec, "allocateLoadBalancerNodePorts", true.into());
    }
}

fn default(service: &mut Object) {
    if let Some(spec) = service.as_map_mut().get_mut("spec").and_then(Value::as_object_mut) {
        fill(spec);
    }
    fill_status(service);
}

/// An address of a load balancer is one that nodes take for their own, where nothing else is said.
fn fill_status(service: &mut Object) {
    if service.pointer("/spec/type").is_none_or(|kind| kind != "LoadBalancer") {
        return;
    }
    let status = service.as_map_mut().get_mut("status");
    let ingress = status.and_then(|status| status.pointer_mut("/loadBalancer/ingress"));
    for point in ingress.and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(point) = point.as_object_mut() else { continue };
        let addressed = point.get("ip").and_then(Value::as_str).is_some_and(|ip| !ip.is_empty());
        if addressed && point.get("ipMode").is_none_or(Value::is_null) {
            point.insert("ipMode".to_owned(), "VIP".into());
        }
    }
}

/// A service keeps its addresses; the allocators fill them in.
fn settle(new: &mut Object, old: &Object, ctx: &StrategyContext<'_>) {
    if let Some(before) = old.get("spec").and_then(Value::as_object) {
        if let Some(spec) = new.as_map_mut().get_mut("spec").and_then(Value::as_object_mut) {
            transition::drop_unused(spec, before);
        }
        if ctx.subresource.is_empty() {
            transition::clear_status(new.as_map_mut());
        }
    }
}

fn validate_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    validation::check_change(new, old, errors);
    validation::check(new, Some(old), errors);
}

fn row(obj: &Object, now: Timestamp) -> Vec<Value> {
    let field = |pointer: &str| obj.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let cluster_ip = match field("/spec/clusterIPs/0") {
        "" => "<none>",
        ip => ip,
    };
    vec![
        obj.name().into(),
        field("/spec/type").into(),
        cluster_ip.into(),
        external(obj).into(),
        ports(obj).into(),
        table::age(obj, now).into(),
        pairs(obj, "/spec/selector"),
    ]
}

/// Where the service is reached from outside.
fn external(obj: &Object) -> String {
    let listed = |pointer: &str| -> Vec<String> {
        items(obj.pointer(pointer)).filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let mut all: Vec<String> = Vec::new();
    match obj.pointer("/spec/type").and_then(Value::as_str) {
        Some("ExternalName") => return text_of(obj, "/spec/externalName"),
        Some("LoadBalancer") => {
            let points = items(obj.pointer("/status/loadBalancer/ingress"));
            let told = points.filter_map(|point| {
                [text(point, "/ip"), text(point, "/hostname")].into_iter().find(|address| !address.is_empty())
            });
            all.extend(told.collect::<BTreeSet<_>>().into_iter().map(str::to_owned));
            all.extend(listed("/spec/externalIPs"));
            return if all.is_empty() { "<pending>".into() } else { all.join(",") };
        }
        _ => all.extend(listed("/spec/externalIPs")),
    }
    if all.is_empty() { "<none>".into() } else { all.join(",") }
}

fn text_of(obj: &Object, pointer: &str) -> String {
    obj.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// `80:30080/TCP,443/TCP`.
fn ports(obj: &Object) -> String {
    let all: Vec<String> = items(obj.pointer("/spec/ports"))
        .map(|p| {
            let number = |field: &str| p.get(field).and_then(Value::as_i64).unwrap_or(0);
            let protocol = match text(p, "/protocol") {
                "" => "TCP",
                other => other,
            };
            match number("nodePort") {
                0 => format!("{}/{protocol}", number("port")),
                node => format!("{}:{node}/{protocol}", number("port")),
            }
        })
        .collect();
    if all.is_empty() { "<none>".into() } else { all.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(spec: Value) -> Value {
        let Value::Object(mut spec) = spec else { panic!("a spec is an object") };
        fill(&mut spec);
        Value::Object(spec)
    }

    #[test]
    fn what_is_not_said_is_filled_in_once() {
        let plain =
            filled(json!({"ports": [{"port": 80}, {"port": 53, "protocol": "UDP", "targetPort": "dns"}]}));
        let want = json!({"sessionAffinity": "None", "type": "ClusterIP", "internalTrafficPolicy": "Cluster",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80},
                {"port": 53, "protocol": "UDP", "targetPort": "dns"}]});
        assert_eq!(plain, want);
        assert_eq!(filled(plain.clone()), plain);
        let outside = filled(json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP"}));
        assert_eq!(outside["externalTrafficPolicy"], "Cluster");
        assert_eq!(outside["allocateLoadBalancerNodePorts"], true);
        assert_eq!(outside["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10_800);
        let name = filled(json!({"type": "ExternalName", "externalName": "x", "ports": "nonsense"}));
        assert!(name.get("internalTrafficPolicy").is_none());
    }
}
