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
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use tests::{
    ControlPlane,
    control_plane::Options,
    pki::{Authority, Identity, NOW},
    runner::Test,
};

pub(crate) const TESTS: &[Test<()>] = &[
    ("flags of the front hold for whoever comes, and the server tells which it has", front),
    ("floods of HTTP/2 frames end at who sends them", floods),
];

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
    let (mut connection, mut stream) = connect(plane, "localhost", (&Arc::default(), None), &[b"h2"])?;
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
    let (mut connection, mut stream) = connect(plane, "localhost", (&Arc::default(), None), &[b"h2"])?;
    connection.writer().write_all(&[PREFACE, NO_SETTINGS].concat())?;
    while connection.wants_write() {
        connection.write_tls(&mut stream)?;
    }
    Ok((connection, stream))
}

/// A connection over TLS to a name, whose certificate is remembered, of somebody or nobody.
fn connect(
    plane: &ControlPlane,
    name: &str,
    (seen, who): (&Arc<Seen>, Option<&Identity>),
    protocols: &[&[u8]],
) -> Result<(ClientConnection, TcpStream)> {
    let config = ClientConfig::builder().dangerous().with_custom_certificate_verifier(seen.clone());
    let mut config = match who {
        None => config.with_no_client_auth(),
        Some(who) => config.with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(who.cert.as_bytes())?],
            PrivateKeyDer::from_pem_slice(who.key.as_bytes())?,
        )?,
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let mut connection = ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_owned())?)?;
    let mut stream = TcpStream::connect(plane.address())?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok((connection, stream))
}

/// What a client sends over and over, by its number.
type Flood = fn(u32) -> Vec<u8>;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// GET of all namespaces.
fn request(stream: u32, flags: u8) -> Vec<u8> {
    const PATH: &[u8] = b"/api/v1/namespaces";
    let block = [&[0x82, 0x87, 0x04, PATH.len().to_le_bytes()[0]][..], PATH, &[0x01, 1, b'x']].concat();
    frame(1, flags, stream, &block)
}

/// Somebody who may ask sends one kind of frame after the other (CVE-2019-9512 to 9518, 2023-44487, 2024-27316): they end
/// when the server has had enough or they cannot send any more, and nobody else notices.
fn floods(_: &(), _: &str) -> Result<()> {
    const FLOODS: [(&str, u32, Flood); 7] = [
        ("streams that are taken back", 20_000, |n| {
            [request(2 * n + 1, 0x5), frame(3, 0, 2 * n + 1, &[0, 0, 0, 8])].concat()
        }),
        ("pings", 50_000, |n| frame(6, 0, 0, &u64::from(n).to_be_bytes())),
        ("settings", 50_000, |_| frame(4, 0, 0, &[0, 4, 0, 0, 0, 0])),
        ("headers without an end", 5_000, |n| match n {
            0 => request(1, 0x1),
            _ => frame(9, 0, 1, &[0x40, 1, b'a', 1, b'b'].repeat(3_000)),
        }),
        ("empty pieces of a body", 50_000, |n| match n {
            0 => request(1, 0x4),
            _ => frame(0, 0, 1, &[]),
        }),
        ("answers that nobody reads", 20_000, |n| match n {
            0 => frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]),
            _ => request(2 * n - 1, 0x5),
        }),
        ("priorities", 50_000, |n| frame(2, 0, 2 * n + 1, &[0, 0, 0, 0, 1])),
    ];
    let plane = ControlPlane::start(Options::default())?;
    let admin = plane.admin()?;
    let who = plane.ca.client("flooder", "system:masters", NOW)?;
    let pid = plane.api_pid().context("the server has no process")?;
    let memory = || -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse()?)
    };
    let before = memory()?;
    let mut open = Vec::new();
    for (what, times, flood) in FLOODS {
        let (mut connection, mut stream) =
            connect(&plane, "localhost", (&Arc::default(), Some(&who)), &[b"h2"])?;
        stream.set_write_timeout(Some(Duration::from_secs(2)))?;
        stream.set_read_timeout(Some(Duration::from_millis(1)))?;
        let mut tls = rustls::Stream::new(&mut connection, &mut stream);
        tls.write_all(&[PREFACE, NO_SETTINGS].concat())?;
        for n in 0..times {
            // Whoever is cut off, or not listened to, has said enough.
            if tls.write_all(&flood(n)).is_err() {
                break;
            }
        }
        admin.get("/api/v1/namespaces/default")?.ok().with_context(|| format!("beside {what}"))?;
        open.push((connection, stream));
    }
    let grown = memory()?.saturating_sub(before);
    ensure!(grown < 256 * 1024, "{grown} KB more are in use");
    ensure!(plane.is_running()? && !plane.api_log()?.contains("panicked"), "{}", plane.logs());
    Ok(())
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
        connect(plane, name, (&seen, None), &[])?;
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
