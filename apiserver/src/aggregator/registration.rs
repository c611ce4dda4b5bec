//! APIServices of the groups this server serves itself.

use jiff::Timestamp;
use serde_json::json;

use crate::{
    object::Object,
    objects::{Kind, new_object},
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

/// Creates the APIServices that are missing and puts those right that were registered before.
pub(super) async fn ensure(server: &Server) -> Result<(), Status> {
    let catalog = server.catalog.load_full();
    for (group, versions) in catalog.groups() {
        // The registry of APIs does not register itself.
        let Some((_, priority)) = GROUPS.iter().find(|(g, _)| *g == group) else { continue };
        for version in versions {
            ensure_one(server, group, version, *priority).await?;
        }
    }
    Ok(())
}

async fn ensure_one(server: &Server, group: &str, version: &str, priority: i64) -> Result<(), Status> {
    let name = name(group, version);
    let mut spec = json!({"version": version, "groupPriorityMinimum": priority,
        "versionPriority": version_priority(group, version)});
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
                made.metadata_mut().insert("labels".to_owned(), json!({AUTOMANAGED: "onstart"}));
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
