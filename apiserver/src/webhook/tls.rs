//! Whom a webhook's certificate is believed: the bundle's authorities, or the certificate itself where the bundle has it.

use std::sync::Arc;

use component_base::tls::{
    AnyServerCertificate,
    trust::{ServerTrust, system_roots},
};
use rustls::{
    ClientConfig, RootCertStore,
    client::danger::ServerCertVerifier,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// The configuration of connections to a webhook with this bundle.
pub(super) fn config(bundle: &[u8]) -> Result<ClientConfig, String> {
    config_with(bundle, None, false)
}

/// The same with a certificate of our own; `trusts_anybody` looks at no other's.
pub(super) fn config_with(
    bundle: &[u8],
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    trusts_anybody: bool,
) -> Result<ClientConfig, String> {
    let verifier: Arc<dyn ServerCertVerifier> = match trusts_anybody {
        true => Arc::new(AnyServerCertificate::default()),
        false => Arc::new(trust(bundle)?),
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|e| e.to_string()),
        None => Ok(builder.with_no_client_auth()),
    }
}

/// Whom a bundle believes; an empty one whom the system does.
fn trust(bundle: &[u8]) -> Result<ServerTrust, String> {
    let read = CertificateDer::pem_slice_iter(bundle).collect::<Result<Vec<_>, _>>();
    let pinned = read.map_err(|e| format!("unable to load root certificates: {e}"))?;
    let roots = if bundle.is_empty() {
        system_roots()
    } else {
        let mut roots = RootCertStore::empty();
        let (_added, _left_out) = roots.add_parsable_certificates(pinned.iter().cloned());
        roots
    };
    if roots.is_empty() {
        return Err("unable to load root certificates: unable to parse bytes as PEM block".to_owned());
    }
    ServerTrust::new(roots, pinned).map_err(|e| e.to_string())
}
