//! One way to encrypt values, with its keys: the first seals, all of them open.
//!
//! Sealed values are `k8s:enc:<kind>:v1:<key's name>:` and then, for AES-CBC the vector and the padded text, for AES-GCM
//! the nonce and the text with its tag, bound to etcd's key; for secretbox the nonce and the box.

use std::fmt;

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

use super::MARK;

const IV: usize = 16;
const GCM_NONCE: usize = 12;
const BOX_NONCE: usize = 24;

/// Why a key is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// AES has keys of 16, 24 and 32 bytes, of which these are supported.
    #[error("secret is not of the expected length, should be one of 16 or 32 bytes")]
    Aes,
    /// Secretbox has keys of 32 bytes.
    #[error("secret is not of the expected length, should be 32 bytes")]
    Secretbox,
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
    fn word(self) -> &'static str {
        match self {
            Self::AesCbc => "aescbc",
            Self::AesGcm => "aesgcm",
            Self::Secretbox => "secretbox",
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
            (Kind::Secretbox, 32) | (Kind::AesCbc | Kind::AesGcm, 16 | 32) => {}
            (Kind::Secretbox, _) => return Err(KeyError::Secretbox),
            _ => return Err(KeyError::Aes),
        }
        let mut prefix = MARK.to_vec();
        prefix.extend_from_slice(format!("{}:v1:{name}:", kind.word()).as_bytes());
        Ok(Self { prefix, secret })
    }

    fn cipher(&self) -> Result<UnboundCipherKey, String> {
        let algorithm = if self.secret.len() == 16 { &cipher::AES_128 } else { &cipher::AES_256 };
        UnboundCipherKey::new(algorithm, &self.secret).map_err(|_| "the key is of no use".to_owned())
    }

    fn gcm(&self) -> Result<LessSafeKey, String> {
        let algorithm = if self.secret.len() == 16 { &aead::AES_128_GCM } else { &aead::AES_256_GCM };
        let key = UnboundKey::new(algorithm, &self.secret).map_err(|_| "the key is of no use".to_owned())?;
        Ok(LessSafeKey::new(key))
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
                let mut nonce = [0; GCM_NONCE];
                rand::fill(&mut nonce).map_err(failed)?;
                let key = self.gcm()?;
                let bound = Nonce::assume_unique_for_key(nonce);
                key.seal_in_place_append_tag(bound, Aad::from(path), &mut plain).map_err(failed)?;
                sealed.extend_from_slice(&nonce);
                sealed.extend_from_slice(&plain);
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
            Kind::AesGcm => {
                let (nonce, text) = sealed.split_at_checked(GCM_NONCE).ok_or_else(failed)?;
                let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| failed())?;
                let mut text = text.to_vec();
                let opened = self.gcm()?.open_in_place(nonce, Aad::from(path), &mut text);
                let plain = opened.map_err(|_| failed())?.len();
                text.truncate(plain);
                Ok(text)
            }
            Kind::Secretbox => {
                let (nonce, text) = sealed.split_at_checked(BOX_NONCE).ok_or_else(failed)?;
                let nonce: [u8; BOX_NONCE] = nonce.try_into().map_err(|_| failed())?;
                self.secretbox()?.decrypt(&nonce.into(), text).map_err(|_| failed())
            }
        }
    }
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
        }
    }

    /// Whether a value is as it would write it now.
    pub(super) fn wrote(&self, value: &[u8]) -> bool {
        match self {
            Self::Identity => !value.starts_with(MARK),
            Self::Keys(_, keys) => keys.first().is_some_and(|key| value.starts_with(&key.prefix)),
        }
    }

    /// Encrypts with the first key.
    pub(super) fn seal(&self, plain: Vec<u8>, path: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Self::Identity => Ok(plain),
            Self::Keys(kind, keys) => {
                let key = keys.first().ok_or("the provider has no key")?;
                key.seal(*kind, plain, path)
            }
        }
    }

    /// Decrypts with the key that a value names; several may have the same name.
    pub(super) fn open(&self, value: &[u8], path: &[u8]) -> Result<Vec<u8>, String> {
        let Self::Keys(kind, keys) = self else { return Ok(value.to_vec()) };
        let mut outcome = Err("no key of that name".to_owned());
        for key in keys.iter().filter(|key| value.starts_with(&key.prefix)) {
            outcome = key.open(*kind, value, path);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }
}
