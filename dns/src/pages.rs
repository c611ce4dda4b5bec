//! The plain HTTP pages beside DNS: `/health`, `/ready`, `/metrics`, each on its own address.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use component_base::{metrics, task::Tasks};
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore};

/// Connections served at once per page; more wait.
const CONNECTIONS: usize = 64;

/// One page.
#[derive(Clone, Debug)]
pub enum Page {
    /// Alive as long as it answers.
    Health,
    /// Once the cluster's names are loaded.
    Ready(Arc<AtomicBool>),
    /// Prometheus text.
    Metrics,
}

impl Page {
    fn path(&self) -> &'static str {
        match self {
            Self::Health => "/health",
            Self::Ready(_) => "/ready",
            Self::Metrics => "/metrics",
        }
    }

    fn content(&self) -> (StatusCode, Vec<u8>) {
        match self {
            Self::Health => (StatusCode::OK, b"OK".to_vec()),
            Self::Ready(ready) if ready.load(Ordering::Acquire) => (StatusCode::OK, b"OK".to_vec()),
            Self::Ready(_) => (StatusCode::SERVICE_UNAVAILABLE, b"kubernetes".to_vec()),
            Self::Metrics => match metrics::encode() {
                Ok(text) => (StatusCode::OK, text),
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string().into_bytes()),
            },
        }
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let (code, body) = if path != self.path() {
            (StatusCode::NOT_FOUND, b"404 page not found\n".to_vec())
        } else if !matches!(*method, Method::GET | Method::HEAD) {
            (StatusCode::METHOD_NOT_ALLOWED, Vec::new())
        } else {
            self.content()
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = code;
        let text = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, text);
        response
    }
}

/// Serves a page until the tasks drain; the address it listens on.
pub async fn serve(page: Page, address: SocketAddr, tasks: &Tasks) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let local = listener.local_addr()?;
    let (drain, connections) = (tasks.drain(), tasks.clone());
    tasks.spawn(page.path().trim_start_matches('/'), async move {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = drain.cancelled() => return,
            };
            let (Ok((stream, _)), Ok(slot)) = (accepted, slots.clone().acquire_owned().await) else {
                continue;
            };
            let (page, end) = (page.clone(), drain.clone());
            connections.spawn_contained("page", async move {
                let answer = service_fn(move |request: Request<Incoming>| {
                    let response = page.answer(request.method(), request.uri().path());
                    async move { Ok::<_, Infallible>(response) }
                });
                let mut http = hyper::server::conn::http1::Builder::new();
                let connection = http.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), answer);
                tokio::select! {
                    // A client that goes away in the middle is nobody's failure.
                    _gone = connection => {}
                    () = end.cancelled() => {}
                }
                drop(slot);
            });
        }
    });
    Ok(local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_answer_only_their_path() {
        let ready = Arc::new(AtomicBool::new(false));
        let page = Page::Ready(ready.clone());
        assert_eq!(page.answer(&Method::GET, "/ready").status(), 503);
        ready.store(true, Ordering::Release);
        assert_eq!(page.answer(&Method::GET, "/ready").status(), 200);
        assert_eq!(page.answer(&Method::GET, "/health").status(), 404);
        assert_eq!(Page::Health.answer(&Method::POST, "/health").status(), 405);
        assert_eq!(Page::Metrics.answer(&Method::GET, "/metrics").status(), 200);
    }
}
