//! A KMS plugin on a socket: `v2.KeyManagementService` as a key management service's own would be.
//!
//! Its ciphertext is the text with its bytes changed behind the key's name: nothing secret, but nothing the API server
//! could have written without it.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Result;
use proto::kms::v2::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
    key_management_service_server::{KeyManagementService, KeyManagementServiceServer},
};
use tonic::{Request, Response, Status, transport::Server};

use crate::served::Served;

/// A note the plugin wants back when it decrypts.
const NOTE: &str = "note.keelson.example";

/// A running plugin; gone, and its socket with it, when dropped.
#[derive(Debug)]
pub struct Plugin {
    state: State,
    _served: Served,
}

type State = Arc<Mutex<Behaviour>>;

/// What a plugin says, and was asked.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    /// The name of the key that encrypts.
    pub key: String,
    /// `ok`, or what is wrong.
    pub healthz: String,
    /// Seeds it encrypted.
    pub encrypted: usize,
    /// Seeds it decrypted.
    pub decrypted: usize,
}

#[derive(Clone)]
struct Service(State);

impl Plugin {
    /// Begins to answer on a socket, all being well.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(socket: &Path, key: &str) -> Result<Self> {
        let behaviour = Behaviour { key: key.to_owned(), healthz: "ok".to_owned(), ..Behaviour::default() };
        let state = State::new(behaviour.into());
        let server = Server::builder().add_service(KeyManagementServiceServer::new(Service(state.clone())));
        Ok(Self { state, _served: Served::start(socket, server)? })
    }

    /// What it says from now on, and was asked until now.
    pub fn behaviour(&self) -> MutexGuard<'_, Behaviour> {
        locked(&self.state)
    }
}

fn locked(state: &State) -> MutexGuard<'_, Behaviour> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same twice is the text again.
fn changed(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.iter().map(|byte| byte ^ 0x5a)
}

#[tonic::async_trait]
impl KeyManagementService for Service {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let Behaviour { key, healthz, .. } = locked(&self.0).clone();
        Ok(Response::new(StatusResponse { version: "v2".to_owned(), healthz, key_id: key }))
    }

    async fn encrypt(&self, question: Request<EncryptRequest>) -> Result<Response<EncryptResponse>, Status> {
        let mut behaviour = locked(&self.0);
        behaviour.encrypted += 1;
        let key_id = behaviour.key.clone();
        let text = changed(&question.get_ref().plaintext);
        let ciphertext = key_id.bytes().chain(*b"/").chain(text).collect();
        let annotations = BTreeMap::from([(NOTE.to_owned(), b"n".to_vec())]);
        Ok(Response::new(EncryptResponse { ciphertext, key_id, annotations }))
    }

    async fn decrypt(&self, question: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        locked(&self.0).decrypted += 1;
        let DecryptRequest { ciphertext, key_id, annotations, .. } = question.into_inner();
        let text = ciphertext.strip_prefix(format!("{key_id}/").as_bytes());
        match text.filter(|_| annotations.get(NOTE).is_some_and(|note| note == b"n")) {
            Some(text) => Ok(Response::new(DecryptResponse { plaintext: changed(text).collect() })),
            None => Err(Status::invalid_argument("another key's, or the note is missing")),
        }
    }
}
