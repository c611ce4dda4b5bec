//! Every active namespace has a service account named `default`.

use component_base::{
    client,
    informer::ListWatch,
    meta::ObjectKey,
    workqueue::{Outcome, WorkQueue, run_workers},
};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::{Api, api::PostParams};

use super::{Context, enqueue_changes};

const NAME: &str = "default";

pub(super) fn start(ctx: &Context) {
    let namespaces = ctx.informers.get::<Namespace>(ListWatch::default());
    let accounts = ctx.informers.get::<ServiceAccount>(ListWatch::default());
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("serviceaccount");
    enqueue_changes(&namespaces, &queue);
    let of_account = queue.clone();
    accounts.on_event(move |event| {
        let meta = &event.object().metadata;
        if meta.name.as_deref() == Some(NAME) {
            of_account.add(ObjectKey::cluster(meta.namespace.clone().unwrap_or_default()));
        }
    });
    let api = ctx.client.clone();
    run_workers(&ctx.tasks, &queue, 1, move |key| {
        let (namespaces, accounts, api) = (namespaces.clone(), accounts.clone(), api.clone());
        async move {
            namespaces.wait_synced().await;
            accounts.wait_synced().await;
            let namespace = namespaces.store().get(&key);
            let exists = accounts.store().get(&ObjectKey::new(key.name.clone(), NAME)).is_some();
            if !wanted(namespace.as_deref(), exists) {
                return Ok(Outcome::Done);
            }
            let mut account = ServiceAccount::default();
            account.metadata.name = Some(NAME.into());
            let api: Api<ServiceAccount> = Api::namespaced(api, &key.name);
            match api.create(&PostParams::default(), &account).await {
                Err(e)
                    if !client::is_already_exists(&e)
                        && !client::is_namespace_terminating(&e)
                        && !client::is_not_found(&e) =>
                {
                    Err(e)
                }
                _ => Ok(Outcome::Done),
            }
        }
    });
}

/// Whether the account must be made.
fn wanted(namespace: Option<&Namespace>, exists: bool) -> bool {
    !exists && namespace.is_some_and(is_active)
}

/// Whether a namespace takes new objects.
pub(super) fn is_active(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_none()
        && namespace.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Terminating")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_active_namespaces_without_one_get_an_account() {
        let namespace = |phase: &str| -> Namespace {
            serde_json::from_value(json!({"status": {"phase": phase}})).unwrap()
        };
        assert!(wanted(Some(&namespace("Active")), false));
        assert!(!wanted(Some(&namespace("Active")), true));
        assert!(!wanted(Some(&namespace("Terminating")), false));
        assert!(!wanted(None, false));
    }
}
