//! Ingresses and network policies through their strategies.

use serde_json::json;

use crate::registry::testing::Kind;

const GROUP: &str = "networking.k8s.io";

#[test]
fn an_ingress_leads_somewhere() {
    let kind = Kind::new(GROUP, "ingresses");
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    assert!(kind.errors(json!({"spec": {"defaultBackend": backend}})).is_empty());
    assert_eq!(
        kind.errors(json!({"spec": {}})),
        ["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified",]
    );
    let rules =
        json!([{"host": "1.2.3.4", "http": {"paths": [{"path": "x", "pathType": "Prefix", "backend": {}}]}}]);
    assert_eq!(
        kind.errors(json!({"spec": {"rules": rules}})),
        [
            "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
            "spec.rules[0].http.paths[0].path: Invalid value: \"x\": must be an absolute path",
            "spec.rules[0].http.paths[0].backend: Invalid value: \"\": resource or service backend is required",
        ]
    );
}

#[test]
fn a_policy_has_good_peers_and_ports() {
    let kind = Kind::new(GROUP, "networkpolicies");
    let (made, errors) =
        kind.create(json!({"spec": {"podSelector": {}, "egress": [{"ports": [{"port": 53}]}]}}));
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(made["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(made["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
    let block = json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/9"]}});
    let rule =
        json!({"from": [{}, block], "ports": [{"port": 0}, {"endPort": 5}, {"port": 9, "endPort": 8}]});
    assert_eq!(
        kind.errors(json!({"spec": {"ingress": [rule]}})),
        [
            "spec.ingress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ingress[0].ports[1].endPort: Invalid value: 5: may not be specified when `port` is not specified",
            "spec.ingress[0].ports[2].endPort: Invalid value: 8: must be greater than or equal to `port`",
            "spec.ingress[0].from[0]: Required value: must specify a peer",
            "spec.ingress[0].from[1].ipBlock.except[0]: Invalid value: \"11.0.0.0/9\": must be a strict subset of `cidr`",
        ]
    );
}

#[test]
fn an_address_has_a_name_and_a_parent() {
    let kind = Kind::new(GROUP, "ipaddresses");
    let parent = json!({"group": "", "resource": "services", "namespace": "default", "name": "web"});
    assert!(kind.errors(json!({"spec": {"parentRef": parent}})).is_empty());
    assert_eq!(kind.errors(json!({"spec": {}})), ["spec.parentRef: Required value"]);
    assert_eq!(
        kind.errors(json!({"spec": {"parentRef": {"group": "A", "name": "a/b"}}})),
        [
            "spec.parentRef.group: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case \
             alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. \
             'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            "spec.parentRef.resource: Required value",
            "spec.parentRef.name: Invalid value: \"a/b\": may not contain '/'",
        ]
    );
}

#[test]
fn service_ranges_are_of_different_families_and_stay() {
    let kind = Kind::new(GROUP, "servicecidrs");
    let ranges = |cidrs: &[&str]| json!({"spec": {"cidrs": cidrs}});
    assert!(kind.errors(ranges(&["10.0.0.0/16", "fd00::/112"])).is_empty());
    assert_eq!(kind.errors(ranges(&[])), ["spec.cidrs: Required value: at least one CIDR required"]);
    let twice = kind.errors(ranges(&["10.0.0.0/16", "10.1.0.0/16"]));
    assert!(twice.len() == 1 && twice[0].contains("no more than one IP for each IP family"), "{twice:?}");
    let loose = kind.errors(ranges(&["10.0.0.1/16"]));
    let want =
        "spec.cidrs[0]: Invalid value: \"10.0.0.1/16\": must not have bits set beyond the prefix length";
    assert_eq!(loose, [want]);
}
