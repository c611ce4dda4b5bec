//! Objects that storage cannot give back: whoever reads or lists them is told so. Under
//! `AllowUnsafeMalformedObjectDeletion` lists name them, and who may do that takes them out of storage, whatever depends on
//! them.
//!
//! Contract: KEP-3926; upstream's `endpoints/handlers/delete.go`, `storage/errors/storage.go` and
//! `storage/etcd3/corrupt_obj_deleter.go`. Upstream's cache is down as long as one object is broken, so that its lists are
//! served by etcd or, without a limit, told to come back; here they are told why at once.

use component_base::features::Gate;
use http::Response;
use serde_json::{Value, json};

use super::Call;
use crate::{
    audit,
    field::{Error, ErrorList, Path},
    object::Object,
    response::Body,
    status::{Cause, Details, GroupName, Reason, Status},
    storage::{StorageError, Unreadable},
};

/// The option that asks for it.
pub(super) const OPTION: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";
/// What one has to be allowed to do.
const VERB: &str = "unsafe-delete-ignore-read-errors";
/// So many objects are named.
const MANY: usize = 100;

/// Whether options ask for it.
pub(super) fn is_asked(options: &Object) -> bool {
    options.get(OPTION).and_then(Value::as_bool) == Some(true)
}

/// What cannot be said together with the option.
pub(super) fn check(options: &Object, errors: &mut ErrorList) {
    if !is_asked(options) {
        return;
    }
    for other in ["dryRun", "propagationPolicy", "orphanDependents", "gracePeriodSeconds", "preconditions"] {
        let said = match options.get(other) {
            None | Some(Value::Null) => false,
            Some(Value::Array(all)) => !all.is_empty(),
            Some(_) => true,
        };
        if said {
            errors.push(invalid(&format!("cannot be set together with .{other}")));
        }
    }
}

/// What is said of a value where nobody may delete it. A value that does not open is the server's trouble; for one that
/// opens and is no object, upstream has the decoder's words and no reason.
pub(super) fn status(why: &Unreadable) -> Status {
    match why {
        Unreadable::Sealed(why) => Status::internal(why),
        Unreadable::Malformed { why, .. } => Status::new(500, Reason::Unknown, why.clone()),
    }
}

/// Upstream's error of a corrupt object.
fn corrupt(key: &str, why: &Unreadable) -> String {
    format!(
        "StorageError: corrupt object, Code: 7, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: {why}"
    )
}

/// The option is wrong where it is.
fn invalid(why: &str) -> Error {
    Error::invalid(&Path::new(OPTION), true, why)
}

impl Call {
    /// Takes an object that cannot be read out of storage: neither finalizers nor admission nor effects elsewhere.
    pub(super) async fn delete_unreadable(&self) -> Result<Response<Body>, Status> {
        audit::annotate("apiserver.k8s.io/unsafe-delete-ignore-read-error", String::new());
        let (name, resource) = (self.info.name.as_str(), self.resource.group_resource());
        let mut wanted = (*self.attributes).clone();
        wanted.verb = VERB.into();
        if let Err(why) = self.server.authorizer.authorize(&wanted).await.allowed() {
            let why = format!("not permitted to do {VERB:?}, reason: {why}");
            return Err(Status::forbidden(&resource, name, &why));
        }
        let (id, namespace) = (self.id(), self.key_namespace());
        match self.server.store.get_latest(&id, namespace, name).await {
            Err(StorageError::Undecodable { key, why }) => {
                tracing::warn!(key, %why, user = wanted.user.name, "deleting an object that cannot be read");
                let deleted = self.server.store.delete_unread(&id, namespace, name).await;
                deleted.map_err(|error| self.store_failed(error, name))?;
            }
            Err(error @ (StorageError::Unavailable(_) | StorageError::Timeout(_))) => {
                return Err(self.store_failed(error, name));
            }
            Ok(_) | Err(_) => {
                let mut errors = ErrorList::new();
                errors.push(invalid(
                    "is exclusively used to delete corrupt object(s), try again by removing this option",
                ));
                return Err(Status::invalid(&resource, name, &errors));
            }
        }
        let details = json!({"name": name, "kind": self.resource.kind});
        self.respond_value(
            200,
            &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 200,
                "details": details}),
        )
    }

    /// Refuses the option where many objects are deleted.
    pub(super) fn refuse_many_unreadable(options: &Object) -> Result<(), Status> {
        if !is_asked(options) {
            return Ok(());
        }
        let mut errors = ErrorList::new();
        errors.push(invalid("is not allowed with DELETECOLLECTION, try again after removing the option"));
        Err(Status::invalid(&GroupName::new("meta.k8s.io", "DeleteOptions"), "", &errors))
    }

    /// What is said of the object of this request, which cannot be read.
    pub(super) fn unreadable(&self, key: &str, why: &Unreadable) -> Status {
        if !self.may_be_deleted() {
            return status(why);
        }
        match (self.info.verb.as_str(), why) {
            ("get" | "delete" | "deletecollection", _) => Status::internal(corrupt(&format!("/{key}"), why)),
            (_, Unreadable::Sealed(_)) => Status::internal(why),
            (_, Unreadable::Malformed { .. }) => Status::new(500, Reason::Unknown, why.to_string()),
        }
    }

    fn may_be_deleted(&self) -> bool {
        self.server.gates.has(Gate::AllowUnsafeMalformedObjectDeletion)
    }

    /// Refuses a watch that objects would be missing in.
    pub(super) fn check_watchable(&self) -> Result<(), Status> {
        let scope = self.scope();
        match self.server.store.unreadable(&self.id(), scope.as_deref(), 1).first() {
            Some((_, why)) => {
                let why = format!("storage is (re)initializing: {}", why.cause());
                Err(Status::too_many_requests(why, 1))
            }
            None => Ok(()),
        }
    }

    /// Refuses a list that objects would be missing in, naming them where they may be deleted.
    pub(super) fn check_readable(&self) -> Result<(), Status> {
        let scope = self.scope();
        let broken = self.server.store.unreadable(&self.id(), scope.as_deref(), MANY + 1);
        let Some((first, why)) = broken.first() else { return Ok(()) };
        if !self.may_be_deleted() {
            return Err(match why {
                Unreadable::Sealed(why) => {
                    Status::internal(format!("unable to transform key {first:?}: {why}"))
                }
                Unreadable::Malformed { .. } => status(why),
            });
        }
        let cause = |(key, why): &(String, Unreadable)| Cause {
            kind: "UnexpectedServerResponse".to_owned(),
            message: corrupt(key, why),
            field: key.clone(),
        };
        let mut causes: Vec<Cause> = broken.iter().take(MANY).map(cause).collect();
        if broken.len() > MANY {
            causes.push(Cause {
                kind: "FieldValueTooMany".to_owned(),
                message: "too many errors, the list is truncated".to_owned(),
                field: String::new(),
            });
        }
        let resource = self.resource.group_resource();
        let details = Details {
            name: "list".to_owned(),
            group: resource.group.clone(),
            kind: resource.name.clone(),
            causes,
            ..Details::default()
        };
        let message = format!("failed to read one or more {resource} from the storage");
        Err(Status::new(500, Reason::StoreReadError, message).with_details(details))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_stands_alone() {
        for (options, wrong) in [
            (json!({OPTION: true}), 0),
            (json!({OPTION: false, "gracePeriodSeconds": 1}), 0),
            (json!({OPTION: true, "dryRun": []}), 0),
            (json!({OPTION: true, "dryRun": ["All"], "gracePeriodSeconds": 0, "preconditions": {}}), 3),
            (json!({OPTION: true, "propagationPolicy": "Orphan", "orphanDependents": false}), 2),
        ] {
            let mut errors = ErrorList::new();
            check(&Object::from_value(options.clone()).unwrap(), &mut errors);
            assert_eq!(errors.iter().count(), wrong, "{options}");
        }
    }
}
