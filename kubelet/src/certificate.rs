//! Certificates that the cluster signs for this node: the one the kubelet shows to the API server, and the one it serves
//! with. `request` makes and sends signing requests, `store` keeps what comes back, `rotation` asks again in time; `pod` has
//! those of pods.
//!
//! ```text
//! bootstrap kubeconfig -> request -> approved and signed -> <cert-dir>/kubelet-client-current.pem, kubeconfig
//!                            ^------------------------- 70 % to 90 % of its life later -----------+
//! ```
//! Contract: TLS bootstrapping; signers kubernetes.io/kube-apiserver-client-kubelet and kubernetes.io/kubelet-serving;
//! names of files as upstream, so that either kubelet goes on with the other's.

pub mod bootstrap;
pub mod pod;
pub mod request;
pub mod rotation;
pub mod store;

use std::{io, path::PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use component_base::{client::ClientError, tls::TlsError};

/// Letters in a line of PEM.
const COLUMNS: usize = 64;

/// Certificates as PEM, with nothing beside.
pub fn to_pem(certificates: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Vec<u8> {
    let mut text = String::new();
    for one in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let mut letters = STANDARD.encode(one);
        while !letters.is_empty() {
            let rest = letters.split_off(COLUMNS.min(letters.len()));
            text.push_str(&letters);
            text.push('\n');
            letters = rest;
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text.into_bytes()
}

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Shown to the API server.
    Client,
    /// Served with.
    Serving,
}

impl Purpose {
    /// The signer's name.
    #[must_use]
    pub fn signer(self) -> &'static str {
        match self {
            Self::Client => "kubernetes.io/kube-apiserver-client-kubelet",
            Self::Serving => "kubernetes.io/kubelet-serving",
        }
    }

    /// What the certificate may be used for.
    #[must_use]
    pub fn usages(self) -> [&'static str; 2] {
        match self {
            Self::Client => ["digital signature", "client auth"],
            Self::Serving => ["digital signature", "server auth"],
        }
    }

    /// What its files' names begin with.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Client => "kubelet-client",
            Self::Serving => "kubelet-server",
        }
    }
}

/// A certificate could not be had.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// No key or request could be made.
    #[error("cannot make a certificate signing request: {0}")]
    Generate(#[from] rcgen::Error),
    /// The API server does not take the request.
    #[error("cannot send the certificate signing request: {0}")]
    Send(#[from] Box<kube::Error>),
    /// Somebody said no.
    #[error("certificate signing request {name} was {what}: {message}")]
    Refused {
        /// The request's name.
        name: String,
        /// `denied` or `failed`.
        what: &'static str,
        /// Why.
        message: String,
    },
    /// Nobody said anything.
    #[error("certificate signing request {0} was neither approved nor denied in time")]
    Unanswered(String),
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The signed certificate and the key are of no use.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The bootstrap kubeconfig is of no use.
    #[error("cannot use the bootstrap kubeconfig: {0}")]
    Client(#[from] ClientError),
    /// A kubeconfig without what it needs.
    #[error("the bootstrap kubeconfig {0} names no cluster")]
    NoCluster(PathBuf),
}
