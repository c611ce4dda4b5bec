//! Ingresses and network policies through their strategies.

use serde_json::json;

use crate::registry::testing::{Kind, changed};

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
            "spec.ingress[0].ports[2].endPort: Invalid value: 9: must be greater than or equal to `port`",
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

#[test]
fn rows_of_ingresses_show_hosts_and_addresses() {
    let rule = |host: &str| json!({"host": host});
    let ingress = json!({"metadata": {"name": "i"}, "spec": {"tls": [{}],
        "rules": [rule("a"), rule("b"), rule("c"), rule("d")]},
        "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.2"}, {"hostname": "a.b"}, {"ip": "10.0.0.1"}]}}});
    let row = Kind::new(GROUP, "ingresses").row(ingress);
    let cells = [
        json!("i"),
        json!("<none>"),
        json!("a,b,c + 1 more..."),
        json!("10.0.0.1,10.0.0.2,a.b"),
        json!("80, 443"),
    ];
    assert_eq!(row[..5], cells);
}

#[test]
fn classes_of_ingresses_belong_to_a_controller() {
    let kind = Kind::new(GROUP, "ingressclasses");
    let errors = |controller: &str| {
        kind.errors(json!({"metadata": {"name": "c"}, "spec": {"controller": controller}}))
    };
    assert_eq!(errors("a.io/b"), Vec::<String>::new());
    assert_eq!(errors(""), ["spec.controller: Required value"]);
    assert_eq!(
        errors("a.io"),
        [
            "spec.controller: Invalid value: \"a.io\": must be a domain-prefixed path (such as \"acme.io/foo\")"
        ]
    );
}

#[test]
fn networks_that_a_policy_had_stay_allowed() {
    let kind = Kind::new(GROUP, "networkpolicies");
    let policy = |cidr: &str| {
        json!({"metadata": {"name": "p"}, "spec": {"podSelector": {},
            "ingress": [{"from": [{"ipBlock": {"cidr": cidr}}]}]}})
    };
    let wrong = "spec.ingress[0].from[0].ipBlock.cidr: Invalid value: \"010.0.0.0/8\": must not have leading 0s in IP or \
                 prefix length";
    assert_eq!(kind.errors(policy("010.0.0.0/8")), [wrong]);
    let old = kind.create(policy("010.0.0.0/8")).0;
    assert_eq!(kind.update(old.clone(), old, "").1, Vec::<String>::new());
}

#[test]
fn endpoints_of_slices_are_reachable_and_count_their_labels() {
    let kind = Kind::new("discovery.k8s.io", "endpointslices");
    let slice = |kind: &str, address: &str| json!({"metadata": {"name": "s"}, "addressType": kind, "endpoints": [{"addresses": [address]}]});
    let errors = |of: &str, address: &str| kind.errors(slice(of, address));
    assert_eq!(errors("IPv4", "10.0.0.1"), Vec::<String>::new());
    assert_eq!(
        errors("IPv4", "127.0.0.1"),
        [
            "endpoints[0].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)"
        ]
    );
    assert_eq!(
        errors("IPv4", "fd00::1"),
        ["endpoints[0].addresses: Invalid value: \"fd00::1\": must be an IPv4 address"]
    );
    assert_eq!(
        errors("FQDN", "a"),
        [
            "endpoints[0].addresses[0]: Invalid value: \"a\": should be a domain with at least two segments separated by dots"
        ]
    );
    let old = kind.create(slice("IPv4", "10.0.0.1")).0;
    assert_eq!(old["metadata"]["generation"], 1);
    let labelled = changed(&old, &[("/metadata/labels", json!({"a": "b"}))]);
    assert_eq!(kind.update(labelled, old.clone(), "").0["metadata"]["generation"], 2);
    assert_eq!(kind.update(old.clone(), old, "").0["metadata"].get("generation"), Some(&json!(1)));
}
