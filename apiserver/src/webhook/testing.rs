//! A webhook for tests: an HTTPS server in this process that answers by a function and counts connections.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::response::Body;

/// What was asked: path with query, and the decoded body.
pub(crate) type Ask = (String, Value);

/// A running webhook.
pub(crate) struct Hook {
    pub(crate) port: u16,
    /// PEM in base64, for `caBundle`.
    pub(crate) ca: String,
    pub(crate) connections: Arc<AtomicUsize>,
}

impl Hook {
    /// Serves `localhost` and `hook.default.svc`.
    #[allow(clippy::disallowed_methods, reason = "the far ends of tests end with their runtime")]
    pub(crate) async fn start<F>(answer: F) -> Self
    where
        F: Fn(Ask) -> Response<Body> + Send + Sync + 'static,
    {
        component_base::tls::install_provider();
        let names = ["localhost".to_owned(), "hook.default.svc".to_owned()];
        let pair = component_base::tls::self_signed(std::path::Path::new(""), "hook", &names).unwrap();
        let der = pair.cert.last().unwrap().clone();
        let pem = format!(
            "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
            BASE64_STANDARD.encode(&der)
        );
        let served = Arc::new(component_base::tls::ServingCertificate::new(pair));
        let protocol = component_base::tls::Protocol { disable_http2: true, ..Default::default() };
        let config = component_base::tls::server_config(served, &protocol).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (answer, connections) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
        let count = connections.clone();
        tokio::task::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (acceptor, answer) = (acceptor.clone(), answer.clone());
                tokio::task::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request: Request<Incoming>| {
                        let answer = answer.clone();
                        async move {
                            let path = request.uri().to_string();
                            let body = request.into_body().collect().await.unwrap().to_bytes();
                            let body = serde_json::from_slice(&body).unwrap_or_default();
                            Ok::<_, Infallible>(answer((path, body)))
                        }
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    // A caller that goes away is none of the webhook's business.
                    drop(http.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self { port, ca: BASE64_STANDARD.encode(pem), connections }
    }
}
