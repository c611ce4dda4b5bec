//! ConfigMap kube-system/kube-apiserver-legacy-service-account-token-tracking: since when uses of tokens kept in secrets
//! are noted, so that those long unused can be told from those nobody noted.
//!
//! Contract: KEP-2799.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    objects::{CONFIG_MAPS, Objects, new_object},
    status::{Reason, Status},
};

const NAME: &str = "kube-apiserver-legacy-service-account-token-tracking";
/// A day: what uses are noted by.
pub const DATE: &str = "%Y-%m-%d";

/// Makes sure of the map, and that its date is one. Asks the cache first: this is looked at often.
pub async fn ensure(objects: &dyn Objects, now: Timestamp) -> Result<(), Status> {
    if objects.get(CONFIG_MAPS, "kube-system", NAME).await?.is_some_and(|map| is_dated(&map)) {
        return Ok(());
    }
    let data = json!({"since": now.strftime(DATE).to_string()});
    let done = match objects.get_latest(CONFIG_MAPS, "kube-system", NAME).await? {
        Some(current) if is_dated(&current) => return Ok(()),
        Some(current) => {
            let mut next = (*current).clone();
            let mut all = next.get("data").and_then(Value::as_object).cloned().unwrap_or_default();
            all.extend(data.as_object().cloned().unwrap_or_default());
            next.set("data", all);
            objects.update(CONFIG_MAPS, next).await
        }
        None => {
            let mut map = new_object("v1", "ConfigMap", "kube-system", NAME, now);
            map.set("data", data);
            objects.create(CONFIG_MAPS, map).await
        }
    };
    match done {
        // Another server did it.
        Err(status) if matches!(status.reason, Reason::Conflict | Reason::AlreadyExists) => Ok(()),
        done => done.map(drop),
    }
}

fn is_dated(map: &crate::object::Object) -> bool {
    let since = map.pointer("/data/since").and_then(Value::as_str).unwrap_or_default();
    jiff::civil::Date::strptime(DATE, since).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::memory::Memory;

    #[tokio::test]
    async fn the_day_is_noted_once_and_put_right() {
        let objects = Memory::with(vec![]);
        let since = async |at: &str| {
            ensure(&*objects, at.parse().unwrap()).await.unwrap();
            let map = objects.get(CONFIG_MAPS, "kube-system", NAME).await.unwrap().unwrap();
            map.pointer("/data/since").cloned()
        };
        assert_eq!(since("2026-01-02T23:00:00Z").await, Some(json!("2026-01-02")));
        assert_eq!(since("2026-02-01T00:00:00Z").await, Some(json!("2026-01-02")));
        let map = objects.get(CONFIG_MAPS, "kube-system", NAME).await.unwrap().unwrap();
        let mut broken = (*map).clone();
        broken.set("data", json!({"since": "long ago", "other": "x"}));
        objects.update(CONFIG_MAPS, broken).await.unwrap();
        assert_eq!(since("2026-02-01T00:00:00Z").await, Some(json!("2026-02-01")));
    }
}
