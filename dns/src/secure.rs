//! TLS of both sides: what the `tls` directive serves with, taken over anew when its files change, and what
//! `forward` asks with.
//!
//! Contract: RFC 7858 (DNS over TLS).

use std::{path::PathBuf, sync::Arc};

use component_base::tls::{self, AnyClientCertificate, ServingCertificate, TlsError};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme,
    client::{
        VerifierBuilderError, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, aws_lc_rs},
    server::{ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::corefile::{ClientAuth, Identity, Tls};

/// Where systems keep the authorities they trust.
const SYSTEM: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
];
/// The protocol's name in handshakes.
const ALPN: &[u8] = b"dot";

/// A serving certificate and the files it is from.
#[derive(Debug)]
pub struct Served {
    files: (PathBuf, PathBuf),
    /// What the files held when they were read last.
    read: Option<(Vec<u8>, Vec<u8>)>,
    certificate: Arc<ServingCertificate>,
}

impl Served {
    /// Reads the files of a directive; and how to serve with them.
    ///
    /// # Errors
    /// When a file is unusable.
    pub fn load(directive: &Tls) -> Result<(Self, Arc<ServerConfig>), TlsError> {
        let files = (directive.certificate.clone(), directive.key.clone());
        let read = contents(&files);
        let certificate = Arc::new(ServingCertificate::new(tls::load_pair(&files.0, &files.1)?));
        let config = server_config(directive, certificate.clone())?;
        Ok((Self { files, read, certificate }, Arc::new(config)))
    }

    /// Takes files over that have changed. Those that do not work together (yet) are looked at again next time.
    pub fn refresh(&mut self) {
        let now = contents(&self.files);
        if now.is_none() || now == self.read {
            return;
        }
        match tls::load_pair(&self.files.0, &self.files.1) {
            Ok(pair) => {
                self.certificate.replace(pair);
                self.read = now;
                tracing::info!(file = %self.files.0.display(), "the changed certificate is in use");
            }
            Err(error) => tracing::warn!(%error, "the changed certificate is not taken over"),
        }
    }
}

fn contents((certificate, key): &(PathBuf, PathBuf)) -> Option<(Vec<u8>, Vec<u8>)> {
    // A file that is being replaced is not there for a moment.
    Some((std::fs::read(certificate).ok()?, std::fs::read(key).ok()?))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn server_config(
    directive: &Tls,
    certificate: Arc<dyn ResolvesServerCert>,
) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Settings)?;
    let known = |optional: bool| {
        let roots = roots(directive.authorities.as_ref())?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let verifier = if optional { verifier.allow_unauthenticated() } else { verifier };
        verifier.build().map_err(|error| TlsError::Settings(Error::General(error.to_string())))
    };
    let builder = match directive.client_auth {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Request => builder.with_client_cert_verifier(Arc::new(AnyClientCertificate::default())),
        ClientAuth::VerifyIfGiven => builder.with_client_cert_verifier(known(true)?),
        ClientAuth::RequireAndVerify => builder.with_client_cert_verifier(known(false)?),
    };
    let mut config = builder.with_cert_resolver(certificate);
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// How servers are asked over TLS.
///
/// # Errors
/// When a file is unusable.
pub fn client_config(identity: &Identity) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Settings)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier::new(identity)?));
    let mut config = match &identity.pair {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(tls::load_certificates(certificate)?, tls::load_key(key)?)
            .map_err(|source| TlsError::KeyPair { path: certificate.clone(), source })?,
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// Checks the chain. An authority that serves with its own certificate is no chain to the library, but where just that
/// certificate is to be believed there is nothing left to doubt.
#[derive(Debug)]
struct Verifier {
    chain: Arc<WebPkiServerVerifier>,
    pinned: Vec<CertificateDer<'static>>,
}

impl Verifier {
    fn new(identity: &Identity) -> Result<Self, TlsError> {
        let roots = Arc::new(roots(identity.authorities.as_ref())?);
        let chain = WebPkiServerVerifier::builder_with_provider(roots, provider());
        let unusable = |error: VerifierBuilderError| TlsError::Settings(Error::General(error.to_string()));
        let pinned = identity.authorities.as_ref().map(|file| tls::load_certificates(file)).transpose()?;
        Ok(Self { chain: chain.build().map_err(unusable)?, pinned: pinned.unwrap_or_default() })
    }

    /// What is left to check of a certificate that is believed: its time, and the name it bears.
    fn verify_pinned(leaf: &CertificateDer<'_>, name: &ServerName<'_>, now: UnixTime) -> Result<(), Error> {
        let bad = |why| Error::InvalidCertificate(why);
        let (_, parsed) =
            x509_parser::parse_x509_certificate(leaf).map_err(|_| bad(CertificateError::BadEncoding))?;
        let at = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let validity = parsed.validity();
        if at < validity.not_before.timestamp() || at > validity.not_after.timestamp() {
            return Err(bad(CertificateError::Expired));
        }
        verify_server_name(&ParsedCertificate::try_from(leaf)?, name)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.chain.verify_server_cert(leaf, intermediates, name, ocsp, now) {
            Err(_) if self.pinned.contains(leaf) => {
                Self::verify_pinned(leaf, name, now).map(|()| ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Authorities of a file, or those of the system, which may have none.
fn roots(file: Option<&PathBuf>) -> Result<RootCertStore, TlsError> {
    if let Some(file) = file {
        return tls::load_roots(file);
    }
    let mut roots = RootCertStore::empty();
    let found = SYSTEM.iter().map(PathBuf::from).find(|path| path.exists());
    if let Some(found) = found {
        // Systems have some that are no use here.
        let (_added, _left_out) = roots.add_parsable_certificates(tls::load_certificates(&found)?);
    }
    Ok(roots)
}

#[cfg(test)]
pub(crate) mod testing {
    //! Certificates in files.

    use super::*;

    /// A certificate for `dns.example`, its key, and the directive that names them; gone when dropped.
    pub(crate) struct Files {
        folder: PathBuf,
        pub(crate) directive: Tls,
    }

    impl Files {
        pub(crate) fn new(test: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("dns-tls-{test}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
            let directive = Tls { certificate, key, authorities: None, client_auth: ClientAuth::None };
            let files = Self { folder, directive };
            files.make();
            files
        }

        /// A new certificate in place of the old one; as PEM.
        pub(crate) fn make(&self) -> String {
            let made = rcgen::generate_simple_self_signed(["dns.example".to_owned()]).unwrap();
            std::fs::write(&self.directive.certificate, made.cert.pem()).unwrap();
            std::fs::write(&self.directive.key, made.signing_key.serialize_pem()).unwrap();
            made.cert.pem()
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            // What is left lies in the temporary folder.
            drop(std::fs::remove_dir_all(&self.folder));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{testing::Files, *};

    #[test]
    fn a_changed_certificate_is_taken_over_once_it_fits_its_key() {
        let files = Files::new("reload");
        let (mut served, _config) = Served::load(&files.directive).unwrap();
        let first = served.read.clone();
        served.refresh();
        assert_eq!(served.read, first);
        let key = std::fs::read(&files.directive.key).unwrap();
        files.make();
        let new_key = std::fs::read(&files.directive.key).unwrap();
        std::fs::write(&files.directive.key, key).unwrap();
        served.refresh();
        assert_eq!(served.read, first, "a certificate without its key is of no use");
        std::fs::write(&files.directive.key, new_key).unwrap();
        served.refresh();
        assert_eq!(served.read, contents(&served.files));
        std::fs::remove_file(&files.directive.key).unwrap();
        served.refresh();
        assert!(served.read.is_some(), "what was read stays");
    }

    #[test]
    fn an_authority_may_serve_by_itself_under_its_name_and_in_its_time() {
        let folder = std::env::temp_dir().join(format!("dns-tls-authority-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["dns.example".to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let made = params.self_signed(&key).unwrap();
        let file = folder.join("ca.crt");
        std::fs::write(&file, made.pem()).unwrap();
        let verifier = Verifier::new(&Identity { pair: None, authorities: Some(file) }).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let at =
            |year: u64| UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) * 31_557_600 + 86_400));
        let believed = |leaf: &rcgen::Certificate, name: &str, year| {
            let name = ServerName::try_from(name.to_owned()).unwrap();
            verifier.verify_server_cert(leaf.der(), &[], &name, &[], at(year)).is_ok()
        };
        assert!(believed(&made, "dns.example", 2025));
        assert!(!believed(&made, "other.example", 2025));
        assert!(!believed(&made, "dns.example", 2031));
        assert!(!believed(&made, "dns.example", 2019));
        let stranger = rcgen::generate_simple_self_signed(["dns.example".to_owned()]).unwrap().cert;
        assert!(!believed(&stranger, "dns.example", 2025));
    }

    #[test]
    fn unusable_files_are_refused() {
        let files = Files::new("auth");
        for client_auth in [ClientAuth::None, ClientAuth::Request, ClientAuth::RequireAndVerify] {
            let authorities = Some(files.directive.certificate.clone());
            let directive = Tls { client_auth, authorities, ..files.directive.clone() };
            assert!(Served::load(&directive).is_ok(), "{client_auth:?}");
        }
        let authorities = Some(files.directive.key.clone());
        let no_authority =
            Tls { client_auth: ClientAuth::RequireAndVerify, authorities, ..files.directive.clone() };
        assert!(Served::load(&no_authority).is_err());
        let absent = Tls { key: "/nowhere".into(), ..files.directive.clone() };
        assert!(Served::load(&absent).is_err());
    }
}
