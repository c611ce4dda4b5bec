//! What is stored, and what of it a plugin made: the encrypted seed with all that it takes to decrypt it.
//!
//! Contract: upstream's `kmsv2.EncryptedObject`, byte for byte, and its limits.

use std::collections::BTreeMap;

use aws_lc_rs::hkdf;
use prost::Message;

use crate::{
    encryption::provider::{open_gcm, seal_gcm},
    validate,
};

/// Bytes of a seed, and of the random bytes a key is derived with.
pub(super) const SEED: usize = 32;
/// `EncryptedDEKSourceType`: an AES-GCM key, of the time before seeds.
const KEY: i32 = 0;
/// `EncryptedDEKSourceType`: a seed that keys are derived from.
pub(super) const DERIVED: i32 = 1;
/// Bytes a key's name or an encrypted seed may have.
const MAX_NAME: usize = 1024;
/// Bytes the plugin's notes may have.
const MAX_NOTES: usize = 32 * 1024;

/// What is stored.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct EncryptedObject {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) data: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) key_id: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) seed: Vec<u8>,
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub(super) annotations: BTreeMap<String, Vec<u8>>,
    #[prost(int32, tag = "5")]
    pub(super) source: i32,
}

/// An encrypted seed, with all that the plugin needs to decrypt it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Sealed {
    pub(super) seed: Vec<u8>,
    pub(super) key_id: String,
    pub(super) annotations: BTreeMap<String, Vec<u8>>,
    /// [`KEY`] or [`DERIVED`].
    pub(super) source: i32,
}

/// A decrypted seed, ready for use.
pub(super) enum Secret {
    Key(Vec<u8>),
    Seed(hkdf::Prk),
}

/// What is wrong with the name of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeyIdError {
    #[error("keyID is empty")]
    Empty,
    #[error("keyID is {0} bytes, which exceeds the max size of {MAX_NAME}")]
    TooLong(usize),
}

impl KeyIdError {
    pub(super) fn check(key_id: &str) -> Result<(), Self> {
        match key_id.len() {
            0 => Err(Self::Empty),
            many if many > MAX_NAME => Err(Self::TooLong(many)),
            _ => Ok(()),
        }
    }

    /// The metrics' word for it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLong(_) => "too_long",
        }
    }
}

impl Sealed {
    /// Whether it is what a plugin may make.
    pub(super) fn check(&self) -> Result<(), String> {
        if !matches!(self.source, KEY | DERIVED) {
            return Err(format!("unknown encryptedDEKSourceType: {}", self.source));
        }
        let source = "failed to validate encrypted DEK source: encrypted DEK source is";
        match self.seed.len() {
            0 => return Err(format!("{source} empty")),
            many if many > MAX_NAME => {
                return Err(format!("{source} {many} bytes, which exceeds the max size of {MAX_NAME}"));
            }
            _ => {}
        }
        KeyIdError::check(&self.key_id).map_err(|why| format!("failed to validate key id: {why}"))?;
        self.check_notes().map_err(|why| format!("failed to validate annotations: {why}"))
    }

    fn check_notes(&self) -> Result<(), String> {
        if let Some(name) = self.annotations.keys().find(|name| !is_domain(name)) {
            return Err(format!("annotations: {name:?} should be a domain with at least two segments"));
        }
        let notes: usize = self.annotations.iter().map(|(name, note)| name.len() + note.len()).sum();
        match notes > MAX_NOTES {
            true => Err(format!(
                "total size of annotations is {notes}, which exceeds the max size of {MAX_NOTES}"
            )),
            false => Ok(()),
        }
    }
}

fn is_domain(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let labels = || name.split('.');
    labels().count() > 1
        && labels().all(|label| validate::dns_label(label, false).is_empty())
        && validate::dns_subdomain(name, false).is_empty()
}

impl Secret {
    /// What a plugin decrypted, or is about to encrypt.
    pub(super) fn new(source: i32, bytes: &[u8]) -> Result<Self, String> {
        match source {
            DERIVED if bytes.len() < SEED => {
                Err(format!("invalid seed length {} used for key generation", bytes.len()))
            }
            DERIVED => Ok(Self::Seed(hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, bytes))),
            _ => Ok(Self::Key(bytes.to_vec())),
        }
    }

    /// Encrypts with a key of its own, which the random bytes in front of the result lead to.
    pub(super) fn seal(&self, plain: Vec<u8>, path: &[u8]) -> Result<Vec<u8>, String> {
        let Self::Seed(seed) = self else { return Err("keys of plugins only decrypt".to_owned()) };
        let mut data = vec![0; SEED];
        aws_lc_rs::rand::fill(&mut data).map_err(|_| "there are no random bytes".to_owned())?;
        let key = derived(seed, &data)?;
        seal_gcm(&key, plain, path, &mut data)?;
        Ok(data)
    }

    pub(super) fn open(&self, data: &[u8], path: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Self::Key(key) => open_gcm(key, data, path),
            Self::Seed(seed) => {
                let short = "the stored data was shorter than the required size";
                let (random, text) = data.split_at_checked(SEED).ok_or(short)?;
                open_gcm(&derived(seed, random)?, text, path)
            }
        }
    }
}

/// A key of a seed: HKDF-SHA256's expansion by some random bytes.
fn derived(seed: &hkdf::Prk, random: &[u8]) -> Result<[u8; SEED], String> {
    let failed = |_| "the key cannot be derived".to_owned();
    let mut key = [0; SEED];
    seed.expand(&[random], hkdf::HKDF_SHA256).map_err(failed)?.fill(&mut key).map_err(failed)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn what_no_plugin_may_make_is_refused() {
        let good =
            Sealed { seed: vec![1], key_id: "k".to_owned(), annotations: BTreeMap::new(), source: DERIVED };
        assert_eq!(good.check(), Ok(()));
        let notes = |name: &str, size: usize| BTreeMap::from([(name.to_owned(), vec![0; size])]);
        assert_eq!(Sealed { annotations: notes("a.b.", 9), ..good.clone() }.check(), Ok(()));
        for (bad, why) in [
            (Sealed { seed: Vec::new(), ..good.clone() }, "DEK source is empty"),
            (Sealed { seed: vec![0; 1025], ..good.clone() }, "DEK source is 1025 bytes"),
            (Sealed { key_id: String::new(), ..good.clone() }, "key id: keyID is empty"),
            (Sealed { key_id: "k".repeat(1025), ..good.clone() }, "keyID is 1025 bytes"),
            (Sealed { annotations: notes("bare", 1), ..good.clone() }, "annotations: \"bare\""),
            (Sealed { annotations: notes("A.b", 1), ..good.clone() }, "annotations: \"A.b\""),
            (Sealed { annotations: notes("a.b", 32 * 1024), ..good.clone() }, "annotations is 32771"),
            (Sealed { source: 2, ..good.clone() }, "unknown encryptedDEKSourceType: 2"),
        ] {
            let told = bad.check().unwrap_err();
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn keys_are_derived_as_rfc_5869_expands() {
        // The expansion of test case 1 of the RFC, whose info and pseudo-random key these are.
        let seed = hex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5");
        let Ok(Secret::Seed(seed)) = Secret::new(DERIVED, &seed) else { panic!("it is a seed") };
        let key = derived(&seed, &hex("f0f1f2f3f4f5f6f7f8f9")).unwrap();
        assert_eq!(key.to_vec(), hex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"));
        assert!(Secret::new(DERIVED, &[0; 31]).is_err());
    }

    #[test]
    fn values_of_both_kinds_open_at_their_place_only() {
        let seed = Secret::new(DERIVED, &[7; SEED]).unwrap();
        let data = seed.seal(b"text".to_vec(), b"/a").unwrap();
        assert_eq!(data.len(), SEED + 12 + 4 + 16);
        assert_eq!(seed.open(&data, b"/a").unwrap(), b"text");
        assert!(seed.open(&data, b"/b").is_err());
        assert!(seed.open(&data[..31], b"/a").is_err());
        for length in [16, 24, 32] {
            let key = vec![9; length];
            let mut data = Vec::new();
            seal_gcm(&key, b"text".to_vec(), b"/a", &mut data).unwrap();
            let key = Secret::new(KEY, &key).unwrap();
            assert_eq!(key.open(&data, b"/a").unwrap(), b"text");
            assert!(key.seal(Vec::new(), b"/a").is_err());
        }
    }

    #[test]
    fn stored_objects_are_upstreams_bytes() {
        // Field numbers and wire types as `protoc` has them of upstream's message.
        let object = EncryptedObject {
            data: vec![1, 2],
            key_id: "k".to_owned(),
            seed: vec![3],
            annotations: BTreeMap::from([("a.b".to_owned(), vec![4])]),
            source: DERIVED,
        };
        let bytes = hex("0a02010212016b1a01032208").into_iter().chain(hex("0a03612e6212010428"));
        let bytes: Vec<u8> = bytes.chain([1]).collect();
        assert_eq!(object.encode_to_vec(), bytes);
        assert_eq!(EncryptedObject::decode(bytes.as_slice()).unwrap(), object);
    }
}
