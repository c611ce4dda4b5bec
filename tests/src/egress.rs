//! Proxies that stand between the API server and its networks: HTTP's CONNECT over TLS or a socket, and konnectivity's
//! stream of packets.
//!
//! A [`Proxy`] knows where names lead that lead nowhere without it, so that a connection that comes through can have
//! taken no other way. Addresses of loopback lead where they say, all others nowhere: those are refused.

use std::{
    collections::HashMap,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result};
use futures::Stream;
use proto::konnectivity::client::{
    CloseResponse, Data, DialResponse, Packet, PacketType,
    packet::Payload,
    proxy_service_server::{ProxyService, ProxyServiceServer},
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional, split},
    net::{TcpListener, TcpStream, UnixListener},
    runtime::{Builder, Runtime},
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::{
    StreamExt,
    wrappers::{ReceiverStream, UnixListenerStream},
};
use tonic::{Request, Response, Status, Streaming, transport::Server};

use crate::pki::Authority;

/// The only connection of a stream has this number.
const ID: i64 = 7;

/// A running proxy; it ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    // Dropping the runtime ends what runs on it.
    _runtime: Runtime,
    state: State,
    /// Host and port of one that listens on TCP.
    pub address: String,
}

type State = Arc<Mutex<Known>>;

/// Where names lead, and what was asked for.
#[derive(Debug, Default)]
struct Known {
    leads: HashMap<String, String>,
    asked: Vec<String>,
}

impl Proxy {
    /// One that is asked with CONNECT inside of TLS by who has a certificate of `ca`.
    ///
    /// # Errors
    /// When no certificate can be made or no port is free.
    pub fn https(ca: &Authority) -> Result<Self> {
        let identity = ca.server()?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.cert.as_bytes())?)?;
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients)
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(identity.cert.as_bytes())?],
                PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?,
            )?;
        let (runtime, state) = parts()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).context("no port is free")?;
        let address = listener.local_addr()?.to_string();
        runtime.spawn(accept_tls(listener, TlsAcceptor::from(Arc::new(tls)), state.clone()));
        Ok(Self { _runtime: runtime, state, address })
    }

    /// One that is asked with CONNECT on a socket.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn socket(path: &Path) -> Result<Self> {
        let (runtime, state) = parts()?;
        let listener = bind(&runtime, path)?;
        runtime.spawn(accept(listener, state.clone()));
        Ok(Self { _runtime: runtime, state, address: String::new() })
    }

    /// konnectivity's server, on a socket.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn konnectivity(path: &Path) -> Result<Self> {
        let (runtime, state) = parts()?;
        let listener = bind(&runtime, path)?;
        let server = Server::builder().add_service(ProxyServiceServer::new(Konnectivity(state.clone())));
        runtime.spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        Ok(Self { _runtime: runtime, state, address: String::new() })
    }

    /// Leads `from` to `to` from now on.
    pub fn lead(&self, from: &str, to: &str) {
        lock(&self.state).leads.insert(from.to_owned(), to.to_owned());
    }

    /// What was asked for so far, oldest first.
    pub fn asked(&self) -> Vec<String> {
        lock(&self.state).asked.clone()
    }
}

fn parts() -> Result<(Runtime, State)> {
    Ok((Builder::new_multi_thread().worker_threads(1).enable_all().build()?, State::default()))
}

fn bind(runtime: &Runtime, path: &Path) -> Result<UnixListener> {
    let _entered = runtime.enter();
    Ok(UnixListener::bind(path)?)
}

fn lock(state: &State) -> MutexGuard<'_, Known> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The connection that is asked for, if the name leads anywhere.
async fn dial(state: &State, address: &str) -> Option<TcpStream> {
    let to = {
        let mut known = lock(state);
        known.asked.push(address.to_owned());
        known.leads.get(address).cloned()
    };
    let is_near = || address.starts_with("127.0.0.1:").then(|| address.to_owned());
    TcpStream::connect(to.or_else(is_near)?).await.ok()
}

#[expect(clippy::disallowed_methods, reason = "the runtime is the proxy's own and ends with it")]
async fn accept(listener: UnixListener, state: State) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(connect(stream, state.clone()));
    }
}

#[expect(clippy::disallowed_methods, reason = "the runtime is the proxy's own and ends with it")]
async fn accept_tls(listener: TcpListener, tls: TlsAcceptor, state: State) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, state) = (tls.clone(), state.clone());
        tokio::spawn(async move {
            if let Ok(stream) = tls.accept(stream).await {
                connect(stream, state).await;
            }
        });
    }
}

/// Serves one CONNECT; whoever goes away is none of the proxy's business.
async fn connect(mut near: impl AsyncRead + AsyncWrite + Unpin, state: State) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match near.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut words = head.split(' ');
    let (Some("CONNECT"), Some(address)) = (words.next(), words.next()) else { return };
    match dial(&state, address).await {
        None => near.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await.ok(),
        Some(mut far) => match near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await {
            Ok(()) => copy_bidirectional(&mut near, &mut far).await.ok().map(|_| ()),
            Err(_) => None,
        },
    };
}

struct Konnectivity(State);

type Packets = Pin<Box<dyn Stream<Item = Result<Packet, Status>> + Send>>;

#[tonic::async_trait]
impl ProxyService for Konnectivity {
    type ProxyStream = Packets;

    #[expect(clippy::disallowed_methods, reason = "the runtime is the proxy's own and ends with it")]
    async fn proxy(&self, packets: Request<Streaming<Packet>>) -> Result<Response<Packets>, Status> {
        let (answers, outgoing) = mpsc::channel(8);
        tokio::spawn(tunnel(packets.into_inner(), answers, self.0.clone()));
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

/// One connection. `None` is its end, which nobody waits for.
async fn tunnel(
    mut packets: Streaming<Packet>,
    answers: mpsc::Sender<Result<Packet, Status>>,
    state: State,
) -> Option<()> {
    let say = async |kind: PacketType, payload: Payload| {
        answers.send(Ok(Packet { r#type: kind.into(), payload: Some(payload) })).await.ok()
    };
    let Payload::DialRequest(asked) = packets.next().await?.ok()?.payload? else { return None };
    let random = asked.random;
    let Some(far) = dial(&state, &asked.address).await else {
        let error = "no way there".to_owned();
        let refusal = DialResponse { error, connect_id: 0, random };
        return say(PacketType::DialRsp, Payload::DialResponse(refusal)).await;
    };
    let agreement = DialResponse { error: String::new(), connect_id: ID, random };
    say(PacketType::DialRsp, Payload::DialResponse(agreement)).await?;
    let (mut reader, mut writer) = split(far);
    let back = async {
        let mut buffer = [0; 1000];
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            let data = Data { connect_id: ID, error: String::new(), data: buffer[..count].to_vec() };
            say(PacketType::Data, Payload::Data(data)).await?;
        }
        Some(())
    };
    let forth = async {
        while let Some(Ok(packet)) = packets.next().await {
            match packet.payload? {
                Payload::Data(data) => writer.write_all(&data.data).await.ok()?,
                Payload::CloseRequest(_) => return Some(()),
                _ => {}
            }
        }
        None
    };
    tokio::select! {
        ended = back => ended?,
        ended = forth => ended?,
    }
    let closed = CloseResponse { error: String::new(), connect_id: ID };
    say(PacketType::CloseRsp, Payload::CloseResponse(closed)).await
}
