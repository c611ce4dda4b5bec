//! The fault harness: what a control loop over pods comes to when it is disturbed.
//!
//! The world is a list of pods. A plan says what to write; the harness writes one after the other and once, at a write
//! it is told, disturbs the loop: the process is killed before the rest of the plan (after the n-th write and so before
//! the next), the next plan does not see one event, or it sees the world as it was some writes ago, as after a
//! reconnection to a server that lags. A process that starts anew knows nothing but what it reads. Afterwards the loop
//! goes on undisturbed, and must come to the same end as a run that never was.
//!
//! This is stricter than the controllers need: they also wait to see their own writes before they plan again.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

/// Plans after which a loop must have come to rest.
const ROUNDS: usize = 200;
/// How many writes a lagging server is behind.
const LAGS: [usize; 3] = [1, 2, 5];

/// One write of a plan.
#[derive(Clone, Debug)]
pub(super) enum Write {
    /// Fails without harm when a pod of that name is there.
    Create(Box<Pod>),
    /// By name; fails without harm when it is gone.
    Delete(String),
}

/// What goes wrong, counted in writes of the whole run.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Killed { after: usize },
    Hidden { event: usize },
    Lagging { after: usize, by: usize },
}

struct World {
    pods: Vec<Arc<Pod>>,
    /// The pods before each write.
    before: Vec<Vec<Arc<Pod>>>,
    names: usize,
}

/// Runs a loop undisturbed, then with every fault at every write, and compares the ends: what `says` tells of each pod.
pub(super) fn survives(
    start: &[Arc<Pod>],
    plan: impl Fn(&[Arc<Pod>]) -> Vec<Write>,
    says: impl Fn(&Pod) -> String,
) {
    let (end, writes) = run(start, &plan, &says, None);
    assert!(writes > 0, "there is something to disturb");
    let lagging = |after| LAGS.map(|by| Fault::Lagging { after, by });
    let killed = (0..writes).map(|after| Fault::Killed { after });
    let hidden = (0..writes).map(|event| Fault::Hidden { event });
    for fault in killed.chain(hidden).chain((1..=writes).flat_map(lagging)) {
        assert_eq!(run(start, &plan, &says, Some(fault)).0, end, "{fault:?}");
    }
}

/// The end of a run, and the writes it took.
fn run(
    start: &[Arc<Pod>],
    plan: &impl Fn(&[Arc<Pod>]) -> Vec<Write>,
    says: &impl Fn(&Pod) -> String,
    mut fault: Option<Fault>,
) -> (Vec<String>, usize) {
    let mut world = World { pods: start.to_vec(), before: Vec::new(), names: 0 };
    for _ in 0..ROUNDS {
        world.come_up();
        let done = world.before.len();
        let seen = match fault {
            Some(Fault::Hidden { event }) if done > event => fault.take().map(|_| world.without(event)),
            Some(Fault::Lagging { after, by }) if done >= after => {
                fault.take().map(|_| world.before[done.saturating_sub(by)].clone())
            }
            _ => None,
        };
        let was_disturbed = seen.is_some();
        let writes = plan(&seen.unwrap_or_else(|| world.pods.clone()));
        if writes.is_empty() && !was_disturbed {
            let mut end: Vec<String> = world.pods.iter().map(|pod| says(pod)).collect();
            end.sort();
            return (end, world.before.len());
        }
        for write in writes {
            if let Some(Fault::Killed { after }) = fault
                && world.before.len() == after
            {
                fault = None;
                break;
            }
            world.write(write);
        }
    }
    panic!("no rest after {ROUNDS} plans: {fault:?}");
}

impl World {
    fn write(&mut self, write: Write) {
        self.before.push(self.pods.clone());
        match write {
            Write::Delete(name) => self.pods.retain(|pod| name_of(pod) != name),
            Write::Create(mut pod) => {
                if pod.metadata.name.is_none() {
                    self.names += 1;
                    let stem = pod.metadata.generate_name.clone().unwrap_or_default();
                    pod.metadata.name = Some(format!("{stem}made-{}", self.names));
                }
                pod.metadata.uid = pod.metadata.name.clone();
                if !self.pods.iter().any(|other| other.metadata.name == pod.metadata.name) {
                    self.pods.push(Arc::new(*pod));
                }
            }
        }
    }

    /// What there is, but for what one write did.
    fn without(&self, event: usize) -> Vec<Arc<Pod>> {
        let before = &self.before[event];
        let after = self.before.get(event + 1).unwrap_or(&self.pods);
        let is_in = |list: &[Arc<Pod>], pod: &Pod| list.iter().any(|other| name_of(other) == name_of(pod));
        let came = |pod: &Pod| is_in(after, pod) && !is_in(before, pod);
        let went = before.iter().filter(|pod| !is_in(after, pod) && !is_in(&self.pods, pod));
        self.pods.iter().filter(|pod| !came(pod)).chain(went).cloned().collect()
    }

    /// Every pod runs and has long been ready.
    fn come_up(&mut self) {
        let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
        for pod in self.pods.iter_mut().filter(|pod| pod.status.is_none()) {
            Arc::make_mut(pod).status = serde_json::from_value(status.clone()).unwrap();
        }
    }
}

fn name_of(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}
