//! hostPath: a file or folder of the node, checked or made by its type.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

use super::{Context, Mounted, VolumeError, VolumePlugin};

/// The plugin.
pub struct HostPath;

#[async_trait]
impl VolumePlugin for HostPath {
    fn name(&self) -> &'static str {
        "host-path"
    }

    fn supports(&self, volume: &Volume) -> bool {
        volume.host_path.is_some()
    }

    async fn set_up(&self, _: &Context<'_>, volume: &Volume) -> Result<Mounted, VolumeError> {
        let source = volume.host_path.clone().unwrap_or_default();
        check(&source.path, source.type_.as_deref().unwrap_or_default())?;
        Ok(Mounted { path: source.path.into(), read_only: false })
    }
}

/// Makes or checks the path by its type.
///
/// # Errors
/// When it is of another kind or cannot be made.
pub fn check(path: &str, kind: &str) -> Result<(), VolumeError> {
    if Path::new(path).components().any(|c| matches!(c, std::path::Component::ParentDir)) {
        return Err(VolumeError::Path(path.to_owned()));
    }
    let place = Path::new(path);
    let meta = fs::metadata(place);
    if meta.is_err() {
        match kind {
            "DirectoryOrCreate" => {
                fs::create_dir_all(place).map_err(VolumeError::io(place))?;
                let permissions = fs::Permissions::from_mode(0o755);
                return fs::set_permissions(place, permissions).map_err(VolumeError::io(place));
            }
            "FileOrCreate" => {
                fs::File::create(place).map_err(VolumeError::io(place))?;
                let permissions = fs::Permissions::from_mode(0o644);
                return fs::set_permissions(place, permissions).map_err(VolumeError::io(place));
            }
            // The runtime makes a folder of it.
            "" => return Ok(()),
            _ => {}
        }
    }
    let kind_of = meta.ok().map(|m| m.file_type());
    let is = |test: fn(&fs::FileType) -> bool| kind_of.as_ref().is_some_and(test);
    let (fits, wanted) = match kind {
        "" => (true, "path"),
        "Directory" | "DirectoryOrCreate" => (is(fs::FileType::is_dir), "directory"),
        "File" | "FileOrCreate" => (is(fs::FileType::is_file), "file"),
        "Socket" => (is(FileTypeExt::is_socket), "socket file"),
        "CharDevice" => (is(FileTypeExt::is_char_device), "character device"),
        "BlockDevice" => (is(FileTypeExt::is_block_device), "block device"),
        _ => (false, "valid volume type"),
    };
    if fits { Ok(()) } else { Err(VolumeError::HostPathType { path: path.to_owned(), wanted }) }
}
