//! Every active namespace has a ConfigMap `kube-root-ca.crt` with the cluster's CA bundle.

use std::sync::LazyLock;

use component_base::{
    client,
    informer::ListWatch,
    meta::ObjectKey,
    workqueue::{Outcome, WorkQueue, run_workers},
};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{Api, api::PostParams};

use super::{Context, enqueue_changes, published::Syncs, serviceaccount::is_active};

const NAME: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const TEXT: &str =
    "CA bundle by which clients in the cluster verify the API server; nothing else is signed by it.";

/// What must happen in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Nothing,
    Create,
    Update,
}

pub(super) fn start(ctx: &Context) {
    let Some(bundle) = ctx.settings.root_ca.clone() else {
        tracing::info!("no --root-ca-file: {NAME} is not published");
        return;
    };
    let namespaces = ctx.informers.get::<Namespace>(ListWatch::default());
    let named = ListWatch { fields: Some(format!("metadata.name={NAME}")), ..ListWatch::default() };
    let maps = ctx.informers.get::<ConfigMap>(named);
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("root_ca_cert_publisher");
    enqueue_changes(&namespaces, &queue);
    let of_map = queue.clone();
    maps.on_event(move |event| {
        of_map.add(ObjectKey::cluster(event.object().metadata.namespace.clone().unwrap_or_default()));
    });
    let (client, clock) = (ctx.client.clone(), ctx.clock.clone());
    run_workers(&ctx.tasks, &queue, 1, move |key| {
        let (namespaces, maps, client, bundle) =
            (namespaces.clone(), maps.clone(), client.clone(), bundle.clone());
        let clock = clock.clone();
        async move {
            namespaces.wait_synced().await;
            maps.wait_synced().await;
            let started = clock.now();
            let namespace = namespaces.store().get(&key);
            let map = maps.store().get(&ObjectKey::new(key.name.clone(), NAME));
            let action = plan(namespace.as_deref(), map.as_deref(), &bundle);
            let api = Api::namespaced(client, &key.name);
            let done = act(action, map.as_deref(), &api, &bundle).await;
            SYNCS.observe(clock.since(started), &done);
            done.map(|()| Outcome::Done)
        }
    });
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

fn plan(namespace: Option<&Namespace>, map: Option<&ConfigMap>, bundle: &str) -> Action {
    match (namespace.is_some_and(is_active), map) {
        (false, _) => Action::Nothing,
        (true, None) => Action::Create,
        (true, Some(map)) => {
            let data = map.data.as_ref().and_then(|d| d.get(KEY));
            if data.map(String::as_str) == Some(bundle) { Action::Nothing } else { Action::Update }
        }
    }
}

async fn act(
    action: Action,
    there: Option<&ConfigMap>,
    api: &Api<ConfigMap>,
    bundle: &str,
) -> Result<(), kube::Error> {
    let result = match action {
        Action::Nothing => return Ok(()),
        Action::Create => {
            let mut map = ConfigMap {
                data: Some([(KEY.to_owned(), bundle.to_owned())].into()),
                ..ConfigMap::default()
            };
            map.metadata.name = Some(NAME.into());
            map.metadata.annotations = Some([(DESCRIPTION.to_owned(), TEXT.to_owned())].into());
            api.create(&PostParams::default(), &map).await
        }
        Action::Update => {
            let mut map = there.cloned().unwrap_or_default();
            map.data.get_or_insert_default().insert(KEY.to_owned(), bundle.to_owned());
            api.replace(NAME, &PostParams::default(), &map).await
        }
    };
    match result {
        Err(e)
            if !client::is_already_exists(&e)
                && !client::is_not_found(&e)
                && !client::is_namespace_terminating(&e) =>
        {
            Err(e)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_bundle_is_made_and_mended_in_active_namespaces() {
        let namespace: Namespace = serde_json::from_value(json!({"status": {"phase": "Active"}})).unwrap();
        let map = |text: &str| ConfigMap {
            data: Some([(KEY.to_owned(), text.to_owned())].into()),
            ..ConfigMap::default()
        };
        assert_eq!(plan(Some(&namespace), None, "ca"), Action::Create);
        assert_eq!(plan(Some(&namespace), Some(&map("ca")), "ca"), Action::Nothing);
        assert_eq!(plan(Some(&namespace), Some(&map("old")), "ca"), Action::Update);
        assert_eq!(plan(None, None, "ca"), Action::Nothing);
    }
}
