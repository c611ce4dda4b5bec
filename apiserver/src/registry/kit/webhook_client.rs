//! Where a webhook is: a URL or a service.
//!
//! Contract: `WebhookClientConfig` of admissionregistration and apiextensions.

use super::{at::At, format, url::Url};
use crate::field::ErrorList;

/// Where a webhook is: at a URL or at a service, and not at both.
pub(in crate::registry) fn check(client: &At<'_>, errors: &mut ErrorList) {
    let (url, service) = (client.get("url"), client.get("service"));
    if url.is_set() == service.is_set() {
        client.required(errors, "exactly one of url or service is required");
    } else if url.is_set() {
        check_url(&url, errors);
    } else {
        check_service(&service, errors);
    }
}

/// The URL of a webhook: `https`, a host, perhaps a path.
pub(in crate::registry) fn check_url(url: &At<'_>, errors: &mut ErrorList) {
    const FORM: &str = "; desired format: https://host[/path]";
    let Url { scheme, host, user, query, fragment } = match Url::parse(url.text()) {
        Ok(parts) => parts,
        Err(why) => return url.required(errors, format!("url must be a valid URL: {why}{FORM}")),
    };
    if scheme != "https" {
        url.invalid_as(errors, scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if host.is_empty() {
        url.invalid_as(errors, "", format!("host must be specified{FORM}"));
    }
    if let Some(user) = user {
        url.invalid_as(errors, user, "user information is not permitted in the URL");
    }
    if !fragment.is_empty() {
        url.invalid_as(errors, fragment, "fragments are not permitted in the URL");
    }
    if !query.is_empty() {
        url.invalid_as(errors, query, "query parameters are not permitted in the URL");
    }
}

/// The service of a webhook.
pub(in crate::registry) fn check_service(service: &At<'_>, errors: &mut ErrorList) {
    // Clients know each of the two by the other's path.
    for (field, told) in [("namespace", "name"), ("name", "namespace")] {
        if service.get(field).is_empty() {
            service.get(told).required(errors, "");
        }
    }
    let port = service.get("port");
    if port.number().is_some_and(|number| !(1..=65535).contains(&number)) {
        port.invalid(errors, "port is not valid: must be between 1 and 65535, inclusive");
    }
    let path = service.get("path");
    match path.text() {
        "" | "/" => return,
        "//" => return path.invalid(errors, "segment[0] may not be empty"),
        text if !text.starts_with('/') => path.invalid(errors, "must start with a '/'"),
        _ => {}
    }
    let mut letters = path.text().chars();
    letters.next();
    let steps = letters.as_str();
    for (at, step) in steps.strip_suffix('/').unwrap_or(steps).split('/').enumerate() {
        if step.is_empty() {
            path.invalid(errors, format!("segment[{at}] may not be empty"));
        }
        for why in format::dns_subdomain(step).into_iter().filter(|_| !step.is_empty()) {
            path.invalid(errors, format!("segment[{at}]: {why}"));
        }
    }
}
