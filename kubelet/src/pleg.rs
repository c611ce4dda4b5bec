//! Seeing what changes in the runtime: a list each second, compared with the one before (the pod lifecycle event generator).
//!
//! ```text
//! each second, or each half a minute while the runtime streams events --+
//! an event of the runtime ----------------------------------------------+-> list -> differences -> workers
//! ```
//! Contract: KEP-3386 (`EventedPLEG`) for events, which runtimes from containerd 1.7 on have. They only say when to look, so one
//! that is lost or late does no harm.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use component_base::task::Tasks;
use futures::{Stream, StreamExt as _};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use crate::{
    metrics,
    pods::Pods,
    runtime::{Glimpse, Runtime, RuntimeError, cri},
};

/// Between two lists.
const PERIOD: Duration = Duration::from_secs(1);
/// While events come: every how many-th period a list is made all the same.
const SELDOM: u32 = 30;
/// Between two lists that events call for.
const GAP: Duration = Duration::from_millis(100);
/// Before events are asked for again.
const RETRY: Duration = Duration::from_secs(5);
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

/// The runtime's events, as far as they are listened to.
#[derive(Debug, Default)]
struct Events {
    /// Something has changed.
    wake: Notify,
    /// They come.
    connected: AtomicBool,
}

impl Events {
    /// Listens for good, or until it turns out that the runtime has no events. `connect` asks for them, again so long after
    /// it failed.
    async fn follow<F, S>(&self, mut connect: impl FnMut() -> F, again: Duration)
    where
        F: Future<Output = Result<S, RuntimeError>>,
        S: Stream<Item = Result<cri::ContainerEventResponse, tonic::Status>>,
    {
        let metrics = metrics::get();
        loop {
            match connect().await {
                Ok(events) => {
                    metrics.events_connections.inc();
                    self.connected.store(true, Ordering::Relaxed);
                    let mut events = pin!(events);
                    while let Some(Ok(event)) = events.next().await {
                        metrics.events_latency.observe(age(event.created_at, jiff::Timestamp::now()));
                        self.wake.notify_one();
                    }
                    self.connected.store(false, Ordering::Relaxed);
                    // What happened between the last event and now is found by a list.
                    self.wake.notify_one();
                }
                Err(RuntimeError::Call { code: tonic::Code::Unimplemented, .. }) => {
                    metrics.events_errors.inc();
                    tracing::info!("the runtime streams no events, it is listed each second");
                    return;
                }
                Err(error) => tracing::warn!(%error, "cannot listen to the runtime's events"),
            }
            metrics.events_errors.inc();
            tokio::time::sleep(again).await;
        }
    }

    /// Whether a list may wait that is not called for; `skipped` counts those that did.
    fn may_skip(&self, skipped: &mut u32) -> bool {
        *skipped = if self.connected.load(Ordering::Relaxed) { *skipped + 1 } else { SELDOM };
        *skipped < SELDOM
    }
}

/// Seconds since a time in nanoseconds since 1970.
fn age(created_at: i64, now: jiff::Timestamp) -> f64 {
    let created = jiff::Timestamp::from_nanosecond(i128::from(created_at)).unwrap_or(now);
    now.duration_since(created).as_secs_f64().max(0.0)
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

/// Watches the runtime until the drain and wakes the workers of pods that changed; by its events as well, where `evented`.
pub fn run(runtime: Runtime, pods: Arc<Pods>, evented: bool, tasks: &Tasks) -> Arc<Seen> {
    let events = Arc::new(Events::default());
    if evented {
        let (runtime, events, drain) = (runtime.clone(), Arc::clone(&events), tasks.drain());
        tasks.spawn("runtime-events", async move {
            let connect = || {
                let runtime = runtime.clone();
                async move { runtime.events().await }
            };
            drain.run_until_cancelled(events.follow(connect, RETRY)).await;
        });
    }
    let seen = Arc::new(Seen(Mutex::new(Instant::now())));
    let (result, mut ticks) = (Arc::clone(&seen), tasks.ticks(PERIOD));
    tasks.spawn("pleg", async move {
        let (mut before, mut last, mut skipped) = (View::new(), Instant::now(), 0);
        loop {
            let called = tokio::select! {
                goes_on = ticks.next() => if goes_on { false } else { return },
                () = events.wake.notified() => true,
            };
            if called {
                // Events come in swarms.
                tokio::time::sleep_until(last + GAP).await;
            } else if events.may_skip(&mut skipped) {
                continue;
            }
            skipped = 0;
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

    #[tokio::test]
    async fn events_call_for_lists_and_make_others_seldom() {
        let (events, mut skipped) = (Events::default(), 0);
        assert!(!events.may_skip(&mut skipped), "nothing else tells");
        let mut connections = 0;
        let connect = || {
            connections += 1;
            let one = [Ok::<_, tonic::Status>(cri::ContainerEventResponse::default())];
            std::future::ready(match connections {
                1 => Err(RuntimeError::Incomplete("events")),
                2 => Ok(futures::stream::iter(one)),
                _ => Err(tonic::Status::unimplemented("unknown method").into()),
            })
        };
        events.follow(connect, Duration::ZERO).await;
        assert_eq!(connections, 3, "it goes on until there are none");
        events.wake.notified().await;
        assert!(!events.connected.load(Ordering::Relaxed));
        events.connected.store(true, Ordering::Relaxed);
        skipped = 0;
        let listed = (0..60).filter(|_| !events.may_skip(&mut skipped) && std::mem::take(&mut skipped) > 0);
        assert_eq!(listed.count(), 2);
        let now = jiff::Timestamp::from_second(10).unwrap();
        assert_eq!((age(9_500_000_000, now), age(11_000_000_000, now)), (0.5, 0.0));
    }

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
