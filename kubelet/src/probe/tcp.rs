//! Probe by opening a connection.

use std::time::Duration;

use k8s_openapi::api::core::v1::TCPSocketAction;

use super::{Finding, Target, join, port};

/// Opens and closes the connection.
pub async fn probe(target: &Target<'_>, action: &TCPSocketAction, timeout: Duration) -> Finding {
    let port = match port(&action.port, target.container) {
        Ok(port) => port,
        Err(text) => return Finding::Unknown(text),
    };
    let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(target.ip);
    let address = join(host, port);
    match tokio::time::timeout(timeout, tokio::net::TcpStream::connect(&address)).await {
        Ok(Ok(_)) => Finding::Success,
        Ok(Err(error)) => Finding::Failure(format!("dial tcp {address}: {error}")),
        Err(_) => Finding::Failure(format!("dial tcp {address}: i/o timeout")),
    }
}
