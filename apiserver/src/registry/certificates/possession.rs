//! Whether who asks for a certificate has the key it is for: the key has signed the pod's UID.
//!
//! Contract: certificates/v1beta1 `PodCertificateRequestSpec.proofOfPossession`; KEP-4317. Ed25519 signs the UID, ECDSA
//! and RSA its SHA-256, RSA by PSS (RFC 8017, sections 8.1.2 and 9.1.2) with a salt of any length.

use aws_lc_rs::{
    digest::{SHA256, SHA256_OUTPUT_LEN, digest},
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P521_SHA256_ASN1, ED25519, UnparsedPublicKey,
        VerificationAlgorithm,
    },
};
use num_bigint::BigUint;
use x509_parser::{
    public_key::{PublicKey, RSAPublicKey},
    x509::SubjectPublicKeyInfo,
};

/// Curves keys may be on, by OID.
const CURVES: [(&str, &'static dyn VerificationAlgorithm); 3] = [
    ("1.2.840.10045.3.1.7", &ECDSA_P256_SHA256_ASN1),
    ("1.3.132.0.34", &ECDSA_P384_SHA256_ASN1),
    ("1.3.132.0.35", &ECDSA_P521_SHA256_ASN1),
];

/// Whether the signature is the key's, of this text.
pub(super) fn is_proven(key: &SubjectPublicKeyInfo<'_>, text: &str, signature: &[u8]) -> bool {
    let bits = key.subject_public_key.data.as_ref();
    let algorithm: &'static dyn VerificationAlgorithm = match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => return is_pss(&rsa, text.as_bytes(), signature),
        Ok(PublicKey::EC(_)) => {
            let curve = key.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
            let curve = curve.map(|oid| oid.to_id_string()).unwrap_or_default();
            let Some((_, algorithm)) = CURVES.iter().find(|(oid, _)| *oid == curve) else { return false };
            *algorithm
        }
        _ => &ED25519,
    };
    UnparsedPublicKey::new(algorithm, bits).verify(text.as_bytes(), signature).is_ok()
}

/// The signature opened with the key, and what it holds held against the text.
fn is_pss(key: &RSAPublicKey<'_>, text: &[u8], signature: &[u8]) -> bool {
    let (modulus, exponent) = (BigUint::from_bytes_be(key.modulus), BigUint::from_bytes_be(key.exponent));
    let sent = BigUint::from_bytes_be(signature);
    let size = usize::try_from(modulus.bits()).unwrap_or_default();
    // A public exponent is small; one that is not would cost time for nothing.
    if size == 0 || exponent.bits() > 32 || sent >= modulus || signature.len() != size.div_ceil(8) {
        return false;
    }
    let opened = sent.modpow(&exponent, &modulus).to_bytes_be();
    let length = (size - 1).div_ceil(8);
    let Some(padding) = length.checked_sub(opened.len()) else { return false };
    let block = [vec![0; padding], opened].concat();
    is_encoded(&block, size - 1, text)
}

/// Whether a block of so many bits is a text's, whatever salt it was made with.
fn is_encoded(block: &[u8], bits: usize, text: &[u8]) -> bool {
    const TRAILER: u8 = 0xbc;
    let Some((&TRAILER, rest)) = block.split_last() else { return false };
    let Some(end) = rest.len().checked_sub(SHA256_OUTPUT_LEN) else { return false };
    let (masked, hash) = rest.split_at(end);
    // Bits of the first byte that the block does not reach.
    let Ok(unused) = u32::try_from(block.len() * 8 - bits.min(block.len() * 8)) else { return false };
    let top = !0xff_u8.checked_shr(unused).unwrap_or(0);
    let Some(first) = masked.first() else { return false };
    if first & top != 0 {
        return false;
    }
    let mut plain: Vec<u8> = masked.iter().zip(mask(hash, masked.len())).map(|(a, b)| a ^ b).collect();
    plain[0] &= !top;
    // Zeros, a one, the salt.
    let Some(one) = plain.iter().position(|byte| *byte != 0) else { return false };
    if plain[one] != 1 {
        return false;
    }
    let hashed = digest(&SHA256, text);
    let whole = [&[0; 8][..], hashed.as_ref(), &plain[one + 1..]].concat();
    digest(&SHA256, &whole).as_ref() == hash
}

/// MGF1 of SHA-256.
fn mask(seed: &[u8], length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(length + SHA256_OUTPUT_LEN);
    for counter in 0_u32.. {
        if out.len() >= length {
            break;
        }
        out.extend_from_slice(digest(&SHA256, &[seed, &counter.to_be_bytes()].concat()).as_ref());
    }
    out.truncate(length);
    out
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        rand::SystemRandom,
        signature::{KeyPair as _, RSA_PSS_SHA256, RsaKeyPair},
    };
    use rcgen::{
        KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData, SigningKey,
    };
    use x509_parser::prelude::FromDer;

    use super::*;

    const UID: &str = "6a0b1a40-0000-4000-8000-5a5a5a5a5a5a";

    fn info(der: &[u8]) -> SubjectPublicKeyInfo<'_> {
        SubjectPublicKeyInfo::from_der(der).unwrap().1
    }

    #[test]
    fn curves_prove_what_they_signed() {
        // Ed25519 and P-256 sign as a pod's key does; P-384 here hashes by another function, and so proves nothing.
        for (algorithm, proven) in
            [(&PKCS_ED25519, true), (&PKCS_ECDSA_P256_SHA256, true), (&PKCS_ECDSA_P384_SHA384, false)]
        {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let signature = key.sign(UID.as_bytes()).unwrap();
            let der = key.subject_public_key_info();
            assert_eq!(is_proven(&info(&der), UID, &signature), proven);
            assert!(!is_proven(&info(&der), "another", &signature));
            assert!(!is_proven(&info(&der), UID, &[]));
            let other = KeyPair::generate_for(algorithm).unwrap().subject_public_key_info();
            assert!(!is_proven(&info(&other), UID, &signature));
        }
    }

    #[test]
    fn rsa_proves_by_pss() {
        let key = RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa3072).unwrap();
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(&RSA_PSS_SHA256, &SystemRandom::new(), UID.as_bytes(), &mut signature).unwrap();
        let (_, public) = RSAPublicKey::from_der(key.public_key().as_ref()).unwrap();
        assert!(is_pss(&public, UID.as_bytes(), &signature));
        assert!(!is_pss(&public, b"another", &signature));
        for at in [0, 100, signature.len() - 1] {
            let mut broken = signature.clone();
            broken[at] ^= 1;
            assert!(!is_pss(&public, UID.as_bytes(), &broken));
        }
        assert!(!is_pss(&public, UID.as_bytes(), &signature[1..]));
        assert!(!is_pss(&RSAPublicKey { modulus: &[], exponent: &[] }, b"", b""));
    }

    #[test]
    fn a_salt_has_any_length() {
        // Blocks are made here as RFC 8017, section 9.1.1, says.
        for (salt, bits) in [(0_usize, 1023_usize), (20, 1023), (94, 1023), (32, 1024), (32, 1017)] {
            let salt = vec![7; salt];
            let length = bits.div_ceil(8);
            let hashed = digest(&SHA256, UID.as_bytes());
            let hash = digest(&SHA256, &[&[0; 8][..], hashed.as_ref(), &salt].concat());
            let zeros = vec![0; length - salt.len() - SHA256_OUTPUT_LEN - 2];
            let plain = [zeros, vec![1], salt].concat();
            let mut masked: Vec<u8> =
                plain.iter().zip(mask(hash.as_ref(), plain.len())).map(|(a, b)| a ^ b).collect();
            masked[0] &= 0xff >> (length * 8 - bits);
            let block = [masked, hash.as_ref().to_vec(), vec![0xbc]].concat();
            assert!(is_encoded(&block, bits, UID.as_bytes()), "{bits}");
            assert!(!is_encoded(&block, bits, b"another"));
        }
        assert!(!is_encoded(&[0xbc], 8, b""));
        assert!(!is_encoded(&[], 0, b""));
    }
}
