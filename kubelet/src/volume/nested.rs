//! Mount points within volumes: where a container mounts one volume below another one that it may only read, the runtime
//! cannot make the place for it.

use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use super::VolumeError;
use crate::pod;

/// Makes the places within a volume, which is at `root`, where containers mount others.
///
/// # Errors
/// When a place would be outside or the file system refuses.
pub fn make(pod: &Pod, volume: &str, root: &Path) -> Result<(), VolumeError> {
    for place in places(pod, volume)? {
        let place = root.join(place);
        // A file that is there is as good to mount on.
        if !place.exists() {
            std::fs::create_dir_all(&place).map_err(VolumeError::io(&place))?;
        }
    }
    Ok(())
}

/// Those places, from the volume's root on. What is mounted below another one of them is within that one.
fn places(pod: &Pod, volume: &str) -> Result<Vec<PathBuf>, VolumeError> {
    let mut found = Vec::new();
    for (_, container) in pod::all_containers(pod) {
        let all: Vec<(&str, PathBuf)> = container
            .volume_mounts
            .iter()
            .flatten()
            .map(|mount| (mount.name.as_str(), clean(&mount.mount_path)))
            .collect();
        for (_, own) in all.iter().filter(|(name, _)| *name == volume) {
            if own.starts_with("..") {
                return Err(VolumeError::Path(own.display().to_string()));
            }
            let below =
                || all.iter().map(|(_, path)| path).filter(|path| *path != own && path.starts_with(own));
            let outermost =
                below().filter(|path| !below().any(|other| other != *path && path.starts_with(other)));
            found.extend(outermost.filter_map(|path| path.strip_prefix(own).ok()).map(Path::to_owned));
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// The path without detours.
fn clean(path: &str) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in Path::new(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if clean.file_name().is_some_and(|name| name != "..") => drop(clean.pop()),
            Component::ParentDir if clean.has_root() => {}
            part => clean.push(part),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::VolumeMount;

    use super::*;
    use crate::testing;

    fn pod(containers: &[&[(&str, &str)]]) -> Pod {
        let mount = |(name, path): &(&str, &str)| VolumeMount {
            name: (*name).to_owned(),
            mount_path: (*path).to_owned(),
            ..VolumeMount::default()
        };
        let mut pod = testing::pod("a");
        for (i, mounts) in containers.iter().enumerate() {
            pod = pod.container(&format!("c{i}")).with(|pod| {
                let own = &mut pod.spec.as_mut().unwrap().containers[i];
                own.volume_mounts = Some(mounts.iter().map(mount).collect());
            });
        }
        pod.build()
    }

    #[test]
    fn places_are_those_next_below_the_volume() {
        let of = |containers: &[&[(&str, &str)]]| {
            let found = places(&pod(containers), "v").map_err(|error| error.to_string())?;
            Ok::<_, String>(found.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" "))
        };
        for (containers, expected) in [
            (vec![&[("v", "/d"), ("w", "/other")][..]], ""),
            (vec![&[("w", "/d"), ("v", "/d/below")]], ""),
            (vec![&[("v", "/d/"), ("w", "/d/x/../n"), ("u", "/d/n/m"), ("t", "/d2")]], "n"),
            (vec![&[("v", "/d"), ("w", "/d/n"), ("u", "/d/n-1"), ("t", "/d/n/k")]], "n n-1"),
            (vec![&[("v", "/d"), ("v", "/e"), ("w", "/d/1"), ("u", "/e/2/3")]], "1 2/3"),
            (vec![&[("v", "/d"), ("w", "/d/1")], &[("v", "/d"), ("u", "/d/2")]], "1 2"),
            (vec![&[("v", "d"), ("w", "./d/1")]], "1"),
        ] {
            assert_eq!(of(&containers).as_deref(), Ok(expected), "{containers:?}");
        }
        assert!(of(&[&[("v", "../d"), ("w", "../d/1")]]).is_err());
    }

    #[test]
    fn places_are_made_where_nothing_is_yet() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("key"), "1").unwrap();
        let pod = pod(&[&[("v", "/d"), ("w", "/d/key"), ("u", "/d/a/b")]]);
        for _ in 0..2 {
            make(&pod, "v", dir.path()).unwrap();
            assert!(dir.path().join("key").is_file() && dir.path().join("a/b").is_dir());
        }
    }
}
