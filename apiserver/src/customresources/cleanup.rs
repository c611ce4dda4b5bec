//! The end of a definition: its objects are deleted, and when none is left the finalizer goes.
//!
//! Contract: upstream's `controller/finalizer`. Each step is small and can be taken again.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::Value;

use super::{DEFINITIONS, is_gone};
use crate::{
    apiextensions::{
        conditions::{self, Condition},
        definition::CLEANUP,
    },
    object::Object,
    objects::{Kind, rfc3339},
    registry::intern,
    server::Server,
    status::{Reason, Status},
};

/// How long objects may take to end before it is said that some are left.
const PATIENCE: Duration = Duration::from_secs(60);

/// One step; whether the next one has to be taken without another change.
pub(super) async fn step(
    server: &Server,
    definition: &Arc<Object>,
    served: bool,
    now: Timestamp,
) -> Result<bool, Status> {
    if !definition.finalizers().contains(&CLEANUP) {
        return Ok(false);
    }
    let deleting =
        terminating("True", "InstanceDeletionInProgress", "CustomResource deletion is in progress");
    if !conditions::find(definition, "Terminating").is_some_and(|c| {
        c["reason"] == "InstanceDeletionInProgress" || c["reason"] == "InstanceDeletionCheck"
    }) {
        let mut next = (**definition).clone();
        conditions::set(&mut next, deleting, now);
        // Creates are refused from here on: the change comes back by the watch.
        server.objects.update(DEFINITIONS, next).await?;
        return Ok(true);
    }
    let outcome = if !served {
        terminating("False", "NeverEstablished", "resource was never established")
    } else if remaining(server, definition, now).await? == 0 {
        terminating("False", "InstanceDeletionCompleted", "removed all instances")
    } else {
        return wait(server, definition, now).await;
    };
    let mut next = (**definition).clone();
    conditions::set(&mut next, outcome, now);
    let kept: Vec<String> =
        definition.finalizers().into_iter().filter(|f| *f != CLEANUP).map(str::to_owned).collect();
    next.set_finalizers(&kept.iter().map(String::as_str).collect::<Vec<_>>());
    if next.finalizers().is_empty() {
        server.objects.delete(DEFINITIONS, &next).await?;
    } else {
        server.objects.update(DEFINITIONS, next).await?;
    }
    Ok(false)
}

fn terminating<'a>(status: &'a str, reason: &'a str, message: &'a str) -> Condition<'a> {
    Condition { kind: "Terminating", status, reason, message }
}

/// After some patience it is said that objects are left.
async fn wait(server: &Server, definition: &Object, now: Timestamp) -> Result<bool, Status> {
    let begun = definition.deletion_timestamp().unwrap_or(now);
    let late = now.duration_since(begun).unsigned_abs() > PATIENCE;
    let told =
        conditions::find(definition, "Terminating").is_some_and(|c| c["reason"] == "InstanceDeletionCheck");
    if late && !told {
        let mut next = definition.clone();
        let message = "could not confirm zero CustomResources remaining: timed out waiting for the condition";
        conditions::set(&mut next, terminating("True", "InstanceDeletionCheck", message), now);
        server.objects.update(DEFINITIONS, next).await?;
    }
    Ok(true)
}

/// Deletes what may go, marks what has finalizers; how many are left.
async fn remaining(server: &Server, definition: &Object, now: Timestamp) -> Result<usize, Status> {
    let text = |pointer| definition.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let kind = Kind {
        group: intern::text(text("/spec/group")),
        resource: intern::text(text("/status/acceptedNames/plural")),
    };
    let mut left = 0;
    for object in server.objects.list_latest(kind).await? {
        let done = if object.finalizers().is_empty() {
            server.objects.delete(kind, &object).await
        } else {
            left += 1;
            if object.is_terminating() {
                continue;
            }
            let mut marked = (*object).clone();
            marked.set_meta_str("deletionTimestamp", &rfc3339(now));
            marked.metadata_mut().insert("deletionGracePeriodSeconds".to_owned(), 0.into());
            server.objects.update(kind, marked).await.map(drop)
        };
        match done {
            Err(status) if status.reason == Reason::Conflict => left += 1,
            Err(status) if is_gone(&status) => {}
            done => done?,
        }
    }
    Ok(left)
}
