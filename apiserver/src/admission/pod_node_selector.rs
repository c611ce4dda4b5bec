//! PodNodeSelector: pods of a namespace run on the nodes that the namespace's annotation selects.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Configuration, Parts, Plugin, Request, webhook::matching::namespace_object};
use crate::{
    objects::{Objects, PODS},
    status::Status,
};

pub(super) const NAME: &str = "PodNodeSelector";

const CONFLICT: &str = "pod node label selector conflicts with its namespace node label selector";
const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";

/// Where the configuration says what counts in namespaces without the annotation.
const DEFAULT: &str = "clusterDefaultNodeSelector";

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct File {
    /// Selectors by namespace: what its pods may ask for; and the default.
    pod_node_selector_plugin_config: BTreeMap<String, String>,
}

struct PodNodeSelector {
    objects: Arc<dyn Objects>,
    selectors: BTreeMap<String, String>,
}

pub(super) fn new(parts: &Parts, configuration: Option<&Configuration>) -> Result<Arc<dyn Plugin>, String> {
    let file: Option<File> =
        configuration.map(Configuration::decode_bare).transpose().map_err(|e| e.to_string())?;
    let selectors = file.unwrap_or_default().pod_node_selector_plugin_config;
    Ok(Arc::new(PodNodeSelector { objects: parts.objects.clone(), selectors }))
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
        let wanted = self.selector(request).await?;
        if wanted.is_empty() {
            return Ok(());
        }
        let Some(spec) = request.spec() else { return Ok(()) };
        let own = spec.entry("nodeSelector").or_insert_with(|| json!({}));
        let conflicts = wanted
            .iter()
            .any(|(key, value)| own.get(key).and_then(Value::as_str).is_some_and(|other| other != value));
        if conflicts {
            return Err(request.forbid(CONFLICT));
        }
        if let Some(own) = own.as_object_mut() {
            own.extend(wanted.into_iter().map(|(key, value)| (key, Value::from(value))));
        }
        Ok(())
    }

    async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if !request.is(PODS) {
            return Ok(());
        }
        let own = request.object.as_deref().and_then(|pod| pod.pointer("/spec/nodeSelector"));
        let own = || own.and_then(Value::as_object).into_iter().flatten();
        let wanted = self.selector(request).await?;
        if own().any(|(key, value)| wanted.get(key).is_some_and(|other| *value != **other)) {
            return Err(request.forbid(CONFLICT));
        }
        let allowed = self.selectors.get(request.attributes.namespace.as_str()).map_or("", String::as_str);
        let allowed = parse(allowed).map_err(Status::internal)?;
        if !allowed.is_empty() && own().any(|(key, value)| allowed.get(key).is_none_or(|one| *value != **one))
        {
            return Err(
                request.forbid("pod node label selector labels conflict with its namespace whitelist")
            );
        }
        Ok(())
    }
}

impl PodNodeSelector {
    /// What pods of the namespace are to select: what its annotation says, else the default.
    async fn selector(&self, request: &Request<'_>) -> Result<BTreeMap<String, String>, Status> {
        let namespace = namespace_object(&request.attributes.namespace, &*self.objects).await?;
        let default = || self.selectors.get(DEFAULT).map_or("", String::as_str);
        parse(namespace.annotation(ANNOTATION).unwrap_or_else(default)).map_err(Status::internal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::{
            Configurations,
            testing::{Write, configured_over, namespace},
        },
        objects::memory::Memory,
    };

    #[tokio::test]
    async fn the_default_counts_where_the_annotation_does_not_and_namespaces_may_be_bound() {
        let objects = Memory::with(vec![
            namespace("plain", json!({})),
            namespace("own", json!({ANNOTATION: "zone=b"})),
            namespace("bound", json!({ANNOTATION: ""})),
        ]);
        let text = "podNodeSelectorPluginConfig: {clusterDefaultNodeSelector: 'zone=a', bound: 'disk=ssd'}";
        let chain = configured_over(&objects, &[NAME], &Configurations::with(NAME, text)).unwrap();
        let made = async |namespace: &str, selector: Value| {
            let metadata = json!({"name": "p", "namespace": namespace});
            let pod = json!({"metadata": metadata, "spec": {"nodeSelector": selector}});
            let made = Write::create(PODS, pod).through_chain(&chain).await;
            made.map(|pod| pod["spec"]["nodeSelector"].clone()).map_err(|status| status.code)
        };
        assert_eq!(made("plain", json!({})).await, Ok(json!({"zone": "a"})));
        assert_eq!(made("own", json!({"disk": "x"})).await, Ok(json!({"disk": "x", "zone": "b"})));
        assert_eq!(made("own", json!({"zone": "a"})).await, Err(403));
        assert_eq!(made("bound", json!({"disk": "ssd"})).await, Ok(json!({"disk": "ssd"})));
        assert_eq!(made("bound", json!({"disk": "hdd"})).await, Err(403));
        assert_eq!(made("bound", json!({"zone": "a"})).await, Err(403));
    }
}
