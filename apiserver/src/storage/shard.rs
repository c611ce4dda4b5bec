//! A part of all objects: those of which a field hashes into some ranges.
//!
//! Contract: KEP-5866; the hash is 64-bit FNV-1a, as in apimachinery's `sharding`.

use std::{fmt, ops::Range};

use super::Entry;

/// One past the greatest hash.
pub const END: u128 = 1 << 64;

/// What is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardKey {
    /// `metadata.uid`.
    Uid,
    /// `metadata.namespace`; empty for objects of the cluster.
    Namespace,
}

/// A part of all objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// What is hashed.
    pub key: ShardKey,
    /// Where the hash has to be; up to [`END`].
    pub ranges: Vec<Range<u128>>,
}

impl ShardKey {
    /// As selectors name it.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Uid => "object.metadata.uid",
            Self::Namespace => "object.metadata.namespace",
        }
    }
}

impl Shard {
    /// Whether an object belongs to it.
    pub fn has(&self, entry: &Entry) -> bool {
        let hash = match self.key {
            ShardKey::Uid => hash(entry.uid()),
            ShardKey::Namespace => hash(entry.namespace()),
        };
        self.ranges.iter().any(|range| range.contains(&hash.into()))
    }
}

/// The selector in its canonical form.
impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Range { start, end }) in self.ranges.iter().enumerate() {
            let or = if at == 0 { "" } else { " || " };
            write!(f, "{or}shardRange({}, '0x{start:016x}', '0x{end:016x}')", self.key.path())?;
        }
        Ok(())
    }
}

fn hash(text: &str) -> u64 {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_specification() {
        // From the reference of the FNV hashes.
        assert_eq!(hash(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(hash("foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn selectors_have_one_form() {
        let shard = Shard { key: ShardKey::Namespace, ranges: vec![0..0xff, 1 << 63..END] };
        assert_eq!(
            shard.to_string(),
            "shardRange(object.metadata.namespace, '0x0000000000000000', '0x00000000000000ff') || \
             shardRange(object.metadata.namespace, '0x8000000000000000', '0x10000000000000000')"
        );
    }
}
