//! Plugins that make themselves known by a socket in `<root>/plugins_registry`: the kubelet finds the socket, asks who is
//! there, lets the kind of plugin decide, and tells the plugin the outcome. When the socket goes, so does the plugin.
//!
//! Contract: pluginregistration/v1. One line in the list given to [`run`] for each kind.

use std::{
    collections::{HashMap, HashSet},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use component_base::task::Tasks;
use hyper_util::rt::TokioIo;
use proto::pluginregistration::v1::{
    InfoRequest, RegistrationStatus, registration_client::RegistrationClient,
};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

/// How often the folder is looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a plugin may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first wait after a failed registration, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(120));

/// Who is behind a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// `CSIPlugin`, `DevicePlugin`, `DRAPlugin`.
    pub kind: String,
    /// The driver's or resource's name.
    pub name: String,
    /// Where it serves.
    pub endpoint: PathBuf,
    /// Versions of its API that it speaks.
    pub versions: Vec<String>,
}

/// A kind of plugin.
#[async_trait]
pub trait PluginKind: Send + Sync {
    /// As plugins name it.
    fn kind(&self) -> &'static str;

    /// Takes a plugin on.
    ///
    /// # Errors
    /// Why not; the plugin is told.
    async fn register(&self, plugin: &Introduction) -> Result<(), String>;

    /// The plugin is gone.
    async fn deregister(&self, plugin: &Introduction);
}

/// A connection to a unix socket; it is made at the first call and remade when the other side restarts.
#[must_use]
pub fn channel(path: &Path) -> Channel {
    let path = path.to_owned();
    let connector = tower::service_fn(move |_: http::Uri| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector)
}

/// A socket as found: which one it is, since a plugin that restarts makes a new one in the same place.
type Identity = (u64, i64, i64);

enum Stage {
    /// It was taken on, as this kind.
    Registered(usize, Introduction),
    /// It failed so many times and is tried again then.
    Failed(u32, Instant),
}

/// Looks for plugins until the drain.
pub fn run(folder: PathBuf, kinds: Vec<Arc<dyn PluginKind>>, tasks: &Tasks) {
    let mut ticks = tasks.ticks(PERIOD);
    tasks.spawn("plugins", async move {
        let mut watcher = Watcher { kinds, known: HashMap::new() };
        while ticks.next().await {
            ticks.until_drain(watcher.round(&folder)).await;
        }
    });
}

struct Watcher {
    kinds: Vec<Arc<dyn PluginKind>>,
    known: HashMap<PathBuf, (Identity, Stage)>,
}

impl Watcher {
    async fn round(&mut self, folder: &Path) {
        let found = sockets(folder);
        let there: HashSet<&(PathBuf, Identity)> = found.iter().collect();
        let gone: Vec<PathBuf> = self
            .known
            .iter()
            .filter(|(path, (identity, _))| !there.contains(&((*path).clone(), *identity)))
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            if let Some((_, Stage::Registered(kind, plugin))) = self.known.remove(&path) {
                tracing::info!(kind = plugin.kind, name = plugin.name, "plugin is gone");
                self.kinds[kind].deregister(&plugin).await;
            }
        }
        for (path, identity) in found {
            let failures = match self.known.get(&path) {
                Some((_, Stage::Registered(..))) => continue,
                Some((_, Stage::Failed(_, due))) if *due > Instant::now() => continue,
                Some((_, Stage::Failed(count, _))) => *count,
                None => 0,
            };
            let stage = match self.introduce(&path).await {
                Ok((kind, plugin)) => Stage::Registered(kind, plugin),
                Err(error) => {
                    tracing::warn!(socket = %path.display(), error, "cannot register the plugin");
                    let wait = RETRY.0.saturating_mul(1 << failures.min(10)).min(RETRY.1);
                    Stage::Failed(failures.saturating_add(1), Instant::now() + wait)
                }
            };
            self.known.insert(path, (identity, stage));
        }
    }

    async fn introduce(&self, path: &Path) -> Result<(usize, Introduction), String> {
        let mut client = RegistrationClient::new(channel(path));
        let asked = tokio::time::timeout(PATIENCE, client.get_info(InfoRequest {})).await;
        let info =
            asked.map_err(|_| "no answer".to_owned())?.map_err(|e| e.message().to_owned())?.into_inner();
        let endpoint = if info.endpoint.is_empty() { path.to_owned() } else { PathBuf::from(&info.endpoint) };
        let plugin =
            Introduction { kind: info.r#type, name: info.name, endpoint, versions: info.supported_versions };
        let outcome = match self.kinds.iter().position(|k| k.kind() == plugin.kind) {
            Some(kind) => self.kinds[kind].register(&plugin).await.map(|()| kind),
            None => Err(format!("no handler registered for plugin type: {}", plugin.kind)),
        };
        let error = outcome.as_ref().err().cloned().unwrap_or_default();
        let status = RegistrationStatus { plugin_registered: outcome.is_ok(), error };
        let told = tokio::time::timeout(PATIENCE, client.notify_registration_status(status)).await;
        if !matches!(told, Ok(Ok(_))) {
            tracing::debug!(
                name = plugin.name,
                "the plugin does not want to know what became of its registration"
            );
        }
        let kind = outcome?;
        tracing::info!(kind = plugin.kind, name = plugin.name, "plugin registered");
        Ok((kind, plugin))
    }
}

/// The sockets in a folder and its folders, in a stable order. Hidden ones are not for the kubelet.
fn sockets(folder: &Path) -> Vec<(PathBuf, Identity)> {
    let mut found = Vec::new();
    let mut open = vec![(folder.to_owned(), 0)];
    while let Some((folder, depth)) = open.pop() {
        // A folder that is not there has no plugins.
        for entry in std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
            let Ok(kind) = entry.file_type() else { continue };
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if kind.is_dir() && depth < 3 {
                open.push((entry.path(), depth + 1));
            } else if kind.is_socket()
                && let Ok(meta) = entry.metadata()
            {
                found.push((entry.path(), (meta.ino(), meta.ctime(), meta.ctime_nsec())));
            }
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use proto::pluginregistration::v1::{
        PluginInfo, RegistrationStatusResponse,
        registration_server::{Registration, RegistrationServer},
    };
    use tokio_stream::wrappers::UnixListenerStream;
    use tonic::{Request, Response, Status};

    use super::*;

    struct Behind(Arc<Mutex<Vec<RegistrationStatus>>>);

    #[async_trait]
    impl Registration for Behind {
        async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
            Ok(Response::new(PluginInfo {
                r#type: "CSIPlugin".into(),
                name: "driver.example".into(),
                endpoint: "/else/csi.sock".into(),
                supported_versions: vec!["1.0.0".into()],
            }))
        }
        async fn notify_registration_status(
            &self,
            status: Request<RegistrationStatus>,
        ) -> Result<Response<RegistrationStatusResponse>, Status> {
            self.0.lock().push(status.into_inner());
            Ok(Response::new(RegistrationStatusResponse {}))
        }
    }

    #[derive(Default)]
    struct Kind(Mutex<Vec<String>>);

    #[async_trait]
    impl PluginKind for Kind {
        fn kind(&self) -> &'static str {
            "CSIPlugin"
        }
        async fn register(&self, plugin: &Introduction) -> Result<(), String> {
            self.0.lock().push(format!("+{} {}", plugin.name, plugin.endpoint.display()));
            Ok(())
        }
        async fn deregister(&self, plugin: &Introduction) {
            self.0.lock().push(format!("-{}", plugin.name));
        }
    }

    #[tokio::test]
    async fn a_plugin_comes_and_goes_with_its_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("driver.example-reg.sock");
        let told = Arc::new(Mutex::new(Vec::new()));
        let listener = UnixListenerStream::new(tokio::net::UnixListener::bind(&path).unwrap());
        let tasks = Tasks::new();
        let service = RegistrationServer::new(Behind(Arc::clone(&told)));
        tasks.spawn("plugin", async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(listener)
                .await
                .unwrap();
        });
        let kind = Arc::new(Kind::default());
        let mut watcher = Watcher { kinds: vec![kind.clone()], known: HashMap::new() };
        watcher.round(dir.path()).await;
        watcher.round(dir.path()).await;
        assert_eq!(*kind.0.lock(), ["+driver.example /else/csi.sock"]);
        assert!(told.lock()[0].plugin_registered);
        std::fs::remove_file(&path).unwrap();
        watcher.round(dir.path()).await;
        assert_eq!(kind.0.lock().last().unwrap(), "-driver.example");
        tasks.shutdown(Duration::ZERO).await;
    }

    #[tokio::test]
    async fn nobody_behind_a_socket_is_tried_again_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dead.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let mut watcher = Watcher { kinds: vec![], known: HashMap::new() };
        watcher.round(dir.path()).await;
        assert!(matches!(watcher.known[&path].1, Stage::Failed(1, _)));
        watcher.round(dir.path()).await;
        assert!(matches!(watcher.known[&path].1, Stage::Failed(1, _)));
    }
}
