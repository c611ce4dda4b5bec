//! What this server stores resources in, told to everybody in `StorageVersion` objects; until that is done nothing is
//! written that would be stored otherwise than others believe.
//!
//! Contract: KEP-2339; upstream's `apiserver/pkg/storageversion` and `endpoints/filters/storageversion.go`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::RwLock;
use serde_json::json;

use crate::{
    auth::Attributes,
    object::Object,
    objects::{Objects, STORAGE_VERSIONS, new_object, rfc3339},
    registry::{
        Resource,
        catalog::{self, Catalog},
    },
    status::{GroupName, Reason, Status},
};

/// How often the objects are looked after when all is told.
const AGAIN: Duration = Duration::from_secs(600);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Servers starting together collide at most a few times.
const ATTEMPTS: usize = 8;
const CONDITION: &str = "AllEncodingVersionsEqual";

/// Group and plural.
type Name = (&'static str, &'static str);

/// How one resource is stored and read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Report {
    group: &'static str,
    plural: &'static str,
    encoding: String,
    decodable: Vec<String>,
    served: Vec<String>,
    /// All names the same objects are reached by.
    names: Vec<Name>,
}

/// Which resources may not be written yet, and what went wrong last.
#[derive(Debug)]
pub struct Barrier(RwLock<BTreeMap<Name, String>>);

impl Barrier {
    /// Nothing told yet of these resources.
    pub fn new(catalog: &Catalog) -> Self {
        let names = reports(catalog).into_iter().flat_map(|report| report.names);
        Self(RwLock::new(names.map(|name| (name, "<nil>".to_owned())).collect()))
    }

    /// Whether a request may be served already.
    ///
    /// # Errors
    /// For writes of what nothing is told of yet.
    pub fn admit(&self, wanted: &Attributes) -> Result<(), Status> {
        let pending = self.0.read();
        if pending.is_empty() || !wanted.is_resource || is_harmless(wanted) {
            return Ok(());
        }
        let (group, resource) = (wanted.group.as_str(), wanted.resource.as_str());
        let Some(last) = pending.iter().find_map(|(name, last)| (*name == (group, resource)).then_some(last))
        else {
            return Ok(());
        };
        let resource = GroupName::new(group, resource);
        Err(Status::unavailable(format!(
            "wait for storage version registration to complete for resource: {resource}, last seen error: {last}"
        )))
    }
}

/// Reads; what the objects need themselves; and leases of those who lead.
fn is_harmless(wanted: &Attributes) -> bool {
    match (wanted.group.as_str(), wanted.resource.as_str()) {
        _ if matches!(wanted.verb.as_str(), "get" | "list" | "watch") => true,
        ("internal.apiserver.k8s.io", "storageversions") => true,
        ("coordination.k8s.io", "leases") => wanted.namespace == "kube-system",
        _ => false,
    }
}

/// Tells of all resources of the catalog; resolves when that is done.
pub async fn tell(objects: &dyn Objects, catalog: &Catalog, server: &str, barrier: &Barrier) {
    while let Err(status) = tell_once(objects, catalog, server, barrier).await {
        tracing::warn!(error = %status, "storage versions are not told of yet");
        tokio::time::sleep(RETRY).await;
    }
}

/// Puts right what others change. Endless.
pub async fn keep_telling(objects: &dyn Objects, catalog: &Catalog, server: &str, barrier: &Barrier) {
    loop {
        tokio::time::sleep(AGAIN).await;
        if let Err(status) = tell_once(objects, catalog, server, barrier).await {
            tracing::warn!(error = %status, "storage versions are not told of anew");
        }
    }
}

async fn tell_once(
    objects: &dyn Objects,
    catalog: &Catalog,
    server: &str,
    barrier: &Barrier,
) -> Result<(), Status> {
    let mut failure = None;
    for report in reports(catalog) {
        let told = write(objects, &report, server, Timestamp::now()).await;
        let mut pending = barrier.0.write();
        match told {
            Ok(()) => report.names.iter().for_each(|name| drop(pending.remove(name))),
            Err(status) => {
                for name in &report.names {
                    pending.entry(*name).and_modify(|last| *last = status.to_string());
                }
                failure = Some(status);
            }
        }
    }
    failure.map_or(Ok(()), Err)
}

/// One report for all names of the same objects, in the order of groups.
fn reports(catalog: &Catalog) -> Vec<Report> {
    let all = catalog::builtin();
    let is_stored = |resource: &&std::sync::Arc<Resource>| resource.verbs.contains(&"watch");
    let (mut seen, mut reports) = (BTreeSet::new(), Vec::new());
    for resource in catalog.iter().filter(is_stored) {
        if seen.contains(&(resource.group, resource.plural)) {
            continue;
        }
        let same = |other: &Resource| {
            other.plural == resource.plural && other.stored_group() == resource.stored_group()
        };
        let names: Vec<Name> = catalog.iter().filter(|r| same(r)).map(|r| (r.group, r.plural)).collect();
        seen.extend(names.iter().copied());
        let versions = |r: &Resource| r.versions.iter().map(|v| r.api_version(v)).collect::<Vec<_>>();
        let mut decodable: Vec<String> = Vec::new();
        let own = all.iter().filter(|r| (r.group, r.plural) == (resource.group, resource.plural));
        for version in own.chain(catalog.iter().filter(|r| same(r))).flat_map(|r| versions(r)) {
            if !decodable.contains(&version) {
                decodable.push(version);
            }
        }
        let encoding = resource.stored_api_version();
        if !decodable.contains(&encoding) {
            decodable.push(encoding.clone());
        }
        let served = versions(resource);
        let (group, plural) = (resource.group, resource.plural);
        reports.push(Report { group, plural, encoding, decodable, served, names });
    }
    reports
}

async fn write(objects: &dyn Objects, report: &Report, server: &str, now: Timestamp) -> Result<(), Status> {
    let group = if report.group.is_empty() { "core" } else { report.group };
    let name = format!("{group}.{}", report.plural);
    for _ in 0..ATTEMPTS {
        let written = match objects.get_latest(STORAGE_VERSIONS, "", &name).await? {
            Some(current) => {
                let mut next = (*current).clone();
                if !amend(&mut next, report, server, now) {
                    return Ok(());
                }
                objects.update(STORAGE_VERSIONS, next).await
            }
            None => {
                let kind = "StorageVersion";
                let mut new = new_object("internal.apiserver.k8s.io/v1alpha1", kind, "", &name, now);
                new.set("spec", json!({}));
                amend(&mut new, report, server, now);
                objects.create(STORAGE_VERSIONS, new).await
            }
        };
        match written {
            Err(s) if matches!(s.reason, Reason::Conflict | Reason::AlreadyExists | Reason::NotFound) => {}
            written => return written.map(drop),
        }
    }
    Err(Status::internal(format!("the storage version {name} changes all the time")))
}

/// Puts a report into the object, and what follows from all servers' reports; whether that changed it.
fn amend(object: &mut Object, report: &Report, server: &str, now: Timestamp) -> bool {
    let before = object.get("status").cloned();
    let status = before.as_ref();
    let list = |field: &str| status.and_then(|s| s.get(field)?.as_array().cloned()).unwrap_or_default();
    let mut servers = list("storageVersions");
    let own = json!({"apiServerID": server, "encodingVersion": report.encoding,
        "decodableVersions": report.decodable, "servedVersions": report.served});
    match servers.iter_mut().find(|one| one["apiServerID"] == server) {
        Some(known) => *known = own,
        None => servers.push(own),
    }
    let first = servers[0]["encodingVersion"].clone();
    let common = servers.iter().all(|one| one["encodingVersion"] == first).then_some(first);
    let was_common = status.and_then(|s| s.get("commonEncodingVersion")).cloned();
    let is_other = was_common.is_some() && common.is_some() && was_common != common;
    let mut conditions = list("conditions");
    let (value, word) = if common.is_some() { ("True", "Set") } else { ("False", "Unset") };
    let mut condition = json!({"type": CONDITION, "status": value, "lastTransitionTime": rfc3339(now),
        "reason": format!("CommonEncodingVersion{word}"),
        "message": format!("Common encoding version {}", word.to_lowercase())});
    if object.generation() > 0 {
        condition["observedGeneration"] = object.generation().into();
    }
    match conditions.iter_mut().find(|one| one["type"] == CONDITION) {
        Some(known) => {
            if known["status"] == value && !is_other {
                condition["lastTransitionTime"] = known["lastTransitionTime"].clone();
            }
            *known = condition;
        }
        None => conditions.push(condition),
    }
    let mut after = json!({"storageVersions": servers, "conditions": conditions});
    if let Some(common) = common {
        after["commonEncodingVersion"] = common;
    }
    let changed = before.as_ref() != Some(&after);
    object.set("status", after);
    changed
}

/// What a server is called in the objects: as its identity lease.
pub fn server(facts: &super::Facts) -> String {
    super::identity::lease_name(&facts.hostname)
}

#[cfg(test)]
mod tests {
    use component_base::features::Gates;
    use serde_json::Value;

    use super::*;
    use crate::{objects::memory::Memory, registry::served::RuntimeConfig};

    fn served() -> Catalog {
        catalog::builtin().served(&RuntimeConfig::default(), Gates::default())
    }

    fn find(group: &str, plural: &str) -> Option<Report> {
        reports(&served()).into_iter().find(|one| (one.group, one.plural) == (group, plural))
    }

    #[test]
    fn objects_of_two_names_are_told_of_once_and_what_is_not_stored_not_at_all() {
        let events = find("", "events").unwrap();
        assert_eq!((events.encoding.as_str(), events.served.as_slice()), ("v1", &["v1".to_owned()][..]));
        assert_eq!(events.names, [("", "events"), ("events.k8s.io", "events")]);
        assert!(events.decodable.contains(&"events.k8s.io/v1".to_owned()));
        assert_eq!(find("events.k8s.io", "events"), None);
        assert_eq!(find("authentication.k8s.io", "tokenreviews"), None);
        let slices = find("resource.k8s.io", "resourceslices").unwrap();
        assert_eq!(slices.served, ["resource.k8s.io/v1"]);
        assert!(slices.decodable.contains(&"resource.k8s.io/v1beta1".to_owned()), "{slices:?}");
        for report in reports(&served()) {
            assert!(report.decodable.contains(&report.encoding), "{report:?}");
            assert!(report.served.iter().all(|version| report.decodable.contains(version)), "{report:?}");
        }
    }

    #[test]
    fn servers_agree_on_a_version_or_not() {
        let report =
            |encoding: &str| Report { encoding: encoding.to_owned(), ..find("apps", "deployments").unwrap() };
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut object = Object::new();
        let of = |object: &Object, pointer: &str| object.pointer(pointer).cloned().unwrap_or_default();
        assert!(amend(&mut object, &report("apps/v1"), "a", at(0)));
        assert!(!amend(&mut object, &report("apps/v1"), "a", at(9)), "nothing new");
        assert_eq!(of(&object, "/status/commonEncodingVersion"), "apps/v1");
        assert!(amend(&mut object, &report("apps/v2"), "b", at(1)));
        assert_eq!(of(&object, "/status/commonEncodingVersion"), Value::Null);
        assert_eq!(of(&object, "/status/conditions/0/reason"), "CommonEncodingVersionUnset");
        assert_eq!(of(&object, "/status/conditions/0/lastTransitionTime"), "1970-01-01T00:00:01Z");
        assert!(amend(&mut object, &report("apps/v2"), "a", at(2)));
        assert_eq!(of(&object, "/status/commonEncodingVersion"), "apps/v2");
        assert_eq!(of(&object, "/status/storageVersions/1/apiServerID"), "b");
    }

    #[tokio::test]
    async fn writes_wait_until_everything_is_told() {
        let catalog = served();
        let barrier = Barrier::new(&catalog);
        let asks = |verb: &str, group: &str, resource: &str, namespace: &str| Attributes {
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            namespace: namespace.into(),
            is_resource: true,
            ..Attributes::default()
        };
        let write = asks("create", "apps", "deployments", "default");
        let refused = barrier.admit(&write).unwrap_err();
        assert_eq!(refused.code, 503);
        assert!(refused.to_string().contains("to complete for resource: deployments.apps"), "{refused}");
        for free in [
            asks("list", "apps", "deployments", "default"),
            asks("update", "coordination.k8s.io", "leases", "kube-system"),
            asks("create", "authorization.k8s.io", "subjectaccessreviews", ""),
            asks("create", "example.com", "widgets", "default"),
        ] {
            assert!(barrier.admit(&free).is_ok(), "{free:?}");
        }
        assert!(barrier.admit(&asks("update", "coordination.k8s.io", "leases", "default")).is_err());
        let objects = Memory::with(Vec::new());
        tell(&*objects, &catalog, "apiserver-x", &barrier).await;
        assert!(barrier.admit(&write).is_ok());
        let told = objects.list_latest(STORAGE_VERSIONS).await.unwrap();
        assert!(told.iter().any(|object| object.name() == "core.pods") && told.len() > 40);
    }
}
