//! Pods that start take turns: some at once, the others after them. A runtime asked for a hundred pods at the same time
//! makes all of them late, the first as well as the last, and takes longer for all than for one after the other.
//!
//! A turn is a courtesy and no lock: a pod that waits for an image, a volume or its network keeps the others waiting
//! for [`PATIENCE`] and no longer.

use std::{sync::Arc, time::Duration};

use component_base::task::Tasks;
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Pods that start at once, at least, and for each processor: most of a start is waiting for processes of the runtime.
const LEAST: usize = 8;
const EACH: usize = 4;
/// How long a pod's turn lasts at most.
const PATIENCE: Duration = Duration::from_secs(3);

/// Who starts now.
#[derive(Debug)]
pub struct Turns {
    free: Arc<Semaphore>,
    patience: Duration,
    tasks: Arc<Tasks>,
}

/// A pod's turn, which is over with this value, or sooner.
#[derive(Debug)]
pub(super) struct Turn {
    _over: DropGuard,
}

impl Turns {
    /// So many at once.
    #[must_use]
    pub fn new(at_once: usize, tasks: Arc<Tasks>) -> Self {
        Self { free: Arc::new(Semaphore::new(at_once)), patience: PATIENCE, tasks }
    }

    /// As many at once as a machine with so many processors bears.
    #[must_use]
    pub fn on(processors: usize, tasks: Arc<Tasks>) -> Self {
        Self::new(LEAST.max(EACH * processors), tasks)
    }

    /// Waits for a turn; first come, first served.
    pub(super) async fn wait(&self) -> Turn {
        let over = CancellationToken::new();
        // It is never closed; were it, nobody would have to wait.
        if let Ok(place) = Arc::clone(&self.free).acquire_owned().await {
            let (over, patience) = (over.clone(), self.patience);
            self.tasks.spawn_contained("turn", async move {
                let _none = over.run_until_cancelled(tokio::time::sleep(patience)).await;
                drop(place);
            });
        }
        Turn { _over: over.drop_guard() }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn turns(patience: Duration) -> Turns {
        Turns { patience, ..Turns::new(2, Arc::new(Tasks::new())) }
    }

    #[tokio::test]
    async fn who_has_a_turn_keeps_the_others_waiting_until_it_is_over() {
        let turns = turns(Duration::from_secs(3600));
        let (first, _second) = (turns.wait().await, turns.wait().await);
        let third = turns.wait();
        tokio::pin!(third);
        assert!(futures::poll!(third.as_mut()).is_pending());
        drop(first);
        let _third = third.await;
        assert!(turns.wait().now_or_never().is_none());
    }

    #[tokio::test]
    async fn nobody_keeps_the_others_waiting_for_long() {
        let turns = turns(Duration::from_millis(10));
        let _all = [turns.wait().await, turns.wait().await, turns.wait().await, turns.wait().await];
    }
}
