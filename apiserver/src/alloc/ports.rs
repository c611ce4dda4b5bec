//! Node ports: a bitmap in one object, `/registry/ranges/servicenodeports`, in upstream's format.
//!
//! `data` is a big-endian number whose bit n stands for the n-th port of `range`.

use std::{ops::RangeInclusive, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use rand::Rng;
use serde_json::{Value, json};

use crate::{
    metrics,
    object::Object,
    objects::{Objects, RANGES},
    status::{Reason, Status},
};

const NAME: &str = "servicenodeports";
/// Writers that collide try again; each round at least one of them wins.
const ATTEMPTS: usize = 64;

/// Why a port was not given out.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Another service has it.
    #[error("provided port is already allocated")]
    Taken,
    /// Outside `--service-node-port-range`.
    #[error("provided port is not in the valid range. The range of valid ports is {0}")]
    OutOfRange(String),
    /// No port is left.
    #[error("range is full")]
    Full,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] Status),
}

/// The ports of one range.
pub struct Ports {
    range: RangeInclusive<u16>,
    objects: Arc<dyn Objects>,
}

/// Which ports are taken, by offset in the range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bitmap(Vec<bool>);

impl Bitmap {
    /// Reads upstream's `data`; bits beyond the range are dropped.
    pub fn decode(data: &str, size: usize) -> Self {
        let bytes = BASE64_STANDARD.decode(data).unwrap_or_default();
        let bit = |n: usize| bytes.len() > n / 8 && bytes[bytes.len() - 1 - n / 8] >> (n % 8) & 1 == 1;
        Self((0..size).map(bit).collect())
    }

    /// Upstream's `data`: no leading zero bytes.
    pub fn encode(&self) -> String {
        let mut bytes = vec![0_u8; self.0.len().div_ceil(8)];
        let len = bytes.len();
        for (n, _) in self.0.iter().enumerate().filter(|(_, set)| **set) {
            bytes[len - 1 - n / 8] |= 1 << (n % 8);
        }
        BASE64_STANDARD.encode(bytes.into_iter().skip_while(|b| *b == 0).collect::<Vec<_>>())
    }
}

impl Ports {
    /// Allocates from `range`.
    pub fn new(range: RangeInclusive<u16>, objects: Arc<dyn Objects>) -> Self {
        Self { range, objects }
    }

    /// Takes one port. A dry run only looks.
    pub async fn take(&self, port: u16, dry_run: bool) -> Result<(), PortError> {
        let offset = self.offset(port)?;
        self.change(dry_run, |bits| {
            if bits.0[offset] {
                return Err(PortError::Taken);
            }
            bits.0[offset] = true;
            Ok(())
        })
        .await
    }

    /// Takes some free port; in a dry run `not` are the ones chosen before.
    pub async fn take_any(&self, dry_run: bool, not: &[u16]) -> Result<u16, PortError> {
        let start = *self.range.start();
        // Dynamic ports come from the upper band, as with addresses: the lower is for those who choose.
        let lower = lower_band(self.range.len());
        self.change(dry_run, |bits| {
            let port = |offset: usize| start + u16::try_from(offset).unwrap_or(0);
            let free = |offset: &usize| !bits.0[*offset] && !not.contains(&port(*offset));
            let from = if lower < bits.0.len() { rand::rng().random_range(lower..bits.0.len()) } else { 0 };
            let order = (from..bits.0.len()).chain(lower..from).chain(0..lower.min(bits.0.len()));
            let offset = order.into_iter().find(free).ok_or(PortError::Full)?;
            bits.0[offset] = true;
            Ok(port(offset))
        })
        .await
    }

    /// Gives ports back; ports outside the range are ignored.
    pub async fn release(&self, ports: &[u16]) -> Result<(), Status> {
        let offsets: Vec<usize> = ports.iter().filter_map(|p| self.offset(*p).ok()).collect();
        if offsets.is_empty() {
            return Ok(());
        }
        let freed = self.change(false, |bits| {
            for offset in &offsets {
                bits.0[*offset] = false;
            }
            Ok(())
        });
        store_error(freed.await)
    }

    /// Exactly these ports are taken.
    pub async fn reset(&self, ports: &[u16]) -> Result<(), Status> {
        let offsets: Vec<usize> = ports.iter().filter_map(|p| self.offset(*p).ok()).collect();
        let reset = self.change(false, |bits| {
            for (n, bit) in bits.0.iter_mut().enumerate() {
                *bit = offsets.contains(&n);
            }
            Ok(())
        });
        store_error(reset.await)
    }

    fn offset(&self, port: u16) -> Result<usize, PortError> {
        if self.range.contains(&port) {
            Ok(usize::from(port - self.range.start()))
        } else {
            Err(PortError::OutOfRange(self.text()))
        }
    }

    fn text(&self) -> String {
        format!("{}-{}", self.range.start(), self.range.end())
    }

    /// Applies a change to the stored bitmap, again when another writer was faster.
    async fn change<T>(
        &self,
        dry_run: bool,
        change: impl Fn(&mut Bitmap) -> Result<T, PortError>,
    ) -> Result<T, PortError> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let stored = self.objects.get_latest(RANGES, "", NAME).await?;
            let same = |o: &Object| o.get("range").and_then(Value::as_str) == Some(self.text().as_str());
            let data = stored.as_deref().filter(|o| same(o)).and_then(|o| o.get("data")?.as_str());
            let before = Bitmap::decode(data.unwrap_or_default(), self.range.len());
            let mut bits = before.clone();
            let result = change(&mut bits)?;
            if dry_run {
                return Ok(result);
            }
            if bits == before && data.is_some() {
                self.told(&bits);
                return Ok(result);
            }
            match self.write(stored.as_deref(), &bits).await {
                Ok(()) => {
                    self.told(&bits);
                    return Ok(result);
                }
                Err(s) if matches!(s.reason, Reason::Conflict | Reason::AlreadyExists) => last = Some(s),
                Err(status) => return Err(status.into()),
            }
        }
        Err(last.unwrap_or_else(|| Status::internal("node port allocation did not get a turn")).into())
    }

    /// Shows how many ports are in use.
    fn told(&self, bits: &Bitmap) {
        let used = bits.0.iter().filter(|used| **used).count();
        let count = |ports: usize| i64::try_from(ports).unwrap_or(i64::MAX);
        metrics::PORTS_ALLOCATED.set(count(used));
        metrics::PORTS_AVAILABLE.set(count(bits.0.len() - used));
    }

    async fn write(&self, stored: Option<&Object>, bits: &Bitmap) -> Result<(), Status> {
        let mut object = stored.cloned().unwrap_or_default();
        object.set("kind", "RangeAllocation");
        object.set("apiVersion", "v1");
        object.set_meta_str("name", NAME);
        object.set("range", self.text());
        object.set("data", json!(bits.encode()));
        match stored {
            Some(_) => self.objects.update(RANGES, object).await?,
            None => self.objects.create(RANGES, object).await?,
        };
        Ok(())
    }
}

fn lower_band(size: usize) -> usize {
    if size <= 16 { 0 } else { (size / 32).clamp(16, 128) }
}

fn store_error(result: Result<(), PortError>) -> Result<(), Status> {
    match result {
        Err(PortError::Store(status)) => Err(status),
        _ => Ok(()),
    }
}
