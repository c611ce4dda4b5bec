//! Certificates and tokens for the tests, good ones and bad ones (RFC 5280, RFC 7519).

use anyhow::Result;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

/// When a certificate holds, in hours from now.
#[derive(Clone, Copy, Debug)]
pub struct Validity {
    /// First hour; negative for the past.
    pub from: i64,
    /// Last hour.
    pub to: i64,
}

/// Holds now.
pub const NOW: Validity = Validity { from: -1, to: 24 };
/// Does not hold any more.
pub const EXPIRED: Validity = Validity { from: -48, to: -1 };
/// Does not hold yet.
pub const FUTURE: Validity = Validity { from: 24, to: 48 };

/// A certificate and its key as PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// PEM certificate.
    pub cert: String,
    /// PEM key.
    pub key: String,
}

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    /// PEM certificate.
    pub cert: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes an authority.
    ///
    /// # Errors
    /// When the library has no entropy.
    pub fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let cert = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::from_ca_cert_pem(&cert, key)?, cert })
    }

    /// A client's certificate: common name = user, organisation = group, empty for none.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn client(&self, user: &str, group: &str, validity: Validity) -> Result<Identity> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        if !group.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, validity)
    }

    /// A server's certificate for loopback.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn server(&self) -> Result<Identity> {
        let names = ["127.0.0.1", "localhost", "kubernetes.default.svc"];
        let mut params = CertificateParams::new(names.map(str::to_owned))?;
        params.distinguished_name.push(DnType::CommonName, "server");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, NOW)
    }

    fn sign(&self, mut params: CertificateParams, validity: Validity) -> Result<Identity> {
        let now = OffsetDateTime::now_utc();
        params.not_before = now + Duration::hours(validity.from);
        params.not_after = now + Duration::hours(validity.to);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        Ok(Identity { cert: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() })
    }
}

/// A request for a client's certificate: the request and the key, as PEM.
///
/// # Errors
/// When the library refuses.
pub fn request(user: &str, group: &str) -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, user);
    params.distinguished_name.push(DnType::OrganizationName, group);
    Ok((params.serialize_request(&key)?.pem()?, key.serialize_pem()))
}

/// A key that signs service-account tokens.
#[derive(Debug)]
pub struct TokenKey(KeyPair);

impl TokenKey {
    /// Makes a key.
    ///
    /// # Errors
    /// When the library has no entropy.
    pub fn new() -> Result<Self> {
        Ok(Self(KeyPair::generate()?))
    }

    /// PEM private key.
    pub fn private(&self) -> String {
        self.0.serialize_pem()
    }

    /// PEM public key.
    pub fn public(&self) -> String {
        self.0.public_key_pem()
    }

    /// The public key as a JSON web key of this id.
    pub fn jwk(&self, id: &str) -> Value {
        // An uncompressed point of P-256: a byte that says so, then both coordinates.
        let (x, y) = self.0.public_key_raw()[1..].split_at(32);
        let coordinate = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": id, "x": coordinate(x), "y": coordinate(y)})
    }

    /// Signs claims; `header` may carry the key id of another key.
    ///
    /// # Errors
    /// When the library refuses.
    pub fn sign(&self, key_id: Option<String>, claims: &Value) -> Result<String> {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = key_id;
        let key = EncodingKey::from_ec_pem(self.private().as_bytes())?;
        Ok(jsonwebtoken::encode(&header, claims, &key)?)
    }
}

/// Seconds since the epoch, `offset` from now, as claims have them.
pub fn seconds_from_now(offset: i64) -> i64 {
    Timestamp::now().as_second() + offset
}
