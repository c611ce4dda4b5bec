//! Thresholds of eviction: which signal, how little is too little, for how long, and how much more to win back. Pure.
//!
//! Contract: node-pressure eviction; names, defaults and texts of errors as upstream's.

use std::{collections::BTreeMap, time::Duration};

use crate::{options::file::KubeletConfiguration, pod::resources};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// Bytes of memory that can still be had.
    MemoryAvailable,
    /// Bytes of memory that the cgroup of all pods may still take.
    AllocatableMemoryAvailable,
    /// Bytes of the kubelet's file system.
    NodeFsAvailable,
    /// Inodes of the kubelet's file system.
    NodeFsInodesFree,
    /// Bytes of the images' file system.
    ImageFsAvailable,
    /// Inodes of the images' file system.
    ImageFsInodesFree,
    /// Process ids.
    PidAvailable,
}

/// What runs out, in the words of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Starved {
    /// Memory.
    Memory,
    /// Bytes of disk.
    Disk,
    /// Inodes.
    Inodes,
    /// Process ids.
    Pids,
}

impl Starved {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "ephemeral-storage",
            Self::Inodes => "inodes",
            Self::Pids => "pids",
        }
    }
}

impl Signal {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::MemoryAvailable,
        Self::AllocatableMemoryAvailable,
        Self::NodeFsAvailable,
        Self::NodeFsInodesFree,
        Self::ImageFsAvailable,
        Self::ImageFsInodesFree,
        Self::PidAvailable,
    ];

    /// As thresholds and messages name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory.available",
            Self::AllocatableMemoryAvailable => "allocatableMemory.available",
            Self::NodeFsAvailable => "nodefs.available",
            Self::NodeFsInodesFree => "nodefs.inodesFree",
            Self::ImageFsAvailable => "imagefs.available",
            Self::ImageFsInodesFree => "imagefs.inodesFree",
            Self::PidAvailable => "pid.available",
        }
    }

    /// What runs out.
    #[must_use]
    pub fn starved(self) -> Starved {
        match self {
            Self::MemoryAvailable | Self::AllocatableMemoryAvailable => Starved::Memory,
            Self::NodeFsAvailable | Self::ImageFsAvailable => Starved::Disk,
            Self::NodeFsInodesFree | Self::ImageFsInodesFree => Starved::Inodes,
            Self::PidAvailable => Starved::Pids,
        }
    }

    /// It is about the images' file system.
    #[must_use]
    pub fn of_images(self) -> bool {
        matches!(self, Self::ImageFsAvailable | Self::ImageFsInodesFree)
    }
}

/// How little is too little.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// So much.
    Amount(i64),
    /// Such a part, 0.0 to 1.0.
    Part(f64),
}

impl Limit {
    /// The amount, of so much in all.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
    pub fn amount(&self, capacity: i64) -> i64 {
        match self {
            Self::Amount(amount) => *amount,
            // Rounding of bytes does not matter here.
            Self::Part(part) => (capacity as f64 * part) as i64,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix('%') {
            Some(percent) => {
                let percent = percent.parse::<f64>().ok()?;
                (0.0..=100.0).contains(&percent).then_some(Self::Part(percent / 100.0))
            }
            None => resources::whole(text).filter(|amount| *amount >= 0).map(Self::Amount),
        }
    }
}

/// One threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    /// What is measured.
    pub signal: Signal,
    /// Less than this is too little.
    pub limit: Limit,
    /// How long it has to be too little; `None` is a hard threshold, which does not wait.
    pub grace: Option<Duration>,
    /// How much more than the limit is to be had before all is well again.
    pub reclaim: Option<Limit>,
}

/// A threshold that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ThresholdError {
    /// No such signal.
    #[error("unsupported eviction signal {0}")]
    Signal(String),
    /// Neither an amount nor a percentage.
    #[error("eviction threshold {0} must be a quantity or a percentage of 0 to 100, got {1:?}")]
    Value(String, String),
    /// A soft threshold has to say how long it waits.
    #[error("grace period must be specified for the soft eviction threshold {0}")]
    NoGrace(String),
    /// Not a duration.
    #[error("invalid eviction grace period specified: {0} for {1}")]
    Grace(String, String),
}

/// The hard thresholds that hold when none are given.
const DEFAULTS: [(&str, &str); 5] = [
    ("memory.available", "100Mi"),
    ("nodefs.available", "10%"),
    ("nodefs.inodesFree", "5%"),
    ("imagefs.available", "15%"),
    ("imagefs.inodesFree", "5%"),
];

/// The thresholds of a configuration.
///
/// # Errors
/// The first one that cannot be used.
pub fn thresholds(file: &KubeletConfiguration) -> Result<Vec<Threshold>, ThresholdError> {
    let mut hard: BTreeMap<String, String> = file.eviction_hard.clone().unwrap_or_default();
    if file.eviction_hard.is_none() || file.merge_default_eviction_settings {
        for (name, limit) in DEFAULTS {
            hard.entry(name.to_owned()).or_insert_with(|| limit.to_owned());
        }
    }
    let mut all = Vec::new();
    for (name, text) in &hard {
        all.extend(threshold(file, name, text, None)?);
    }
    for (name, text) in &file.eviction_soft {
        let grace = file.eviction_soft_grace_period.get(name);
        let grace = grace.ok_or_else(|| ThresholdError::NoGrace(name.clone()))?;
        let parsed = component_base::goduration::parse(grace)
            .map_err(|_| ThresholdError::Grace(grace.clone(), name.clone()))?;
        all.extend(threshold(file, name, text, Some(parsed))?);
    }
    if file.cgroups_per_qos && file.enforce_node_allocatable.iter().any(|e| e == "pods") {
        // Pods must not use up what is kept for the rest either.
        let memory = all.iter().find(|t| t.signal == Signal::MemoryAvailable && t.grace.is_none()).copied();
        all.extend(memory.map(|t| Threshold { signal: Signal::AllocatableMemoryAvailable, ..t }));
    }
    Ok(all)
}

fn threshold(
    file: &KubeletConfiguration,
    name: &str,
    text: &str,
    grace: Option<Duration>,
) -> Result<Option<Threshold>, ThresholdError> {
    let parse = |text: &String| {
        Limit::parse(text).ok_or_else(|| ThresholdError::Value(name.to_owned(), text.clone()))
    };
    let limit = parse(&text.to_owned())?;
    if matches!(name, "containerfs.available" | "containerfs.inodesFree") {
        // Containers live on the images' file system, which has thresholds of its own.
        return Ok(None);
    }
    let signal = Signal::ALL.into_iter().find(|s| s.as_str() == name);
    let signal = signal.ok_or_else(|| ThresholdError::Signal(name.to_owned()))?;
    let reclaim = file.eviction_minimum_reclaim.get(name).map(parse).transpose()?;
    // A hard threshold of nothing is none at all.
    let off = grace.is_none() && matches!(limit, Limit::Amount(0) | Limit::Part(0.0));
    Ok((!off).then_some(Threshold { signal, limit, grace, reclaim }))
}

/// What the hard threshold of a signal keeps from pods, of so much in all.
#[must_use]
pub fn kept(all: &[Threshold], signal: Signal, capacity: i64) -> i64 {
    let hard = all.iter().find(|t| t.signal == signal && t.grace.is_none());
    hard.map_or(0, |t| t.limit.amount(capacity))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn defaults_hold_unless_something_is_given() {
        let signals = |file: &KubeletConfiguration| thresholds(file).unwrap().len();
        let mut file = KubeletConfiguration::default();
        assert_eq!(signals(&file), 6);
        file.eviction_hard = Some(map(&[("nodefs.available", "20%"), ("imagefs.available", "0%")]));
        assert_eq!(signals(&file), 1);
        file.merge_default_eviction_settings = true;
        let all = thresholds(&file).unwrap();
        assert_eq!(all.len(), 5);
        assert_eq!(kept(&all, Signal::NodeFsAvailable, 1000), 200);
        assert_eq!(kept(&all, Signal::MemoryAvailable, 0), 100 << 20);
        assert_eq!(kept(&all, Signal::PidAvailable, 1000), 0);
    }

    #[test]
    fn soft_thresholds_say_how_long_they_wait() {
        let mut file = KubeletConfiguration { eviction_hard: Some(map(&[])), ..Default::default() };
        file.eviction_soft = map(&[("memory.available", "1Gi")]);
        let missing = ThresholdError::NoGrace("memory.available".into());
        assert_eq!(thresholds(&file), Err(missing));
        file.eviction_soft_grace_period = map(&[("memory.available", "1m30s")]);
        file.eviction_minimum_reclaim = map(&[("memory.available", "5%")]);
        let all = thresholds(&file).unwrap();
        assert_eq!((all[0].grace, all[0].reclaim), (Some(Duration::from_secs(90)), Some(Limit::Part(0.05))));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let of = |name: &str, value: &str| {
            let file =
                KubeletConfiguration { eviction_hard: Some(map(&[(name, value)])), ..Default::default() };
            thresholds(&file).map(|all| all.len()).map_err(|e| e.to_string())
        };
        assert_eq!(of("memory.free", "1"), Err("unsupported eviction signal memory.free".into()));
        for value in ["101%", "-1", "much", ""] {
            assert!(of("memory.available", value).is_err(), "{value}");
        }
        assert_eq!(of("containerfs.available", "5%"), Ok(0));
    }
}
