//! What an update drops when a service changes its type.
//!
//! A field is dropped only if it meant something for the old type, means nothing for the new one, and the user did not
//! also change it (validation then speaks). Contract: the update semantics of Service in the API reference.

use serde_json::{Map, Value, json};

type Fields = Map<String, Value>;

/// Fields that have a meaning for some types only.
struct Dependent {
    /// Fields that leave together if none of them was changed.
    fields: &'static [&'static str],
    /// Whether a service with this spec has a use for them.
    used: fn(&Fields) -> bool,
}

const DEPENDENT: [Dependent; 7] = [
    Dependent { fields: &["clusterIP", "clusterIPs"], used: has_address },
    Dependent { fields: &["ipFamilies"], used: has_address },
    Dependent { fields: &["ipFamilyPolicy"], used: has_address },
    Dependent { fields: &["healthCheckNodePort"], used: has_health_port },
    Dependent { fields: &["allocateLoadBalancerNodePorts"], used: is_load_balancer },
    Dependent { fields: &["loadBalancerClass"], used: is_load_balancer },
    Dependent { fields: &["externalTrafficPolicy"], used: is_external },
];

/// Drops from `new`, an update of `old`, what the new type has no use for.
pub(super) fn drop_unused(new: &mut Fields, old: &Fields) {
    // Decided before anything is dropped: one field's use may depend on another that leaves.
    let leaving: Vec<&str> = DEPENDENT
        .iter()
        .filter(|d| (d.used)(old) && !(d.used)(new) && d.fields.iter().all(|f| new.get(*f) == old.get(*f)))
        .flat_map(|d| d.fields.iter().copied())
        .collect();
    for field in leaving {
        new.remove(field);
    }
    if has_node_ports(old) && !has_node_ports(new) {
        let before = node_ports(old);
        if node_ports(new).iter().all(|port| before.contains(port)) {
            for port in new.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                port.as_object_mut().map(|port| port.remove("nodePort"));
            }
        }
    }
}

/// A service that is no load balancer shows no addresses of one.
pub(super) fn clear_status(service: &mut Fields) {
    let balanced = service.get("spec").and_then(Value::as_object).is_some_and(is_load_balancer);
    if !balanced && service.get("status").is_some_and(|status| status.get("loadBalancer").is_some()) {
        service["status"]["loadBalancer"] = json!({});
    }
}

fn kind(spec: &Fields) -> &str {
    spec.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn has_address(spec: &Fields) -> bool {
    kind(spec) != "ExternalName"
}

fn is_load_balancer(spec: &Fields) -> bool {
    kind(spec) == "LoadBalancer"
}

fn has_node_ports(spec: &Fields) -> bool {
    matches!(kind(spec), "NodePort" | "LoadBalancer")
}

fn is_external(spec: &Fields) -> bool {
    let addressed = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|ips| !ips.is_empty());
    has_node_ports(spec) || (kind(spec) == "ClusterIP" && addressed)
}

fn has_health_port(spec: &Fields) -> bool {
    is_load_balancer(spec) && spec.get("externalTrafficPolicy").is_some_and(|policy| policy == "Local")
}

fn node_ports(spec: &Fields) -> Vec<u64> {
    let ports = spec.get("ports").and_then(Value::as_array).into_iter().flatten();
    ports.filter_map(|p| p.get("nodePort").and_then(Value::as_u64)).filter(|p| *p != 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(value: Value) -> Fields {
        let Value::Object(fields) = value else { panic!("a spec is an object") };
        fields
    }

    fn after(new: Value, old: Value) -> Value {
        let mut new = spec(new);
        drop_unused(&mut new, &spec(old));
        Value::Object(new)
    }

    fn balancer() -> Value {
        json!({"type": "LoadBalancer", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
            "allocateLoadBalancerNodePorts": true, "loadBalancerClass": "a/b", "internalTrafficPolicy": "Cluster",
            "ports": [{"port": 80, "nodePort": 30080}]})
    }

    fn turned(kind: &str) -> Value {
        let mut new = balancer();
        new["type"] = kind.into();
        new
    }

    #[test]
    fn what_the_new_type_has_no_use_for_leaves() {
        let external = after(turned("ExternalName"), balancer());
        let want =
            json!({"type": "ExternalName", "internalTrafficPolicy": "Cluster", "ports": [{"port": 80}]});
        assert_eq!(external, want);
        let inner = after(turned("ClusterIP"), balancer());
        let want = json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster", "ports": [{"port": 80}]});
        assert_eq!(inner, want);
        let node = after(turned("NodePort"), balancer());
        assert_eq!(node["ports"], balancer()["ports"], "node ports stay where they are of use");
        assert_eq!(node["externalTrafficPolicy"], "Local");
        assert_eq!(node.get("healthCheckNodePort"), None);
        assert_eq!(after(balancer(), balancer()), balancer(), "the same type drops nothing");
    }

    #[test]
    fn what_the_user_changed_stays_for_validation() {
        let mut new = turned("ExternalName");
        new["clusterIP"] = "10.0.0.9".into();
        new["ports"][0]["nodePort"] = 30999.into();
        let kept = after(new, balancer());
        assert_eq!((&kept["clusterIP"], &kept["clusterIPs"]), (&json!("10.0.0.9"), &json!(["10.0.0.1"])));
        assert_eq!(kept["ports"][0]["nodePort"], 30999);
    }

    #[test]
    fn only_load_balancers_show_addresses() {
        let status = json!({"loadBalancer": {"ingress": [{"ip": "10.97.0.1"}]}});
        let mut service = spec(json!({"spec": {"type": "ClusterIP"}, "status": status}));
        clear_status(&mut service);
        assert_eq!(service["status"], json!({"loadBalancer": {}}));
        let mut balanced = spec(json!({"spec": {"type": "LoadBalancer"}, "status": status}));
        clear_status(&mut balanced);
        assert_eq!(balanced["status"], status);
    }
}
