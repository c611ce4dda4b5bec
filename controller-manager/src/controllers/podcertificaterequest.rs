//! Requests for certificates of pods go when they are old: nobody waits for their answer any more.
//!
//! Contract: upstream's `podcertificaterequest-cleaner-controller` (KEP-4317). Off unless the feature
//! `PodCertificateRequest` is on.

use std::time::Duration;

use component_base::{
    client,
    clock::SharedClock,
    informer::{Informer, ListWatch},
    meta::key_of,
    workqueue::chain,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::certificates::v1beta1::PodCertificateRequest, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Preconditions},
};

use super::{Context, run_every};

const NAME: &str = "podcertificaterequest-cleaner-controller";
/// Between two looks.
const PERIOD: Duration = Duration::from_secs(5 * 60);
/// All that comes of a request has come of it by then.
const OLD: SignedDuration = SignedDuration::from_mins(15);

pub(super) fn start(ctx: &Context) {
    let requests: Informer<PodCertificateRequest> = ctx.informers.get(ListWatch::default());
    let (client, clock) = (ctx.client.clone(), ctx.clock.clone());
    run_every(&ctx.tasks, NAME, PERIOD, move || {
        let (requests, client, clock) = (requests.clone(), client.clone(), clock.clone());
        async move {
            pass(&requests, &client, &clock).await;
            Ok::<(), std::convert::Infallible>(())
        }
    });
}

/// One look: each request by itself, so that one that stays holds up no other.
async fn pass(requests: &Informer<PodCertificateRequest>, client: &Client, clock: &SharedClock) {
    requests.wait_synced().await;
    for request in requests.store().list() {
        if !is_old(&request.metadata, clock.now()) {
            continue;
        }
        if let Err(error) = remove(client, &request.metadata).await {
            tracing::error!(request = %key_of(&request.metadata), error = chain(&error), "cannot remove");
        }
    }
}

fn is_old(meta: &ObjectMeta, now: Timestamp) -> bool {
    meta.creation_timestamp.as_ref().is_some_and(|made| now.duration_since(made.0) >= OLD)
}

async fn remove(client: &Client, meta: &ObjectMeta) -> Result<(), kube::Error> {
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let api: Api<PodCertificateRequest> = Api::namespaced(client.clone(), namespace);
    let same = Preconditions { uid: meta.uid.clone(), resource_version: None };
    let name = meta.name.as_deref().unwrap_or_default();
    match api.delete(name, &DeleteParams::default().preconditions(same)).await {
        Err(e) if !client::is_not_found(&e) && !client::is_conflict(&e) => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_are_old_after_a_quarter_of_an_hour() {
        let made: ObjectMeta =
            serde_json::from_value(json!({"creationTimestamp": "2026-01-01T00:00:00Z"})).unwrap();
        let at = |text: &str| is_old(&made, text.parse().unwrap());
        assert!(!at("2026-01-01T00:14:59Z") && at("2026-01-01T00:15:00Z"));
        assert!(!is_old(&ObjectMeta::default(), "2026-01-01T00:00:00Z".parse().unwrap()));
    }
}
