//! The cluster's CA bundle is published as a ClusterTrustBundle of the signer of API servers' certificates.
//!
//! ```text
//! bundle, ClusterTrustBundles of the signer → plan (pure) → one to make or mend, all others go
//! ```
//! Contract: upstream's `kube-apiserver-serving-clustertrustbundle-publisher-controller` (KEP-3257). Off unless the
//! feature `ClusterTrustBundle` is on.

use std::sync::{Arc, LazyLock};

use component_base::{
    client,
    informer::{Informer, ListWatch},
    meta::ObjectKey,
    workqueue::{Outcome, WorkQueue, run_workers},
};
use k8s_openapi::api::certificates::v1beta1::{ClusterTrustBundle, ClusterTrustBundleSpec};
use kube::{
    Api,
    api::{DeleteParams, ObjectMeta, PostParams},
};
use sha2::{Digest, Sha256};

use super::{Context, published::Syncs};

const SIGNER: &str = "kubernetes.io/kube-apiserver-serving";
/// Bytes of the bundle's hash in its name.
const HASHED: usize = 12;

/// What makes the published bundles right.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    create: Option<ClusterTrustBundle>,
    update: Option<ClusterTrustBundle>,
    /// Names of bundles that are no longer the cluster's.
    delete: Vec<String>,
}

pub(super) fn start(ctx: &Context) {
    let Some(bundle) = ctx.settings.root_ca.clone() else {
        tracing::info!("no --root-ca-file: no ClusterTrustBundle of {SIGNER} is published");
        return;
    };
    let bundles: Informer<ClusterTrustBundle> = ctx
        .informers
        .get(ListWatch { fields: Some(format!("spec.signerName={SIGNER}")), ..ListWatch::default() });
    let queue: WorkQueue<ObjectKey> = WorkQueue::new("ca_cert_publisher_cluster_trust_bundles");
    // There is one thing to look at, whatever happens.
    let (all, of_bundle) = (ObjectKey::cluster(""), queue.clone());
    queue.add(all.clone());
    bundles.on_event(move |_| of_bundle.add(all.clone()));
    let (api, clock) = (Api::<ClusterTrustBundle>::all(ctx.client.clone()), ctx.clock.clone());
    run_workers(&ctx.tasks, &queue, 1, move |_| {
        let (bundles, api, bundle, clock) = (bundles.clone(), api.clone(), bundle.clone(), clock.clone());
        async move {
            bundles.wait_synced().await;
            let started = clock.now();
            let done = act(&api, plan(&bundle, &bundles.store().list())).await;
            SYNCS.observe(clock.since(started), &done);
            done.map(|()| Outcome::Done)
        }
    });
}

/// The name follows from the content: a new bundle is there before the old one goes.
fn name_of(bundle: &str) -> String {
    let hash: String = Sha256::digest(bundle).iter().take(HASHED).map(|byte| format!("{byte:02x}")).collect();
    format!("{}:{hash}", SIGNER.replace('/', ":"))
}

fn plan(bundle: &str, published: &[Arc<ClusterTrustBundle>]) -> Plan {
    let wanted = name_of(bundle);
    let name = |published: &ClusterTrustBundle| published.metadata.name.clone().unwrap_or_default();
    let mut out = Plan::default();
    match published.iter().find(|published| name(published) == wanted) {
        None => {
            let metadata = ObjectMeta { name: Some(wanted.clone()), ..ObjectMeta::default() };
            let spec =
                ClusterTrustBundleSpec { signer_name: Some(SIGNER.into()), trust_bundle: bundle.to_owned() };
            out.create = Some(ClusterTrustBundle { metadata, spec });
        }
        Some(there) if there.spec.trust_bundle != bundle => {
            let mut next = (**there).clone();
            next.spec.trust_bundle = bundle.to_owned();
            out.update = Some(next);
        }
        Some(_) => {}
    }
    out.delete = published.iter().map(|published| name(published)).filter(|name| *name != wanted).collect();
    out
}

async fn act(api: &Api<ClusterTrustBundle>, plan: Plan) -> Result<(), kube::Error> {
    if let Some(new) = &plan.create {
        match api.create(&PostParams::default(), new).await {
            Err(e) if !client::is_already_exists(&e) => return Err(e),
            _ => {}
        }
    }
    if let Some(next) = &plan.update {
        api.replace(next.metadata.name.as_deref().unwrap_or_default(), &PostParams::default(), next).await?;
    }
    let mut failure = None;
    for name in plan.delete {
        match api.delete(&name, &DeleteParams::default()).await {
            Err(e) if !client::is_not_found(&e) => failure = Some(e),
            _ => {}
        }
    }
    failure.map_or(Ok(()), Err)
}

static SYNCS: LazyLock<Syncs> = LazyLock::new(|| {
    Syncs::register(
        [
            "clustertrustbundle_publisher_sync_total",
            "Number of syncs that occurred in cluster trust bundle publisher.",
        ],
        [
            "clustertrustbundle_publisher_sync_duration_seconds",
            "The time it took to sync a cluster trust bundle.",
        ],
    )
});

#[cfg(test)]
mod tests {
    use super::*;

    fn published(name: &str, bundle: &str) -> Arc<ClusterTrustBundle> {
        Arc::new(ClusterTrustBundle {
            metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
            spec: ClusterTrustBundleSpec { signer_name: Some(SIGNER.into()), trust_bundle: bundle.into() },
        })
    }

    #[test]
    fn there_is_one_bundle_and_it_is_the_clusters() {
        let (mine, old) = (name_of("new"), name_of("old"));
        assert_eq!(mine, "kubernetes.io:kube-apiserver-serving:11507a0e2f5e69d5dfa40a62");
        let create = plan("new", &[published(&old, "old")]);
        assert_eq!(create.create.as_ref(), Some(&*published(&mine, "new")));
        assert_eq!((create.update, create.delete), (None, vec![old.clone()]));
        let update = plan("new", &[published(&mine, "changed")]);
        assert_eq!((update.create, update.update.as_ref()), (None, Some(&*published(&mine, "new"))));
        assert_eq!(plan("new", &[published(&mine, "new")]), Plan::default());
        let both = plan("new", &[published(&mine, "new"), published(&old, "old")]);
        assert_eq!(both, Plan { delete: vec![old], ..Plan::default() });
    }
}
