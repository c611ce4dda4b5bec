//! Log rotation: logs of running containers that have grown too large are set aside and the runtime opens new ones, for
//! several pods at a time where that is asked for (`containerLogMaxWorkers`).

use std::{path::Path, sync::Arc};

use component_base::task::Tasks;
use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::{
    pod,
    pods::Pods,
    runtime::{
        RuntimeError,
        logs::{Rotation, rotate},
    },
    worker::Shared,
};

/// Rotates until the drain, the logs of so many pods at a time.
pub fn run(shared: Arc<Shared>, pods: Arc<Pods>, rotation: Rotation, workers: usize, tasks: &Tasks) {
    let mut ticks = tasks.ticks(rotation.period);
    tasks.spawn("log-rotation", async move {
        while ticks.next().await {
            let shared = &shared;
            let one = |pod: Arc<Pod>| async move {
                let logs = crate::runtime::config::pod_log_dir(&shared.settings.log_root, &pod);
                if has_large(&logs, rotation.max_size)
                    && let Err(error) = rotate_pod(shared, pod::uid(&pod), rotation).await
                {
                    tracing::warn!(pod = %pod::display(&pod), %error, "cannot rotate the pod's logs");
                }
            };
            stream::iter(pods.current()).for_each_concurrent(workers, one).await;
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
