//! Leader election on a `Lease` with client-go's deadlines (`tools/leaderelection`).
//!
//! A candidate takes the lease when nobody holds it or its holder has not renewed it for a lease duration *as this candidate
//! observed it* (remote clocks are never compared). The leader renews every retry period; when it has not managed to for the
//! renew deadline, it stops leading, and the process ends with an error, as upstream's daemons do.
//!
//! A busy daemon must not lose its lease to its own work, so a leader's renewals share neither its threads nor its
//! connection nor its rate limit: [`LeaderElection::start`] holds the election on a thread of its own.

use std::{
    future::Future,
    sync::{Arc, LazyLock},
    time::Duration,
};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use parking_lot::Mutex;
use prometheus::IntGaugeVec;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::jittered,
    client::{self, ClientError, ClientOptions},
    clock::SharedClock,
    health::{Endpoint, Health},
    metrics::{self, Stability},
    task::Tasks,
    workqueue::chain,
};

mod candidate;

/// Candidates spread their attempts by up to this factor beyond the retry period.
const JITTER: f64 = 1.2;

/// One candidate's settings.
#[derive(Clone, Debug)]
pub struct LeaderElection {
    /// Name of the lease.
    pub name: String,
    /// Namespace of the lease.
    pub namespace: String,
    /// Who we are; unique among the candidates.
    pub identity: String,
    /// How long others wait for a silent leader.
    pub lease_duration: Duration,
    /// How long a leader tries to renew before it gives up.
    pub renew_deadline: Duration,
    /// Pause between attempts.
    pub retry_period: Duration,
    /// Give the lease back when the daemon drains, so that the next leader need not wait.
    pub release_on_cancel: bool,
    /// The API server chooses who leads (`CoordinatedLeaderElection`): this candidate tells of itself, takes no lease that
    /// was not given to it, and renews none that is to be another's.
    pub coordinated: bool,
    /// When a leader last had the lease; clones share it.
    pub(crate) watchdog: Watchdog,
}

/// When a leader last had its lease; nothing while it leads not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watchdog(Arc<Mutex<Option<Instant>>>);

/// How much longer than its lease a leader may be silent before its health check fails.
const TOLERATED: Duration = Duration::from_secs(20);

/// Why an election cannot be held. Display is upstream's wording.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaderError {
    #[error("leaseDuration must be greater than renewDeadline")]
    LeaseDuration,
    #[error("renewDeadline must be greater than retryPeriod*JitterFactor")]
    RenewDeadline,
    #[error("retryPeriod must be greater than zero")]
    RetryPeriod,
    #[error("Lock identity is empty")]
    Identity,
}

/// Why an election did not begin.
#[derive(Debug, thiserror::Error)]
pub enum ElectionError {
    /// Its settings do not fit together.
    #[error("settings")]
    Settings(#[from] LeaderError),
    /// There is no way to the API server.
    #[error("no API client")]
    Client(#[from] ClientError),
    /// The system gives no thread or no runtime for it.
    #[error("no thread")]
    Thread(#[from] std::io::Error),
}

impl LeaderElection {
    /// Upstream's defaults (15 s, 10 s, 2 s) with an identity of host name and a random id.
    pub fn new(name: &str, namespace: &str) -> LeaderElection {
        let host =
            nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok()).unwrap_or_default();
        LeaderElection {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            identity: format!("{host}_{}", uuid::Uuid::new_v4()),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
            release_on_cancel: false,
            coordinated: false,
            watchdog: Watchdog::default(),
        }
    }

    /// Adds the check `leaderElection` to endpoints: it fails when a leader that has lost its lease goes on.
    pub fn watched(&self, health: &Health, endpoints: &[Endpoint]) {
        let (watchdog, name, limit) =
            (self.watchdog.clone(), self.name.clone(), self.lease_duration + TOLERATED);
        health.add_to(endpoints, "leaderElection", move || match *watchdog.0.lock() {
            Some(held) if held.elapsed() > limit => {
                Err(format!("failed election to renew leadership on lease {name}"))
            }
            _ => Ok(()),
        });
    }

    /// Checks that the periods fit together.
    ///
    /// # Errors
    /// When they do not.
    pub fn validate(&self) -> Result<(), LeaderError> {
        if self.lease_duration <= self.renew_deadline {
            return Err(LeaderError::LeaseDuration);
        }
        if self.renew_deadline <= self.retry_period.mul_f64(JITTER) {
            return Err(LeaderError::RenewDeadline);
        }
        if self.retry_period.is_zero() {
            return Err(LeaderError::RetryPeriod);
        }
        if self.identity.is_empty() {
            return Err(LeaderError::Identity);
        }
        Ok(())
    }

    /// Holds the election on a thread, a connection and without a rate limit of its own; `lead` runs on the caller's
    /// runtime. Otherwise as [`LeaderElection::run`].
    ///
    /// # Errors
    /// When the settings do not fit together, or there is no client or thread.
    pub async fn start<F, Fut>(
        self,
        options: &ClientOptions,
        clock: SharedClock,
        tasks: &Tasks,
        lead: F,
    ) -> Result<(), ElectionError>
    where
        F: FnOnce(Tasks) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.validate()?;
        let (workers, group) = (tokio::runtime::Handle::current(), tasks.clone());
        let options = ClientOptions { qps: -1.0, ..options.clone() };
        let (connected, connection) = tokio::sync::oneshot::channel();
        tasks.spawn_thread("leader election", async move {
            // A client's connections live on the runtime it was made on.
            match client::connect(&options).await {
                Ok(client) => {
                    // Nobody waits any more where the daemon already ends.
                    drop(connected.send(Ok(())));
                    self.hold(client, clock, group, workers, lead).await;
                }
                Err(error) => drop(connected.send(Err(error))),
            }
        })?;
        // Without an answer the thread was ended by a shutdown, which is no error of the election.
        connection.await.unwrap_or(Ok(())).map_err(ElectionError::Client)
    }

    /// Runs the election in a task. When the lease is won, `lead` is called with a task group that ends with the leadership;
    /// it starts its tasks there. When the lease is lost, the group is drained and the daemon fails.
    ///
    /// # Errors
    /// When the settings do not fit together.
    pub fn run<F, Fut>(
        self,
        client: kube::Client,
        clock: SharedClock,
        tasks: &Tasks,
        lead: F,
    ) -> Result<(), LeaderError>
    where
        F: FnOnce(Tasks) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.validate()?;
        let workers = tokio::runtime::Handle::current();
        tasks.spawn("leader election", self.hold(client, clock, tasks.clone(), workers, lead));
        Ok(())
    }

    /// From candidate to the end of the leadership. What leads runs on `workers`.
    async fn hold<F, Fut>(
        self,
        client: kube::Client,
        clock: SharedClock,
        group: Tasks,
        workers: tokio::runtime::Handle,
        lead: F,
    ) where
        F: FnOnce(Tasks) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        if self.coordinated {
            let told = candidate::keep(self.clone(), client.clone(), clock.clone(), group.clone());
            group.spawn("lease candidate", told);
        }
        let mut candidate = Candidate::new(self, client, clock);
        let drain = group.drain();
        if drain.run_until_cancelled(candidate.acquire()).await.is_none() {
            return;
        }
        // The leaders' group outlives the drain until the lease has been dealt with, so it is not a child token.
        let leading = CancellationToken::new();
        let leaders = group.child_of(leading.clone());
        {
            let _workers = workers.enter();
            leaders.spawn("leading", lead(leaders.clone()));
        }
        let lost = drain.run_until_cancelled(candidate.renew()).await.is_some();
        leading.cancel();
        *candidate.election.watchdog.0.lock() = None;
        candidate.gauge(false);
        if lost {
            tracing::error!(lock = candidate.lock(), "leader election lost");
            group.fail("leader election lost");
        } else if candidate.election.release_on_cancel {
            candidate.release().await;
        }
    }
}

/// What was last read of the lease, and when by the local clock.
#[derive(Clone, Debug)]
struct Observed {
    lease: Lease,
    at: Instant,
}

struct Candidate {
    election: LeaderElection,
    api: Api<Lease>,
    clock: SharedClock,
    observed: Option<Observed>,
    /// When the last attempt that got the lease began: others count from some later moment.
    held_since: Instant,
    reported: String,
}

impl Candidate {
    fn new(election: LeaderElection, client: kube::Client, clock: SharedClock) -> Candidate {
        let api = Api::namespaced(client, &election.namespace);
        let candidate = Candidate {
            election,
            api,
            clock,
            observed: None,
            held_since: Instant::now(),
            reported: String::new(),
        };
        candidate.gauge(false);
        candidate
    }

    fn lock(&self) -> String {
        format!("{}/{}", self.election.namespace, self.election.name)
    }

    fn gauge(&self, leading: bool) {
        MASTER_STATUS.with_label_values(&[self.election.name.as_str()]).set(i64::from(leading));
    }

    /// Tries until the lease is held.
    async fn acquire(&mut self) {
        tracing::info!(lock = self.lock(), "attempting to acquire leader lease");
        loop {
            if self.attempt().await {
                tracing::info!(lock = self.lock(), identity = self.election.identity, "became leader");
                self.gauge(true);
                return;
            }
            let pause = jittered(self.election.retry_period, JITTER, &mut rand::rng());
            tokio::time::sleep(pause).await;
        }
    }

    /// Renews the lease; returns when it could not be renewed for the renew deadline, and in any case before the lease
    /// ends for others.
    async fn renew(&mut self) {
        loop {
            let period = self.election.retry_period;
            tokio::time::sleep(period).await;
            let give_up = (Instant::now() + self.election.renew_deadline)
                .min(self.held_since + self.election.lease_duration);
            let renewed = tokio::time::timeout_at(give_up, async {
                while !self.attempt().await {
                    tokio::time::sleep(period).await;
                }
            });
            if renewed.await.is_err() {
                return;
            }
        }
    }

    /// One attempt, bounded by half the renew deadline so that a request that got lost leaves time for another;
    /// failures are logged and count as not held.
    async fn attempt(&mut self) -> bool {
        let began = Instant::now();
        let bound = self.election.renew_deadline / 2;
        let held = match tokio::time::timeout(bound, self.try_acquire_or_renew()).await {
            Ok(Ok(held)) => held,
            Ok(Err(error)) => {
                tracing::error!(lock = self.lock(), error = chain(&error), "lease cannot be read or written");
                false
            }
            Err(_) => {
                tracing::error!(lock = self.lock(), "no answer about the lease in time");
                false
            }
        };
        if held {
            self.held_since = began;
            *self.election.watchdog.0.lock() = Some(began);
        }
        self.report_holder();
        held
    }

    fn report_holder(&mut self) {
        let holder = self.observed.as_ref().and_then(|observed| holder(&observed.lease)).unwrap_or_default();
        if holder != self.reported {
            tracing::info!(lock = self.lock(), holder, "new leader elected");
            self.reported = holder.to_owned();
        }
    }

    async fn try_acquire_or_renew(&mut self) -> Result<bool, kube::Error> {
        if self.renew_as_observed().await {
            return Ok(true);
        }
        let Some(found) = self.api.get_opt(&self.election.name).await? else {
            if self.election.coordinated {
                return Ok(false);
            }
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.election.name.clone()),
                    namespace: Some(self.election.namespace.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.spec(None)),
            };
            let created = self.api.create(&PostParams::default(), &lease).await?;
            self.observe(created);
            return Ok(true);
        };
        if self.observed.as_ref().is_none_or(|observed| observed.lease.spec != found.spec) {
            self.observe(found.clone());
        }
        let holder = holder(&found);
        let ours = holder == Some(self.election.identity.as_str());
        if self.election.coordinated && (!ours || is_ending(&found) || self.expired()) {
            return Ok(false);
        }
        if !ours && holder.is_some_and(|holder| !holder.is_empty()) && !self.expired() {
            return Ok(false);
        }
        let mut lease = found;
        lease.spec = Some(self.spec(lease.spec.as_ref()));
        let written = self.api.replace(&self.election.name, &PostParams::default(), &lease).await?;
        self.observe(written);
        Ok(true)
    }

    /// Renews what is ours by one write, without a read before it. Whatever goes wrong is for the slower way to find out.
    async fn renew_as_observed(&mut self) -> bool {
        let ours = |lease: &&Lease| {
            holder(lease) == Some(self.election.identity.as_str())
                && !(self.election.coordinated && (is_ending(lease) || self.expired()))
        };
        let Some(observed) = self.observed.as_ref().map(|observed| &observed.lease).filter(ours) else {
            return false;
        };
        let mut lease = observed.clone();
        lease.spec = Some(self.spec(lease.spec.as_ref()));
        match self.api.replace(&self.election.name, &PostParams::default(), &lease).await {
            Ok(written) => {
                self.observe(written);
                true
            }
            Err(error) => {
                tracing::debug!(
                    lock = self.lock(),
                    error = chain(&error),
                    "lease is not as it was last seen"
                );
                false
            }
        }
    }

    fn observe(&mut self, lease: Lease) {
        self.observed = Some(Observed { lease, at: Instant::now() });
    }

    /// Whether the observed holder has been silent for the lease duration it promised.
    fn expired(&self) -> bool {
        let Some(observed) = &self.observed else { return true };
        let promised = observed.lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds).unwrap_or(0);
        observed.at.elapsed() >= Duration::from_secs(u64::try_from(promised).unwrap_or(0))
    }

    /// The lease held by us, following on what it was.
    fn spec(&self, old: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(self.clock.now());
        let ours = old.is_some_and(|old| old.holder_identity.as_deref() == Some(&self.election.identity));
        let transitions = old.and_then(|old| old.lease_transitions).unwrap_or(0);
        let mut spec = old.cloned().unwrap_or_default();
        spec.holder_identity = Some(self.election.identity.clone());
        spec.lease_duration_seconds = i32::try_from(self.election.lease_duration.as_secs()).ok();
        spec.renew_time = Some(now.clone());
        if !ours {
            spec.acquire_time = Some(now);
        }
        spec.lease_transitions = Some(if ours || old.is_none() { transitions } else { transitions + 1 });
        spec
    }

    /// Gives the lease back, if it is still ours.
    async fn release(&mut self) {
        let Some(observed) = self.observed.take() else { return };
        let mut lease = observed.lease;
        if holder(&lease) != Some(self.election.identity.as_str()) {
            return;
        }
        let now = MicroTime(self.clock.now());
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: lease.spec.and_then(|spec| spec.lease_transitions),
            ..LeaseSpec::default()
        });
        let parameters = PostParams::default();
        let written = self.api.replace(&self.election.name, &parameters, &lease);
        match tokio::time::timeout(self.election.renew_deadline, written).await {
            Ok(Ok(_)) => tracing::info!(lock = self.lock(), "released the leader lease"),
            Ok(Err(error)) => tracing::warn!(error = chain(&error), "leader lease cannot be released"),
            Err(_) => tracing::warn!("leader lease cannot be released in time"),
        }
    }
}

/// Whether the holder is to let it go to another.
fn is_ending(lease: &Lease) -> bool {
    let preferred = lease.spec.as_ref().and_then(|spec| spec.preferred_holder.as_deref());
    preferred.is_some_and(|preferred| !preferred.is_empty())
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref()
}

static MASTER_STATUS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Gauge of if the reporting system is master of the relevant lease, 0 indicates backup, 1 indicates master. \
                'name' is the string used to identify the lease. Please make sure to group by name.";
    metrics::gauge_vec("leader_election_master_status", help, Stability::Alpha, &["name"])
});

#[cfg(test)]
mod tests;
