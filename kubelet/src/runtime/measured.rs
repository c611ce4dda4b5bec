//! The connection to the runtime, with every call counted, timed and, where it belongs to a trace, told of.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use component_base::{
    grpc::code_name,
    traces::{self, Part},
};
use tonic::{Code, Status, body::Body, transport::Channel};

use crate::metrics;

/// A channel whose calls show in `kubelet_runtime_operations_*`.
#[derive(Clone, Debug)]
pub struct Measured(Channel);

impl Measured {
    /// Measures the calls on this channel.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        Self(channel)
    }
}

impl tower::Service<http::Request<Body>> for Measured {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let operation = operation(request.uri().path());
        let span = followed(&mut request);
        let call = self.0.call(request);
        Box::pin(async move {
            let metrics = metrics::get();
            metrics.runtime_operations.with_label_values(&[&operation]).inc();
            let begun = Instant::now();
            let result = call.await;
            if let Some(mut span) = span {
                answered(&mut span, &result);
            }
            let took = begun.elapsed().as_secs_f64();
            metrics.runtime_operations_duration.with_label_values(&[&operation]).observe(took);
            // An answer that is nothing but an error has its status among the headers.
            let status = result
                .as_ref()
                .ok()
                .map(|answer| answer.headers().get("grpc-status").is_none_or(|s| s == "0"));
            if status != Some(true) {
                metrics.runtime_operations_errors.with_label_values(&[&operation]).inc();
            }
            result
        })
    }
}

/// The call as a part of what is done, if that is followed; the runtime is told.
fn followed(request: &mut http::Request<Body>) -> Option<Box<Part>> {
    let method = || request.uri().path().trim_start_matches('/').to_owned();
    let mut span = traces::ask(method)?;
    span.note("rpc.method", &method());
    span.note("rpc.system.name", "grpc");
    if let Some(parent) = span.trace_parent() {
        request.headers_mut().insert(traces::TRACE_PARENT, parent);
    }
    Some(span)
}

fn answered(span: &mut Part, result: &Result<http::Response<Body>, tonic::transport::Error>) {
    let failed = match result {
        Ok(answer) => Status::from_header_map(answer.headers()).filter(|status| status.code() != Code::Ok),
        Err(error) => Some(Status::unavailable(error.to_string())),
    };
    let code = failed.as_ref().map_or("OK", |status| code_name(status.code()));
    span.note("rpc.response.status_code", code);
    if let Some(status) = failed {
        span.fail(status.message().to_owned());
    }
}

/// The method of a path as metrics name it: `/runtime.v1.RuntimeService/RunPodSandbox` is `run_podsandbox`.
fn operation(path: &str) -> String {
    let method = path.rsplit('/').next().unwrap_or_default();
    let mut name = String::with_capacity(method.len() + 4);
    for (i, letter) in method.chars().enumerate() {
        if letter.is_ascii_uppercase() && i > 0 {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    match name.as_str() {
        "update_container_resources" => "update_container".to_owned(),
        _ => name.replace("pod_sandbox", "podsandbox"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_have_upstreams_names() {
        for (path, name) in [
            ("/runtime.v1.RuntimeService/RunPodSandbox", "run_podsandbox"),
            ("/runtime.v1.RuntimeService/ListPodSandbox", "list_podsandbox"),
            ("/runtime.v1.RuntimeService/UpdateContainerResources", "update_container"),
            ("/runtime.v1.ImageService/ImageFsInfo", "image_fs_info"),
            ("/runtime.v1.RuntimeService/Version", "version"),
        ] {
            assert_eq!(operation(path), name);
        }
    }
}
