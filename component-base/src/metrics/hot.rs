//! Metrics that are counted at every request or event: each thread keeps the handles it has found, so that counting
//! takes neither a lock nor the slow hash of all labels, and threads do not contend for a handle's reference count.

use std::{cell::RefCell, collections::HashMap, hash::BuildHasher, sync::LazyLock, thread::LocalKey};

use foldhash::fast::RandomState;
use prometheus::{
    Histogram, IntCounter, IntGauge,
    core::{Metric, MetricVec, MetricVecBuilder},
};

/// The handles of a thread, by the hash of a metric's place, which as a static has it for ever, and the labels. As the
/// library's own, the hash alone tells them apart; this one is of all labels with their ends, and seeded.
pub type Handles<M> = RefCell<HashMap<u64, M, RandomState>>;

/// A kind of metric whose handles threads keep.
pub trait Kept: Metric + Clone {
    /// Those of this thread.
    fn handles() -> &'static LocalKey<Handles<Self>>;
}

macro_rules! kept {
    ($($metric:ty),*) => {$(
        impl Kept for $metric {
            fn handles() -> &'static LocalKey<Handles<Self>> {
                thread_local!(static HANDLES: Handles<$metric> = RefCell::default());
                &HANDLES
            }
        }
    )*};
}
kept!(Histogram, IntCounter, IntGauge);

/// Metrics by labels, counted often.
pub trait Hot<M> {
    /// Counts by what has these labels. Not for metrics whose labels are removed again, or come from outside without
    /// bound: a thread never forgets.
    fn hot(&'static self, labels: &[&str], count: impl FnOnce(&M));
}

impl<B: MetricVecBuilder<M: Kept>> Hot<B::M> for MetricVec<B> {
    fn hot(&'static self, labels: &[&str], count: impl FnOnce(&B::M)) {
        static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::default);
        let hash = HASHER.hash_one((std::ptr::from_ref(self) as usize, labels));
        let mut count = Some(count);
        let by_kept = |handles: &Handles<B::M>| {
            // Who counts while counting, and who counts while its thread ends, looks the handle up.
            if let Ok(mut handles) = handles.try_borrow_mut()
                && let Some(count) = count.take()
            {
                count(handles.entry(hash).or_insert_with(|| self.with_label_values(labels)));
            }
        };
        B::M::handles().try_with(by_kept).ok();
        if let Some(count) = count {
            count(&self.with_label_values(labels));
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{HistogramVec, IntCounterVec};

    use super::*;
    use crate::metrics::{Stability, counter_vec, histogram_vec};

    #[test]
    fn counts_by_metric_and_labels_over_threads() {
        static ONE: LazyLock<IntCounterVec> =
            LazyLock::new(|| counter_vec("test_hot_total", "Hot.", Stability::Alpha, &["a", "b"]));
        static OTHER: LazyLock<IntCounterVec> =
            LazyLock::new(|| counter_vec("test_other_total", "Other.", Stability::Alpha, &["a", "b"]));
        static TIMES: LazyLock<HistogramVec> =
            LazyLock::new(|| histogram_vec("test_hot_seconds", "Hot.", Stability::Alpha, &["a"], vec![1.0]));
        let count = || {
            for _ in 0..100 {
                ONE.hot(&["x", "y"], IntCounter::inc);
                ONE.hot(&["w", "v"], |count| {
                    count.inc_by(2);
                    ONE.hot(&["x", "z"], IntCounter::inc);
                });
                OTHER.hot(&["x", "y"], |count| count.inc_by(3));
                TIMES.hot(&["x"], |time| time.observe(0.5));
            }
        };
        let threads: Vec<_> = (0..2).map(|_| std::thread::spawn(count)).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let counted = |metric: &IntCounterVec, labels: [&str; 2]| metric.with_label_values(&labels).get();
        assert_eq!(counted(&ONE, ["x", "y"]), 200);
        assert_eq!(counted(&ONE, ["w", "v"]), 400);
        assert_eq!(counted(&ONE, ["x", "z"]), 200);
        assert_eq!(counted(&OTHER, ["x", "y"]), 600);
        assert_eq!(TIMES.with_label_values(&["x"]).get_sample_count(), 200);
    }
}
