//! What is wrong with a service, and with a change of one.
//!
//! Contract: upstream's `ValidateServiceCreate` and `ValidateServiceUpdate`; families are KEP-563, traffic distribution
//! KEP-3015, names KEP-5311.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::{Map, Value};

use crate::{
    field::{Error, ErrorList, Path},
    object::Object,
    registry::{
        kit::{at::At, format, shape},
        pod_spec::warnings_of_ip,
    },
};

const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const MODE: &str = "service.kubernetes.io/topology-mode";
const RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const ONLY_BALANCED: &str = "may only be used when `type` is 'LoadBalancer'";
const ONCE: &str = "may not change once set";

/// What is wrong with a service, alone or as an update of an old one.
pub(super) fn check(service: &Object, old: Option<&Object>, errors: &mut ErrorList) {
    let spec = At::spec(service);
    let before = old.map(At::spec);
    check_marks(service, errors);
    if spec.get("ports").is_empty() && !is_headless(&spec) && spec.text_of("type") != "ExternalName" {
        spec.get("ports").required(errors, "");
    }
    check_type(&spec, errors);
    check_ports(&spec, errors);
    spec.get("selector").check_labels(errors);
    check_affinity(&spec, errors);
    check_families(&spec, before.as_ref(), errors);
    check_external_ips(&spec, before.as_ref(), errors);
    spec.get("type").check_one_of(errors, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    check_taken_twice(&spec, errors);
    check_source_ranges(service, old, &spec, errors);
    let balanced = spec.text_of("type") == "LoadBalancer";
    let allocates = spec.get("allocateLoadBalancerNodePorts");
    match (allocates.is_set(), balanced) {
        (true, false) => allocates.forbidden(errors, ONLY_BALANCED),
        (false, true) => errors.push(Error::required(&Path::new("allocateLoadBalancerNodePorts"), "")),
        _ => {}
    }
    check_class(&spec, errors);
    check_traffic(&spec, errors);
}

/// What is wrong with an update beside that.
pub(super) fn check_change(new: &Object, old: &Object, errors: &mut ErrorList) {
    let (spec, before) = (At::spec(new), At::spec(old));
    if spec.text_of("type") != "ExternalName" && before.text_of("type") != "ExternalName" {
        check_kept_ips(&spec, &before, errors);
        check_kept_families(&spec, &before, errors);
    }
    if spec.text_of("type") == "LoadBalancer" && before.text_of("type") == "LoadBalancer" {
        let class = spec.get("loadBalancerClass");
        if class.value() != before.get("loadBalancerClass").value() {
            class.invalid(errors, ONCE);
        }
    }
    check_class(&spec, errors);
    let port = spec.get("healthCheckNodePort");
    if needs_health_port(&spec)
        && needs_health_port(&before)
        && port.int() != before.get("healthCheckNodePort").int()
    {
        port.forbidden(errors, "field is immutable");
    }
}

/// What is wrong with a status.
pub(super) fn check_status(new: &Object, old: &Object, errors: &mut ErrorList) {
    let balancer = |service| At::status(service).get("loadBalancer").get("ingress");
    let (ingress, before) = (balancer(new), balancer(old));
    if At::spec(new).text_of("type") != "LoadBalancer" && !ingress.is_empty() {
        return ingress.forbidden(errors, "may only be used when `spec.type` is 'LoadBalancer'");
    }
    for point in ingress.items() {
        let (ip, mode, name) = (point.get("ip"), point.get("ipMode"), point.get("hostname"));
        if !ip.is_empty() && !before.items().any(|old| old.text_of("ip") == ip.text()) {
            ip.check_format(errors, format::legacy_ip);
        }
        match (mode.is_set(), ip.is_empty()) {
            (false, false) => mode.required(errors, "must be specified when `ip` is set"),
            (true, true) => mode.forbidden(errors, "may not be specified when `ip` is not set"),
            _ => mode.check_option_of(errors, &["Proxy", "VIP"]),
        }
        name.check_option_format(errors, format::dns_subdomain);
        if name.text().parse::<IpAddr>().is_ok() {
            name.invalid(errors, "must be a DNS name, not an IP address");
        }
    }
}

/// What to warn of at a service.
pub(super) fn warnings(service: &Object) -> Vec<String> {
    let spec = At::spec(service);
    let mut warnings = Vec::new();
    if service.annotation(HINTS).is_some() {
        warnings.push(format!("annotation {HINTS} is deprecated, please use {MODE} instead"));
    }
    let mut of_ip = |at: At<'_>| warnings.extend(warnings_of_ip(at.path(), at.text()));
    if !matches!(spec.text_of("clusterIP"), "" | "None") {
        spec.get("clusterIPs").items().for_each(&mut of_ip);
    }
    spec.get("externalIPs").items().for_each(&mut of_ip);
    if !spec.text_of("loadBalancerIP").is_empty() {
        of_ip(spec.get("loadBalancerIP"));
    }
    let external = !spec.get("externalIPs").is_empty();
    let named = spec.text_of("type") == "ExternalName";
    let headless = spec.text_of("type") == "ClusterIP" && spec.text_of("clusterIP") == "None";
    let mut tell = |when: bool, what: &str| {
        if when {
            warnings.push(what.to_owned());
        }
    };
    tell(
        headless && !spec.text_of("loadBalancerIP").is_empty(),
        "spec.loadBalancerIP is ignored for headless services",
    );
    tell(headless && external, "spec.externalIPs is ignored for headless services");
    tell(
        headless && spec.text_of("sessionAffinity") != "None",
        "spec.SessionAffinity is ignored for headless services",
    );
    tell(
        external && !headless && !named,
        "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
    );
    tell(named && external, "spec.externalIPs is ignored when spec.type is \"ExternalName\"");
    tell(
        !named && !spec.text_of("externalName").is_empty(),
        "spec.externalName is ignored when spec.type is not \"ExternalName\"",
    );
    tell(
        spec.text_of("trafficDistribution") == "PreferClose",
        "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
    );
    warnings
}

fn is_headless(spec: &At<'_>) -> bool {
    let ips = spec.get("clusterIPs");
    ips.len() == 1 && ips.items().all(|ip| ip.text() == "None")
}

fn needs_health_port(spec: &At<'_>) -> bool {
    spec.text_of("type") == "LoadBalancer" && spec.text_of("externalTrafficPolicy") == "Local"
}

fn check_marks(service: &Object, errors: &mut ErrorList) {
    if let (Some(mode), Some(hints)) = (service.annotation(MODE), service.annotation(HINTS))
        && mode != hints
    {
        let path = Path::new("metadata").child("annotations").key(MODE);
        let detail = format!("must match annotations[{HINTS}] when both are specified");
        errors.push(Error::invalid(&path, mode, detail));
    }
}

fn check_type(spec: &At<'_>, errors: &mut ErrorList) {
    let kind = spec.text_of("type");
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(spec) => {
            let path = spec.path().child("clusterIPs").index(0);
            errors.push(Error::invalid(
                &path,
                "None",
                format!("may not be set to 'None' for {kind} services"),
            ));
        }
        "ExternalName" => {
            let unused = "may not be set for ExternalName services";
            for field in ["clusterIPs", "ipFamilies"].map(|field| spec.get(field)) {
                if !field.is_empty() {
                    field.forbidden(errors, unused);
                }
            }
            if spec.has("ipFamilyPolicy") {
                spec.get("ipFamilyPolicy").forbidden(errors, unused);
            }
            let name = spec.get("externalName");
            // A dot at the end says that the name is whole.
            let plain = name.text().strip_suffix('.').unwrap_or(name.text());
            if plain.is_empty() {
                name.required(errors, "");
            }
            for detail in format::dns_subdomain(plain).into_iter().filter(|_| !plain.is_empty()) {
                name.invalid_as(errors, plain, detail);
            }
        }
        _ => {}
    }
}

fn check_ports(spec: &At<'_>, errors: &mut ErrorList) {
    let ports = spec.get("ports");
    let mut names = BTreeSet::new();
    for port in ports.items() {
        let name = port.get("name");
        if name.is_empty() && ports.len() > 1 {
            name.required(errors, "");
        } else if !name.is_empty() {
            name.check_format(errors, format::dns_label);
            if !names.insert(name.text()) {
                name.duplicate(errors);
            }
        }
        port.get("port").check_port(errors);
        port.get("protocol").check_one_of(errors, &["SCTP", "TCP", "UDP"]);
        port.get("targetPort").check_port_or_name(errors);
        if port.has("appProtocol") {
            port.get("appProtocol").check_format(errors, format::qualified_name);
        }
    }
}

fn check_affinity(spec: &At<'_>, errors: &mut ErrorList) {
    let (affinity, config) = (spec.get("sessionAffinity"), spec.get("sessionAffinityConfig"));
    affinity.check_one_of(errors, &["ClientIP", "None"]);
    match affinity.text() {
        "ClientIP" => {
            let client = config.get("clientIP");
            let timeout = client.get("timeoutSeconds");
            let needed = "when session affinity type is ClientIP";
            if let Some(missing) = [&config, &client, &timeout].into_iter().find(|at| !at.is_set()) {
                missing.required(errors, needed);
            } else if !(1..=86_400).contains(&timeout.int()) {
                timeout.invalid(errors, "must be greater than 0 and less than 86400");
            }
        }
        "None" if config.is_set() => {
            config.forbidden(errors, "must not be set when session affinity is None");
        }
        _ => {}
    }
}

/// What is wrong with the addresses, families and policy of a spec by themselves; `old` is the spec before.
pub(crate) fn check_stated_families(
    spec: &Map<String, Value>,
    old: Option<&Map<String, Value>>,
) -> ErrorList {
    let (spec, old) = (Value::Object(spec.clone()), old.map(|old| Value::Object(old.clone())));
    let path = || Path::new("spec");
    let (spec, old) = (At::new(&spec, path()), old.as_ref().map(|old| At::new(old, path())));
    let mut errors = ErrorList::new();
    check_families(&spec, old.as_ref(), &mut errors);
    errors
}

fn check_families(spec: &At<'_>, old: Option<&At<'_>>, errors: &mut ErrorList) {
    if spec.text_of("type") == "ExternalName" {
        return;
    }
    let (ip, ips, families) = (spec.get("clusterIP"), spec.get("clusterIPs"), spec.get("ipFamilies"));
    let first = ips.items().next();
    match &first {
        None if !ip.is_empty() => ips.required(errors, ""),
        Some(first) if !ip.is_empty() && first.text() != ip.text() => {
            ips.invalid(errors, "first value must match `clusterIP`");
        }
        Some(_) if ip.is_empty() => ips.invalid(errors, "must be empty when `clusterIP` is not specified"),
        _ => {}
    }
    let mut seen = BTreeSet::new();
    for family in families.items() {
        family.check_is_one_of(errors, &["IPv4", "IPv6"]);
        if !seen.insert(family.text()) {
            family.duplicate(errors);
        }
    }
    let policy = spec.get("ipFamilyPolicy");
    if policy.is_set() {
        policy.check_is_one_of(errors, &["PreferDualStack", "RequireDualStack", "SingleStack"]);
    }
    if check_ips(&ips, old, errors) {
        check_match(spec, &ips, &families, errors);
    }
}

/// Each address by itself; says whether they are worth comparing.
fn check_ips(ips: &At<'_>, old: Option<&At<'_>>, errors: &mut ErrorList) -> bool {
    let mut wrong = ErrorList::new();
    for (i, ip) in ips.items().enumerate() {
        if i == 0 && ip.text() == "None" {
            if ips.len() > 1 {
                ips.invalid(&mut wrong, "'None' must be the first and only value");
            }
            continue;
        }
        let known = old.is_some_and(|old| old.get("clusterIPs").items().any(|old| old.text() == ip.text()));
        if !known {
            ip.check_format(&mut wrong, format::legacy_ip);
        }
    }
    let good = wrong.is_empty();
    errors.extend(wrong);
    if ips.len() > 2 {
        ips.invalid(errors, "may only hold up to 2 values");
    }
    good
}

fn check_match(spec: &At<'_>, ips: &At<'_>, families: &At<'_>, errors: &mut ErrorList) {
    let is_v6 = |ip: &At<'_>| ip.text().parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6());
    let kinds: BTreeSet<bool> = ips.items().map(|ip| is_v6(&ip)).collect();
    if ips.len() > 1 && kinds.len() < 2 {
        ips.invalid(errors, "may specify no more than one IP for each IP family");
    }
    if is_headless(spec) {
        return;
    }
    for (i, (ip, family)) in ips.items().zip(families.items()).enumerate() {
        let fits = match family.text() {
            "IPv4" => !is_v6(&ip),
            "IPv6" => is_v6(&ip),
            _ => true,
        };
        if !fits {
            let detail = format!("expected an {} value as indicated by `ipFamilies[{i}]`", family.text());
            ip.invalid(errors, detail);
        }
    }
}

fn check_external_ips(spec: &At<'_>, old: Option<&At<'_>>, errors: &mut ErrorList) {
    for ip in spec.get("externalIPs").items() {
        let known = old.is_some_and(|old| old.get("externalIPs").items().any(|old| old.text() == ip.text()));
        let wrong = if known { Vec::new() } else { format::legacy_ip(ip.text()) };
        let wrong = if wrong.is_empty() { format::endpoint_ip(ip.text()) } else { wrong };
        wrong.into_iter().for_each(|detail| ip.invalid(errors, detail));
    }
}

fn check_taken_twice(spec: &At<'_>, errors: &mut ErrorList) {
    let ports = spec.get("ports");
    if spec.text_of("type") == "ClusterIP" {
        for port in ports.items().map(|port| port.get("nodePort")).filter(|port| port.int() != 0) {
            port.forbidden(errors, "may not be used when `type` is 'ClusterIP'");
        }
    }
    let mut taken = BTreeSet::new();
    for port in ports.items() {
        let outside = port.get("nodePort");
        if outside.int() != 0 && !taken.insert((port.text_of("protocol"), outside.int())) {
            outside.duplicate(errors);
        }
    }
    let mut taken = BTreeSet::new();
    for port in ports.items() {
        let (protocol, number) = (port.text_of("protocol"), port.get("port").int());
        if !taken.insert((protocol, number)) {
            let key = serde_json::json!({"protocol": protocol, "port": number});
            errors.push(Error::duplicate(port.path(), key).shown_as(&shape::SERVICE_PORT));
        }
    }
}

fn check_source_ranges(service: &Object, old: Option<&Object>, spec: &At<'_>, errors: &mut ErrorList) {
    let ranges = spec.get("loadBalancerSourceRanges");
    let balanced = spec.text_of("type") == "LoadBalancer";
    if !ranges.is_empty() {
        let ranges = ranges.named(spec.path().child("LoadBalancerSourceRanges"));
        if !balanced {
            ranges.forbidden(errors, ONLY_BALANCED);
        }
        let known = |range: &str| {
            let before = old.map(|old| At::spec(old).get("loadBalancerSourceRanges"));
            before.is_some_and(|before| before.items().any(|old| old.text().trim() == range))
        };
        for range in ranges.items().filter(|range| !known(range.text().trim())) {
            for detail in format::legacy_cidr(range.text().trim()) {
                range.invalid_as(errors, range.text().trim(), detail);
            }
        }
    } else if let Some(text) = service.annotation(RANGES) {
        let path = Path::new("metadata").child("annotations").key(RANGES);
        if !balanced {
            errors.push(Error::forbidden(&path, ONLY_BALANCED));
        }
        let changed = old.and_then(|old| old.annotation(RANGES)) != Some(text);
        let ranges = text.trim().split(',').filter(|_| changed && !text.trim().is_empty());
        for range in ranges.map(str::trim) {
            for detail in format::legacy_cidr(range) {
                errors.push(Error::invalid(&path, range, detail));
            }
        }
    }
}

fn check_class(spec: &At<'_>, errors: &mut ErrorList) {
    let class = spec.get("loadBalancerClass");
    if !class.is_set() {
        return;
    }
    if spec.text_of("type") == "LoadBalancer" {
        class.check_format(errors, format::qualified_name);
    } else {
        class.forbidden(errors, ONLY_BALANCED);
    }
}

fn check_traffic(spec: &At<'_>, errors: &mut ErrorList) {
    let kind = spec.text_of("type");
    let outside = matches!(kind, "NodePort" | "LoadBalancer")
        || kind == "ClusterIP" && !spec.get("externalIPs").is_empty();
    let policy = spec.get("externalTrafficPolicy");
    if outside {
        policy.check_one_of(errors, &["Cluster", "Local"]);
    } else if !policy.is_empty() {
        policy.invalid(errors, "may only be set for externally-accessible services");
    }
    let port = spec.get("healthCheckNodePort");
    match (needs_health_port(spec), port.int()) {
        (true, 0) => port.required(errors, ""),
        (true, _) => port.check_port(errors),
        (false, 0) => {}
        (false, _) => {
            let detail =
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            port.invalid(errors, detail);
        }
    }
    let inside = spec.get("internalTrafficPolicy");
    if !inside.is_set() && matches!(kind, "NodePort" | "LoadBalancer" | "ClusterIP") {
        inside.required(errors, "");
    }
    inside.check_option_of(errors, &["Cluster", "Local"]);
    let distribution = spec.get("trafficDistribution");
    let known = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    if distribution.is_set() && !known.contains(&distribution.text()) {
        distribution.not_among(errors, &known);
    }
}

/// Addresses stay: a second one comes and goes, the first does not.
fn check_kept_ips(spec: &At<'_>, before: &At<'_>, errors: &mut ErrorList) {
    if is_headless(spec) && is_headless(before) {
        return;
    }
    let (ips, old) = (spec.get("clusterIPs"), before.get("clusterIPs"));
    let list = ips.value().clone();
    let at = |i: usize| ips.path().index(i);
    let first_changed = old.items().next().map(|ip| ip.text()) != ips.items().next().map(|ip| ip.text());
    if old.len() == ips.len() {
        for (i, (old, new)) in old.items().zip(ips.items()).enumerate() {
            if old.text() != new.text() {
                errors.push(Error::invalid(&at(i), list.clone(), ONCE));
            }
        }
    } else if old.len() > ips.len() {
        if ips.is_empty() {
            errors.push(Error::invalid(&at(0), list.clone(), "primary clusterIP can not be unset"));
        } else if first_changed {
            errors.push(Error::invalid(&at(0), list, ONCE));
        }
        released(spec, &ips, "clusterIP", errors);
    } else if !old.is_empty() && first_changed {
        errors.push(Error::invalid(&at(0), list, ONCE));
    }
}

/// Who lets go of a second address or family says so.
fn released(spec: &At<'_>, list: &At<'_>, what: &str, errors: &mut ErrorList) {
    let policy = spec.get("ipFamilyPolicy");
    if list.len() == 1 && policy.text() != "SingleStack" {
        let detail = format!("must be set to 'SingleStack' when releasing the secondary {what}");
        policy.invalid(errors, detail);
    }
}

fn check_kept_families(spec: &At<'_>, before: &At<'_>, errors: &mut ErrorList) {
    if is_headless(spec) || is_headless(before) {
        return;
    }
    let (families, old) = (spec.get("ipFamilies"), before.get("ipFamilies"));
    let at = families.path().index(0);
    let none = Value::Null;
    let ips = spec.value().get("clusterIPs").unwrap_or(&none);
    let first_changed = old.items().next().map(|f| f.text()) != families.items().next().map(|f| f.text());
    if old.len() == families.len() {
        for _ in old.items().zip(families.items()).filter(|(old, new)| old.text() != new.text()) {
            errors.push(Error::invalid(&at, families.value().clone(), ONCE));
        }
    } else if old.len() > families.len() {
        if spec.get("clusterIPs").is_empty() {
            errors.push(Error::invalid(&at, families.value().clone(), "primary ipFamily can not be unset"));
        }
        if !families.is_empty() && first_changed {
            errors.push(Error::invalid(&at, ips.clone(), ONCE));
        }
        released(spec, &families, "ipFamily", errors);
    } else if !old.is_empty() && first_changed {
        errors.push(Error::invalid(&at, ips.clone(), ONCE));
    }
}
