//! Seeing what changes in the runtime: a list each second, compared with the one before (the pod lifecycle event
//! generator). A runtime that streams events (containerd 1.7 and newer) would feed the same [`changed`] seam.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use component_base::task::Tasks;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    metrics,
    pods::Pods,
    runtime::{Glimpse, Runtime, cri},
};

/// Between two lists.
const PERIOD: Duration = Duration::from_secs(1);
/// A list that is older than this means that the runtime does not answer.
const THRESHOLD: Duration = Duration::from_secs(180);

/// When the runtime was last seen.
#[derive(Debug)]
pub struct Seen(Mutex<Instant>);

impl Seen {
    /// The runtime answered recently.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.0.lock().elapsed() < THRESHOLD
    }
}

type View = BTreeMap<String, (String, i32)>;

/// The pods whose containers or sandboxes differ between two lists.
#[must_use]
pub fn changed(before: &View, now: &View) -> BTreeSet<String> {
    let differs = |a: &View, b: &View| -> BTreeSet<String> {
        a.iter().filter(|(id, seen)| b.get(*id) != Some(seen)).map(|(_, (uid, _))| uid.clone()).collect()
    };
    &differs(before, now) | &differs(now, before)
}

fn view(list: &[Glimpse]) -> View {
    list.iter().map(|g| (g.id.clone(), (g.pod.uid.clone(), g.state))).collect()
}

/// Shows how many pods and containers there are.
fn count(list: &[Glimpse]) {
    use cri::{ContainerState, PodSandboxState};
    let many = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let ready =
        list.iter().filter(|g| g.sandbox_id.is_none() && g.state == PodSandboxState::SandboxReady as i32);
    metrics::get().running_pods.set(many(ready.count()));
    for (state, name) in [
        (ContainerState::ContainerCreated, "created"),
        (ContainerState::ContainerRunning, "running"),
        (ContainerState::ContainerExited, "exited"),
        (ContainerState::ContainerUnknown, "unknown"),
    ] {
        let found = list.iter().filter(|g| g.sandbox_id.is_some() && g.state == state as i32).count();
        metrics::get().running_containers.with_label_values(&[name]).set(many(found));
    }
}

/// Watches the runtime until the drain and wakes the workers of pods that changed.
pub fn run(runtime: Runtime, pods: Arc<Pods>, tasks: &Tasks) -> Arc<Seen> {
    let seen = Arc::new(Seen(Mutex::new(Instant::now())));
    let (result, mut ticks) = (Arc::clone(&seen), tasks.ticks(PERIOD));
    tasks.spawn("pleg", async move {
        let (mut before, mut last) = (View::new(), Instant::now());
        while ticks.next().await {
            let (begun, metrics) = (Instant::now(), metrics::get());
            metrics.pleg_interval.observe(last.elapsed().as_secs_f64());
            last = begun;
            match runtime.glimpse().await {
                Ok(list) => {
                    metrics.pleg_relist.observe(begun.elapsed().as_secs_f64());
                    metrics.pleg_last_seen.set(jiff::Timestamp::now().as_second());
                    *seen.0.lock() = Instant::now();
                    let now = view(&list);
                    if now != before {
                        for uid in changed(&before, &now) {
                            let own = now.iter().filter(|(_, (pod, _))| *pod == uid);
                            let own = own.map(|(id, (_, state))| (id.as_str(), *state)).collect();
                            pods.changed(&uid, &own);
                        }
                        count(&list);
                    }
                    before = now;
                }
                Err(error) => tracing::error!(%error, "cannot list the runtime's pods"),
            }
        }
    });
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_found_in_both_directions() {
        let view = |list: &[(&str, &str, i32)]| -> View {
            list.iter().map(|(id, uid, state)| ((*id).into(), ((*uid).into(), *state))).collect()
        };
        let before = view(&[("a", "1", 1), ("b", "2", 1), ("c", "3", 1)]);
        let now = view(&[("a", "1", 1), ("b", "2", 2), ("d", "4", 0)]);
        let expected: BTreeSet<String> = ["2", "3", "4"].map(str::to_owned).into();
        assert_eq!(changed(&before, &now), expected);
        assert!(changed(&now, &now).is_empty());
    }
}
