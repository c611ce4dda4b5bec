//! One server of all: the lease that servers hold among themselves, kept with client-go's deadlines.

use std::{sync::Arc, time::Duration};

use component_base::backoff::jittered;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::plan::spec_of;
use crate::{
    object::Object,
    objects::{LEASES, Objects, micro, new_object},
    status::Status,
};

const NAMESPACE: &str = "kube-system";
/// Attempts are spread by up to this factor beyond the retry period.
const JITTER: f64 = 1.2;

/// How the lease is kept.
#[derive(Clone, Copy, Debug)]
pub struct Timers {
    /// How long others wait for a silent holder.
    pub lease: Duration,
    /// How long the holder tries to renew.
    pub renew: Duration,
    /// Pause between attempts.
    pub retry: Duration,
}

/// A server's part in it.
pub(super) struct Lock {
    objects: Arc<dyn Objects>,
    name: &'static str,
    identity: String,
    timers: Timers,
    /// What the lease said, and since when by this server's clock: clocks of others are not compared.
    observed: Option<(Value, Instant)>,
}

impl Lock {
    pub(super) fn new(
        objects: Arc<dyn Objects>,
        name: &'static str,
        identity: String,
        timers: Timers,
    ) -> Self {
        Self { objects, name, identity, timers, observed: None }
    }

    /// Tries until this server holds it.
    pub(super) async fn acquire(&mut self) {
        while !self.attempt().await {
            let pause = jittered(self.timers.retry, JITTER, &mut rand::rng());
            tokio::time::sleep(pause).await;
        }
        tracing::info!(lock = self.name, identity = self.identity, "became leader");
    }

    /// Renews it; ends when it could not be renewed in time.
    pub(super) async fn renew(&mut self) {
        loop {
            let (retry, deadline) = (self.timers.retry, self.timers.renew);
            tokio::time::sleep(retry).await;
            let renewed = async {
                while !self.attempt().await {
                    tokio::time::sleep(retry).await;
                }
            };
            if tokio::time::timeout(deadline, renewed).await.is_err() {
                return;
            }
        }
    }

    /// Gives it back, so that the next one need not wait.
    pub(super) async fn release(&mut self) {
        let released = async {
            let Some(lease) = self.objects.get_latest(LEASES, NAMESPACE, self.name).await? else {
                return Ok(());
            };
            if holder(&lease) == self.identity {
                let mut free = (*lease).clone();
                let now = micro(Timestamp::now());
                let spec = spec_of(&mut free);
                spec.insert("holderIdentity".to_owned(), "".into());
                spec.insert("leaseDurationSeconds".to_owned(), 1.into());
                spec.insert("acquireTime".to_owned(), now.clone().into());
                spec.insert("renewTime".to_owned(), now.into());
                self.objects.update(LEASES, free).await?;
            }
            Ok::<(), Status>(())
        };
        if let Ok(Err(status)) = tokio::time::timeout(self.timers.renew, released).await {
            tracing::debug!(lock = self.name, error = %status, "the lease ends by itself");
        }
    }

    async fn attempt(&mut self) -> bool {
        match tokio::time::timeout(self.timers.renew / 2, self.try_acquire_or_renew()).await {
            Ok(Ok(held)) => held,
            Ok(Err(status)) => {
                tracing::debug!(lock = self.name, error = %status, "lease cannot be read or written");
                false
            }
            Err(_) => false,
        }
    }

    async fn try_acquire_or_renew(&mut self) -> Result<bool, Status> {
        let now = Timestamp::now();
        let Some(current) = self.objects.get_latest(LEASES, NAMESPACE, self.name).await? else {
            let mut lease = new_object("coordination.k8s.io/v1", "Lease", NAMESPACE, self.name, now);
            self.hold(&mut lease, now);
            let made = self.objects.create(LEASES, lease).await?;
            self.observe(&made);
            return Ok(true);
        };
        self.observe(&current);
        let held_by = holder(&current);
        if !held_by.is_empty() && held_by != self.identity && !self.is_over(&current) {
            return Ok(false);
        }
        let mut lease = (*current).clone();
        self.hold(&mut lease, now);
        let written = self.objects.update(LEASES, lease).await?;
        self.observe(&written);
        Ok(true)
    }

    fn observe(&mut self, lease: &Object) {
        let spec = lease.get("spec").cloned().unwrap_or_default();
        if self.observed.as_ref().is_none_or(|(known, _)| *known != spec) {
            self.observed = Some((spec, Instant::now()));
        }
    }

    /// Whether the holder has said nothing for as long as it promised to.
    fn is_over(&self, lease: &Object) -> bool {
        let promised = lease.pointer("/spec/leaseDurationSeconds").and_then(Value::as_u64).unwrap_or(0);
        self.observed.as_ref().is_none_or(|(_, since)| since.elapsed() >= Duration::from_secs(promised))
    }

    fn hold(&self, lease: &mut Object, now: Timestamp) {
        let is_ours = holder(lease) == self.identity;
        let is_new = lease.get("spec").is_none();
        let spec = spec_of(lease);
        let changes = spec.get("leaseTransitions").and_then(Value::as_i64).unwrap_or(0);
        spec.insert("holderIdentity".to_owned(), self.identity.as_str().into());
        spec.insert("leaseDurationSeconds".to_owned(), json!(self.timers.lease.as_secs()));
        spec.insert("renewTime".to_owned(), micro(now).into());
        if !is_ours {
            spec.insert("acquireTime".to_owned(), micro(now).into());
        }
        spec.insert("leaseTransitions".to_owned(), json!(changes + i64::from(!is_ours && !is_new)));
    }
}

fn holder(lease: &Object) -> &str {
    lease.pointer("/spec/holderIdentity").and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::memory::Memory;

    const TIMERS: Timers = Timers {
        lease: Duration::from_secs(15),
        renew: Duration::from_secs(10),
        retry: Duration::from_secs(2),
    };

    /// Time passes for what a server has observed.
    fn pass(lock: &mut Lock, seconds: u64) {
        let (_, since) = lock.observed.as_mut().unwrap();
        *since -= Duration::from_secs(seconds);
    }

    #[tokio::test]
    async fn one_server_holds_it_until_it_is_silent_or_gives_it_back() {
        let objects: Arc<dyn Objects> = Memory::with(Vec::new());
        let lock = |who: &str| Lock::new(objects.clone(), "l", who.to_owned(), TIMERS);
        let (mut a, mut b) = (lock("a"), lock("b"));
        assert!(a.attempt().await && !b.attempt().await && a.attempt().await);
        pass(&mut b, 10);
        // Renewed since, so that the time begins anew.
        assert!(a.attempt().await && !b.attempt().await);
        pass(&mut b, 14);
        assert!(!b.attempt().await);
        pass(&mut b, 1);
        assert!(b.attempt().await && !a.attempt().await);
        let lease = objects.get_latest(LEASES, NAMESPACE, "l").await.unwrap().unwrap();
        assert_eq!(lease.pointer("/spec/leaseTransitions"), Some(&json!(1)));
        a.release().await;
        assert!(!a.attempt().await, "what is another's is not given back");
        b.release().await;
        assert!(a.attempt().await);
    }
}
