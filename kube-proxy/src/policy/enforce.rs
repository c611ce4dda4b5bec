//! Carrying the policies' plan out: informers fill the index, the index is planned, differences are committed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use component_base::{
    informer::{Informer, Informers, ListWatch},
    metrics::{self, Stability},
    task::Tasks,
    workqueue,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use parking_lot::Mutex;
use prometheus::{Histogram, IntCounter};
use tokio::sync::Notify;

use super::{Index, Planner, plan};
use crate::{
    kernel::{self, Content, Guard, Kernel, KernelError, POLICIES},
    objects::{Namespace, Pod},
    sync,
    tables::{Command, Family, diff},
};

/// Shortest time between changes of the table, so that a burst of pods is one change.
const REST: Duration = Duration::from_millis(50);
/// Time between repairs of what somebody else has touched.
const REPAIR: Duration = Duration::from_secs(3600);
/// Time before a refused change is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Pods that have an address of their own, or will have.
const WITH_ADDRESS: &str = "spec.hostNetwork=false,status.phase!=Succeeded,status.phase!=Failed";

/// Keeps the policies' tables right.
#[derive(Debug)]
pub struct Enforcer {
    index: Arc<Mutex<Index>>,
    changed: Arc<Notify>,
    policies: Informer<NetworkPolicy>,
    pods: Informer<Pod>,
    namespaces: Informer<Namespace>,
    kernel: Kernel,
    guard: Guard,
    /// When the tables were looked at.
    looked: Instant,
    planners: Vec<Planner>,
    duration: Histogram,
    failures: IntCounter,
}

// === impl Enforcer ===

impl Enforcer {
    /// Listens to pods, namespaces and policies; touches nothing yet.
    ///
    /// # Errors
    /// When there is no conversation with the kernel.
    pub fn new(informers: &Informers, node: &str) -> Result<Self, KernelError> {
        let with_address = ListWatch { fields: Some(WITH_ADDRESS.to_owned()), ..ListWatch::default() };
        let enforcer = Self {
            index: Arc::new(Mutex::new(Index::new(node))),
            changed: Arc::default(),
            policies: informers.get(ListWatch::default()),
            pods: informers.get(with_address),
            namespaces: informers.get(ListWatch::default()),
            kernel: Kernel::open(POLICIES)?,
            guard: Guard::new(plan::ENTRY),
            looked: Instant::now(),
            planners: sync::families().into_iter().map(Planner::new).collect(),
            duration: metrics::histogram(
                "kubeproxy_sync_network_policies_duration_seconds",
                "Time of a change of the network policies' tables, in seconds",
                Stability::Alpha,
                metrics::exponential_buckets(0.001, 2.0, 15),
            ),
            failures: metrics::counter(
                "kubeproxy_sync_network_policies_failures_total",
                "Changes of the network policies' tables the kernel refused",
                Stability::Alpha,
            ),
        };
        let (index, changed) = (&enforcer.index, &enforcer.changed);
        let told = |index: &Arc<Mutex<Index>>, changed: &Arc<Notify>| (index.clone(), changed.clone());
        let (of_policies, wake) = told(index, changed);
        enforcer.policies.on_event(move |event| wake_if(of_policies.lock().policy(&event), &wake));
        let (of_pods, wake) = told(index, changed);
        enforcer.pods.on_event(move |event| wake_if(of_pods.lock().pod(&event), &wake));
        let (of_namespaces, wake) = told(index, changed);
        enforcer.namespaces.on_event(move |event| wake_if(of_namespaces.lock().namespace(&event), &wake));
        Ok(enforcer)
    }

    /// Enforces until the drain. What an earlier proxy left in the kernel holds until all objects are known.
    pub async fn run(mut self, tasks: Tasks) {
        let drain = tasks.drain();
        tokio::select! {
            () = self.synced() => {}
            () = drain.cancelled() => return,
        }
        let mut repaired = Instant::now();
        loop {
            if repaired.elapsed() > REPAIR {
                repaired = Instant::now();
                self.planners.iter_mut().for_each(Planner::forget);
            }
            // Netlink answers within the call; other tasks move to other threads meanwhile.
            let done = tokio::task::block_in_place(|| self.sync());
            tokio::select! {
                () = self.something_to_do(if done { REPAIR } else { RETRY }) => {}
                () = drain.cancelled() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(REST) => {}
                () = drain.cancelled() => return,
            }
        }
    }

    async fn something_to_do(&mut self, rest: Duration) {
        let (changed, mut looked) = (self.changed.clone(), self.looked);
        let lost = || match self.lost(Instant::now()) {
            Ok(lost) if lost.is_empty() => false,
            Ok(lost) => {
                tracing::warn!("tables of network policies were changed by others; they are made anew");
                let planners = self.planners.iter_mut();
                planners.filter(|p| lost.contains(&p.family())).for_each(Planner::forget);
                true
            }
            Err(error) => {
                tracing::warn!(error = workqueue::chain(&error), "network policies not looked at");
                false
            }
        };
        kernel::something_to_do(rest, &changed, &mut looked, lost).await;
        self.looked = looked;
    }

    /// The families whose tables others have taken away or changed.
    fn lost(&mut self, now: Instant) -> Result<Vec<Family>, KernelError> {
        let lost = self.guard.lost(&mut self.kernel, now)?;
        if !lost.is_empty() || !self.planners.iter().all(Planner::has_planned) {
            return Ok(lost);
        }
        let planners = &self.planners;
        self.guard.altered(&mut self.kernel, now, |family| {
            let planner = planners.iter().find(|planner| planner.family() == family);
            let commands = planner.map(|planner| diff(None, &planner.table()));
            Content::of(family, commands.unwrap_or_default())
        })
    }

    async fn synced(&self) {
        self.policies.wait_synced().await;
        self.pods.wait_synced().await;
        self.namespaces.wait_synced().await;
    }

    /// Makes the kernel's tables those of the model; whether both families agreed.
    fn sync(&mut self) -> bool {
        let began = Instant::now();
        let commands: Vec<(bool, Vec<Command>)> = {
            let mut index = self.index.lock();
            let concerned = index.take_concerned();
            let plan = |planner: &mut Planner| {
                let anew = !planner.has_planned();
                (anew, planner.change(index.model(), &concerned))
            };
            self.planners.iter_mut().map(plan).collect()
        };
        let mut done = true;
        for (planner, (anew, commands)) in self.planners.iter_mut().zip(commands) {
            let mut outcome = self.kernel.commit(planner.family(), commands);
            if anew && outcome.is_ok() {
                outcome = self.guard.made(&mut self.kernel, planner.family());
            }
            if let Err(error) = outcome {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::error!(%error, cause, "network policies not enforced; they are tried again");
                planner.forget();
                self.failures.inc();
                done = false;
            }
        }
        self.duration.observe(began.elapsed().as_secs_f64());
        done
    }
}

fn wake_if(matters: bool, changed: &Notify) {
    if matters {
        changed.notify_one();
    }
}
