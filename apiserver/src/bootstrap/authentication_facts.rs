//! ConfigMap kube-system/extension-apiserver-authentication: how other daemons check this cluster's clients.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::Facts;
use crate::{
    objects::{CONFIG_MAPS, Objects, new_object},
    status::{Reason, Status},
};

const NAME: &str = "extension-apiserver-authentication";

/// The front proxy's flags.
#[derive(Clone, Debug, Default)]
pub struct RequestHeader {
    /// PEM of `--requestheader-client-ca-file`.
    pub client_ca: String,
    /// `--requestheader-allowed-names`.
    pub allowed_names: Vec<String>,
    /// `--requestheader-username-headers`.
    pub username_headers: Vec<String>,
    /// `--requestheader-uid-headers`.
    pub uid_headers: Vec<String>,
    /// `--requestheader-group-headers`.
    pub group_headers: Vec<String>,
    /// `--requestheader-extra-headers-prefix`.
    pub extra_headers_prefix: Vec<String>,
}

/// Writes the map; keys of others stay.
pub async fn ensure(objects: &dyn Objects, facts: &Facts, now: Timestamp) -> Result<(), Status> {
    let wanted = data(facts);
    for _ in 0..5 {
        let done = match objects.get_latest(CONFIG_MAPS, "kube-system", NAME).await? {
            None => {
                let mut map = new_object("v1", "ConfigMap", "kube-system", NAME, now);
                map.set("data", wanted.clone());
                objects.create(CONFIG_MAPS, map).await.map(drop)
            }
            Some(current) => {
                let mut next = (*current).clone();
                let mut merged = next.get("data").and_then(Value::as_object).cloned().unwrap_or_default();
                merged.extend(wanted.clone());
                next.set("data", merged);
                if next == *current {
                    return Ok(());
                }
                objects.update(CONFIG_MAPS, next).await.map(drop)
            }
        };
        match done {
            Err(s) if matches!(s.reason, Reason::Conflict | Reason::AlreadyExists) => {}
            done => return done,
        }
    }
    Ok(())
}

fn data(facts: &Facts) -> Map<String, Value> {
    let mut data = Map::new();
    if let Some(ca) = &facts.client_ca {
        data.insert("client-ca-file".to_owned(), json!(ca));
    }
    if let Some(proxy) = &facts.request_header {
        data.insert("requestheader-client-ca-file".to_owned(), json!(proxy.client_ca));
        for (key, list) in [
            ("requestheader-allowed-names", &proxy.allowed_names),
            ("requestheader-username-headers", &proxy.username_headers),
            ("requestheader-uid-headers", &proxy.uid_headers),
            ("requestheader-group-headers", &proxy.group_headers),
            ("requestheader-extra-headers-prefix", &proxy.extra_headers_prefix),
        ] {
            data.insert(key.to_owned(), json!(json!(list).to_string()));
        }
    }
    data
}
