//! The connection to a driver of volumes, with every call timed.
//!
//! Contract: upstream's `csi_operations_seconds`, whose methods are gRPC's full names.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use component_base::grpc::code_name;
use tonic::{Code, Status, body::Body, transport::Channel};

use crate::metrics;

/// A channel whose calls show in `csi_operations_seconds`.
#[derive(Clone, Debug)]
pub struct Measured {
    channel: Channel,
    driver: Arc<str>,
}

impl Measured {
    /// Measures the calls on this channel.
    #[must_use]
    pub fn new(channel: Channel, driver: &str) -> Self {
        Self { channel, driver: Arc::from(driver) }
    }
}

impl tower::Service<http::Request<Body>> for Measured {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (driver, method) = (Arc::clone(&self.driver), request.uri().path().to_owned());
        let call = self.channel.call(request);
        Box::pin(async move {
            let begun = Instant::now();
            let result = call.await;
            let code = match &result {
                // An answer that is nothing but an error has its status among the headers.
                Ok(answer) => {
                    Status::from_header_map(answer.headers()).map_or(Code::Ok, |status| status.code())
                }
                Err(_) => Code::Unavailable,
            };
            let labels = [&*driver, code_name(code), &method, "false"];
            metrics::get().csi_calls.with_label_values(&labels).observe(begun.elapsed().as_secs_f64());
            result
        })
    }
}
