//! APIServices of the groups this server serves itself, built-in ones and those that definitions make.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    object::Object,
    objects::{Kind, new_object},
    registry::catalog::Catalog,
    server::Server,
    status::{Reason, Status},
};

/// `apiservices.apiregistration.k8s.io`.
pub(super) const API_SERVICES: Kind = Kind { group: "apiregistration.k8s.io", resource: "apiservices" };
/// Marks what this server registers, and when it looks after it.
const AUTOMANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// Priorities of groups, by name: part of the API, since clients see groups in this order.
const GROUPS: &[(&str, i64)] = &[
    ("", 18000),
    ("apps", 17800),
    ("events.k8s.io", 17750),
    ("authentication.k8s.io", 17700),
    ("authorization.k8s.io", 17600),
    ("autoscaling", 17500),
    ("batch", 17400),
    ("certificates.k8s.io", 17300),
    ("networking.k8s.io", 17200),
    ("policy", 17100),
    ("rbac.authorization.k8s.io", 17000),
    ("storage.k8s.io", 16800),
    ("apiextensions.k8s.io", 16700),
    ("admissionregistration.k8s.io", 16700),
    ("scheduling.k8s.io", 16600),
    ("coordination.k8s.io", 16500),
    ("node.k8s.io", 16300),
    ("discovery.k8s.io", 16200),
    ("resource.k8s.io", 16200),
    ("flowcontrol.apiserver.k8s.io", 16100),
    ("storagemigration.k8s.io", 15800),
];

/// Priority of a group that definitions make, and of its versions.
const CUSTOM: (i64, i64) = (1000, 100);
/// Label of what came with a definition and goes with it.
const WITH_DEFINITION: &str = "true";

/// The priority of a group this server serves itself.
pub(super) fn group_priority(group: &str) -> i64 {
    match GROUPS.iter().find(|(known, _)| *known == group) {
        Some((_, priority)) => *priority,
        None if group == "apiregistration.k8s.io" => i64::MAX,
        None => CUSTOM.0,
    }
}

/// The priority of a version in its group.
fn version_priority(group: &str, version: &str) -> i64 {
    match (group, version) {
        ("", _) => 1,
        ("autoscaling", "v2") => 30,
        ("resource.k8s.io" | "flowcontrol.apiserver.k8s.io", "v1") => 21,
        ("resource.k8s.io", "v1beta2") => 15,
        ("admissionregistration.k8s.io", "v1beta1") => 12,
        ("coordination.k8s.io", "v1beta1") => 13,
        ("coordination.k8s.io", "v1alpha2") => 12,
        (_, version) if version.contains("alpha") => 1,
        (_, version) if version.contains("beta") => 9,
        _ => 15,
    }
}

/// `v1.apps`, and `v1.` for core.
fn name(group: &str, version: &str) -> String {
    format!("{version}.{group}")
}

/// Creates the APIServices that are missing, puts those right that were registered before, and drops those of
/// definitions that are gone.
pub(super) async fn ensure(server: &Server, catalog: &Catalog) -> Result<(), Status> {
    for (group, versions) in catalog.groups() {
        let known = GROUPS.iter().find(|(g, _)| *g == group);
        let is_custom = catalog.iter().any(|r| r.group == group && r.strategy.custom().is_some());
        for version in versions {
            match known {
                Some((_, priority)) => {
                    let priorities = (*priority, version_priority(group, version));
                    ensure_one(server, group, version, priorities, "onstart").await?;
                }
                None if is_custom => ensure_one(server, group, version, CUSTOM, WITH_DEFINITION).await?,
                // The registry of APIs does not register itself.
                None => {}
            }
        }
    }
    drop_stale(server, catalog).await
}

async fn drop_stale(server: &Server, catalog: &Catalog) -> Result<(), Status> {
    let groups = catalog.groups();
    for service in server.objects.list(API_SERVICES, None).await? {
        let text = |pointer: &str| service.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (group, version) = (text("/spec/group"), text("/spec/version"));
        let is_served = groups.get(group).is_some_and(|versions| versions.contains(&version));
        let came_with = service.meta_pairs("labels").any(|pair| pair == (AUTOMANAGED, WITH_DEFINITION));
        if is_served || !came_with {
            continue;
        }
        match server.objects.delete(API_SERVICES, &service).await {
            Err(s) if matches!(s.reason, Reason::Conflict | Reason::NotFound) => {}
            deleted => deleted?,
        }
    }
    Ok(())
}

async fn ensure_one(
    server: &Server,
    group: &str,
    version: &str,
    priorities: (i64, i64),
    label: &str,
) -> Result<(), Status> {
    let name = name(group, version);
    let mut spec =
        json!({"version": version, "groupPriorityMinimum": priorities.0, "versionPriority": priorities.1});
    if !group.is_empty() {
        spec["group"] = group.into();
    }
    for _ in 0..5 {
        let current = server.objects.get_latest(API_SERVICES, "", &name).await?;
        let written = match current {
            Some(current) if !is_automanaged(&current) || current.get("spec") == Some(&spec) => return Ok(()),
            Some(current) => {
                let mut next = (*current).clone();
                next.set("spec", spec.clone());
                server.objects.update(API_SERVICES, next).await
            }
            None => {
                let now = Timestamp::now();
                let mut made = new_object("apiregistration.k8s.io/v1", "APIService", "", &name, now);
                made.metadata_mut().insert("labels".to_owned(), json!({AUTOMANAGED: label}));
                made.set("spec", spec.clone());
                made.set("status", json!({"conditions": [super::availability::local(now)]}));
                server.objects.create(API_SERVICES, made).await
            }
        };
        match written {
            Err(s) if matches!(s.reason, Reason::Conflict | Reason::AlreadyExists) => {}
            written => return written.map(drop),
        }
    }
    Ok(())
}

fn is_automanaged(service: &Object) -> bool {
    service.meta_pairs("labels").any(|(key, _)| key == AUTOMANAGED)
}
