//! Upgraded connections: the bytes of both sides handed on, half-closes kept, with one bounded buffer each way.
//!
//! Contract: RFC 9110 §7.8; upstream's `UpgradeAwareHandler.tryUpgrade`.

use component_base::task::Tasks;
use http::{HeaderMap, Request, Response, StatusCode, header};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;

use super::{dial::Answer, log};
use crate::{
    response::{self, Body},
    status::{Reason, Status},
};

/// Whether a request asks for another protocol.
pub(super) fn is_upgrade(headers: &HeaderMap) -> bool {
    let connection = headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    connection.flat_map(|v| v.split(',')).any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
}

/// The upgraded connection a request will become.
pub(super) fn on(request: &mut Request<Incoming>) -> Result<OnUpgrade, Status> {
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    upgrade.ok_or_else(|| Status::internal("request connection cannot be upgraded"))
}

/// Hands the backend's answer to an upgrade on, and joins the connections if it agreed.
pub(super) fn join(
    mut request: Request<Incoming>,
    mut answer: Answer,
    tasks: &Tasks,
) -> Result<Response<Body>, Status> {
    let code = answer.response.status();
    if code != StatusCode::SWITCHING_PROTOCOLS {
        return refused(answer);
    }
    let client = on(&mut request)?;
    let backend = hyper::upgrade::on(&mut answer.response);
    let mut response = Response::new(response::full(bytes::Bytes::new()));
    *response.status_mut() = code;
    *response.headers_mut() = std::mem::take(answer.response.headers_mut());
    let (drain, guard) = (tasks.drain(), answer.guard);
    tasks.spawn_contained("tunnel", async move {
        let _connection = guard;
        drain.run_until_cancelled(copy(client, backend)).await;
    });
    Ok(response)
}

/// A backend that does not want the other protocol: its failure is the client's, anything else makes no sense.
pub(super) fn refused(mut answer: Answer) -> Result<Response<Body>, Status> {
    let code = answer.response.status();
    if code.as_u16() < 400 {
        let why = format!("invalid upgrade response: status code {}", code.as_u16());
        return Err(Status::new(500, Reason::Unknown, why));
    }
    let mut headers = std::mem::take(answer.response.headers_mut());
    super::forward::remove_hop_by_hop(&mut headers);
    let mut response = Response::new(log::body(answer));
    *response.status_mut() = code;
    *response.headers_mut() = headers;
    Ok(response)
}

async fn copy(client: OnUpgrade, backend: OnUpgrade) {
    let (client, backend) = match tokio::try_join!(client, backend) {
        Ok(both) => both,
        Err(error) => return tracing::debug!(%error, "a connection was not upgraded"),
    };
    let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut backend).await {
        tracing::debug!(%error, "tunnel ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upgrades_are_told_by_the_connection_header() {
        for (value, want) in
            [("Upgrade", true), ("keep-alive, upgrade", true), ("close", false), ("upgraded", false)]
        {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONNECTION, value.parse().unwrap());
            assert_eq!(is_upgrade(&headers), want, "{value}");
        }
    }
}
