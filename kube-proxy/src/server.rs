//! What the proxy tells over HTTP: its own health, metrics, and services' health checks.
//!
//! Contract: upstream's `healthcheck` package: `/healthz` and `/livez` on port 10256, one port per
//! service with `externalTrafficPolicy: Local`; `/metrics`, `/healthz` and `/proxyMode` on 10249, with the health and
//! version pages of every daemon.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use component_base::{
    features::{Gate, Gates},
    health::Endpoint,
    meta::ObjectKey,
    serving::{self, Reply, ServingError, Site},
    task::Tasks,
};
use http::{Request, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{model::HealthCheck, sync, tables::Family};

/// A client has so long to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

type Handler = Arc<dyn Fn(&str) -> Reply + Send + Sync>;

/// Whether the tables follow the API.
#[derive(Debug)]
pub struct Health {
    /// The oldest change not carried out.
    waiting: Mutex<Option<Instant>>,
    /// When the tables were last right.
    synced: Mutex<Option<jiff::Timestamp>>,
    node_eligible: AtomicBool,
    /// How long a change may wait.
    patience: Duration,
}

/// The health check ports of services.
#[derive(Debug)]
pub struct ServiceChecks {
    tasks: Tasks,
    health: Arc<Health>,
    open: BTreeMap<ObjectKey, OpenCheck>,
}

#[derive(Debug)]
struct OpenCheck {
    port: u16,
    local_endpoints: Arc<AtomicUsize>,
    close: CancellationToken,
}

// === impl Health ===

impl Health {
    /// Unhealthy when a change waits longer than twice the sync period.
    pub fn new(sync_period: Duration) -> Self {
        Self {
            waiting: Mutex::default(),
            synced: Mutex::default(),
            node_eligible: AtomicBool::new(true),
            patience: sync_period * 2,
        }
    }

    /// A change came at `now`.
    pub fn changed(&self, now: Instant) {
        self.waiting.lock().get_or_insert(now);
    }

    /// Everything that came before the sync began is carried out, as of `now`.
    pub fn synced(&self, began: Instant, now: jiff::Timestamp) {
        *self.synced.lock() = Some(now);
        let mut waiting = self.waiting.lock();
        if waiting.is_some_and(|since| since <= began) {
            *waiting = None;
        }
    }

    /// Whether load balancers may send new traffic to this node (KEP-3836).
    pub fn set_node_eligible(&self, eligible: bool) {
        self.node_eligible.store(eligible, Ordering::Release);
    }

    /// Whether the tables are kept up.
    pub fn is_live(&self, now: Instant) -> bool {
        let late = |since: Instant| now.saturating_duration_since(since) > self.patience;
        self.synced.lock().is_some() && !self.waiting.lock().is_some_and(late)
    }

    fn answer(&self, eligible: bool) -> Reply {
        let now = jiff::Timestamp::now();
        // With nothing waiting, the tables are right as of now; as of the last sync otherwise.
        let updated = match *self.waiting.lock() {
            None => self.synced.lock().map(|_| now),
            Some(_) => *self.synced.lock(),
        };
        let fine = self.is_live(Instant::now()) && eligible;
        let body = serde_json::json!({
            "lastUpdated": updated.map(|at| at.to_string()), "currentTime": now.to_string(),
            "nodeEligible": self.node_eligible.load(Ordering::Acquire),
        });
        serving::json(if fine { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &body)
    }
}

/// Serves `/healthz`, `/livez` and `/readyz` with what load balancers look at.
///
/// # Errors
/// When the address cannot be listened on.
pub fn serve_health(tasks: &Tasks, address: SocketAddr, health: Arc<Health>) -> Result<(), ServingError> {
    let handler = move |path: &str| match path {
        "/healthz" | "/readyz" => health.answer(health.node_eligible.load(Ordering::Acquire)),
        "/livez" => health.answer(true),
        _ => serving::text(StatusCode::NOT_FOUND, "404 page not found\n"),
    };
    serve(tasks, "healthz", address, tasks.drain(), Arc::new(handler))
}

/// Serves what every daemon tells of itself, and `/proxyMode`. `/healthz` says that the process answers, as upstream's does
/// here; `/livez` and `/readyz` say whether the tables are kept up.
///
/// # Errors
/// When the address cannot be listened on.
pub fn serve_metrics(
    tasks: &Tasks,
    address: SocketAddr,
    configz: serde_json::Value,
    gates: Gates,
    health: Arc<Health>,
) -> Result<(), ServingError> {
    let site = site(gates);
    site.configz("kubeproxy.config.k8s.io", configz);
    site.page("/proxyMode", |_| serving::text(StatusCode::OK, "nftables"));
    site.health().add_to(&[Endpoint::Livez, Endpoint::Readyz], "tables", move || {
        if health.is_live(Instant::now()) { Ok(()) } else { Err("the tables are behind".to_owned()) }
    });
    serving::serve_plain(address, site, tasks).map(drop)
}

/// Where else than at `/statusz` to look, sorted.
const PATHS: &[&str] = &[
    "/configz",
    "/flagz",
    "/healthz",
    "/livez",
    "/metrics",
    "/proxyMode",
    "/readyz",
    "/statusz",
    "/version",
];

/// What every daemon tells of itself, as far as it is switched on.
fn site(gates: Gates) -> Site {
    let site = Site::empty().with_metrics().with_version().with_configz();
    [(Gate::ComponentStatusz, "/statusz"), (Gate::ComponentFlagz, "/flagz")]
        .into_iter()
        .filter(|(gate, _)| gates.has(*gate))
        .fold(site, |site, (_, path)| site.with_zpage(path, PATHS))
}

// === impl ServiceChecks ===

impl ServiceChecks {
    /// No ports yet.
    pub fn new(tasks: Tasks, health: Arc<Health>) -> Self {
        Self { tasks, health, open: BTreeMap::new() }
    }

    /// Opens, changes and closes ports until they are those of the model.
    pub fn set(&mut self, wanted: &BTreeMap<ObjectKey, HealthCheck>) {
        self.open.retain(|key, open| {
            let stays = wanted.get(key).is_some_and(|check| check.port == open.port);
            if !stays {
                open.close.cancel();
            }
            stays
        });
        for (key, check) in wanted {
            if let Some(open) = self.open.get(key) {
                open.local_endpoints.store(check.local_endpoints, Ordering::Release);
                continue;
            }
            match self.open(key, check) {
                Ok(open) => drop(self.open.insert(key.clone(), open)),
                // Tried again with the next sync.
                Err(error) => {
                    tracing::error!(%error, service = %key, port = check.port, "health check port not opened");
                }
            }
        }
    }

    fn open(&self, key: &ObjectKey, check: &HealthCheck) -> Result<OpenCheck, ServingError> {
        let local_endpoints = Arc::new(AtomicUsize::new(check.local_endpoints));
        let close = self.tasks.drain().child_token();
        let (key, count, health) = (key.clone(), local_endpoints.clone(), self.health.clone());
        let handler = move |_path: &str| {
            let local = count.load(Ordering::Acquire);
            let live = health.is_live(Instant::now());
            let code = if local > 0 && live { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let body = serde_json::json!({
                "service": {"namespace": *key.namespace, "name": *key.name},
                "localEndpoints": local, "serviceProxyHealthy": live,
            });
            let mut answer = serving::json(code, &body);
            let weight = header::HeaderValue::from(local);
            answer.headers_mut().insert("x-load-balancing-endpoint-weight", weight);
            answer
        };
        // Both families come by the one of them, where the machine has it.
        let any: IpAddr = match sync::families().contains(&Family::V6) {
            true => Ipv6Addr::UNSPECIFIED.into(),
            false => Ipv4Addr::UNSPECIFIED.into(),
        };
        let address = SocketAddr::new(any, check.port);
        serve(&self.tasks, "service-health", address, close.clone(), Arc::new(handler))?;
        Ok(OpenCheck { port: check.port, local_endpoints, close })
    }
}

/// Listens and answers until `close`.
fn serve(
    tasks: &Tasks,
    name: &str,
    address: SocketAddr,
    close: CancellationToken,
    handler: Handler,
) -> Result<(), ServingError> {
    let (listener, _) = serving::listen(address, false)?;
    let connections = tasks.clone();
    tasks.spawn(name, async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = close.cancelled() => return,
            };
            let Ok((stream, _)) = accepted else {
                // Out of file descriptors, most likely: wait for some to come back.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let (handler, close) = (handler.clone(), close.clone());
            connections.spawn_contained("connection", async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let answer = handler(request.uri().path());
                    async move { Ok::<_, Infallible>(answer) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service);
                tokio::select! {
                    // A client that goes away is no event.
                    _gone = connection => {}
                    () = close.cancelled() => {}
                }
            });
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_go_with_their_gates() {
        component_base::zpages::describe("kube-proxy", BTreeMap::new());
        let pages = |gates| format!("{:?}", site(gates));
        let shown = pages(Gates::default());
        assert!(shown.contains("/statusz") && shown.contains("/flagz"), "{shown}");
        let shown = pages(Gates::default().with(Gate::ComponentFlagz, false));
        assert!(shown.contains("/statusz") && !shown.contains("/flagz"), "{shown}");
    }

    #[test]
    fn health_follows_the_oldest_change() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let health = Health::new(Duration::from_secs(30));
        assert!(!health.is_live(start), "nothing is known before the first sync");
        health.synced(start, jiff::Timestamp::UNIX_EPOCH);
        assert!(health.is_live(at(1000)), "nothing waits");
        health.changed(at(1000));
        health.changed(at(1050));
        assert!(health.is_live(at(1060)));
        assert!(!health.is_live(at(1061)));
        health.synced(at(999), jiff::Timestamp::UNIX_EPOCH);
        assert!(!health.is_live(at(1061)), "the sync began before the change");
        health.synced(at(1055), jiff::Timestamp::UNIX_EPOCH);
        assert!(health.is_live(at(2000)));
    }
}
