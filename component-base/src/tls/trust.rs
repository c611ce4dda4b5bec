//! Which servers are believed: those whose chain ends at one of a bundle's authorities, and those that serve with a
//! certificate of the bundle itself.

use std::sync::{Arc, LazyLock};

use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::aws_lc_rs,
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _};

/// Where systems keep the authorities they trust.
const SYSTEM: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
];

static SYSTEM_CERTIFICATES: LazyLock<Vec<CertificateDer<'static>>> = LazyLock::new(|| {
    let found = SYSTEM.iter().find_map(|path| std::fs::read(path).ok()).unwrap_or_default();
    CertificateDer::pem_slice_iter(&found).filter_map(Result::ok).collect()
});

/// Authorities the system trusts, of which there may be none; those that are no use here are left out.
#[must_use]
pub fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let (_added, _left_out) = roots.add_parsable_certificates(SYSTEM_CERTIFICATES.iter().cloned());
    roots
}

/// Checks a server's chain. An authority that serves with its own certificate is no chain to the library, but where just
/// that certificate is to be believed there is nothing left to doubt.
#[derive(Debug)]
pub struct ServerTrust {
    chain: Arc<WebPkiServerVerifier>,
    pinned: Vec<CertificateDer<'static>>,
}

impl ServerTrust {
    /// Believes chains that end at `roots`, and `pinned` themselves.
    ///
    /// # Errors
    /// When there are no roots.
    pub fn new(roots: RootCertStore, pinned: Vec<CertificateDer<'static>>) -> Result<Self, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        let chain = chain.build().map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { chain, pinned })
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

impl ServerCertVerifier for ServerTrust {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_authority_may_serve_by_itself_under_its_name_and_in_its_time() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["dns.example".to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let made = params.self_signed(&key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.der().clone()).unwrap();
        let trust = ServerTrust::new(roots.clone(), vec![made.der().clone()]).unwrap();
        let at =
            |year: u64| UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) * 31_557_600 + 86_400));
        let believes = |trust: &ServerTrust, leaf: &rcgen::Certificate, name: &str, year| {
            let name = ServerName::try_from(name.to_owned()).unwrap();
            trust.verify_server_cert(leaf.der(), &[], &name, &[], at(year)).is_ok()
        };
        assert!(believes(&trust, &made, "dns.example", 2025));
        assert!(!believes(&trust, &made, "other.example", 2025));
        assert!(!believes(&trust, &made, "dns.example", 2031));
        assert!(!believes(&trust, &made, "dns.example", 2019));
        let stranger = rcgen::generate_simple_self_signed(["dns.example".to_owned()]).unwrap().cert;
        assert!(!believes(&trust, &stranger, "dns.example", 2025));
        let chains_alone = ServerTrust::new(roots, Vec::new()).unwrap();
        assert!(!believes(&chains_alone, &made, "dns.example", 2025));
        assert!(ServerTrust::new(RootCertStore::empty(), Vec::new()).is_err());
    }
}
