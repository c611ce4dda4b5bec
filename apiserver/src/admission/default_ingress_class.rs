//! DefaultIngressClass: an ingress that names no class gets the default one.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;

use super::{Parts, Plugin, Request};
use crate::{
    objects::{INGRESS_CLASSES, Kind, Objects},
    status::Status,
};

pub(super) const NAME: &str = "DefaultIngressClass";

const INGRESSES: Kind = Kind { group: "networking.k8s.io", resource: "ingresses" };
const ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";

struct DefaultIngressClass {
    objects: Arc<dyn Objects>,
}

pub(super) fn new(parts: &Parts) -> Arc<dyn Plugin> {
    Arc::new(DefaultIngressClass { objects: parts.objects.clone() })
}

#[async_trait]
impl Plugin for DefaultIngressClass {
    async fn admit(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if !request.is(INGRESSES) {
            return Ok(());
        }
        let Some(ingress) = request.object.as_deref() else { return Ok(()) };
        let stated = ingress.pointer("/spec/ingressClassName").is_some_and(|v| !v.is_null());
        if stated || ingress.annotation("kubernetes.io/ingress.class").is_some() {
            return Ok(());
        }
        let classes = self.objects.list(INGRESS_CLASSES, None).await?;
        let defaults = classes.iter().filter(|c| c.annotation(ANNOTATION) == Some("true"));
        let chosen = defaults.max_by(|a, b| {
            let created = |o: &crate::object::Object| o.meta_str("creationTimestamp").to_owned();
            created(a).cmp(&created(b)).then_with(|| b.name().cmp(a.name()))
        });
        if let (Some(class), Some(spec)) = (chosen, request.spec()) {
            spec.insert("ingressClassName".to_owned(), json!(class.name()));
        }
        Ok(())
    }
}
