//! TLS of both sides: what the `tls` directive serves with, taken over anew when its files change, and what
//! `forward` asks with.
//!
//! Contract: RFC 7858 (DNS over TLS).

use std::{path::PathBuf, sync::Arc};

use component_base::tls::{
    self, AnyClientCertificate, ServingCertificate, TlsError,
    trust::{ServerTrust, system_roots},
};
use rustls::{
    ClientConfig, Error, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{ResolvesServerCert, WebPkiClientVerifier},
};

use crate::corefile::{ClientAuth, Identity, Tls};

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
    let authorities = identity.authorities.as_ref();
    let pinned = authorities.map(|file| tls::load_certificates(file)).transpose()?.unwrap_or_default();
    let trust = ServerTrust::new(roots(authorities)?, pinned).map_err(TlsError::Settings)?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Settings)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(trust));
    let mut config = match &identity.pair {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(tls::load_certificates(certificate)?, tls::load_key(key)?)
            .map_err(|source| TlsError::KeyPair { path: certificate.clone(), source })?,
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// Authorities of a file, or those of the system, which may have none.
fn roots(file: Option<&PathBuf>) -> Result<RootCertStore, TlsError> {
    file.map_or_else(|| Ok(system_roots()), |file| tls::load_roots(file))
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
