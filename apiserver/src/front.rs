//! The front of the server: what is decided of a request before anybody asks who sends it, and what all answers carry.
//!
//! Contract: upstream's filters `WithCORS`, `WithHSTS`, `WithProbabilisticGoaway`, `WithRetryAfter` and `WithNotReady`,
//! and how a server ends its watches one after the other (`--shutdown-watch-termination-grace-period`).

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header};
use rand::Rng;
use regex::Regex;
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use crate::{
    auth::User,
    request_path::info::RequestInfo,
    response::{self, Body},
    status::{Details, Reason, Status},
};

/// Groups that watches are in when they end one after the other: each sixteenth reconnects elsewhere at another time.
const WATCH_GROUPS: usize = 16;
/// The part of the grace period in which watches end; the rest is for their last events.
const ENDING_SHARE: f64 = 0.8;
/// What is answered even by a server that does not serve: probes and measurements.
const PROBES: &[&str] = &["/readyz", "/livez", "/healthz", "/metrics"];

/// What the flags say of the front.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--cors-allowed-origins`.
    pub origins: Vec<Regex>,
    /// `--strict-transport-security-directives`, as they are sent.
    pub transport_security: Option<HeaderValue>,
    /// `--goaway-chance`.
    pub goaway: f64,
    /// `--send-retry-after-while-not-ready-once`.
    pub wait_until_ready: bool,
    /// `--shutdown-send-retry-after`.
    pub turn_away: bool,
    /// `--shutdown-watch-termination-grace-period`.
    pub watch_grace: Duration,
}

/// The front of one server.
#[derive(Debug)]
pub struct Front {
    options: Options,
    /// Whether new requests are turned away.
    is_closed: AtomicBool,
    /// Requests that an end of the server waits for.
    in_flight: TaskTracker,
    /// Cancelled one after the other when watches are to end; none where they end all at once.
    watches: Vec<CancellationToken>,
}

// === impl Options ===

impl Options {
    fn is_plain(&self) -> bool {
        self.origins.is_empty() && self.transport_security.is_none() && self.goaway == 0.0 && !self.turn_away
    }
}

// === impl Front ===

impl Front {
    /// The front that the flags describe.
    pub fn new(options: Options) -> Self {
        let groups = if options.watch_grace.is_zero() { 0 } else { WATCH_GROUPS };
        let watches = (0..groups).map(|_| CancellationToken::new()).collect();
        Self { options, is_closed: AtomicBool::new(false), in_flight: TaskTracker::new(), watches }
    }

    /// Whether it does nothing: the usual case, which costs nothing.
    pub fn is_plain(&self) -> bool {
        self.options.is_plain()
    }

    /// The origin to tell a browser that it may read the answer, if the request's is one.
    pub fn allowed_origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        if self.options.origins.is_empty() {
            return None;
        }
        let origin = headers.get(header::ORIGIN)?;
        let text = origin.to_str().ok()?;
        self.options.origins.iter().any(|allowed| allowed.is_match(text)).then(|| origin.clone())
    }

    /// The answer to a request that is not served: one that asks what it may send, and any while the server ends.
    pub fn at_the_door<B>(&self, request: &Request<B>, is_allowed_origin: bool) -> Option<Response<Body>> {
        if self.options.turn_away && self.is_closed.load(Ordering::Acquire) && !is_exempt(request) {
            let mut answer = refusal(429, "The apiserver is shutting down, please try again later.\n");
            if request.version() < Version::HTTP_2 {
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            return Some(answer);
        }
        if is_allowed_origin && request.method() == Method::OPTIONS {
            let mut answer = Response::new(response::full(""));
            *answer.status_mut() = http::StatusCode::NO_CONTENT;
            return Some(answer);
        }
        None
    }

    /// Whether the connection of this request is to end after the requests it has: chance, on HTTP/2 only, or the
    /// end of the server.
    pub fn sends_away<B>(&self, request: &Request<B>) -> bool {
        if request.version() != Version::HTTP_2 {
            return false;
        }
        (self.options.goaway > 0.0 && rand::rng().random::<f64>() < self.options.goaway)
            || (self.options.turn_away && self.is_closed.load(Ordering::Acquire) && !is_exempt(request))
    }

    /// What all answers carry.
    pub fn mark(&self, headers: &mut HeaderMap, origin: Option<HeaderValue>) {
        if let Some(directives) = &self.options.transport_security {
            headers.entry(header::STRICT_TRANSPORT_SECURITY).or_insert_with(|| directives.clone());
        }
        let Some(origin) = origin else { return };
        let mut set = |name: header::HeaderName, value: &'static str| {
            headers.insert(name, HeaderValue::from_static(value));
        };
        set(header::ACCESS_CONTROL_ALLOW_METHODS, "POST, GET, OPTIONS, PUT, DELETE, PATCH");
        set(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "Content-Type, Content-Length, Accept-Encoding, X-CSRF-Token, Authorization, X-Requested-With, \
             If-Modified-Since",
        );
        set(header::ACCESS_CONTROL_EXPOSE_HEADERS, "Date");
        set(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }

    /// Refuses a user until the server has been ready once, where the flags want that.
    ///
    /// # Errors
    /// 503 that says when to come again.
    pub fn wait_until_ready(&self, info: &RequestInfo, user: &User, is_ready: bool) -> Result<(), Status> {
        let waits = self.options.wait_until_ready && !is_ready;
        if !waits || is_probe(&info.path) || user.name == User::apiserver().name {
            return Ok(());
        }
        let why = "The apiserver hasn't been fully initialized yet, please try again later.";
        let details = Details { retry_after_seconds: 5, ..Details::default() };
        Err(Status::new(503, Reason::ServiceUnavailable, why).with_details(details))
    }

    /// Held while a request is served that an end of the server waits for.
    pub fn hold(&self, info: &RequestInfo) -> Option<TaskTrackerToken> {
        (self.options.turn_away && !info.is_long_running()).then(|| self.in_flight.token())
    }

    /// When a new watch is to end; the server's own end where watches have no time of their own.
    pub fn end_of_watch(&self, server: &CancellationToken) -> CancellationToken {
        match self.watches.len() {
            0 => server.clone(),
            groups => self.watches[rand::rng().random_range(0..groups)].clone(),
        }
    }

    /// Ends what is served, as far as the flags give it time: new requests are turned away while those in flight end,
    /// for `longest` at most, and watches end one group after the other.
    pub async fn close(&self, longest: Duration) {
        self.is_closed.store(true, Ordering::Release);
        let requests = async {
            if self.options.turn_away {
                self.in_flight.close();
                if tokio::time::timeout(longest, self.in_flight.wait()).await.is_err() {
                    tracing::warn!(
                        open = self.in_flight.len(),
                        "requests were still served at the end of their time"
                    );
                }
            }
        };
        let watches = async {
            let pause = pause(self.options.watch_grace);
            for group in &self.watches {
                group.cancel();
                tokio::time::sleep(pause).await;
            }
            if !self.watches.is_empty() {
                tokio::time::sleep(self.options.watch_grace.mul_f64(1.0 - ENDING_SHARE)).await;
            }
        };
        tokio::join!(requests, watches);
    }
}

/// Time between the ends of two groups of watches.
fn pause(grace: Duration) -> Duration {
    grace.mul_f64(ENDING_SHARE / WATCH_GROUPS as f64)
}

/// Whether a path is asked by what watches over the server.
fn is_probe(path: &str) -> bool {
    PROBES.iter().any(|probe| path.starts_with(probe))
}

/// Requests of probes and of API servers are served to the end.
fn is_exempt<B>(request: &Request<B>) -> bool {
    let agent = request.headers().get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    is_probe(request.uri().path()) || agent.is_some_and(|agent| agent.starts_with("kube-apiserver/"))
}

fn refusal(code: u16, why: &'static str) -> Response<Body> {
    let mut answer = response::text(code, why);
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    answer
}

#[cfg(test)]
mod tests;
