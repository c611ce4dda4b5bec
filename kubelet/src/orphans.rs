//! What no pod owns any more: containers, sandboxes, folders, cgroups and logs of pods that were deleted while the kubelet
//! was away, and old instances of containers that live pods have left behind.
//!
//! Nothing is collected before all sources have spoken.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use component_base::{task::Tasks, traces};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::{
    csi::record,
    lifecycle, metrics,
    pods::Pods,
    runtime::{Glimpse, Runtime, RuntimeError, cri, logs, observed},
    volume,
    worker::Shared,
};

const PERIOD: Duration = Duration::from_secs(30);
/// What the preStop hook of a container is given whose pod nobody knows any more.
const HOOK: Duration = Duration::from_secs(1);
/// What such a container is given to end.
const GRACE: Duration = Duration::from_secs(2);

/// How much of containers that have ended is kept, while their pod lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Those that were made less than this ago.
    pub age: Duration,
    /// So many instances of each container; below zero is all.
    pub each: i64,
    /// So many in all; below zero is no limit.
    pub all: i64,
}

impl Default for Keep {
    fn default() -> Self {
        Self { age: Duration::ZERO, each: 1, all: -1 }
    }
}

/// What to take away. Pure.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Containers to stop first.
    pub stop: Vec<String>,
    /// Containers to remove.
    pub containers: Vec<String>,
    /// Sandboxes to stop and remove.
    pub sandboxes: Vec<String>,
    /// Pods that nobody knows and that run.
    pub orphans: BTreeSet<String>,
}

/// Decides what is orphaned: everything of unknown pods; of known ones, all but the newest dead instances of each
/// container, and sandboxes that are not ready, not the newest, and hold no container.
#[must_use]
pub fn plan(list: &[Glimpse], knows: impl Fn(&str) -> bool, keep: Keep, now: Timestamp) -> Plan {
    let old = now.checked_sub(keep.age).unwrap_or(Timestamp::MIN).as_nanosecond();
    let mut plan = Plan::default();
    let (running, created, unknown) = (
        cri::ContainerState::ContainerRunning as i32,
        cri::ContainerState::ContainerCreated as i32,
        cri::ContainerState::ContainerUnknown as i32,
    );
    let ready = cri::PodSandboxState::SandboxReady as i32;
    let mut dead: BTreeMap<(&str, &str), Vec<&Glimpse>> = BTreeMap::new();
    let mut sandboxes: BTreeMap<&str, Vec<&Glimpse>> = BTreeMap::new();
    let mut used: HashSet<&str> = HashSet::new();
    for item in list {
        let orphan = !knows(&item.pod.uid);
        if orphan && item.state == if item.sandbox_id.is_some() { running } else { ready } {
            plan.orphans.insert(item.pod.uid.clone());
        }
        match &item.sandbox_id {
            Some(_) if orphan => {
                if item.state == running {
                    plan.stop.push(item.id.clone());
                }
                plan.containers.push(item.id.clone());
            }
            None if orphan => plan.sandboxes.push(item.id.clone()),
            Some(sandbox) => {
                used.insert(sandbox);
                if item.state != running && i128::from(item.created_at) <= old {
                    dead.entry((&item.pod.uid, &item.name)).or_default().push(item);
                }
            }
            None => sandboxes.entry(&item.pod.uid).or_default().push(item),
        }
    }
    for instances in dead.values_mut() {
        instances.sort_by_key(|g| std::cmp::Reverse(g.created_at));
        // The newest one may be about to start; the one before it is still the last that ended.
        if instances.first().is_some_and(|newest| newest.state == created) {
            instances.remove(0);
        }
    }
    dead.retain(|_, instances| !instances.is_empty());
    if let Ok(each) = usize::try_from(keep.each) {
        thin(&mut dead, each, &mut plan.containers);
    }
    let count = |dead: &BTreeMap<_, Vec<&Glimpse>>| dead.values().map(Vec::len).sum::<usize>();
    if let Ok(all) = usize::try_from(keep.all)
        && count(&dead) > all
    {
        // As many of each as there is room for, one at least; then the oldest of all go.
        let each = (all / dead.len()).max(1);
        thin(&mut dead, each, &mut plan.containers);
        let mut rest: Vec<&Glimpse> = dead.into_values().flatten().collect();
        rest.sort_by_key(|g| std::cmp::Reverse(g.created_at));
        plan.containers.extend(rest.into_iter().skip(all).map(|g| g.id.clone()));
    }
    for list in sandboxes.values_mut() {
        list.sort_by_key(|g| std::cmp::Reverse(g.created_at));
        let old = list.iter().skip(1).filter(|g| g.state != ready && !used.contains(g.id.as_str()));
        plan.sandboxes.extend(old.map(|g| g.id.clone()));
    }
    // What the runtime cannot say anything of may still run.
    let goes = |item: &&Glimpse| item.state == unknown && plan.containers.contains(&item.id);
    let lost: Vec<String> = list.iter().filter(goes).map(|item| item.id.clone()).collect();
    plan.stop.extend(lost);
    plan
}

/// Leaves so many of each and lists the others.
fn thin(dead: &mut BTreeMap<(&str, &str), Vec<&Glimpse>>, most: usize, gone: &mut Vec<String>) {
    for instances in dead.values_mut() {
        gone.extend(instances.drain(most.min(instances.len())..).map(|g| g.id.clone()));
    }
}

/// Collects until the drain.
pub fn run(shared: Arc<Shared>, pods: Arc<Pods>, keep: Keep, tasks: &Tasks) {
    let mut ticks = tasks.ticks(PERIOD);
    tasks.spawn("orphans", async move {
        while ticks.next().await {
            if !pods.is_synced() {
                continue;
            }
            let collected = collect(&shared.runtime, &pods, keep);
            if let Err(error) = traces::follow("Containers/GarbageCollect", Vec::new, collected).await {
                tracing::warn!(%error, "cannot collect orphaned containers");
            }
            shared.allocations.retain(|uid| pods.knows(uid));
            let (shared, pods) = (Arc::clone(&shared), Arc::clone(&pods));
            // Without the runtime's word nothing is known to be left over: what its containers use would go with them.
            let seen = match shared.runtime.glimpse().await {
                Ok(seen) => seen,
                Err(error) => {
                    tracing::warn!(%error, "cannot tell what is left of pods that are gone");
                    continue;
                }
            };
            let alive: BTreeSet<String> = seen.into_iter().map(|g| g.pod.uid).collect();
            tear_down_volumes(&shared, &|uid| pods.knows(uid) || alive.contains(uid)).await;
            shared.csi.collect().await;
            collect_cgroups(&shared, &|uid| pods.knows(uid) || alive.contains(uid)).await;
            let files = move || collect_files(&shared, &|uid| pods.knows(uid) || alive.contains(uid));
            if let Err(error) = tokio::task::spawn_blocking(files).await {
                tracing::error!(%error, "collecting orphaned files failed");
            }
        }
    });
}

async fn collect(runtime: &Runtime, pods: &Pods, keep: Keep) -> Result<(), RuntimeError> {
    let list = runtime.glimpse().await?;
    let plan = plan(&list, |uid| pods.knows(uid), keep, Timestamp::now());
    carry_out(runtime, &plan).await;
    Ok(())
}

/// Removes what is left of pods that have ended, whether or not somebody may still want to read its logs: the disk is full.
pub async fn collect_dead(runtime: &Runtime, pods: &Pods) {
    match runtime.glimpse().await {
        Ok(list) => {
            let knows = |uid: &str| pods.knows(uid) && !pods.has_ended(uid);
            carry_out(runtime, &plan(&list, knows, Keep::default(), Timestamp::now())).await;
        }
        Err(error) => tracing::warn!(%error, "cannot collect dead containers"),
    }
}

async fn carry_out(runtime: &Runtime, plan: &Plan) {
    for uid in &plan.orphans {
        tracing::info!(uid, "what runs of a pod that nobody knows is ended");
    }
    metrics::get().orphaned_runtime_pods.inc_by(u64::try_from(plan.orphans.len()).unwrap_or(0));
    // What cannot be removed now is found again by the next round.
    join_all(plan.stop.iter().map(|id| async move { report(kill(runtime, id).await) })).await;
    for id in &plan.containers {
        // Without a status nothing is known of its log, which goes with its pod then.
        if let Ok(status) = runtime.container_status(id).await
            && !status.log_path.is_empty()
        {
            report(logs::remove(Path::new(&status.log_path)));
        }
        report(runtime.remove_container(id).await);
    }
    for id in &plan.sandboxes {
        report(runtime.stop_sandbox(id).await);
        report(runtime.remove_sandbox(id).await);
    }
}

/// Ends a container of which only the runtime knows, with the hook that was written down when it was made.
async fn kill(runtime: &Runtime, id: &str) -> Result<(), RuntimeError> {
    let status = runtime.container_status(id).await?;
    if let Some((container, hook)) = hook(&status) {
        let uid = status.labels.get(observed::POD_UID).map(String::as_str).unwrap_or_default();
        let run = async {
            let pod = runtime.pod(uid).await?;
            let ip =
                pod.sandboxes.iter().find_map(|sandbox| sandbox.ips.first().cloned()).unwrap_or_default();
            lifecycle::run(runtime, id, &ip, &container, &hook, HOOK).await
        };
        if let Ok(Err(error)) = tokio::time::timeout(HOOK, run).await {
            tracing::warn!(id, %error, "preStop hook failed");
        }
    }
    runtime.stop_container(id, GRACE).await
}

/// A container's preStop hook, and of the container what hooks look at.
fn hook(status: &cri::ContainerStatus) -> Option<(Container, LifecycleHandler)> {
    let said = |key| status.annotations.get(key).map(String::as_str).unwrap_or_default();
    // Where nothing is written there is none.
    let hook = serde_json::from_str(said(observed::PRE_STOP)).ok()?;
    let ports = serde_json::from_str(said(observed::PORTS)).ok();
    let name = status.labels.get(observed::CONTAINER_NAME).cloned().unwrap_or_default();
    Some((Container { name, ports, ..Container::default() }, hook))
}

/// Volumes of storage drivers leave with their driver's help, before their folders do.
async fn tear_down_volumes(shared: &Shared, keeps: &(dyn Fn(&str) -> bool + Sync)) {
    for uid in folders(&shared.pods_dir).into_iter().filter(|uid| !keeps(uid)) {
        report(shared.csi.tear_down(&shared.pods_dir.join(uid)).await);
    }
}

async fn collect_cgroups(shared: &Shared, keeps: &(dyn Fn(&str) -> bool + Sync)) {
    if let Some(cgroups) = &shared.cgroups {
        for (_, path) in cgroups.pods().into_iter().filter(|(uid, _)| !keeps(uid)) {
            report(cgroups.remove(&path).await);
        }
    }
}

fn collect_files(shared: &Shared, keeps: &dyn Fn(&str) -> bool) {
    let held = |uid: &String| !record::of_pod(&shared.pods_dir.join(uid)).is_empty();
    let (mut orphans, mut errors) = (0, 0);
    for uid in folders(&shared.pods_dir).into_iter().filter(|uid| !keeps(uid) && !held(uid)) {
        let cleaned = volume::tear_down(&shared.pods_dir.join(uid));
        orphans += 1;
        errors += i64::from(cleaned.is_err());
        report(cleaned);
    }
    metrics::get().cleaned_volumes.set(orphans);
    metrics::get().cleaned_volumes_errors.set(errors);
    let logs = &shared.settings.log_root;
    for name in folders(logs) {
        let uid = name.rsplit('_').next().unwrap_or_default();
        if !keeps(uid) {
            report(std::fs::remove_dir_all(logs.join(&name)));
        }
    }
    remove_dead_links(&shared.container_logs);
}

fn remove_dead_links(folder: &Path) {
    // A missing folder has no links.
    for entry in std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        let path = entry.path();
        if path.is_symlink() && !path.exists() {
            report(std::fs::remove_file(path));
        }
    }
}

fn folders(folder: &Path) -> Vec<String> {
    // A missing folder has none.
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

fn report<E: std::fmt::Display>(result: Result<(), E>) {
    if let Err(error) = result {
        tracing::warn!(%error, "cannot collect what a pod left behind");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::PodLabels;

    fn item(uid: &str, id: &str, sandbox: Option<&str>, state: i32, created_at: i64) -> Glimpse {
        Glimpse {
            pod: PodLabels { uid: uid.into(), namespace: "ns".into(), name: "a".into() },
            id: id.into(),
            sandbox_id: sandbox.map(str::to_owned),
            name: "c".into(),
            state,
            created_at,
        }
    }

    #[test]
    fn unknown_pods_go_and_known_ones_keep_their_last_instance() {
        let (running, exited) = (1, 2);
        let list = [
            item("gone", "s1", None, 0, 1),
            item("gone", "c1", Some("s1"), running, 1),
            item("known", "s2", None, 0, 9),
            item("known", "s0", None, 1, 1),
            item("known", "c4", Some("s2"), running, 4),
            item("known", "c3", Some("s2"), exited, 3),
            item("known", "c2", Some("s2"), exited, 2),
        ];
        let plan = plan(&list, |uid| uid == "known", Keep::default(), Timestamp::MAX);
        assert_eq!(plan.stop, ["c1"]);
        assert_eq!(plan.containers, ["c1", "c2"]);
        assert_eq!(plan.sandboxes, ["s1", "s0"]);
        assert_eq!(plan.orphans, ["gone".to_owned()].into());
    }

    #[test]
    fn what_never_started_or_was_lost_is_no_better_than_what_has_ended() {
        let (created, exited, unknown) = (0, 2, 3);
        let list = [
            item("p", "a3", Some("s"), created, 3),
            item("p", "a2", Some("s"), exited, 2),
            item("p", "a1", Some("s"), created, 1),
            item("q", "b3", Some("s"), exited, 3),
            item("q", "b2", Some("s"), unknown, 2),
            item("r", "c1", Some("s"), created, 1),
            item("gone", "s1", None, 1, 1),
            item("gone", "d1", Some("s1"), exited, 1),
        ];
        let plan = plan(&list, |uid| uid != "gone", Keep::default(), Timestamp::MAX);
        assert_eq!(plan.stop, ["b2"]);
        assert_eq!(plan.containers, ["d1", "a1", "b2"]);
        assert_eq!(plan.orphans, BTreeSet::new(), "nothing of it runs");
    }

    #[test]
    fn hooks_are_as_they_were_written_down() {
        let status = |annotations: &[(&str, &str)]| cri::ContainerStatus {
            labels: [(observed::CONTAINER_NAME.to_owned(), "c".to_owned())].into(),
            annotations: annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..cri::ContainerStatus::default()
        };
        let get = r#"{"httpGet":{"port":"http"}}"#;
        let ports = r#"[{"name":"http","containerPort":80}]"#;
        let (container, found) =
            hook(&status(&[(observed::PRE_STOP, get), (observed::PORTS, ports)])).unwrap();
        assert_eq!((container.name.as_str(), container.ports.unwrap()[0].container_port), ("c", 80));
        assert!(found.http_get.is_some());
        assert!(hook(&status(&[])).is_none());
    }

    #[test]
    fn as_many_dead_ones_are_kept_as_is_asked_for() {
        let list: Vec<Glimpse> =
            [("a", "a3", 30), ("a", "a2", 20), ("a", "a1", 10), ("b", "b1", 15), ("c", "c1", 5)]
                .map(|(uid, id, second)| item(uid, id, Some("s"), 2, second * 1_000_000_000))
                .into();
        let gone = |age, each, all| {
            let keep = Keep { age: Duration::from_secs(age), each, all };
            let mut gone = plan(&list, |_| true, keep, Timestamp::from_second(30).unwrap()).containers;
            gone.sort();
            gone.join(" ")
        };
        assert_eq!(gone(0, 1, -1), "a1 a2");
        assert_eq!(gone(0, -1, -1), "");
        assert_eq!(gone(0, 0, -1), "a1 a2 a3 b1 c1");
        assert_eq!(gone(15, 0, -1), "a1 b1 c1", "others are too young");
        assert_eq!(gone(0, -1, 4), "a1 a2", "one of each");
        assert_eq!(gone(0, -1, 2), "a1 a2 c1", "and then the oldest");
    }
}
