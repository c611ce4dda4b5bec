//! Probe by the gRPC health protocol v1: `SERVING` is success.
//!
//! Contract: grpc.health.v1 Health/Check; the two messages are small enough to be written out here.

use std::time::Duration;

use k8s_openapi::api::core::v1::GRPCAction;
use tonic::{client::Grpc, transport::Endpoint};

use super::{Finding, Target, join};

#[derive(Clone, PartialEq, prost::Message)]
struct CheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;

/// Asks for the health of the service.
pub async fn probe(target: &Target<'_>, action: &GRPCAction, timeout: Duration) -> Finding {
    let Ok(port) = u16::try_from(action.port) else {
        return Finding::Unknown(format!("invalid port number: {}", action.port));
    };
    let address = join(target.ip, port);
    let service = action.service.clone().unwrap_or_default();
    match tokio::time::timeout(timeout, check(&address, service)).await {
        Err(_) => {
            Finding::Failure(format!("timeout: failed to connect service {address:?} within {timeout:?}"))
        }
        Ok(Ok(SERVING)) => Finding::Success,
        Ok(Ok(status)) => Finding::Failure(format!("service unhealthy (responded with {:?})", name(status))),
        Ok(Err(CheckError::Connect(error))) => {
            Finding::Failure(format!("error: failed to connect service at {address:?}: {error}"))
        }
        Ok(Err(CheckError::Call(status))) if status.code() == tonic::Code::Unimplemented => Finding::Failure(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health)"
                .to_owned(),
        ),
        Ok(Err(CheckError::Call(status))) => Finding::Failure(format!("error: health rpc failed: {status}")),
    }
}

fn name(status: i32) -> &'static str {
    match status {
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    }
}

#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error(transparent)]
    Connect(#[from] tonic::transport::Error),
    #[error(transparent)]
    Call(#[from] tonic::Status),
}

async fn check(address: &str, service: String) -> Result<i32, CheckError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.user_agent("kube-probe/1.36")?;
    let mut client = Grpc::new(endpoint.connect().await?);
    client.ready().await?;
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = tonic_prost::ProstCodec::<CheckRequest, CheckResponse>::default();
    let answer = client.unary(tonic::Request::new(CheckRequest { service }), path, codec).await?;
    Ok(answer.into_inner().status)
}
