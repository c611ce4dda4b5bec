//! TLS for daemons: the one crypto provider, certificates from files with reload, and client certificates that are asked
//! for but judged by the authenticator, so that a bad one gives 401 and not a handshake failure (as upstream's servers do).

pub mod named;
pub mod trust;

use std::{path::Path, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs},
    server::{
        ClientHello, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime, pem::PemObject,
};
use x509_parser::prelude::{SubjectPublicKeyInfo, X509Version};

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read certificate or key {path:?}")]
    Pem { path: PathBuf, source: rustls_pki_types::pem::Error },
    #[error("no certificate in {0:?}")]
    NoCertificate(PathBuf),
    #[error("certificate {path:?} and its key do not work together")]
    KeyPair { path: PathBuf, source: rustls::Error },
    #[error("TLS settings are not usable")]
    Settings(#[source] rustls::Error),
    #[error("unknown tls version {0:?}")]
    Version(String),
    #[error("Cipher suite {0} not supported or doesn't exist")]
    CipherSuite(String),
    #[error("Curve preference {0} not supported or doesn't exist")]
    Curve(String),
    #[error("cannot make a self-signed certificate in {path:?}")]
    SelfSigned { path: PathBuf, source: std::io::Error },
    #[error("cannot make a self-signed certificate")]
    Generate(#[from] rcgen::Error),
}

/// Makes aws-lc-rs the process's provider; harmless when repeated.
pub fn install_provider() {
    // The error means that another call was first, with the same provider: no other one is linked.
    let _first_wins = aws_lc_rs::default_provider().install_default();
}

/// All certificates of a PEM file.
///
/// # Errors
/// When the file is unreadable or holds none.
pub fn load_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::Pem { path: path.to_owned(), source };
    let certificates = CertificateDer::pem_file_iter(path)
        .map_err(failed)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate(path.to_owned()));
    }
    Ok(certificates)
}

/// The private key of a PEM file.
///
/// # Errors
/// When the file is unreadable or holds no key.
pub fn load_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| TlsError::Pem { path: path.to_owned(), source })
}

/// Trust anchors from a PEM file.
///
/// # Errors
/// When the file is unreadable or a certificate cannot be an anchor.
pub fn load_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in load_certificates(path)? {
        roots.add(certificate).map_err(|source| TlsError::KeyPair { path: path.to_owned(), source })?;
    }
    Ok(roots)
}

/// A certificate chain with its key, ready to serve or to present.
///
/// # Errors
/// When either file is unusable or they do not belong together.
pub fn load_pair(certificate: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let chain = load_certificates(certificate)?;
    CertifiedKey::from_der(chain, load_key(key)?, &aws_lc_rs::default_provider())
        .map_err(|source| TlsError::KeyPair { path: certificate.to_owned(), source })
}

/// A serving certificate that can be replaced while connections are accepted.
#[derive(Debug)]
pub struct ServingCertificate {
    current: ArcSwap<CertifiedKey>,
}

impl ServingCertificate {
    /// Serves `pair` until replaced.
    pub fn new(pair: CertifiedKey) -> ServingCertificate {
        ServingCertificate { current: ArcSwap::from_pointee(pair) }
    }

    /// New connections get this certificate.
    pub fn replace(&self, pair: CertifiedKey) {
        self.current.store(Arc::new(pair));
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

/// A client certificate that can be replaced while connections are made (the kubelet's rotation).
#[derive(Debug)]
pub struct ClientCertificate {
    current: ArcSwap<CertifiedKey>,
}

impl ClientCertificate {
    /// Presents `pair` until replaced.
    pub fn new(pair: CertifiedKey) -> ClientCertificate {
        ClientCertificate { current: ArcSwap::from_pointee(pair) }
    }

    /// New connections present this certificate.
    pub fn replace(&self, pair: CertifiedKey) {
        self.current.store(Arc::new(pair));
    }
}

impl rustls::client::ResolvesClientCert for ClientCertificate {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Takes any server for what it says it is: kubelets without a known CA, pods and services behind a proxy, and probed
/// containers, as upstream does. Signatures are checked all the same.
#[derive(Debug)]
pub struct AnyServerCertificate {
    provider: Arc<CryptoProvider>,
}

impl Default for AnyServerCertificate {
    fn default() -> AnyServerCertificate {
        AnyServerCertificate { provider: Arc::new(aws_lc_rs::default_provider()) }
    }
}

impl ServerCertVerifier for AnyServerCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Asks clients for a certificate, checks that they hold its key, and leaves trust to [`verify_client`].
#[derive(Debug)]
pub struct AnyClientCertificate {
    provider: Arc<CryptoProvider>,
}

impl Default for AnyClientCertificate {
    fn default() -> AnyClientCertificate {
        AnyClientCertificate { provider: Arc::new(aws_lc_rs::default_provider()) }
    }
}

impl ClientCertVerifier for AnyClientCertificate {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, algorithms)
            .or_else(|error| old_certificate(error, cert, |key| with_key(message, key, signed, algorithms)))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, algorithms).or_else(|error| {
            old_certificate(error, cert, |key| {
                let key = SubjectPublicKeyInfoDer::from(key.raw);
                rustls::crypto::verify_tls13_signature_with_raw_key(message, &key, signed, algorithms)
            })
        })
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// webpki reads no certificates older than X.509 version 3. Their holders still have a key to prove, so that they get 401
/// and not a handshake failure. Other errors stay.
fn old_certificate(
    error: rustls::Error,
    certificate: &CertificateDer<'_>,
    verify: impl FnOnce(&SubjectPublicKeyInfo<'_>) -> Result<HandshakeSignatureValid, rustls::Error>,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    match x509_parser::parse_x509_certificate(certificate) {
        Ok((_, parsed)) if parsed.version != X509Version::V3 => verify(&parsed.tbs_certificate.subject_pki),
        _ => Err(error),
    }
}

/// A TLS 1.2 signature by a bare key.
fn with_key(
    message: &[u8],
    key: &SubjectPublicKeyInfo<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let of_scheme = algorithms.mapping.iter().filter(|(scheme, _)| *scheme == signed.scheme);
    let mut candidates = of_scheme.flat_map(|(_, list)| list.iter());
    let holds = candidates.any(|candidate| {
        candidate.verify_signature(&key.subject_public_key.data, message, signed.signature()).is_ok()
    });
    if holds {
        Ok(HandshakeSignatureValid::assertion())
    } else {
        Err(rustls::Error::InvalidCertificate(rustls::CertificateError::BadSignature))
    }
}

/// Checks a presented client chain (leaf first) against trust anchors, at `now`.
///
/// # Errors
/// When the chain is empty, untrusted, expired or not for client authentication.
pub fn verify_client(
    roots: Arc<RootCertStore>,
    chain: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let (leaf, intermediates) = chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    verifier.verify_client_cert(leaf, intermediates, now).map(|_verified| ())
}

/// What the secure serving flags say about the protocol.
#[derive(Clone, Debug, Default)]
pub struct Protocol {
    /// `VersionTLS12` or `VersionTLS13`; empty for the former.
    pub min_version: String,
    /// Go's names of the TLS 1.2 cipher suites to offer; empty for the provider's choice.
    pub cipher_suites: Vec<String>,
    /// Numbers of the key exchanges to take (IANA's TLS supported groups); empty for the provider's choice.
    pub curves: Vec<String>,
    /// Offer HTTP/1.1 only.
    pub disable_http2: bool,
}

/// A server configuration that serves `certificate` and accepts (not trusts) client certificates.
///
/// # Errors
/// When the protocol settings name unknown versions or suites.
pub fn server_config(
    certificate: Arc<dyn ResolvesServerCert>,
    protocol: &Protocol,
) -> Result<ServerConfig, TlsError> {
    static TLS12_UP: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];
    static TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
    let versions = match protocol.min_version.as_str() {
        "" | "VersionTLS10" | "VersionTLS11" | "VersionTLS12" => TLS12_UP,
        "VersionTLS13" => TLS13,
        other => return Err(TlsError::Version(other.to_owned())),
    };
    let mut provider = provider_with(&protocol.cipher_suites)?;
    restrict_curves(&mut provider, &protocol.curves)?;
    let provider = Arc::new(provider);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(TlsError::Settings)?
        .with_client_cert_verifier(Arc::new(AnyClientCertificate::default()))
        .with_cert_resolver(certificate);
    config.alpn_protocols = if protocol.disable_http2 {
        vec![b"http/1.1".to_vec()]
    } else {
        vec![b"h2".to_vec(), b"http/1.1".to_vec()]
    };
    Ok(config)
}

/// The provider restricted to the named TLS 1.2 suites (TLS 1.3 suites cannot be chosen, as in Go).
fn provider_with(names: &[String]) -> Result<CryptoProvider, TlsError> {
    let mut provider = aws_lc_rs::default_provider();
    if names.is_empty() {
        return Ok(provider);
    }
    let go_name = |suite: &rustls::SupportedCipherSuite| {
        // rustls prints TLS13_AES.. for TLS 1.3; Go says TLS_AES..; both agree on TLS 1.2 names.
        format!("{:?}", suite.suite()).replacen("TLS13_", "TLS_", 1)
    };
    // Go calls the two ChaCha suites of TLS 1.2 also by names without the hash.
    let same = |name: &str, suite: &str| name == suite || format!("{name}_SHA256") == suite;
    for name in names {
        if !provider.cipher_suites.iter().any(|suite| same(name, &go_name(suite))) {
            return Err(TlsError::CipherSuite(name.clone()));
        }
    }
    provider
        .cipher_suites
        .retain(|suite| suite.tls13().is_some() || names.iter().any(|name| same(name, &go_name(suite))));
    Ok(provider)
}

/// Leaves the key exchanges of these numbers, in the provider's order: that is the server's choice, as in Go.
fn restrict_curves(provider: &mut CryptoProvider, numbers: &[String]) -> Result<(), TlsError> {
    if numbers.is_empty() {
        return Ok(());
    }
    let mut wanted = Vec::new();
    for number in numbers {
        let known = number.trim().parse::<u16>().ok().map(rustls::NamedGroup::from);
        let group = known.filter(|group| provider.kx_groups.iter().any(|kx| kx.name() == *group));
        wanted.push(group.ok_or_else(|| TlsError::Curve(number.clone()))?);
    }
    provider.kx_groups.retain(|kx| wanted.contains(&kx.name()));
    Ok(())
}

/// The pair `<cert_dir>/<name>.crt` and `.key`, made (self-signed, for one year) if missing. An empty directory name keeps
/// the pair in memory only.
///
/// # Errors
/// When the directory cannot be written or the pair there is unusable.
pub fn self_signed(cert_dir: &Path, name: &str, hosts: &[String]) -> Result<CertifiedKey, TlsError> {
    let (certificate, key) = (cert_dir.join(format!("{name}.crt")), cert_dir.join(format!("{name}.key")));
    let on_disk = !cert_dir.as_os_str().is_empty();
    if on_disk && certificate.exists() && key.exists() {
        return load_pair(&certificate, &key);
    }
    let generated = rcgen::generate_simple_self_signed(hosts)?;
    if on_disk {
        let failed = |source| TlsError::SelfSigned { path: cert_dir.to_owned(), source };
        std::fs::create_dir_all(cert_dir).map_err(failed)?;
        write_private(&key, &generated.signing_key.serialize_pem()).map_err(failed)?;
        std::fs::write(&certificate, generated.cert.pem()).map_err(failed)?;
        return load_pair(&certificate, &key);
    }
    let key_der = PrivateKeyDer::Pkcs8(generated.signing_key.serialize_der().into());
    CertifiedKey::from_der(vec![generated.cert.der().clone()], key_der, &aws_lc_rs::default_provider())
        .map_err(TlsError::Settings)
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}
