//! A certificate authority on disk, and what it signs.
//!
//! Contract: upstream's permissive signing policy (`pkg/controller/certificates/authority`): subject and alternative
//! names as asked, usages as asked, never a CA; five minutes of backdating; never longer than the CA itself.

use std::{path::Path, sync::Arc, time::Duration};

use component_base::tls::{self, TlsError};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
use rustls::{SignatureScheme, sign::SigningKey};
use signature::Keypair;
use x509_cert::{
    Certificate,
    builder::{Builder, CertificateBuilder, profile::BuilderProfile},
    der::{
        Decode, Encode, EncodePem,
        asn1::{BitString, ObjectIdentifier},
        flagset::FlagSet,
        pem::LineEnding,
    },
    ext::{
        Extension, ToExtension,
        pkix::{
            AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName,
            SubjectKeyIdentifier,
            name::{GeneralName, GeneralNames},
        },
    },
    name::Name,
    request::{CertReq, ExtensionReq},
    serial_number::SerialNumber,
    spki::{
        AlgorithmIdentifierOwned, Document, DynSignatureAlgorithmIdentifier, EncodePublicKey,
        SubjectPublicKeyInfoRef,
    },
    time::{Time, Validity},
};
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

use super::plan::{self, ParseError};

/// How long before now a certificate begins.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// Below this the end is not backdated.
const SHORT: Duration = Duration::from_secs(8 * 3600);
/// The shortest life: twice what it is backdated by.
const SHORTEST: Duration = Duration::from_secs(600);

/// Usages that are bits.
const BITS: &[(&str, KeyUsages)] = &[
    ("signing", KeyUsages::DigitalSignature),
    ("digital signature", KeyUsages::DigitalSignature),
    ("content commitment", KeyUsages::NonRepudiation),
    ("key encipherment", KeyUsages::KeyEncipherment),
    ("key agreement", KeyUsages::KeyAgreement),
    ("data encipherment", KeyUsages::DataEncipherment),
    ("cert sign", KeyUsages::KeyCertSign),
    ("crl sign", KeyUsages::CRLSign),
    ("encipher only", KeyUsages::EncipherOnly),
    ("decipher only", KeyUsages::DecipherOnly),
];
/// Usages that are object identifiers, in the order in which certificates list them.
const PURPOSES: &[(&str, &str)] = &[
    ("any", "2.5.29.37.0"),
    ("server auth", "1.3.6.1.5.5.7.3.1"),
    ("client auth", "1.3.6.1.5.5.7.3.2"),
    ("code signing", "1.3.6.1.5.5.7.3.3"),
    ("email protection", "1.3.6.1.5.5.7.3.4"),
    ("s/mime", "1.3.6.1.5.5.7.3.4"),
    ("ipsec end system", "1.3.6.1.5.5.7.3.5"),
    ("ipsec tunnel", "1.3.6.1.5.5.7.3.6"),
    ("ipsec user", "1.3.6.1.5.5.7.3.7"),
    ("timestamping", "1.3.6.1.5.5.7.3.8"),
    ("ocsp signing", "1.3.6.1.5.5.7.3.9"),
    ("microsoft sgc", "1.3.6.1.4.1.311.10.3.3"),
    ("netscape sgc", "2.16.840.1.113730.4.1"),
];
/// What the authority signs with, best first, and the algorithm's identifier.
const SCHEMES: &[(SignatureScheme, &str)] = &[
    (SignatureScheme::RSA_PKCS1_SHA256, "1.2.840.113549.1.1.11"),
    (SignatureScheme::ECDSA_NISTP256_SHA256, "1.2.840.10045.4.3.2"),
    (SignatureScheme::ECDSA_NISTP384_SHA384, "1.2.840.10045.4.3.3"),
    (SignatureScheme::ECDSA_NISTP521_SHA512, "1.2.840.10045.4.3.4"),
    (SignatureScheme::ED25519, "1.3.101.112"),
];

/// Why nothing is signed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SignError {
    #[error("cannot load the CA")]
    Load(#[from] TlsError),
    #[error("the CA's key cannot sign certificates")]
    Key,
    #[error("the CA's file holds no certificate")]
    Empty,
    #[error(transparent)]
    Request(#[from] ParseError),
    #[error("the request is not signed by its own key")]
    Signature,
    #[error("unrecognized usage values: {0:?}")]
    Usages(Vec<String>),
    #[error("the signer has expired: NotAfter={0}")]
    Expired(Timestamp),
    #[error("signing failed")]
    Rustls(#[from] rustls::Error),
    #[error("malformed ASN.1: {0}")]
    Der(#[from] x509_cert::der::Error),
    #[error("cannot build the certificate: {0}")]
    Build(#[from] x509_cert::builder::Error),
}

/// A CA certificate with its key.
pub(super) struct Authority {
    certificate: Certificate,
    key: Arc<dyn SigningKey>,
}

impl Authority {
    /// Reads both files, PEM.
    pub(super) fn load(certificate: &Path, key: &Path) -> Result<Authority, SignError> {
        let chain = tls::load_certificates(certificate)?;
        let first = chain.first().ok_or(SignError::Empty)?;
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&tls::load_key(key)?)?;
        Ok(Authority { certificate: Certificate::from_der(first)?, key })
    }

    /// Signs a request, for at most `longest`; `serial` must be random. Returns PEM.
    pub(super) fn sign(
        &self,
        spec: &CertificateSigningRequestSpec,
        longest: Duration,
        now: Timestamp,
        serial: u128,
    ) -> Result<String, SignError> {
        let der = plan::der(&spec.request.0)?;
        let parsed = X509CertificationRequest::from_der(&der).map_err(|_| SignError::Signature)?.1;
        parsed.verify_signature().map_err(|_| SignError::Signature)?;
        let request = CertReq::from_der(&der)?;
        let end =
            Timestamp::try_from(self.certificate.tbs_certificate().validity().not_after.to_system_time())
                .unwrap_or(Timestamp::MAX);
        let (from, to) = validity(life(spec.expiration_seconds, longest), now, end)?;
        let profile = Profile {
            issuer: self.certificate.tbs_certificate().subject().clone(),
            extensions: self.extensions(spec, &request)?,
            subject: request.info.subject,
        };
        // A serial number is positive and at most 20 bytes.
        let serial = SerialNumber::new(&(serial >> 1).to_be_bytes())?;
        let validity = Validity::new(time(from)?, time(to)?);
        let mut builder = CertificateBuilder::new(profile, serial, validity, request.info.public_key)?;
        let offered: Vec<SignatureScheme> = SCHEMES.iter().map(|(scheme, _)| *scheme).collect();
        let signer = self.key.choose_scheme(&offered).ok_or(SignError::Key)?;
        let scheme = SCHEMES.iter().find(|(scheme, _)| *scheme == signer.scheme()).ok_or(SignError::Key)?;
        let identity =
            Identity { authority: &self.certificate, oid: scheme.1, rsa: scheme.0 == SCHEMES[0].0 };
        let message = builder.finalize(&identity)?;
        let signed = BitString::from_bytes(&signer.sign(&message)?)?;
        Ok(builder.assemble(signed, &identity)?.to_pem(LineEnding::LF)?)
    }

    fn extensions(
        &self,
        spec: &CertificateSigningRequestSpec,
        request: &CertReq,
    ) -> Result<Vec<Extension>, SignError> {
        let subject = &request.info.subject;
        let mut out = Vec::new();
        let (bits, purposes) = usages(spec.usages.as_deref().unwrap_or_default())?;
        if !bits.is_empty() {
            out.push(KeyUsage(bits).to_extension(subject, &out)?);
        }
        if !purposes.is_empty() {
            out.push(ExtendedKeyUsage(purposes).to_extension(subject, &out)?);
        }
        out.push(BasicConstraints { ca: false, path_len_constraint: None }.to_extension(subject, &out)?);
        let own = self.certificate.tbs_certificate().get_extension::<SubjectKeyIdentifier>()?;
        if let Some((_, id)) = own {
            let id =
                AuthorityKeyIdentifier { key_identifier: Some(id.0), ..AuthorityKeyIdentifier::default() };
            out.push(id.to_extension(subject, &out)?);
        }
        let names = alternative_names(request)?;
        if !names.is_empty() {
            out.push(SubjectAltName(names).to_extension(subject, &out)?);
        }
        Ok(out)
    }
}

/// The names asked for: of the kinds that certificates of a cluster have.
fn alternative_names(request: &CertReq) -> Result<GeneralNames, SignError> {
    let mut names = GeneralNames::new();
    for attribute in request.info.attributes.iter() {
        for value in attribute.values.iter() {
            // Other attributes are none of our business.
            let Ok(extensions) = ExtensionReq::from_der(&value.to_der()?) else { continue };
            for extension in
                extensions.0.iter().filter(|e| e.extn_id == ObjectIdentifier::new_unwrap("2.5.29.17"))
            {
                let asked = SubjectAltName::from_der(extension.extn_value.as_bytes())?;
                names.extend(asked.0.into_iter().filter(|name| {
                    matches!(
                        name,
                        GeneralName::DnsName(_)
                            | GeneralName::IpAddress(_)
                            | GeneralName::Rfc822Name(_)
                            | GeneralName::UniformResourceIdentifier(_)
                    )
                }));
            }
        }
    }
    Ok(names)
}

fn usages(asked: &[String]) -> Result<(FlagSet<KeyUsages>, Vec<ObjectIdentifier>), SignError> {
    let known = |name: &str| BITS.iter().any(|(n, _)| *n == name) || PURPOSES.iter().any(|(n, _)| *n == name);
    let unknown: Vec<String> = asked.iter().filter(|name| !known(name)).cloned().collect();
    if !unknown.is_empty() {
        return Err(SignError::Usages(unknown));
    }
    let is_asked = |name: &str| asked.iter().any(|a| a == name);
    let mut bits = FlagSet::default();
    for (_, bit) in BITS.iter().filter(|(name, _)| is_asked(name)) {
        bits |= *bit;
    }
    let mut purposes: Vec<ObjectIdentifier> = Vec::new();
    for (_, oid) in PURPOSES.iter().filter(|(name, _)| is_asked(name)) {
        let oid = ObjectIdentifier::new_unwrap(oid);
        if !purposes.contains(&oid) {
            purposes.push(oid);
        }
    }
    Ok((bits, purposes))
}

/// The life asked for, within bounds.
fn life(asked: Option<i32>, longest: Duration) -> Duration {
    let Some(asked) = asked.map(|s| Duration::from_secs(u64::try_from(s).unwrap_or(0))) else {
        return longest;
    };
    // The longest wins where it is shorter than the shortest.
    if asked > longest { longest } else { asked.max(SHORTEST) }
}

/// First and last moment of a certificate.
fn validity(life: Duration, now: Timestamp, end: Timestamp) -> Result<(Timestamp, Timestamp), SignError> {
    let from = now - BACKDATE;
    if now >= end {
        return Err(SignError::Expired(end));
    }
    let counted_from = if life < SHORT { now } else { from };
    let to = counted_from.checked_add(life).unwrap_or(Timestamp::MAX);
    Ok((from, to.min(end)))
}

fn time(at: Timestamp) -> Result<Time, SignError> {
    let since = Duration::from_secs(u64::try_from(at.as_second()).unwrap_or(0));
    Ok(Time::GeneralTime(x509_cert::der::asn1::GeneralizedTime::from_unix_duration(since)?))
}

/// A certificate with exactly these parts.
struct Profile {
    issuer: Name,
    subject: Name,
    extensions: Vec<Extension>,
}

impl BuilderProfile for Profile {
    fn get_issuer(&self, _subject: &Name) -> Name {
        self.issuer.clone()
    }

    fn get_subject(&self) -> Name {
        self.subject.clone()
    }

    fn build_extensions(
        &self,
        _key: SubjectPublicKeyInfoRef<'_>,
        _issuers_key: SubjectPublicKeyInfoRef<'_>,
        _certificate: &x509_cert::TbsCertificate,
    ) -> x509_cert::builder::Result<Vec<Extension>> {
        Ok(self.extensions.clone())
    }
}

/// Who signs, as the builder wants to know it.
struct Identity<'a> {
    authority: &'a Certificate,
    oid: &'static str,
    rsa: bool,
}

/// The CA's public key.
#[derive(Clone)]
struct PublicKey(Vec<u8>);

impl Keypair for Identity<'_> {
    type VerifyingKey = PublicKey;

    fn verifying_key(&self) -> PublicKey {
        PublicKey(self.authority.tbs_certificate().subject_public_key_info().to_der().unwrap_or_default())
    }
}

impl EncodePublicKey for PublicKey {
    fn to_public_key_der(&self) -> x509_cert::spki::Result<Document> {
        Ok(Document::try_from(self.0.as_slice())?)
    }
}

impl DynSignatureAlgorithmIdentifier for Identity<'_> {
    fn signature_algorithm_identifier(&self) -> x509_cert::spki::Result<AlgorithmIdentifierOwned> {
        // RSA states that it has no parameters; the others leave them out (RFC 4055, RFC 5758).
        Ok(AlgorithmIdentifierOwned {
            oid: ObjectIdentifier::new_unwrap(self.oid),
            parameters: self.rsa.then(x509_cert::der::Any::null),
        })
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use rcgen::{BasicConstraints as Constraints, CertificateParams, DnType, IsCa, KeyPair, SanType};
    use x509_parser::pem::Pem;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn authority(folder: &Path) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(Constraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        let key = KeyPair::generate().unwrap();
        let (cert_file, key_file) = (folder.join("ca.crt"), folder.join("ca.key"));
        std::fs::write(&cert_file, params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        Authority::load(&cert_file, &key_file).unwrap()
    }

    fn spec(usages: &[&str]) -> CertificateSigningRequestSpec {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, "system:node:a");
        params.subject_alt_names = vec![SanType::DnsName("a.example".try_into().unwrap())];
        let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            usages: Some(usages.iter().map(|u| (*u).to_owned()).collect()),
            ..CertificateSigningRequestSpec::default()
        }
    }

    #[test]
    fn a_certificate_says_what_was_asked_and_is_signed_by_the_authority() {
        let folder = tempfile::tempdir().unwrap();
        let authority = authority(folder.path());
        let now = at("2026-01-01T12:00:00Z");
        let day = Duration::from_secs(86_400);
        let text = authority.sign(&spec(&["digital signature", "server auth"]), day, now, u128::MAX).unwrap();
        let block = Pem::iter_from_buffer(text.as_bytes()).next().unwrap().unwrap();
        let signed = block.parse_x509().unwrap();
        let issuer = authority.certificate.to_der().unwrap();
        let issuer = x509_parser::certificate::X509Certificate::from_der(&issuer).unwrap().1;
        signed.verify_signature(Some(issuer.public_key())).unwrap();
        assert_eq!(signed.issuer(), issuer.subject());
        assert_eq!(signed.subject().to_string(), "CN=system:node:a, O=system:nodes");
        assert_eq!(signed.validity().not_before.timestamp(), now.as_second() - 300);
        assert_eq!(signed.validity().not_after.timestamp(), now.as_second() - 300 + 86_400);
        assert!(!signed.is_ca());
        assert!(signed.key_usage().unwrap().unwrap().value.digital_signature());
        assert!(signed.extended_key_usage().unwrap().unwrap().value.server_auth);
        let names = &signed.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(names.len(), 1);
    }

    #[test]
    fn what_cannot_be_signed_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let authority = authority(folder.path());
        let (now, day) = (at("2026-01-01T12:00:00Z"), Duration::from_secs(86_400));
        let sign = |spec: &CertificateSigningRequestSpec, now| authority.sign(spec, day, now, 7);
        assert!(matches!(sign(&spec(&["flying"]), now), Err(SignError::Usages(u)) if u == ["flying"]));
        let ended = at("9999-01-01T00:00:00Z");
        assert!(matches!(sign(&spec(&["client auth"]), ended), Err(SignError::Expired(_))));
        let mut forged = spec(&["client auth"]);
        let other = spec(&["client auth"]);
        let (mut a, b) = (plan::der(&forged.request.0).unwrap(), plan::der(&other.request.0).unwrap());
        // Another request's signature.
        let tail = a.len() - 40;
        a[tail..].copy_from_slice(&b[b.len() - 40..]);
        let text = pem_of(&a);
        forged.request = ByteString(text.into_bytes());
        assert!(matches!(sign(&forged, now), Err(SignError::Signature)));
    }

    fn pem_of(der: &[u8]) -> String {
        x509_cert::der::pem::encode_string("CERTIFICATE REQUEST", LineEnding::LF, der).unwrap()
    }

    #[test]
    fn lives_stay_within_bounds() {
        let hours = |h: u64| Duration::from_secs(h * 3600);
        assert_eq!(life(None, hours(5)), hours(5));
        assert_eq!(life(Some(36_000), hours(5)), hours(5));
        assert_eq!(life(Some(3600), hours(5)), hours(1));
        assert_eq!(life(Some(1), hours(5)), SHORTEST);
        let (now, end) = (at("2026-01-01T00:00:00Z"), at("2026-01-03T00:00:00Z"));
        assert_eq!(validity(hours(1), now, end).unwrap().1, at("2026-01-01T01:00:00Z"));
        assert_eq!(validity(hours(10), now, end).unwrap().1, at("2026-01-01T09:55:00Z"));
        assert_eq!(validity(hours(100), now, end).unwrap().1, end);
        assert!(validity(hours(1), end, end).is_err());
    }
}
