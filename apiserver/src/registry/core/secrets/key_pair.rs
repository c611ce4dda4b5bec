//! Whether a secret of a serving certificate holds a key that goes with it.
//!
//! Contract: what a client of crypto/tls' `X509KeyPair` is told; the secret is stored whatever is found.

use base64::{Engine, prelude::BASE64_STANDARD};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls_pki_types::PrivateKeyDer;
use x509_parser::{certificate::X509Certificate, pem::Pem, prelude::FromDer, x509::SubjectPublicKeyInfo};

use crate::{object::Object, registry::kit::at::At};

/// What to warn of at a secret.
pub(super) fn warnings(secret: &Object) -> Vec<String> {
    if At::field(secret, "type").text() != "kubernetes.io/tls" {
        return Vec::new();
    }
    let data = At::field(secret, "data");
    let bytes = |key: &str| BASE64_STANDARD.decode(data.text_of(key)).unwrap_or_default();
    check(&bytes("tls.crt"), &bytes("tls.key")).err().into_iter().collect()
}

fn check(certificates: &[u8], keys: &[u8]) -> Result<(), String> {
    let (certificate, key) = (first_certificate(certificates)?, first_key(keys)?);
    let Ok((_, certificate)) = X509Certificate::from_der(&certificate.contents) else {
        return Err("x509: malformed certificate".to_owned());
    };
    let der = PrivateKeyDer::try_from(key.contents.as_slice());
    let signer = der.ok().and_then(|der| any_supported_type(&der).ok());
    let Some(own) = signer.as_ref().and_then(|signer| signer.public_key()) else {
        return Err("tls: failed to parse private key".to_owned());
    };
    let shown = certificate.public_key();
    if own.as_ref() == shown.raw {
        return Ok(());
    }
    let same_kind = SubjectPublicKeyInfo::from_der(own.as_ref())
        .is_ok_and(|(_, own)| own.algorithm.algorithm == shown.algorithm.algorithm);
    let what = if same_kind { "private key" } else { "private key type" };
    let whose = if same_kind { "public key" } else { "public key type" };
    Err(format!("tls: {what} does not match {whose}"))
}

/// The first block of a kind, or the labels of all that are there instead.
fn first(pem: &[u8], wanted: impl Fn(&str) -> bool) -> Result<Pem, Vec<String>> {
    let mut others = Vec::new();
    for block in Pem::iter_from_buffer(pem).map_while(Result::ok) {
        if wanted(&block.label) {
            return Ok(block);
        }
        others.push(block.label);
    }
    Err(others)
}

fn first_certificate(pem: &[u8]) -> Result<Pem, String> {
    first(pem, |label| label == "CERTIFICATE").map_err(|others| match others.as_slice() {
        [] => "tls: failed to find any PEM data in certificate input".to_owned(),
        [one] if one.ends_with("PRIVATE KEY") => {
            "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may \
             have been switched"
                .to_owned()
        }
        all => format!(
            "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the \
             following types: [{}]",
            all.join(" ")
        ),
    })
}

fn first_key(pem: &[u8]) -> Result<Pem, String> {
    let is_key = |label: &str| label == "PRIVATE KEY" || label.ends_with(" PRIVATE KEY");
    first(pem, is_key).map_err(|others| match others.as_slice() {
        [] => "tls: failed to find any PEM data in key input".to_owned(),
        [one] if one == "CERTIFICATE" => {
            "tls: found a certificate rather than a key in the PEM for the private key".to_owned()
        }
        all => format!(
            "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM blocks \
             of the following types: [{}]",
            all.join(" ")
        ),
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};

    use super::*;

    #[test]
    fn a_key_that_does_not_go_with_its_certificate_is_warned_of() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
        let stranger = KeyPair::generate_for(&PKCS_ED25519).unwrap().serialize_pem();
        let certificate =
            CertificateParams::new(vec!["a.b".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        let key = key.serialize_pem();
        let nothing = String::new();
        let table = [
            (&certificate, &key, None),
            (&certificate, &other, Some("tls: private key does not match public key")),
            (&certificate, &stranger, Some("tls: private key type does not match public key type")),
            (&nothing, &key, Some("tls: failed to find any PEM data in certificate input")),
            (&certificate, &nothing, Some("tls: failed to find any PEM data in key input")),
            (
                &certificate,
                &certificate,
                Some("tls: found a certificate rather than a key in the PEM for the private key"),
            ),
            (
                &key,
                &certificate,
                Some(
                    "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM \
                     inputs may have been switched",
                ),
            ),
        ];
        for (certificate, key, want) in table {
            let found = check(certificate.as_bytes(), key.as_bytes()).err();
            assert_eq!(found.as_deref(), want);
        }
    }
}
