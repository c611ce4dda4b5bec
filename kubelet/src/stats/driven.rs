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
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use parking_lot::Mutex;
use proto::csi::v1::volume_usage::Unit;

use super::disk::Taken;
use crate::{
    csi::{
        mount::{Csi, Told},
        record::Record,
    },
    events::{EventSink, Severity, pod_reference},
    metrics,
    node::machine::FsUsage,
};

/// What a volume holds, how large it is, and how it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// What is in it.
    pub taken: Taken,
    /// What could be.
    pub disk: FsUsage,
    /// It is not as it should be, where that is known and asked for.
    pub abnormal: Option<bool>,
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
    /// Who is told of volumes that are not as they should be (`CSIVolumeHealth`).
    health: Option<Arc<dyn EventSink>>,
    known: Arc<Mutex<HashMap<PathBuf, Known>>>,
}

impl Driven {
    /// Nothing is known; what is said counts for `fresh`. How volumes are is asked only with somebody to tell.
    #[must_use]
    pub fn new(
        csi: Arc<Csi>,
        tasks: Arc<Tasks>,
        fresh: Duration,
        health: Option<Arc<dyn EventSink>>,
    ) -> Self {
        Self { csi, tasks, fresh, health, known: Arc::default() }
    }

    /// What the driver said of this volume of a pod last; it is asked again if that was long ago.
    #[must_use]
    pub fn of(&self, pod: &Pod, record: &Record, path: &Path, now: Instant) -> Option<Held> {
        let mut all = self.known.lock();
        // Volumes that are gone are not asked for any more.
        all.retain(|_, one| now.duration_since(one.asked) < self.fresh.saturating_mul(10));
        let known = all.get(path);
        let held = known.and_then(|one| one.held);
        let is_due = known.is_none_or(|one| !one.under_way && now.duration_since(one.asked) >= self.fresh);
        if is_due {
            all.insert(path.to_owned(), Known { asked: now, under_way: true, held });
            drop(all);
            self.ask(pod_reference(pod), record.clone(), path.to_owned());
        }
        held
    }

    fn ask(&self, about: ObjectReference, record: Record, path: PathBuf) {
        let health = self.health.clone();
        let (csi, known, drain) = (Arc::clone(&self.csi), Arc::clone(&self.known), self.tasks.drain());
        self.tasks.spawn_contained("volume-stats", async move {
            let timed = metrics::get().volume_collection.with_label_values(&[&record.driver_name]).start_timer();
            let answer = drain.run_until_cancelled(csi.usage(&record, &path)).await;
            timed.observe_duration();
            let held = match answer {
                Some(Ok(told)) => {
                    let told = told.map(|told| match &health {
                        Some(_) => told,
                        None => Told { condition: None, ..told },
                    });
                    if let (Some(told), Some(events)) = (&told, &health)
                        && let Some(text) = complaint(&record.pod_volume, told)
                    {
                        events.send(about, Severity::Warning, "VolumeConditionAbnormal", &text);
                    }
                    told.as_ref().and_then(held)
                }
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

/// What the event of a volume says that is not as it should be.
fn complaint(volume: &str, told: &Told) -> Option<String> {
    let condition = told.condition.as_ref().filter(|condition| condition.abnormal)?;
    Some(format!("Volume {volume}: {}", condition.message))
}

/// What a driver says; units it does not speak of are zero. One that says nothing at all is not shown.
fn held(told: &Told) -> Option<Held> {
    let Told { usage, condition } = told;
    if usage.is_empty() && condition.is_none() {
        return None;
    }
    let mut held = Held { abnormal: condition.as_ref().map(|c| c.abnormal), ..Held::default() };
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
    Some(held)
}

#[cfg(test)]
mod tests {
    use proto::csi::v1::{VolumeCondition, VolumeUsage};

    use super::*;

    #[test]
    fn what_a_driver_says_is_told_by_its_unit() {
        let one = |unit: Unit, used| VolumeUsage { available: 3, total: 9, used, unit: unit.into() };
        let all = [one(Unit::Bytes, 5), one(Unit::Inodes, 6), one(Unit::Unknown, 7)];
        let disk = FsUsage { capacity: 9, available: 3, inodes: 9, inodes_free: 3 };
        let of = |usage: &[VolumeUsage]| held(&Told { usage: usage.to_vec(), condition: None });
        let taken = Taken { bytes: 5, inodes: 6 };
        assert_eq!(of(&all), Some(Held { taken, disk, abnormal: None }));
        assert_eq!(of(&all[..1]).unwrap().disk.inodes, 0);
        assert_eq!(of(&[]), None, "a driver that says nothing");
    }

    #[test]
    fn a_volume_that_is_not_as_it_should_be_is_told_of() {
        let of = |abnormal| {
            let condition = Some(VolumeCondition { abnormal, message: "disk gone".into() });
            Told { usage: vec![], condition }
        };
        assert_eq!(complaint("data", &of(true)).as_deref(), Some("Volume data: disk gone"));
        assert_eq!((complaint("data", &of(false)), complaint("data", &Told::default())), (None, None));
        assert_eq!(held(&of(true)).unwrap().abnormal, Some(true));
        assert_eq!(held(&of(false)).unwrap().abnormal, Some(false));
    }
}
