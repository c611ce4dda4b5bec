//! FNV hashes as upstream's controllers use them, and the short label-safe hash of an object's template.

use serde::Serialize;

const OFFSET_32: u32 = 0x811c_9dc5;
const PRIME_32: u32 = 0x0100_0193;
const OFFSET_64: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME_64: u64 = 0x0000_0100_0000_01b3;

/// FNV-1, 32 bits (`fnv.New32`).
pub fn fnv32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(OFFSET_32, |hash, byte| hash.wrapping_mul(PRIME_32) ^ u32::from(*byte))
}

/// FNV-1a, 32 bits (`fnv.New32a`).
pub fn fnv32a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(OFFSET_32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(PRIME_32))
}

/// FNV-1, 64 bits (`fnv.New64`).
pub fn fnv64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(OFFSET_64, |hash, byte| hash.wrapping_mul(PRIME_64) ^ u64::from(*byte))
}

/// FNV-1a, 64 bits (`fnv.New64a`).
pub fn fnv64a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(OFFSET_64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME_64))
}

/// The hash a controller writes into `pod-template-hash` and names: FNV-1a over the template's JSON and the collision count,
/// in label-safe letters. (Upstream hashes Go's memory dump of the template; the value is opaque to all readers.)
///
/// # Errors
/// When the template does not encode, which its types rule out.
pub fn template_hash(template: &impl Serialize, collision_count: Option<i32>) -> serde_json::Result<String> {
    let mut bytes = serde_json::to_vec(template)?;
    if let Some(count) = collision_count {
        bytes.extend_from_slice(&(count as u64).to_le_bytes());
    }
    Ok(crate::names::safe_encode(&fnv32a(&bytes).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        assert_eq!(fnv32(b"hello"), 0xb6fa_7167);
        assert_eq!(fnv32a(b"hello"), 0x4f9f_2cab);
        assert_eq!(fnv64(b"hello"), 0x7b49_5389_bdbd_d4c7);
        assert_eq!(fnv64a(b"hello"), 0xa430_d846_80aa_bd0b);
    }

    #[test]
    fn collision_count_changes_the_template_hash() {
        let hash = |count| template_hash(&serde_json::json!({"a": 1}), count).unwrap();
        assert_eq!(hash(None), hash(None));
        assert_ne!(hash(None), hash(Some(1)));
    }
}
