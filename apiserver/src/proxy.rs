//! Requests that end somewhere else: at a kubelet, a pod, a service or a node.
//!
//! ```text
//! request → connect admission → where (target) → log | stream (exec, attach, portforward) | forward (proxy)
//!                                                   └ as it came, or WebSocket → SPDY (translate, tunnel)
//! ```
//!
//! One row of [`ENDS`] per subresource. Contract: upstream's connect subresources
//! (`pkg/registry/core/{pod,node,service}/rest`, `apiserver/pkg/util/proxy`).

use std::{net::IpAddr, sync::Arc};

use component_base::features::Gate;
use futures::FutureExt;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use serde_json::Value;

use crate::{
    admission,
    auth::{Attributes, User},
    object::Object,
    registry::Resource,
    request_path::{Peer, info::RequestInfo},
    response::Body,
    server::Server,
    status::{GroupName, Status},
};

pub mod dial;
mod forward;
pub mod kubelet;
mod log;
mod metrics;
mod rewrite;
mod spdy;
mod stream;
mod target;
mod translate;
mod tunnel;
mod upgrade;
mod websocket;

/// What a subresource does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Log,
    Exec,
    Attach,
    PortForward,
    Proxy,
}

/// A subresource of the core group that ends elsewhere.
struct Row {
    resource: &'static str,
    subresource: &'static str,
    /// Kind of its options, for admission; empty when it is no connection to admission.
    options: &'static str,
    end: End,
}

const ENDS: &[Row] = &[
    Row { resource: "pods", subresource: "log", options: "", end: End::Log },
    Row { resource: "pods", subresource: "exec", options: "PodExecOptions", end: End::Exec },
    Row { resource: "pods", subresource: "attach", options: "PodAttachOptions", end: End::Attach },
    Row {
        resource: "pods",
        subresource: "portforward",
        options: "PodPortForwardOptions",
        end: End::PortForward,
    },
    Row { resource: "pods", subresource: "proxy", options: "PodProxyOptions", end: End::Proxy },
    Row { resource: "services", subresource: "proxy", options: "ServiceProxyOptions", end: End::Proxy },
    Row { resource: "nodes", subresource: "proxy", options: "NodeProxyOptions", end: End::Proxy },
];

/// A request on its way elsewhere.
struct Connect {
    server: Arc<Server>,
    info: Arc<RequestInfo>,
    attributes: Attributes,
    client: Option<IpAddr>,
    request: Request<Incoming>,
}

fn row(info: &RequestInfo) -> Option<&'static Row> {
    let core = info.is_resource && info.group.is_empty() && info.version == "v1" && !info.name.is_empty();
    ENDS.iter().find(|r| core && r.resource == info.resource && r.subresource == info.subresource)
}

/// Whether a request is for here, and its body and connection with it.
pub fn connects(info: &RequestInfo) -> bool {
    row(info).is_some()
}

/// The bearer token among a WebSocket's subprotocols.
pub fn websocket_token(headers: &http::HeaderMap) -> Option<String> {
    websocket::token(headers)
}

fn allows(end: End, method: &Method) -> bool {
    match end {
        End::Log => matches!(*method, Method::GET | Method::HEAD),
        End::Exec | End::Attach | End::PortForward => matches!(*method, Method::GET | Method::POST),
        End::Proxy => matches!(
            *method,
            Method::GET
                | Method::POST
                | Method::PUT
                | Method::PATCH
                | Method::DELETE
                | Method::HEAD
                | Method::OPTIONS
        ),
    }
}

/// Answers a request that [`connects`].
///
/// # Errors
/// Whatever keeps it from its end.
pub async fn serve(
    server: Arc<Server>,
    info: Arc<RequestInfo>,
    attributes: Attributes,
    peer: &Peer,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let row = row(&info).ok_or_else(Status::no_such_path)?;
    let catalog = server.catalog.load_full();
    let resource = catalog.find("", "v1", row.resource).ok_or_else(Status::no_such_path)?;
    if resource.namespaced == info.namespace.is_empty() {
        return Err(Status::no_such_path());
    }
    if !allows(row.end, request.method()) {
        return Err(Status::method_not_allowed(&resource.group_resource(), &info.verb));
    }
    if !row.options.is_empty() && info.query.has("dryRun") {
        return Err(Status::bad_request("dryRun is not supported"));
    }
    let connect = Connect { server, info, attributes, client: peer.address, request };
    if !row.options.is_empty() {
        connect.admit(row, resource).await?;
    }
    match row.end {
        End::Log => connect.log().await,
        End::Exec | End::Attach | End::PortForward => {
            connect.may_create().await?;
            connect.stream(row.end).await
        }
        End::Proxy => connect.proxy().await,
    }
}

/// Makes a request again at another API server, path and query as they are.
///
/// # Errors
/// When that one cannot be reached.
pub async fn forward_to(
    server: Arc<Server>,
    target: dial::Target,
    info: Arc<RequestInfo>,
    user: &Arc<User>,
    peer: &Peer,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let attributes = info.attributes(user);
    let connect = Connect { server, info, attributes, client: peer.address, request };
    connect.forward(target).await
}

impl Connect {
    /// Admission of a connection: its options are the object.
    async fn admit(&self, row: &Row, resource: &Arc<Resource>) -> Result<(), Status> {
        let mut options = Object::new();
        options.set("kind", row.options);
        options.set("apiVersion", "v1");
        for (name, value) in stream::options(row.end, &self.info.query) {
            options.set(name, value);
        }
        if row.end == End::Proxy {
            options.set("path", Value::from(self.info.rest.as_str()));
        }
        let (none, mut warnings) = (Object::new(), Vec::new());
        let mut request = admission::Request {
            attributes: &self.attributes,
            resource,
            operation: admission::Operation::Connect,
            object: Some(&mut options),
            old: None,
            options: &none,
            dry_run: false,
            warnings: &mut warnings,
            reinvocation: admission::Reinvocation::default(),
        };
        admission::admit(&self.server.admission, &mut request).await?;
        admission::validate(&self.server.admission, &mut request).await
    }

    /// WebSockets begin with GET: who may only get must not get a shell by that.
    async fn may_create(&self) -> Result<(), Status> {
        let asks = self.server.gates.has(Gate::AuthorizePodWebsocketUpgradeCreatePermission);
        if !asks || self.attributes.verb == "create" {
            return Ok(());
        }
        let wanted = Attributes { verb: "create".into(), ..self.attributes.clone() };
        let decision = self.server.authorizer.authorize(&wanted).await;
        decision.allowed().map(drop).map_err(|why| {
            let why = crate::authz::forbidden_message(&wanted, &why);
            Status::forbidden(&GroupName::new("", self.info.resource.as_str()), &self.info.name, &why)
        })
    }
}

/// How many events there are in what a kubelet says on a stream, up to its end or to what is no SPDY.
pub fn spdy_events(bytes: &[u8]) -> Option<usize> {
    let counted = async {
        let (mut reader, mut events) = (spdy::Reader::new(bytes), 0);
        while let Ok(Some(_)) = reader.next().await {
            events += 1;
        }
        events
    };
    // Bytes that are there are read without waiting.
    counted.now_or_never()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the far ends of tests end with their runtime")]
mod tests;
