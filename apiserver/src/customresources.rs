//! Custom resources at run time: definitions are watched, given their names, served, and cleaned up after.
//!
//! ```text
//! watch definitions → conditions (pure) → status written
//!                   → resources (pure)  → store.register, catalog swapped → discovery, OpenAPI, routes follow
//!                   → being deleted     → objects deleted, then the finalizer goes
//! ```
//!
//! Contract: upstream's `apiextensions-apiserver` (CRD handler and its controllers).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    apiextensions::{
        Definition, conditions,
        definition::{self, Conversion},
    },
    object::Object,
    objects::{Change, Kind},
    registry::{
        Resource,
        apiextensions::custom::{self, Converter},
        catalog::Catalog,
    },
    server::Server,
    status::{Reason, Status},
    storage::{ResourceId, StoredResource},
    webhook::Clients,
};

mod cleanup;
pub mod conversion;

/// `customresourcedefinitions.apiextensions.k8s.io`.
pub const DEFINITIONS: Kind = Kind { group: "apiextensions.k8s.io", resource: "customresourcedefinitions" };
/// Pause between looks at definitions that wait for the end of their objects, and after failures.
const TICK: Duration = Duration::from_secs(1);

/// Serves custom resources until the server drains. `loaded` is told once those that are there are served.
pub async fn run(server: Arc<Server>, loaded: tokio::sync::oneshot::Sender<()>) {
    let mut loaded = Some(loaded);
    let by_endpoint = server.aggregated.routes_to_endpoints();
    let clients = Clients::new(server.objects.clone(), by_endpoint, "conversion", server.egress.clone());
    let mut served = Served::new(server.catalog.load_full(), Arc::new(clients));
    loop {
        let mut changes = match server.objects.watch(DEFINITIONS).await {
            Ok(changes) => changes,
            Err(status) => {
                tracing::warn!(%status, "definitions of custom resources cannot be watched, trying again");
                tokio::time::sleep(TICK).await;
                continue;
            }
        };
        let mut all: BTreeMap<String, Arc<Object>> = BTreeMap::new();
        let mut synced = false;
        let mut due = false;
        loop {
            let mut next = tokio::select! {
                change = changes.next() => change,
                () = tokio::time::sleep(TICK), if due => Some(Change::Synced),
            };
            // A burst is one change.
            loop {
                match next {
                    Some(Change::Applied(object)) => drop(all.insert(object.name().to_owned(), object)),
                    Some(Change::Deleted(object)) => drop(all.remove(object.name())),
                    Some(Change::Synced) => synced = true,
                    None => break,
                }
                match changes.next().now_or_never() {
                    Some(change) => next = change,
                    None => {
                        next = Some(Change::Synced);
                        break;
                    }
                }
            }
            if next.is_none() {
                break;
            }
            if !synced {
                continue;
            }
            served.update(&server, &all);
            due = settle(&server, &all, &served).await;
            if let Some(loaded) = loaded.take() {
                // Nobody waits any more when the server already ends.
                loaded.send(()).ok();
            }
        }
    }
}

/// Writes what is to be said about each definition; whether something has to be looked at again without a change.
async fn settle(server: &Server, all: &BTreeMap<String, Arc<Object>>, served: &Served) -> bool {
    let mut due = false;
    let list: Vec<Arc<Object>> = all.values().cloned().collect();
    for object in &list {
        let now = Timestamp::now();
        let result = if object.is_terminating() {
            cleanup::step(server, object, served.is_served(object), now).await
        } else {
            match conditions::next(object, &list, served.is_served(object), now) {
                Some(next) => server.objects.update(DEFINITIONS, next).await.map(|_| false),
                None => Ok(false),
            }
        };
        match result {
            Ok(again) => due |= again,
            // The change that was in the way comes by the watch.
            Err(status) if matches!(status.reason, Reason::Conflict | Reason::NotFound) => {}
            Err(status) => {
                tracing::warn!(definition = object.name(), %status, "a definition's status cannot be written");
                due = true;
            }
        }
    }
    due
}

/// What this server answers for beside built-in resources.
struct Served {
    builtin: Arc<Catalog>,
    /// To webhooks that convert.
    clients: Arc<Clients>,
    /// By the definition's name.
    definitions: BTreeMap<String, One>,
}

/// One served definition.
struct One {
    /// What the resources were made of: the spec, the accepted names, the stored versions, whether it ends.
    source: [Value; 4],
    /// The revision since which objects are stored by this schema.
    since: u64,
    resources: Vec<Arc<Resource>>,
    stored: StoredResource,
    /// Ends what is watched by the schemas; of the server's drain.
    replaced: CancellationToken,
}

impl Served {
    fn new(builtin: Arc<Catalog>, clients: Arc<Clients>) -> Self {
        Self { builtin, clients, definitions: BTreeMap::new() }
    }

    fn is_served(&self, definition: &Object) -> bool {
        self.definitions.contains_key(definition.name())
    }

    /// Takes up, changes and drops resources, as the definitions say.
    fn update(&mut self, server: &Server, all: &BTreeMap<String, Arc<Object>>) {
        let mut changed = false;
        let mut replaced = Vec::new();
        let gone: Vec<String> = self
            .definitions
            .keys()
            .filter(|name| !all.get(*name).is_some_and(|object| definition::is_served(object)))
            .cloned()
            .collect();
        let gone: Vec<One> = gone.iter().filter_map(|name| self.definitions.remove(name)).collect();
        changed |= !gone.is_empty();
        for object in all.values().filter(|object| definition::is_served(object)) {
            let source = source(object);
            let old = self.definitions.get(object.name());
            if old.is_some_and(|old| old.source == source) {
                continue;
            }
            let Some(one) = self.one(server, object, source, old) else { continue };
            let moved = old.is_none_or(|old| !same_storage(&old.stored, &one.stored));
            if moved {
                server.store.register(one.stored.clone());
            }
            let ended = |old: &One| old.source[..2] != one.source[..2];
            replaced.extend(old.filter(|old| ended(old)).map(|old| old.replaced.clone()));
            self.definitions.insert(object.name().to_owned(), one);
            changed = true;
        }
        if changed {
            let custom = self.definitions.values().flat_map(|one| one.resources.iter().cloned());
            server.catalog.store(Arc::new(self.builtin.with(custom)));
        }
        // Only now: who watches again is to find what is served from now on.
        replaced.iter().for_each(CancellationToken::cancel);
        for one in gone {
            one.replaced.cancel();
            server.store.unregister(&one.stored.id);
        }
    }

    /// `None` where the name is a built-in resource's.
    fn one(&self, server: &Server, object: &Object, source: [Value; 4], old: Option<&One>) -> Option<One> {
        let definition = Arc::new(Definition::read(object));
        if self.builtin.contains(&definition.group, &definition.names.plural) {
            return None;
        }
        let revision = object.resource_version().parse().unwrap_or(0);
        let since = match old {
            Some(old) if old.source[0] == source[0] => old.since,
            _ => revision,
        };
        let converter: Option<Arc<dyn Converter>> = match &definition.conversion {
            Conversion::None => None,
            Conversion::Webhook(webhook) => {
                Some(Arc::new(conversion::Webhook::new(self.clients.clone(), webhook)))
            }
        };
        let replaced = match old {
            Some(old) if old.source[..2] == source[..2] => old.replaced.clone(),
            _ => server.drain.child_token(),
        };
        let resources = custom::resources(&definition, since, converter.as_ref(), &replaced);
        let resources: Vec<Arc<Resource>> = resources.into_iter().map(Arc::new).collect();
        Some(One { stored: stored(&definition, &resources), source, since, resources, replaced })
    }
}

fn source(object: &Object) -> [Value; 4] {
    let at = |pointer: &str| object.pointer(pointer).cloned().unwrap_or_default();
    let terminating = conditions::is_true(object, "Terminating");
    [at("/spec"), at("/status/acceptedNames"), at("/status/storedVersions"), terminating.into()]
}

/// How the objects of a definition are stored: as upstream does, so that either reads the other's.
fn stored(definition: &Definition, resources: &[Arc<Resource>]) -> StoredResource {
    let (group, plural) = (&definition.group, &definition.names.plural);
    let mut selectable = Vec::new();
    for field in resources.iter().flat_map(|r| r.selectable) {
        let field = field.into();
        if !selectable.contains(&field) {
            selectable.push(field);
        }
    }
    StoredResource {
        id: ResourceId::new(group, plural),
        prefix: format!("{group}/{plural}"),
        namespaced: definition.namespaced,
        api_version: format!("{group}/{}", definition.storage),
        kind: definition.names.kind.clone(),
        selectable,
        ttl: None,
    }
}

fn same_storage(a: &StoredResource, b: &StoredResource) -> bool {
    (&a.id, a.namespaced, &a.api_version, &a.kind, &a.selectable)
        == (&b.id, b.namespaced, &b.api_version, &b.kind, &b.selectable)
}

/// The error of a definition that is not as it was read.
fn is_gone(status: &Status) -> bool {
    matches!(status.reason, Reason::NotFound)
}

#[cfg(test)]
mod tests;
