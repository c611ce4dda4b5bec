//! create, update and patch.

use std::sync::Arc;

use http::Response;
use jiff::Timestamp;
use proto::table;
use serde_json::Value;

use super::{Call, apply::Applied, body::PatchKind, delete::fate, list_options, metadata};
use crate::{
    admission::Operation,
    auth::Decision,
    field::{Error, ErrorList, Path},
    object::Object,
    patch, request_path,
    response::Body,
    schema,
    status::{GroupName, Reason, Status},
    storage::{Entry, StorageError},
};

/// Tries of a patch or an unconditional update that meets a concurrent write.
const TRIES: usize = 5;
/// Tries of a generated name.
const NAME_TRIES: usize = 8;
/// When owners stand in an object more often than once: as it was sent, and after mutating admission, which is all that
/// is looked at of a patch.
const OWNERS_SENT: &str = "";
const OWNERS_ADMITTED: &str = " after mutating admission happens";

/// What an update does to the current object, in the requested version.
enum Change {
    Replace(Object),
    Json(patch::JsonPatch),
    Merge(Value),
    Strategic(Value),
    Apply(Applied),
}

/// How an object comes to be created.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// It was sent.
    Plain,
    /// It was sent with a version, which it cannot have.
    Versioned,
    /// It was applied, so that its fields are noted already.
    Applied,
}

/// The object a change begins with.
struct Current {
    entry: Arc<Entry>,
    /// It was read from etcd by this request, not from the cache.
    is_latest: bool,
}

/// What a try came to.
enum Outcome {
    /// The change is stored.
    Written(Response<Body>),
    /// There was nothing to change, or it is a dry run.
    Unwritten(Response<Body>),
    /// The store refused; `guarded` when the client named the version it replaces.
    Failed { error: StorageError, guarded: bool },
}

/// Whether what a try began with was the object of now.
enum Doubt {
    /// It was, or it does not matter.
    None,
    /// This is the object of now.
    Newer(Arc<Entry>),
    /// Maybe not.
    Stale,
}

fn doubt(outcome: &Result<Outcome, Status>, current: &Current) -> Doubt {
    match outcome {
        Ok(Outcome::Written(_)) => Doubt::None,
        Ok(Outcome::Failed { guarded: true, .. }) if current.is_latest => Doubt::None,
        Ok(Outcome::Failed { error: StorageError::Conflict { current, .. }, .. }) => match current {
            Some(entry) => Doubt::Newer(entry.clone()),
            None => Doubt::Stale,
        },
        Ok(Outcome::Failed { .. }) => Doubt::None,
        Ok(Outcome::Unwritten(_)) | Err(_) if current.is_latest => Doubt::None,
        Ok(Outcome::Unwritten(_)) | Err(_) => Doubt::Stale,
    }
}

/// The number that is the version of an object; 0 where it has none, or the one that means any.
///
/// # Errors
/// 500, as upstream: the number is read where it is written.
fn version_of(object: &Object) -> Result<u64, Status> {
    match object.resource_version() {
        "" => Ok(0),
        text => list_options::parse_uint(text).map_err(|why| Status::new(500, Reason::Unknown, why)),
    }
}

/// Whether etcd takes no value of this size.
fn is_too_large<T>(outcome: &Result<T, StorageError>) -> bool {
    matches!(outcome, Err(StorageError::TooLarge(_)))
}

/// Leaves out who owns which field, which can be most of an object; false where nobody does.
fn forget_managers(object: &mut Object) -> bool {
    object.metadata_mut().remove("managedFields").is_some()
}

impl Call {
    fn decode_body(&mut self) -> Result<Object, Status> {
        let want = self.info.api_version();
        let mut object = self.read_object(&want, self.resource.kind)?;
        let (version, kind) = (object.api_version().to_owned(), object.kind().to_owned());
        let version = if version.is_empty() { want.clone() } else { version };
        let foreign = self.foreign(&version, if kind.is_empty() { self.resource.kind } else { &kind });
        if let Some(why) = foreign {
            let (_, version) = version.rsplit_once('/').unwrap_or(("", &version));
            return Err(Status::bad_request(format!(
                "{kind} in version {version:?} cannot be handled as a {}: {why}",
                self.resource.kind
            )));
        }
        if version != want {
            return Err(Status::bad_request(format!(
                "the API version in the data ({version}) does not match the expected API version ({want})"
            )));
        }
        object.set("apiVersion", want);
        object.set("kind", self.resource.kind);
        self.check_namespace(&mut object)?;
        Ok(object)
    }

    /// Whether what is done to the object of the path is said to be done to it.
    pub(super) fn is_of_path(&self, object: &mut Object, kind: &str) -> Result<(), Status> {
        if object.name() != self.info.name {
            return Err(Status::bad_request(format!("name in URL does not match name in {kind} object")));
        }
        self.check_namespace(object)
    }

    pub(super) fn check_namespace(&self, object: &mut Object) -> Result<(), Status> {
        let asked = self.key_namespace();
        if object.namespace().is_empty() {
            object.set_meta_str("namespace", asked);
        } else if object.namespace() != asked {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        Ok(())
    }

    fn check_name(&self, object: &Object) -> Result<(), Status> {
        if object.name() == self.info.name {
            return Ok(());
        }
        Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            object.name(),
            self.info.name
        )))
    }

    fn invalid(&self, name: &str, errors: &ErrorList) -> Result<(), Status> {
        if errors.is_empty() {
            return Ok(());
        }
        let kind = GroupName::new(self.resource.group, self.resource.kind);
        Err(Status::invalid(&kind, name, errors))
    }

    /// Leaves each owner once, and warns of it; `when` they stood there more often.
    fn unite_owners(&mut self, object: &mut Object, when: &str) {
        let uids = metadata::unite_owners(object);
        if !uids.is_empty() {
            self.warnings.push(format!(
                ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in \
                 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) \
                 observed: {}",
                uids.join(", ")
            ));
        }
    }

    pub(super) async fn create(&mut self) -> Result<Response<Body>, Status> {
        self.check_manager()?;
        let now = Timestamp::now();
        let object = self.decode_body()?;
        // Upstream finds out where it writes that a version is said; one that is no number it does not find.
        let manner = match version_of(&object) {
            Ok(version) if version != 0 => Manner::Versioned,
            _ => Manner::Plain,
        };
        self.create_new(object, now, manner).await
    }

    /// Creates an object: under the name it has, or under one that nobody has.
    async fn create_new(
        &mut self,
        mut object: Object,
        now: Timestamp,
        manner: Manner,
    ) -> Result<Response<Body>, Status> {
        metadata::wipe_new(&mut object);
        if manner != Manner::Applied {
            self.unite_owners(&mut object, OWNERS_SENT);
        }
        self.resource.strategy.default(&mut object, &self.info.version);
        if manner != Manner::Applied {
            object = self.note_fields(object, None, now)?;
        }
        let mut object = self.to_working(object)?;
        let options = self.write_options("CreateOptions");
        Arc::make_mut(&mut self.attributes).name = object.name().into();
        self.admit(Operation::Create, Some(&mut object), None, &options, true).await?;
        self.unite_owners(&mut object, OWNERS_ADMITTED);
        let tries = if object.name().is_empty() && !object.meta_str("generateName").is_empty() {
            NAME_TRIES
        } else {
            1
        };
        let said = self.warnings.len();
        for _ in 1..tries {
            match self.create_one(object.clone(), now, manner).await {
                Err(status) if status.reason == Reason::AlreadyExists => self.warnings.truncate(said),
                done => return done,
            }
        }
        self.create_one(object, now, manner).await
    }

    /// Creates one object that was admitted as far as that changes it.
    async fn create_one(
        &mut self,
        mut object: Object,
        now: Timestamp,
        manner: Manner,
    ) -> Result<Response<Body>, Status> {
        let strategy = self.resource.strategy.clone();
        let options = self.write_options("CreateOptions");
        metadata::fill_new(&mut object, now);
        Arc::make_mut(&mut self.attributes).name = object.name().into();
        let undo = self.reserve(&mut object, None).await?;
        self.resource.prepare_create(&mut object, &self.context(now))?;
        schema::complete(&mut object);
        let mut errors = metadata::validate(&object, &self.resource);
        errors.extend(self.resource.validate_create(&object, &self.context(now)));
        self.invalid(object.name(), &errors)?;
        self.check_may_create().await?;
        self.admit(Operation::Create, Some(&mut object), None, &options, false).await?;
        self.warnings.extend(strategy.warnings(&object, None));
        let name = object.name().to_owned();
        if self.dry_run()? {
            let found = self.server.store.get(&self.id(), self.key_namespace(), &name).await;
            if let Some(there) = found.map_err(|e| self.store_failed(e, &name))? {
                return Err(self.taken(&object, Some(&there)));
            }
            return self.respond_object(201, object);
        }
        if manner == Manner::Versioned {
            let why = "resourceVersion should not be set on objects to be created";
            return Err(Status::new(500, Reason::Unknown, why));
        }
        let (store, id, namespace) = (self.server.store.clone(), self.id(), self.key_namespace());
        let bytes = self.to_store(&object).await?;
        let mut stored = store.create(&id, namespace, &name, bytes, None).await;
        if is_too_large(&stored) && manner != Manner::Applied && forget_managers(&mut object) {
            stored = store.create(&id, namespace, &name, self.to_store(&object).await?, None).await;
        }
        let entry = match stored {
            Ok(entry) => entry,
            Err(StorageError::AlreadyExists(_)) => {
                let there = self.server.store.get_latest(&id, namespace, &name).await;
                return Err(self.taken(&object, there.ok().flatten().as_deref()));
            }
            Err(error) => return Err(self.store_failed(error, &name)),
        };
        undo.commit();
        self.respond(201, &entry).await
    }

    /// The refusal of an object whose name another one has.
    fn taken(&self, object: &Object, there: Option<&Entry>) -> Status {
        let (resource, name) = (self.resource.group_resource(), object.name());
        let mut status = match object.meta_str("generateName") {
            "" => Status::already_exists(&resource, name),
            _ => Status::no_unique_name(&resource, name),
        };
        let there = there.and_then(|entry| self.decode_entry(entry).ok());
        if there.is_some_and(|there| there.is_terminating()) {
            status.message = format!("object is being deleted: {}", status.message);
        }
        status
    }

    pub(super) async fn update(&mut self) -> Result<Response<Body>, Status> {
        self.check_manager()?;
        let object = self.decode_body()?;
        if object.name().is_empty() {
            return Err(Status::bad_request(format!("name must be provided for {}", self.resource.plural)));
        }
        self.check_name(&object)?;
        self.change(&Change::Replace(object)).await
    }

    pub(super) async fn patch(&mut self) -> Result<Response<Body>, Status> {
        let kind = self.patch_kind()?;
        self.check_manager()?;
        let change = match kind {
            PatchKind::Json => Change::Json(self.read_json_patch()?),
            PatchKind::Merge => Change::Merge(self.read_patch(kind)?),
            PatchKind::Strategic => Change::Strategic(self.read_patch(kind)?),
            PatchKind::Apply => Change::Apply(self.read_apply()?),
        };
        self.change(&change).await
    }

    /// Changes an object, first as the cache has it: that is nearly always right, and etcd refuses the write where it
    /// is not. What is not written is decided on what etcd has.
    async fn change(&mut self, change: &Change) -> Result<Response<Body>, Status> {
        let name = self.info.name.clone();
        let cached = self.server.store.get_cached(&self.id(), self.key_namespace(), &name);
        let mut current = match cached {
            Some(entry) => Current { entry, is_latest: false },
            None => match (self.read_current(&name).await, change) {
                (Err(status), Change::Replace(object)) if status.code == 404 && !object.uid().is_empty() => {
                    return Err(self.of_other_uid(&name, object.uid(), ""));
                }
                (Err(status), _) if status.code == 404 => return self.create_instead(change, status).await,
                (current, _) => current?,
            },
        };
        let said = self.warnings.len();
        for attempt in 1..=TRIES {
            let outcome = self.try_change(change, &current).await;
            let newer = match doubt(&outcome, &current) {
                Doubt::None => None,
                Doubt::Newer(entry) => Some(Current { entry, is_latest: true }),
                Doubt::Stale => match self.read_current(&name).await {
                    Err(status) if status.code == 404 => {
                        self.warnings.truncate(said);
                        return self.create_instead(change, status).await;
                    }
                    latest => Some(latest?).filter(|l| l.entry.rev() != current.entry.rev()),
                },
            };
            if let Some(newer) = newer.filter(|_| attempt < TRIES) {
                // The next try says again what this one warned of.
                self.warnings.truncate(said);
                current = newer;
                continue;
            }
            return match outcome? {
                Outcome::Written(response) | Outcome::Unwritten(response) => Ok(response),
                Outcome::Failed { error, .. } => Err(self.store_failed(error, &name)),
            };
        }
        Err(Status::stale(&self.resource.group_resource(), &name))
    }

    /// The conflict of an update of another object of this name; `have` is empty where there is none.
    pub(super) fn of_other_uid(&self, name: &str, want: &str, have: &str) -> Status {
        let key = self.server.store.key_of(&self.id(), self.key_namespace(), name);
        Status::precondition(&self.resource.group_resource(), name, &key, ("UID", want, have))
    }

    /// The object as etcd has it.
    async fn read_current(&self, name: &str) -> Result<Current, Status> {
        Ok(Current { entry: self.latest(name).await?, is_latest: true })
    }

    async fn try_change(&mut self, change: &Change, current: &Current) -> Result<Outcome, Status> {
        let old = self.working(&current.entry).await?;
        let (new, guarded) = self.changed(change, &old)?;
        let applied = matches!(change, Change::Apply(_));
        let is_patch = !matches!(change, Change::Replace(_));
        let outcome = self.change_once(new, &old, &current.entry, (applied, is_patch)).await?;
        Ok(match outcome {
            Outcome::Failed { error, .. } => Outcome::Failed { error, guarded },
            done => done,
        })
    }

    /// Creates what a change is to change and is not there: an apply does, and an update where the kind lets it, but not
    /// through a subresource. `missing` is the answer of those that do not.
    async fn create_instead(&mut self, change: &Change, missing: Status) -> Result<Response<Body>, Status> {
        if !self.info.subresource.is_empty() {
            return Err(missing);
        }
        match change {
            Change::Apply(applied) => self.create_applied(applied).await,
            Change::Replace(object) if self.resource.strategy.allow_create_on_update() => {
                self.create_new(object.clone(), Timestamp::now(), Manner::Plain).await
            }
            _ => Err(missing),
        }
    }

    /// Who updates or applies what is not there must be allowed to create it.
    async fn check_may_create(&self) -> Result<(), Status> {
        if self.info.verb == "create" {
            return Ok(());
        }
        let mut wanted = (*self.attributes).clone();
        wanted.verb = "create".into();
        match self.server.authorizer.authorize(&wanted).await {
            Decision::Failed { error, .. } => Err(Status::internal(error)),
            decision => decision.allowed().map(drop).map_err(|why| request_path::forbidden(&wanted, &why)),
        }
    }

    async fn create_applied(&mut self, applied: &Applied) -> Result<Response<Body>, Status> {
        let now = Timestamp::now();
        let mut object = self.applied(applied, None)?;
        object.set_meta_str("name", &self.info.name.clone());
        if !object.uid().is_empty() {
            let why = format!(
                "uid mismatch: the provided object specified uid {}, and no existing object was found",
                object.uid()
            );
            return Err(Status::conflict(&self.resource.group_resource(), object.name(), &why));
        }
        self.check_namespace(&mut object)?;
        self.create_new(object, now, Manner::Applied).await
    }

    /// The new object in the requested version, and whether the client named the version it replaces.
    fn changed(&mut self, change: &Change, old: &Object) -> Result<(Object, bool), Status> {
        let resource = self.resource.group_resource();
        let name = self.info.name.clone();
        let name = name.as_str();
        let mut new = match change {
            Change::Replace(object) => object.clone(),
            Change::Json(patch) => {
                let mut value = self.to_requested(old.clone())?.into_value();
                patch.apply(&mut value)?;
                self.check_patched(value, None)?
            }
            Change::Merge(patch) => {
                let mut value = self.to_requested(old.clone())?.into_value();
                json_patch::merge(&mut value, patch);
                self.check_patched(value, None)?
            }
            Change::Strategic(body) => {
                let value = self.to_requested(old.clone())?.into_value();
                let kind = table::builtin().by_kind(&self.info.group, &self.info.version, self.resource.kind);
                self.check_patched(patch::strategic(&value, body, kind)?, Some(body))?
            }
            Change::Apply(applied) => self.applied(applied, Some(old))?,
        };
        self.check_namespace(&mut new)?;
        self.check_name(&new)?;
        let uid = new.uid().to_owned();
        if !uid.is_empty() && uid != old.uid() {
            if matches!(change, Change::Replace(_)) {
                return Err(self.of_other_uid(name, &uid, old.uid()));
            }
            let mut errors = ErrorList::new();
            errors.push(Error::invalid(
                &Path::new("metadata").child("uid"),
                uid.as_str(),
                "field is immutable",
            ));
            self.invalid(name, &errors)?;
        }
        let version = version_of(&new)?;
        if version == 0 {
            if !matches!(change, Change::Apply(_)) && !self.resource.strategy.allow_unconditional_update() {
                let mut errors = ErrorList::new();
                errors.push(Error::invalid(
                    &Path::new("metadata").child("resourceVersion"),
                    0,
                    "must be specified for an update",
                ));
                return Err(Status::invalid(&resource, name, &errors));
            }
        } else if version != version_of(old)? {
            return Err(Status::stale(&resource, name));
        }
        new.set("apiVersion", self.info.api_version());
        new.set("kind", self.resource.kind);
        let guarded = version != 0 && matches!(change, Change::Replace(_));
        Ok((new, guarded))
    }

    async fn change_once(
        &mut self,
        mut new: Object,
        old: &Object,
        current: &Arc<Entry>,
        (applied, is_patch): (bool, bool),
    ) -> Result<Outcome, Status> {
        let now = Timestamp::now();
        let strategy = self.resource.strategy.clone();
        let is_whole = self.info.subresource.is_empty();
        let marks = if is_whole { metadata::validate_marks(&new, old) } else { ErrorList::new() };
        metadata::keep_system_fields(&mut new, old);
        if !is_patch {
            self.unite_owners(&mut new, OWNERS_SENT);
        }
        strategy.default(&mut new, &self.info.version);
        if !applied {
            new = self.note_fields(new, Some(old), now)?;
        }
        let mut new = self.to_working(new)?;
        let options = self.write_options("UpdateOptions");
        self.admit(Operation::Update, Some(&mut new), Some(old), &options, true).await?;
        self.unite_owners(&mut new, OWNERS_ADMITTED);
        let undo = self.reserve(&mut new, Some(old)).await?;
        self.resource.prepare_update(&mut new, old, &self.context(now));
        schema::complete(&mut new);
        let mut errors = metadata::validate(&new, &self.resource);
        errors.extend(metadata::validate_change(&new, old));
        errors.extend(marks);
        errors.extend(self.resource.validate_update(&new, old, &self.context(now)));
        self.invalid(&self.info.name, &errors)?;
        self.admit(Operation::Update, Some(&mut new), Some(old), &options, false).await?;
        // Writers of one part of an object do not answer for the rest of it.
        match self.info.subresource.as_str() {
            "" => self.warnings.extend(strategy.warnings(&new, Some(old))),
            "status" => self.warnings.extend(strategy.status_warnings(&new)),
            _ => {}
        }
        new.set_meta_str("resourceVersion", old.resource_version());
        // A write that changes nothing is none, unless it brings what is stored to a new key.
        let stale =
            async || self.server.store.is_stale(&self.id(), self.key_namespace(), &self.info.name).await;
        if new == *old && !stale().await.map_err(|e| self.store_failed(e, &self.info.name))? {
            return self.respond(200, current).await.map(Outcome::Unwritten);
        }
        if self.dry_run()? {
            return self.respond_object(200, new).map(Outcome::Unwritten);
        }
        let (id, name) = (self.id(), self.info.name.clone());
        let namespace = self.key_namespace().to_owned();
        let gone = new.is_terminating() && new.finalizers().is_empty() && self.may_go(&new);
        if gone {
            let deleted = self.server.store.delete(&id, &namespace, &name, current.rev()).await;
            return match deleted {
                Ok(_) => {
                    self.release(old).await;
                    self.respond_object(200, new).map(Outcome::Written)
                }
                Err(error) => Ok(Outcome::Failed { error, guarded: false }),
            };
        }
        let store = self.server.store.clone();
        let bytes = self.to_store(&new).await?;
        let mut kept = store.update(&id, &namespace, &name, current.rev(), bytes, None).await;
        if is_too_large(&kept) && !applied && forget_managers(&mut new) {
            let bytes = self.to_store(&new).await?;
            kept = store.update(&id, &namespace, &name, current.rev(), bytes, None).await;
        }
        match kept {
            Ok(entry) => {
                undo.commit();
                self.respond(200, &entry).await.map(Outcome::Written)
            }
            Err(error) => Ok(Outcome::Failed { error, guarded: false }),
        }
    }

    /// Whether a terminating object without finalizers may leave the store now: its grace period is over,
    /// and for namespaces its content is gone too.
    fn may_go(&self, object: &Object) -> bool {
        let grace =
            object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
        grace == 0 && !(self.resource.is_namespaces() && fate::has_content(object))
    }
}
