//! emptyDir: a folder of the pod's own, on disk, in memory, or in huge pages. Volumes whose files the kubelet writes live in one.

use std::{collections::BTreeSet, os::unix::fs::PermissionsExt, path::Path};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, Volume};

use super::{Context, Mounted, VolumeError, VolumePlugin, is_mount_point, mount_tmpfs, ownership};
use crate::pod::{self, resources};

/// What the names of huge pages' resources begin with, their sizes follow.
const HUGE_PAGES: &str = "hugepages-";

/// The plugin.
pub struct EmptyDir;

#[async_trait]
impl VolumePlugin for EmptyDir {
    fn name(&self) -> &'static str {
        "empty-dir"
    }

    fn supports(&self, volume: &Volume) -> bool {
        volume.empty_dir.is_some()
    }

    async fn set_up(&self, context: &Context<'_>, volume: &Volume) -> Result<Mounted, VolumeError> {
        let path = context.folder(self.name(), &volume.name);
        let source = volume.empty_dir.clone().unwrap_or_default();
        let limit = source.size_limit.as_ref().map(|q| q.0.as_str());
        make(context, &path, source.medium.as_deref().unwrap_or_default(), limit)?;
        Ok(Mounted { path, read_only: false })
    }
}

/// What is in memory only.
pub const MEMORY: &str = "Memory";

/// Makes the folder, unless it is there.
///
/// # Errors
/// When there is no such medium, or the kernel refuses.
pub fn make(
    context: &Context<'_>,
    path: &Path,
    medium: &str,
    limit: Option<&str>,
) -> Result<(), VolumeError> {
    // What has files is what containers see, even where it should be in memory: an earlier kubelet may have seen to it.
    let has_files = std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
    if path.exists() && (medium.is_empty() || has_files || is_mount_point(path)?) {
        return Ok(());
    }
    std::fs::create_dir_all(path).map_err(VolumeError::io(path))?;
    // Any user of the pod may write, whatever umask the kubelet runs with.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).map_err(VolumeError::io(path))?;
    match medium {
        "" => {}
        MEMORY => mount_tmpfs(path, Some(memory_size(context, limit)))?,
        medium => mount_huge_pages(path, page_size(context.pod, medium)?)?,
    }
    context.fs_group().map_or(Ok(()), |group| ownership::apply(path, group, false))
}

/// The least of the volume's own limit, the pod's memory limit, and what all pods may have, in bytes.
fn memory_size(context: &Context<'_>, limit: Option<&str>) -> i64 {
    let own = limit.and_then(resources::whole);
    let pods = resources::pod_limit(context.pod, resources::MEMORY).map(|m| m / 1000);
    let all = [own, pods, Some(context.node.allocatable_memory)];
    all.into_iter().flatten().filter(|bytes| *bytes > 0).min().unwrap_or(0)
}

/// The size of pages of a medium of huge pages: as it is written, or what containers ask for where it says nothing.
fn page_size<'a>(pod: &'a Pod, medium: &'a str) -> Result<&'a str, VolumeError> {
    let unknown = || VolumeError::Medium(format!("unknown storage medium {medium:?}"));
    let wanted = match medium.strip_prefix("HugePages").ok_or_else(unknown)? {
        "" => None,
        size => Some(size.strip_prefix('-').and_then(resources::whole).ok_or_else(unknown)?),
    };
    let spec = pod::spec(pod);
    let containers = spec.containers.iter().chain(pod::init_containers(pod));
    let lists = containers.map(|c| c.resources.as_ref()).chain([spec.resources.as_ref()]);
    let names = lists.flatten().flat_map(|list| list.requests.iter().chain(&list.limits).flatten());
    let sizes: BTreeSet<(i64, &str)> = names
        .filter_map(|(name, _)| name.strip_prefix(HUGE_PAGES))
        .filter_map(|size| Some((resources::whole(size)?, size)))
        .filter(|(bytes, _)| wanted.is_none_or(|wanted| wanted == *bytes))
        .collect();
    let mut bytes: Vec<i64> = sizes.iter().map(|(bytes, _)| *bytes).collect();
    bytes.dedup();
    match (bytes.as_slice(), sizes.first()) {
        ([_], Some((_, size))) => Ok(size),
        ([], _) | (_, None) => Err(VolumeError::Medium(format!(
            "medium {medium}: hugePages storage requested, but there is no resource request for huge pages"
        ))),
        _ => Err(VolumeError::Medium(format!(
            "medium: {medium} can't be used if container requests multiple huge page sizes"
        ))),
    }
}

fn mount_huge_pages(path: &Path, size: &str) -> Result<(), VolumeError> {
    let bytes = resources::whole(size).unwrap_or(0);
    let (options, flags) = (format!("pagesize={bytes}"), nix::mount::MsFlags::empty());
    let mounted = nix::mount::mount(Some("nodev"), path, Some("hugetlbfs"), flags, Some(options.as_str()));
    mounted.map_err(|error| VolumeError::Io { path: path.to_owned(), source: error.into() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing;

    #[test]
    fn pages_are_of_the_size_that_is_asked_for() {
        let of = |medium: &str, lists: &[&[&str]]| {
            let mut pod = testing::pod("a");
            for names in lists {
                let list: serde_json::Map<_, _> =
                    names.iter().map(|name| ((*name).to_owned(), json!("4Mi"))).collect();
                pod = pod.container("c").resources(json!({ "requests": list }));
            }
            let pod = pod.build();
            page_size(&pod, medium).map(str::to_owned).map_err(|error| error.to_string())
        };
        let (small, large, same) = ("hugepages-2Mi", "hugepages-1Gi", "hugepages-2048Ki");
        let ok = |size: &str| Ok(size.to_owned());
        assert_eq!(of("HugePages", &[&["cpu"], &[small], &[small]]), ok("2Mi"));
        assert_eq!(of("HugePages-1Gi", &[&[small], &[large]]), ok("1Gi"));
        assert_eq!(of("HugePages", &[&[small, same]]), ok("2048Ki"), "written in another way");
        for (medium, lists, text) in [
            ("HugePages", vec![&[small, large][..]], "medium: HugePages can't be used if"),
            ("HugePages", vec![&["cpu"]], "medium HugePages: hugePages storage requested, but"),
            ("HugePages-2Mi", vec![&[large]], "medium HugePages-2Mi: hugePages storage requested, but"),
            ("HugePages-", vec![&[large]], "unknown storage medium"),
            ("Disk", vec![&[large]], "unknown storage medium \"Disk\""),
        ] {
            let error = of(medium, &lists).unwrap_err();
            assert!(error.starts_with(text), "{error}");
        }
    }
}
