//! Client certificates: the chain is checked against `--client-ca-file`, the subject is the user.
//!
//! CN is the user name, every O a group, the RDN 1.3.6.1.4.1.57683.2 the uid. The handshake has only
//! proven possession of the key; trust is decided here so that a bad certificate ends as 401 and not
//! as a TLS alert. Contract: upstream `pkg/authentication/request/x509`, RFC 5280 path validation by
//! rustls' webpki.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use component_base::auth::CLIENT_CERTIFICATES;
use parking_lot::Mutex;
use rustls::{
    RootCertStore,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::auth::{Authenticator, Credentials, PeerCertificates, User};

const UID_OID: &str = "1.3.6.1.4.1.57683.2";
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
/// Remembered chains; a full memory is emptied. 1024 × ~0.5 KB.
const REMEMBERED: usize = 1024;

/// Why a CA bundle was refused.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Not PEM, or no certificate in it.
    #[error("no certificate found in the CA bundle")]
    Empty,
    /// The verifier refused the roots.
    #[error("unusable CA bundle")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
}

/// The trusted CAs, and the users of chains already checked.
pub struct ClientCertificates {
    trust: ArcSwap<Trust>,
    checked: Mutex<HashMap<[u8; 32], Checked>>,
    /// Whether subjects say uids.
    uids: AtomicBool,
}

struct Trust {
    verifier: Arc<dyn ClientCertVerifier>,
    pem: Vec<u8>,
}

#[derive(Clone)]
struct Checked {
    user: Arc<User>,
    /// Seconds since the epoch after which its own certificate does not hold.
    expires: i64,
    /// Seconds since the epoch after which the chain must be checked again.
    not_after: i64,
}

impl ClientCertificates {
    /// Trusts the certificates of a PEM bundle.
    pub fn new(pem: &[u8]) -> Result<Self, CaError> {
        Ok(Self {
            trust: ArcSwap::from_pointee(Trust::new(pem)?),
            checked: Mutex::default(),
            uids: AtomicBool::new(true),
        })
    }

    /// Whether a subject says its user's uid, which it does unless told otherwise.
    pub fn name_uids(&self, they_do: bool) {
        self.uids.store(they_do, Ordering::Relaxed);
    }

    /// Trusts another bundle from now on.
    pub fn reload(&self, pem: &[u8]) -> Result<(), CaError> {
        self.trust.store(Arc::new(Trust::new(pem)?));
        self.checked.lock().clear();
        Ok(())
    }

    /// The bundle in use, as it was read.
    pub fn bundle(&self) -> Vec<u8> {
        self.trust.load().pem.clone()
    }

    /// The user of a chain at a moment in seconds since the epoch.
    pub fn user_at(&self, peer: &PeerCertificates, now: i64) -> Result<Option<Arc<User>>, String> {
        let Some((leaf, rest)) = peer.chain().split_first() else { return Ok(None) };
        let key = peer.fingerprint();
        if let Some(known) = self.checked.lock().get(key).filter(|c| now <= c.not_after) {
            counted(known.expires - now);
            return Ok(Some(known.user.clone()));
        }
        let intermediates: Vec<CertificateDer<'_>> =
            rest.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.max(0).unsigned_abs()));
        let trust = self.trust.load();
        trust
            .verifier
            .verify_client_cert(&CertificateDer::from(leaf.as_slice()), &intermediates, at)
            .map_err(|e| format!("verifying certificate failed: {e}"))?;
        let (_, certificate) =
            X509Certificate::from_der(leaf).map_err(|e| format!("parsing certificate failed: {e}"))?;
        let user = Arc::new(subject(&certificate, leaf, self.uids.load(Ordering::Relaxed))?);
        let expires = certificate.validity().not_after.timestamp();
        counted(expires - now);
        let mut not_after = expires;
        for der in rest {
            if let Ok((_, c)) = X509Certificate::from_der(der) {
                not_after = not_after.min(c.validity().not_after.timestamp());
            }
        }
        let mut checked = self.checked.lock();
        if checked.len() >= REMEMBERED {
            checked.clear();
        }
        checked.insert(*key, Checked { user: user.clone(), expires, not_after });
        Ok(Some(user))
    }
}

/// Tells for how many seconds a certificate holds that was just used.
fn counted(left: i64) {
    #[expect(clippy::cast_precision_loss, reason = "a time to be shown")]
    CLIENT_CERTIFICATES.observe(left.max(0) as f64);
}

#[async_trait]
impl Authenticator for ClientCertificates {
    async fn authenticate(&self, credentials: &Credentials) -> Result<Option<Arc<User>>, String> {
        self.user_at(&credentials.peer_certificates, jiff::Timestamp::now().as_second())
    }
}

impl Trust {
    fn new(pem: &[u8]) -> Result<Self, CaError> {
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_slice_iter(pem).flatten();
        let (added, _) = roots.add_parsable_certificates(certificates);
        if added == 0 {
            return Err(CaError::Empty);
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(CaError::Verifier)?;
        Ok(Self { verifier, pem: pem.to_vec() })
    }
}

/// The group of all that are known.
const AUTHENTICATED: &str = "system:authenticated";

/// The user a subject names. More than one uid, or an empty one, is refused as upstream does.
fn subject(certificate: &X509Certificate<'_>, der: &[u8], uids: bool) -> Result<User, String> {
    let subject = certificate.subject();
    let name = subject.iter_common_name().last().and_then(|a| a.as_str().ok()).unwrap_or_default();
    if name.is_empty() {
        return Err("certificate subject has no common name".to_owned());
    }
    let organizations = subject.iter_organization().filter_map(|a| a.as_str().ok());
    let mut groups: Vec<String> = organizations.map(str::to_owned).collect();
    // Whom a certificate names is authenticated: said here, once for all requests of a connection.
    if !groups.iter().any(|group| group == AUTHENTICATED) {
        groups.push(AUTHENTICATED.to_owned());
    }
    let mut uids = subject.iter_attributes().filter(|a| uids && a.attr_type().to_id_string() == UID_OID);
    let uid = match (uids.next(), uids.next()) {
        (None, _) => String::new(),
        (Some(uid), None) => match uid.as_str() {
            Ok(text) if !text.is_empty() => text.to_owned(),
            _ => return Err("unable to parse UID of certificate subject".to_owned()),
        },
        _ => return Err("expected 1 UID in certificate subject, but found multiple".to_owned()),
    };
    let mut hex = String::from("X509SHA256=");
    for byte in Sha256::digest(der) {
        hex.push_str(&format!("{byte:02x}"));
    }
    let extra = [(CREDENTIAL_ID.to_owned(), vec![hex])].into();
    Ok(User { name: name.to_owned(), uid, groups, extra })
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
        KeyUsagePurpose, date_time_ymd,
    };

    use super::*;

    fn user_at(
        authenticator: &ClientCertificates,
        chain: &[Vec<u8>],
        now: i64,
    ) -> Result<Option<Arc<User>>, String> {
        authenticator.user_at(&PeerCertificates::new(chain.to_vec()), now)
    }

    /// 2026-06-01.
    const NOW: i64 = 1_780_272_000;

    struct Ca {
        issuer: Issuer<'static, KeyPair>,
        pem: String,
    }

    fn ca(name: &str) -> Ca {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Ca { issuer: Issuer::new(params, key), pem }
    }

    fn client(ca: &Ca, change: impl Fn(&mut CertificateParams)) -> Vec<Vec<u8>> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "ann");
        params.distinguished_name.push(DnType::OrganizationName, "devs");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2027, 1, 1);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        vec![params.signed_by(&key, &ca.issuer).unwrap().der().to_vec()]
    }

    #[test]
    fn subject_becomes_the_user() {
        let ca = ca("ca");
        let authenticator = ClientCertificates::new(ca.pem.as_bytes()).unwrap();
        let chain = client(&ca, |p| {
            p.distinguished_name.push(DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]), "u-1");
        });
        for _ in 0..2 {
            let user = user_at(&authenticator, &chain, NOW).unwrap().unwrap();
            assert_eq!((user.name.as_str(), user.uid.as_str()), ("ann", "u-1"));
            assert_eq!(user.groups, ["devs", AUTHENTICATED]);
            assert!(user.extra[CREDENTIAL_ID][0].starts_with("X509SHA256="));
        }
        assert_eq!(user_at(&authenticator, &[], NOW).unwrap(), None);
        let plain = ClientCertificates::new(ca.pem.as_bytes()).unwrap();
        plain.name_uids(false);
        assert_eq!(user_at(&plain, &chain, NOW).unwrap().unwrap().uid, "");
    }

    #[test]
    fn expired_early_foreign_and_server_certificates_are_refused() {
        let (ours, other) = (ca("ca"), ca("ca"));
        let authenticator = ClientCertificates::new(ours.pem.as_bytes()).unwrap();
        let good = client(&ours, |_| {});
        assert!(user_at(&authenticator, &good, NOW).is_ok());
        let year = 365 * 24 * 3600;
        assert!(user_at(&authenticator, &good, NOW + year).is_err(), "a remembered chain still expires");
        assert!(user_at(&authenticator, &client(&ours, |_| {}), NOW - year).is_err());
        assert!(user_at(&authenticator, &client(&other, |_| {}), NOW).is_err());
        let server = client(&ours, |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
        assert!(user_at(&authenticator, &server, NOW).is_err());
        assert!(user_at(&authenticator, &[b"garbage".to_vec()], NOW).is_err());
        authenticator.reload(other.pem.as_bytes()).unwrap();
        assert!(user_at(&authenticator, &good, NOW).is_err(), "a reloaded CA forgets");
    }

    #[test]
    fn an_empty_bundle_is_an_error() {
        assert!(ClientCertificates::new(b"").is_err());
    }
}
