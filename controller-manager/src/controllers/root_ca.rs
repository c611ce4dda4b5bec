//! Every active namespace has a ConfigMap `kube-root-ca.crt` with the cluster's CA bundle.
//!
//! Contract: KEP-1205 (bound service account tokens); upstream's `root-ca-certificate-publisher-controller`.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use component_base::meta::annotation;
use k8s_openapi::api::core::v1::ConfigMap;

use super::{
    Context,
    published::{Publication, Syncs},
};

const NAME: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const TEXT: &str =
    "CA bundle by which clients in the cluster verify the API server; nothing else is signed by it.";

pub(super) fn start(ctx: &Context) {
    let Some(bundle) = ctx.settings.root_ca.clone() else {
        tracing::info!("neither --root-ca-file nor an authority of the API server: {NAME} is not published");
        return;
    };
    let plan = Arc::new(move |there: Option<&ConfigMap>| plan(there, &bundle));
    Publication { name: NAME, queue: "root_ca_cert_publisher", plan, syncs: &SYNCS }.start(ctx);
}

static SYNCS: LazyLock<Syncs> = LazyLock::new(|| {
    Syncs::register(
        [
            "root_ca_cert_publisher_sync_total",
            "Number of namespace syncs happened in root ca cert publisher.",
        ],
        [
            "root_ca_cert_publisher_sync_duration_seconds",
            "How long namespace syncs took in root ca cert publisher.",
        ],
    )
});

/// The bundle and nothing else, and what it is for.
fn plan(there: Option<&ConfigMap>, bundle: &str) -> Option<ConfigMap> {
    let data = BTreeMap::from([(KEY.to_owned(), bundle.to_owned())]);
    let described =
        |map: &ConfigMap| annotation(&map.metadata, DESCRIPTION).is_some_and(|text| !text.is_empty());
    if there.is_some_and(|map| map.data.as_ref() == Some(&data) && described(map)) {
        return None;
    }
    let mut next = there.cloned().unwrap_or_default();
    next.data = Some(data);
    next.metadata.annotations.get_or_insert_default().insert(DESCRIPTION.to_owned(), TEXT.to_owned());
    Some(next)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_bundle_alone_is_published_and_mended() {
        let map = |data: Value, annotations: Value| -> ConfigMap {
            serde_json::from_value(json!({"metadata": {"annotations": annotations}, "data": data})).unwrap()
        };
        let described = || json!({DESCRIPTION: "something", "own": "yes"});
        let table = [
            (None, true),
            (Some(map(json!({"ca.crt": "ca"}), described())), false),
            (Some(map(json!({"ca.crt": "old"}), described())), true),
            (Some(map(json!({"ca.crt": "ca", "more": ""}), described())), true),
            (Some(map(json!({"ca.crt": "ca"}), json!({}))), true),
            (Some(map(json!({"ca.crt": "ca"}), json!({DESCRIPTION: ""}))), true),
            (Some(map(json!(null), described())), true),
        ];
        for (there, writes) in table {
            let next = plan(there.as_ref(), "ca");
            assert_eq!(next.is_some(), writes, "{there:?}");
            let Some(next) = next else { continue };
            assert_eq!(plan(Some(&next), "ca"), None, "once is enough");
            assert_eq!(next.data, Some([("ca.crt".to_owned(), "ca".to_owned())].into()));
            let kept = there.as_ref().is_some_and(|map| annotation(&map.metadata, "own").is_some());
            assert_eq!(annotation(&next.metadata, "own").is_some(), kept, "what others wrote stays");
        }
    }
}
