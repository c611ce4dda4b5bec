//! nginx as a peer: one file over TLS.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use hack::{
    command::command,
    packages,
    pki::{Authority, Leaf},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A running nginx, ended when dropped.
pub(super) struct Nginx {
    child: Child,
    address: SocketAddr,
}

impl Nginx {
    /// Serves files by name, out of a new folder `root`, with a certificate of `ca`.
    pub(super) fn start(root: &Path, ca: &Authority, files: &[(&str, &[u8])]) -> Result<Self> {
        fs::create_dir_all(root.join("www"))?;
        for (name, content) in files {
            fs::write(root.join("www").join(name), content)?;
        }
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let hosts = vec!["127.0.0.1".to_owned()];
        let pair = ca.leaf(&Leaf { file: "nginx", name: "nginx", group: "", hosts })?;
        let config = root.join("nginx.conf");
        fs::write(&config, configuration(root, address, &pair))?;
        let nginx = packages::find("nginx").context("nginx is not installed")?;
        let mut run = command(
            &nginx.to_string_lossy(),
            ["-p", &root.to_string_lossy(), "-c", &config.to_string_lossy()],
        );
        let log = fs::File::create(root.join("nginx.out"))?;
        let child = run.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let nginx = Self { child, address };
        hack::screen::wait("nginx answering", Duration::from_secs(10), || {
            Ok(std::net::TcpStream::connect(address).err().map(|e| e.to_string()))
        })?;
        Ok(nginx)
    }

    /// Its master process; the workers are its children.
    pub(super) fn pid(&self) -> i32 {
        // Process ids are far below the limit.
        i32::try_from(self.child.id()).unwrap_or(i32::MAX)
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master ends its workers; its pid is ours until it is waited for.
        let ended = i32::try_from(self.child.id()).map(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM));
        if matches!(ended, Ok(Ok(()))) {
            drop(self.child.wait());
        }
    }
}

/// As a careful operator would set it up for big static answers.
fn configuration(root: &Path, address: SocketAddr, pair: &hack::pki::Pair) -> String {
    let (root, cert, key) = (root.display(), pair.cert.display(), pair.key.display());
    format!(
        "user root;\ndaemon off;\nworker_processes auto;\npid {root}/nginx.pid;\nerror_log {root}/error.log;\n\
         events {{ worker_connections 512; }}\n\
         http {{\n  access_log off;\n  sendfile on;\n  tcp_nopush on;\n  keepalive_requests 1000000;\n\
         \x20 default_type application/json;\n  client_body_temp_path {root};\n  proxy_temp_path {root};\n\
         \x20 fastcgi_temp_path {root};\n  uwsgi_temp_path {root};\n  scgi_temp_path {root};\n\
         \x20 server {{\n    listen {address} ssl;\n    ssl_certificate {cert};\n    ssl_certificate_key {key};\n\
         \x20   ssl_protocols TLSv1.3;\n    root {root}/www;\n    gzip_static on;\n  }}\n}}\n"
    )
}
