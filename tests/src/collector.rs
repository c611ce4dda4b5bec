//! A collector of traces on a free loopback port (OTLP over gRPC): it keeps what it is told.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use proto::otlp::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse, KeyValue, Span, any_value,
    trace_service_server::{TraceService, TraceServiceServer},
};
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// A running collector; gone when dropped.
#[derive(Debug)]
pub struct Collector {
    /// Where it listens.
    pub address: SocketAddr,
    told: Told,
    // Ends the server.
    _runtime: Runtime,
}

type Told = Arc<Mutex<Vec<Span>>>;

#[derive(Clone)]
struct Service(Told);

impl Collector {
    /// Begins to listen.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start() -> Result<Self> {
        let told = Told::default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let server = Server::builder().add_service(TraceServiceServer::new(Service(told.clone())));
        runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Ok(Self { address, told, _runtime: runtime })
    }

    /// The spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a span says of something; empty when it says nothing.
pub fn said<'s>(span: &'s Span, key: &str) -> &'s str {
    let is_it = |one: &&KeyValue| one.key == key;
    let value = span.attributes.iter().find(is_it).and_then(|one| one.value.as_ref()?.value.as_ref());
    match value {
        Some(any_value::Value::StringValue(text)) => text,
        _ => "",
    }
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for resource in request.into_inner().resource_spans {
            told.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
