//! `ingresses` of networking.k8s.io.

use std::sync::Arc;

use crate::{
    field::{Error, ErrorList, Path},
    object::Object,
    registry::{
        Resource, Subresource,
        kit::{NAME_AND_AGE, Plain, Rules, at::At, format},
    },
};

/// The resource.
pub(super) fn resource() -> Resource {
    Resource {
        short_names: &["ing"],
        subresources: &[Subresource::Status],
        storage_prefix: "ingress",
        strategy: Arc::new(Rules {
            validate,
            validate_new,
            ..Rules::new(Plain { status: true, generation: true, cells: NAME_AND_AGE })
        }),
        ..Resource::of("networking.k8s.io", "Ingress", "ingresses", "ingress")
    }
}

/// What a path that is matched part by part may not have in it.
const BAD_SEQUENCES: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const BAD_ENDS: [&str; 2] = ["/..", "/."];

fn validate(obj: &Object, errors: &mut ErrorList) {
    let spec = At::spec(obj);
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
    rules.items().for_each(|rule| check_rule(&rule, errors));
    for tls in spec.get("tls").items() {
        tls.get("hosts").items().for_each(|host| check_host(&host, errors));
        let secret = tls.get("secretName");
        if !secret.is_empty() {
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

fn check_rule(rule: &At<'_>, errors: &mut ErrorList) {
    let (host, http) = (rule.get("host"), rule.get("http"));
    if !host.is_empty() {
        if format::ip(host.text()).is_some() {
            host.invalid(errors, "must be a DNS name, not an IP address");
        }
        check_host(&host, errors);
    }
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
        service.get("name").check_format(errors, format::dns_1035_label);
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

fn validate_new(obj: &Object, errors: &mut ErrorList) {
    const CLASS: &str = "kubernetes.io/ingress.class";
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
