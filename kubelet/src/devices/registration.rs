//! How device plugins come to the kubelet: they call `Register` on its socket, or are found by theirs; then the kubelet
//! listens to what devices they have for as long as they say.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use component_base::task::Tasks;
use jiff::Timestamp;
use proto::deviceplugin::v1beta1::{
    DevicePluginOptions, Empty, RegisterRequest,
    device_plugin_client::DevicePluginClient,
    registration_server::{Registration, RegistrationServer},
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use super::Devices;
use crate::plugin::{Introduction, PluginKind, channel};

/// The version of the API.
const VERSION: &str = "v1beta1";
/// The kubelet's own socket in the folder.
const SOCKET: &str = "kubelet.sock";
/// How long a plugin may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves registrations.
#[derive(Clone)]
pub struct Registrar {
    devices: Arc<Devices>,
    tasks: Arc<Tasks>,
}

/// Serves the registration socket until the drain. Sockets of plugins that registered with an earlier kubelet are removed;
/// that tells them to register again.
///
/// # Errors
/// When the socket cannot be made.
pub fn run(devices: Arc<Devices>, tasks: &Arc<Tasks>) -> io::Result<Registrar> {
    use std::os::unix::fs::FileTypeExt as _;
    let folder = devices.folder().to_owned();
    std::fs::create_dir_all(&folder)?;
    for entry in std::fs::read_dir(&folder)?.filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_socket()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    let listener = UnixListenerStream::new(UnixListener::bind(folder.join(SOCKET))?);
    let registrar = Registrar { devices, tasks: Arc::clone(tasks) };
    let (service, drain) = (RegistrationServer::new(registrar.clone()), tasks.drain());
    tasks.spawn("device-registration", async move {
        let server = Server::builder().add_service(service);
        if let Err(error) = server.serve_with_incoming_shutdown(listener, drain.cancelled_owned()).await {
            tracing::error!(%error, "cannot serve registrations of device plugins");
        }
    });
    Ok(registrar)
}

impl Registrar {
    fn accept(&self, resource: &str, endpoint: PathBuf, options: DevicePluginOptions) {
        tracing::info!(resource, endpoint = %endpoint.display(), "device plugin registered");
        let turn = self.devices.registered(resource, endpoint.clone(), options);
        let (devices, drain, resource) = (Arc::clone(&self.devices), self.tasks.drain(), resource.to_owned());
        self.tasks.spawn_contained("device-plugin", async move {
            tokio::select! {
                () = drain.cancelled() => {}
                () = listen(&devices, &resource, turn, endpoint) => devices.gone(&resource, turn, Timestamp::now()),
            }
        });
    }
}

/// Takes in what the plugin says of its devices until it says no more.
async fn listen(devices: &Devices, resource: &str, turn: u64, endpoint: PathBuf) {
    let mut client = DevicePluginClient::new(channel(&endpoint));
    let mut reports = match client.list_and_watch(Empty {}).await {
        Ok(answer) => answer.into_inner(),
        Err(error) => {
            tracing::warn!(resource, error = error.message(), "cannot list the plugin's devices");
            return;
        }
    };
    loop {
        match reports.message().await {
            Ok(Some(report)) => devices.reported(resource, turn, report.devices),
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(resource, error = error.message(), "the plugin's list of devices ended");
                return;
            }
        }
    }
}

/// Resources of plugins have a domain, and not Kubernetes' own.
fn is_extended(resource: &str) -> bool {
    resource.split_once('/').is_some_and(|(domain, name)| {
        !name.is_empty()
            && !domain.is_empty()
            && domain != "kubernetes.io"
            && !domain.ends_with(".kubernetes.io")
    })
}

#[async_trait]
impl Registration for Registrar {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        if request.version != VERSION {
            let version = request.version;
            return Err(Status::invalid_argument(format!(
                "requested API version {version:?} is not supported by kubelet. Supported version is {VERSION:?}"
            )));
        }
        if !is_extended(&request.resource_name) {
            let name = request.resource_name;
            return Err(Status::invalid_argument(format!("the ResourceName {name:?} is invalid")));
        }
        if request.endpoint.is_empty() || request.endpoint.contains('/') {
            return Err(Status::invalid_argument(
                "the endpoint has to be the name of a socket in the folder",
            ));
        }
        let endpoint = self.devices.folder().join(request.endpoint);
        self.accept(&request.resource_name, endpoint, request.options.unwrap_or_default());
        Ok(Response::new(Empty {}))
    }
}

#[async_trait]
impl PluginKind for Registrar {
    fn kind(&self) -> &'static str {
        "DevicePlugin"
    }

    async fn register(&self, plugin: &Introduction) -> Result<(), String> {
        if !plugin.versions.iter().any(|v| v == VERSION) {
            return Err(format!("versions {:?} are not supported, only {VERSION}", plugin.versions));
        }
        if !is_extended(&plugin.name) {
            return Err(format!("invalid name of device plugin: {}", plugin.name));
        }
        let mut client = DevicePluginClient::new(channel(&plugin.endpoint));
        let asked = tokio::time::timeout(PATIENCE, client.get_device_plugin_options(Empty {})).await;
        let options = asked.map_err(|_| "no answer".to_owned())?.map_err(|e| e.message().to_owned())?;
        self.accept(&plugin.name, plugin.endpoint.clone(), options.into_inner());
        Ok(())
    }

    async fn deregister(&self, plugin: &Introduction) {
        self.devices.left(&plugin.name, Timestamp::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_have_a_domain_of_their_own() {
        for (name, fine) in [
            ("example.com/gpu", true),
            ("gpu", false),
            ("kubernetes.io/gpu", false),
            ("a.kubernetes.io/gpu", false),
            ("example.com/", false),
        ] {
            assert_eq!(is_extended(name), fine, "{name}");
        }
    }
}
