//! etcd and a kube-apiserver alone, as `hack/up` configures them, and clients for both.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result};
use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use hack::{
    control_plane,
    layout::Layout,
    packages,
    pki::{Authority, Leaf},
    process,
};

use super::http::{Client, Trust};

const API: &str = "kube-apiserver";

/// A running pair of etcd and kube-apiserver.
pub(super) struct Plane {
    layout: Layout,
    plane: control_plane::ControlPlane,
}

impl Plane {
    /// Starts both on an empty etcd and waits until the API server is ready.
    pub(super) fn start(layout: &Layout) -> Result<Self> {
        stop_all(layout)?;
        forget(layout)?;
        let kubectl = packages::kubectl(layout)?;
        let plane = control_plane::ControlPlane::prepare(layout, Ipv4Addr::LOCALHOST, kubectl)?;
        fs::create_dir_all(&layout.run)?;
        plane.start_api(layout)?;
        Ok(Self { layout: layout.clone(), plane })
    }

    /// Where the API server listens.
    pub(super) fn address() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, control_plane::API_PORT).into()
    }

    /// What an administrator's client trusts and shows.
    pub(super) fn trust(&self) -> Result<Trust> {
        let leaf =
            Leaf { file: "admin-client", name: "kubernetes-admin", group: "system:masters", hosts: vec![] };
        let pair = self.plane.ca.leaf(&leaf)?;
        Ok(Trust { ca: self.plane.ca.cert(), identity: Some((pair.cert, pair.key)) })
    }

    /// An administrator's client.
    pub(super) async fn client(&self, version: http::Version) -> Result<Client> {
        Client::connect(Self::address(), &self.trust()?, version).await
    }

    /// A client of its etcd.
    pub(super) async fn etcd(&self) -> Result<etcd_client::Client> {
        let read = |file: &str| {
            let path = self.layout.pki().join(file);
            fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let tls = TlsOptions::new()
            .ca_certificate(Certificate::from_pem(read("etcd-ca.crt")?))
            .identity(Identity::from_pem(
                read("apiserver-etcd-client.crt")?,
                read("apiserver-etcd-client.key")?,
            ))
            .domain_name("localhost");
        let options = ConnectOptions::new().with_tls(tls).with_connect_timeout(Duration::from_secs(5));
        Ok(etcd_client::Client::connect(["https://127.0.0.1:2379"], Some(options)).await?)
    }

    /// The certificate authority, for servers beside this one.
    pub(super) fn ca(&self) -> &Authority {
        &self.plane.ca
    }

    /// The API server's process.
    pub(super) fn api_pid(&self) -> Result<i32> {
        self.pid(API)
    }

    /// etcd's process.
    pub(super) fn etcd_pid(&self) -> Result<i32> {
        self.pid("etcd")
    }

    fn pid(&self, name: &str) -> Result<i32> {
        let running = process::running(&self.layout);
        let found =
            running.iter().find(|r| r.name == name).with_context(|| format!("{name} does not run"))?;
        Ok(found.pid)
    }

    /// Stops one of them.
    pub(super) fn stop(&self, name: &str) -> Result<()> {
        process::stop(&self.layout, name, Duration::from_secs(10))
    }

    /// Starts the scheduler with as many requests to the API server as it can make: its own limit is not what is
    /// measured.
    pub(super) fn start_scheduler(&self) -> Result<()> {
        self.start_unlimited(self.plane.scheduler(&self.layout)?)
    }

    /// Starts the controller manager, likewise without a limit.
    pub(super) fn start_controller_manager(&self) -> Result<()> {
        let mut process = self.plane.controller_manager(&self.layout)?;
        // Nodes are objects without a kubelet here; nobody is to miss its leases.
        process.argv.push("--controllers=*,-node-lifecycle-controller".into());
        self.start_unlimited(process)
    }

    /// Starts DNS with the role it needs; its process.
    pub(super) fn start_dns(&self) -> Result<i32> {
        hack::objects::dns_role(&self.layout, &self.plane)?;
        let dns = self.plane.dns(&self.layout)?;
        dns.ensure(&self.layout)?;
        let running = process::running(&self.layout);
        Ok(running.iter().find(|r| r.name == dns.name).context("kube-dns does not run")?.pid)
    }

    /// Starts kube-proxy for a node that has no object; its process.
    pub(super) fn start_proxy(&self) -> Result<i32> {
        let (binary, own) = ("kube-proxy", self.layout.dir.join("proxy.kubeconfig"));
        let values =
            [("hostname-override", "bench"), ("proxy-mode", "nftables"), ("cluster-cidr", "10.200.0.0/16")];
        let files = [("kubeconfig", own.clone())];
        let proxy = control_plane::daemon(&self.layout, binary, &values, &files, "", vec![own])?;
        proxy.ensure(&self.layout)?;
        self.pid(binary)
    }

    fn start_unlimited(&self, mut process: process::Process) -> Result<()> {
        process.argv.push("--kube-api-qps=-1".into());
        process.ensure(&self.layout).map(drop)
    }

    /// Starts the API server without waiting for it.
    pub(super) fn launch_api(&self) -> Result<()> {
        self.plane.apiserver(&self.layout)?.ensure(&self.layout).map(drop)
    }
}

/// Stops everything a benchmark left running.
pub(super) fn stop_all(layout: &Layout) -> Result<()> {
    for name in process::names(layout) {
        process::stop(layout, &name, Duration::from_secs(10))?;
    }
    Ok(())
}

/// Removes etcd's data.
pub(super) fn forget(layout: &Layout) -> Result<()> {
    match fs::remove_dir_all(etcd_data(layout)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}

fn etcd_data(layout: &Layout) -> PathBuf {
    layout.dir.join("etcd")
}
