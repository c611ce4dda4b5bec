//! Candidates against an in-memory lease that keeps optimistic concurrency, with paused time.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use http::{Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use parking_lot::Mutex;

use super::*;

/// The lease resource as a tower service, so that time can be paused.
#[derive(Clone, Default)]
struct Server {
    lease: Arc<Mutex<Option<serde_json::Value>>>,
    broken: Arc<AtomicBool>,
    /// Requests that come now are never answered.
    silent: Arc<AtomicBool>,
    reads: Arc<AtomicUsize>,
    /// Candidates that were told of.
    candidates: Arc<Mutex<Vec<serde_json::Value>>>,
}

impl Server {
    fn client(&self) -> kube::Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            Box::pin(async move { Ok::<_, tower::BoxError>(server.answer(request).await) })
                as futures::future::BoxFuture<'static, Result<Response<Body>, tower::BoxError>>
        });
        kube::Client::new(service, "default")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        if parts.uri.path().contains("/leasecandidates") {
            return self.candidates(&parts, &body).await;
        }
        if self.silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if self.broken.load(Ordering::SeqCst) {
            return status(503, "ServiceUnavailable");
        }
        let mut lease = self.lease.lock();
        if parts.method == "GET" {
            self.reads.fetch_add(1, Ordering::SeqCst);
            return lease.as_ref().map_or_else(|| status(404, "NotFound"), |lease| respond(200, lease));
        }
        let mut new: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let current = lease.as_ref().map_or(0, version);
        if (parts.method == "PUT" && version(&new) != current) || (parts.method == "POST" && lease.is_some())
        {
            return status(409, "Conflict");
        }
        new["metadata"]["resourceVersion"] = (current + 1).to_string().into();
        *lease = Some(new.clone());
        respond(200, &new)
    }

    async fn candidates(&self, parts: &http::request::Parts, body: &[u8]) -> Response<Body> {
        let query = parts.uri.query().unwrap_or_default();
        if parts.method == "GET" && query.contains("watch=true") {
            std::future::pending::<()>().await;
        }
        if parts.method == "GET" {
            let list = serde_json::json!({"metadata": {"resourceVersion": "1"}, "items": []});
            return respond(200, &list);
        }
        let new: serde_json::Value = serde_json::from_slice(body).unwrap();
        self.candidates.lock().push(new.clone());
        respond(201, &new)
    }

    fn set(&self, spec: serde_json::Value) {
        let mut lease = self.lease.lock();
        let current = lease.as_ref().map_or(0, version);
        let metadata = serde_json::json!({"name": "kube-scheduler", "namespace": "kube-system",
            "resourceVersion": (current + 1).to_string()});
        *lease = Some(serde_json::json!({"metadata": metadata, "spec": spec}));
    }

    fn spec(&self, field: &str) -> serde_json::Value {
        self.lease.lock().as_ref().map(|lease| lease["spec"][field].clone()).unwrap_or_default()
    }
}

fn version(lease: &serde_json::Value) -> u64 {
    lease["metadata"]["resourceVersion"].as_str().unwrap_or("0").parse().unwrap()
}

fn respond(code: u16, value: &serde_json::Value) -> Response<Body> {
    Response::builder().status(code).body(Body::from(value.to_string().into_bytes())).unwrap()
}

fn status(code: u16, reason: &str) -> Response<Body> {
    let value = serde_json::json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason});
    respond(code, &value)
}

fn start(server: &Server, identity: &str) -> (Tasks, Arc<AtomicBool>) {
    let (tasks, leading) = (Tasks::new(), Arc::new(AtomicBool::new(false)));
    let mut election = LeaderElection::new("kube-scheduler", "kube-system");
    election.identity = identity.to_owned();
    election.release_on_cancel = true;
    election.coordinated = identity == "told";
    let clock = Arc::new(crate::clock::TokioClock::new(jiff::Timestamp::UNIX_EPOCH));
    let flag = leading.clone();
    election
        .run(server.client(), clock, &tasks, move |group| async move {
            flag.store(true, Ordering::SeqCst);
            group.drain().cancelled().await;
            flag.store(false, Ordering::SeqCst);
        })
        .unwrap();
    (tasks, leading)
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_the_other_follows_when_it_is_released() {
    let server = Server::default();
    let (first, first_leads) = start(&server, "first");
    pass(1).await;
    let (second, second_leads) = start(&server, "second");
    pass(60).await;
    assert!(first_leads.load(Ordering::SeqCst) && !second_leads.load(Ordering::SeqCst));
    assert_eq!(server.spec("holderIdentity"), "first");
    assert_eq!(server.spec("leaseDurationSeconds"), 15);
    first.shutdown(Duration::from_secs(30)).await;
    assert_eq!(first.failure(), None);
    pass(6).await;
    assert!(!first_leads.load(Ordering::SeqCst) && second_leads.load(Ordering::SeqCst));
    assert_eq!(server.spec("leaseTransitions"), 1);
    second.shutdown(Duration::from_secs(30)).await;
    assert_eq!(server.spec("holderIdentity"), "");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_stops_and_fails_before_another_may_take_over() {
    let server = Server::default();
    let (first, leads) = start(&server, "first");
    pass(1).await;
    assert!(leads.load(Ordering::SeqCst));
    server.broken.store(true, Ordering::SeqCst);
    let broken = Instant::now();
    first.drain().cancelled().await;
    let lasted = broken.elapsed().as_secs();
    assert!((9..15).contains(&lasted), "{lasted}");
    assert_eq!(first.failure(), Some("leader election lost"));
    server.broken.store(false, Ordering::SeqCst);
    let (_second, second_leads) = start(&server, "second");
    pass(14).await;
    assert!(
        !second_leads.load(Ordering::SeqCst),
        "the old lease has not expired yet by this candidate's clock"
    );
    pass(8).await;
    assert!(second_leads.load(Ordering::SeqCst));
    assert!(!leads.load(Ordering::SeqCst));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_gets_lost_leaves_time_for_another() {
    let server = Server::default();
    let (tasks, leads) = start(&server, "first");
    pass(3).await;
    server.silent.store(true, Ordering::SeqCst);
    pass(4).await;
    server.silent.store(false, Ordering::SeqCst);
    pass(60).await;
    assert!(leads.load(Ordering::SeqCst) && tasks.failure().is_none());
    server.silent.store(true, Ordering::SeqCst);
    let silent = Instant::now();
    tasks.drain().cancelled().await;
    assert!(silent.elapsed() < Duration::from_secs(15), "{:?}", silent.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_leader_renews_without_reading_and_reads_when_another_wrote() {
    let server = Server::default();
    let (tasks, leads) = start(&server, "first");
    pass(1).await;
    let before = server.reads.load(Ordering::SeqCst);
    pass(60).await;
    assert_eq!(server.reads.load(Ordering::SeqCst), before);
    if let Some(lease) = server.lease.lock().as_mut() {
        lease["metadata"]["resourceVersion"] = "1000".into();
    }
    pass(60).await;
    assert_eq!(server.reads.load(Ordering::SeqCst), before + 1);
    assert!(leads.load(Ordering::SeqCst) && tasks.failure().is_none());
}

#[tokio::test(start_paused = true)]
async fn where_the_server_chooses_a_candidate_waits_to_be_chosen_and_yields_to_who_is_preferred() {
    let server = Server::default();
    let (tasks, leads) = start(&server, "told");
    pass(60).await;
    assert!(server.lease.lock().is_none() && !leads.load(Ordering::SeqCst));
    let told = server.candidates.lock()[0].clone();
    assert_eq!(told["metadata"]["name"], "told");
    assert_eq!(
        (&told["spec"]["leaseName"], &told["spec"]["strategy"]),
        (&"kube-scheduler".into(), &"OldestEmulationVersion".into())
    );
    // Nobody holds it, and it is not for this candidate to take.
    server.set(serde_json::json!({"holderIdentity": "", "strategy": "OldestEmulationVersion"}));
    pass(60).await;
    assert!(!leads.load(Ordering::SeqCst));
    let term = serde_json::json!({"holderIdentity": "told", "strategy": "OldestEmulationVersion", "leaseDurationSeconds": 5});
    server.set(term);
    pass(5).await;
    assert!(leads.load(Ordering::SeqCst));
    assert_eq!(
        (server.spec("leaseDurationSeconds"), server.spec("strategy")),
        (15.into(), "OldestEmulationVersion".into())
    );
    pass(60).await;
    assert!(leads.load(Ordering::SeqCst) && tasks.failure().is_none());
    let mut ending = server.lease.lock().clone().unwrap()["spec"].clone();
    ending["preferredHolder"] = "better".into();
    let renewed = ending["renewTime"].clone();
    server.set(ending);
    tasks.drain().cancelled().await;
    assert_eq!(tasks.failure(), Some("leader election lost"));
    assert_eq!(server.spec("renewTime"), renewed, "what is to be another's is not renewed");
}

#[test]
fn periods_must_fit_together() {
    let valid = LeaderElection::new("a", "b");
    assert_eq!(valid.validate(), Ok(()));
    let short = LeaderElection { lease_duration: Duration::from_secs(10), ..valid.clone() };
    assert_eq!(short.validate(), Err(LeaderError::LeaseDuration));
    let slow = LeaderElection { retry_period: Duration::from_secs(9), ..valid };
    assert_eq!(slow.validate(), Err(LeaderError::RenewDeadline));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_goes_on_without_its_lease_is_not_well() {
    let election = LeaderElection::new("a", "b");
    let health = Health::default();
    election.watched(&health, &[Endpoint::Healthz]);
    let check =
        || health.answer("/healthz/leaderElection", "").map(|report| (report.status.as_u16(), report.text));
    assert_eq!(check(), Some((200, "ok".into())), "who waits is well");
    *election.watchdog.0.lock() = Some(Instant::now());
    pass(35).await;
    assert_eq!(check(), Some((200, "ok".into())));
    pass(1).await;
    let why = "internal server error: failed election to renew leadership on lease a\n";
    assert_eq!(check(), Some((500, why.into())));
    *election.watchdog.0.lock() = None;
    assert_eq!(check(), Some((200, "ok".into())));
    assert_eq!(health.answer("/readyz/leaderElection", ""), None);
}
