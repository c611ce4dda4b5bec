//! nfs: a folder of a file server, mounted by the system's own `mount`, which knows how to talk to the server.

use std::{path::Path, process::Stdio, time::Duration};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{NFSVolumeSource, Volume};
use tokio::process::Command;

use super::{Context, Mounted, VolumeError, VolumePlugin, is_mount_point};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// The plugin.
pub struct Nfs;

#[async_trait]
impl VolumePlugin for Nfs {
    fn name(&self) -> &'static str {
        "nfs"
    }

    fn supports(&self, volume: &Volume) -> bool {
        volume.nfs.is_some()
    }

    async fn set_up(&self, context: &Context<'_>, volume: &Volume) -> Result<Mounted, VolumeError> {
        let source = volume.nfs.clone().unwrap_or_default();
        set_up(context, &volume.name, &source, &[], source.read_only == Some(true)).await
    }
}

/// Mounts a folder of a server for a pod, unless it is mounted already.
///
/// # Errors
/// When `mount` fails: its words.
pub(super) async fn set_up(
    context: &Context<'_>,
    name: &str,
    source: &NFSVolumeSource,
    options: &[String],
    read_only: bool,
) -> Result<Mounted, VolumeError> {
    let path = context.folder("nfs", name);
    if !is_mount_point(&path)? {
        std::fs::create_dir_all(&path).map_err(VolumeError::io(&path))?;
        mount(&arguments(source, options, read_only, &path)).await?;
    }
    Ok(Mounted { path, read_only })
}

/// What `mount` is called with. A server that is an IPv6 address stands in brackets.
fn arguments(source: &NFSVolumeSource, options: &[String], read_only: bool, target: &Path) -> Vec<String> {
    let server = source.server.trim_matches(['[', ']']);
    let server = if server.contains(':') { format!("[{server}]") } else { server.to_owned() };
    let mut options = options.to_vec();
    if read_only {
        options.push("ro".to_owned());
    }
    let mut all = vec!["-t".to_owned(), "nfs".to_owned()];
    if !options.is_empty() {
        all.extend(["-o".to_owned(), options.join(",")]);
    }
    // What begins with a dash after this is a path.
    all.extend(["--".to_owned(), format!("{server}:{}", source.path), target.to_string_lossy().into_owned()]);
    all
}

async fn mount(arguments: &[String]) -> Result<(), VolumeError> {
    let fail = |message: String| VolumeError::Mount { arguments: arguments.join(" "), message };
    let run = Command::new("mount").args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let output =
        tokio::time::timeout(PATIENCE, run).await.map_err(|_| fail("it took too long".to_owned()))?;
    let output = output.map_err(|error| fail(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(fail(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_names_server_folder_and_options() {
        let of = |server: &str, options: &[&str], read_only| {
            let source = NFSVolumeSource { server: server.into(), path: "/data".into(), read_only: None };
            let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
            arguments(&source, &options, read_only, Path::new("/target")).join(" ")
        };
        assert_eq!(of("10.0.0.1", &[], false), "-t nfs -- 10.0.0.1:/data /target");
        assert_eq!(of("fd00::1", &["vers=4.2"], true), "-t nfs -o vers=4.2,ro -- [fd00::1]:/data /target");
    }

    #[tokio::test]
    async fn a_failure_carries_the_words_of_mount() {
        let error = mount(&["--no-such-option".to_owned()]).await.unwrap_err().to_string();
        assert!(error.contains("--no-such-option") && error.len() > 40, "{error}");
    }
}
