//! Values through a plugin on a socket: its keys change, it fails, it comes back.

use std::{collections::BTreeMap, path::Path};

use component_base::metrics::encode as shown;
use proto::kms::v2::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
    key_management_service_server::{KeyManagementService, KeyManagementServiceServer},
};
use serde_json::json;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use super::{keeper::Probe, *};
use crate::{
    encryption::Encryption,
    registry::{catalog, stored_forms::StoredForms},
    storage::{
        ResourceId, StoreConfig,
        testing::{EtcdServer, Running, pods},
    },
};

/// A plugin whose ciphertext is the text behind its key's name.
#[derive(Clone, Default)]
struct Plugin(Arc<Mutex<Behaviour>>);

#[derive(Default)]
struct Behaviour {
    key: String,
    healthz: String,
    version: String,
    /// What encryption says its key is, when that is not the status's.
    other_key: Option<String>,
    encrypted: usize,
    decrypted: usize,
}

impl Plugin {
    fn new(key: &str) -> Self {
        let plugin = Self::default();
        plugin.turns(key, "ok");
        plugin
    }

    fn turns(&self, key: &str, healthz: &str) {
        let mut behaviour = self.0.lock();
        (behaviour.key, behaviour.healthz) = (key.to_owned(), healthz.to_owned());
        "v2".clone_into(&mut behaviour.version);
    }

    fn counted(&self) -> (usize, usize) {
        let behaviour = self.0.lock();
        (behaviour.encrypted, behaviour.decrypted)
    }

    /// Answers on a socket until the tasks end.
    fn serve(&self, tasks: &Tasks, settings: &Settings) {
        let listener = tokio::net::UnixListener::bind(&settings.socket).unwrap();
        let server = Server::builder().add_service(KeyManagementServiceServer::new(self.clone()));
        let drain = tasks.drain();
        tasks.spawn("plugin", async move {
            let incoming = UnixListenerStream::new(listener);
            server.serve_with_incoming_shutdown(incoming, drain.cancelled()).await.unwrap();
        });
    }
}

#[tonic::async_trait]
impl KeyManagementService for Plugin {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let Behaviour { key, healthz, version, .. } = &*self.0.lock();
        let (version, healthz, key_id) = (version.clone(), healthz.clone(), key.clone());
        Ok(Response::new(StatusResponse { version, healthz, key_id }))
    }

    async fn encrypt(&self, question: Request<EncryptRequest>) -> Result<Response<EncryptResponse>, Status> {
        let mut behaviour = self.0.lock();
        behaviour.encrypted += 1;
        let key_id = behaviour.other_key.clone().unwrap_or_else(|| behaviour.key.clone());
        let ciphertext = [key_id.as_bytes(), b"/", question.into_inner().plaintext.as_slice()].concat();
        let annotations = BTreeMap::from([("note.example.com".to_owned(), b"n".to_vec())]);
        Ok(Response::new(EncryptResponse { ciphertext, key_id, annotations }))
    }

    async fn decrypt(&self, question: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        self.0.lock().decrypted += 1;
        let question = question.into_inner();
        let key = format!("{}/", question.key_id);
        match question.ciphertext.strip_prefix(key.as_bytes()) {
            Some(text) if question.annotations.contains_key("note.example.com") => {
                Ok(Response::new(DecryptResponse { plaintext: text.to_vec() }))
            }
            _ => Err(Status::invalid_argument("another key's")),
        }
    }
}

const PATH: &[u8] = b"/registry/secrets/a/s";

fn settings(dir: &Path, timeout: Duration) -> Settings {
    Settings { name: "one".to_owned(), socket: dir.join("kms.sock"), timeout }
}

/// Long enough for the slowest machine: what is tested does not wait for it.
const LONG: Duration = Duration::from_secs(60);

fn start(settings: &Settings, tasks: &Tasks) -> Kms {
    Kms::start(settings.clone(), "server".into(), tasks).unwrap()
}

fn probe(settings: &Settings, shared: &Arc<Shared>) -> Probe {
    Probe { shared: shared.clone(), service: Arc::new(Service::new(settings)), version: None, last: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_read_by_whoever_has_the_plugin() {
    let (tasks, dir) = (Tasks::new(), tempfile::tempdir().unwrap());
    let (plugin, settings) = (Plugin::new("k1"), settings(dir.path(), LONG));
    plugin.serve(&tasks, &settings);
    let one = start(&settings, &tasks);
    assert_eq!(one.checked().await, Ok(()));
    let sealed = one.seal(b"text".to_vec(), PATH).unwrap();
    assert!(sealed.starts_with(b"k8s:enc:kms:v2:one:") && one.reads(&sealed) && one.wrote(&sealed));
    assert!(!sealed.windows(4).any(|part| part == b"text"));
    assert_ne!(sealed, one.seal(b"text".to_vec(), PATH).unwrap());
    assert_eq!(one.open(&sealed, PATH).unwrap(), b"text");
    assert_eq!(plugin.counted(), (1, 0), "what it wrote itself it reads without the plugin");
    // Another server has to ask, once.
    let two = start(&settings, &tasks);
    for _ in 0..3 {
        assert_eq!(two.open(&sealed, PATH).unwrap(), b"text");
    }
    assert_eq!(plugin.counted().1, 1);
    assert!(two.open(&sealed, b"/registry/secrets/b/s").is_err(), "bound to its place");
    // What the plugin refuses is told as it said it.
    let mut stored = EncryptedObject::decode(&sealed[two.prefix.len()..]).unwrap();
    stored.key_id = "k9".to_owned();
    let stranger = [two.prefix.as_bytes(), &stored.encode_to_vec()].concat();
    let refused = two.open(&stranger, PATH).unwrap_err();
    assert_eq!(
        (refused.to_string().as_str(), refused.word()),
        (
            "failed to decrypt DEK, error: rpc error: code = InvalidArgument desc = another key's",
            "InvalidArgument"
        )
    );
    for damaged in [&sealed[..two.prefix.len()], &sealed[..two.prefix.len() + 40], b"k8s:enc:kms:v2:one:junk"]
    {
        assert!(two.open(damaged, PATH).is_err());
    }
    tasks.cancel();
    let told = String::from_utf8(shown().unwrap()).unwrap();
    let count = |line: &str| told.lines().any(|one| one.starts_with(line));
    for line in [
        "apiserver_envelope_encryption_kms_operations_latency_seconds_count{grpc_status_code=\"InvalidArgument\",\
         method_name=\"/v2.KeyManagementService/Decrypt\",provider_name=\"one\"}",
        "apiserver_envelope_encryption_dek_source_cache_size{provider_name=\"one\"}",
    ] {
        assert!(count(line), "{line}");
    }
}

#[tokio::test]
async fn another_key_makes_another_seed_and_old_values_stale() {
    let (tasks, dir) = (Tasks::new(), tempfile::tempdir().unwrap());
    let (plugin, settings) = (Plugin::new("k1"), settings(dir.path(), LONG));
    plugin.serve(&tasks, &settings);
    let shared = Arc::new(Shared::new("one", "server".into()));
    let mut probe = probe(&settings, &shared);
    let key = || shared.current.load_full().map(|current| current.sealed.clone());
    probe.check().await.unwrap();
    let first = key().unwrap();
    probe.check().await.unwrap();
    assert_eq!(key().unwrap(), first, "the seed stays as long as the key does");
    plugin.turns("k2", "ok");
    probe.check().await.unwrap();
    let second = key().unwrap();
    assert_eq!((first.key_id.as_str(), second.key_id.as_str()), ("k1", "k2"));
    // Even one that is not well says which key is the current one.
    plugin.turns("k3", "tired");
    let why = probe.check().await.unwrap_err();
    assert_eq!(why, "kmsv2 Provider one is not healthy, error: got unexpected healthz status: tired");
    assert_eq!(key().unwrap().key_id, "k3");
    plugin.turns("", "ok");
    assert!(probe.check().await.unwrap_err().ends_with("got invalid KMSv2 KeyID: keyID is empty"));
    // In the middle of a change nothing is taken over.
    plugin.turns("k4", "ok");
    plugin.0.lock().other_key = Some("k5".to_owned());
    assert!(probe.check().await.unwrap_err().contains("failed to rotate DEK: statusKeyIDHash"));
    assert_eq!(key().unwrap().key_id, "k3");
    plugin.0.lock().other_key = None;
    "v2beta1".clone_into(&mut plugin.0.lock().version);
    assert!(probe.check().await.unwrap_err().contains("should not change after the initial status response"));
    "v9".clone_into(&mut plugin.0.lock().version);
    assert!(probe.check().await.unwrap_err().contains("expected KMSv2 API version v2, got v9"));
    tasks.cancel();
}

#[tokio::test]
async fn nothing_is_written_once_the_key_may_be_another_one() {
    let (tasks, dir) = (Tasks::new(), tempfile::tempdir().unwrap());
    let (plugin, settings) = (Plugin::new("k1"), settings(dir.path(), LONG));
    let shared = Arc::new(Shared::new("one", "server".into()));
    let refused = shared.current_at(Instant::now()).err().unwrap();
    assert_eq!(refused.to_string(), "KMS provider one gave no key yet");
    plugin.serve(&tasks, &settings);
    let mut probe = probe(&settings, &shared);
    probe.check().await.unwrap();
    let (now, minute) = (Instant::now(), Duration::from_secs(60));
    assert!(shared.current_at(now + 2 * minute).is_ok());
    let refused = shared.current_at(now + 4 * minute).err().unwrap();
    assert!(refused.to_string().starts_with("encryptedDEKSource with keyID hash \"sha256:"), "{refused}");
    tasks.cancel();
}

#[tokio::test]
async fn a_plugin_may_come_later_but_not_too_late() {
    let (tasks, dir) = (Tasks::new(), tempfile::tempdir().unwrap());
    let (plugin, settings) = (Plugin::new("k1"), settings(dir.path(), LONG));
    let hurried = Service::new(&Settings { timeout: Duration::from_millis(1), ..settings.clone() });
    let error = hurried.status().await.unwrap_err();
    assert_eq!(error.word(), "DeadlineExceeded");
    assert!(error.to_string().contains("context deadline exceeded"), "{error}");
    // A call that finds no socket goes on to look for it.
    let service = Service::new(&settings);
    let late = async {
        tokio::task::yield_now().await;
        plugin.serve(&tasks, &settings);
    };
    let (status, ()) = tokio::join!(service.status(), late);
    assert_eq!(status.unwrap().key_id, "k1");
    tasks.cancel();
}

/// What etcd has of the one pod.
async fn stored(etcd: &EtcdServer) -> Vec<u8> {
    let mut client = etcd_client::Client::connect([etcd.url()], None).await.unwrap();
    let found = client.get("/registry/pods/ns/a", None).await.unwrap();
    found.kvs()[0].value().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_holds_nothing_plain_and_every_server_with_the_plugin_reads_it() {
    let (tasks, dir) = (Tasks::new(), tempfile::tempdir().unwrap());
    let (plugin, settings) = (Plugin::new("k1"), settings(dir.path(), LONG));
    plugin.serve(&tasks, &settings);
    let (etcd, catalog) = (EtcdServer::start(), catalog::builtin());
    let text = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["pods"], "providers": [{"kms": {"apiVersion": "v2", "name": "one",
            "endpoint": format!("unix://{}", settings.socket.display()), "timeout": "60s"}}]}]});
    let start = async || {
        let inner = Arc::new(StoredForms::new(catalog.clone(), false));
        let server = ("server", &tasks);
        let encryption = Encryption::new(&text.to_string(), "/registry", &catalog, inner, server).unwrap();
        encryption.check().await.unwrap();
        assert!(encryption.has_plugins());
        let config = StoreConfig::new(vec![etcd.url()], vec![pods()]);
        Running::start(StoreConfig { transformer: Arc::new(encryption), ..config }).await
    };
    let pod = |label: &str| {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": "n1"},
            "metadata": {"name": "a", "namespace": "ns", "labels": {"app": label}}});
        pod.to_string().into_bytes()
    };
    let (id, one) = (ResourceId::new("", "pods"), start().await);
    one.store.create(&id, "ns", "a", pod("x"), None).await.unwrap();
    let value = stored(&etcd).await;
    assert!(value.starts_with(b"k8s:enc:kms:v2:one:"));
    assert!(!value.windows(8).any(|part| part == b"nodeName"));
    assert!(!one.store.is_stale(&id, "ns", "a").await.unwrap());
    // A server that comes when the plugin has another key reads the old one's, and writes with the new one.
    plugin.turns("k2", "ok");
    let two = start().await;
    let read = two.store.get(&id, "ns", "a").await.unwrap().unwrap();
    assert_eq!(read.label("app"), Some("x"));
    assert!(two.store.is_stale(&id, "ns", "a").await.unwrap());
    two.store.update(&id, "ns", "a", read.rev(), pod("y"), None).await.unwrap();
    assert!(stored(&etcd).await.windows(2).any(|part| part == b"k2"));
    assert!(!two.store.is_stale(&id, "ns", "a").await.unwrap());
    // The first one, which does not know of that key yet, reads it as well.
    let read = one.store.get(&id, "ns", "a").await.unwrap().unwrap();
    assert_eq!(read.label("app"), Some("y"));
    tasks.cancel();
}
