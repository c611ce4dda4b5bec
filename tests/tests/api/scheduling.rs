//! Scheduler and controllers on a control plane, and nodes that are objects only.

use std::{
    fs,
    path::Path,
    process::{Command, ExitStatus},
};

use anyhow::Result;
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{Background, Client, ControlPlane, binary, control_plane::free_port, pki::NOW};

/// A daemon's binary, as the administrator; ended when dropped.
pub(crate) struct Daemon {
    process: Background,
    _files: TempDir,
    port: u16,
}

/// The scheduler.
pub(crate) struct Scheduler(Daemon);

impl Daemon {
    /// Starts it with these flags.
    pub(crate) fn start(plane: &ControlPlane, name: &str, flags: &[&str]) -> Result<Daemon> {
        Daemon::start_with(plane, name, |files| {
            let mut all = vec![format!("--kubeconfig={}", files.join("kubeconfig").display())];
            all.push("--leader-elect=false".to_owned());
            all.extend(flags.iter().map(|flag| (*flag).to_owned()));
            Ok(all)
        })
    }

    /// Starts it with the flags that come of its folder, in which the kubeconfig is.
    fn start_with(
        plane: &ControlPlane,
        name: &str,
        flags: impl FnOnce(&Path) -> Result<Vec<String>>,
    ) -> Result<Daemon> {
        let files = tempfile::Builder::new().prefix("keelson-daemon").tempdir()?;
        let at = |file: &str| files.path().join(file);
        let (server, port) = (plane.ca.server()?, free_port()?);
        let kubeconfig = kubeconfig(plane)?.to_string();
        for (file, text) in [
            ("kubeconfig", &kubeconfig),
            ("server.crt", &server.cert),
            ("server.key", &server.key),
            ("ca.crt", &plane.ca.cert),
        ] {
            fs::write(at(file), text)?;
        }
        let mut command = Command::new(binary(name)?);
        for (flag, file) in [
            ("tls-cert-file", "server.crt"),
            ("tls-private-key-file", "server.key"),
            ("client-ca-file", "ca.crt"),
        ] {
            command.arg(format!("--{flag}={}", at(file).display()));
        }
        command.args(["--bind-address=127.0.0.1".to_owned(), format!("--secure-port={port}")]);
        command.args(flags(files.path())?);
        Ok(Daemon { process: Background::start(command)?, _files: files, port })
    }

    /// Waits for a line of its log.
    pub(crate) fn line(&mut self, text: &str, seconds: u64) -> Result<String> {
        self.process.line(text, seconds)
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self, seconds: u64) -> Result<ExitStatus> {
        self.process.end(seconds)
    }

    /// The administrator as its own server sees them.
    pub(crate) fn client(&self, plane: &ControlPlane) -> Result<Client> {
        let own = plane.ca.client("admin", "system:masters", NOW)?;
        Client::new(&format!("https://127.0.0.1:{}", self.port), &plane.ca.cert, Some(&own))
    }
}

impl Scheduler {
    /// Starts it with these fields in its configuration file, and flags.
    pub(crate) fn start(plane: &ControlPlane, config: &Value, flags: &[&str]) -> Result<Scheduler> {
        let daemon = Daemon::start_with(plane, "kube-scheduler", |files| {
            let mut all = json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
                "clientConnection": {"kubeconfig": files.join("kubeconfig")}, "leaderElection": {"leaderElect": false}});
            for (field, value) in config.as_object().into_iter().flatten() {
                all[field] = value.clone();
            }
            fs::write(files.join("config"), all.to_string())?;
            let mut all = vec![format!("--config={}", files.join("config").display())];
            all.extend(flags.iter().map(|flag| (*flag).to_owned()));
            Ok(all)
        });
        daemon.map(Scheduler)
    }

    /// The administrator as its own server sees them.
    pub(crate) fn client(&self, plane: &ControlPlane) -> Result<Client> {
        self.0.client(plane)
    }
}

/// The administrator's kubeconfig.
pub(crate) fn kubeconfig(plane: &ControlPlane) -> Result<Value> {
    let own = plane.ca.client("admin", "system:masters", NOW)?;
    Ok(json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("https://{}", plane.address()),
            "certificate-authority-data": BASE64_STANDARD.encode(&plane.ca.cert)}}],
        "users": [{"name": "u", "user": {"client-certificate-data": BASE64_STANDARD.encode(&own.cert),
            "client-key-data": BASE64_STANDARD.encode(&own.key)}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]}))
}

/// A node with room for pods.
pub(crate) fn node(admin: &Client, name: &str) -> Result<()> {
    let meta = json!({"name": name, "labels": {"kubernetes.io/hostname": name}});
    admin.post("/api/v1/nodes", &json!({"metadata": meta}))?.ok()?;
    let room = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
    let status = json!({"status": {"capacity": room, "allocatable": room,
        "conditions": [{"type": "Ready", "status": "True"}]}});
    let path = format!("/api/v1/nodes/{name}/status");
    admin.patch(&path, "application/merge-patch+json", &status)?.ok()?;
    // The node controller, which is not there, would take it away.
    let spec = json!({"spec": {"taints": null}});
    admin.patch(&format!("/api/v1/nodes/{name}"), "application/merge-patch+json", &spec)?.ok()?;
    Ok(())
}
