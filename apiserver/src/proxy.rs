//! Requests that end somewhere else: at a kubelet, a pod, a service or a node.
//!
//! Contract: upstream's connect subresources (`pkg/registry/core/{pod,node,service}`, `apiserver/pkg/util/proxy`).

pub mod dial;
pub mod kubelet;

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;

use crate::{
    auth::User,
    request_path::{Peer, info::RequestInfo},
    response::Body,
    server::Server,
    status::Status,
};

/// Whether a request is for here, and its body and connection with it.
pub fn connects(_info: &RequestInfo) -> bool {
    false
}

/// Answers such a request.
///
/// # Errors
/// Whatever keeps it from its end.
pub async fn serve(
    _server: Arc<Server>,
    _info: RequestInfo,
    _user: &User,
    _peer: &Peer,
    _request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    Err(Status::no_such_path())
}
