//! Connections to where a webhook is: a URL's host, or a service found anew for each connection.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use tower::Service;

use super::Address;
use crate::{
    aggregator,
    egress::{Egress, Network, Route, Stream},
    objects::Objects,
};

/// Makes connections.
#[derive(Clone)]
pub(super) struct Connector {
    /// Where services are found; nowhere for what is outside the cluster.
    objects: Option<Arc<dyn Objects>>,
    by_endpoint: bool,
    /// Namespace, name and port of the service.
    service: Option<Arc<(String, String, u16)>>,
    route: Route,
}

/// Why there is no connection, in the words Go's dialer has.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct ConnectError(pub(super) String);

impl Connector {
    pub(super) fn new(
        objects: Arc<dyn Objects>,
        by_endpoint: bool,
        address: &Address,
        egress: &Egress,
    ) -> Self {
        let (service, network) = match address {
            Address::Url(_) => (None, Network::ControlPlane),
            Address::Service { namespace, name, port, .. } => {
                (Some(Arc::new((namespace.clone(), name.clone(), *port))), Network::Cluster)
            }
        };
        Self { objects: Some(objects), by_endpoint, service, route: egress.of(network) }
    }

    /// Connections to hosts only.
    pub(super) fn outside(route: Route) -> Self {
        Self { objects: None, by_endpoint: false, service: None, route }
    }

    async fn connect(self, uri: Uri) -> Result<TokioIo<Stream>, ConnectError> {
        let (host, port) = match (self.service.as_deref(), &self.objects) {
            (Some((namespace, name, port)), Some(objects)) => {
                let found =
                    aggregator::service::resolve(&**objects, self.by_endpoint, namespace, name, *port);
                found.await.map_err(ConnectError)?
            }
            _ => {
                let default = if uri.scheme_str() == Some("http") { 80 } else { 443 };
                let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
                (host, uri.port_u16().unwrap_or(default))
            }
        };
        let connected = self.route.connect(&host, port).await;
        connected.map(TokioIo::new).map_err(|error| ConnectError(error.to_string()))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = ConnectError;
    type Future = BoxFuture<'static, Result<TokioIo<Stream>, ConnectError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}
