//! The plain HTTP pages beside DNS: `/health`, `/ready`, `/metrics`, each on its own address.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use component_base::{metrics, task::Tasks};
use http_body_util::{Empty, Full};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use crate::metrics::Metrics;

/// Connections served at once per page; more wait.
const CONNECTIONS: usize = 64;
/// How often the own health is asked for, and how long that may take, as in CoreDNS.
const HEALTH_CHECK: Duration = Duration::from_secs(1);
const HEALTH_PATIENCE: Duration = Duration::from_secs(3);

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

/// Asks the own page of health once a second, until the tasks drain: when that takes long, everything does.
pub fn look_after_health(address: SocketAddr, metrics: Metrics, tasks: &Tasks) {
    let drain = tasks.drain();
    let address = match address.ip() {
        ip if !ip.is_unspecified() => address,
        std::net::IpAddr::V4(_) => SocketAddr::from(([127, 0, 0, 1], address.port())),
        std::net::IpAddr::V6(_) => SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, address.port())),
    };
    tasks.spawn("health check", async move {
        let mut tick = tokio::time::interval(HEALTH_CHECK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = drain.cancelled() => return,
            }
            let began = tokio::time::Instant::now();
            let well = tokio::time::timeout(HEALTH_PATIENCE, is_healthy(address)).await;
            let took = began.elapsed();
            metrics.health_looked_at(matches!(well, Ok(Ok(true))).then_some(took));
        }
    });
}

async fn is_healthy(address: SocketAddr) -> std::io::Result<bool> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    let request = Request::get("/health").header(header::HOST, "localhost").body(Empty::<Bytes>::new());
    let answer = sender.send_request(request.map_err(std::io::Error::other)?);
    tokio::select! {
        answer = answer => Ok(answer.is_ok_and(|answer| answer.status() == StatusCode::OK)),
        // It ends with the answer or with an error.
        ended = connection => ended.map(|()| false).map_err(std::io::Error::other),
    }
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

    #[tokio::test]
    async fn the_own_health_is_asked_for() {
        let registry = prometheus::Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gone = listener.local_addr().unwrap();
        drop(listener);
        assert!(is_healthy(gone).await.is_err());
        let tasks = Tasks::new();
        let address = serve(Page::Health, "127.0.0.1:0".parse().unwrap(), &tasks).await.unwrap();
        assert!(is_healthy(address).await.unwrap());
        look_after_health(address, metrics, &tasks);
        let count = || {
            let families = registry.gather();
            let family = families.iter().find(|f| f.name() == "coredns_health_request_duration_seconds");
            family.map_or(0, |family| family.get_metric()[0].get_histogram().get_sample_count())
        };
        while count() == 0 {
            tokio::task::yield_now().await;
        }
        tasks.cancel();
    }
}
