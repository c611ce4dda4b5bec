//! Keeps the filter equal to what is stored, says of flow schemas whether their level is there, and lends seats.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use super::{FlowControl, bootstrap};
use crate::{
    object::Object,
    objects::{FLOW_SCHEMAS, Objects, PRIORITY_LEVELS, rfc3339},
    status::Status,
};

/// How often seats are lent anew.
const LEND: Duration = Duration::from_secs(10);
/// How often the objects that must be are looked after.
const ENSURE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(200);
const DANGLING: &str = "Dangling";

/// Runs until dropped.
pub async fn run(filter: Arc<FlowControl>, objects: Arc<dyn Objects>) {
    let mut lend = tokio::time::interval(LEND);
    let mut ensure = tokio::time::interval(ENSURE);
    for timer in [&mut lend, &mut ensure] {
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    loop {
        let watches = (objects.watch(FLOW_SCHEMAS).await, objects.watch(PRIORITY_LEVELS).await);
        if let (Ok(schemas), Ok(levels)) = watches {
            let mut changes = futures::stream::select(schemas, levels);
            loop {
                tokio::select! {
                    change = changes.next() => {
                        if change.is_none() {
                            break;
                        }
                        // Changes that have come together are taken over together.
                        while let Some(Some(_)) = changes.next().now_or_never() {}
                        told(refresh(&filter, &*objects).await);
                    }
                    _ = lend.tick() => filter.lend(),
                    _ = ensure.tick() => told(bootstrap::ensure(&*objects, Timestamp::now()).await),
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn told(outcome: Result<(), Status>) {
    if let Err(status) = outcome {
        tracing::warn!(%status, "priority and fairness does not follow its objects, trying again");
    }
}

/// Takes over what is stored, and the status that follows from it.
async fn refresh(filter: &FlowControl, objects: &dyn Objects) -> Result<(), Status> {
    let levels = objects.list_kept(PRIORITY_LEVELS).await?;
    let schemas = objects.list_kept(FLOW_SCHEMAS).await?;
    filter.take(&schemas, &levels);
    for schema in &schemas {
        let level = level_of(schema);
        let exists = levels.iter().any(|one| one.name() == level);
        if let Some(changed) = with_status(schema, level, exists, Timestamp::now()) {
            // Whoever changed it meanwhile brings the next refresh.
            objects.update(FLOW_SCHEMAS, changed).await.map(drop).or_else(|status| match status.code {
                404 | 409 => Ok(()),
                _ => Err(status),
            })?;
        }
    }
    Ok(())
}

fn level_of(schema: &Object) -> &str {
    schema.pointer("/spec/priorityLevelConfiguration/name").and_then(Value::as_str).unwrap_or_default()
}

/// A schema with the condition that is true of it; `None` when it has that already.
fn with_status(schema: &Object, level: &str, exists: bool, now: Timestamp) -> Option<Object> {
    let (status, reason, end) = match exists {
        true => ("False", "Found", "and it exists"),
        false => ("True", "NotFound", "but there is no such object"),
    };
    let message =
        format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} {end}");
    let conditions = schema.pointer("/status/conditions").and_then(Value::as_array);
    let old = conditions.into_iter().flatten().find(|one| one["type"] == DANGLING);
    let is = |field: &str, value: &str| old.is_some_and(|old| old[field] == value);
    if is("status", status) && is("reason", reason) && is("message", &message) {
        return None;
    }
    let since = match old.filter(|_| is("status", status)) {
        Some(old) => old["lastTransitionTime"].clone(),
        None => rfc3339(now).into(),
    };
    let mut all: Vec<Value> =
        conditions.into_iter().flatten().filter(|one| one["type"] != DANGLING).cloned().collect();
    all.push(json!({"type": DANGLING, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": since}));
    let mut changed = schema.clone();
    let stored = changed.get("status").cloned().filter(Value::is_object).unwrap_or_else(|| json!({}));
    let mut status = stored;
    status["conditions"] = all.into();
    changed.set("status", status);
    Some(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_tells_whether_its_level_is_there() {
        let schema =
            json!({"metadata": {"name": "s"}, "spec": {"priorityLevelConfiguration": {"name": "l"}}});
        let schema = Object::from_value(schema).unwrap();
        let at = |second| Timestamp::from_second(second).unwrap();
        let found = with_status(&schema, "l", true, at(1)).unwrap();
        let condition = |object: &Object| object.pointer("/status/conditions/0").cloned().unwrap();
        let first = condition(&found);
        assert_eq!((&first["status"], &first["reason"]), (&json!("False"), &json!("Found")));
        assert!(with_status(&found, "l", true, at(2)).is_none());
        let gone = condition(&with_status(&found, "l", false, at(3)).unwrap());
        assert_eq!((&gone["status"], &gone["reason"]), (&json!("True"), &json!("NotFound")));
        assert_eq!(gone["lastTransitionTime"], json!("1970-01-01T00:00:03Z"));
        let renamed = condition(&with_status(&found, "m", true, at(4)).unwrap());
        assert_eq!(renamed["lastTransitionTime"], first["lastTransitionTime"]);
    }
}
