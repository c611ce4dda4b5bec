//! Every active namespace has a ConfigMap `openshift-service-ca.crt`, which whoever signs the serving certificates of
//! services fills with its CA bundle.
//!
//! Contract: OpenShift's `service-ca-certificate-publisher-controller`. There is none of that in other clusters, so that it
//! runs only where it is asked for.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use k8s_openapi::api::core::v1::ConfigMap;

use super::{
    Context,
    published::{Publication, Syncs},
};

const NAME: &str = "openshift-service-ca.crt";
const KEY: &str = "service-ca.crt";
/// Asks for the bundle to be written here.
const ASKS: (&str, &str) = ("service.beta.openshift.io/inject-cabundle", "true");

pub(super) fn start(ctx: &Context) {
    Publication { name: NAME, queue: "service_ca_cert_publisher", plan: Arc::new(plan), syncs: &SYNCS }
        .start(ctx);
}

static SYNCS: LazyLock<Syncs> = LazyLock::new(|| {
    Syncs::register(
        [
            "service_ca_cert_publisher_sync_total",
            "Number of namespace syncs happened in service ca cert publisher.",
        ],
        [
            "service_ca_cert_publisher_sync_duration_seconds",
            "How long namespace syncs took in service ca cert publisher.",
        ],
    )
});

/// An empty map that asks for the bundle; afterwards only that it goes on asking.
fn plan(there: Option<&ConfigMap>) -> Option<ConfigMap> {
    let asks = BTreeMap::from([(ASKS.0.to_owned(), ASKS.1.to_owned())]);
    if there.is_some_and(|map| map.metadata.annotations.as_ref() == Some(&asks)) {
        return None;
    }
    // Pods mount the key before anybody has filled it.
    let empty = || ConfigMap { data: Some([(KEY.to_owned(), String::new())].into()), ..ConfigMap::default() };
    let mut next = there.cloned().unwrap_or_else(empty);
    next.metadata.annotations = Some(asks);
    Some(next)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_map_is_made_once_and_goes_on_asking() {
        let made = plan(None).unwrap();
        assert_eq!(made.data, Some([("service-ca.crt".to_owned(), String::new())].into()));
        assert_eq!(plan(Some(&made)), None);
        let map = |annotations: Value| -> ConfigMap {
            let filled =
                json!({"metadata": {"annotations": annotations}, "data": {"service-ca.crt": "bundle"}});
            serde_json::from_value(filled).unwrap()
        };
        assert_eq!(plan(Some(&map(json!({ASKS.0: ASKS.1})))), None, "what was filled in stays");
        for annotations in [json!({}), json!({ASKS.0: "false"}), json!({ASKS.0: ASKS.1, "more": "x"})] {
            let next = plan(Some(&map(annotations))).unwrap();
            assert_eq!(next.data, Some([("service-ca.crt".to_owned(), "bundle".to_owned())].into()));
            assert_eq!(plan(Some(&next)), None);
        }
    }
}
