//! Log rotation: logs of running containers that have grown too large are set aside and the runtime opens new ones.

use std::{path::Path, sync::Arc};

use component_base::task::Tasks;
use jiff::Timestamp;

use crate::{
    pod,
    pods::Pods,
    runtime::{
        RuntimeError,
        logs::{Rotation, rotate},
    },
    worker::Shared,
};

/// Rotates until the drain.
pub fn run(shared: Arc<Shared>, pods: Arc<Pods>, rotation: Rotation, tasks: &Tasks) {
    let mut ticks = tasks.ticks(rotation.period);
    tasks.spawn("log-rotation", async move {
        while ticks.next().await {
            for pod in pods.current() {
                let logs = crate::runtime::config::pod_log_dir(&shared.settings.log_root, &pod);
                if !has_large(&logs, rotation.max_size) {
                    continue;
                }
                if let Err(error) = rotate_pod(&shared, pod::uid(&pod), rotation).await {
                    tracing::warn!(pod = %pod::display(&pod), %error, "cannot rotate the pod's logs");
                }
            }
        }
    });
}

/// Some log below the folder is too large; asking the runtime is spared otherwise.
fn has_large(folder: &Path, limit: u64) -> bool {
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
    entries(folder).any(|container| {
        entries(&container.path()).any(|log| {
            log.path().extension().is_some_and(|e| e == "log")
                && log.metadata().is_ok_and(|m| m.len() >= limit)
        })
    })
}

async fn rotate_pod(shared: &Shared, uid: &str, rotation: Rotation) -> Result<(), RuntimeError> {
    let runtime = shared.runtime.pod(uid).await?;
    for record in runtime.running() {
        match rotate(Path::new(&record.log_path), rotation, Timestamp::now()) {
            Ok(true) => shared.runtime.reopen_log(&record.id).await?,
            Ok(false) => {}
            Err(error) => tracing::warn!(path = record.log_path, %error, "cannot rotate the log"),
        }
    }
    Ok(())
}
