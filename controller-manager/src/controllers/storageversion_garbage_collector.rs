//! What API servers that are gone said about how they store goes.
//!
//! ```text
//! StorageVersion, leases of API servers → plan (pure) → its entries of servers without a lease go, or it goes itself
//! ```
//! Contract: upstream's `storageversion-garbage-collector-controller` (KEP-2339). Off unless the feature
//! `StorageVersionAPI` is on, and with `APIServerIdentity` off: the servers have no leases then.

use std::collections::BTreeSet;

use component_base::{
    client,
    clock::SharedClock,
    informer::{Event, Informer, ListWatch},
    meta::{ObjectKey, label, object_key},
    workqueue::{Outcome, WorkQueue, run_workers},
};
use k8s_openapi::{
    api::{
        apiserverinternal::v1alpha1::{
            ServerStorageVersion, StorageVersion, StorageVersionCondition, StorageVersionStatus,
        },
        coordination::v1::Lease,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams, Preconditions},
};

use super::Context;

const NAMESPACE: &str = "kube-system";
/// The label of API servers' leases.
const COMPONENT: &str = "apiserver.kubernetes.io/identity";
const SERVER: &str = "kube-apiserver";
/// The condition that says whether all servers store in one version.
const EQUAL: &str = "AllEncodingVersionsEqual";
const WORKERS: usize = 1;

/// What to do with a storage version.
#[derive(Debug, PartialEq)]
enum Plan {
    Keep,
    /// Other servers still store it.
    Update(Box<StorageVersionStatus>),
    Delete,
}

#[derive(Clone)]
struct Collector {
    client: Client,
    clock: SharedClock,
    leases: Informer<Lease>,
    versions: Informer<StorageVersion>,
    queue: WorkQueue<ObjectKey>,
}

pub(super) fn start(ctx: &Context) {
    let collector = Collector {
        client: ctx.client.clone(),
        clock: ctx.clock.clone(),
        leases: ctx.informers.get(ListWatch {
            namespace: Some(NAMESPACE.into()),
            labels: Some(format!("{COMPONENT}={SERVER}")),
            fields: None,
        }),
        versions: ctx.informers.get(ListWatch::default()),
        queue: WorkQueue::new("storage_version_garbage_collector_storageversions"),
    };
    let leases: WorkQueue<ObjectKey> = WorkQueue::new("storage_version_garbage_collector_leases");
    let gone = leases.clone();
    collector.leases.on_event(move |event| {
        if let Event::Deleted { last, .. } = event {
            gone.add(object_key(last.as_ref()));
        }
    });
    let queue = collector.queue.clone();
    collector.versions.on_event(move |event| {
        if !matches!(event, Event::Deleted { .. }) && servers(event.object()).next().is_some() {
            queue.add(object_key(event.object().as_ref()));
        }
    });
    let of_lease = collector.clone();
    run_workers(&ctx.tasks, &leases, WORKERS, move |lease| {
        let collector = of_lease.clone();
        async move {
            collector.queue_those_of(&lease).await;
            Ok::<_, kube::Error>(Outcome::Done)
        }
    });
    let queue = collector.queue.clone();
    run_workers(&ctx.tasks, &queue, WORKERS, move |version| {
        let collector = collector.clone();
        async move { collector.sync(&version).await }
    });
}

// === impl Collector ===

impl Collector {
    /// Queues what names the server of a lease that is gone.
    async fn queue_those_of(&self, lease: &ObjectKey) {
        self.versions.wait_synced().await;
        let all = self.versions.store().list();
        let naming = all.iter().filter(|version| servers(version).any(|id| *id == *lease.name));
        naming.for_each(|version| self.queue.add(object_key(version.as_ref())));
    }

    async fn sync(&self, key: &ObjectKey) -> Result<Outcome, kube::Error> {
        self.leases.wait_synced().await;
        let Some(version) = self.versions.store().get(key) else { return Ok(Outcome::Done) };
        let mut gone = BTreeSet::new();
        for id in servers(&version) {
            let known = self.leases.store().get(&ObjectKey::new(NAMESPACE, id)).is_some();
            // The cache may be late, and a server says how it stores when it starts only: the API server is asked as well.
            if !known && !self.is_alive(id).await? {
                gone.insert(id);
            }
        }
        let api: Api<StorageVersion> = Api::all(self.client.clone());
        let done = match plan(&version, &gone, &Time(self.clock.now())) {
            Plan::Keep => return Ok(Outcome::Done),
            Plan::Update(status) => {
                let next = StorageVersion { status: Some(*status), ..(*version).clone() };
                api.replace_status(&key.name, &PostParams::default(), &next).await.map(drop)
            }
            Plan::Delete => {
                let meta = &version.metadata;
                // A server that comes now and says that it stores it must not be lost.
                let same =
                    Preconditions { uid: meta.uid.clone(), resource_version: meta.resource_version.clone() };
                api.delete(&key.name, &DeleteParams::default().preconditions(same)).await.map(drop)
            }
        };
        match done {
            // Another version: its event brings it back.
            Err(e) if !client::is_not_found(&e) && !client::is_conflict(&e) => Err(e),
            _ => Ok(Outcome::Done),
        }
    }

    async fn is_alive(&self, id: &str) -> Result<bool, kube::Error> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), NAMESPACE);
        let lease = api.get_opt(id).await?;
        Ok(lease.is_some_and(|lease| label(&lease.metadata, COMPONENT) == Some(SERVER)))
    }
}

fn entries(version: &StorageVersion) -> &[ServerStorageVersion] {
    version.status.as_ref().and_then(|s| s.storage_versions.as_deref()).unwrap_or_default()
}

/// The servers that said something.
fn servers(version: &StorageVersion) -> impl Iterator<Item = &str> {
    entries(version).iter().map(|entry| entry.api_server_id.as_str())
}

fn plan(version: &StorageVersion, gone: &BTreeSet<&str>, now: &Time) -> Plan {
    let all = entries(version);
    let left: Vec<ServerStorageVersion> =
        all.iter().filter(|entry| !gone.contains(entry.api_server_id.as_str())).cloned().collect();
    if left.len() == all.len() {
        return Plan::Keep;
    }
    let Some(first) = left.first() else { return Plan::Delete };
    let agreed = left.iter().all(|entry| entry.encoding_version == first.encoding_version);
    let common = agreed.then(|| first.encoding_version.clone());
    let mut status = version.status.clone().unwrap_or_default();
    let before = std::mem::replace(&mut status.common_encoding_version, common);
    // Another version that all agree on is a transition as well.
    let moved = matches!((&before, &status.common_encoding_version), (Some(old), Some(new)) if old != new);
    let new = condition(agreed, version.metadata.generation, now);
    set_condition(status.conditions.get_or_insert_default(), new, moved);
    status.storage_versions = Some(left);
    Plan::Update(Box::new(status))
}

fn condition(agreed: bool, generation: Option<i64>, now: &Time) -> StorageVersionCondition {
    let (status, reason, message) = match agreed {
        true => ("True", "CommonEncodingVersionSet", "Common encoding version set"),
        false => ("False", "CommonEncodingVersionUnset", "Common encoding version unset"),
    };
    StorageVersionCondition {
        type_: EQUAL.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: Some(now.clone()),
    }
}

/// Sets the condition; its time stays while its status does, unless something `moved`.
fn set_condition(
    conditions: &mut Vec<StorageVersionCondition>,
    mut new: StorageVersionCondition,
    moved: bool,
) {
    match conditions.iter_mut().find(|there| there.type_ == new.type_) {
        None => conditions.push(new),
        Some(there) => {
            if there.status == new.status && !moved {
                new.last_transition_time = there.last_transition_time.clone();
            }
            *there = new;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const THEN: &str = "2026-01-01T00:00:00Z";
    const NOW: &str = "2026-01-02T00:00:00Z";

    fn version(status: Value) -> StorageVersion {
        serde_json::from_value(json!({"metadata": {"name": "g.things", "generation": 3}, "status": status}))
            .unwrap()
    }

    fn entry(id: &str, encoding: &str) -> Value {
        json!({"apiServerID": id, "encodingVersion": encoding, "decodableVersions": [encoding]})
    }

    /// The status that is written: common version, the condition's status, reason and time, servers.
    fn told(version: &StorageVersion, gone: &[&str]) -> Option<(Value, Vec<Value>, Vec<String>)> {
        let now = Time(NOW.parse().unwrap());
        match plan(version, &gone.iter().copied().collect(), &now) {
            Plan::Update(status) => {
                let status = serde_json::to_value(&*status).unwrap();
                let condition = &status["conditions"][0];
                let fields = ["status", "reason", "lastTransitionTime"].map(|f| condition[f].clone());
                let ids = status["storageVersions"].as_array().unwrap().iter();
                let ids = ids.map(|e| e["apiServerID"].as_str().unwrap().to_owned()).collect();
                Some((status["commonEncodingVersion"].clone(), fields.to_vec(), ids))
            }
            _ => None,
        }
    }

    #[test]
    fn what_servers_that_are_there_say_stays() {
        let one = version(json!({"storageVersions": [entry("a", "v1")]}));
        assert_eq!(plan(&one, &BTreeSet::new(), &Time(NOW.parse().unwrap())), Plan::Keep);
        let none = version(json!({}));
        assert_eq!(plan(&none, &["a"].into(), &Time(NOW.parse().unwrap())), Plan::Keep);
    }

    #[test]
    fn the_last_server_takes_it_along() {
        let both = version(json!({"storageVersions": [entry("a", "v1"), entry("b", "v1")]}));
        assert_eq!(plan(&both, &["a", "b"].into(), &Time(NOW.parse().unwrap())), Plan::Delete);
    }

    #[test]
    fn those_that_are_left_may_agree() {
        let split = version(json!({"storageVersions": [entry("a", "v1"), entry("b", "v2")], "conditions": [
            {"type": EQUAL, "status": "False", "reason": "", "message": "", "lastTransitionTime": THEN}]}));
        let set = vec![json!("True"), json!("CommonEncodingVersionSet"), json!(NOW)];
        assert_eq!(told(&split, &["a"]), Some((json!("v2"), set, vec!["b".into()])));
        let three =
            version(json!({"storageVersions": [entry("a", "v1"), entry("b", "v2"), entry("c", "v1")]}));
        let unset = vec![json!("False"), json!("CommonEncodingVersionUnset"), json!(NOW)];
        assert_eq!(told(&three, &["c"]), Some((Value::Null, unset, vec!["a".into(), "b".into()])));
    }

    #[test]
    fn the_time_of_the_condition_moves_with_what_is_common() {
        let equal = json!([{"type": EQUAL, "status": "True", "reason": "", "message": "", "lastTransitionTime": THEN}]);
        let of = |common: &str| {
            version(json!({"commonEncodingVersion": common, "conditions": equal,
                "storageVersions": [entry("a", "v1"), entry("b", "v1")]}))
        };
        let time = |common: &str| told(&of(common), &["a"]).unwrap().1[2].clone();
        assert_eq!((time("v1"), time("v0")), (json!(THEN), json!(NOW)));
    }

    #[test]
    fn planning_again_changes_nothing() {
        let before = version(json!({"storageVersions": [entry("a", "v1"), entry("b", "v2")]}));
        let now = Time(NOW.parse().unwrap());
        let Plan::Update(status) = plan(&before, &["a"].into(), &now) else { panic!("nothing is planned") };
        let after = StorageVersion { status: Some(*status), ..before };
        assert_eq!(plan(&after, &["a"].into(), &now), Plan::Keep);
    }
}
