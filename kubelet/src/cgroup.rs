//! The cgroups of quality-of-service classes and pods, under a configurable root.
//!
//! ```text
//! cgroupfs                            systemd
//! <root>/kubepods                     kubepods.slice                         all pods
//! <root>/kubepods/pod<uid>            .../kubepods-pod<uid>.slice            a guaranteed pod
//! <root>/kubepods/burstable/pod<uid>  .../kubepods-burstable.slice/...
//! <root>/kubepods/besteffort/pod<uid> .../kubepods-besteffort.slice/...
//! ```
//! The containers' own cgroups below are made by the runtime. `systemd` is the driver of that name, `v1` and `v2` say how limits are written,
//! `usage` reads what is used, `figures` all that the kernel tells,
//! `classes` says what the cgroups above the pods get, `system` where the kubelet and the system's processes are.

pub mod classes;
pub mod figures;
pub mod system;
pub mod systemd;
pub mod usage;
pub mod v1;
pub mod v2;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use nix::{
    errno::Errno,
    sys::signal::{self, Signal},
    unistd::Pid,
};

use self::systemd::{Systemd, SystemdError};
use crate::pod::{
    self,
    qos::{self, QosClass},
    resources::{self, CgroupLimits},
};

/// How long processes that were killed have for their end.
const KILLED: Duration = Duration::from_millis(100);

/// What the kernel mounts under `/sys/fs/cgroup`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy per controller.
    V1,
    /// The unified hierarchy.
    V2,
}

/// A cgroup that could not be made, set or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// By the kernel.
    #[error("cgroup {path}: {source}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// By systemd.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
}

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// The kubelet, as folders.
    Cgroupfs,
    /// systemd, as slices.
    Systemd,
}

impl Driver {
    /// By the configuration's names.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "cgroupfs" => Some(Self::Cgroupfs),
            "systemd" => Some(Self::Systemd),
            _ => None,
        }
    }
}

/// One setting: a file below the cgroup's folder and what to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Controller folder (v1) or empty (v2).
    pub controller: &'static str,
    /// File name.
    pub file: &'static str,
    /// Content.
    pub value: String,
}

/// The version of cgroups that limits swap here, if one does. `own` is `/proc/self/cgroup`: the unified hierarchy has the
/// file only below its root.
#[must_use]
pub fn limits_swap(mount: &Path, own: &str) -> Option<Version> {
    if !mount.join("cgroup.controllers").exists() {
        let there = mount.join("memory/memory.memsw.limit_in_bytes").exists();
        return there.then_some(Version::V1);
    }
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let there = mount.join(path.trim_start_matches('/')).join("memory.swap.max").exists();
    there.then_some(Version::V2)
}

/// The cgroups of this node.
#[derive(Debug, Clone)]
pub struct Cgroups {
    mount: PathBuf,
    /// Names from the outermost to the one below which all pods live.
    root: Vec<String>,
    version: Version,
    systemd: Option<Arc<Systemd>>,
}

/// The kernel's version of cgroups.
#[must_use]
pub fn version(mount: &Path) -> Version {
    if mount.join("cgroup.controllers").exists() { Version::V2 } else { Version::V1 }
}

impl Cgroups {
    /// `root` is `/` or a path below which all pods live; `systemd` makes them where that is its part.
    #[must_use]
    pub fn new(mount: &Path, root: &str, systemd: Option<Systemd>) -> Self {
        let root = root.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        Self { mount: mount.to_owned(), root, version: version(mount), systemd: systemd.map(Arc::new) }
    }

    /// The kernel's version of cgroups.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Path of the cgroup with these names below the root.
    fn path(&self, names: &[&str]) -> String {
        let names: Vec<String> =
            self.root.iter().cloned().chain(names.iter().map(|n| (*n).to_owned())).collect();
        let folders = if self.systemd.is_some() { systemd::slices(&names) } else { names };
        format!("/{}", folders.join("/"))
    }

    /// Path of all pods' cgroup within a hierarchy.
    #[must_use]
    pub fn kubepods(&self) -> String {
        self.path(&["kubepods"])
    }

    /// Path of a class's cgroup within a hierarchy.
    #[must_use]
    pub fn class(&self, class: QosClass) -> String {
        match class {
            QosClass::Guaranteed => self.kubepods(),
            QosClass::Burstable => self.path(&["kubepods", "burstable"]),
            QosClass::BestEffort => self.path(&["kubepods", "besteffort"]),
        }
    }

    /// Path of a pod's cgroup within a hierarchy; the runtime's cgroup parent.
    #[must_use]
    pub fn pod(&self, pod: &Pod) -> String {
        self.pod_of(qos::class(pod), pod::uid(pod))
    }

    fn pod_of(&self, class: QosClass, uid: &str) -> String {
        let name = format!("pod{uid}");
        match class {
            QosClass::Guaranteed => self.path(&["kubepods", &name]),
            QosClass::Burstable => self.path(&["kubepods", "burstable", &name]),
            QosClass::BestEffort => self.path(&["kubepods", "besteffort", &name]),
        }
    }

    /// Path of a container's cgroup within a hierarchy. Runtimes name it after the container, with systemd as a scope with a
    /// word of theirs before that.
    #[must_use]
    pub fn container(&self, pod: &Pod, id: &str) -> String {
        let parent = self.pod(pod);
        let end = format!("-{id}.scope");
        // A pod without a folder has no containers.
        let entries = std::fs::read_dir(self.stats_folder("memory", &parent)).into_iter().flatten();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let scope =
            self.systemd.is_some().then(|| names.into_iter().find(|name| name.ends_with(&end))).flatten();
        format!("{parent}/{}", scope.as_deref().unwrap_or(id))
    }

    fn controllers(&self) -> &'static [&'static str] {
        match self.version {
            Version::V1 => &v1::CONTROLLERS,
            Version::V2 => &[""],
        }
    }

    fn folder(&self, controller: &str, path: &str) -> PathBuf {
        self.mount.join(controller).join(path.trim_start_matches('/'))
    }

    /// Folder that holds a cgroup's memory figures.
    #[must_use]
    pub fn stats_folder(&self, controller: &str, path: &str) -> PathBuf {
        match self.version {
            Version::V1 => self.folder(controller, path),
            Version::V2 => self.folder("", path),
        }
    }

    /// Makes the cgroup and its parents, and sets its limits.
    ///
    /// # Errors
    /// When the kernel or systemd refuses.
    pub async fn ensure(&self, path: &str, limits: &CgroupLimits) -> Result<(), CgroupError> {
        let _timed = timed("create");
        if let Some(systemd) = &self.systemd {
            systemd.ensure(slice(path), self.version, limits).await?;
        }
        // systemd makes the cgroup with the controllers it manages; the others' folders are made here.
        self.make(path)?;
        self.write(path, limits)
    }

    fn make(&self, path: &str) -> Result<(), CgroupError> {
        self.make_folders(path)?;
        if self.version == Version::V2 {
            v2::delegate(&self.folder("", path))?;
        }
        Ok(())
    }

    /// Makes the cgroup and its parents, for processes of its own rather than cgroups below it.
    fn make_folders(&self, path: &str) -> Result<(), CgroupError> {
        for controller in self.controllers() {
            if !self.mount.join(controller).exists() {
                continue;
            }
            let mut folder = self.mount.join(controller);
            for part in path.split('/').filter(|p| !p.is_empty()) {
                let parent = folder.clone();
                folder.push(part);
                if folder.exists() {
                    continue;
                }
                if self.version == Version::V2 {
                    v2::delegate(&parent)?;
                }
                match std::fs::create_dir(&folder) {
                    Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(CgroupError::File { path: folder, source });
                    }
                    _ => {}
                }
                if *controller == "cpuset" {
                    v1::inherit_cpuset(&parent, &folder)?;
                }
            }
        }
        Ok(())
    }

    /// The cgroup of a name in the configuration that others made: a path, or with systemd the name of a slice.
    #[must_use]
    pub fn named(&self, name: &str) -> String {
        let name = name.trim_matches('/');
        if self.systemd.is_none() {
            return format!("/{name}");
        }
        let last = slice(name);
        let parts = last.strip_suffix(systemd::SUFFIX).unwrap_or(last).split('-');
        let names: Vec<String> = parts.map(|part| part.replace('_', "-")).collect();
        format!("/{}", systemd::slices(&names).join("/"))
    }

    /// The cgroup is there, for every controller that is.
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        let mut mounted = self.controllers().iter().filter(|controller| self.mount.join(controller).exists());
        mounted.all(|controller| self.folder(controller, path).is_dir())
    }

    /// Sets a cgroup's limits.
    ///
    /// # Errors
    /// When the kernel or systemd refuses.
    pub async fn set(&self, path: &str, limits: &CgroupLimits) -> Result<(), CgroupError> {
        let _timed = timed("update");
        if let Some(systemd) = &self.systemd {
            systemd.set(slice(path), self.version, limits).await?;
        }
        self.write(path, limits)
    }

    fn write(&self, path: &str, limits: &CgroupLimits) -> Result<(), CgroupError> {
        let settings = match self.version {
            Version::V1 => v1::settings(limits),
            Version::V2 => v2::settings(limits),
        };
        for setting in settings {
            let folder = self.folder(setting.controller, path);
            if !folder.exists() {
                continue;
            }
            let file = folder.join(setting.file);
            std::fs::write(&file, &setting.value)
                .map_err(|source| CgroupError::File { path: file, source })?;
        }
        Ok(())
    }

    /// Lets a cgroup have as many bytes of huge pages as are told by the size of a page, and none of other sizes.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn limit_huge_pages(&self, path: &str, pages: &BTreeMap<i64, i64>) -> Result<(), CgroupError> {
        let (controller, end) = match self.version {
            Version::V1 => ("hugetlb", v1::HUGE_PAGES_END),
            Version::V2 => ("", v2::HUGE_PAGES_END),
        };
        let folder = self.folder(controller, path);
        // A kernel that does not count huge pages has no such files, nor in version 1 the folder.
        let entries = std::fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok);
        let files = entries.filter_map(|entry| entry.file_name().into_string().ok());
        for (file, bytes) in huge_page_limits(files, end, pages) {
            let file = folder.join(file);
            std::fs::write(&file, bytes.to_string())
                .map_err(|source| CgroupError::File { path: file, source })?;
        }
        Ok(())
    }

    /// What a cgroup is set to, as far as pods are limited; a file that does not read counts as no limit.
    #[must_use]
    pub fn limits(&self, path: &str) -> CgroupLimits {
        let read = |controller: &str, file: &str| {
            std::fs::read_to_string(self.stats_folder(controller, path).join(file)).ok()
        };
        match self.version {
            Version::V1 => v1::limits(&read),
            Version::V2 => v2::limits(&|file| read("", file)),
        }
    }

    /// Bytes of memory a cgroup uses, where it can be read.
    #[must_use]
    pub fn memory_usage(&self, path: &str) -> Option<i64> {
        let file = match self.version {
            Version::V1 => "memory.usage_in_bytes",
            Version::V2 => "memory.current",
        };
        std::fs::read_to_string(self.stats_folder("memory", path).join(file)).ok()?.trim().parse().ok()
    }

    /// Removes a cgroup with what is below it. Processes that are left there are killed: nobody else would end what a
    /// runtime has lost sight of, a container that was made and never started for instance.
    ///
    /// # Errors
    /// When the kernel or systemd refuses, because processes have not ended yet, too.
    pub async fn remove(&self, path: &str) -> Result<(), CgroupError> {
        let _timed = timed("destroy");
        if let Some(systemd) = &self.systemd {
            systemd.remove(slice(path)).await?;
        }
        let roots: Vec<PathBuf> = match self.version {
            Version::V2 => vec![self.folder("", path)],
            // The runtime makes its cgroups in every hierarchy, also in those the kubelet has no setting for.
            Version::V1 => std::fs::read_dir(&self.mount)
                .map_err(|source| CgroupError::File { path: self.mount.clone(), source })?
                .filter_map(Result::ok)
                .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
                .map(|e| e.path().join(path.trim_start_matches('/')))
                .collect(),
        };
        for root in &roots {
            if remove_tree(root).is_err() {
                kill_all(root);
                tokio::time::sleep(KILLED).await;
                remove_tree(root)?;
            }
        }
        Ok(())
    }

    /// Uids of the pods that have a cgroup, with its path.
    #[must_use]
    pub fn pods(&self) -> Vec<(String, String)> {
        let controller = match self.version {
            Version::V1 => "memory",
            Version::V2 => "",
        };
        let mut found = Vec::new();
        for class in [QosClass::Guaranteed, QosClass::Burstable, QosClass::BestEffort] {
            // A class without a folder has no pods.
            let Ok(entries) = std::fs::read_dir(self.folder(controller, &self.class(class))) else {
                continue;
            };
            for entry in entries.filter_map(Result::ok) {
                if let Some(uid) = self.uid(class, &entry.file_name().to_string_lossy()) {
                    let path = self.pod_of(class, &uid);
                    found.push((uid, path));
                }
            }
        }
        found
    }

    /// The uid of the pod whose cgroup has this name.
    fn uid(&self, class: QosClass, name: &str) -> Option<String> {
        if self.systemd.is_none() {
            return name.strip_prefix("pod").map(str::to_owned);
        }
        let above = self.class(class);
        let name =
            name.strip_suffix(systemd::SUFFIX)?.strip_prefix(slice(&above).strip_suffix(systemd::SUFFIX)?)?;
        name.strip_prefix("-pod").map(|uid| uid.replace('_', "-"))
    }
}

/// What to write into those of a cgroup's files that limit huge pages, in use (`hugetlb.2MB.max`) and kept for use
/// (`hugetlb.2MB.rsvd.max`).
fn huge_page_limits(
    files: impl Iterator<Item = String>,
    end: &str,
    pages: &BTreeMap<i64, i64>,
) -> BTreeMap<String, i64> {
    let by_name: BTreeMap<String, i64> =
        pages.iter().map(|(size, bytes)| (resources::huge_page_name(*size), *bytes)).collect();
    let one = |file: String| {
        let size = file.strip_prefix("hugetlb.")?.strip_suffix(end)?;
        let size = size.strip_suffix(".rsvd").unwrap_or(size);
        let bytes = by_name.get(size).copied().unwrap_or(0);
        Some((file, bytes))
    };
    files.filter_map(one).collect()
}

/// Counts how long an operation takes, until it is dropped.
fn timed(operation: &str) -> prometheus::HistogramTimer {
    crate::metrics::get().cgroup_operations.with_label_values(&[operation]).start_timer()
}

/// The slice at a path.
fn slice(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Kills the processes of a cgroup and of those below it.
fn kill_all(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            kill_all(&entry.path());
        }
    }
    let listed = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    // What is not of this pid namespace is told as 0, which would mean the kubelet's own group.
    for pid in listed.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 1) {
        tracing::info!(pid, cgroup = %folder.display(), "killing a process that is left");
        match signal::kill(Pid::from_raw(pid), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => tracing::warn!(pid, %error, "cannot kill a process that is left"),
        }
    }
}

fn remove_tree(folder: &Path) -> Result<(), CgroupError> {
    // A hierarchy without this cgroup has nothing to remove.
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries.filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match std::fs::remove_dir(folder) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(CgroupError::File { path: folder.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn either_version_tells_whether_it_limits_swap() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(limits_swap(dir.path(), "0::/a\n"), None);
        std::fs::create_dir(dir.path().join("memory")).unwrap();
        std::fs::write(dir.path().join("memory/memory.memsw.limit_in_bytes"), "").unwrap();
        assert_eq!(limits_swap(dir.path(), "4:memory:/\n"), Some(Version::V1));
        std::fs::write(dir.path().join("cgroup.controllers"), "memory").unwrap();
        assert_eq!(limits_swap(dir.path(), "0::/a\n"), None);
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a/memory.swap.max"), "max").unwrap();
        assert_eq!(limits_swap(dir.path(), "1:name=systemd:/\n0::/a\n"), Some(Version::V2));
        assert_eq!(limits_swap(dir.path(), ""), None);
    }

    #[tokio::test]
    async fn systemd_makes_slices_that_are_listed_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cgroup.controllers"), "").unwrap();
        let fake = systemd::tests::fake(dir.path());
        let (line, _far) = systemd::tests::connected(fake.clone()).await;
        let cgroups = Cgroups::new(dir.path(), "/", Some(line));
        let pod = testing::pod("a-b").container("c").build();
        let path = cgroups.pod(&pod);
        assert_eq!(path, "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-poduid_a_b.slice");
        let folder = dir.path().join(&path[1..]);
        // The kernel has these files in every cgroup.
        for part in folder.ancestors().take(3) {
            std::fs::create_dir_all(part).unwrap();
            std::fs::write(part.join("cgroup.controllers"), "").unwrap();
        }
        for (name, path) in [
            ("/system.slice", "/system.slice"),
            ("/kube-daemons.slice", "/kube.slice/kube-daemons.slice"),
            ("a_b.slice", "/a_b.slice"),
        ] {
            assert_eq!(cgroups.named(name), path);
        }
        let limits = CgroupLimits { memory_limit: Some(42), ..CgroupLimits::default() };
        cgroups.ensure(&path, &limits).await.unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("memory.max")).unwrap(), "42");
        let units: Vec<String> = fake.units.lock().keys().cloned().collect();
        assert_eq!(units, ["kubepods-besteffort-poduid_a_b.slice"]);
        assert_eq!(cgroups.pods(), [("uid-a-b".to_owned(), path.clone())]);
        std::fs::create_dir(folder.join("cri-containerd-id1.scope")).unwrap();
        assert_eq!(cgroups.container(&pod, "id1"), format!("{path}/cri-containerd-id1.scope"));
        std::fs::remove_file(folder.join("memory.max")).unwrap();
        std::fs::remove_file(folder.join("cgroup.controllers")).unwrap();
        cgroups.remove(&path).await.unwrap();
        assert!(!folder.exists() && fake.units.lock().is_empty());
    }

    #[test]
    fn huge_pages_are_limited_by_size_and_others_forbidden() {
        let sizes = ["2MB", "1GB"];
        let pages = BTreeMap::from([(2 << 20, 6 << 20), (64 << 10, 1 << 20)]);
        for (version, end) in [(Version::V1, "limit_in_bytes"), (Version::V2, "max")] {
            let dir = tempfile::tempdir().unwrap();
            let folder = match version {
                Version::V1 => dir.path().join("hugetlb/a"),
                Version::V2 => {
                    std::fs::write(dir.path().join("cgroup.controllers"), "hugetlb").unwrap();
                    dir.path().join("a")
                }
            };
            let cgroups = Cgroups::new(dir.path(), "/", None);
            cgroups.limit_huge_pages("/a", &pages).unwrap();
            std::fs::create_dir_all(&folder).unwrap();
            for size in sizes {
                for file in [format!("hugetlb.{size}.{end}"), format!("hugetlb.{size}.rsvd.{end}")] {
                    std::fs::write(folder.join(file), "max").unwrap();
                }
            }
            for other in ["hugetlb.2MB.events", "memory.max"] {
                std::fs::write(folder.join(other), "max").unwrap();
            }
            cgroups.limit_huge_pages("/a", &pages).unwrap();
            let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
            let all = sizes.map(|size| [format!("{size}.{end}"), format!("{size}.rsvd.{end}")]);
            let set = all.map(|files| files.map(|file| read(&format!("hugetlb.{file}"))));
            assert_eq!(set, [["6291456", "6291456"], ["0", "0"]].map(|pair| pair.map(str::to_owned)));
            assert_eq!((read("hugetlb.2MB.events").as_str(), read("memory.max").as_str()), ("max", "max"));
        }
    }

    #[tokio::test]
    async fn both_versions_make_set_list_and_remove() {
        for version in [Version::V1, Version::V2] {
            let dir = tempfile::tempdir().unwrap();
            if version == Version::V2 {
                std::fs::write(dir.path().join("cgroup.controllers"), "cpu memory pids").unwrap();
            } else {
                for controller in ["cpu", "memory", "pids"] {
                    std::fs::create_dir(dir.path().join(controller)).unwrap();
                }
            }
            let cgroups = Cgroups::new(dir.path(), "/keelson/n1/", None);
            assert_eq!(cgroups.version(), version);
            let pod = testing::pod("a").container("c").build();
            let path = cgroups.pod(&pod);
            assert_eq!(path, "/keelson/n1/kubepods/besteffort/poduid-a");
            let folder = cgroups.stats_folder("memory", &path);
            std::fs::create_dir_all(&folder).unwrap();
            let limits = CgroupLimits { memory_limit: Some(42), ..CgroupLimits::default() };
            cgroups.set(&path, &limits).await.unwrap();
            let file = if version == Version::V1 { "memory.limit_in_bytes" } else { "memory.max" };
            assert_eq!(std::fs::read_to_string(folder.join(file)).unwrap(), "42");
            std::fs::remove_file(folder.join(file)).unwrap();
            assert_eq!(cgroups.pods(), [("uid-a".to_owned(), path.clone())]);
            let others = cgroups.named("keelson/n1/");
            assert_eq!(others, "/keelson/n1");
            assert_eq!(
                cgroups.exists(&others),
                version == Version::V2,
                "the other controllers do not have it"
            );
            cgroups.remove(&path).await.unwrap();
            assert!(!folder.exists() && !cgroups.exists(&path));
        }
    }
}
