//! `ingresses` of networking.k8s.io.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value;

use crate::{
    field::{Error, ErrorList, Path},
    object::Object,
    registry::{
        Column, Resource, Subresource,
        kit::{Cell, Plain, Rules, address, at::At, column, format, items, text},
        pod_spec,
    },
};

const COLUMNS: &[Column] = &[
    column("Name", "string").name(),
    column("Class", "string"),
    column("Hosts", "string"),
    column("Address", "string"),
    column("Ports", "string"),
    column("Age", "string"),
];
const CELLS: &[Cell] = &[
    Cell::Name,
    Cell::Field("/spec/ingressClassName", "<none>"),
    Cell::With(hosts),
    Cell::With(addresses),
    Cell::With(ports),
    Cell::Age,
];

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["ing"],
        subresources: &[Subresource::Status],
        storage_prefix: "ingress",
        columns: COLUMNS,
        strategy: Arc::new(Rules {
            validate_new,
            validate_change: |new, old, errors| check(new, Allowed::by(old), errors),
            validate_status,
            warnings,
            status_warnings: pod_spec::warnings_of_balancer,
            ..Rules::new(Plain { status: true, generation: true, cells: CELLS })
        }),
        ..Resource::of("networking.k8s.io", "Ingress", "ingresses", "ingress")
    }
}

/// Hosts that a row shows.
const SHOWN: usize = 3;
const CLASS: &str = "kubernetes.io/ingress.class";

/// What a path that is matched part by part may not have in it.
const BAD_SEQUENCES: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const BAD_ENDS: [&str; 2] = ["/..", "/."];

/// What an old ingress breaks, which then stays allowed.
#[derive(Clone, Copy, Default)]
struct Allowed {
    secrets: bool,
    wildcard_rules: bool,
}

impl Allowed {
    fn by(old: &Object) -> Self {
        let spec = At::spec(old);
        let secret = |tls: At<'_>| {
            let name = tls.text_of("secretName");
            !name.is_empty() && !format::dns_subdomain(name).is_empty()
        };
        let rule = |rule: At<'_>| {
            let mut wrong = ErrorList::new();
            check_paths(&rule, &mut wrong);
            rule.text_of("host").contains('*') && !wrong.is_empty()
        };
        Self {
            secrets: spec.get("tls").items().any(secret),
            wildcard_rules: spec.get("rules").items().any(rule),
        }
    }
}

fn check(ingress: &Object, allowed: Allowed, errors: &mut ErrorList) {
    let spec = At::spec(ingress);
    let (rules, backend) = (spec.get("rules"), spec.get("defaultBackend"));
    if rules.is_empty() && !backend.is_set() {
        errors.push(Error::invalid(
            spec.path(),
            rules.value().clone(),
            "either `defaultBackend` or `rules` must be specified",
        ));
    }
    if backend.is_set() {
        check_backend(&backend, errors);
    }
    rules.items().for_each(|rule| check_rule(&rule, allowed, errors));
    for tls in spec.get("tls").items() {
        tls.get("hosts").items().for_each(|host| check_host(&host, errors));
        let secret = tls.get("secretName");
        if !allowed.secrets && !secret.is_empty() {
            secret.check_format(errors, format::dns_subdomain);
        }
    }
    let class = spec.get("ingressClassName");
    if class.is_set() {
        class.check_format(errors, format::dns_subdomain);
    }
}

fn check_host(host: &At<'_>, errors: &mut ErrorList) {
    let wild = host.text().contains('*');
    host.check_format(errors, if wild { format::wildcard_subdomain } else { format::dns_subdomain });
}

fn check_rule(rule: &At<'_>, allowed: Allowed, errors: &mut ErrorList) {
    let host = rule.get("host");
    if !host.is_empty() {
        if is_ip(host.text()) {
            host.invalid(errors, "must be a DNS name, not an IP address");
        }
        check_host(&host, errors);
    }
    if !allowed.wildcard_rules || !host.text().contains('*') {
        check_paths(rule, errors);
    }
}

fn check_paths(rule: &At<'_>, errors: &mut ErrorList) {
    let http = rule.get("http");
    if http.is_set() {
        http.get("paths").check_required(errors);
        http.get("paths").items().for_each(|path| check_path(&path, errors));
    }
}

fn check_path(http: &At<'_>, errors: &mut ErrorList) {
    let (kind, path) = (http.get("pathType"), http.get("path"));
    let text = path.text();
    if !kind.is_set() {
        return kind.required(errors, "pathType must be specified");
    }
    let relative = !text.starts_with('/');
    match kind.text() {
        "Exact" | "Prefix" => {
            if relative {
                errors.push(Error::invalid(path.path(), text, "must be an absolute path"));
            }
            for bad in BAD_SEQUENCES.iter().filter(|bad| text.contains(**bad)) {
                path.invalid(errors, format!("must not contain '{bad}'"));
            }
            for bad in BAD_ENDS.iter().filter(|bad| text.ends_with(**bad)) {
                path.invalid(errors, format!("cannot end with '{bad}'"));
            }
        }
        "ImplementationSpecific" if relative && !text.is_empty() => {
            path.invalid(errors, "must be an absolute path");
        }
        "ImplementationSpecific" => {}
        _ => kind.not_supported(errors, &["Exact", "ImplementationSpecific", "Prefix"]),
    }
    check_backend(&http.get("backend"), errors);
}

fn check_backend(backend: &At<'_>, errors: &mut ErrorList) {
    let (resource, service) = (backend.get("resource"), backend.get("service"));
    let mut wrong = |detail: &str| errors.push(Error::invalid(backend.path(), "", detail));
    match (resource.is_set(), service.is_set()) {
        (true, true) => wrong("cannot set both resource and service backends"),
        (false, false) => wrong("resource or service backend is required"),
        (true, false) => {
            let group = resource.get("apiGroup");
            if group.is_set() {
                group.check_format(errors, format::dns_subdomain);
            }
            resource.get("kind").check_path_name(errors);
            resource.get("name").check_path_name(errors);
        }
        (false, true) => check_service(backend, &service, errors),
    }
}

fn check_service(backend: &At<'_>, service: &At<'_>, errors: &mut ErrorList) {
    if service.get("name").check_required(errors) {
        service.get("name").check_format(errors, format::dns_label);
    }
    let (name, number) = (service.get("port").get("name"), service.get("port").get("number"));
    match (!name.is_empty(), number.int() != 0) {
        (true, true) => {
            errors.push(Error::invalid(backend.path(), "", "cannot set both port name & port number"));
        }
        (true, false) => name.check_format(errors, format::port_name),
        (false, true) => number.check_range(errors, 1, 65535),
        (false, false) => backend.required(errors, "port name or number is required"),
    }
}

/// Whether a text is an address, however loosely written.
fn is_ip(text: &str) -> bool {
    format::ip(&address::without_leading_zeros(text)).is_some()
}

/// Where the ingress is reached; addresses that were told already are not looked at again.
fn validate_status(new: &Object, old: &Object, errors: &mut ErrorList) {
    let points = |ingress| At::status(ingress).get("loadBalancer").get("ingress");
    let known: Vec<&str> = points(old).items().map(|point| point.text_of("ip")).collect();
    for point in points(new).items() {
        let (ip, host) = (point.get("ip"), point.get("hostname"));
        if !known.contains(&ip.text()) {
            ip.check_option_format(errors, format::legacy_ip);
        }
        host.check_option_format(errors, format::dns_subdomain);
        if is_ip(host.text()) {
            host.invalid(errors, "must be a DNS name, not an IP address");
        }
    }
}

/// The first hosts there are rules for.
fn hosts(ingress: &Object) -> Value {
    let rules: Vec<&str> = items(ingress.pointer("/spec/rules")).map(|rule| text(rule, "/host")).collect();
    let mut named = Vec::new();
    let mut more = false;
    for host in &rules {
        more |= named.len() == SHOWN;
        if !more && !host.is_empty() {
            named.push(*host);
        }
    }
    match named.join(",") {
        none if none.is_empty() => "*".into(),
        all if more => format!("{all} + {} more...", rules.len() - SHOWN).into(),
        all => all.into(),
    }
}

fn addresses(ingress: &Object) -> Value {
    let points = items(ingress.pointer("/status/loadBalancer/ingress"));
    let told = points.map(|point| match text(point, "/ip") {
        "" => text(point, "/hostname"),
        ip => ip,
    });
    let all: BTreeSet<&str> = told.filter(|told| !told.is_empty()).collect();
    all.into_iter().collect::<Vec<_>>().join(",").into()
}

fn ports(ingress: &Object) -> Value {
    let secure = items(ingress.pointer("/spec/tls")).next().is_some();
    if secure { "80, 443" } else { "80" }.into()
}

fn warnings(ingress: &Object, old: Option<&Object>) -> Vec<String> {
    if old.is_some() || ingress.annotation(CLASS).is_none() || At::spec(ingress).has("ingressClassName") {
        return Vec::new();
    }
    vec![format!("annotation {CLASS:?} is deprecated, please use 'spec.ingressClassName' instead")]
}

fn validate_new(obj: &Object, errors: &mut ErrorList) {
    check(obj, Allowed::default(), errors);
    let class = At::spec(obj).get("ingressClassName");
    if let Some(annotation) = obj.annotation(CLASS)
        && class.is_set()
        && annotation != class.text()
    {
        errors.push(Error::invalid(
            &Path::new("annotations").child(CLASS),
            annotation,
            "must match `ingressClassName` when both are specified",
        ));
    }
}
