//! A candidate that tells the API server of itself, and that it lives when it is asked: the server chooses who leads.
//!
//! Contract: KEP-4355; client-go's `tools/leaderelection/leasecandidate.go`.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::coordination::v1beta1::{LeaseCandidate, LeaseCandidateSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use tokio::sync::Notify;

use super::LeaderElection;
use crate::{
    backoff::jittered,
    clock::SharedClock,
    informer::{Event, Informer, Informers, ListWatch},
    meta::ObjectKey,
    task::Tasks,
    version::GIT_VERSION,
    workqueue::chain,
};

/// How the server is to choose.
const STRATEGY: &str = "OldestEmulationVersion";
/// Nobody need ask for so long.
const RENEW: Duration = Duration::from_secs(300);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps the candidate of an election there until the group drains.
pub(super) async fn keep(election: LeaderElection, client: kube::Client, clock: SharedClock, tasks: Tasks) {
    let informers = Informers::new(client.clone(), &tasks);
    let own = ListWatch {
        namespace: Some(election.namespace.clone()),
        fields: Some(format!("metadata.name={}", election.identity)),
        ..ListWatch::default()
    };
    let known: Informer<LeaseCandidate> = informers.get(own);
    let asked = Arc::new(Notify::new());
    let bell = asked.clone();
    known.on_event(move |event| match event {
        Event::Updated { new, .. } if is_asked(&new) => bell.notify_one(),
        Event::Deleted { .. } => bell.notify_one(),
        _ => {}
    });
    let telling = async {
        informers.wait_synced().await;
        loop {
            let pause = match tell(&election, &client, &known, &clock).await {
                Ok(()) => RENEW,
                Err(error) => {
                    tracing::warn!(error = chain(&error), "this candidate cannot be told of");
                    jittered(RETRY, 1.0, &mut rand::rng())
                }
            };
            if tokio::time::timeout(pause, asked.notified()).await.is_ok() {
                tracing::debug!(lock = election.name, "asked whether this candidate lives");
            }
        }
    };
    tasks.drain().run_until_cancelled(telling).await;
}

fn is_asked(candidate: &LeaseCandidate) -> bool {
    match (&candidate.spec.ping_time, &candidate.spec.renew_time) {
        (Some(asked), Some(answered)) => asked.0 > answered.0,
        (asked, None) => asked.is_some(),
        (None, _) => false,
    }
}

/// Creates the candidate, or says once more that it lives.
async fn tell(
    election: &LeaderElection,
    client: &kube::Client,
    known: &Informer<LeaseCandidate>,
    clock: &SharedClock,
) -> Result<(), kube::Error> {
    let api: Api<LeaseCandidate> = Api::namespaced(client.clone(), &election.namespace);
    let key = ObjectKey::new(election.namespace.as_str(), election.identity.as_str());
    let now = Some(MicroTime(clock.now()));
    if let Some(current) = known.store().get(&key) {
        let mut renewed = (*current).clone();
        renewed.spec.renew_time = now;
        return api.replace(&election.identity, &PostParams::default(), &renewed).await.map(drop);
    }
    let version = GIT_VERSION.trim_start_matches('v').to_owned();
    let candidate = LeaseCandidate {
        metadata: ObjectMeta {
            name: Some(election.identity.clone()),
            namespace: Some(election.namespace.clone()),
            ..ObjectMeta::default()
        },
        spec: LeaseCandidateSpec {
            lease_name: election.name.clone(),
            binary_version: version.clone(),
            emulation_version: Some(version),
            strategy: STRATEGY.to_owned(),
            renew_time: now,
            ping_time: None,
        },
    };
    api.create(&PostParams::default(), &candidate).await.map(drop)
}
