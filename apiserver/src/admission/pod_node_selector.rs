//! PodNodeSelector: pods of a namespace run on the nodes that the namespace's annotation selects.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Parts, Plugin, Request};
use crate::{
    objects::{NAMESPACES, Objects, PODS},
    status::Status,
};

pub(super) const NAME: &str = "PodNodeSelector";

const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";

struct PodNodeSelector {
    objects: Arc<dyn Objects>,
}

pub(super) fn new(parts: &Parts) -> Arc<dyn Plugin> {
    Arc::new(PodNodeSelector { objects: parts.objects.clone() })
}

/// `a=b,c=d`.
fn parse(selector: &str) -> Result<BTreeMap<String, String>, String> {
    let parts = selector.split(',').filter(|part| !part.trim().is_empty());
    parts
        .map(|part| {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("invalid selector: {part}"))?;
            Ok((key.trim().to_owned(), value.trim_start_matches('=').trim().to_owned()))
        })
        .collect()
}

#[async_trait]
impl Plugin for PodNodeSelector {
    async fn admit(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if !request.is(PODS) {
            return Ok(());
        }
        let namespace = request.attributes.namespace.clone();
        let found = match self.objects.get(NAMESPACES, "", &namespace).await? {
            Some(found) => Some(found),
            None => self.objects.get_latest(NAMESPACES, "", &namespace).await?,
        };
        let found = found.ok_or_else(|| Status::not_found(&NAMESPACES.group_name(), &namespace))?;
        let selector = found.meta_pairs("annotations").find(|(key, _)| *key == ANNOTATION);
        let Some((_, selector)) = selector else { return Ok(()) };
        let wanted = parse(selector).map_err(Status::internal)?;
        let Some(spec) = request.spec() else { return Ok(()) };
        let own = spec.entry("nodeSelector").or_insert_with(|| json!({}));
        let conflicts = wanted
            .iter()
            .any(|(key, value)| own.get(key).and_then(Value::as_str).is_some_and(|other| other != value));
        if conflicts {
            let why = "pod node label selector conflicts with its namespace node label selector";
            return Err(request.forbid(why));
        }
        if let Some(own) = own.as_object_mut() {
            own.extend(wanted.into_iter().map(|(key, value)| (key, Value::from(value))));
        }
        Ok(())
    }
}
