//! Servers of plugins: each on a socket of its own, where the kubelet or the API server looks for it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use proto::pluginregistration::v1::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
    registration_server::Registration,
};
use tokio::{net::UnixListener, runtime::Runtime};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::server::Router};

/// A server on a socket; both are gone when it is dropped.
#[derive(Debug)]
pub struct Served {
    socket: PathBuf,
    runtime: Runtime,
}

impl Served {
    /// Begins to serve.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(socket: &Path, services: Router) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = {
            let _entered = runtime.enter();
            UnixListener::bind(socket)?
        };
        runtime.spawn(services.serve_with_incoming(UnixListenerStream::new(listener)));
        Ok(Self { socket: socket.to_owned(), runtime })
    }

    /// Runs what the server itself has to ask.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // A folder that is gone, or a kubelet that began anew, has taken it along.
        let _gone = std::fs::remove_file(&self.socket).is_ok();
    }
}

/// Who a plugin says it is, to the kubelet that finds its socket.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `CSIPlugin` or `DRAPlugin`.
    pub kind: &'static str,
    /// The driver.
    pub name: String,
    /// Where it answers.
    pub socket: PathBuf,
    /// What it speaks.
    pub versions: &'static [&'static str],
}

#[tonic::async_trait]
impl Registration for Identity {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: self.kind.to_owned(),
            name: self.name.clone(),
            endpoint: self.socket.to_string_lossy().into_owned(),
            supported_versions: self.versions.iter().map(ToString::to_string).collect(),
        }))
    }

    async fn notify_registration_status(
        &self,
        _: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
