//! Generated object names and label-safe encodings (apiserver's `names.SimpleNameGenerator`, apimachinery's `util/rand`).

use rand::Rng;

/// No vowels (no words), and no digits that read like letters.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX: usize = 5;
const MAX_NAME: usize = 63;
/// Longest base that keeps its generated name within a DNS label.
pub const MAX_GENERATED_BASE: usize = MAX_NAME - SUFFIX;

/// `length` random characters of the name alphabet.
pub fn suffix(length: usize, random: &mut impl Rng) -> String {
    (0..length).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])).collect()
}

/// The name the API server gives an object with this `generateName`: the base, cut to 58 bytes, and five random characters.
pub fn generate(base: &str, random: &mut impl Rng) -> String {
    let mut end = base.len().min(MAX_GENERATED_BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{}", &base[..end], suffix(SUFFIX, random))
}

/// Maps every byte of `text` into the name alphabet, as hashes in labels and names are written.
pub fn safe_encode(text: &str) -> String {
    text.bytes().map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()])).collect()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn generated_names_fit_a_label_and_use_the_alphabet() {
        let mut random = rand::rngs::SmallRng::seed_from_u64(7);
        for base in ["web-", &"x".repeat(80), &"\u{e9}".repeat(40), ""] {
            let name = generate(base, &mut random);
            assert!(name.len() <= MAX_NAME, "{name}");
            assert!(name.bytes().rev().take(5).all(|byte| ALPHABET.contains(&byte)), "{name}");
        }
    }

    #[test]
    fn encodes_as_upstream() {
        assert_eq!(safe_encode("1234567890"), "56789bcdf4");
    }
}
