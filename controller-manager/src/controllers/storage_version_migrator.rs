//! All objects of a resource are written once more, so that they are stored in the version that is stored now.
//!
//! ```text
//! StorageVersionMigrations of one resource → step (pure) → its requests → status → next step
//! begin: oldest first, one at a time per resource, its CRD says so  → locate: the version to migrate up to
//!   → migrate: an empty apply of every object → succeeded or failed → finish: the CRD's stored versions
//! ```
//! Contract: upstream's `storage-version-migrator-controller` (KEP-4192). Off unless the feature
//! `StorageVersionMigrator` is on. A step leaves its result in the status before the next begins, so that it may be
//! repeated: an object that has changed meanwhile has been written, and one that has gone needs not be.

mod step;

use std::sync::Arc;

use component_base::{
    client,
    clock::SharedClock,
    informer::{Informer, ListWatch},
    meta::{ObjectKey, is_condition_true, object_key},
    workqueue::{Outcome, WorkQueue, run_workers},
};
use http::{Method, Request, header};
use jiff::SignedDuration;
use k8s_openapi::{
    api::storagemigration::v1beta1::StorageVersionMigration,
    apimachinery::pkg::apis::meta::v1::{Condition, ListMeta, Time},
};
use kube::{Api, Client, api::PostParams};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use self::step::{FAILED, Resource, Step, resource_of};
use super::Context;
use crate::served::{Directory, Served};

const NAME: &str = "storage-version-migrator-controller";
/// Who writes the status of CustomResourceDefinitions.
const RUNNER: &str = "migration-runner-controller";
const WORKERS: usize = 5;
/// The index of migrations by the resource they are about.
const BY_RESOURCE: &str = "migrated resource";
/// How long the server may take until it serves what is to be migrated.
const PATIENCE: SignedDuration = SignedDuration::from_mins(1);
/// What a resource must be able to do.
const VERBS: [&str; 3] = ["update", "patch", "list"];
/// No namespace is called so: a list of it costs nothing.
const NOWHERE: &str = "@fake:svm_ns!";
/// Objects listed at once.
const PAGE: usize = 500;
const METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

#[derive(Clone)]
struct Migrator {
    client: Client,
    clock: SharedClock,
    migrations: Informer<StorageVersionMigration>,
    directory: Arc<Directory>,
}

/// Why a step has to be taken again.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error("the API server")]
    Api(#[from] kube::Error),
    #[error("{0} is not served yet")]
    NotServed(Resource),
    #[error("the list of {0} is older than what is to be migrated")]
    Late(Resource),
}

/// How a migration's objects were written.
enum Written {
    All,
    /// One cannot be, whatever is tried.
    Refused(kube::Error),
}

/// A page of a list, of which only what names an object matters.
#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    metadata: Named,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Named {
    name: String,
    namespace: String,
    uid: String,
    resource_version: String,
}

pub(super) fn start(ctx: &Context) {
    let migrator = Migrator {
        client: ctx.client.clone(),
        clock: ctx.clock.clone(),
        migrations: ctx.informers.get(ListWatch::default()),
        directory: Arc::new(Directory::new(ctx.client.clone())),
    };
    migrator.migrations.add_index(BY_RESOURCE, |migration| vec![resource_of(migration).to_string()]);
    let queue: WorkQueue<Resource> = WorkQueue::new(NAME);
    let of_migration = queue.clone();
    migrator.migrations.on_event(move |event| of_migration.add(resource_of(event.object())));
    run_workers(&ctx.tasks, &queue, WORKERS, move |resource| {
        let migrator = migrator.clone();
        async move { migrator.sync(&resource).await.map(|()| Outcome::Done) }
    });
}

// === impl Migrator ===

impl Migrator {
    /// One step of a resource's migrations; the event of what it writes leads to the next.
    async fn sync(&self, resource: &Resource) -> Result<(), StepError> {
        self.migrations.wait_synced().await;
        let all = self.migrations.store().by_index(BY_RESOURCE, &resource.to_string());
        match step::next(&all) {
            Step::Nothing => Ok(()),
            Step::Begin(migration) => {
                self.mark_definition(resource, |crd| step::begun(crd, name_of(&migration))).await?;
                self.write(&migration, |status| step::run(status, true, None), None).await
            }
            Step::Locate(migration) => self.locate(resource, &migration).await,
            Step::Migrate(migration, version) => self.migrate(resource, &migration, version).await,
            Step::Finish(migration) => {
                let succeeded = is_condition_true(step::conditions(&migration), step::SUCCEEDED);
                self.mark_definition(resource, |crd| step::ended(crd, succeeded)).await?;
                let generation = migration.metadata.generation;
                self.write(&migration, |status| step::run(status, false, generation), None).await
            }
        }
    }

    /// Finds out which version all objects are at least of now.
    async fn locate(
        &self,
        resource: &Resource,
        migration: &StorageVersionMigration,
    ) -> Result<(), StepError> {
        let Some(served) = self.served(resource).await? else {
            return self.wait_or_fail(resource, migration, "resource does not exist in discovery").await;
        };
        if !served.can(&VERBS) {
            let (names, verbs) = (gvr(&served), VERBS.join(" "));
            let why = format!("resource {names:?} does not support discovery operations: [{verbs}]");
            return self.fail(migration, why).await;
        }
        let path = served.path(served.namespaced.then_some(NOWHERE));
        let page: Page = self.send(Method::GET, &format!("{path}?limit=1"), METADATA, None).await?;
        let version = page.metadata.resource_version.unwrap_or_default();
        if step::version(&version).is_none() {
            let why = format!("latest resourceVersion for {} is not valid: {version:?}", gvr(&served));
            return self.fail(migration, why).await;
        }
        self.write(migration, |_| {}, Some(version)).await
    }

    async fn migrate(
        &self,
        resource: &Resource,
        migration: &StorageVersionMigration,
        version: Option<u64>,
    ) -> Result<(), StepError> {
        let Some(version) = version else {
            return self.fail(migration, unhandled(&"the resource version is no number")).await;
        };
        let Some(served) = self.served(resource).await? else {
            return self.wait_or_fail(resource, migration, &unhandled(&"the resource is not served")).await;
        };
        match self.write_all(resource, &served, version).await? {
            Written::All => self.write(migration, step::succeed, None).await,
            Written::Refused(error) => self.fail(migration, unhandled(&error)).await,
        }
    }

    /// Writes every object that is not newer than the version.
    async fn write_all(&self, resource: &Resource, served: &Served, upto: u64) -> Result<Written, StepError> {
        let mut rest: Option<String> = None;
        loop {
            let from = rest.as_ref().map(|token| format!("&continue={token}")).unwrap_or_default();
            let path = format!("{}?limit={PAGE}{from}", served.path(None));
            let page: Page = match self.send(Method::GET, &path, METADATA, None).await {
                Ok(page) => page,
                // The list has become too old, and the answer says where to go on in a newer one.
                Err(kube::Error::Api(status)) if status.code == 410 && rest.is_some() => {
                    rest = status.metadata.and_then(|list| list.continue_).filter(|token| !token.is_empty());
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let listed = page.metadata.resource_version.as_deref().and_then(step::version);
            if listed.is_none_or(|listed| listed < upto) {
                return Err(StepError::Late(resource.clone()));
            }
            for Item { metadata: object } in page.items {
                if step::version(&object.resource_version).is_none_or(|version| version > upto) {
                    continue;
                }
                match self.write_one(served, &object).await {
                    Err(error) if is_changed_or_gone(&error) => {}
                    Err(error) if may_succeed_later(&error) => return Err(error.into()),
                    Err(error) => return Ok(Written::Refused(error)),
                    Ok(()) => {}
                }
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => rest = Some(token),
                None => return Ok(Written::All),
            }
        }
    }

    /// An apply that says nothing of the object but which it is, so that nothing changes but how it is stored.
    async fn write_one(&self, served: &Served, object: &Named) -> Result<(), kube::Error> {
        let namespace = (!object.namespace.is_empty()).then_some(object.namespace.as_str());
        let path = format!("{}/{}?fieldManager={NAME}", served.path(namespace), object.name);
        let body = json!({"apiVersion": served.api_version(), "kind": served.kind, "metadata": {
            "name": object.name, "uid": object.uid, "resourceVersion": object.resource_version}});
        self.send::<Value>(Method::PATCH, &path, METADATA_OF_ONE, Some(&body)).await.map(drop)
    }

    /// Writes the status of the resource's CustomResourceDefinition, if it has one.
    async fn mark_definition(
        &self,
        resource: &Resource,
        status: impl FnOnce(&step::Definition) -> Value,
    ) -> Result<(), StepError> {
        let Some(name) = resource.definition() else { return Ok(()) };
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
        let found: step::Definition = match self.send(Method::GET, &path, "application/json", None).await {
            Err(error) if client::is_not_found(&error) => return Ok(()),
            found => found?,
        };
        let mut status = status(&found);
        status["conditions"][0]["lastTransitionTime"] = json!(Time(self.clock.now()));
        // What is said of the definition is said of this version of it.
        let body = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": name, "resourceVersion": found.metadata.resource_version}, "status": status});
        let path = format!("{path}/status?fieldManager={RUNNER}&force=true");
        self.send::<Value>(Method::PATCH, &path, "application/json", Some(&body)).await?;
        Ok(())
    }

    async fn served(&self, resource: &Resource) -> Result<Option<Served>, kube::Error> {
        self.directory.find(|s| s.group == resource.group && s.resource == resource.resource).await
    }

    /// What has just been defined may be served in a moment.
    async fn wait_or_fail(
        &self,
        resource: &Resource,
        migration: &StorageVersionMigration,
        why: &str,
    ) -> Result<(), StepError> {
        let made = migration.metadata.creation_timestamp.as_ref();
        if made.is_some_and(|made| self.clock.now().duration_since(made.0) < PATIENCE) {
            return Err(StepError::NotServed(resource.clone()));
        }
        self.fail(migration, why.to_owned()).await
    }

    async fn fail(&self, migration: &StorageVersionMigration, why: String) -> Result<(), StepError> {
        self.write(migration, |conditions| step::end(conditions, FAILED, why), None).await
    }

    /// Writes the status and waits until it is seen, so that no step is taken twice.
    async fn write(
        &self,
        migration: &StorageVersionMigration,
        change: impl FnOnce(&mut Vec<Condition>),
        version: Option<String>,
    ) -> Result<(), StepError> {
        let mut next = migration.clone();
        let status = next.status.get_or_insert_default();
        let conditions = status.conditions.get_or_insert_default();
        change(conditions);
        step::stamp(migration, conditions, &Time(self.clock.now()));
        if version.is_some() {
            status.resource_version = version;
        }
        let api: Api<StorageVersionMigration> = Api::all(self.client.clone());
        let key: ObjectKey = object_key(migration);
        match api.replace_status(&key.name, &PostParams::default(), &next).await {
            Ok(written) => {
                let version = written.metadata.resource_version.unwrap_or_default();
                self.migrations.wait_seen(&key, &version).await;
                Ok(())
            }
            // Another version: its event brings it back.
            Err(e) if client::is_not_found(&e) || client::is_conflict(&e) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Option<&Value>,
    ) -> Result<T, kube::Error> {
        let mut request = Request::builder().method(method).uri(path).header(header::ACCEPT, accept);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/apply-patch+yaml");
        }
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        self.client.request(request.body(body).map_err(kube::Error::HttpError)?).await
    }
}

const METADATA_OF_ONE: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

fn name_of(migration: &StorageVersionMigration) -> &str {
    migration.metadata.name.as_deref().unwrap_or_default()
}

/// `apps/v1, Resource=deployments`.
fn gvr(served: &Served) -> String {
    format!("{}/{}, Resource={}", served.group, served.version, served.resource)
}

fn unhandled(why: &impl std::fmt::Display) -> String {
    format!("migration encountered unhandled error: {why}")
}

/// Somebody else has written the object, or it needs not be written any more.
fn is_changed_or_gone(error: &kube::Error) -> bool {
    client::is_conflict(error) || client::is_not_found(error)
}

/// Whether the request may be answered otherwise when it is sent again.
fn may_succeed_later(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => matches!(status.code, 408 | 429) || status.code >= 500,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_is_refused_again() {
        let refused = |code: u16, reason: &str| {
            kube::Error::Api(Box::new(kube::core::Status::failure("", reason).with_code(code)))
        };
        for (code, reason, again, done) in [
            (409, "Conflict", false, true),
            (404, "NotFound", false, true),
            (422, "Invalid", false, false),
            (403, "Forbidden", false, false),
            (429, "TooManyRequests", true, false),
            (500, "InternalError", true, false),
            (503, "ServiceUnavailable", true, false),
            (504, "Timeout", true, false),
        ] {
            let error = refused(code, reason);
            assert_eq!((may_succeed_later(&error), is_changed_or_gone(&error)), (again, done), "{code}");
        }
    }
}
