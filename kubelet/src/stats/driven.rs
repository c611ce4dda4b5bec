//! What volumes of CSI drivers hold, as their drivers say: nobody walks what may be large and far away.
//!
//! Contract: CSI `NodeGetVolumeStats` of drivers that have it; volumes of others are not shown. What a driver said counts for a
//! while, and while it is asked again the old word does: a driver that does not answer keeps nobody waiting.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use component_base::task::Tasks;
use parking_lot::Mutex;
use proto::csi::v1::{VolumeUsage, volume_usage::Unit};

use super::disk::Taken;
use crate::{
    csi::{mount::Csi, record::Record},
    metrics,
    node::machine::FsUsage,
};

/// What a volume holds, and how large it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// What is in it.
    pub taken: Taken,
    /// What could be.
    pub disk: FsUsage,
}

#[derive(Debug)]
struct Known {
    asked: Instant,
    under_way: bool,
    held: Option<Held>,
}

/// What drivers said, by where volumes are mounted.
pub struct Driven {
    csi: Arc<Csi>,
    tasks: Arc<Tasks>,
    fresh: Duration,
    known: Arc<Mutex<HashMap<PathBuf, Known>>>,
}

impl Driven {
    /// Nothing is known; what is said counts for `fresh`.
    #[must_use]
    pub fn new(csi: Arc<Csi>, tasks: Arc<Tasks>, fresh: Duration) -> Self {
        Self { csi, tasks, fresh, known: Arc::default() }
    }

    /// What the driver said of this volume last; it is asked again if that was long ago.
    #[must_use]
    pub fn of(&self, record: &Record, path: &Path, now: Instant) -> Option<Held> {
        let mut all = self.known.lock();
        // Volumes that are gone are not asked for any more.
        all.retain(|_, one| now.duration_since(one.asked) < self.fresh.saturating_mul(10));
        let known = all.get(path);
        let held = known.and_then(|one| one.held);
        let is_due = known.is_none_or(|one| !one.under_way && now.duration_since(one.asked) >= self.fresh);
        if is_due {
            all.insert(path.to_owned(), Known { asked: now, under_way: true, held });
            drop(all);
            self.ask(record.clone(), path.to_owned());
        }
        held
    }

    fn ask(&self, record: Record, path: PathBuf) {
        let (csi, known, drain) = (Arc::clone(&self.csi), Arc::clone(&self.known), self.tasks.drain());
        self.tasks.spawn_contained("volume-stats", async move {
            let timed = metrics::get().volume_collection.with_label_values(&[&record.driver_name]).start_timer();
            let answer = drain.run_until_cancelled(csi.usage(&record, &path)).await;
            timed.observe_duration();
            let held = match answer {
                Some(Ok(usage)) => usage.as_deref().map(held),
                Some(Err(error)) => {
                    tracing::debug!(path = %path.display(), %error, "the driver does not say what the volume holds");
                    None
                }
                None => return,
            };
            if let Some(one) = known.lock().get_mut(&path) {
                (one.under_way, one.held) = (false, held);
            }
        });
    }
}

/// What a driver says; units it does not speak of are zero.
fn held(usage: &[VolumeUsage]) -> Held {
    let mut held = Held::default();
    let size = |number: i64| u64::try_from(number).unwrap_or(0);
    for one in usage {
        match one.unit() {
            Unit::Bytes => {
                held.taken.bytes = size(one.used);
                (held.disk.capacity, held.disk.available) = (one.total, one.available);
            }
            Unit::Inodes => {
                held.taken.inodes = size(one.used);
                (held.disk.inodes, held.disk.inodes_free) = (one.total, one.available);
            }
            Unit::Unknown => {}
        }
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_driver_says_is_told_by_its_unit() {
        let one = |unit: Unit, used| VolumeUsage { available: 3, total: 9, used, unit: unit.into() };
        let all = [one(Unit::Bytes, 5), one(Unit::Inodes, 6), one(Unit::Unknown, 7)];
        let disk = FsUsage { capacity: 9, available: 3, inodes: 9, inodes_free: 3 };
        assert_eq!(held(&all), Held { taken: Taken { bytes: 5, inodes: 6 }, disk });
        assert_eq!(held(&all[..1]).disk.inodes, 0);
        assert_eq!(held(&[]), Held::default());
    }
}
