//! Log rotation: logs of running containers that have grown too large are set aside and the runtime opens new ones, for
//! several pods at a time where that is asked for (`containerLogMaxWorkers`).

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

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
                if needs_rotation(&logs, rotation.max_size)
                    && let Err(error) = rotate_pod(shared, pod::uid(&pod), rotation).await
                {
                    tracing::warn!(pod = %pod::display(&pod), %error, "cannot rotate the pod's logs");
                }
            };
            stream::iter(pods.current()).for_each_concurrent(workers, one).await;
        }
    });
}

/// Some log below the folder is too large, or a container has none: asking the runtime is spared otherwise.
fn needs_rotation(folder: &Path, limit: u64) -> bool {
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
    entries(folder).filter(|entry| entry.path().is_dir()).any(|container| {
        let logs =
            entries(&container.path()).filter(|log| log.path().extension().is_some_and(|e| e == "log"));
        let sizes: Vec<u64> = logs.filter_map(|log| Some(log.metadata().ok()?.len())).collect();
        sizes.is_empty() || sizes.into_iter().any(|size| size >= limit)
    })
}

async fn rotate_pod(shared: &Shared, uid: &str, rotation: Rotation) -> Result<(), RuntimeError> {
    let runtime = shared.runtime.pod(uid).await?;
    for record in runtime.running() {
        let log = PathBuf::from(&record.log_path);
        let rotated = {
            let log = log.clone();
            tokio::task::spawn_blocking(move || rotate(&log, rotation, Timestamp::now())).await
        };
        match rotated {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(rotated))) => {
                if let Err(error) = shared.runtime.reopen_log(&record.id).await {
                    // The container goes on writing to it, under the name that is looked for.
                    if let Err(error) = std::fs::rename(&rotated, &log) {
                        tracing::error!(path = record.log_path, %error, "cannot put the log back");
                    }
                    return Err(error);
                }
            }
            // Somebody took it away.
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                shared.runtime.reopen_log(&record.id).await?;
            }
            Ok(Err(error)) => tracing::warn!(path = record.log_path, %error, "cannot rotate the log"),
            Err(error) => tracing::error!(path = record.log_path, %error, "rotating the log failed"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_is_asked_where_a_log_is_too_large_or_missing() {
        let dir = tempfile::tempdir().unwrap();
        let needs = || needs_rotation(dir.path(), 3);
        assert!(!needs());
        std::fs::create_dir(dir.path().join("c")).unwrap();
        assert!(needs(), "it has none");
        std::fs::write(dir.path().join("c/0.log"), "xx").unwrap();
        std::fs::write(dir.path().join("c/0.log.20270115-080000"), "xxxx").unwrap();
        assert!(!needs());
        std::fs::write(dir.path().join("c/1.log"), "xxx").unwrap();
        assert!(needs());
    }
}
