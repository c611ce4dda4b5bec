//! Demo and test images, built from Debian packages: no registry is needed.
//!
//! An image is a root file system in one layer, written as an archive that `ctr images import`
//! takes (docker-archive layout: manifest.json, config, layer).

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    binaries,
    command::{command, output},
    layout::Layout,
    screen,
};

/// Reference of the sandbox image.
pub const PAUSE: &str = "keelson.local/pause:1";
/// Reference of the busybox image: shell, wget, nslookup, nc and the rest.
pub const BUSYBOX: &str = "keelson.local/busybox:1";
/// Reference of the web server image (nginx on port 80).
pub const WEB: &str = "keelson.local/web:1";
/// The same server with another page, for rolling updates.
pub const WEB2: &str = "keelson.local/web:2";

/// What becomes an image.
struct Recipe {
    reference: &'static str,
    /// Bumped when the recipe changes, so that an old archive is rebuilt.
    edition: u32,
    fill: fn(&Layout, &Path) -> Result<()>,
    config: fn() -> Value,
}

/// All images. A new one is one recipe here.
const RECIPES: &[Recipe] = &[
    Recipe {
        reference: PAUSE,
        edition: 1,
        fill: |layout, root| {
            fs::copy(binaries::path(layout, binaries::STATIC_PAUSE)?, root.join("pause"))?;
            Ok(())
        },
        config: || json!({"Entrypoint": ["/pause"]}),
    },
    Recipe {
        reference: BUSYBOX,
        edition: 3,
        fill: busybox,
        config: || json!({"Cmd": ["sh"], "Env": ["PATH=/bin:/sbin"]}),
    },
    Recipe { reference: WEB, edition: 2, fill: |l, r| web(l, r, "1"), config: web_config },
    Recipe { reference: WEB2, edition: 2, fill: |l, r| web(l, r, "2"), config: web_config },
];

/// Builds the archives that are missing and returns all of them with their references.
pub fn ensure(layout: &Layout) -> Result<Vec<(&'static str, PathBuf)>> {
    fs::create_dir_all(layout.images())?;
    RECIPES
        .iter()
        .map(|recipe| {
            let file = recipe.reference.replace(['/', ':'], "_");
            let path = layout.images().join(format!("{file}-{}.tar", recipe.edition));
            if !path.exists() {
                screen::detail(&format!("building image {}", recipe.reference));
                let work = tempfile::tempdir_in(layout.images())?;
                let root = work.path().join("root");
                fs::create_dir(&root)?;
                // The image's top folder must be readable by any user a container runs as.
                fs::set_permissions(&root, fs::Permissions::from_mode(0o755))?;
                (recipe.fill)(layout, &root).with_context(|| format!("cannot build {}", recipe.reference))?;
                archive(work.path(), &root, recipe, &path)?;
            }
            Ok((recipe.reference, path))
        })
        .collect()
}

fn busybox(layout: &Layout, root: &Path) -> Result<()> {
    // Not the static one: linked that way, glibc looks names up by loading libraries that are not there.
    unpack(layout, root, &["busybox"], true)?;
    let list = output(&mut command(&root.join("bin/busybox").to_string_lossy(), ["--list"]))?;
    for applet in list.lines().filter(|a| *a != "busybox") {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    for dir in ["tmp", "root", "sbin", "var", "home", "dev", "proc", "sys"] {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    accounts(root)?;
    remove_documentation(root)
}

fn web(layout: &Layout, root: &Path, version: &str) -> Result<()> {
    unpack(layout, root, &["nginx"], true)?;
    for dir in ["var/log/nginx", "var/lib/nginx", "run", "tmp", "etc/nginx", "srv"] {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::write(
        root.join("etc/nginx/nginx.conf"),
        "worker_processes 1;\npid /run/nginx.pid;\nerror_log stderr;\nuser root;\n\
         events { worker_connections 512; }\n\
         http {\n  access_log off;\n  default_type text/plain;\n  server {\n    listen 80;\n    root /srv;\n\
         \x20   location = /hostname { return 200 \"$hostname\\n\"; }\n    location / { index index.html; }\n  }\n}\n",
    )?;
    fs::write(root.join("srv/index.html"), format!("Keelson says hello, version {version}\n"))?;
    accounts(root)?;
    remove_documentation(root)
}

fn web_config() -> Value {
    json!({
        "Entrypoint": ["/usr/sbin/nginx", "-g", "daemon off;"],
        "Env": ["PATH=/usr/sbin:/usr/bin:/bin"],
        "ExposedPorts": {"80/tcp": {}},
        "StopSignal": "SIGQUIT",
    })
}

fn accounts(root: &Path) -> Result<()> {
    fs::create_dir_all(root.join("etc"))?;
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    Ok(())
}

fn remove_documentation(root: &Path) -> Result<()> {
    for dir in ["usr/share/doc", "usr/share/man", "usr/share/lintian", "usr/share/locale", "usr/share/bug"] {
        match fs::remove_dir_all(root.join(dir)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
    }
    Ok(())
}

/// Unpacks packages, and with `libraries` the shared libraries they depend on, into `root`.
fn unpack(layout: &Layout, root: &Path, packages: &[&str], libraries: bool) -> Result<()> {
    let cache = layout.images().join("deb");
    fs::create_dir_all(&cache)?;
    merge_usr(root)?;
    let mut queue: Vec<String> = packages.iter().map(|p| (*p).to_owned()).collect();
    let mut seen: BTreeSet<String> = queue.iter().cloned().collect();
    while let Some(package) = queue.pop() {
        let deb = download(&cache, &package)?;
        let deb = deb.to_string_lossy();
        // Extraction through tar keeps /lib → usr/lib links in place, which `dpkg-deb -x` would replace.
        let tarball = root.with_extension("data.tar");
        fs::write(&tarball, command("dpkg-deb", ["--fsys-tarfile", &deb]).output()?.stdout)?;
        output(
            command("tar", ["xf", &tarball.to_string_lossy(), "--keep-directory-symlink", "-C"]).arg(root),
        )?;
        fs::remove_file(&tarball)?;
        if libraries {
            let depends = output(&mut command("dpkg-deb", ["-f", &deb, "Depends", "Pre-Depends"]))?;
            for library in libraries_of(&depends) {
                if seen.insert(library.clone()) {
                    queue.push(library);
                }
            }
        }
    }
    Ok(())
}

/// Debian 12 is merged-usr: /bin, /lib and friends are links.
fn merge_usr(root: &Path) -> Result<()> {
    for dir in ["bin", "lib", "lib64", "sbin"] {
        fs::create_dir_all(root.join("usr").join(dir))?;
        symlink(format!("usr/{dir}"), root.join(dir))?;
    }
    Ok(())
}

fn download(cache: &Path, package: &str) -> Result<PathBuf> {
    let dir = cache.join(package);
    let existing = || -> Result<Option<PathBuf>> {
        Ok(fs::read_dir(&dir)?
            .filter_map(Result::ok)
            .map(|e| e.path())
            .find(|p| p.extension().is_some_and(|e| e == "deb")))
    };
    fs::create_dir_all(&dir)?;
    if existing()?.is_none() {
        let fetch = || output(command("apt-get", ["download", "-q", package]).current_dir(&dir));
        if fetch().is_err() {
            // A fresh machine has no package lists yet.
            output(&mut command("apt-get", ["update", "-q"]))?;
            fetch()?;
        }
    }
    existing()?.with_context(|| format!("apt-get downloaded no {package}"))
}

/// Names of shared-library packages in `Depends` lines, first alternative each.
fn libraries_of(depends: &str) -> Vec<String> {
    depends
        .lines()
        .flat_map(|l| l.split_once(": ").map_or(l, |(_, v)| v).split(','))
        .filter_map(|d| d.trim().split(['|', ' ', '(', ':']).next().map(str::to_owned))
        .filter(|d| (d.starts_with("lib") || d.starts_with("zlib")) && d != "libnginx-mod")
        .collect()
}

fn archive(work: &Path, root: &Path, recipe: &Recipe, target: &Path) -> Result<()> {
    let layer = work.join("layer.tar");
    output(
        command(
            "tar",
            ["cf", &layer.to_string_lossy(), "--sort=name", "--owner=0", "--group=0", "--numeric-owner"],
        )
        .args(["--mtime=@0", "-C"])
        .arg(root)
        .arg("."),
    )?;
    let digest: String = Sha256::digest(fs::read(&layer)?).iter().map(|b| format!("{b:02x}")).collect();
    let config = serde_json::to_vec(&json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux", "created": "2026-01-01T00:00:00Z",
        "config": (recipe.config)(),
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "hack"}],
    }))?;
    let manifest = serde_json::to_vec(&json!([{
        "Config": "config.json", "RepoTags": [recipe.reference], "Layers": ["layer.tar"],
    }]))?;
    let fresh = target.with_extension("new");
    let mut tar = tar::Builder::new(File::create(&fresh)?);
    append(&mut tar, "config.json", &config)?;
    append(&mut tar, "manifest.json", &manifest)?;
    tar.append_path_with_name(&layer, "layer.tar")?;
    tar.into_inner()?.flush()?;
    fs::rename(&fresh, target)?;
    Ok(())
}

fn append(tar: &mut tar::Builder<File>, name: &str, data: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(data.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    tar.append_data(&mut header, name, data)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shared_libraries_are_followed() {
        let depends = "Depends: iproute2, libc6 (>= 2.34), libpcre2-8-0 (>= 10.22) | libpcre3, zlib1g:any, nginx-common (<< 2)\n";
        assert_eq!(libraries_of(depends), ["libc6", "libpcre2-8-0", "zlib1g"]);
    }
}
