//! Whether the runtime's network works, from its own conditions. Pods with their own network wait for it. The same answer
//! tells what the runtime's handlers can do.

use std::{sync::Arc, time::Duration};

use component_base::task::Tasks;
use tokio::sync::watch;

use crate::{pods::Pods, worker::Shared};

/// How often a network that works is looked at.
const PERIOD: Duration = Duration::from_secs(5);
/// How often one that does not: a new node is ready as soon as its network is.
const EAGER: Duration = Duration::from_millis(200);

/// Asks the runtime until the drain; `state` holds why the network does not work, or nothing.
pub fn run(shared: Arc<Shared>, state: watch::Sender<Option<String>>, pods: Arc<Pods>, tasks: &Tasks) {
    let drain = tasks.drain();
    tasks.spawn("network-readiness", async move {
        loop {
            let now = unready(&shared).await;
            let wait = if now.is_none() { PERIOD } else { EAGER };
            let changed = state.send_if_modified(|before| {
                let changed = *before != now;
                before.clone_from(&now);
                changed
            });
            if changed {
                pods.nudge_all();
            }
            tokio::select! {
                () = drain.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    });
}

async fn unready(shared: &Shared) -> Option<String> {
    let status = match shared.runtime.status().await {
        Ok(answer) => {
            *shared.handlers.lock() = answer.runtime_handlers;
            answer.status.unwrap_or_default()
        }
        Err(error) => return Some(error.to_string()),
    };
    let condition = status.conditions.into_iter().find(|c| c.r#type == "NetworkReady");
    let Some(condition) = condition else {
        return Some("runtime network condition is unknown".to_owned());
    };
    if condition.status {
        return None;
    }
    Some(format!(
        "container runtime network not ready: NetworkReady=false reason:{} message:{}",
        condition.reason, condition.message
    ))
}
