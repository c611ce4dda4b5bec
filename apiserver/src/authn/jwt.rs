//! JSON web tokens in compact form: the keys that sign and check them.
//!
//! The algorithm follows from the key, never from the token: an RSA key means RS256, an elliptic one
//! ES256, ES384 or ES512 by its curve. A token that claims another algorithm (`none` and HMAC
//! included) has a bad signature. Key ids are upstream's: base64url(SHA-256(SubjectPublicKeyInfo)).
//! Contract: RFC 7515, 7517, 7518; upstream `pkg/serviceaccount/jwt.go`.

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rand::SystemRandom,
    rsa,
    signature::{
        self, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _, UnparsedPublicKey, VerificationAlgorithm,
    },
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use rustls_pki_types::pem::{PemObject, SectionKind};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_parser::{prelude::FromDer, public_key::PublicKey as Parsed, x509::SubjectPublicKeyInfo};

/// Longest token looked at, in bytes.
const MAX_TOKEN: usize = 64 * 1024;

/// Why a key file was refused.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No PEM block with a key.
    #[error("data does not contain any valid RSA or ECDSA key")]
    Empty,
    /// A key of a kind or size that cannot sign tokens.
    #[error("unsupported key; RSA of at least 2048 bits or ECDSA on P-256, P-384 or P-521 is needed")]
    Unsupported,
}

/// Why a token was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Three base64url parts with JSON in the first two, that is.
    #[error("not a JSON web token")]
    Malformed,
    /// The header names a key nobody configured.
    #[error("invalid signature, no keys found")]
    NoKey,
    /// No key made this signature with its own algorithm.
    #[error("invalid bearer token")]
    BadSignature,
}

/// Signature algorithm; decided by the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// ECDSA on P-521 with SHA-512.
    Es512,
}

/// A key that checks signatures.
#[derive(Clone, Debug)]
pub struct PublicKey {
    id: String,
    algorithm: Algorithm,
    /// What aws-lc takes: PKCS #1 or SPKI of an RSA key, the point of an elliptic one.
    material: Vec<u8>,
    jwk: Value,
}

/// A key that signs.
pub struct SigningKey {
    pair: Pair,
    public: PublicKey,
}

enum Pair {
    Rsa(Box<rsa::KeyPair>),
    Ecdsa(EcdsaKeyPair),
}

/// A token taken apart, nothing checked.
#[derive(Clone, Debug)]
pub struct Token<'a> {
    /// JOSE header.
    pub header: Value,
    /// Claims.
    pub claims: Value,
    signed: &'a str,
    signature: Vec<u8>,
}

// === impl Algorithm ===

impl Algorithm {
    /// The name in JOSE headers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
        }
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
            Self::Es512 => &signature::ECDSA_P521_SHA512_FIXED,
        }
    }

    /// By the length of an uncompressed point.
    fn of_point(len: usize) -> Option<(Self, &'static str)> {
        match len {
            65 => Some((Self::Es256, "P-256")),
            97 => Some((Self::Es384, "P-384")),
            133 => Some((Self::Es512, "P-521")),
            _ => None,
        }
    }
}

// === impl PublicKey ===

impl PublicKey {
    fn from_spki(spki: &[u8]) -> Result<Self, KeyError> {
        let (_, info) = SubjectPublicKeyInfo::from_der(spki).map_err(|_| KeyError::Unsupported)?;
        let id = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(spki));
        let b64 = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let (algorithm, material, mut jwk) = match info.parsed().map_err(|_| KeyError::Unsupported)? {
            Parsed::RSA(key) => {
                let n: Vec<u8> = key.modulus.iter().copied().skip_while(|b| *b == 0).collect();
                let e: Vec<u8> = key.exponent.iter().copied().skip_while(|b| *b == 0).collect();
                if n.len() < 256 {
                    return Err(KeyError::Unsupported);
                }
                (Algorithm::Rs256, spki.to_vec(), json!({"kty": "RSA", "n": b64(&n), "e": b64(&e)}))
            }
            Parsed::EC(point) => {
                let bytes = point.data();
                let (algorithm, curve) = Algorithm::of_point(bytes.len()).ok_or(KeyError::Unsupported)?;
                let (x, y) = bytes[1..].split_at((bytes.len() - 1) / 2);
                (algorithm, bytes.to_vec(), json!({"kty": "EC", "crv": curve, "x": b64(x), "y": b64(y)}))
            }
            _ => return Err(KeyError::Unsupported),
        };
        jwk["use"] = json!("sig");
        jwk["kid"] = json!(id);
        jwk["alg"] = json!(algorithm.name());
        Ok(Self { id, algorithm, material, jwk })
    }

    /// `kid`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The algorithm tokens of this key have.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The key as JSON web key.
    pub fn jwk(&self) -> &Value {
        &self.jwk
    }

    fn checks(&self, token: &Token<'_>) -> bool {
        token.header.get("alg").and_then(Value::as_str) == Some(self.algorithm.name())
            && token.header.get("crit").is_none()
            && UnparsedPublicKey::new(self.algorithm.verification(), &self.material)
                .verify(token.signed.as_bytes(), &token.signature)
                .is_ok()
    }
}

/// All public keys in a PEM file: public keys, certificates' keys, and the public halves of private keys.
pub fn public_keys_from_pem(pem: &[u8]) -> Result<Vec<PublicKey>, KeyError> {
    let mut keys = Vec::new();
    for (kind, der) in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem).flatten() {
        match kind {
            SectionKind::PublicKey => keys.push(PublicKey::from_spki(&der)?),
            SectionKind::Certificate => {
                let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(&der)
                    .map_err(|_| KeyError::Unsupported)?;
                keys.push(PublicKey::from_spki(certificate.public_key().raw)?);
            }
            _ => keys.extend(SigningKey::from_section(kind, &der)?.map(|k| k.public)),
        }
    }
    if keys.is_empty() { Err(KeyError::Empty) } else { Ok(keys) }
}

// === impl SigningKey ===

impl SigningKey {
    /// The first private key of a PEM file (PKCS #8, PKCS #1 or SEC 1).
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        for (kind, der) in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem).flatten() {
            if let Some(key) = Self::from_section(kind, &der)? {
                return Ok(key);
            }
        }
        Err(KeyError::Empty)
    }

    fn from_section(kind: SectionKind, der: &[u8]) -> Result<Option<Self>, KeyError> {
        let rsa = match kind {
            SectionKind::PrivateKey => rsa::KeyPair::from_pkcs8(der).ok(),
            SectionKind::RsaPrivateKey => rsa::KeyPair::from_der(der).ok(),
            SectionKind::EcPrivateKey => None,
            _ => return Ok(None),
        };
        if let Some(pair) = rsa {
            let spki = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key())
                .map_err(|_| KeyError::Unsupported)?;
            let public = PublicKey::from_spki(spki.as_ref())?;
            return Ok(Some(Self { pair: Pair::Rsa(Box::new(pair)), public }));
        }
        let curves: [&'static EcdsaSigningAlgorithm; 3] = [
            &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
            &signature::ECDSA_P521_SHA512_FIXED_SIGNING,
        ];
        let pair = curves.into_iter().find_map(|curve| EcdsaKeyPair::from_private_key_der(curve, der).ok());
        let pair = pair.ok_or(KeyError::Unsupported)?;
        let spki =
            AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).map_err(|_| KeyError::Unsupported)?;
        let public = PublicKey::from_spki(spki.as_ref())?;
        Ok(Some(Self { pair: Pair::Ecdsa(pair), public }))
    }

    /// The half that checks.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// A compact token of these claims.
    pub fn sign(&self, claims: &Value) -> Result<String, KeyError> {
        let header = json!({"alg": self.public.algorithm.name(), "kid": self.public.id});
        let mut token = encode(&header);
        token.push('.');
        token.push_str(&encode(claims));
        let random = SystemRandom::new();
        let bytes = match &self.pair {
            Pair::Rsa(pair) => {
                let mut out = vec![0; pair.public_modulus_len()];
                pair.sign(&signature::RSA_PKCS1_SHA256, &random, token.as_bytes(), &mut out)
                    .map_err(|_| KeyError::Unsupported)?;
                out
            }
            Pair::Ecdsa(pair) => {
                let made = pair.sign(&random, token.as_bytes()).map_err(|_| KeyError::Unsupported)?;
                made.as_ref().to_vec()
            }
        };
        token.push('.');
        token.push_str(&BASE64_URL_SAFE_NO_PAD.encode(bytes));
        Ok(token)
    }
}

fn encode(value: &Value) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(value.to_string())
}

// === impl Token ===

impl<'a> Token<'a> {
    /// Takes a token apart without believing it.
    pub fn parse(text: &'a str) -> Result<Self, TokenError> {
        if text.len() > MAX_TOKEN {
            return Err(TokenError::Malformed);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let bytes = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed);
        let map = |part: &str| match serde_json::from_slice::<Value>(&bytes(part)?) {
            Ok(value) if value.is_object() => Ok(value),
            _ => Err(TokenError::Malformed),
        };
        Ok(Self { header: map(header)?, claims: map(claims)?, signed, signature: bytes(signature)? })
    }

    /// Whether one of the keys signed this; a `kid` in the header narrows the choice.
    pub fn verify(&self, keys: &[PublicKey]) -> Result<(), TokenError> {
        let kid = self.header.get("kid").and_then(Value::as_str).unwrap_or_default();
        let mut candidates = keys.iter().filter(|key| kid.is_empty() || key.id == kid).peekable();
        if candidates.peek().is_none() {
            return Err(TokenError::NoKey);
        }
        if candidates.any(|key| key.checks(self)) { Ok(()) } else { Err(TokenError::BadSignature) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(algorithm: &'static rcgen::SignatureAlgorithm) -> SigningKey {
        let pair = rcgen::KeyPair::generate_for(algorithm).unwrap();
        SigningKey::from_pem(pair.serialize_pem().as_bytes()).unwrap()
    }

    fn forged(header: Value, claims: Value, signature: &[u8]) -> String {
        format!("{}.{}.{}", encode(&header), encode(&claims), BASE64_URL_SAFE_NO_PAD.encode(signature))
    }

    #[test]
    fn every_key_kind_signs_and_checks() {
        for (algorithm, name) in [
            (&rcgen::PKCS_RSA_SHA256, "RS256"),
            (&rcgen::PKCS_ECDSA_P256_SHA256, "ES256"),
            (&rcgen::PKCS_ECDSA_P384_SHA384, "ES384"),
            (&rcgen::PKCS_ECDSA_P521_SHA512, "ES512"),
        ] {
            let key = key(algorithm);
            let text = key.sign(&json!({"sub": "x"})).unwrap();
            let token = Token::parse(&text).unwrap();
            assert_eq!(token.header["alg"], name);
            assert_eq!(token.verify(std::slice::from_ref(key.public())), Ok(()), "{name}");
            assert_eq!(key.public().jwk()["kid"], key.public().id());
        }
    }

    #[test]
    fn forgeries_fail() {
        let (ours, theirs) = (key(&rcgen::PKCS_ECDSA_P256_SHA256), key(&rcgen::PKCS_ECDSA_P256_SHA256));
        let keys = [ours.public().clone()];
        let check = |text: &str| Token::parse(text).and_then(|t| t.verify(&keys));
        let claims = json!({"sub": "x"});
        let good = ours.sign(&claims).unwrap();
        assert_eq!(check(&good), Ok(()));
        assert_eq!(check(&theirs.sign(&claims).unwrap()), Err(TokenError::NoKey));
        for alg in ["none", "None", "HS256", "RS256", "ES384", ""] {
            let text = forged(json!({"alg": alg, "kid": ours.public().id()}), claims.clone(), b"");
            assert_eq!(check(&text), Err(TokenError::BadSignature), "{alg}");
        }
        let mut parts: Vec<&str> = good.split('.').collect();
        let other = encode(&json!({"sub": "root"}));
        parts[1] = &other;
        assert_eq!(check(&parts.join(".")), Err(TokenError::BadSignature));
        let mac = aws_lc_rs::hmac::sign(
            &aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &keys[0].material),
            parts[..2].join(".").as_bytes(),
        );
        let confused = forged(json!({"alg": "HS256"}), claims, mac.as_ref());
        assert_eq!(check(&confused), Err(TokenError::BadSignature));
        for bad in ["", "a.b", "a.b.c", "....", "eyJ9.e30.", &"a".repeat(70_000)] {
            assert_eq!(check(bad), Err(TokenError::Malformed), "{bad:.20}");
        }
    }

    #[test]
    fn public_files_and_private_files_give_the_same_key() {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let private = public_keys_from_pem(pair.serialize_pem().as_bytes()).unwrap();
        let public = public_keys_from_pem(pair.public_key_pem().as_bytes()).unwrap();
        assert_eq!(private[0].id(), public[0].id());
        assert!(public_keys_from_pem(b"").is_err());
    }
}
