//! The plugin as it is called: `v2.KeyManagementService` over a socket of this machine, each call within a time.
//!
//! Contract: `k8s.io/kms` v2; gRPC with `wait for ready`: a plugin that is not there yet has until the end of that time.

use std::{
    error::Error,
    path::PathBuf,
    time::{Duration, Instant},
};

use component_base::{grpc::code_name, workqueue::chain};
use hyper_util::rt::TokioIo;
use proto::kms::v2::{
    DecryptRequest, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
    key_management_service_client::KeyManagementServiceClient,
};
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};

use super::{Settings, sealed::Sealed};
use crate::encryption::metrics;

/// How long it takes until a plugin that was not there is looked for again.
const RETRY: Duration = Duration::from_millis(100);

type Client = KeyManagementServiceClient<Channel>;

/// Why a call gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rpc error: code = {} desc = {text}", code_name(*.code))]
pub(crate) struct CallError {
    code: Code,
    text: String,
}

impl CallError {
    /// gRPC's word for it.
    pub(crate) fn word(&self) -> &'static str {
        code_name(self.code)
    }
}

/// A plugin. The connection is made at the first call and remade when the plugin restarts.
pub(super) struct Service {
    client: Client,
    /// The plugin's name.
    name: String,
    /// Of one call.
    timeout: Duration,
}

impl Service {
    pub(super) fn new(settings: &Settings) -> Self {
        let socket = settings.socket.clone();
        let connector = tower::service_fn(move |_: http::Uri| connect(socket.clone()));
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        Self { client: Client::new(channel), name: settings.name.clone(), timeout: settings.timeout }
    }

    /// How it is, and which key encrypts now.
    pub(super) async fn status(&self) -> Result<StatusResponse, CallError> {
        let ask = |mut client: Client| async move { client.status(StatusRequest {}).await };
        self.call("Status", ask).await
    }

    /// Has a seed encrypted.
    pub(super) async fn encrypt(&self, plaintext: &[u8]) -> Result<EncryptResponse, CallError> {
        let question = EncryptRequest { plaintext: plaintext.to_vec(), uid: uid() };
        let ask = move |mut client: Client| {
            let question = question.clone();
            async move { client.encrypt(question).await }
        };
        self.call("Encrypt", ask).await
    }

    /// Has a seed decrypted.
    pub(super) async fn decrypt(&self, sealed: &Sealed) -> Result<Vec<u8>, CallError> {
        let Sealed { seed, key_id, annotations, .. } = sealed.clone();
        let question = DecryptRequest { ciphertext: seed, uid: uid(), key_id, annotations };
        let ask = move |mut client: Client| {
            let question = question.clone();
            async move { client.decrypt(question).await }
        };
        self.call("Decrypt", ask).await.map(|answer| answer.plaintext)
    }

    async fn call<A, F>(&self, method: &str, ask: impl Fn(Client) -> F + Send) -> Result<A, CallError>
    where
        F: Future<Output = Result<Response<A>, Status>> + Send,
    {
        let begun = Instant::now();
        let outcome = self.answered(ask).await;
        let code = outcome.as_ref().err().map_or("OK", CallError::word);
        let method = format!("/v2.KeyManagementService/{method}");
        metrics::called(&self.name, &method, code, begun.elapsed());
        outcome
    }

    async fn answered<A, F>(&self, ask: impl Fn(Client) -> F + Send) -> Result<A, CallError>
    where
        F: Future<Output = Result<Response<A>, Status>> + Send,
    {
        let mut absent = String::new();
        let attempts = async {
            loop {
                match ask(self.client.clone()).await {
                    Ok(answer) => return Ok(answer.into_inner()),
                    // With a cause, it is the connection that failed and not the plugin that said so.
                    Err(status) if status.source().is_some() => absent = format!(": {}", chain(&status)),
                    Err(status) => {
                        return Err(CallError { code: status.code(), text: status.message().to_owned() });
                    }
                }
                tokio::time::sleep(RETRY).await;
            }
        };
        let outcome = tokio::time::timeout(self.timeout, attempts).await;
        outcome.unwrap_or_else(|_| {
            let text = format!("context deadline exceeded{absent}");
            Err(CallError { code: Code::DeadlineExceeded, text })
        })
    }
}

async fn connect(socket: PathBuf) -> std::io::Result<TokioIo<tokio::net::UnixStream>> {
    tokio::net::UnixStream::connect(socket).await.map(TokioIo::new)
}

fn uid() -> String {
    uuid::Uuid::new_v4().to_string()
}
