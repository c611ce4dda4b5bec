//! What the server's flags change at its front: who may read answers, which certificate is shown, what it tells of itself.

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use http::Method;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tests::{ControlPlane, control_plane::Options, pki::Authority, runner::Test};

pub(crate) const TESTS: &[Test<()>] =
    &[("flags of the front hold for whoever comes, and the server tells which it has", front)];

fn front(_: &(), _: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let at = |file: &str| dir.path().join(file).display().to_string();
    let other = Authority::new("other-ca")?;
    let named = other.server()?;
    std::fs::write(at("named.crt"), &named.cert)?;
    std::fs::write(at("named.key"), &named.key)?;
    let flags = [
        "--cors-allowed-origins=^https://console\\.test$".to_owned(),
        "--strict-transport-security-directives=max-age=31536000,includeSubDomains".to_owned(),
        format!("--tls-sni-cert-key={},{}:*.named.test", at("named.crt"), at("named.key")),
        "--disabled-metrics=apiserver_current_inflight_requests".to_owned(),
        format!("--debug-socket-path={}", at("debug.sock")),
        "--shutdown-send-retry-after".to_owned(),
        "--shutdown-watch-termination-grace-period=1s".to_owned(),
    ];
    let plane = ControlPlane::start(Options { flags: flags.to_vec(), ..Options::default() })?;
    origins(&plane)?;
    certificates(&plane)?;
    strangers(&plane)?;
    pages(&plane)?;
    let mut stream = UnixStream::connect(at("debug.sock"))?;
    stream.write_all(b"GET /debug/pprof/cmdline HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.contains("--shutdown-send-retry-after"), "{answer}");
    let mut watch = plane.admin()?.watch("/api/v1/namespaces?watch=true")?;
    watch.expect("ADDED")?;
    let _silent = silent(&plane)?;
    let running = &plane;
    let ended = thread::scope(move |scope| {
        let ending = scope.spawn(|| running.terminate_api());
        while watch.more()?.is_some() {}
        // Watches end before connections do: a client that reads no more would not hear of that.
        drop(watch);
        ending.join().map_err(|_| anyhow!("the wait panicked"))?
    })?;
    let logs = plane.logs();
    ensure!(ended.success() && !logs.contains("were aborted"), "{ended}: {logs}");
    Ok(())
}

/// How a client of HTTP/2 begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const NO_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// Who does not say who it is gets an answer, and then keeps no connection of HTTP/2.
fn strangers(plane: &ControlPlane) -> Result<()> {
    const HEADERS: u8 = 1;
    const GOAWAY: u8 = 7;
    // All headers of stream 1, which ends with them: GET, https, a path and whose, in HPACK's words (RFC 7541).
    const PATH: &[u8] = b"/api/v1/pods";
    let block = [&[0x82, 0x87, 0x04, u8::try_from(PATH.len())?][..], PATH, &[0x01, 1, b'x']].concat();
    let head = [0, 0, u8::try_from(block.len())?, HEADERS, 0x5, 0, 0, 0, 1];
    let (mut connection, mut stream) = connect(plane, "localhost", &Arc::default(), &[b"h2"])?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut tls = rustls::Stream::new(&mut connection, &mut stream);
    tls.write_all(&[PREFACE, NO_SETTINGS, &head, &block].concat())?;
    let mut kinds = Vec::new();
    // The end is announced at once, so it may come before the answer.
    while ![HEADERS, GOAWAY].iter().all(|kind| kinds.contains(kind)) {
        let mut head = [0; 9];
        tls.read_exact(&mut head).with_context(|| format!("after frames of the types {kinds:?}"))?;
        kinds.push(head[3]);
        let length = u64::from(u32::from_be_bytes([0, head[0], head[1], head[2]]));
        std::io::copy(&mut Read::take(&mut tls, length), &mut std::io::sink())?;
    }
    Ok(())
}

/// A client of HTTP/2 that reads nothing: it does not hear that the server ends, which ends all the same.
fn silent(plane: &ControlPlane) -> Result<(ClientConnection, TcpStream)> {
    let (mut connection, mut stream) = connect(plane, "localhost", &Arc::default(), &[b"h2"])?;
    connection.writer().write_all(&[PREFACE, NO_SETTINGS].concat())?;
    while connection.wants_write() {
        connection.write_tls(&mut stream)?;
    }
    Ok((connection, stream))
}

/// A connection over TLS to a name, whose certificate is remembered.
fn connect(
    plane: &ControlPlane,
    name: &str,
    seen: &Arc<Seen>,
    protocols: &[&[u8]],
) -> Result<(ClientConnection, TcpStream)> {
    let mut config = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(seen.clone())
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let mut connection = ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_owned())?)?;
    let mut stream = TcpStream::connect(plane.address())?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok((connection, stream))
}

/// Pages of one origin may read answers, and all answers are for TLS only.
fn origins(plane: &ControlPlane) -> Result<()> {
    let nobody = plane.client(None)?;
    for (origin, allowed) in [("https://console.test", true), ("https://console.test.evil", false)] {
        let asking = nobody.with_header("origin", origin)?;
        let answer = asking.send(Method::OPTIONS, "/api/v1/pods", "", "")?;
        ensure!((answer.code == 204) == allowed, "{origin}: {}", answer.code);
        let shown = answer.header("access-control-allow-origin");
        ensure!(shown == if allowed { origin } else { "" }, "{origin}: {shown}");
    }
    let refused = nobody.get("/api/v1/pods")?;
    ensure!(refused.code == 403, "{}", refused.code);
    let transport = refused.header("strict-transport-security");
    ensure!(transport == "max-age=31536000; includeSubDomains", "{transport}");
    Ok(())
}

/// Who asks for a name gets its certificate, everybody else the server's own.
fn certificates(plane: &ControlPlane) -> Result<()> {
    let shown = |name: &str| -> Result<Vec<u8>> {
        let seen = Arc::new(Seen::default());
        connect(plane, name, &seen, &[])?;
        let shown = seen.0.lock().map_err(|_| anyhow!("the verifier broke"))?.clone();
        Ok(shown)
    };
    let (own, named) = (shown("localhost")?, shown("a.named.test")?);
    ensure!(own != named && own == shown("a.b.named.test")?, "the certificate of a name is shown to others");
    Ok(())
}

/// Remembers the certificate it is shown, and takes any.
#[derive(Debug, Default)]
struct Seen(Mutex<Vec<u8>>);

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut seen = self.0.lock().map_err(|_| rustls::Error::General("the verifier broke".to_owned()))?;
        *seen = shown.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::ED25519,
        ]
    }
}

/// What it tells of itself, to those who may ask.
fn pages(plane: &ControlPlane) -> Result<()> {
    let (admin, nobody) = (plane.admin()?, plane.client(None)?);
    for (path, expected) in [
        ("/flagz", "debug-socket-path="),
        ("/statusz", "Binary version: 1.36.0"),
        ("/debug/pprof/", "cmdline"),
    ] {
        let answer = admin.get(path)?;
        ensure!(answer.code == 200 && answer.text().contains(expected), "{path}: {}", answer.text());
        ensure!(nobody.get(path)?.code == 403, "{path} is open");
    }
    ensure!(admin.get("/debug/pprof/heap")?.code == 501, "there is a heap profile");
    let object = admin.with_header("accept", "application/json;g=config.k8s.io;v=v1beta1;as=Flagz")?;
    let flags = object.get("/flagz")?.ok()?;
    ensure!(flags["flags"]["shutdown-send-retry-after"] == "true", "{flags}");
    let metrics = admin.get("/metrics")?.text();
    ensure!(metrics.contains("\napiserver_request_total{"), "requests are not counted");
    ensure!(!metrics.contains("apiserver_current_inflight_requests"), "a disabled metric is shown");
    Ok(())
}
