//! Impersonation: acting as somebody else, where every user, group, uid and extra value needs a permission of its own.
//!
//! Contract: "User impersonation" of the authentication reference; upstream's `endpoints/filters/impersonation`.

use http::HeaderMap;

use crate::{
    audit,
    auth::{Attributes, User},
    request_path::may,
    server::Server,
    status::Status,
};

/// Impersonation headers: every user, group, uid and extra value needs its own permission.
pub(super) async fn act_as(server: &Server, user: User, headers: &HeaderMap) -> Result<User, Status> {
    let one = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let wanted = one("impersonate-user");
    let groups: Vec<String> = headers
        .get_all("impersonate-group")
        .iter()
        .filter_map(|v| Some(v.to_str().ok()?.to_owned()))
        .collect();
    let uid = one("impersonate-uid");
    let extra: Vec<(String, String)> = headers
        .iter()
        .filter_map(|(name, value)| {
            let key = name.as_str().strip_prefix("impersonate-extra-")?;
            let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned();
            Some((key, value.to_str().ok()?.to_owned()))
        })
        .collect();
    if wanted.is_empty() {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(user);
        }
        return Err(Status::internal("requested groups, uid or extra without impersonating a user"));
    }
    let mut checks = Vec::new();
    let mut target = User { name: wanted.clone(), uid: uid.clone(), groups, ..User::default() };
    match crate::authn::serviceaccount::split_username(&wanted) {
        Some((namespace, name)) => {
            checks.push(impersonation("", "serviceaccounts", "", namespace, name));
            if target.groups.is_empty() {
                target.groups =
                    vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
            }
        }
        None => checks.push(impersonation("", "users", "", "", &wanted)),
    }
    checks.extend(
        target
            .groups
            .iter()
            .filter(|_| headers.contains_key("impersonate-group"))
            .map(|g| impersonation("", "groups", "", "", g)),
    );
    if !uid.is_empty() {
        checks.push(impersonation("authentication.k8s.io", "uids", "", "", &uid));
    }
    for (key, value) in extra {
        checks.push(impersonation("authentication.k8s.io", "userextras", &key, "", &value));
        target.extra.entry(key).or_default().push(value);
    }
    for check in checks {
        may(server, &Attributes { user: user.clone(), ..check }).await?;
    }
    let base = if wanted == "system:anonymous" { "system:unauthenticated" } else { "system:authenticated" };
    if !target.in_group(base) {
        target.groups.push(base.to_owned());
    }
    if let Some(context) = audit::current() {
        context.impersonated(&target);
    }
    Ok(target)
}

fn impersonation(group: &str, resource: &str, subresource: &str, namespace: &str, name: &str) -> Attributes {
    Attributes {
        verb: "impersonate".to_owned(),
        group: group.to_owned(),
        version: "v1".to_owned(),
        resource: resource.to_owned(),
        subresource: subresource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        is_resource: true,
        ..Attributes::default()
    }
}
