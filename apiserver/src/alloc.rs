//! Cluster IPs and node ports of services, given out without races between servers.
//!
//! ```text
//! service → plan (pure) → IPAddress objects (one per address) and one guarded port bitmap → service filled in
//! ```
//!
//! An address belongs to the service whose IPAddress object bears its name: creating that object *is*
//! the allocation (KEP-1880). Ports are bits of `/registry/ranges/servicenodeports`, changed only by
//! guarded writes. What a write no longer needs is released after it, by one task behind a channel;
//! what that loses, `repair` finds. Contract: upstream `pkg/registry/core/service`.

use std::{net::IpAddr, ops::RangeInclusive, sync::Arc};

use async_trait::async_trait;
use futures::{FutureExt, future::BoxFuture};
use ipnet::IpNet;
use tokio::sync::mpsc;

use crate::{
    field::{Error as FieldError, ErrorList, Path},
    metrics,
    object::Object,
    objects::{Objects, SERVICES},
    registry::{SideEffects, Undo},
    status::{GroupName, Status},
};

mod families;
pub mod ip;
pub mod plan;
pub mod ports;

/// Releases waiting for the releasing task; beyond that they are left to `repair`. A release is ~100 bytes.
const WAITING: usize = 4096;

/// Addresses and ports something held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Cluster IPs.
    pub ips: Vec<IpAddr>,
    /// Node ports, health check port included.
    pub ports: Vec<u16>,
}

/// Gives out cluster IPs and node ports.
pub struct ServiceAllocator {
    ips: ip::Addresses,
    ports: ports::Ports,
    families: Vec<plan::Family>,
    objects: Arc<dyn Objects>,
    release: mpsc::Sender<(String, String, Held)>,
}

impl ServiceAllocator {
    /// Allocates from these ranges (primary family first) and ports; the future is the releasing task.
    pub fn new(
        ranges: Vec<IpNet>,
        ports: RangeInclusive<u16>,
        objects: Arc<dyn Objects>,
    ) -> (Arc<Self>, BoxFuture<'static, ()>) {
        let (release, mut released) = mpsc::channel::<(String, String, Held)>(WAITING);
        let families = ranges.iter().map(|r| plan::Family::of(r.addr())).collect();
        let allocator = Arc::new(Self {
            ips: ip::Addresses::new(ranges, objects.clone()),
            ports: ports::Ports::new(ports, objects.clone()),
            families,
            objects,
            release,
        });
        let this = Arc::downgrade(&allocator);
        let task = async move {
            while let Some((namespace, name, held)) = released.recv().await {
                let Some(this) = this.upgrade() else { return };
                this.free(&namespace, &name, &held).await;
            }
        };
        (allocator, task.boxed())
    }

    /// Makes bitmap and IPAddress objects agree with the services; run once at start-up.
    pub async fn repair(&self) -> Result<(), Status> {
        let services = self.objects.list(SERVICES, None).await?;
        let mut ports = Vec::new();
        for service in &services {
            let held = plan::held(service);
            ports.extend(held.ports);
            for ip in held.ips {
                self.ips.ensure(ip, service.namespace(), service.name()).await?;
            }
        }
        self.ports.reset(&ports).await.inspect_err(|_| metrics::PORT_REPAIR_ERRORS.inc())?;
        self.ips.drop_orphans(&services).await
    }

    async fn free(&self, namespace: &str, name: &str, held: &Held) {
        for ip in &held.ips {
            if let Err(status) = self.ips.release(*ip, namespace, name).await {
                tracing::warn!(%ip, error = %status, "cluster IP was not released");
            }
        }
        if let Err(status) = self.ports.release(&held.ports).await {
            tracing::warn!(ports = ?held.ports, error = %status, "node ports were not released");
        }
    }

    fn later(&self, service: &Object, held: Held) -> impl FnOnce() + Send + 'static + use<> {
        let release = self.release.clone();
        let key = (service.namespace().to_owned(), service.name().to_owned());
        move || {
            if held != Held::default() && release.try_send((key.0, key.1, held)).is_err() {
                tracing::warn!("too many releases waiting; the next start-up repairs what is left");
            }
        }
    }

    /// Takes what the plan asks for; on failure the caller frees what `taken` holds.
    async fn take(
        &self,
        service: &mut Object,
        demand: &plan::Demand,
        dry_run: bool,
        taken: &mut Held,
    ) -> Result<(), Status> {
        let (namespace, name) = (service.namespace().to_owned(), service.name().to_owned());
        let mut ips = Vec::new();
        for want in &demand.ips {
            let ip = match want {
                plan::Ip::Keep(ip) => *ip,
                plan::Ip::Exact(ip) => {
                    let got = self.ips.take_exact(*ip, &namespace, &name, dry_run).await;
                    let ip = got.map_err(|e| ip_error(service, *ip, &e))?;
                    taken.ips.push(ip);
                    ip
                }
                plan::Ip::Any(family) => {
                    let got = self.ips.take_any(*family, &namespace, &name, dry_run).await;
                    let ip = got.map_err(|e| match e {
                        ip::IpError::Store(status) => status,
                        full => Status::internal(format!("failed to allocate a serviceIP: {full}")),
                    })?;
                    taken.ips.push(ip);
                    ip
                }
            };
            ips.push(ip.to_string());
        }
        demand.write_ips(service, &ips);
        for want in &demand.ports {
            let port = match want.exact {
                Some(port) => {
                    let got = self.ports.take(port, dry_run).await;
                    told_port("static", dry_run, got.is_ok());
                    got.map_err(|e| port_error(service, want, port, &e))?;
                    port
                }
                None => {
                    let got = self.ports.take_any(dry_run, &taken.ports).await;
                    told_port("dynamic", dry_run, got.is_ok());
                    got.map_err(|e| match e {
                        ports::PortError::Store(status) => status,
                        full => Status::internal(format!("failed to allocate a nodePort: {full}")),
                    })?
                }
            };
            taken.ports.push(port);
            want.write(service, port);
        }
        Ok(())
    }
}

#[async_trait]
impl SideEffects for ServiceAllocator {
    async fn before_write(
        &self,
        new: &mut Object,
        old: Option<&Object>,
        dry_run: bool,
    ) -> Result<Undo, Status> {
        let demand = plan::plan(new, old, &self.families)?;
        let mut taken = Held::default();
        if let Err(status) = self.take(new, &demand, dry_run, &mut taken).await {
            if !dry_run {
                self.free(new.namespace(), new.name(), &taken).await;
            }
            return Err(status);
        }
        if dry_run {
            return Ok(Undo::nothing());
        }
        let obsolete = old.map(|old| plan::obsolete(&plan::held(old), &plan::held(new))).unwrap_or_default();
        Ok(Undo::new(self.later(new, taken)).then(self.later(new, obsolete)))
    }

    async fn after_delete(&self, old: &Object) {
        self.free(old.namespace(), old.name(), &plan::held(old)).await;
    }
}

/// Counts a port that was given out, or could not be.
fn told_port(scope: &str, dry_run: bool, given: bool) {
    if !dry_run {
        let count = if given { &metrics::PORT_ALLOCATIONS } else { &metrics::PORT_ALLOCATION_ERRORS };
        count.with_label_values(&[scope]).inc();
    }
}

fn ip_error(service: &Object, ip: IpAddr, error: &ip::IpError) -> Status {
    if let ip::IpError::Store(status) = error {
        return status.clone();
    }
    let detail = format!("failed to allocate IP {ip}: {error}");
    let path = Path::new("spec").child("clusterIPs");
    let stated = service.pointer("/spec/clusterIPs").cloned().unwrap_or_default();
    invalid(service, FieldError::invalid(&path, stated, detail))
}

fn port_error(service: &Object, want: &plan::Port, port: u16, error: &ports::PortError) -> Status {
    if let ports::PortError::Store(status) = error {
        return status.clone();
    }
    invalid(service, FieldError::invalid(&want.path(), port, error.to_string()))
}

fn invalid(service: &Object, error: FieldError) -> Status {
    let mut errors = ErrorList::new();
    errors.push(error);
    refused(service, &errors)
}

fn refused(service: &Object, errors: &ErrorList) -> Status {
    Status::invalid(&GroupName::new("", "Service"), service.name(), errors)
}

#[cfg(test)]
mod tests;
