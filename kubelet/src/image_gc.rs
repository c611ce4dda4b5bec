//! Images that nobody uses: removed when their disk gets too full, the longest unused first, and, where that is asked for,
//! when they have been unused for too long.
//!
//! Contract: imageGCHighThresholdPercent, imageGCLowThresholdPercent, imageMinimumGCAge, imageMaximumGCAge; events
//! `ImageGCFailed`, `FreeDiskSpaceFailed` and `InvalidDiskCapacity` of the node.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use component_base::{
    quantity::{Format, Quantity},
    task::Tasks,
    traces,
};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use crate::{
    events::{Severity, node_reference},
    metrics,
    node::machine::{self, FsUsage},
    options::Config,
    runtime::{Runtime, RuntimeError, cri},
    worker::Shared,
};

const PERIOD: Duration = Duration::from_secs(300);

/// What is known of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// When it was first seen.
    pub first_seen: Timestamp,
    /// When it was last used; when it was first seen, if never.
    pub last_used: Timestamp,
    /// Bytes.
    pub size: u64,
    /// It must not be removed: it is in use, pinned, or the sandboxes' own.
    pub kept: bool,
}

/// When images go.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// From so many percent of the disk on, images are removed...
    pub high: i64,
    /// ... down to so many percent.
    pub low: i64,
    /// Images that are younger stay.
    pub least_age: Duration,
    /// Images that were not used for so long go in any case; zero is never.
    pub most_age: Duration,
}

/// How many bytes have to go; zero while the disk is not too full. Pure.
#[must_use]
pub fn excess(policy: &Policy, disk: FsUsage) -> i64 {
    if disk.capacity <= 0 {
        return 0;
    }
    let used = 100 - disk.available.clamp(0, disk.capacity).saturating_mul(100) / disk.capacity;
    if used < policy.high {
        return 0;
    }
    let goal = disk.capacity.saturating_mul(100 - policy.low) / 100;
    goal.saturating_sub(disk.available).max(0)
}

/// The images that may go, the longest unused first. Pure.
#[must_use]
pub fn candidates(records: &HashMap<String, Record>) -> Vec<(&str, &Record)> {
    let mut list: Vec<_> = records.iter().filter(|(_, r)| !r.kept).map(|(id, r)| (id.as_str(), r)).collect();
    list.sort_by_key(|(id, r)| (r.last_used, r.first_seen, *id));
    list
}

fn older(since: Timestamp, age: Duration, now: Timestamp) -> bool {
    now.duration_since(since) >= SignedDuration::try_from(age).unwrap_or(SignedDuration::MAX)
}

/// The collector.
pub struct ImageGc {
    shared: Arc<Shared>,
    node: String,
    policy: Policy,
    records: Mutex<HashMap<String, Record>>,
    begun: Timestamp,
}

impl ImageGc {
    /// Knows no image yet.
    #[must_use]
    pub fn new(shared: Arc<Shared>, config: &Config) -> Arc<Self> {
        let file = &config.file;
        let policy = Policy {
            high: i64::from(file.image_gc_high_threshold_percent),
            low: i64::from(file.image_gc_low_threshold_percent),
            least_age: file.image_minimum_gc_age.0,
            most_age: file.image_maximum_gc_age.0,
        };
        let begun = Timestamp::now();
        let (node, records) = (config.node_name.clone(), Mutex::default());
        Arc::new(Self { shared, node, policy, records, begun })
    }

    /// Collects until the drain.
    pub fn run(self: &Arc<Self>, tasks: &Tasks) {
        let (this, mut ticks) = (Arc::clone(self), tasks.ticks(PERIOD));
        tasks.spawn("image-gc", async move {
            while ticks.next().await {
                let collected = traces::follow("Images/GarbageCollect", Vec::new, this.collect());
                if let Err(error) = collected.await {
                    let text = error.to_string();
                    tracing::error!(%error, "image garbage collection failed");
                    this.tell("ImageGCFailed", &text);
                }
            }
        });
    }

    /// The folder of the runtime's images, where it says.
    pub async fn folder(&self) -> Option<PathBuf> {
        // Without an answer there is nothing to observe this time.
        let filesystems = self.shared.runtime.image_filesystems().await.ok()?;
        Some(PathBuf::from(filesystems.into_iter().next()?.fs_id?.mountpoint))
    }

    async fn collect(&self) -> Result<(), RuntimeError> {
        let begun = Timestamp::now();
        let now = self.detect().await?;
        {
            let known = self.records.lock();
            self.shared.pulled.prune(|reference| known.contains_key(reference), begun);
        }
        if !self.policy.most_age.is_zero() && older(self.begun, self.policy.most_age, now) {
            let due: Vec<String> = candidates(&self.records.lock())
                .into_iter()
                .filter(|(_, r)| older(r.last_used, self.policy.most_age, now))
                .map(|(id, _)| id.to_owned())
                .collect();
            for id in due {
                self.remove(&id, "age").await;
            }
        }
        let disk = self.folder().await.and_then(|folder| machine::fs_usage(&folder).ok());
        let Some(disk) = disk else { return Ok(()) };
        if disk.capacity <= 0 {
            self.tell("InvalidDiskCapacity", "invalid capacity 0 on image filesystem");
            return Ok(());
        }
        let excess = excess(&self.policy, disk);
        if excess == 0 {
            return Ok(());
        }
        tracing::info!(excess, "the images' disk is fuller than it may be");
        let freed = self.free(excess, now).await;
        if freed < excess {
            let text = |bytes| Quantity::new(bytes, Format::BinarySI).to_string();
            let message = format!(
                "Failed to garbage collect required amount of images. Attempted to free {} bytes, but only found \
                 {} bytes eligible to free.",
                text(excess),
                text(freed)
            );
            self.tell("FreeDiskSpaceFailed", &message);
        }
        Ok(())
    }

    /// Removes images until so much is free. Answers how much that gave.
    async fn free(&self, bytes: i64, now: Timestamp) -> i64 {
        let list: Vec<(String, Record)> =
            candidates(&self.records.lock()).into_iter().map(|(id, r)| (id.to_owned(), *r)).collect();
        let mut freed = 0i64;
        for (id, record) in list {
            if freed >= bytes {
                break;
            }
            // One that is used right now, or has only just come, stays.
            if record.last_used >= now || !older(record.first_seen, self.policy.least_age, now) {
                continue;
            }
            if self.remove(&id, "space").await {
                freed = freed.saturating_add(i64::try_from(record.size).unwrap_or(i64::MAX));
            }
        }
        freed
    }

    /// Removes every image that nobody uses.
    pub async fn delete_unused(&self) {
        match self.detect().await {
            Ok(now) => {
                self.free(i64::MAX, now).await;
            }
            Err(error) => tracing::warn!(%error, "cannot find out which images are in use"),
        }
    }

    async fn remove(&self, id: &str, why: &str) -> bool {
        match self.shared.runtime.remove_image(id).await {
            Ok(()) => {
                tracing::info!(image = id, "removed an image that nobody uses");
                self.records.lock().remove(id);
                metrics::get().images_collected.with_label_values(&[why]).inc();
                true
            }
            Err(error) => {
                tracing::warn!(image = id, %error, "cannot remove the image");
                false
            }
        }
    }

    /// Brings the records up to date.
    async fn detect(&self) -> Result<Timestamp, RuntimeError> {
        let runtime: &Runtime = &self.shared.runtime;
        let in_use = runtime.images_in_use().await?;
        let images = runtime.list_images().await?;
        let sandbox = runtime.sandbox_image().await;
        let now = Timestamp::now();
        update(&mut self.records.lock(), &images, &in_use, sandbox.as_deref(), now);
        Ok(now)
    }

    fn tell(&self, reason: &str, message: &str) {
        self.shared.events.send(node_reference(&self.node), Severity::Warning, reason, message);
    }
}

fn update(
    records: &mut HashMap<String, Record>,
    images: &[cri::Image],
    in_use: &HashSet<String>,
    sandbox: Option<&str>,
    now: Timestamp,
) {
    records.retain(|id, _| images.iter().any(|i| i.id == *id));
    for image in images {
        let used = in_use.contains(&image.id);
        let own = sandbox.is_some_and(|s| image.repo_tags.iter().any(|t| t == s));
        let fresh = Record { first_seen: now, last_used: now, size: image.size, kept: false };
        let known = records.contains_key(&image.id);
        let record = records.entry(image.id.clone()).or_insert(fresh);
        if used {
            record.last_used = now;
        } else if !known {
            // Never used as far as is known: that alone does not make it young.
            record.last_used = Timestamp::UNIX_EPOCH;
        }
        (record.size, record.kept) = (image.size, used || own || image.pinned);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    const POLICY: Policy =
        Policy { high: 85, low: 80, least_age: Duration::from_secs(120), most_age: Duration::ZERO };

    #[test]
    fn nothing_goes_until_the_disk_is_too_full() {
        let of = |available| excess(&POLICY, FsUsage { capacity: 1000, available, ..FsUsage::default() });
        assert_eq!(of(160), 0);
        assert_eq!(of(150), 50);
        assert_eq!(of(0), 200);
        assert_eq!(excess(&POLICY, FsUsage::default()), 0);
    }

    #[test]
    fn the_longest_unused_goes_first_and_what_is_needed_stays() {
        let image = |id: &str, tag: &str, pinned| cri::Image {
            id: id.into(),
            repo_tags: vec![tag.into()],
            size: 5,
            pinned,
            ..cri::Image::default()
        };
        let all = [
            image("used", "a", false),
            image("pause", "pause:1", false),
            image("pinned", "b", true),
            image("before", "c", false),
            image("never", "d", false),
        ];
        let mut records = HashMap::new();
        let uses = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<HashSet<_>>();
        update(&mut records, &all, &uses(&["used", "before"]), Some("pause:1"), at(0));
        update(&mut records, &all, &uses(&["used"]), Some("pause:1"), at(100));
        let ids: Vec<&str> = candidates(&records).into_iter().map(|(id, _)| id).collect();
        assert_eq!(ids, ["never", "before"]);
        assert_eq!(records["before"].last_used, at(0));
        assert!(older(records["never"].first_seen, POLICY.least_age, at(120)));
        update(&mut records, &all[..1], &uses(&[]), None, at(200));
        assert_eq!(records.len(), 1);
    }
}
