//! Leaders of other daemons, chosen by the server: candidates tell of themselves in a `LeaseCandidate` and hold a `Lease`
//! only when it is given to them.
//!
//! ```text
//! leader-election-controller lease (one server of all) → LeaseCandidates, Leases → plan → ping candidates, write the lease
//! ```
//!
//! Contract: KEP-4355; upstream's `pkg/controlplane/controller/leaderelection`.

use std::{sync::Arc, time::Duration};

use component_base::workqueue::WorkQueue;
use futures::StreamExt;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    object::Object,
    objects::{Change, Kind, LEASE_CANDIDATES, LEASES, Objects, micro, new_object},
    status::{Reason, Status},
};

use self::{
    lock::Lock,
    plan::{Candidate, Step},
};

mod lock;
mod plan;

pub use self::lock::Timers;

const NAME: &str = "leader-election-controller";
/// How often a lease with candidates is looked at although nothing is told of it: that is how its end is noticed.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How often candidates that have been silent are removed.
const COLLECT: Duration = Duration::from_secs(30 * 60);
/// Pause before a watch that ended is begun again.
const RETRY: Duration = Duration::from_millis(200);

/// Namespace and name of a lease.
type Key = (String, String);

/// Chooses leaders whenever this server is the one that does, until `drain`.
pub async fn run(objects: Arc<dyn Objects>, identity: String, timers: Timers, drain: CancellationToken) {
    let mut lock = Lock::new(objects.clone(), NAME, identity, timers);
    let term = async {
        loop {
            lock.acquire().await;
            let controller = Controller { objects: objects.clone(), queue: WorkQueue::new(NAME) };
            tokio::select! {
                () = lock.renew() => tracing::warn!("another server chooses the leaders from now on"),
                () = controller.lead() => {}
            }
        }
    };
    drain.run_until_cancelled(term).await;
    lock.release().await;
}

struct Controller {
    objects: Arc<dyn Objects>,
    queue: WorkQueue<Key>,
}

impl Controller {
    /// Never ends by itself.
    async fn lead(&self) {
        let candidates = self.follow(LEASE_CANDIDATES, |candidate| {
            let known = Candidate::of(candidate);
            // One that has just been asked is waited for.
            (!known.is_asked()).then_some((candidate.namespace().to_owned(), known.lease))
        });
        let leases =
            self.follow(LEASES, |lease| Some((lease.namespace().to_owned(), lease.name().to_owned())));
        let work = async {
            while let Some(key) = self.queue.get().await {
                let again = match self.reconcile(&key).await {
                    Ok(again) => again,
                    Err(status) => {
                        tracing::warn!(namespace = key.0, name = key.1, error = %status, "no leader can be chosen now");
                        true
                    }
                };
                self.queue.done(&key);
                if again {
                    self.queue.add_after(key, LOOK_AGAIN);
                }
            }
        };
        tokio::join!(candidates, leases, work, self.collect());
    }

    /// Queues the leases that objects of a kind tell of.
    async fn follow(&self, kind: Kind, lease_of: impl Fn(&Object) -> Option<Key>) {
        loop {
            match self.objects.watch(kind).await {
                Ok(mut changes) => {
                    while let Some(change) = changes.next().await {
                        if let Change::Applied(object) | Change::Deleted(object) = change
                            && let Some(key) = lease_of(&object)
                        {
                            self.queue.add(key);
                        }
                    }
                }
                Err(status) => tracing::warn!(resource = kind.resource, error = %status, "watch failed"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// One step of the election for a lease; whether it is to be looked at again although nothing happens.
    async fn reconcile(&self, (namespace, name): &Key) -> Result<bool, Status> {
        let now = Timestamp::now();
        let all = self.objects.list(LEASE_CANDIDATES, Some(namespace)).await?;
        let mut candidates: Vec<Candidate> = all.iter().map(|one| Candidate::of(one)).collect();
        candidates.retain(|candidate| candidate.lease == *name && !candidate.is_silent(now));
        if candidates.is_empty() {
            return Ok(false);
        }
        let lease = self.objects.get(LEASES, namespace, name).await?;
        match plan::step(lease.as_deref(), &candidates, now) {
            Step::Settled | Step::Waits => {}
            Step::Undecided(why) => {
                tracing::warn!(namespace, name, why, "no leader can be chosen");
            }
            Step::Ask(names) => {
                for one in all.iter().filter(|one| names.contains(&one.name())) {
                    let mut asked = (**one).clone();
                    plan::spec_of(&mut asked).insert("pingTime".to_owned(), micro(now).into());
                    self.objects.update(LEASE_CANDIDATES, asked).await?;
                }
            }
            Step::Choose { strategy, holder } => {
                self.choose((namespace.as_str(), name.as_str()), strategy, holder).await?;
            }
        }
        Ok(true)
    }

    /// Writes who was chosen, to a lease as it is now.
    async fn choose(
        &self,
        (namespace, name): (&str, &str),
        strategy: &str,
        holder: Option<&str>,
    ) -> Result<(), Status> {
        let now = Timestamp::now();
        let Some(current) = self.objects.get_latest(LEASES, namespace, name).await? else {
            let mut lease = new_object("coordination.k8s.io/v1", "Lease", namespace, name, now);
            plan::begin(&mut lease, strategy, holder, now);
            return match self.objects.create(LEASES, lease).await {
                Err(status) if status.reason != Reason::AlreadyExists => Err(status),
                _ => {
                    tracing::info!(namespace, name, holder, strategy, "lease created for its leader");
                    Ok(())
                }
            };
        };
        let mut lease = (*current).clone();
        if plan::amend(&mut lease, strategy, holder, now) {
            tracing::info!(namespace, name, holder, strategy, "leader chosen");
            self.objects.update(LEASES, lease).await?;
        }
        Ok(())
    }

    /// Removes candidates that have been silent for so long that nobody counts them any more.
    async fn collect(&self) {
        loop {
            if let Err(status) = self.collect_once().await {
                tracing::warn!(error = %status, "silent candidates are not removed yet");
            }
            tokio::time::sleep(COLLECT).await;
        }
    }

    async fn collect_once(&self) -> Result<(), Status> {
        let silent = |object: &Object| Candidate::of(object).is_silent(Timestamp::now());
        for known in self.objects.list(LEASE_CANDIDATES, None).await?.iter().filter(|known| silent(known)) {
            let latest = self.objects.get_latest(LEASE_CANDIDATES, known.namespace(), known.name()).await?;
            if let Some(candidate) = latest.filter(|candidate| silent(candidate)) {
                self.objects.delete(LEASE_CANDIDATES, &candidate).await?;
            }
        }
        Ok(())
    }
}
