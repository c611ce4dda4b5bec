//! Cluster IPs: one IPAddress object per address in use.
//!
//! Addresses chosen by users come from the lower band by convention, those chosen here from the upper
//! band first (KEP-3070), so that the two seldom meet.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Instant,
};

use component_base::metrics::{self as shown, Counts, Stability};
use ipnet::IpNet;
use rand::Rng;
use serde_json::{Value, json};

use super::plan::{self, Family};
use crate::{
    metrics,
    object::Object,
    objects::{IP_ADDRESSES, Kind, Objects, SERVICE_CIDRS, new_object},
    status::{Reason, Status},
    storage::{ResourceId, Store},
};

/// Addresses tried at random before all are looked through.
const PROBES: usize = 64;
/// Most addresses of one range looked through or given out: what an IPv4 /12 has.
const MAX_SIZE: u128 = 1 << 20;

/// Why an address was not given out.
#[derive(Debug, thiserror::Error)]
pub enum IpError {
    /// Another service has it.
    #[error("provided IP is already allocated")]
    Taken,
    /// Outside all ranges, or the network or broadcast address.
    #[error("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {ranges}")]
    OutOfRange {
        /// The address.
        ip: IpAddr,
        /// The ranges of its family.
        ranges: String,
    },
    /// No range of the family, or no address left in it.
    #[error("range is full")]
    Full,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Status),
}

/// The ranges addresses come from: the server's own, and those of ServiceCIDR objects that are ready.
pub struct Addresses {
    own: Vec<IpNet>,
    objects: Arc<dyn Objects>,
}

impl Addresses {
    /// Allocates from `own` first.
    pub fn new(own: Vec<IpNet>, objects: Arc<dyn Objects>) -> Self {
        Self { own, objects }
    }

    /// All ranges, the server's own first.
    async fn ranges(&self) -> Result<Vec<IpNet>, Status> {
        let mut ranges = self.own.clone();
        for object in self.objects.list(SERVICE_CIDRS, None).await? {
            let added = added_ranges(&object).filter(|range| !ranges.contains(range)).collect::<Vec<_>>();
            ranges.extend(added);
        }
        Ok(ranges)
    }

    /// Takes one address. A dry run only looks.
    pub async fn take_exact(
        &self,
        ip: IpAddr,
        namespace: &str,
        name: &str,
        dry_run: bool,
    ) -> Result<IpAddr, IpError> {
        let begun = Instant::now();
        let taken = self.claim(ip, namespace, name, dry_run).await;
        if !dry_run && let Some(range) = self.ranges().await?.iter().find(|range| usable(range, ip)) {
            told(range, "static", begun, taken.is_ok());
        }
        taken
    }

    async fn claim(&self, ip: IpAddr, namespace: &str, name: &str, dry_run: bool) -> Result<IpAddr, IpError> {
        let ranges = self.ranges().await?;
        if !ranges.iter().any(|range| usable(range, ip)) {
            let same = ranges.iter().filter(|range| range.addr().is_ipv4() == ip.is_ipv4());
            let ranges = same.map(IpNet::to_string).collect::<Vec<_>>().join(",");
            return Err(IpError::OutOfRange { ip, ranges });
        }
        if dry_run {
            let found = self.objects.get(IP_ADDRESSES, "", &ip.to_string()).await?;
            return if found.is_some() { Err(IpError::Taken) } else { Ok(ip) };
        }
        match self.objects.create(IP_ADDRESSES, address(ip, namespace, name)).await {
            Ok(_) => Ok(ip),
            Err(status) if status.reason == Reason::AlreadyExists => Err(IpError::Taken),
            Err(status) => Err(status.into()),
        }
    }

    /// Takes some free address of a family, of the first range that has one.
    pub async fn take_any(
        &self,
        family: Family,
        namespace: &str,
        name: &str,
        dry_run: bool,
    ) -> Result<IpAddr, IpError> {
        let ranges = self.ranges().await?;
        for range in ranges.iter().filter(|range| Family::of(range.addr()) == family) {
            let begun = Instant::now();
            let taken = self.take_within(range, namespace, name, dry_run).await;
            if !dry_run {
                told(range, "dynamic", begun, taken.is_ok());
            }
            match taken {
                Err(IpError::Full) => {}
                decided => return decided,
            }
        }
        Err(IpError::Full)
    }

    /// Takes some free address of a range.
    async fn take_within(
        &self,
        range: &IpNet,
        namespace: &str,
        name: &str,
        dry_run: bool,
    ) -> Result<IpAddr, IpError> {
        let (size, lower) = (size(range), lower_band(range));
        if size == 0 {
            return Err(IpError::Full);
        }
        for _ in 0..PROBES {
            let offset = if lower < size { rand::rng().random_range(lower..size) } else { 0 };
            if let Some(ip) = self.try_offset(range, offset, namespace, name, dry_run).await? {
                return Ok(ip);
            }
        }
        // The upper band is (nearly) full: look through it, then through the lower one.
        for offset in (lower..size).chain(0..lower.min(size)) {
            if let Some(ip) = self.try_offset(range, offset, namespace, name, dry_run).await? {
                return Ok(ip);
            }
        }
        Err(IpError::Full)
    }

    async fn try_offset(
        &self,
        range: &IpNet,
        offset: u128,
        namespace: &str,
        name: &str,
        dry_run: bool,
    ) -> Result<Option<IpAddr>, IpError> {
        let ip = at(range, offset);
        if self.objects.get(IP_ADDRESSES, "", &ip.to_string()).await?.is_some() {
            return Ok(None);
        }
        match self.claim(ip, namespace, name, dry_run).await {
            Ok(ip) => Ok(Some(ip)),
            Err(IpError::Taken) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives an address back, if it is still this service's.
    pub async fn release(&self, ip: IpAddr, namespace: &str, name: &str) -> Result<(), Status> {
        match self.objects.get_latest(IP_ADDRESSES, "", &ip.to_string()).await? {
            Some(object) if belongs_to(&object, namespace, name) => {
                self.objects.delete(IP_ADDRESSES, &object).await
            }
            _ => Ok(()),
        }
    }

    /// Records an address that a service has already.
    pub async fn ensure(&self, ip: IpAddr, namespace: &str, name: &str) -> Result<(), Status> {
        match self.claim(ip, namespace, name, false).await {
            Err(IpError::Store(status)) => Err(status),
            Err(IpError::OutOfRange { .. }) => {
                tracing::warn!(%ip, namespace, name, "service has a cluster IP outside the service ranges");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Removes addresses of services that are not there or do not have them.
    pub async fn drop_orphans(&self, services: &[Arc<Object>]) -> Result<(), Status> {
        for object in self.objects.list(IP_ADDRESSES, None).await? {
            let ours = object.pointer("/spec/parentRef/resource").and_then(Value::as_str) == Some("services");
            let used = services.iter().any(|s| {
                belongs_to(&object, s.namespace(), s.name())
                    && plan::held(s).ips.iter().any(|ip| ip.to_string() == object.name())
            });
            if ours && !used {
                self.objects.delete(IP_ADDRESSES, &object).await?;
            }
        }
        Ok(())
    }
}

/// Counts an address that was given out of a range, or could not be.
fn told(range: &IpNet, scope: &str, begun: Instant, given: bool) {
    let cidr = range.to_string();
    let count = if given { &metrics::IP_ALLOCATIONS } else { &metrics::IP_ALLOCATION_ERRORS };
    count.with_label_values(&[cidr.as_str(), scope]).inc();
    if given {
        let duration = metrics::IP_ALLOCATION_DURATION.with_label_values(&[cidr.as_str()]);
        duration.observe(begun.elapsed().as_secs_f64());
    }
}

/// Shows how many addresses of each range are in use, and how many are not, whenever somebody asks.
pub fn show(store: &Store, own: &[IpNet]) {
    let id = |kind: Kind| ResourceId::new(kind.group, kind.resource);
    let counts = |store: Store, own: Vec<IpNet>, count: fn(&IpNet, usize) -> u128| {
        move || -> Counts {
            let used: Vec<IpAddr> = store
                .list_cached(&id(IP_ADDRESSES), None)
                .iter()
                .filter_map(|entry| entry.key().parse().ok())
                .collect();
            let added = store.list_cached(&id(SERVICE_CIDRS), None);
            let added = added.iter().filter_map(|entry| Object::from_slice(entry.json()).ok());
            let mut ranges: Vec<IpNet> = own.clone();
            ranges.extend(added.flat_map(|object| added_ranges(&object).collect::<Vec<_>>()));
            let line = |range: &IpNet| {
                let used = used.iter().filter(|ip| usable(range, **ip)).count();
                (vec![range.to_string()], i64::try_from(count(range, used)).unwrap_or(i64::MAX))
            };
            ranges.iter().map(line).collect()
        }
    };
    let gauges = |name: &str, help: &str, count: fn(&IpNet, usize) -> u128| {
        shown::counted(name, help, Stability::Alpha, &["cidr"], counts(store.clone(), own.to_vec(), count));
    };
    gauges("kube_apiserver_clusterip_allocator_allocated_ips", "Cluster IPs in use.", |_, used| used as u128);
    gauges("kube_apiserver_clusterip_allocator_available_ips", "Cluster IPs not in use.", |range, used| {
        size(range).saturating_sub(used as u128)
    });
}

/// The ranges of a ServiceCIDR that is ready and stays.
fn added_ranges(object: &Object) -> impl Iterator<Item = IpNet> {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let mut conditions = conditions.into_iter().flatten();
    let ready = conditions.any(|one| one["type"] == "Ready" && one["status"] == "True");
    let cidrs = object.pointer("/spec/cidrs").and_then(Value::as_array);
    let cidrs = cidrs.filter(|_| ready && !object.is_terminating()).into_iter().flatten();
    cidrs.filter_map(|cidr| cidr.as_str()?.parse().ok())
}

fn address(ip: IpAddr, namespace: &str, name: &str) -> Object {
    let now = jiff::Timestamp::now();
    let mut object = new_object("networking.k8s.io/v1", "IPAddress", "", &ip.to_string(), now);
    let labels = json!({
        "ipaddress.kubernetes.io/ip-family": Family::of(ip).name(),
        "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
    });
    object.metadata_mut().insert("labels".to_owned(), labels);
    let parent = json!({"group": "", "resource": "services", "namespace": namespace, "name": name});
    object.set("spec", json!({"parentRef": parent}));
    object
}

fn belongs_to(address: &Object, namespace: &str, name: &str) -> bool {
    let parent = |field: &str| address.pointer("/spec/parentRef").and_then(|p| p.get(field)?.as_str());
    parent("namespace") == Some(namespace) && parent("name") == Some(name)
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// Addresses that can be given out: not the network's, and for IPv4 not the broadcast one.
pub fn size(range: &IpNet) -> u128 {
    let all = number(range.broadcast()) - number(range.network());
    let usable = if range.addr().is_ipv4() { all.saturating_sub(1) } else { all };
    usable.min(MAX_SIZE)
}

/// How many addresses at the start are left to users: a sixteenth, at least 16, at most 256.
fn lower_band(range: &IpNet) -> u128 {
    let size = size(range);
    if size <= 16 { 0 } else { (size / 16).clamp(16, 256) }
}

/// The n-th usable address, from 0.
pub fn at(range: &IpNet, offset: u128) -> IpAddr {
    let n = number(range.network()) + 1 + offset;
    match range {
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(n).unwrap_or(u32::MAX))),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(n)),
    }
}

fn usable(range: &IpNet, ip: IpAddr) -> bool {
    let broadcast = ip.is_ipv4() && ip == range.broadcast();
    range.contains(&ip) && ip != range.network() && !broadcast
}
