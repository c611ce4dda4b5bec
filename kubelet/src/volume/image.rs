//! image: the files of an image, read-only. The runtime mounts them; the kubelet sees to it that the image is there.
//!
//! Contract: KEP-4639. It takes a runtime that can (containerd 2.1, CRI-O 1.31); others refuse to make the container.

use std::path::PathBuf;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Container, Pod, Volume};

use super::{Context, Mounted, VolumeError, VolumePlugin};
use crate::pod;

/// The plugin.
pub struct Image;

#[async_trait]
impl VolumePlugin for Image {
    fn name(&self) -> &'static str {
        "image"
    }

    fn supports(&self, volume: &Volume) -> bool {
        volume.image.is_some()
    }

    async fn set_up(&self, _: &Context<'_>, _: &Volume) -> Result<Mounted, VolumeError> {
        Ok(Mounted { path: PathBuf::new(), read_only: true })
    }
}

/// The images that a container mounts: names of volumes, and for each a container that would run the image, since that is
/// how images are asked for.
#[must_use]
pub fn mounted_by(pod: &Pod, container: &Container) -> Vec<(String, Container)> {
    let mounts = container.volume_mounts.iter().flatten();
    let volumes = || pod::spec(pod).volumes.iter().flatten();
    let mut found: Vec<(String, Container)> = Vec::new();
    for mount in mounts {
        let Some(source) = volumes().find(|v| v.name == mount.name).and_then(|v| v.image.as_ref()) else {
            continue;
        };
        if found.iter().any(|(name, _)| *name == mount.name) {
            continue;
        }
        let asks = Container {
            name: container.name.clone(),
            image: source.reference.clone(),
            image_pull_policy: source.pull_policy.clone(),
            ..Container::default()
        };
        found.push((mount.name.clone(), asks));
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing;

    #[test]
    fn each_image_is_asked_for_once_by_those_who_mount_it() {
        let pod = testing::pod("a")
            .container("c")
            .container("d")
            .with(|p| {
                let spec = p.spec.as_mut().unwrap();
                spec.volumes = serde_json::from_value(json!([
                    { "name": "files", "image": { "reference": "data:1", "pullPolicy": "Never" } },
                    { "name": "else", "emptyDir": {} },
                ]))
                .unwrap();
                spec.containers[0].volume_mounts = serde_json::from_value(json!([
                    { "name": "files", "mountPath": "/a" },
                    { "name": "files", "mountPath": "/b", "subPath": "x" },
                    { "name": "else", "mountPath": "/c" },
                ]))
                .unwrap();
            })
            .build();
        let found = mounted_by(&pod, &pod::containers(&pod)[0]);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0.as_str(), found[0].1.image.as_deref()), ("files", Some("data:1")));
        assert_eq!(found[0].1.image_pull_policy.as_deref(), Some("Never"));
        assert!(mounted_by(&pod, &pod::containers(&pod)[1]).is_empty());
    }
}
