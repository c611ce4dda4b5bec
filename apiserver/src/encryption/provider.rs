//! One way to encrypt values, with its keys: the first seals, all of them open.
//!
//! Sealed values are `k8s:enc:<kind>:v1:<key's name>:` and then, for AES-CBC the vector and the padded text, for AES-GCM
//! the nonce and the text with its tag, bound to etcd's key; for secretbox the nonce and the box. Those of plugins are
//! [`super::kms`]'s.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    aead::{self, Aad, LessSafeKey, Nonce, UnboundKey},
    cipher::{self, DecryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey},
    iv::FixedLength,
    rand,
};
use crypto_secretbox::{
    XSalsa20Poly1305,
    aead::{Aead, KeyInit},
};

use super::{
    MARK,
    kms::{CallError, Kms},
};

const IV: usize = 16;
const GCM_NONCE: usize = 12;
const BOX_NONCE: usize = 24;

/// Why a key is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// AES has keys of these lengths.
    #[error("secret is not of the expected length, should be one of 16, 24 or 32 bytes")]
    Aes,
    /// Secretbox has keys of 32 bytes.
    #[error("secret is not of the expected length, should be 32 bytes")]
    Secretbox,
}

/// Why a value cannot be encrypted or decrypted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// It, or the key, is of no use.
    #[error("{0}")]
    Value(String),
    /// The plugin did not decrypt its seed.
    #[error("failed to decrypt DEK, error: {0}")]
    Plugin(#[from] CallError),
    /// The server is ending.
    #[error("the KMS provider is looked after no more")]
    Abandoned,
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Value(text)
    }
}

impl Failure {
    /// The metrics' word for it, which is gRPC's.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Value(_) | Self::Abandoned => "unknown-non-grpc",
            Self::Plugin(error) => error.word(),
        }
    }
}

/// A kind of provider with keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    AesCbc,
    AesGcm,
    Secretbox,
}

/// A provider.
#[derive(Debug)]
pub(super) enum Provider {
    /// Values as they are.
    Identity,
    /// Values sealed with one of these keys.
    Keys(Kind, Vec<Key>),
    /// Values sealed by a plugin's key.
    Kms(Arc<Kms>),
}

/// A key by its name.
pub(super) struct Key {
    /// `k8s:enc:aescbc:v1:key1:`.
    prefix: Vec<u8>,
    secret: Vec<u8>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("prefix", &String::from_utf8_lossy(&self.prefix)).finish_non_exhaustive()
    }
}

impl Kind {
    /// What its values begin with, the key's name to follow.
    fn prefix(self) -> &'static str {
        match self {
            Self::AesCbc => "k8s:enc:aescbc:v1:",
            Self::AesGcm => "k8s:enc:aesgcm:v1:",
            Self::Secretbox => "k8s:enc:secretbox:v1:",
        }
    }
}

impl Key {
    /// A key of a kind.
    ///
    /// # Errors
    /// When it has the wrong length.
    pub(super) fn new(kind: Kind, name: &str, secret: Vec<u8>) -> Result<Self, KeyError> {
        match (kind, secret.len()) {
            (Kind::Secretbox, 32) | (Kind::AesCbc | Kind::AesGcm, 16 | 24 | 32) => {}
            (Kind::Secretbox, _) => return Err(KeyError::Secretbox),
            _ => return Err(KeyError::Aes),
        }
        let prefix = format!("{}{name}:", kind.prefix()).into_bytes();
        Ok(Self { prefix, secret })
    }

    fn cipher(&self) -> Result<UnboundCipherKey, String> {
        let algorithm = match self.secret.len() {
            16 => &cipher::AES_128,
            24 => &cipher::AES_192,
            _ => &cipher::AES_256,
        };
        UnboundCipherKey::new(algorithm, &self.secret).map_err(|_| "the key is of no use".to_owned())
    }

    fn seal(&self, kind: Kind, mut plain: Vec<u8>, path: &[u8]) -> Result<Vec<u8>, String> {
        let failed = |_| "the value cannot be encrypted".to_owned();
        let mut sealed = self.prefix.clone();
        match kind {
            Kind::AesCbc => {
                let key = PaddedBlockEncryptingKey::cbc_pkcs7(self.cipher()?).map_err(failed)?;
                let context = key.encrypt(&mut plain).map_err(failed)?;
                let DecryptionContext::Iv128(iv) = context else {
                    return Err("AES-CBC has a vector of 16 bytes".to_owned());
                };
                sealed.extend_from_slice(iv.as_ref());
                sealed.extend_from_slice(&plain);
            }
            Kind::AesGcm => {
                seal_gcm(&self.secret, plain, path, &mut sealed)?;
            }
            Kind::Secretbox => {
                let mut nonce = [0; BOX_NONCE];
                rand::fill(&mut nonce).map_err(failed)?;
                let boxed = self.secretbox()?.encrypt(&nonce.into(), plain.as_slice());
                sealed.extend_from_slice(&nonce);
                sealed.extend(boxed.map_err(|_| "the value cannot be encrypted".to_owned())?);
            }
        }
        Ok(sealed)
    }

    fn secretbox(&self) -> Result<XSalsa20Poly1305, String> {
        XSalsa20Poly1305::new_from_slice(&self.secret).map_err(|_| "the key is of no use".to_owned())
    }

    fn open(&self, kind: Kind, value: &[u8], path: &[u8]) -> Result<Vec<u8>, String> {
        let failed = || "the value cannot be decrypted: no key fits, or it is damaged".to_owned();
        let sealed = value.get(self.prefix.len()..).ok_or_else(failed)?;
        match kind {
            Kind::AesCbc => {
                let (iv, text) = sealed.split_at_checked(IV).ok_or_else(failed)?;
                let iv = FixedLength::<IV>::try_from(iv).map_err(|_| failed())?;
                let key = PaddedBlockDecryptingKey::cbc_pkcs7(self.cipher()?).map_err(|_| failed())?;
                let mut text = text.to_vec();
                let plain = key.decrypt(&mut text, DecryptionContext::Iv128(iv)).map_err(|_| failed())?.len();
                text.truncate(plain);
                Ok(text)
            }
            Kind::AesGcm => open_gcm(&self.secret, sealed, path),
            Kind::Secretbox => {
                let (nonce, text) = sealed.split_at_checked(BOX_NONCE).ok_or_else(failed)?;
                let nonce: [u8; BOX_NONCE] = nonce.try_into().map_err(|_| failed())?;
                self.secretbox()?.decrypt(&nonce.into(), text).map_err(|_| failed())
            }
        }
    }
}

/// Appends a nonce, and the text with its tag; the tag is of `path` as well.
pub(super) fn seal_gcm(
    key: &[u8],
    mut plain: Vec<u8>,
    path: &[u8],
    sealed: &mut Vec<u8>,
) -> Result<(), String> {
    let failed = |_| "the value cannot be encrypted".to_owned();
    let mut nonce = [0; GCM_NONCE];
    rand::fill(&mut nonce).map_err(failed)?;
    let bound = Nonce::assume_unique_for_key(nonce);
    gcm(key)?.seal_in_place_append_tag(bound, Aad::from(path), &mut plain).map_err(failed)?;
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(&plain);
    Ok(())
}

/// The text of what [`seal_gcm`] appended.
pub(super) fn open_gcm(key: &[u8], sealed: &[u8], path: &[u8]) -> Result<Vec<u8>, String> {
    let failed = || "the value cannot be decrypted: no key fits, or it is damaged".to_owned();
    let (nonce, text) = sealed.split_at_checked(GCM_NONCE).ok_or_else(failed)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| failed())?;
    let mut text = text.to_vec();
    let plain = gcm(key)?.open_in_place(nonce, Aad::from(path), &mut text).map_err(|_| failed())?.len();
    text.truncate(plain);
    Ok(text)
}

fn gcm(key: &[u8]) -> Result<LessSafeKey, String> {
    let algorithm = match key.len() {
        16 => &aead::AES_128_GCM,
        24 => &aead::AES_192_GCM,
        _ => &aead::AES_256_GCM,
    };
    let key = UnboundKey::new(algorithm, key).map_err(|_| "the key is of no use".to_owned())?;
    Ok(LessSafeKey::new(key))
}

impl Provider {
    pub(super) fn is_identity(&self) -> bool {
        matches!(self, Self::Identity)
    }

    /// Whether a value may be one of its.
    pub(super) fn reads(&self, value: &[u8]) -> bool {
        match self {
            Self::Identity => !value.starts_with(MARK),
            Self::Keys(_, keys) => keys.iter().any(|key| value.starts_with(&key.prefix)),
            Self::Kms(kms) => kms.reads(value),
        }
    }

    /// Whether a value is as it would write it now.
    pub(super) fn wrote(&self, value: &[u8]) -> bool {
        match self {
            Self::Identity => !value.starts_with(MARK),
            Self::Keys(_, keys) => keys.first().is_some_and(|key| value.starts_with(&key.prefix)),
            Self::Kms(kms) => kms.wrote(value),
        }
    }

    /// What metrics call it.
    pub(super) fn prefix(&self) -> &str {
        match self {
            Self::Identity => "identity",
            Self::Keys(kind, _) => kind.prefix(),
            Self::Kms(kms) => kms.prefix(),
        }
    }

    /// Encrypts with the first key.
    pub(super) fn seal(&self, plain: Vec<u8>, path: &[u8]) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Identity => Ok(plain),
            Self::Keys(kind, keys) => {
                let key = keys.first().ok_or_else(|| "the provider has no key".to_owned())?;
                Ok(key.seal(*kind, plain, path)?)
            }
            Self::Kms(kms) => kms.seal(plain, path),
        }
    }

    /// Decrypts with the key that a value names; several may have the same name.
    pub(super) fn open(&self, value: &[u8], path: &[u8]) -> Result<Vec<u8>, Failure> {
        let (kind, keys) = match self {
            Self::Identity => return Ok(value.to_vec()),
            Self::Kms(kms) => return kms.open(value, path),
            Self::Keys(kind, keys) => (kind, keys),
        };
        let mut outcome = Err("no key of that name".to_owned());
        for key in keys.iter().filter(|key| value.starts_with(&key.prefix)) {
            outcome = key.open(*kind, value, path);
            if outcome.is_ok() {
                break;
            }
        }
        outcome.map_err(Failure::Value)
    }
}
