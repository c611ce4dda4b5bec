//! How volumes are emptied, and whether host paths are made for claims.

use component_base::flags::{Flag, Kind, Values};
use k8s_openapi::api::core::v1::Pod;

use super::{SettingsError, file};

/// How volumes are emptied, by what they are.
#[derive(Clone, Debug, Default)]
pub struct RecyclerSettings {
    /// Paths on a node.
    pub host_path: RecyclerLimits,
    /// NFS exports.
    pub nfs: RecyclerLimits,
}

/// How volumes of a kind are emptied.
#[derive(Clone, Debug, Default)]
pub struct RecyclerLimits {
    /// The pod that does it, but for its first volume.
    pub template: Option<Pod>,
    /// Seconds it has at least.
    pub minimum: i64,
    /// Seconds it has for each GiB.
    pub increment: i64,
}

const TEMPLATES: [&str; 2] =
    ["pv-recycler-pod-template-filepath-hostpath", "pv-recycler-pod-template-filepath-nfs"];

pub(super) fn flags() -> Vec<Flag> {
    let seconds = |name, default, usage| Flag::new(name, Kind::Int, default, usage);
    let template = |name| Flag::new(name, Kind::String, "", "file with the pod that empties a volume");
    let (least, each) = ("seconds a pod has at least to empty a volume", "seconds it has for each GiB");
    let mut out = vec![
        seconds("pv-recycler-minimum-timeout-hostpath", "60", least),
        seconds("pv-recycler-timeout-increment-hostpath", "30", each),
        seconds("pv-recycler-minimum-timeout-nfs", "300", least),
        seconds("pv-recycler-increment-timeout-nfs", "30", each),
        Flag::new(
            "enable-hostpath-provisioner",
            Kind::Bool,
            "false",
            "make paths on this machine for claims of the class of kubernetes.io/host-path; for tests on one node",
        ),
    ];
    out.extend(TEMPLATES.map(template));
    out
}

/// Reads the flags.
pub(super) fn read(values: &Values) -> Result<RecyclerSettings, SettingsError> {
    let [of_host_path, of_nfs] = TEMPLATES;
    Ok(RecyclerSettings {
        host_path: RecyclerLimits {
            template: template(values, of_host_path)?,
            minimum: values.int("pv-recycler-minimum-timeout-hostpath"),
            increment: values.int("pv-recycler-timeout-increment-hostpath"),
        },
        nfs: RecyclerLimits {
            template: template(values, of_nfs)?,
            minimum: values.int("pv-recycler-minimum-timeout-nfs"),
            increment: values.int("pv-recycler-increment-timeout-nfs"),
        },
    })
}

fn template(values: &Values, flag: &'static str) -> Result<Option<Pod>, SettingsError> {
    let Some(path) = file(values, flag) else { return Ok(None) };
    let text = std::fs::read_to_string(&path)
        .map_err(|source| SettingsError::Read { path: path.clone(), source })?;
    let pod: Pod = serde_saphyr::from_str(&text)
        .map_err(|source| SettingsError::Pod { path: path.clone(), source: Box::new(source) })?;
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_ref()).map_or(0, Vec::len);
    if volumes == 0 {
        return Err(SettingsError::Template { path });
    }
    Ok(Some(pod))
}

#[cfg(test)]
mod tests {
    use component_base::{daemon::Daemon, flags::Parsed};

    use super::*;
    use crate::run::ControllerManager;

    fn given(flags: &[String]) -> Result<RecyclerSettings, String> {
        match ControllerManager::flags().parse(flags.to_vec()).unwrap() {
            Parsed::Run(values) => read(&values).map_err(|error| error.to_string()),
            Parsed::Print(_) => unreachable!("flags that only print"),
        }
    }

    #[test]
    fn a_template_is_a_pod_with_a_volume() {
        let folder = tempfile::tempdir().unwrap();
        let with = |text: &str| {
            let path = folder.path().join("pod");
            std::fs::write(&path, text).unwrap();
            given(&[format!("--{}={}", TEMPLATES[1], path.display())])
        };
        let good = "kind: Pod\nspec:\n  containers: []\n  volumes:\n  - name: v\n    emptyDir: {}\n";
        let found = with(good).unwrap();
        assert_eq!(found.nfs.template.unwrap().spec.unwrap().volumes.unwrap()[0].name, "v");
        assert!(found.host_path.template.is_none());
        assert!(with("spec: {containers: []}").unwrap_err().ends_with("does not contain any volume(s)"));
        assert!(with("spec: 7").unwrap_err().starts_with("invalid"));
        let missing = given(&[format!("--{}=/nowhere/pod", TEMPLATES[0])]).unwrap_err();
        assert!(missing.starts_with("cannot read"), "{missing}");
    }

    #[test]
    fn times_are_those_of_the_kind() {
        let flags = ["--pv-recycler-minimum-timeout-nfs=7", "--pv-recycler-timeout-increment-hostpath=8"];
        let found = given(&flags.map(str::to_owned)).unwrap();
        assert_eq!((found.nfs.minimum, found.nfs.increment), (7, 30));
        assert_eq!((found.host_path.minimum, found.host_path.increment), (60, 8));
    }
}
